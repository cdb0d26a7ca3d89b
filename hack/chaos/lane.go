package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/koi-net/koi-operator/hack/chaos/history"
	"github.com/koi-net/koi-operator/hack/chaos/witness"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// noteType is what all scenarios are about.
const noteType rid.Type = "orn:chaos.note"

// Bounds of what a lane does.
const (
	laneNotes = 12 // RIDs it works on, beside its marker
	laneSteps = 8  // events in a body at most
	laneBare  = 6  // RIDs at a time that it announced without contents
	remembers = 8  // bodies it may send again
	padBytes  = 600
	busyPause = 20 * time.Millisecond
)

// lane is one sender: it changes RIDs that nobody else does, one body after the
// other, and so knows the order of everything.
type lane struct {
	name     string
	from     *witness.Witness
	model    *ledger
	unsigned bool
	bare     bool // announces some RIDs without contents, to be fetched

	rnd     *rand.Rand
	notes   []rid.RID
	bares   []rid.RID // those of notes that were announced without contents
	version history.Change
	stamp   time.Time
	doubt   *parcel  // sent, and nobody knows whether it was accepted
	sent    []parcel // accepted, which may be sent again
	acked   int      // events
	resent  int      // bodies
}

// ledger is the Model that lanes share.
type ledger struct {
	mu sync.Mutex
	history.Model
}

func (l *ledger) state(r rid.RID) history.Change {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.State(r)
}

func (l *ledger) apply(steps []history.Step) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Apply(steps...)
}

// parcel is a body with what it does.
type parcel struct {
	body  []byte
	steps []history.Step
	// repeatable: without a memory of bodies it has no effect the second time,
	// as long as nothing came after it.
	repeatable bool
}

func newLane(name string, from *witness.Witness, model *ledger, unsigned, bare bool) *lane {
	l := &lane{name: name, from: from, model: model, unsigned: unsigned, bare: bare}
	l.notes = append(l.notes, l.marker())
	for i := range laneNotes {
		l.notes = append(l.notes, rid.RID(fmt.Sprintf("%s:%s-%d", noteType, name, i)))
	}
	return l
}

// marker is the RID that every body of the lane changes, so that it can always be
// told whether a body is in effect.
func (l *lane) marker() rid.RID { return rid.RID(fmt.Sprintf("%s:%s-marker", noteType, l.name)) }

// note is the contents of a version.
func note(r rid.RID, v history.Change) []byte {
	return fmt.Appendf(nil, `{"of":%q,"v":%d,"pad":%q}`, r, uint64(v), strings.Repeat("x", int(uint64(v)*7919%padBytes)))
}

// version reads the version of contents that note made.
func version(contents []byte) (history.Change, error) {
	var n struct{ V uint64 }
	if err := json.Unmarshal(contents, &n); err != nil || n.V == 0 {
		return 0, fmt.Errorf("contents nobody sent: %.100s", contents)
	}
	return history.Change(n.V), nil
}

// run sends bodies until ctx ends or the node is gone. It returns an error for an
// answer that no node may give.
func (l *lane) run(ctx context.Context, to witness.Node) error {
	for ctx.Err() == nil {
		if l.rnd.IntN(10) == 0 {
			if err := l.resend(ctx, to); err != nil {
				return err
			}
		}
		p, err := l.pack(to, laneSteps)
		if err != nil {
			return err
		}
		gone, err := l.send(ctx, to, p)
		if err != nil || gone {
			return err
		}
	}
	return nil
}

// send sends a parcel until the node takes it. It reports whether the node is gone
// instead; the parcel is in doubt then.
func (l *lane) send(ctx context.Context, to witness.Node, p parcel) (gone bool, err error) {
	for {
		// Not ctx: what was begun comes to its end, or the node's.
		err := l.from.Send(context.WithoutCancel(ctx), to, p.body)
		var status *witness.StatusError
		switch {
		case err == nil:
			return false, l.accepted(p)
		case errors.As(err, &status) && status.Code == http.StatusServiceUnavailable:
			time.Sleep(busyPause) // it took nothing, and says so
		case errors.As(err, &status):
			return false, fmt.Errorf("lane %s: a good body: %w", l.name, err)
		default:
			l.doubt = &p
			return true, nil
		}
	}
}

