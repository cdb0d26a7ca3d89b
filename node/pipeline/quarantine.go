package pipeline

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/koi-net/koi-operator/node/protocol"
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
	// releaseBusy is the pause before another look at what waits for others of its RID.
	releaseBusy = 100 * time.Millisecond
)

// Quarantine ends an object's way for now, for a reason that time mends: it is
// kept aside, one object for each RID, and begins anew at the given time. The
// quarantine is durable; it is bounded to 10,000 objects and 64 MiB. A FORGET of the
// RID ends it: any that is committed, and one that is stopped where it comes from
// whom the object came from.
func Quarantine(reason string, until time.Time) error {
	return &StopError{Reason: reason, until: until}
}

// quarantine knows what is kept aside in the store.
type quarantine struct {
	mu    sync.Mutex
	held  map[rid.RID]quarantined
	bytes int
	next  time.Time // the first release; zero when nothing is held
	count uint64    // objects ever admitted
}

// quarantined is one object that is kept aside; id tells it from others of its RID.
type quarantined struct {
	until time.Time
	bytes int
	id    uint64
}

// dueObject is one that is to be released.
type dueObject struct {
	rid rid.RID
	quarantined
}

const quarantinePrefix = "quarantine/"

func quarantineKey(r rid.RID) string { return quarantinePrefix + string(r) }

// admit makes room for an object of r, in place of the one that is held of r, and
// reports whether there is any. undo makes that one the one held again.
func (q *quarantine) admit(r rid.RID, until time.Time, size int) (undo func(), ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	old, replaced := q.held[r]
	if !replaced && len(q.held) >= quarantineRows || q.bytes-old.bytes+size > quarantineBytes {
		return nil, false
	}
	q.count++
	q.hold(r, quarantined{until: until, bytes: size, id: q.count})
	return func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		if replaced {
			q.hold(r, old)
		} else {
			q.drop(r)
		}
	}, true
}

// hold makes h the one held of r; mu is held.
func (q *quarantine) hold(r rid.RID, h quarantined) {
	if q.held == nil {
		q.held = map[rid.RID]quarantined{}
	}
	q.bytes += h.bytes - q.held[r].bytes
	q.held[r] = h
	q.look()
}

// drop forgets the one held of r; mu is held.
func (q *quarantine) drop(r rid.RID) {
	q.bytes -= q.held[r].bytes
	delete(q.held, r)
	q.look()
}

// released forgets an object that has left, unless another took its place meanwhile.
func (q *quarantine) released(o dueObject) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.held[o.rid].id == o.id {
		q.drop(o.rid)
	}
}

// lifted forgets what is held of r.
func (q *quarantine) lifted(r rid.RID) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if _, ok := q.held[r]; ok {
		q.drop(r)
	}
}

func (q *quarantine) has(r rid.RID) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	_, ok := q.held[r]
	return ok
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

// due returns what is to be released, or how long to wait for the next. What busy
// accepts is left for later: rows of it are under way, a FORGET among them perhaps.
func (q *quarantine) due(now time.Time, busy func(rid.RID) bool) (out []dueObject, wait time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.next.IsZero() {
		return nil, time.Hour
	}
	if q.next.After(now) {
		return nil, min(q.next.Sub(now), releaseCheck)
	}
	for r, h := range q.held {
		if !h.until.After(now) && !busy(r) {
			if out = append(out, dueObject{r, h}); len(out) == releaseRows {
				break
			}
		}
	}
	if len(out) == 0 {
		q.next = now.Add(releaseBusy) // a look at all there are costs too much for every event
	}
	return out, releaseBusy
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
	lifts    bool // a FORGET that ends what is kept aside of its RID
}

// admit takes the room for an object, if there is any, and returns what gives
// it back where the object could not be written.
func (p *Processor) admit(s *setAside) (undo func()) {
	if s == nil || s.lifts {
		return func() {}
	}
	s.value = binary.BigEndian.AppendUint64(nil, uint64(s.until.UnixMicro()))
	s.value = append(s.value, encodeRow(stageReceived, s.object)...)
	if undo, s.admitted = p.quarantine.admit(s.object.RID, s.until, len(s.value)); !s.admitted {
		p.log.Warn("the quarantine is full: an object is dropped", "rid", s.object.RID, "source", s.object.Source)
		return func() {}
	}
	return undo
}

// takesBack reports whether a FORGET that was stopped, as that of an unknown RID is,
// ends what is kept aside of the RID: it does where both came from the same.
func (p *Processor) takesBack(ctx context.Context, o *Object) (bool, error) {
	if o.EventType != protocol.Forget || !p.quarantine.has(o.RID) {
		return false, nil
	}
	same := false
	err := p.cfg.Store.View(ctx, func(tx store.Reader) error {
		value, err := tx.Value(quarantineKey(o.RID))
		if err != nil {
			return err
		}
		if _, row, ok := splitQuarantined(value); ok {
			_, held, err := decodeRow(row)
			same = err == nil && held.Source == o.Source
		}
		return nil
	})
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	return same, err
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
			_, _ = p.quarantine.admit(rid.RID(strings.TrimPrefix(v.Key, quarantinePrefix)), until, len(v.Value))
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

// release puts what is due back into the inbox and says when to come again. An
// object of a RID that has rows there waits until they are gone: a FORGET that came
// after the object must not come before it.
func (p *Processor) release(ctx context.Context) (time.Duration, error) {
	for {
		due, wait := p.quarantine.due(p.cfg.Now(), p.pending.busy)
		if len(due) == 0 {
			return wait, nil
		}
		now := p.cfg.Now()
		noted := p.pending.rows()
		var left []dueObject
		err := p.update(ctx, func(tx store.Writer) error {
			noted.undo()
			left = left[:0]
			for _, o := range due {
				r := o.rid
				if p.pending.busy(r) {
					continue // since a moment ago
				}
				value, err := tx.Value(quarantineKey(r))
				if errors.Is(err, store.ErrNotFound) {
					left = append(left, o) // forgotten a moment ago
					continue
				}
				if err != nil {
					return err
				}
				_, row, _ := splitQuarantined(value)
				left = append(left, o)
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
		for _, o := range left {
			p.quarantine.released(o)
		}
		p.poke()
	}
}
