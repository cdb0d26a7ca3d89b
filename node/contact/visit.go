package contact

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/koi-net/koi-operator/node/edge"
	"github.com/koi-net/koi-operator/node/graph"
	"github.com/koi-net/koi-operator/node/pipeline"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

// shakeHands makes this node known to its first contact, and that to us.
func (m *Manager) shakeHands(ctx context.Context, st *state) (time.Duration, error) {
	peer, known := m.knownFirstContact()
	if known {
		m.noteFirstContact(peer, "")
		if len(m.edgesWith(peer)) > 0 {
			st.greeted = 0
			m.Poke(peer) // the edges' own checks find out whether it still knows us
			return m.rest(), nil
		}
		// It may want no edge with us. We tell it of us now and then, in case it
		// lost us, but not to forget us: that is for the first time alone.
		if err := m.introduce(ctx, m.cfg.FirstContact, false); err != nil {
			m.noteFirstContact("", fmt.Sprintf("%s cannot be reached: %v", m.cfg.FirstContact, err))
			return 0, err
		}
		st.greeted++
		return min(m.rest(), m.cfg.RetryCap<<min(st.greeted, 16)), nil
	}
	b, selfErr := m.cfg.Caller.Self(ctx, m.cfg.FirstContact)
	if selfErr == nil {
		if want := m.cfg.FirstContactRID; want != "" && b.Manifest.RID != want {
			err := fmt.Errorf("%s answers as %s, but --first-contact-rid says %s: correct one of the two", m.cfg.FirstContact, b.Manifest.RID, want)
			m.noteFirstContact("", err.Error())
			return 0, err
		}
	}
	if err := m.introduce(ctx, m.cfg.FirstContact, true); err != nil {
		m.noteFirstContact("", fmt.Sprintf("no handshake with %s yet: %v", m.cfg.FirstContact, err))
		return 0, err
	}
	// Learned only now: knowing it we would propose at once, and the FORGET of
	// the handshake would take that away again, here and at all it is relayed to.
	if selfErr == nil {
		if err := m.learn(ctx, b); err != nil {
			return 0, err
		}
	}
	peer, known = m.knownFirstContact()
	m.noteFirstContact(peer, "")
	if !known {
		return 0, errors.New("the first contact has not introduced itself yet")
	}
	// Until its proposal or ours made an edge, the handshake counts as unanswered.
	return jitter(m.cfg.RetryCap, 0.1), nil
}

func (m *Manager) knownFirstContact() (rid.RID, bool) {
	if r := m.cfg.FirstContactRID; r != "" {
		_, ok := m.cfg.Graph.Node(r)
		return r, ok
	}
	for _, n := range m.cfg.Graph.Nodes() {
		if n.RID != m.cfg.Self && sameURL(n.Profile.BaseURL, m.cfg.FirstContact) {
			return n.RID, true
		}
	}
	return "", false
}

func sameURL(a, b string) bool { return strings.TrimRight(a, "/") == strings.TrimRight(b, "/") }

func (m *Manager) noteFirstContact(r rid.RID, problem string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.first.Message = problem
	if problem == "" {
		m.first.Reached = true
	}
	if r != "" {
		m.first.RID = r
	}
}

// Introduce makes a node known by its base URL: it fetches the node's own
// bundle, where the node offers it, and sends it ours.
func (m *Manager) Introduce(ctx context.Context, url string) (rid.RID, error) {
	b, selfErr := m.cfg.Caller.Self(ctx, url)
	if selfErr == nil {
		if err := m.learn(ctx, b); err != nil {
			return "", err
		}
	}
	if err := m.introduce(ctx, url, false); err != nil {
		return "", fmt.Errorf("introduce to %s: %w", url, err)
	}
	if selfErr != nil {
		return "", nil // it will introduce itself, or not
	}
	return b.Manifest.RID, nil
}

