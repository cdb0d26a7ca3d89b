package handlers_test

import (
	"sync"
	"testing"
	"time"

	"github.com/koi-net/koi-operator/node/handlers"
	"github.com/koi-net/koi-operator/node/pipeline"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

// keyed returns the RID of a node with a key, and its profile.
func keyed(name string, change func(*protocol.NodeProfile)) (rid.RID, []byte) {
	p := protocol.NodeProfile{BaseURL: "http://10.0.0.1/" + name, NodeType: protocol.Full, PublicKey: "key of " + name}
	r := rid.RID("orn:koi-net.node:" + name + "+" + rid.KeyID(p.PublicKey))
	if change != nil {
		change(&p)
	}
	return r, p.Contents()
}

// signedWorld is the world of a node that has a key itself. It knows coord,
// which gives it nodes, edges and notes, and carol, with whom it has no edge.
type signedWorld struct {
	*world
	self, coord, carol rid.RID

	mu    sync.Mutex
	heard []rid.RID
}

func newSignedWorld(t *testing.T, change func(*handlers.Options)) *signedWorld {
	t.Helper()
	self, _ := keyed("self", nil)
	s := &signedWorld{self: self}
	s.world = newWorld(t, func(o *handlers.Options) {
		own := o.Profile()
		own.PublicKey = "key of self"
		o.Self, o.Profile = self, func() protocol.NodeProfile { return own }
		o.Heard = func(r rid.RID, _ protocol.NodeProfile) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.heard = append(s.heard, r)
		}
		if change != nil {
			change(o)
		}
	})
	s.coord = s.introduce("coord")
	s.carol = s.introduce("carol")
	e := rid.NewEdge(s.coord, self)
	s.do(pipeline.Object{RID: e, Contents: between(s.coord, self, protocol.Proposed, protocol.Webhook, rid.NodeType, rid.EdgeType, notes)})
	s.hears(pipeline.Source(s.coord), protocol.Update, e,
		between(s.coord, self, protocol.Approved, protocol.Webhook, rid.NodeType, rid.EdgeType, notes), time.Second)
	if got := s.status(s.coord, self); got != "APPROVED" {
		t.Fatalf("the coordinator's edge to us is %s", got)
	}
	return s
}

func (s *signedWorld) introduce(name string) rid.RID {
	s.t.Helper()
	r, contents := keyed(name, nil)
	if out := s.hears(pipeline.Source(r), protocol.New, r, contents, 0); out.Stopped != "" || out.Err != nil {
		s.t.Fatalf("%s introduces itself: %+v", name, out)
	}
	return r
}

func (s *signedWorld) hints() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.heard)
}

func TestWhoseWordCountsForKnowledge(t *testing.T) {
	for name, tt := range map[string]struct {
		from, by func(s *signedWorld) pipeline.Source // provided from; changed by
		want     string
	}{
		"its provider":                    {carol, carol, ""},
		"a provider that we subscribe to": {carol, coord, ""},
		"somebody else":                   {coord, carol, handlers.ReasonNoStanding},
		"unsigned, of what came signed":   {carol, unsigned, handlers.ReasonNoStanding},
		"unsigned, of what came unsigned": {unsigned, unsigned, ""},
		"signed, of what came unsigned":   {unsigned, carol, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSignedWorld(t, nil)
			if out := s.hears(tt.from(s), protocol.New, note, []byte(`{"n":1}`), 0); out.Stopped != "" {
				t.Fatalf("provided: %+v", out)
			}
			if out := s.hears(tt.by(s), protocol.Update, note, []byte(`{"n":2}`), time.Second); out.Stopped != tt.want {
				t.Errorf("changed: %+v, want %q", out, tt.want)
			}
			if tt.want != "" {
				// The bytes of who may not change it do not matter, nor does a NEW.
				if out := s.hears(tt.by(s), protocol.New, note, []byte(`{"n":3}`), time.Second); out.Stopped != tt.want {
					t.Errorf("announced anew: %+v, want %q", out, tt.want)
				}
			}
			if out := s.hears(tt.by(s), protocol.Forget, note, nil, 0); out.Stopped != tt.want {
				t.Errorf("forgotten: %+v, want %q", out, tt.want)
			}
		})
	}
}

