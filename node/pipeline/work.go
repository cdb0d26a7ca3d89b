package pipeline

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/koi-net/koi-operator/node/graph"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

// Reasons the pipeline itself gives for stopping an object.
const (
	ReasonUnreadable    = "UnreadableRow"
	ReasonNothingKnown  = "NothingKnown"
	ReasonForeignRID    = "ManifestOfAnotherRID"
	ReasonHashMismatch  = "HashMismatch"
	ReasonNoContents    = "NoContents"
	ReasonRetriesUsedUp = "RetriesUsedUp"
)

// laterPauses, times RetryBase, is how long an object waits that is to be dealt
// with later: a second, where nothing else is configured.
const laterPauses = 20

// work carries one row through the pipeline and reports to the dispatcher.
func (p *Processor) work(ctx context.Context, r row, attempts int) result {
	st, o, err := decodeRow(r.data)
	if err == nil {
		_, err = rid.Parse(string(o.RID))
	}
	if err != nil {
		// The row passed the store's checksum, so another version wrote it.
		p.log.Error("inbox row dropped", "rid", r.rid, "seq", r.seq, "error", err)
		return p.close(ctx, r, 0, Outcome{Stopped: ReasonUnreadable}, nil)
	}
	out, final, err := p.process(ctx, st, r, o)
	newNode := err == nil && out.Normalized != protocol.Forget && o.RID.Type() == rid.NodeType
	switch {
	case err == nil:
		p.count(out)
		p.tell(r.seq, out)
		return result{rid: r.rid, final: final, newNode: newNode}
	case ctx.Err() != nil:
		// Stopping: the row stays for the next start.
		return result{rid: r.rid, retry: true, attempts: attempts, after: time.Hour}
	}
	var stop *StopError
	switch {
	case errors.As(err, &stop):
		p.log.Debug("knowledge object stopped", "rid", o.RID, "event", o.EventType, "source", o.Source, "reason", stop.Reason)
		var aside *setAside
		if !stop.until.IsZero() {
			aside = &setAside{object: o, until: stop.until}
		}
		back, err := p.takesBack(ctx, o)
		if err != nil {
			return p.storeFailed(r, attempts, fmt.Errorf("%w: read the quarantine: %w", errStore, err))
		}
		if back {
			aside = &setAside{object: o, lifts: true}
		}
		return p.close(ctx, r, final, Outcome{Normalized: o.Normalized, Manifest: held(o), Stopped: stop.Reason}, aside)
	case isStoreError(err) && !errors.Is(err, rid.ErrInvalid):
		return p.storeFailed(r, attempts, err)
	case errors.Is(err, ErrLater):
		return result{rid: r.rid, retry: true, attempts: attempts, after: laterPauses * p.cfg.RetryBase}
	case errors.Is(err, ErrRetry) && attempts+1 < p.cfg.MaxAttempts:
		p.log.Debug("knowledge object waits", "rid", o.RID, "attempt", attempts+1, "error", err)
		p.metrics.retried.Inc()
		res := result{rid: r.rid, retry: true, attempts: attempts + 1, after: p.backoff(attempts)}
		var wait *awaitError
		if errors.As(err, &wait) {
			res.awaits = wait.node
		}
		return res
	case errors.Is(err, ErrRetry):
		p.log.Warn("knowledge object dropped after its last attempt", "rid", o.RID, "event", o.EventType, "source", o.Source, "attempts", attempts+1, "error", err)
		return p.close(ctx, r, final, Outcome{Stopped: ReasonRetriesUsedUp, Err: err}, nil)
	default:
		p.log.Error("knowledge object failed", "rid", o.RID, "event", o.EventType, "source", o.Source, "error", err)
		return p.close(ctx, r, final, Outcome{Err: err}, nil)
	}
}

// storeFailed keeps an object that the store did not take. A full store may
// have room later; any other failure of a write ends the processing, because
// only opening the store again tells what is on disk.
func (p *Processor) storeFailed(r row, attempts int, err error) result {
	p.metrics.retried.Inc()
	res := result{rid: r.rid, retry: true, attempts: attempts, after: p.cfg.RetryCap}
	if errors.Is(err, store.ErrFull) {
		p.log.Error("knowledge object not stored; it waits for room", "rid", r.rid, "error", err)
	} else {
		res.fatal = err
	}
	return res
}

