package contact

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/koi-net/koi-operator/node/edge"
	"github.com/koi-net/koi-operator/node/graph"
	"github.com/koi-net/koi-operator/node/peer"
	"github.com/koi-net/koi-operator/node/pipeline"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

// visit brings our edges with one node to where they should be. It returns
// when to look again, 0 for not before something changes.
func (m *Manager) visit(ctx context.Context, other rid.RID, st *state, introduced bool) (time.Duration, error) {
	if err := m.followHint(ctx, other, st); err != nil {
		return 0, err
	}
	n, ok := m.cfg.Graph.Node(other)
	if !ok {
		return 0, nil
	}
	if n.Profile.NodeType != protocol.Full || n.Profile.BaseURL == "" {
		return m.remind(ctx, other, st, introduced)
	}
	if !n.Verified {
		return 0, m.confirmNode(ctx, Target(n)) // what follows comes with its own word
	}
	sub, err := m.subscription(ctx, n)
	if err != nil {
		return 0, err
	}
	want, _ := edge.Subscribe(sub)
	if err := m.subscribe(ctx, sub, st); err != nil {
		return 0, err
	}
	if err := m.confirm(ctx, n, st); err != nil {
		return 0, err
	}
	if err := m.catchUp(ctx, n, want, st); err != nil {
		return 0, err
	}
	edges := m.edgesWith(other)
	if want == nil && len(edges) == 0 {
		return 0, nil
	}
	again := m.rest()
	if len(edges) > 0 && st.confirmed.IsZero() {
		again = m.cfg.RetryBase // they are too young to be asked for
	}
	if left, resting := m.resting(other); resting {
		again = min(again, left)
	}
	if e, ok := m.cfg.Graph.Edge(other, m.cfg.Self); ok && e.Profile.Status == protocol.Proposed {
		// Unanswered: it may wait for a person, or be lost. Ask soon, then less often.
		again = min(again, max(m.cfg.RetryBase, m.cfg.Now().Sub(st.proposed)))
		st.confirmed = time.Time{}
	}
	return again, nil
}

// remind tells a partial node, which comes to us and cannot be asked, of our edges
// with it: of all where it has just introduced itself, and of a proposal of ours
// that it has not answered now and then, ever less often.
func (m *Manager) remind(ctx context.Context, other rid.RID, st *state, introduced bool) (again time.Duration, err error) {
	waits := false
	for _, e := range m.edgesWith(other) {
		proposed := e.Profile.Target == m.cfg.Self && e.Profile.Status == protocol.Proposed
		waits = waits || proposed
		due := proposed && !st.told.IsZero() && m.cfg.Now().Sub(st.told) >= m.reminder(st)
		if !introduced && !due {
			continue
		}
		if err := m.tell(ctx, e); err != nil {
			return 0, err
		}
		if proposed {
			st.told = m.cfg.Now()
			st.tellings++
		}
	}
	if !waits {
		st.told, st.tellings = time.Time{}, 0
		return 0, nil
	}
	if st.told.IsZero() {
		st.told = m.cfg.Now() // the proposal itself has just gone out
	}
	return max(m.reminder(st)-m.cfg.Now().Sub(st.told), m.cfg.RetryBase), nil
}

// reminder is the pause before a partial node is told of a proposal again.
func (m *Manager) reminder(st *state) time.Duration {
	return min(m.cfg.RetryCap<<min(st.tellings, 16), m.cfg.CheckInterval)
}

// source is whose word a node's answers are.
func (m *Manager) source(t peer.Target) pipeline.Source {
	if m.cfg.Caller.Signs(t) {
		return pipeline.Source(t.RID)
	}
	return pipeline.Unsigned
}

func (m *Manager) rest() time.Duration { return jitter(m.cfg.CheckInterval, 0.1) }

