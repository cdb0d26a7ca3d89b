package contact

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/koi-net/koi-operator/node/graph"
	"github.com/koi-net/koi-operator/node/peer"
	"github.com/koi-net/koi-operator/node/pipeline"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

// shakeHands makes this node known to its first contact, and that to us.
func (m *Manager) shakeHands(ctx context.Context, st *state) (time.Duration, error) {
	ctx = peer.Insist(ctx) // its pauses are our own
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
	// Who is cached, be it by hearsay, may hold edges of ours, which FORGET would end.
	_, cached := m.cfg.Graph.Node(t.RID)
	if err := m.introduce(ctx, t, !cached); err != nil {
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
	return m.cfg.Graph.FindNode(func(n graph.Node) bool {
		return n.RID != m.cfg.Self && n.Verified && sameURL(n.Profile.BaseURL, m.cfg.FirstContact)
	})
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
	ctx = peer.Insist(ctx) // a person asked for it
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