// StoreFailure returns why the store last refused to be written, nil once it
// took something again.
func (p *Processor) StoreFailure() error {
	if err := p.failure.Load(); err != nil {
		return *err
	}
	return nil
}

// update is the store's Update; it remembers whether the store could be written.
func (p *Processor) update(ctx context.Context, fn func(store.Writer) error) error {
	err := p.cfg.Store.Update(ctx, fn)
	switch {
	case err == nil:
		p.failure.Store(nil)
	case errors.Is(err, store.ErrFull), errors.Is(err, store.ErrDamaged):
		p.failure.Store(&err)
	}
	return err
}

func isStoreError(err error) bool { return errors.Is(err, errStore) }

var errStore = errors.New("store")

func (p *Processor) backoff(attempts int) time.Duration {
	d := p.cfg.RetryBase
	for range attempts {
		if d *= 2; d >= p.cfg.RetryCap {
			return p.cfg.RetryCap
		}
	}
	return d
}

// close removes a row that had no effects; aside, if not nil, is its object on
// the way into quarantine, or the FORGET that ends one there.
func (p *Processor) close(ctx context.Context, r row, final uint64, out Outcome, aside *setAside) result {
	seqs := []uint64{r.seq}
	if final != 0 {
		seqs = append(seqs, final)
	}
	undo := p.admit(aside)
	err := p.update(ctx, func(tx store.Writer) error {
		if aside != nil && (aside.admitted || aside.lifts) {
			if err := tx.PutValue(quarantineKey(aside.object.RID), aside.value); err != nil {
				return err
			}
		}
		return tx.DeleteInbox(seqs...)
	})
	if err != nil {
		undo()
		if ctx.Err() != nil {
			return result{rid: r.rid, retry: true, after: time.Hour}
		}
		// It is tried again from its start, which has no effect either.
		return p.storeFailed(r, 0, err)
	}
	if aside != nil && aside.lifts {
		p.quarantine.lifted(aside.object.RID)
	}
	for range seqs {
		p.pending.done(r.rid)
	}
	p.count(out)
	p.tell(r.seq, out)
	return result{rid: r.rid, final: final}
}

func (p *Processor) count(out Outcome) {
	label := out.Stopped
	switch {
	case out.Err != nil && label == "":
		label = "failed"
	case label == "":
		label = strings.ToLower(string(out.Normalized))
	}
	p.metrics.processed.WithLabelValues(label).Inc()
}

// held is the manifest that stays in force when an object is stopped.
func held(o *Object) *protocol.Manifest {
	if o.Previous == nil {
		return nil
	}
	m := o.Previous.Bundle.Manifest
	return &m
}

// process takes an object through its phases. final is the sequence number of
// the row of its Final phase, where that was reached and is done or failed.
func (p *Processor) process(ctx context.Context, st stage, r row, o *Object) (out Outcome, final uint64, err error) {
	if st == stageFinal {
		return Outcome{Normalized: o.Normalized}, 0, p.final(ctx, r, o)
	}
	p.pending.wait(ctx, r.rid)
	if err := p.previous(ctx, o); err != nil {
		return out, 0, err
	}
	c := p.context()
	if err := p.phases(ctx, c, o); err != nil {
		return out, 0, err
	}
	final, err = p.commit(ctx, c, r, o)
	if err != nil {
		return out, 0, err
	}
	out = outcome(o)
	if final == 0 {
		return out, 0, nil
	}
	last := row{seq: final, rid: o.RID}
	if err := p.final(ctx, last, o); err != nil {
		// The object itself is committed: only its Final phase failed, and its
		// row has either gone or is loaded and tried again on its own.
		if errors.Is(err, ErrRetry) || isStoreError(err) || ctx.Err() != nil {
			p.poke()
			return out, 0, nil
		}
		p.log.Error("Final phase failed", "rid", o.RID, "error", err)
		if err := p.removeRows(ctx, last); err != nil {
			p.poke()
			return out, 0, nil
		}
	}
	return out, final, nil
}

