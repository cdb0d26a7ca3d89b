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
	"github.com/koi-net/koi-operator/node/peer"
	"github.com/koi-net/koi-operator/node/pipeline"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

// shakeHands makes this node known to its first contact, and that to us.
func (m *Manager) shakeHands(ctx context.Context, st *state) (time.Duration, error) {
	first, known := m.knownFirstContact()
	if known {
		m.noteFirstContact(first.RID, "")
		if len(m.edgesWith(first.RID)) > 0 {
			st.greeted = 0
			m.Poke(first.RID) // the edges' own checks find out whether it still knows us
			return m.rest(), nil
		}
		// It may want no edge with us. We tell it of us now and then, in case it
		// lost us, but not to forget us: that is for the first time alone.
		t := Target(first)
		t.URL = m.cfg.FirstContact
		if err := m.introduce(ctx, t, false); err != nil {
			m.noteFirstContact("", fmt.Sprintf("%s cannot be reached: %v", m.cfg.FirstContact, err))
			return 0, err
		}
		st.greeted++
		return min(m.rest(), m.cfg.RetryCap<<min(st.greeted, 16)), nil
	}
	t, own, err := m.resolve(ctx, peer.Target{RID: m.cfg.FirstContactRID, URL: m.cfg.FirstContact})
	if err != nil {
		m.noteFirstContact("", err.Error())
		return 0, err
	}
	if err := m.introduce(ctx, t, true); err != nil {
		err = explain(err, t)
		m.noteFirstContact("", fmt.Sprintf("no handshake with %s yet: %v", m.cfg.FirstContact, err))
		return 0, err
	}
	// Learned only now: knowing it we would propose at once, and the FORGET of
	// the handshake would take that away again, here and at all it is relayed to.
	if err := m.learn(ctx, t, own); err != nil {
		m.noteFirstContact("", fmt.Sprintf("%s took our introduction, and gives none of its own: %v", m.cfg.FirstContact, err))
		return 0, err
	}
	first, known = m.knownFirstContact()
	m.noteFirstContact(first.RID, "")
	if !known {
		return 0, errors.New("the first contact has not introduced itself yet")
	}
	// Until its proposal or ours made an edge, the handshake counts as unanswered.
	return jitter(m.cfg.RetryCap, 0.1), nil
}