func carol(s *signedWorld) pipeline.Source  { return pipeline.Source(s.carol) }
func coord(s *signedWorld) pipeline.Source  { return pipeline.Source(s.coord) }
func unsigned(*signedWorld) pipeline.Source { return pipeline.Unsigned }

func TestNodeWithAKeySpeaksForItself(t *testing.T) {
	dora, profile := keyed("dora", nil)
	_, moved := keyed("dora", func(p *protocol.NodeProfile) { p.BaseURL = "http://10.6.6.6/evil" })
	_, keyless := keyed("dora", func(p *protocol.NodeProfile) { p.PublicKey = "" })
	_, swapped := keyed("dora", func(p *protocol.NodeProfile) { p.PublicKey = "key of evil" })
	itself := pipeline.Source(dora)

	t.Run("its own word", func(t *testing.T) {
		s := newSignedWorld(t, nil)
		s.hears(itself, protocol.New, dora, profile, 0)
		if n, ok := s.graph.Node(dora); !ok || !n.Verified {
			t.Errorf("known %v, verified %v", ok, n.Verified)
		}
		for name, contents := range map[string][]byte{"no key": keyless, "another key": swapped} {
			if out := s.hears(itself, protocol.Update, dora, contents, time.Second); out.Stopped != handlers.ReasonInvalidKey {
				t.Errorf("%s: %+v", name, out)
			}
		}
	})
	t.Run("others cannot move it", func(t *testing.T) {
		s := newSignedWorld(t, nil)
		s.hears(itself, protocol.New, dora, profile, 0)
		for i, from := range []pipeline.Source{pipeline.Unsigned, carol(s), coord(s)} {
			if out := s.hears(from, protocol.Update, dora, moved, time.Second); out.Stopped != handlers.ReasonHearsay {
				t.Errorf("%s: %+v", from, out)
			}
			if got := s.hints(); got != i+1 {
				t.Errorf("after %s: %d hints, want the node asked each time", from, got)
			}
		}
		if n, _ := s.graph.Node(dora); n.Profile.BaseURL != "http://10.0.0.1/dora" || !n.Verified {
			t.Errorf("held: %+v", n)
		}
	})
	t.Run("hearsay is kept and not believed", func(t *testing.T) {
		s := newSignedWorld(t, nil)
		if out := s.hears(pipeline.Unsigned, protocol.New, dora, moved, 0); out.Stopped != handlers.ReasonHearsay || s.hints() != 1 {
			t.Errorf("unsigned: %+v, %d hints", out, s.hints())
		}
		s.hears(carol(s), protocol.New, dora, moved, time.Minute)
		if n, ok := s.graph.Node(dora); !ok || n.Verified {
			t.Errorf("relayed: known %v, verified %v", ok, n.Verified)
		}
		// The node's own word is older than what others said, and counts.
		if out := s.hears(itself, protocol.New, dora, profile, 0); out.Stopped != "" {
			t.Errorf("its own word: %+v", out)
		}
		if n, _ := s.graph.Node(dora); n.Profile.BaseURL != "http://10.0.0.1/dora" || !n.Verified {
			t.Errorf("held: %+v", n)
		}
	})
	t.Run("who may have it forgotten", func(t *testing.T) {
		s := newSignedWorld(t, nil)
		s.hears(itself, protocol.New, dora, profile, 0)
		for _, from := range []pipeline.Source{pipeline.Unsigned, carol(s)} {
			if out := s.hears(from, protocol.Forget, dora, nil, 0); out.Stopped != handlers.ReasonNoStanding {
				t.Errorf("%s: %+v", from, out)
			}
		}
		if out := s.hears(coord(s), protocol.Forget, dora, nil, 0); out.Stopped != "" {
			t.Errorf("relayed by a provider of nodes: %+v", out)
		}
	})
	t.Run("only its own NEW is a handshake", func(t *testing.T) {
		s := newSignedWorld(t, func(o *handlers.Options) { o.Coordinator = true })
		s.hears(coord(s), protocol.New, dora, profile, 0)
		if got := s.status(dora, s.self); got != "none" {
			t.Errorf("after others spoke of it: %s", got)
		}
		s.hears(itself, protocol.New, dora, profile, 0)
		if got := s.status(dora, s.self); got != "PROPOSED" {
			t.Errorf("after it spoke itself: %s", got)
		}
	})
}