// phases runs the phases before the commit.
func (p *Processor) phases(ctx context.Context, c *Context, o *Object) error {
	for _, phase := range []func(context.Context, *Context, *Object) error{p.ridPhase, p.manifestPhase, p.bundlePhase, p.networkPhase} {
		if err := phase(ctx, c, o); err != nil {
			return err
		}
	}
	return nil
}

// outcome is how the way of an object ends that was committed.
func outcome(o *Object) Outcome {
	out := Outcome{Normalized: o.Normalized}
	if o.Normalized != protocol.Forget {
		out.Manifest = o.Manifest
	}
	return out
}

func (p *Processor) context() *Context {
	return &Context{Self: p.cfg.Self, Graph: p.cfg.Graph, Now: p.cfg.Now(), store: p.cfg.Store}
}

func (p *Processor) previous(ctx context.Context, o *Object) error {
	err := p.cfg.Store.View(ctx, func(tx store.Reader) error {
		rec, err := tx.Bundle(o.RID)
		if err == nil {
			o.Previous = &rec
		}
		return err
	})
	switch {
	case err == nil, errors.Is(err, store.ErrNotFound):
		return nil
	case errors.Is(err, store.ErrDamaged):
		// What comes in replaces the damaged record.
		p.log.Error("cached bundle is damaged and counts as missing", "rid", o.RID, "error", err)
		if p.cfg.OnDamaged != nil {
			p.cfg.OnDamaged(o.RID, err)
		}
		return nil
	default:
		return fmt.Errorf("%w: read %s: %w", errStore, o.RID, err)
	}
}

func (p *Processor) call(ctx context.Context, phase Phase, c *Context, o *Object) error {
	for i := range p.byPhase[phase] {
		h := &p.byPhase[phase][i]
		if !h.matches(o) {
			continue
		}
		if err := h.call(ctx, c, o); err != nil {
			var stop *StopError
			if errors.As(err, &stop) {
				return err
			}
			return fmt.Errorf("handler %s (%s phase): %w", h.Name, phase, err)
		}
	}
	return nil
}

func (p *Processor) ridPhase(ctx context.Context, c *Context, o *Object) error {
	if err := p.call(ctx, PhaseRID, c, o); err != nil {
		return err
	}
	if o.EventType == protocol.Forget {
		o.Normalized = protocol.Forget
	}
	return nil
}

func (p *Processor) manifestPhase(ctx context.Context, c *Context, o *Object) error {
	if o.Normalized == protocol.Forget {
		return nil
	}
	if err := p.haveManifest(ctx, c, o); err != nil {
		return err
	}
	if o.Manifest.RID != o.RID {
		return Stop(ReasonForeignRID)
	}
	if err := p.call(ctx, PhaseManifest, c, o); err != nil {
		return err
	}
	if o.Normalized == "" {
		o.Normalized = protocol.New
		if o.Previous != nil {
			o.Normalized = protocol.Update
		}
	}
	return nil
}

// haveManifest gets the manifest an object came without: its own for contents
// that arise here, the cache's for a bare internal RID, another node's for an
// external object.
func (p *Processor) haveManifest(ctx context.Context, c *Context, o *Object) error {
	switch {
	case o.Manifest != nil:
		return nil
	case !o.Source.External() && o.Contents != nil:
		var prev *protocol.Manifest
		if o.Previous != nil {
			prev = &o.Previous.Bundle.Manifest
		}
		b, err := protocol.NewBundle(o.RID, NextTime(c.Now, prev), o.Contents)
		if err != nil {
			return fmt.Errorf("contents of %s: %w", o.RID, err)
		}
		o.Manifest, o.Contents = &b.Manifest, b.Contents
		return nil
	case !o.Source.External():
		if o.Previous == nil {
			return Stop(ReasonNothingKnown)
		}
		b := o.Previous.Bundle
		o.Manifest, o.Contents = &b.Manifest, b.Contents
		return nil
	case p.cfg.Fetcher == nil:
		return Stop(ReasonNoContents)
	}
	m, err := p.cfg.Fetcher.FetchManifest(ctx, o.RID, o.Source)
	if err != nil {
		return fetchFailed("manifest", o.RID, err)
	}
	o.Manifest, o.Contents = &m, nil
	return nil
}