// knownFirstContact returns the first contact, once it has introduced itself.
func (m *Manager) knownFirstContact() (graph.Node, bool) {
	if r := m.cfg.FirstContactRID; r != "" {
		n, ok := m.cfg.Graph.Node(r)
		return n, ok && n.Verified
	}
	for _, n := range m.cfg.Graph.Nodes() {
		if n.RID != m.cfg.Self && n.Verified && sameURL(n.Profile.BaseURL, m.cfg.FirstContact) {
			return n, true
		}
	}
	return graph.Node{}, false
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

// Introduce makes this node known to another, and that to us: by its base URL
// where it tells who it is, else by RID and, for a keyed node, public key
// besides. The RID is "" where that has to introduce itself first.
func (m *Manager) Introduce(ctx context.Context, t peer.Target) (rid.RID, error) {
	t, own, err := m.resolve(ctx, t)
	if err != nil {
		return "", err
	}
	if err := m.introduce(ctx, t, false); err != nil {
		return "", fmt.Errorf("introduce to %s: %w", t.URL, explain(err, t))
	}
	if err := m.learn(ctx, t, own); err != nil {
		return "", err
	}
	return t.RID, nil
}

// resolve completes what is known of a node by what it says of itself, if it
// does: nodes of the reference do not. Its own bundle is nil then.
func (m *Manager) resolve(ctx context.Context, t peer.Target) (peer.Target, *protocol.Bundle, error) {
	b, err := m.cfg.Caller.Self(ctx, t.URL)
	var status *peer.StatusError
	switch {
	case errors.As(err, &status), errors.Is(err, peer.ErrBadAnswer):
		return t, nil, nil // it is there, and does not tell
	case err != nil:
		return t, nil, fmt.Errorf("%s cannot be reached: %w", t.URL, err)
	}
	r := b.Manifest.RID
	switch {
	case r.Type() != rid.NodeType:
		return t, nil, fmt.Errorf("%s answers with %s, which is no node", t.URL, r)
	case r == m.cfg.Self:
		return t, nil, fmt.Errorf("%s leads to this node itself", t.URL)
	case t.RID != "" && t.RID != r:
		return t, nil, fmt.Errorf("%w: %s answers as %s, not as %s: correct the RID or the URL", ErrAnotherNode, t.URL, r, t.RID)
	}
	p, err := protocol.ParseNodeProfile(b.Contents)
	if err != nil || !p.KeyMatches(r) || rid.IsKeyed(r) && p.PublicKey == "" {
		return t, nil, fmt.Errorf("%s answers with a profile that cannot be %s's: its public key is not the one the RID was made from", t.URL, r)
	}
	t.RID, t.Key = r, p.PublicKey
	return t, &b, nil
}

// ErrAnotherNode is wrapped where another node answers at a URL than the one
// expected there.
var ErrAnotherNode = errors.New("another node")

// learn takes in a node's own bundle: asked for again under its signature, or as
// it gave it where it has none to give.
func (m *Manager) learn(ctx context.Context, t peer.Target, own *protocol.Bundle) error {
	switch {
	case own == nil:
		return nil // it introduces itself, or not
	case m.cfg.Caller.Signs(t):
		return m.confirmNode(ctx, t)
	}
	_, err := m.cfg.Knowledge.Do(ctx, pipeline.FromBundle(pipeline.Unsigned, *own))
	return err
}

// explain adds what to do about the refusal of an unsigned introduction.
func explain(err error, t peer.Target) error {
	var status *peer.StatusError
	if t.RID == "" && errors.As(err, &status) && status.Code == 422 {
		return fmt.Errorf("%w (a node of the signed generation takes no unsigned introduction, and does not tell who it is: give its RID, --first-contact-rid)", err)
	}
	return err
}

// introduce broadcasts our NEW, after a FORGET of our former self where this is
// a handshake.
func (m *Manager) introduce(ctx context.Context, t peer.Target, handshake bool) error {
	own, err := m.ownEvent(ctx)
	if err != nil {
		return err
	}
	var events [][]byte
	if handshake {
		events = append(events, protocol.AppendEvent(nil, protocol.Event{RID: m.cfg.Self, EventType: protocol.Forget}))
	}
	return m.cfg.Caller.Broadcast(ctx, t, append(events, protocol.AppendEvent(nil, own)), nil)
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
func (m *Manager) visit(ctx context.Context, other rid.RID, st *state) (time.Duration, error) {
	if err := m.followHint(ctx, other, st); err != nil {
		return 0, err
	}
	n, ok := m.cfg.Graph.Node(other)
	if !ok || n.Profile.NodeType != protocol.Full || n.Profile.BaseURL == "" {
		return 0, nil // a partial node comes to us
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
			err = m.compare(ctx, n, e, ans.Bundles[i])
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
func (m *Manager) compare(ctx context.Context, n graph.Node, e graph.Edge, theirs protocol.Bundle) error {
	rec, err := m.bundle(ctx, e.RID)
	if err != nil || theirs.Manifest.SHA256Hash == rec.Bundle.Manifest.SHA256Hash {
		return ignoreNotFound(err)
	}
	if theirs.Manifest.Timestamp.Time().After(rec.Bundle.Manifest.Timestamp.Time()) {
		return m.cfg.Knowledge.Submit(ctx, pipeline.FromBundle(m.source(Target(n)), theirs))
	}
	return m.tell(ctx, e)
}

func ignoreNotFound(err error) error {
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	return err
}