func TestNodeWithoutAKeyUnderDeny(t *testing.T) {
	s := newSignedWorld(t, func(o *handlers.Options) { o.DenyUnsigned = true })
	if out := s.hears(coord(s), protocol.New, bob, full("http://10.0.0.1/bob"), 0); out.Stopped != handlers.ReasonUnsignedPeer {
		t.Errorf("%+v", out)
	}
}

func TestWhoseWordCountsForEdges(t *testing.T) {
	s := newSignedWorld(t, nil)
	dora := s.introduce("dora")
	s.meet(bob) // without a key
	for name, tt := range map[string]struct {
		from           pipeline.Source
		source, target rid.RID
		want           string
	}{
		"its source":                  {pipeline.Source(dora), dora, s.carol, ""},
		"its target":                  {pipeline.Source(s.carol), s.coord, s.carol, ""},
		"a provider of edges":         {coord(s), s.carol, dora, ""},
		"a third":                     {pipeline.Source(dora), s.carol, s.coord, handlers.ReasonNoStanding},
		"unsigned, between keys":      {pipeline.Unsigned, s.carol, s.coord, handlers.ReasonNoStanding},
		"unsigned, one without a key": {pipeline.Unsigned, bob, dora, ""},
	} {
		out := s.hears(tt.from, protocol.New, rid.NewEdge(tt.source, tt.target),
			between(tt.source, tt.target, protocol.Approved, protocol.Webhook, notes), 0)
		if out.Stopped != tt.want {
			t.Errorf("%s: %+v, want %q", name, out, tt.want)
		}
	}
	// Forgetting one is for the same.
	if out := s.hears(pipeline.Source(s.carol), protocol.Forget, rid.NewEdge(bob, dora), nil, 0); out.Stopped != handlers.ReasonNoStanding {
		t.Errorf("a third forgets it: %+v", out)
	}
	// An edge's RID is its ends': nothing takes another edge's place.
	out := s.hears(pipeline.Source(dora), protocol.Update, rid.NewEdge(s.carol, dora),
		between(dora, s.carol, protocol.Approved, protocol.Webhook, notes), time.Minute)
	if out.Stopped != handlers.ReasonForeignEdge {
		t.Errorf("under another edge's RID: %+v", out)
	}
}

// Approving our own subscription takes the source's word, not the target's.
func TestUnsignedApprovalOfAKeyedSource(t *testing.T) {
	s := newSignedWorld(t, nil)
	s.meet(bob)
	for _, source := range []rid.RID{s.carol, bob} {
		s.do(pipeline.Object{RID: rid.NewEdge(source, s.self), Contents: between(source, s.self, protocol.Proposed, protocol.Webhook, notes)})
		s.says(protocol.Update, rid.NewEdge(source, s.self), between(source, s.self, protocol.Approved, protocol.Webhook, notes), time.Second)
	}
	if got := s.status(s.carol, s.self); got != "PROPOSED" {
		t.Errorf("a keyed source's edge after an unsigned approval: %s", got)
	}
	if got := s.status(bob, s.self); got != "APPROVED" {
		t.Errorf("a keyless source's edge after an unsigned approval: %s", got)
	}
}

