package pipeline

import (
	"errors"
	"fmt"
	"time"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

// effects are what one object changes, ready to be written in one transaction,
// once or again where that is undone.
type effects struct {
	p         *Processor
	record    *store.Record // what is written, nil after a FORGET
	forgotten rid.RID       // what is removed, or ""
	sends     []routed
	followUps []store.InboxRow
	now       time.Time
	lost      drops // by the last run of write
}

// routed is an outgoing event with its receivers.
type routed struct {
	routes map[store.Queue][]rid.RID
	row    store.QueueRow
}

// effects are those of an object that has passed the Network phase: its own,
// then what its handlers caused.
func (p *Processor) effects(c *Context, o *Object) (*effects, error) {
	e := &effects{p: p, now: c.Now}
	if o.Normalized == protocol.Forget {
		e.forgotten = o.RID
	} else {
		source := string(o.Source)
		if !o.Source.External() {
			source = string(p.cfg.Self)
		}
		e.record = &store.Record{
			Bundle: protocol.Bundle{Manifest: *o.Manifest, Contents: o.Contents},
			Source: source,
			Stored: c.Now,
		}
	}
	e.send(o.Event(), o.Targets)
	return e, e.cause(c)
}

// caused are the effects of handlers alone.
func (p *Processor) caused(c *Context) (*effects, error) {
	e := &effects{p: p, now: c.Now}
	return e, e.cause(c)
}

func (e *effects) cause(c *Context) error {
	for _, s := range c.sends {
		if _, err := rid.Parse(string(s.event.RID)); err != nil {
			return fmt.Errorf("a handler sends an event: %w", err)
		}
		e.send(s.event, s.targets)
	}
	for i := range c.followUps {
		o := &c.followUps[i]
		if _, err := rid.Parse(string(o.RID)); err != nil {
			return fmt.Errorf("a handler handed on a knowledge object: %w", err)
		}
		e.followUps = append(e.followUps, store.InboxRow{RID: o.RID, Data: encodeRow(stageReceived, o), Accepted: e.now})
	}
	return nil
}

func (e *effects) send(event protocol.Event, targets []rid.RID) {
	if routes := e.p.route(targets); len(routes) > 0 {
		row := store.QueueRow{RID: event.RID, Event: protocol.AppendEvent(nil, event), Queued: e.now}
		e.sends = append(e.sends, routed{routes: routes, row: row})
	}
}

func (e *effects) write(tx store.Writer, noted *noted) error {
	e.lost = e.lost[:0]
	switch {
	case e.record != nil:
		if err := tx.PutBundle(*e.record); err != nil {
			return err
		}
	case e.forgotten != "":
		if err := forget(tx, e.forgotten); err != nil {
			return err
		}
		if e.p.quarantine.has(e.forgotten) {
			if err := tx.PutValue(quarantineKey(e.forgotten), nil); err != nil {
				return err
			}
		}
	}
	for _, s := range e.sends {
		if err := e.lost.enqueue(tx, s, e.p.cfg.QueueLimits); err != nil {
			return err
		}
	}
	if len(e.followUps) == 0 {
		return nil
	}
	if _, err := tx.AppendInbox(e.followUps...); err != nil {
		return err
	}
	for _, r := range e.followUps {
		noted.add(r.RID)
	}
	return nil
}

// queued are the peers that get new rows.
func (e *effects) queued() map[store.Queue][]rid.RID {
	all := map[store.Queue][]rid.RID{}
	for _, s := range e.sends {
		for q, peers := range s.routes {
			all[q] = append(all[q], peers...)
		}
	}
	return all
}

// forget removes a bundle and, for a node, what still waits for it: whoever
// comes back under its RID begins with a handshake and catches up.
func forget(tx store.Writer, r rid.RID) error {
	if err := tx.DeleteBundle(r); err != nil || r.Type() != rid.NodeType {
		return err
	}
	return errors.Join(tx.DropQueue(store.Outbox, r), tx.DropQueue(store.PollQueue, r))
}
