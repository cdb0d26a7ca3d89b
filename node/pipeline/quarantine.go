package pipeline

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

// Bounds of the quarantine. What exceeds them is dropped.
const (
	quarantineRows  = 10_000
	quarantineBytes = 64 << 20
	// releaseRows bounds the objects released in one transaction.
	releaseRows = 100
	// releaseCheck is how long the clock is trusted not to be set forward.
	releaseCheck = time.Minute
)

// Quarantine ends an object's way for now, for a reason that time mends: it is
// kept aside, one object for each RID, and begins anew at the given time. The
// quarantine is durable; it is bounded to 10,000 objects and 64 MiB.
func Quarantine(reason string, until time.Time) error {
	return &StopError{Reason: reason, until: until}
}

// quarantine knows what is kept aside in the store.
type quarantine struct {
	mu    sync.Mutex
	held  map[rid.RID]quarantined
	bytes int
	next  time.Time // the first release; zero when nothing is held
}

type quarantined struct {
	until time.Time
	bytes int
}

const quarantinePrefix = "quarantine/"

func quarantineKey(r rid.RID) string { return quarantinePrefix + string(r) }

// admit makes room for an object of r and reports whether there is any.
func (q *quarantine) admit(r rid.RID, until time.Time, size int) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	old, replaced := q.held[r]
	if !replaced && len(q.held) >= quarantineRows || q.bytes-old.bytes+size > quarantineBytes {
		return false
	}
	if q.held == nil {
		q.held = map[rid.RID]quarantined{}
	}
	q.held[r] = quarantined{until: until, bytes: size}
	q.bytes += size - old.bytes
	q.look()
	return true
}

func (q *quarantine) remove(r rid.RID) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.bytes -= q.held[r].bytes
	delete(q.held, r)
	q.look()
}

// look finds the first release; mu is held. It is called for changes alone.
func (q *quarantine) look() {
	q.next = time.Time{}
	for _, h := range q.held {
		if q.next.IsZero() || h.until.Before(q.next) {
			q.next = h.until
		}
	}
}

// due returns RIDs to be released, and how long to wait for the next.
func (q *quarantine) due(now time.Time) (out []rid.RID, wait time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.next.IsZero() {
		return nil, time.Hour
	}
	if q.next.After(now) {
		return nil, min(q.next.Sub(now), releaseCheck)
	}
	for r, h := range q.held {
		if !h.until.After(now) {
			if out = append(out, r); len(out) == releaseRows {
				break
			}
		}
	}
	return out, 0
}

func (q *quarantine) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.held)
}

// Quarantined returns how many objects are kept aside.
func (p *Processor) Quarantined() int { return p.quarantine.len() }

// setAside is an object on its way into quarantine.
type setAside struct {
	object   *Object
	until    time.Time
	value    []byte
	admitted bool
}

// admit takes the room for an object, if there is any, and returns what gives
// it back where the object could not be written.
func (p *Processor) admit(s *setAside) (undo func()) {
	if s == nil {
		return func() {}
	}
	s.value = binary.BigEndian.AppendUint64(nil, uint64(s.until.UnixMicro()))
	s.value = append(s.value, encodeRow(stageReceived, s.object)...)
	if s.admitted = p.quarantine.admit(s.object.RID, s.until, len(s.value)); !s.admitted {
		p.log.Warn("the quarantine is full: an object is dropped", "rid", s.object.RID, "source", s.object.Source)
		return func() {}
	}
	return func() { p.quarantine.remove(s.object.RID) }
}

// loadQuarantine finds what a former run kept aside.
func (p *Processor) loadQuarantine(ctx context.Context) error {
	return p.cfg.Store.View(ctx, func(tx store.Reader) error {
		for v, err := range tx.Values(quarantinePrefix) {
			if err != nil {
				return fmt.Errorf("read the quarantine: %w", err)
			}
			until, _, ok := splitQuarantined(v.Value)
			if !ok {
				p.log.Error("quarantined object cannot be read and stays", "key", v.Key)
				continue
			}
			p.quarantine.admit(rid.RID(strings.TrimPrefix(v.Key, quarantinePrefix)), until, len(v.Value))
		}
		return nil
	})
}

func splitQuarantined(value []byte) (until time.Time, row []byte, ok bool) {
	if len(value) < 8 {
		return time.Time{}, nil, false
	}
	return time.UnixMicro(int64(binary.BigEndian.Uint64(value))), value[8:], true
}

// release puts what is due back into the inbox and says when to come again.
func (p *Processor) release(ctx context.Context) (time.Duration, error) {
	for {
		due, wait := p.quarantine.due(p.cfg.Now())
		if len(due) == 0 {
			return wait, nil
		}
		now := p.cfg.Now()
		noted := p.pending.rows()
		err := p.update(ctx, func(tx store.Writer) error {
			noted.undo()
			for _, r := range due {
				value, err := tx.Value(quarantineKey(r))
				if err != nil {
					return err
				}
				_, row, _ := splitQuarantined(value)
				if _, err := tx.AppendInbox(store.InboxRow{RID: r, Data: row, Accepted: now}); err != nil {
					return err
				}
				noted.add(r)
				if err := tx.PutValue(quarantineKey(r), nil); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			noted.undo()
			return wait, fmt.Errorf("release quarantined objects: %w", err)
		}
		for _, r := range due {
			p.quarantine.remove(r)
		}
		p.poke()
	}
}
