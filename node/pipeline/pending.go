package pipeline

import (
	"context"
	"hash/maphash"
	"sync"

	"github.com/koi-net/koi-operator/node/rid"
)

// pending knows which RIDs have objects under way: rows in the inbox, or an
// object that is carried straight through. An object goes straight only while
// it is the only one of its RID, so that order is kept and nothing is decided
// on a state that another object is about to change.
//
// RIDs are told apart by a seeded 64-bit hash: where two share one, they take
// the way through the inbox, which is slower and as right. It holds about 32
// bytes for each RID with rows, of which there are at most Config.MaxInbox.
type pending struct {
	seed maphash.Seed

	mu      sync.Mutex
	entries map[uint64]entry
	// unread rows were in the inbox at the start, and their RIDs are not known
	// yet: until they are, nothing can be said to have no rows.
	unread int
}

type entry struct {
	rows  int32
	claim *claim
}

// claim is one object's right to go straight. Rows of its RID may be written
// meanwhile; their processing waits until it is released.
type claim struct{ released chan struct{} }

func newPending() *pending {
	return &pending{seed: maphash.MakeSeed(), entries: map[uint64]entry{}}
}

func (p *pending) key(r rid.RID) uint64 { return maphash.String(p.seed, string(r)) }

// claim takes the right to carry an object of r straight through, unless there
// is anything of r under way. Whoever has it releases it.
func (p *pending) claim(r rid.RID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	k := p.key(r)
	if _, busy := p.entries[k]; busy || p.unread > 0 {
		return false
	}
	p.entries[k] = entry{claim: &claim{released: make(chan struct{})}}
	return true
}

// release ends a claim.
func (p *pending) release(r rid.RID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	k := p.key(r)
	e := p.entries[k]
	close(e.claim.released)
	e.claim = nil
	p.put(k, e)
}

// busy reports whether there are rows of r, or may be.
func (p *pending) busy(r rid.RID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.unread > 0 || p.entries[p.key(r)].rows > 0
}

// add notes a row that is about to be written.
func (p *pending) add(r rid.RID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.note(r)
}

func (p *pending) note(r rid.RID) {
	k := p.key(r)
	e := p.entries[k]
	e.rows++
	p.entries[k] = e
}

// done notes that a row is gone, or was not written after all.
func (p *pending) done(r rid.RID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	k := p.key(r)
	e := p.entries[k]
	e.rows--
	p.put(k, e)
}

func (p *pending) put(k uint64, e entry) {
	if e.rows <= 0 && e.claim == nil {
		delete(p.entries, k)
		return
	}
	p.entries[k] = e
}

// found says how many rows the inbox held at the start.
func (p *pending) found(rows int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.unread = rows
}

// read notes a row that was read from the inbox, where that was there at the start.
func (p *pending) read(r rid.RID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.unread > 0 {
		p.unread--
		p.note(r)
	}
}

// wait returns once no object of r is being carried straight through.
func (p *pending) wait(ctx context.Context, r rid.RID) {
	p.mu.Lock()
	c := p.entries[p.key(r)].claim
	p.mu.Unlock()
	if c == nil {
		return
	}
	select {
	case <-c.released:
	case <-ctx.Done():
	}
}

// noted are the rows that one transaction writes. It may run more than once: it
// takes back first what an attempt that was undone had noted.
type noted struct {
	p    *pending
	rids []rid.RID
}

func (p *pending) rows() *noted { return &noted{p: p} }

func (n *noted) add(r rid.RID) {
	n.p.add(r)
	n.rids = append(n.rids, r)
}

func (n *noted) undo() {
	for _, r := range n.rids {
		n.p.done(r)
	}
	n.rids = n.rids[:0]
}