// subscription returns what this node may want of n: a standing proposal's
// terms, else those of its interests. No edge is held against it yet.
func (m *Manager) subscription(ctx context.Context, n graph.Node) (edge.Subscription, error) {
	sub := edge.Subscription{
		Self: m.cfg.Self, SelfKind: m.cfg.Profile().NodeType, Source: n.RID, SourceProfile: n.Profile, Want: m.cfg.Interests,
	}
	p, err := m.standingProposal(ctx, n.RID)
	if p != nil {
		sub.Terms, sub.EdgeType = p.RIDTypes, p.EdgeType
	}
	return sub, err
}

// subscribe proposes the wanted terms, unless an edge has them or the source
// refused them lately.
func (m *Manager) subscribe(ctx context.Context, sub edge.Subscription, st *state) error {
	if e, ok := m.cfg.Graph.Edge(sub.Source, sub.Self); ok {
		sub.Current = &e.Profile
	}
	p, _ := edge.Subscribe(sub)
	if p == nil {
		return nil
	}
	if _, resting := m.resting(sub.Source); resting {
		return nil
	}
	return m.propose(ctx, *p, st)
}

// propose sends our own bundle, so that the proposal of a node it has not
// heard of is understood, and then the proposal.
func (m *Manager) propose(ctx context.Context, p protocol.EdgeProfile, st *state) error {
	own, err := m.ownEvent(ctx)
	if err != nil {
		return err
	}
	if err := m.cfg.Knowledge.Send(ctx, own, p.Source); err != nil {
		return err
	}
	r := rid.NewEdge(p.Source, p.Target)
	if e, ok := m.cfg.Graph.Edge(p.Source, p.Target); ok {
		r = e.RID
	}
	p.Status = protocol.Proposed
	if _, err := m.cfg.Knowledge.Do(ctx, pipeline.Object{RID: r, EventType: protocol.New, Contents: p.Contents()}); err != nil {
		return fmt.Errorf("propose an edge to %s: %w", p.Source, err)
	}
	if st != nil {
		st.proposed, st.confirmed = m.cfg.Now(), time.Time{}
	}
	return nil
}

// edgesWith returns the edges between this node and peer.
func (m *Manager) edgesWith(peer rid.RID) []graph.Edge {
	var out []graph.Edge
	for _, pair := range [][2]rid.RID{{peer, m.cfg.Self}, {m.cfg.Self, peer}} {
		if e, ok := m.cfg.Graph.Edge(pair[0], pair[1]); ok {
			out = append(out, e)
		}
	}
	return out
}

// confirm asks the other end for our edges with it, once in a CheckInterval.
// A node forgets others silently; who only waits for webhooks never notices.
func (m *Manager) confirm(ctx context.Context, n graph.Node, st *state) error {
	edges := m.edgesWith(n.RID)
	if len(edges) == 0 || m.cfg.Now().Sub(st.confirmed) < m.cfg.CheckInterval*9/10 {
		return nil
	}
	if m.cfg.Now().Sub(changed(edges)) < m.cfg.RetryBase {
		return nil // give the other end time to take it in
	}
	rids := make([]rid.RID, len(edges))
	for i, e := range edges {
		rids[i] = e.RID
	}
	ans, err := m.cfg.Caller.FetchBundles(ctx, Target(n), rids)
	if err != nil {
		return fmt.Errorf("ask %s for our edges: %w", n.RID, err)
	}
	for _, e := range edges {
		i := slices.IndexFunc(ans.Bundles, func(b protocol.Bundle) bool { return b.Manifest.RID == e.RID })
		if i < 0 {
			err = m.lost(ctx, e, st)
		} else {
			err = m.compare(ctx, n, e, ans.Bundles[i], st)
		}
		if err != nil {
			return err
		}
	}
	st.confirmed = m.cfg.Now()
	return nil
}

// changed is when the latest of the edges was changed.
func changed(edges []graph.Edge) (at time.Time) {
	for _, e := range edges {
		if t := e.Timestamp.Time(); t.After(at) {
			at = t
		}
	}
	return at
}