func fetchFailed(what string, r rid.RID, err error) error {
	if errors.Is(err, store.ErrNotFound) {
		return Stop(ReasonNoContents)
	}
	return fmt.Errorf("fetch the %s of %s: %w", what, r, err)
}

func (p *Processor) bundlePhase(ctx context.Context, c *Context, o *Object) error {
	if o.Normalized != protocol.Forget {
		was := o.Manifest
		if err := p.haveContents(ctx, o); err != nil {
			return err
		}
		if *o.Manifest != *was {
			// Another version than the one that passed the Manifest phase.
			if err := p.call(ctx, PhaseManifest, c, o); err != nil {
				return err
			}
		}
	}
	return p.call(ctx, PhaseBundle, c, o)
}

func (p *Processor) haveContents(ctx context.Context, o *Object) error {
	if o.Contents == nil {
		switch {
		case !o.Source.External(), p.cfg.Fetcher == nil:
			return Stop(ReasonNoContents)
		}
		b, err := p.cfg.Fetcher.FetchBundle(ctx, o.RID, o.Source)
		if err != nil {
			return fetchFailed("bundle", o.RID, err)
		}
		if b.Manifest.RID != o.RID {
			return Stop(ReasonForeignRID)
		}
		// The provider may hold another version than the event spoke of.
		o.Manifest, o.Contents = &b.Manifest, b.Contents
	}
	if o.Source.External() {
		if err := protocol.VerifyHash(o.Contents, o.Manifest.SHA256Hash); err != nil {
			return Stop(ReasonHashMismatch)
		}
	}
	return nil
}

func (p *Processor) networkPhase(ctx context.Context, c *Context, o *Object) error {
	if o.Quiet {
		o.Targets = nil
		return nil
	}
	return p.call(ctx, PhaseNetwork, c, o)
}

// commit writes an object's effects in one transaction, and takes its row r out
// of the inbox. It returns the sequence number of the row that stands for the
// Final phase, 0 if no handler waits for it.
func (p *Processor) commit(ctx context.Context, c *Context, r row, o *Object) (final uint64, err error) {
	e, err := p.effects(c, o)
	if err != nil {
		return 0, err
	}
	wantsFinal := p.wantsFinal(o)
	noted := p.pending.rows()
	err = p.update(ctx, func(tx store.Writer) error {
		noted.undo()
		final = 0
		if err := e.write(tx, noted); err != nil {
			return err
		}
		if wantsFinal {
			seqs, err := tx.AppendInbox(store.InboxRow{RID: o.RID, Data: encodeRow(stageFinal, o), Accepted: c.Now})
			if err != nil {
				return err
			}
			noted.add(o.RID)
			final = seqs[0]
		}
		return tx.DeleteInbox(r.seq)
	})
	if err != nil {
		noted.undo()
		return 0, fmt.Errorf("%w: commit %s: %w", errStore, o.RID, err)
	}
	if e.forgotten != "" {
		p.quarantine.lifted(e.forgotten)
	}
	p.pending.done(r.rid)
	p.committed(o, e)
	return final, nil
}

// committed brings the graph up to date with a committed object and tells of it.
func (p *Processor) committed(o *Object, e *effects) {
	p.updateGraph(o, e.record)
	p.tellDrops(e.lost)
	p.log.Debug("knowledge object committed", "rid", o.RID, "event", o.Normalized, "source", o.Source, "targets", len(o.Targets))
	if p.cfg.OnCommit != nil {
		p.cfg.OnCommit(Commit{Object: o, Record: e.record, Queued: e.queued()})
	}
	if len(e.followUps) > 0 {
		p.poke()
	}
}