// learn takes in a node's own bundle, as that node gave it.
func (m *Manager) learn(ctx context.Context, b protocol.Bundle) error {
	if b.Manifest.RID.Type() != rid.NodeType {
		return fmt.Errorf("%s is no node", b.Manifest.RID)
	}
	if b.Manifest.RID == m.cfg.Self {
		return errors.New("the URL leads to this node itself")
	}
	_, err := m.cfg.Knowledge.Do(ctx, pipeline.FromBundle(pipeline.Unsigned, b))
	return err
}

// introduce broadcasts our NEW to a URL, after a FORGET of our former self
// where this is a handshake.
func (m *Manager) introduce(ctx context.Context, url string, handshake bool) error {
	own, err := m.ownEvent(ctx)
	if err != nil {
		return err
	}
	var events [][]byte
	if handshake {
		events = append(events, protocol.AppendEvent(nil, protocol.Event{RID: m.cfg.Self, EventType: protocol.Forget}))
	}
	return m.cfg.Caller.Broadcast(ctx, url, append(events, protocol.AppendEvent(nil, own)))
}

func (m *Manager) ownEvent(ctx context.Context) (protocol.Event, error) {
	rec, err := m.bundle(ctx, m.cfg.Self)
	if err != nil {
		return protocol.Event{}, fmt.Errorf("own bundle: %w", err)
	}
	return newEvent(rec.Bundle), nil
}

func newEvent(b protocol.Bundle) protocol.Event {
	return protocol.Event{RID: b.Manifest.RID, EventType: protocol.New, Manifest: &b.Manifest, Contents: b.Contents}
}

func (m *Manager) bundle(ctx context.Context, r rid.RID) (rec store.Record, err error) {
	err = m.cfg.Store.View(ctx, func(tx store.Reader) error {
		rec, err = tx.Bundle(r)
		return err
	})
	return rec, err
}

// visit brings our edges with one node to where they should be. It returns
// when to look again, 0 for not before something changes.
func (m *Manager) visit(ctx context.Context, peer rid.RID, st *state) (time.Duration, error) {
	n, ok := m.cfg.Graph.Node(peer)
	if !ok || n.Profile.NodeType != protocol.Full || n.Profile.BaseURL == "" {
		return 0, nil // a partial node comes to us
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
	edges := m.edgesWith(peer)
	if want == nil && len(edges) == 0 {
		return 0, nil
	}
	again := m.rest()
	if len(edges) > 0 && st.confirmed.IsZero() {
		again = m.cfg.RetryBase // they are too young to be asked for
	}
	if left, resting := m.resting(peer); resting {
		again = min(again, left)
	}
	if e, ok := m.cfg.Graph.Edge(peer, m.cfg.Self); ok && e.Profile.Status == protocol.Proposed {
		// Unanswered: it may wait for a person, or be lost. Ask soon, then less often.
		again = min(again, max(m.cfg.RetryBase, m.cfg.Now().Sub(st.proposed)))
		st.confirmed = time.Time{}
	}
	return again, nil
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
	ans, err := m.cfg.Caller.FetchBundles(ctx, n.Profile.BaseURL, rids)
	if err != nil {
		return fmt.Errorf("ask %s for our edges: %w", n.RID, err)
	}
	for _, e := range edges {
		i := slices.IndexFunc(ans.Bundles, func(b protocol.Bundle) bool { return b.Manifest.RID == e.RID })
		if i < 0 {
			err = m.lost(ctx, e, st)
		} else {
			err = m.compare(ctx, e, ans.Bundles[i])
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

// compare takes in what the other end knows better, and tells it what we do.
func (m *Manager) compare(ctx context.Context, e graph.Edge, theirs protocol.Bundle) error {
	rec, err := m.bundle(ctx, e.RID)
	if err != nil || theirs.Manifest.SHA256Hash == rec.Bundle.Manifest.SHA256Hash {
		return ignoreNotFound(err)
	}
	if theirs.Manifest.Timestamp.Time().After(rec.Bundle.Manifest.Timestamp.Time()) {
		return m.cfg.Knowledge.Submit(ctx, pipeline.FromBundle(pipeline.Unsigned, theirs))
	}
	return m.tell(ctx, e)
}

func ignoreNotFound(err error) error {
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	return err
}