func (l *lane) accepted(p parcel) error {
	l.acked += len(p.steps)
	if l.sent = append(l.sent, p); len(l.sent) > remembers {
		l.sent = l.sent[1:]
	}
	return l.model.apply(p.steps)
}

// resend sends a body again that was accepted: a signed one is known for good, an
// unsigned one changes nothing as long as it is the last.
func (l *lane) resend(ctx context.Context, to witness.Node) error {
	if len(l.sent) == 0 {
		return nil
	}
	p := l.sent[len(l.sent)-1]
	if !l.unsigned {
		p = l.sent[l.rnd.IntN(len(l.sent))]
	} else if !p.repeatable {
		return nil
	}
	l.resent++
	err := l.from.Send(context.WithoutCancel(ctx), to, p.body)
	var status *witness.StatusError
	if errors.As(err, &status) && status.Code != http.StatusServiceUnavailable {
		return fmt.Errorf("lane %s: a body that was accepted before: %w", l.name, err)
	}
	return nil // gone: the next body tells
}

// pack makes the next body, of some events.
func (l *lane) pack(to witness.Node, most int) (parcel, error) {
	p := parcel{repeatable: true}
	after := map[rid.RID]history.Change{}
	state := func(r rid.RID) history.Change {
		if s, ok := after[r]; ok {
			return s
		}
		return l.model.state(r)
	}
	var events []protocol.Event
	add := func(r rid.RID, forget, bare bool) error {
		e, step, err := l.event(r, state(r), forget, bare)
		if err != nil {
			return err
		}
		if _, twice := after[r]; twice || bare {
			p.repeatable = false
		}
		after[r] = step.Change
		events, p.steps = append(events, e), append(p.steps, step)
		return nil
	}
	for range 1 + l.rnd.IntN(most) {
		if l.bare && len(l.bares) < laneBare && l.rnd.IntN(4) == 0 {
			if err := add(l.announce(), false, true); err != nil {
				return parcel{}, err
			}
			continue
		}
		i := l.rnd.IntN(len(l.notes))
		r := l.notes[i]
		forget := r != l.marker() && state(r) != history.Forgotten && l.rnd.IntN(4) == 0
		if err := add(r, forget, false); err != nil {
			return parcel{}, err
		}
		if j := slices.Index(l.bares, r); forget && j >= 0 {
			l.bares = slices.Delete(l.bares, j, j+1)
			l.notes = slices.Delete(l.notes, i, i+1) // it is never used again
		}
	}
	if _, ok := after[l.marker()]; !ok {
		if err := add(l.marker(), false, false); err != nil {
			return parcel{}, err
		}
	}
	var err error
	p.body, err = l.from.Body(to, events...)
	return p, err
}

// announce returns a new RID, to be announced without contents.
func (l *lane) announce() rid.RID {
	r := rid.RID(fmt.Sprintf("%s:%s-bare-%d", noteType, l.name, uint64(l.version)))
	l.bares, l.notes = append(l.bares, r), append(l.notes, r)
	return r
}

func (l *lane) event(r rid.RID, was history.Change, forget, bare bool) (protocol.Event, history.Step, error) {
	if forget {
		return protocol.Event{RID: r, EventType: protocol.Forget}, history.Step{RID: r, Change: history.Forgotten}, nil
	}
	l.version++
	l.stamp = maxTime(time.Now(), l.stamp.Add(time.Microsecond))
	b, err := protocol.NewBundle(r, protocol.NewTimestamp(l.stamp), note(r, l.version))
	if err != nil {
		return protocol.Event{}, history.Step{}, err
	}
	e := protocol.Event{RID: r, EventType: protocol.Update, Manifest: &b.Manifest, Contents: b.Contents}
	if was == history.Forgotten {
		e.EventType = protocol.New
	}
	if bare {
		l.from.Hold(b)
		e.Contents = nil
		if l.rnd.IntN(2) == 0 {
			e.Manifest = nil
		}
	}
	return e, history.Step{RID: r, Change: l.version}, nil
}

func maxTime(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
