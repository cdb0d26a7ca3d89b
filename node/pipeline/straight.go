package pipeline

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

// submission is objects that are accepted together, in one transaction. Those
// that lack nothing, and whose handlers are all quick, go straight: their
// handlers run before the transaction, which writes the effects. The others go
// into the inbox.
type submission struct {
	p        *Processor
	objects  []Object
	passages []*passage // by object; nil for one that goes into the inbox
	waiters  []chan Outcome
	replay   *[32]byte
	now      time.Time
	// rows are the objects that go into the inbox, rowWaiters who waits for them.
	rows       []store.InboxRow
	rowWaiters []chan Outcome

	// What the last run of write did.
	seen  bool // the body had been accepted before
	seqs  []uint64
	noted *noted
}

// submission decides on what of the objects can go straight, and makes ready what
// cannot. Whoever made it calls release.
func (p *Processor) submission(ctx context.Context, objects []Object, waiters []chan Outcome, replay *[32]byte) *submission {
	s := &submission{
		p: p, objects: objects, waiters: waiters, replay: replay, now: p.cfg.Now(), noted: p.pending.rows(),
		passages: p.straight(ctx, objects),
	}
	for i := range objects {
		if s.passages != nil && s.passages[i] != nil {
			continue
		}
		o := &objects[i]
		s.rows = append(s.rows, store.InboxRow{RID: o.RID, Data: encodeRow(stageReceived, o), Accepted: s.now, Frees: o.EventType == protocol.Forget})
		if waiters != nil {
			s.rowWaiters = append(s.rowWaiters, waiters[i])
		}
	}
	return s
}

// passage is an object on its way straight through, decided and not yet written.
type passage struct {
	object  Object
	effects *effects // nil for an object that was stopped
	outcome Outcome
}

// straight runs the handlers of the objects that may go straight.
func (p *Processor) straight(ctx context.Context, objects []Object) []*passage {
	if !p.running.Load() {
		return nil // what comes is kept, and nothing is processed
	}
	for i := range objects {
		if t := objects[i].RID.Type(); t == rid.NodeType || t == rid.EdgeType {
			// What they change is the network, which the others of the same body
			// may depend on, and which follows the commit.
			return nil
		}
	}
	var passages []*passage
	seen := make(map[rid.RID]bool, len(objects))
	for i := range objects {
		o := &objects[i]
		if seen[o.RID] {
			continue // behind the one before it, whichever way that goes
		}
		seen[o.RID] = true
		if !p.quick(o) || o.Source.External() && p.pending.busy(rid.RID(o.Source)) {
			continue
		}
		if !p.pending.claim(o.RID) {
			continue
		}
		if o.EventType == protocol.Forget && p.quarantine.has(o.RID) {
			p.pending.release(o.RID) // it ends that too, in the inbox's order
			continue
		}
		if passages == nil {
			passages = make([]*passage, len(objects))
		}
		passages[i] = &passage{object: *o}
		if o.Manifest != nil {
			m := *o.Manifest // o is left as it is, for the inbox
			passages[i].object.Manifest = &m
		}
	}
	if passages == nil {
		return nil
	}
	p.read(ctx, passages)
	for i, s := range passages {
		if s != nil && !p.decide(ctx, s) {
			p.giveUp(passages, i)
		}
	}
	return passages
}

// read gets what is held of the passages' RIDs.
func (p *Processor) read(ctx context.Context, passages []*passage) {
	err := p.cfg.Store.View(ctx, func(tx store.Reader) error {
		for i, s := range passages {
			if s == nil {
				continue
			}
			rec, err := tx.Bundle(s.object.RID)
			switch {
			case err == nil:
				s.object.Previous = &rec
			case !errors.Is(err, store.ErrNotFound):
				p.giveUp(passages, i) // a worker sees to it
			}
		}
		return nil
	})
	for i, s := range passages {
		if s != nil && err != nil {
			p.giveUp(passages, i)
		}
	}
}

func (p *Processor) giveUp(passages []*passage, i int) {
	p.pending.release(passages[i].object.RID)
	passages[i] = nil
}

// quick reports whether an object may go straight, as far as it shows itself.
func (p *Processor) quick(o *Object) bool {
	switch {
	case o.EventType == protocol.Forget:
	case o.Contents == nil, o.Manifest == nil && o.Source.External():
		return false // something has to be fetched, or read again
	}
	t, external := o.RID.Type(), o.Source.External()
	for phase := range p.byPhase {
		for i := range p.byPhase[phase] {
			h := &p.byPhase[phase][i]
			if h.concerns(t, external) && (!h.Quick || h.Phase == PhaseFinal) {
				return false
			}
		}
	}
	return true
}

// decide runs the handlers of a passage. It reports false where the outcome is
// anything but effects or a plain stop: the object begins anew in the inbox.
func (p *Processor) decide(ctx context.Context, s *passage) bool {
	o, c := &s.object, p.context()
	err := p.phases(ctx, c, o)
	var stop *StopError
	switch {
	case err == nil:
		s.effects, err = p.effects(c, o)
		s.outcome = outcome(o)
		return err == nil
	case errors.As(err, &stop) && stop.until.IsZero():
		s.outcome = Outcome{Normalized: o.Normalized, Manifest: held(o), Stopped: stop.Reason}
		return true
	}
	return false
}

// write is the submission's transaction.
func (s *submission) write(tx store.Writer) error {
	p := s.p
	p.forgetWaiters(s.seqs) // of an attempt that was undone
	s.noted.undo()
	s.seqs, s.seen = nil, false
	if s.replay != nil {
		var err error
		if s.seen, err = tx.Remember(*s.replay, s.now, p.cfg.Replay); err != nil || s.seen {
			return err
		}
	}
	for _, ps := range s.passages {
		if ps != nil && ps.effects != nil {
			if err := ps.effects.write(tx, s.noted); err != nil {
				return err
			}
		}
	}
	if len(s.rows) == 0 {
		return nil
	}
	waiting, err := tx.InboxLen()
	if err != nil {
		return err
	}
	if waiting+len(s.rows) > p.cfg.MaxInbox {
		return fmt.Errorf("%w: %d objects wait, the limit is %d", ErrBusy, waiting, p.cfg.MaxInbox)
	}
	if s.seqs, err = tx.AppendInbox(s.rows...); err != nil {
		return err
	}
	for _, r := range s.rows {
		s.noted.add(r.RID)
	}
	// Registered before the commit, so that no outcome comes too early.
	if s.waiters != nil {
		p.addWaiters(s.seqs, s.rowWaiters)
	}
	return nil
}

// finish tells of what was committed.
func (s *submission) finish() {
	if len(s.noted.rids) > 0 {
		s.p.poke()
	}
	for i, ps := range s.passages {
		if ps == nil {
			continue
		}
		if ps.effects != nil {
			s.p.committed(&ps.object, ps.effects)
		} else {
			s.p.log.Debug("knowledge object stopped", "rid", ps.object.RID, "event", ps.object.EventType, "source", ps.object.Source, "reason", ps.outcome.Stopped)
		}
		s.p.count(ps.outcome)
		if s.waiters != nil {
			s.waiters[i] <- ps.outcome // has room for its one outcome
		}
	}
}

// release lets others of the same RIDs go on.
func (s *submission) release() {
	for i, ps := range s.passages {
		if ps != nil {
			s.p.giveUp(s.passages, i)
		}
	}
}