func (p *Processor) wantsFinal(o *Object) bool {
	for i := range p.byPhase[PhaseFinal] {
		if p.byPhase[PhaseFinal][i].matches(o) {
			return true
		}
	}
	return false
}

// final runs the Final phase and commits what it causes.
func (p *Processor) final(ctx context.Context, r row, o *Object) error {
	c := p.context()
	if err := p.call(ctx, PhaseFinal, c, o); err != nil {
		var stop *StopError
		if !errors.As(err, &stop) {
			return err
		}
	}
	e, err := p.caused(c)
	if err != nil {
		return err
	}
	noted := p.pending.rows()
	err = p.update(ctx, func(tx store.Writer) error {
		noted.undo()
		if err := e.write(tx, noted); err != nil {
			return err
		}
		return tx.DeleteInbox(r.seq)
	})
	if err != nil {
		noted.undo()
		return fmt.Errorf("%w: commit the Final phase of %s: %w", errStore, o.RID, err)
	}
	p.pending.done(r.rid)
	p.tellDrops(e.lost)
	if queued := e.queued(); len(queued) > 0 && p.cfg.OnCommit != nil {
		p.cfg.OnCommit(Commit{Queued: queued})
	}
	if len(e.followUps) > 0 {
		p.poke()
	}
	return nil
}

// removeRows takes rows out of the inbox that have no effects.
func (p *Processor) removeRows(ctx context.Context, rows ...row) error {
	err := p.update(ctx, func(tx store.Writer) error {
		for _, r := range rows {
			if err := tx.DeleteInbox(r.seq); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		for _, r := range rows {
			p.pending.done(r.rid)
		}
	}
	return err
}

// updateGraph brings the graph up to date with a committed object; rec is nil
// after a FORGET. Profiles were checked by the Bundle phase; one that cannot be
// read is left out.
func (p *Processor) updateGraph(o *Object, rec *store.Record) {
	p.graphMu.Lock()
	defer p.graphMu.Unlock()
	if rec == nil {
		remove(p.cfg.Graph, o.RID)
		return
	}
	if err := Apply(p.cfg.Graph, *rec); err != nil {
		p.log.Warn("profile left out of the graph", "rid", o.RID, "error", err)
	}
}

// remove takes a forgotten node or edge out of the graph.
func remove(g *graph.Graph, r rid.RID) {
	switch r.Type() {
	case rid.NodeType:
		g.DeleteNode(r)
	case rid.EdgeType:
		// A pair's edge may have taken another RID meanwhile: what is known
		// under that one stays.
		if e, ok := g.EdgeByRID(r); ok && e.RID == r {
			g.DeleteEdge(r)
		}
	}
}

// Apply brings a graph up to date with the record of a node or edge; other types
// change nothing. It is used for every commit and to build the graph at start.
func Apply(g *graph.Graph, rec store.Record) error {
	r, stamped := rec.Bundle.Manifest.RID, rec.Bundle.Manifest.Timestamp
	switch r.Type() {
	case rid.NodeType:
		profile, err := protocol.ParseNodeProfile(rec.Bundle.Contents)
		if err != nil {
			return err
		}
		g.PutNode(graph.Node{RID: r, Profile: profile, Verified: Verified(g.Self(), rec), Timestamp: stamped})
	case rid.EdgeType:
		profile, err := protocol.ParseEdgeProfile(rec.Bundle.Contents)
		if err != nil {
			return err
		}
		g.PutEdge(graph.Edge{RID: r, Profile: profile, Timestamp: stamped})
	}
	return nil
}

// Keyed reports whether the node self is to believe node r under r's signature
// alone. A self without a key is spoken to unsigned by everybody.
func Keyed(self, r rid.RID) bool { return rid.IsKeyed(self) && rid.IsKeyed(r) }

// Verified reports whether a node's record, held by self, is that node's own
// word, as far as that can be told: a node with a key signed it, or is self; of
// one without a key nothing more can be known.
func Verified(self rid.RID, rec store.Record) bool {
	r := rec.Bundle.Manifest.RID
	return !Keyed(self, r) || rec.Source == string(r)
}