func TestProposalOfUnconfirmedNodeWaits(t *testing.T) {
	s := newSignedWorld(t, nil)
	dora, profile := keyed("dora", nil)
	s.hears(coord(s), protocol.New, dora, profile, 0)
	propose := func(target rid.RID, kind protocol.EdgeKind) pipeline.Outcome {
		return s.hears(pipeline.Source(target), protocol.New, rid.NewEdge(s.self, target), between(s.self, target, protocol.Proposed, kind, notes), 0)
	}
	if out := propose(dora, protocol.Webhook); out.Stopped != pipeline.ReasonRetriesUsedUp {
		t.Errorf("full node known by hearsay: %+v, want it to wait for its word", out)
	}
	emma, profile := keyed("emma", func(p *protocol.NodeProfile) { p.NodeType, p.BaseURL = protocol.Partial, "" })
	s.hears(coord(s), protocol.New, emma, profile, 0)
	propose(emma, protocol.Poll)
	if got := s.status(s.self, emma); got != "APPROVED" {
		t.Errorf("partial node known by hearsay: %s; it cannot be asked", got)
	}
}

func TestFutureIsKeptUntilItComes(t *testing.T) {
	s := newSignedWorld(t, nil)
	from := pipeline.Source(s.carol)
	if out := s.hears(from, protocol.New, note, []byte(`{"n":1}`), time.Hour); out.Stopped != handlers.ReasonFromTheFuture {
		t.Fatalf("%+v", out)
	}
	if got := s.p.Quarantined(); got != 1 {
		t.Fatalf("%d objects quarantined, want 1", got)
	}
	// It freezes nothing meanwhile.
	if out := s.hears(from, protocol.New, note, []byte(`{"n":2}`), time.Second); out.Stopped != "" {
		t.Errorf("%+v", out)
	}
	s.advance(time.Hour)
	s.hears(from, protocol.New, other, []byte(`{}`), 0)
	s.hears(from, protocol.New, "orn:test.other:2", []byte(`{}`), 0)
	err := s.store.View(t.Context(), func(tx store.Reader) error {
		rec, err := tx.Bundle(note)
		if string(rec.Bundle.Contents) != `{"n":1}` || rec.Source != string(from) {
			t.Errorf("held when its time has come: %s from %s", rec.Bundle.Contents, rec.Source)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := s.p.Quarantined(); got != 0 {
		t.Errorf("%d objects still quarantined", got)
	}
}

// A node with a key that we have an edge with is not forgotten on the word of
// others: it is asked. Its own word counts, and so does that of others where there
// is no edge.
func TestForgottenByOthers(t *testing.T) {
	var doubted []rid.RID
	s := newSignedWorld(t, func(o *handlers.Options) { o.Doubted = func(r rid.RID) { doubted = append(doubted, r) } })
	dora := s.introduce("dora")
	e := rid.NewEdge(dora, s.self)
	s.do(pipeline.Object{RID: e, Contents: between(dora, s.self, protocol.Proposed, protocol.Webhook, notes)})
	if out := s.hears(pipeline.Source(s.coord), protocol.Forget, dora, nil, 0); out.Stopped != handlers.ReasonHearsay || len(doubted) != 1 || doubted[0] != dora {
		t.Errorf("%+v; doubted %v", out, doubted)
	}
	if got := s.status(dora, s.self); got != "PROPOSED" {
		t.Errorf("the edge is %s", got)
	}
	if out := s.hears(pipeline.Source(s.coord), protocol.Forget, s.carol, nil, 0); out.Stopped != "" || len(doubted) != 1 {
		t.Errorf("without an edge: %+v; doubted %v", out, doubted)
	}
	if out := s.hears(pipeline.Source(dora), protocol.Forget, dora, nil, time.Second); out.Stopped != "" || len(doubted) != 1 {
		t.Errorf("its own word: %+v; doubted %v", out, doubted)
	}
}