// lost deals with an edge the other end does not know (any more).
func (m *Manager) lost(ctx context.Context, e graph.Edge, st *state) error {
	m.log.Debug("the other end does not know the edge", "edge", e.RID, "source", e.Profile.Source, "target", e.Profile.Target)
	if e.Profile.Target == m.cfg.Self && e.Profile.Status == protocol.Approved {
		// Nothing comes by it any more: propose it anew.
		return m.propose(ctx, e.Profile, st)
	}
	return m.tell(ctx, e)
}

// tell sends the other end our own bundle and the edge as we hold it.
func (m *Manager) tell(ctx context.Context, e graph.Edge) error {
	rec, err := m.bundle(ctx, e.RID)
	if errors.Is(err, store.ErrNotFound) {
		return nil // forgotten meanwhile
	}
	if err != nil {
		return err
	}
	own, err := m.ownEvent(ctx)
	if err != nil {
		return err
	}
	other := e.Profile.Source
	if other == m.cfg.Self {
		other = e.Profile.Target
	}
	return errors.Join(m.cfg.Knowledge.Send(ctx, own, other), m.cfg.Knowledge.Send(ctx, newEvent(rec.Bundle), other))
}

// compare takes in what the other end knows better, and tells it what we do. Where we
// are the target, an approval that the source does not hold is none, as when the
// source lost it with a restored backup: see insist.
func (m *Manager) compare(ctx context.Context, n graph.Node, e graph.Edge, theirs protocol.Bundle, st *state) error {
	rec, err := m.bundle(ctx, e.RID)
	if err != nil || theirs.Manifest.SHA256Hash == rec.Bundle.Manifest.SHA256Hash {
		return ignoreNotFound(err)
	}
	ours := rec.Bundle.Manifest
	take := theirs.Manifest.Timestamp.Time().After(ours.Timestamp.Time())
	if e.Profile.Target == m.cfg.Self {
		p, err := protocol.ParseEdgeProfile(theirs.Contents)
		approved := err == nil && p.Status == protocol.Approved
		if !approved || !take && e.Profile.Status == protocol.Approved {
			return m.insist(ctx, e, ours, theirs.Manifest, st)
		}
		take = true // the answer to a proposal, whatever it is stamped with
	}
	if take {
		return m.cfg.Knowledge.Submit(ctx, pipeline.FromBundle(m.source(Target(n)), theirs))
	}
	return m.tell(ctx, e)
}

// insist proposes the terms of an edge to us again, stamped later than what either
// end holds of it, so that its source decides on them now. An approved edge is only
// proposed from here on; that happens once in a RetryCap at most, whatever the source
// says, and a proposal that stays unanswered is repeated as any other is.
func (m *Manager) insist(ctx context.Context, e graph.Edge, ours, theirs protocol.Manifest, st *state) error {
	p, now := e.Profile, m.cfg.Now()
	approved := p.Status == protocol.Approved
	if approved && now.Sub(st.insisted) < m.cfg.RetryCap {
		return nil
	}
	after := &ours
	if theirs.Timestamp.Time().After(ours.Timestamp.Time()) {
		after = &theirs
	}
	p.Status = protocol.Proposed
	b, err := protocol.NewBundle(e.RID, pipeline.NextTime(now, after), p.Contents())
	if err != nil {
		return fmt.Errorf("propose the edge from %s again: %w", p.Source, err)
	}
	own, err := m.ownEvent(ctx)
	if err != nil {
		return err
	}
	if err := m.cfg.Knowledge.Send(ctx, own, p.Source); err != nil {
		return err
	}
	if !approved {
		return m.cfg.Knowledge.Send(ctx, newEvent(b), p.Source) // the same contents are held
	}
	m.log.Info("the source of an approved edge does not hold it as approved: it is proposed again", "edge", e.RID, "source", p.Source)
	st.proposed, st.insisted = now, now
	_, err = m.cfg.Knowledge.Do(ctx, pipeline.Object{RID: e.RID, EventType: protocol.New, Manifest: &b.Manifest, Contents: b.Contents})
	if err != nil {
		return fmt.Errorf("propose the edge from %s again: %w", p.Source, err)
	}
	return nil
}

func ignoreNotFound(err error) error {
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	return err
}
