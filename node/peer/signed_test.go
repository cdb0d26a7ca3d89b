package peer

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/koi-net/koi-operator/node/identity"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

func TestSigns(t *testing.T) {
	keyed, plain := newIdentity(t, "a"), identity.Identity{RID: "orn:koi-net.node:self+1"}
	for _, c := range []struct {
		name   string
		self   identity.Identity
		target Target
		want   bool
	}{
		{"a key known", keyed, Target{RID: keyed.RID, Key: keyed.PublicKeyText()}, true},
		{"a RID made from a key", keyed, Target{RID: keyed.RID}, true},
		{"a key without a RID", keyed, Target{Key: keyed.PublicKeyText()}, true},
		{"a UUID", keyed, Target{RID: peerA}, false},
		{"a URL alone", keyed, Target{URL: "http://a"}, false},
		{"no key of ours", plain, Target{RID: keyed.RID, Key: keyed.PublicKeyText()}, false},
	} {
		client := NewClient(ClientConfig{Identity: c.self})
		if got := client.Signs(c.target); got != c.want {
			t.Errorf("%s: %t", c.name, got)
		}
	}
}

// TestSignedCalls makes each call and looks at both sides of it.
func TestSignedCalls(t *testing.T) {
	ctx := context.Background()
	p, c := newTestPeer(t), newCaller(t, nil)
	p.knows(c.id)
	p.product = "koi-node/1.2"
	a, b := testBundle(t, "orn:a:1", `{"n":1}`), testBundle(t, "orn:b:9", `{"f":1e+17,"é":null}`)
	p.bundles["orn:a:1"], p.bundles["orn:b:9"] = a, b
	p.waiting = [][]byte{bundleEvent(t, "orn:a:1", `{"n":1}`), testEvent("orn:b:9")}
	target := p.target()

	rids, err := c.FetchRIDs(ctx, target, []rid.Type{"orn:a"})
	if err != nil || fmt.Sprint(rids) != "[orn:a:1]" {
		t.Errorf("rids: %v, %v", rids, err)
	}
	manifests, err := c.FetchManifests(ctx, target, nil, []rid.RID{"orn:a:1", "orn:a:2"})
	if err != nil || len(manifests.Manifests) != 1 || fmt.Sprint(manifests.NotFound) != "[orn:a:2]" {
		t.Errorf("manifests: %v, %v", manifests, err)
	}
	manifests, err = c.FetchManifests(ctx, target, []rid.Type{"orn:b"}, nil)
	if err != nil || len(manifests.Manifests) != 1 || manifests.Manifests[0] != b.Manifest {
		t.Errorf("manifests by type: %v, %v", manifests, err)
	}
	bundles, err := c.FetchBundles(ctx, target, []rid.RID{"orn:b:9", "orn:a:2"})
	if err != nil || len(bundles.Bundles) != 1 || string(bundles.Bundles[0].Contents) != string(b.Contents) || fmt.Sprint(bundles.NotFound) != "[orn:a:2]" {
		t.Errorf("bundles: %v, %v", bundles, err)
	}
	got, err := c.Poll(ctx, target, 7)
	if err != nil || got.Source != p.id.RID || got.Replay == nil || len(got.Events) != 2 || got.Events[1].RID != "orn:b:9" {
		t.Errorf("poll: %+v, %v", got, err)
	}
	if err := c.Broadcast(ctx, target, [][]byte{testEvent("orn:t:1")}, nil); err != nil {
		t.Error(err)
	}
	expectTaken(t, p, []string{"NEW self", "FORGET orn:t:1"})
	expectCalls(t, p, "signed /rids/fetch: ok", "signed /manifests/fetch: ok", "signed /manifests/fetch: ok",
		"signed /bundles/fetch: ok", "signed /events/poll: ok", "signed /events/broadcast: ok")
	poll, err := protocol.DecodeEnvelope[protocol.PollRequest](p.sent()[4], protocol.Limits{})
	if err != nil || poll.Source != c.id.RID || poll.Target != p.id.RID || poll.Payload.Limit != 7 {
		t.Errorf("poll request: %+v, %v", poll, err)
	}
	if !c.traits.Kin(p.id.RID) {
		t.Error("the product in a verified answer's header taught nothing")
	}
	if told := c.told(); told != nil {
		t.Errorf("forgotten by %v", told)
	}
}

// TestSignedFetchKnowsCanonicalRIDs: signed peers name some RIDs otherwise than
// they were asked for.
func TestSignedFetchKnowsCanonicalRIDs(t *testing.T) {
	p, c := newTestPeer(t), newCaller(t, nil)
	p.knows(c.id)
	const asked, canonical rid.RID = "https://a.example/x?", "https://a.example/x"
	p.bundles[canonical] = testBundle(t, canonical, `{}`)
	answer, err := c.FetchBundles(context.Background(), p.target(), []rid.RID{asked})
	if err != nil || len(answer.Bundles) != 1 || answer.Bundles[0].Manifest.RID != canonical {
		t.Errorf("bundles: %v, %v", answer, err)
	}
}

// TestSignedParts: what does not fit one answer is asked for in parts.
func TestSignedParts(t *testing.T) {
	p, c := newTestPeer(t), newCaller(t, func(c *ClientConfig) { c.AnswerBytes = 3000 })
	p.knows(c.id)
	var rids []rid.RID
	for i := range 9 {
		r := rid.RID(fmt.Sprintf("orn:a:%d", i))
		rids = append(rids, r)
		p.bundles[r] = testBundle(t, r, `{"x":"`+strings.Repeat("x", 1000)+`"}`)
	}
	answer, err := c.FetchBundles(context.Background(), p.target(), rids)
	if err != nil || len(answer.Bundles) != 9 {
		t.Errorf("%d bundles: %v", len(answer.Bundles), err)
	}
}

// TestReplayedAnswer: an answer that comes once more has the same name, also where
// it is spelt otherwise; another answer with the same events has another.
func TestReplayedAnswer(t *testing.T) {
	ctx := context.Background()
	p, c := newTestPeer(t), newCaller(t, nil)
	p.knows(c.id)
	p.waiting = [][]byte{testEvent("orn:a:1")}
	poll := func() Received {
		t.Helper()
		got, err := c.Poll(ctx, p.target(), 0)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	first, second := poll(), poll()
	if *first.Replay == *second.Replay {
		t.Error("two answers have the same name")
	}
	old := p.answers[0]
	for _, replayed := range [][]byte{old, bytes.Replace(old, []byte(`"events":`), []byte(` "unknown": 1, "events" : `), 1)} {
		p.set(func() { p.forge = func(a *forgery) { a.body = replayed } })
		if again := poll(); *again.Replay != *first.Replay {
			t.Errorf("an old answer has another name than at first: %s", replayed)
		}
	}
}

// TestHostileSignedAnswers: nothing is taken from an answer that the node that was
// asked did not sign for us.
func TestHostileSignedAnswers(t *testing.T) {
	other := newIdentity(t, "other")
	var c *caller
	var p *testPeer
	for name, forge := range map[string]func(a *forgery){
		"from another node": func(a *forgery) { a.source, a.signer = other.RID, other },
		"in another's name": func(a *forgery) { a.source = other.RID },
		"for another node":  func(a *forgery) { a.target = other.RID },
		"by another key":    func(a *forgery) { a.signer = other },
		"changed": func(a *forgery) {
			text, _ := protocol.EncodeEnvelope(a.payload, a.source, a.target, 0, a.signer.Sign)
			a.body = bytes.Replace(text, []byte("orn:a:1"), []byte("orn:a:2"), 1)
		},
		"unsigned":       func(a *forgery) { a.body = []byte(`{"rids":["orn:a:1"],"events":[],"bundles":[]}`) },
		"another answer": func(a *forgery) { a.payload = protocol.ManifestsAnswer{} },
		"our own request": func(a *forgery) {
			bodies := p.bodies
			a.body = bodies[len(bodies)-1]
		},
		"an error inside": func(a *forgery) { a.payload = protocol.ErrorResponse{Code: protocol.InvalidTarget} },
		"no base64": func(a *forgery) {
			a.body, _ = protocol.EncodeEnvelope(a.payload, a.source, a.target, 0, func([]byte) (string, error) { return "!", nil })
		},
		"too short": func(a *forgery) {
			a.body, _ = protocol.EncodeEnvelope(a.payload, a.source, a.target, 0, func([]byte) (string, error) {
				return base64.StdEncoding.EncodeToString(make([]byte, 63)), nil
			})
		},
		"zeros": func(a *forgery) {
			a.body, _ = protocol.EncodeEnvelope(a.payload, a.source, a.target, 0, func([]byte) (string, error) {
				return base64.StdEncoding.EncodeToString(make([]byte, 64)), nil
			})
		},
		"empty": func(a *forgery) { a.body = []byte{} },
		"null":  func(a *forgery) { a.body = []byte("null") },
	} {
		t.Run(name, func(t *testing.T) {
			ctx := context.Background()
			p, c = newTestPeer(t), newCaller(t, nil)
			p.knows(c.id)
			p.product = "koi-node/1"
			p.bundles["orn:a:1"] = testBundle(t, "orn:a:1", `{}`)
			p.waiting = [][]byte{testEvent("orn:a:1")}
			p.forge = forge
			target := p.target()
			for call, do := range map[string]func() (any, error){
				"rids":    func() (any, error) { return c.FetchRIDs(ctx, target, nil) },
				"bundles": func() (any, error) { return c.FetchBundles(ctx, target, []rid.RID{"orn:a:1"}) },
				"poll":    func() (any, error) { return c.Poll(ctx, target, 0) },
			} {
				got, err := do()
				if !errors.Is(err, ErrBadAnswer) {
					t.Errorf("%s: %v", call, err)
				}
				if !reflect.ValueOf(got).IsZero() {
					t.Errorf("%s: got %+v", call, got)
				}
			}
			if c.traits.Kin(p.id.RID) {
				t.Error("a header of an answer that was not verified was believed")
			}
		})
	}
}

// TestForeignKey: a key that the RID was not made from verifies nothing.
func TestForeignKey(t *testing.T) {
	ctx := context.Background()
	p, c, other := newTestPeer(t), newCaller(t, nil), newIdentity(t, "other")
	p.knows(c.id)
	p.forge = func(a *forgery) { a.signer = other } // signed by the very key
	target := p.target()
	target.Key = other.PublicKeyText()
	if _, err := c.FetchRIDs(ctx, target, nil); !errors.Is(err, ErrBadAnswer) || !strings.Contains(err.Error(), string(p.id.RID)) {
		t.Errorf("fetch: %v", err)
	}
	if _, err := c.Poll(ctx, target, 0); !errors.Is(err, ErrBadAnswer) {
		t.Errorf("poll: %v", err)
	}
	target.Key = "no key"
	if _, err := c.FetchRIDs(ctx, target, nil); !errors.Is(err, ErrBadAnswer) {
		t.Errorf("no key: %v", err)
	}
	if n := len(p.called()); n != 0 {
		t.Errorf("%d requests were made whose answers could not be verified", n)
	}
	// A text that the RID was made from and that is no key.
	r, err := rid.NewNode("odd", rid.KeyID("no key"))
	if err != nil {
		t.Fatal(err)
	}
	p.set(func() { p.id.RID = r })
	if _, err := c.FetchRIDs(ctx, Target{RID: r, URL: target.URL, Key: "no key"}, nil); !errors.Is(err, ErrBadAnswer) {
		t.Errorf("a RID made from no key: %v", err)
	}
}

// TestUnknownServer: the first word of a server whose key we do not have is its
// own NEW, in the answer to a poll.
func TestUnknownServer(t *testing.T) {
	ctx := context.Background()
	p, c, other := newTestPeer(t), newCaller(t, nil), newIdentity(t, "other")
	p.knows(c.id)
	target := p.unknown()
	for call, do := range map[string]func() (any, error){
		"rids":      func() (any, error) { return c.FetchRIDs(ctx, target, nil) },
		"manifests": func() (any, error) { return c.FetchManifests(ctx, target, nil, nil) },
		"bundles":   func() (any, error) { return c.FetchBundles(ctx, target, []rid.RID{p.id.RID}) },
	} {
		if _, err := do(); !errors.Is(err, ErrUnknownServer) {
			t.Errorf("%s: %v", call, err)
		}
	}
	if n := len(p.called()); n != 0 {
		t.Errorf("%d requests were made whose answers could not be verified", n)
	}

	forget := protocol.AppendEvent(nil, protocol.Event{RID: p.id.RID, EventType: protocol.Forget})
	update := bytes.Replace(profileEvent(t, p.id), []byte("NEW"), []byte("UPDATE"), 1)
	bare := protocol.AppendEvent(nil, protocol.Event{RID: p.id.RID, EventType: protocol.New})
	for name, poll := range map[string]struct {
		waiting [][]byte
		want    error
	}{
		"nothing":              {nil, ErrUnknownServer},
		"others' events":       {[][]byte{testEvent("orn:a:1"), profileEvent(t, other)}, ErrUnknownServer},
		"its NEW without more": {[][]byte{bare}, ErrUnknownServer},
		"other words of it":    {[][]byte{forget, update}, ErrUnknownServer},
		"no profile":           {[][]byte{bundleEvent(t, p.id.RID, `{"public_key":1}`)}, ErrUnknownServer},
		"no key":               {[][]byte{profileEventWith(t, p.id.RID, "")}, ErrUnknownServer},
		"another's key":        {[][]byte{profileEventWith(t, p.id.RID, other.PublicKeyText())}, ErrBadAnswer},
	} {
		p.set(func() { p.waiting = poll.waiting })
		if got, err := c.Poll(ctx, target, 0); !errors.Is(err, poll.want) || got.Events != nil {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}

	p.set(func() {
		p.waiting = [][]byte{testEvent("orn:a:1"), profileEventWith(t, p.id.RID, other.PublicKeyText()), profileEvent(t, p.id)}
		p.forge = func(a *forgery) { a.signer = other }
	})
	if _, err := c.Poll(ctx, target, 0); !errors.Is(err, ErrBadAnswer) {
		t.Errorf("its key in an answer that another signed: %v", err)
	}
	if _, err := c.FetchRIDs(ctx, target, nil); !errors.Is(err, ErrUnknownServer) {
		t.Errorf("the key of an answer that did not verify is believed: %v", err)
	}
	p.set(func() { p.forge = nil })
	if got, err := c.Poll(ctx, target, 0); err != nil || len(got.Events) != 3 || got.Source != p.id.RID {
		t.Errorf("its NEW in its answer: %v, %v", got, err)
	}

	// From here on its key is known, also to callers that do not have it.
	p.set(func() { p.waiting = [][]byte{testEvent("orn:a:2")} })
	if got, err := c.Poll(ctx, target, 0); err != nil || len(got.Events) != 1 {
		t.Errorf("the poll after: %v, %v", got, err)
	}
	if _, err := c.FetchRIDs(ctx, target, nil); err != nil {
		t.Errorf("a fetch after: %v", err)
	}
}

// TestCallsWithoutARID: an envelope names whom it is for.
func TestCallsWithoutARID(t *testing.T) {
	p, c := newTestPeer(t), newCaller(t, nil)
	target := p.target()
	target.RID = ""
	if _, err := c.FetchRIDs(context.Background(), target, nil); !errors.Is(err, ErrUnknownServer) {
		t.Errorf("fetch: %v", err)
	}
	if err := c.Broadcast(context.Background(), target, [][]byte{testEvent("orn:a:1")}, nil); !errors.Is(err, ErrUnknownServer) {
		t.Errorf("broadcast: %v", err)
	}
	if calls := p.called(); calls != nil {
		t.Errorf("a node with a key was called: %v", calls)
	}
}

// TestErrorResponses: the refusal of an envelope is told by its code and by its
// status, and only unknown_node has the call repeated.
func TestErrorResponses(t *testing.T) {
	for _, code := range []protocol.ErrorCode{protocol.InvalidKey, protocol.InvalidSignature, protocol.InvalidTarget} {
		p, c := newTestPeer(t), newCaller(t, nil)
		p.before = func(w http.ResponseWriter, _ *http.Request, _ []byte) bool {
			w.WriteHeader(400)
			w.Write(protocol.EncodeErrorResponse(protocol.ErrorResponse{Code: code}))
			return true
		}
		_, fetch := c.FetchRIDs(context.Background(), p.target(), nil)
		broadcast := c.Broadcast(context.Background(), p.target(), [][]byte{testEvent("orn:a:1")}, nil)
		for call, err := range map[string]error{"fetch": fetch, "broadcast": broadcast} {
			var refusal protocol.ErrorResponse
			var status *StatusError
			if !errors.As(err, &refusal) || refusal.Code != code || !errors.As(err, &status) || status.Code != 400 || outcome(err) != string(code) {
				t.Errorf("%s: %v", call, err)
			}
			if judge(err) != retry {
				t.Errorf("%s: %v counts as the refusal of the events", call, err)
			}
		}
		if n := len(p.called()); n != 2 {
			t.Errorf("%s: %d requests", code, n)
		}
		if c.told() != nil {
			t.Errorf("%s: taken for being forgotten", code)
		}
	}
}

func TestDenyUnsigned(t *testing.T) {
	ctx := context.Background()
	p, c := newTestPeer(t), newCaller(t, func(c *ClientConfig) { c.DenyUnsigned = true })
	p.knows(c.id)
	for name, target := range map[string]Target{
		"a node without a key": {RID: peerA, URL: p.URL + "/koi-net"},
		"a URL alone":          {URL: p.URL + "/koi-net"},
	} {
		for call, do := range map[string]func() error{
			"broadcast": func() error { return c.Broadcast(ctx, target, nil, nil) },
			"poll":      func() error { _, err := c.Poll(ctx, target, 0); return err },
			"rids":      func() error { _, err := c.FetchRIDs(ctx, target, nil); return err },
			"manifests": func() error { _, err := c.FetchManifests(ctx, target, nil, nil); return err },
			"bundles":   func() error { _, err := c.FetchBundles(ctx, target, nil); return err },
		} {
			if err := do(); !errors.Is(err, ErrUnsignedPeer) || outcome(err) != "denied" || judge(err) != retry {
				t.Errorf("%s, %s: %v", name, call, err)
			}
		}
	}
	if calls := p.called(); calls != nil {
		t.Errorf("calls were made: %v", calls)
	}
	if _, err := c.FetchRIDs(ctx, p.target(), nil); err != nil {
		t.Errorf("a signed peer: %v", err)
	}
	var status *StatusError
	if _, err := c.Self(ctx, p.URL+"/koi-net/nothing"); !errors.As(err, &status) {
		t.Errorf("self: %v", err)
	}
	plain := newCaller(t, func(c *ClientConfig) { c.DenyUnsigned, c.Identity = true, identity.Identity{RID: peerA} })
	if err := plain.Broadcast(ctx, p.target(), nil, nil); !errors.Is(err, ErrUnsignedPeer) {
		t.Errorf("a node without a key of its own: %v", err)
	}
}

// TestIntroductions: the first events to a signed peer bring it our NEW.
func TestIntroductions(t *testing.T) {
	ctx := context.Background()
	event := testEvent("orn:t:1")
	send := func(t *testing.T, c *caller, p *testPeer, events ...[]byte) {
		t.Helper()
		if err := c.Broadcast(ctx, p.target(), events, nil); err != nil {
			t.Fatal(err)
		}
	}
	forget := func(c *caller) []byte {
		return protocol.AppendEvent(nil, protocol.Event{RID: c.id.RID, EventType: protocol.Forget})
	}

	t.Run("once", func(t *testing.T) {
		p, c := newTestPeer(t), newCaller(t, nil)
		send(t, c, p, event)
		send(t, c, p, event)
		c.traits.Reintroduce()
		send(t, c, p, event)
		expectTaken(t, p, []string{"NEW self", "FORGET orn:t:1"}, []string{"FORGET orn:t:1"}, []string{"NEW self", "FORGET orn:t:1"})
	})
	t.Run("not twice in one", func(t *testing.T) {
		p, c := newTestPeer(t), newCaller(t, nil)
		send(t, c, p, forget(c), c.own)
		send(t, c, p, event)
		expectTaken(t, p, []string{"FORGET self", "NEW self"}, []string{"FORGET orn:t:1"})
	})
	t.Run("an older profile does not count", func(t *testing.T) {
		p, c := newTestPeer(t), newCaller(t, nil)
		old := c.own
		c.become(bytes.Replace(c.own, []byte("PARTIAL"), []byte("FULL"), 1))
		send(t, c, p, event, old)
		send(t, c, p, event)
		expectTaken(t, p, []string{"FORGET orn:t:1", "NEW self"}, []string{"NEW self", "FORGET orn:t:1"})
	})
	t.Run("a NEW without a bundle does not count", func(t *testing.T) {
		p, c := newTestPeer(t), newCaller(t, nil)
		b := testBundle(t, c.id.RID, `{}`)
		send(t, c, p, protocol.AppendEvent(nil, protocol.Event{RID: c.id.RID, EventType: protocol.New}),
			protocol.AppendEvent(nil, protocol.Event{RID: c.id.RID, EventType: protocol.New, Manifest: &b.Manifest}),
			protocol.AppendEvent(nil, protocol.Event{RID: c.id.RID, EventType: protocol.New, Contents: b.Contents}))
		expectTaken(t, p, []string{"NEW self", "NEW self", "NEW self", "NEW self"})
	})
	t.Run("each peer", func(t *testing.T) {
		p, q, c := newTestPeer(t), newTestPeer(t), newCaller(t, nil)
		send(t, c, p, event)
		send(t, c, q, event)
		expectTaken(t, q, []string{"NEW self", "FORGET orn:t:1"})
	})
	t.Run("not to unsigned peers", func(t *testing.T) {
		p, c := newTestPeer(t), newCaller(t, nil)
		if err := c.Broadcast(ctx, Target{RID: peerA, URL: p.URL + "/koi-net"}, [][]byte{event}, nil); err != nil {
			t.Fatal(err)
		}
		expectTaken(t, p, []string{"FORGET orn:t:1"})
	})
	t.Run("not before it is there", func(t *testing.T) {
		p, c := newTestPeer(t), newCaller(t, nil)
		own := c.own
		c.become(nil)
		if err := c.Broadcast(ctx, p.target(), [][]byte{event}, nil); !refusedAs(err, protocol.UnknownNode) {
			t.Error(err)
		}
		if _, err := c.FetchRIDs(ctx, p.target(), nil); !refusedAs(err, protocol.UnknownNode) {
			t.Error(err)
		}
		c.become(own)
		send(t, c, p, event)
		expectTaken(t, p, []string{"NEW self", "FORGET orn:t:1"})
		if told := c.told(); told != nil {
			t.Errorf("forgotten by %v, which never knew us", told)
		}
	})
	t.Run("not delivered does not count", func(t *testing.T) {
		p, c := newTestPeer(t), newCaller(t, nil)
		p.before = func(w http.ResponseWriter, _ *http.Request, _ []byte) bool { w.WriteHeader(500); return true }
		if err := c.Broadcast(ctx, p.target(), [][]byte{event}, nil); err == nil {
			t.Error("no error")
		}
		p.set(func() { p.before = nil })
		send(t, c, p, event)
		expectTaken(t, p, []string{"NEW self", "FORGET orn:t:1"})
	})
	t.Run("changed while it was under way", func(t *testing.T) {
		p, c := newTestPeer(t), newCaller(t, nil)
		p.before = func(http.ResponseWriter, *http.Request, []byte) bool { c.traits.Reintroduce(); return false }
		send(t, c, p, event)
		p.set(func() { p.before = nil })
		send(t, c, p, event)
		send(t, c, p, event)
		expectTaken(t, p, []string{"NEW self", "FORGET orn:t:1"}, []string{"NEW self", "FORGET orn:t:1"}, []string{"FORGET orn:t:1"})
	})
	t.Run("forgotten", func(t *testing.T) {
		p, c := newTestPeer(t), newCaller(t, nil)
		send(t, c, p, event)
		p.set(func() { clear(p.known) })
		send(t, c, p, event)
		send(t, c, p, event)
		expectCalls(t, p, "signed /events/broadcast: ok", "signed /events/broadcast: unknown_node",
			"signed /events/broadcast: ok", "signed /events/broadcast: ok")
		expectTaken(t, p, []string{"NEW self", "FORGET orn:t:1"}, []string{"NEW self", "FORGET orn:t:1"}, []string{"FORGET orn:t:1"})
		if told := c.told(); !slices.Equal(told, []rid.RID{p.id.RID}) {
			t.Errorf("forgotten by %v", told)
		}
	})
	t.Run("never learned", func(t *testing.T) {
		p, c := newTestPeer(t), newCaller(t, nil)
		c.traits.Learn(p.id.RID, protocol.FloatsOlder, "koi-node/1") // it called us
		p.before = func(w http.ResponseWriter, _ *http.Request, _ []byte) bool {
			w.WriteHeader(400)
			w.Write(protocol.EncodeErrorResponse(protocol.ErrorResponse{Code: protocol.UnknownNode}))
			return true
		}
		if err := c.Broadcast(ctx, p.target(), [][]byte{event}, nil); !refusedAs(err, protocol.UnknownNode) {
			t.Error(err)
		}
		if n := len(p.called()); n != 1 {
			t.Errorf("%d requests with our introduction", n)
		}
		if told := c.told(); told != nil {
			t.Errorf("forgotten by %v, which never knew us", told)
		}
	})
	t.Run("farewell", func(t *testing.T) {
		p, c := newTestPeer(t), newCaller(t, nil)
		send(t, c, p, forget(c)) // it does not know us: done
		expectCalls(t, p, "signed /events/broadcast: unknown_node")
		send(t, c, p, event)
		send(t, c, p, forget(c))
		send(t, c, p, event)
		expectTaken(t, p, []string{"NEW self", "FORGET orn:t:1"}, []string{"FORGET self"}, []string{"NEW self", "FORGET orn:t:1"})
		if told := c.told(); told != nil {
			t.Errorf("forgotten by %v, as it was told to", told)
		}
	})
}

// TestRefusedIntroduction: where a peer refuses a body with our introduction in
// front, the events are not blamed for what the introduction did.
func TestRefusedIntroduction(t *testing.T) {
	ctx := context.Background()
	long := bundleEvent(t, "orn:t:long", `{"x":"`+strings.Repeat("x", 2000)+`"}`)
	for name, c := range map[string]struct {
		limit int // of a body
		want  verdict
		taken [][]string
	}{
		"no room for both":     {2900, taken, [][]string{{"NEW self"}, {"NEW orn:t:long"}}},
		"no room for the long": {1500, refused, [][]string{{"NEW self"}}},
		"no room at all":       {500, retry, nil},
	} {
		t.Run(name, func(t *testing.T) {
			p, cl := newTestPeer(t), newCaller(t, nil)
			p.before = func(w http.ResponseWriter, _ *http.Request, body []byte) bool {
				if len(body) <= c.limit {
					return false
				}
				w.WriteHeader(413)
				return true
			}
			err := cl.Broadcast(ctx, p.target(), [][]byte{long}, nil)
			if judge(err) != c.want {
				t.Errorf("verdict %d: %v", judge(err), err)
			}
			expectTaken(t, p, c.taken...)
		})
	}
}

// TestUnknownNode: a peer that does not know us is introduced to us, and asked
// again until it has taken that in.
func TestUnknownNode(t *testing.T) {
	ctx := context.Background()
	intro := []string{"NEW self"}
	const ask, unknown, told = "signed /rids/fetch: ok", "signed /rids/fetch: unknown_node", "signed /events/broadcast: ok"
	fetch := func(c *caller, p *testPeer) error {
		_, err := c.FetchRIDs(ctx, p.target(), nil)
		return err
	}
	t.Run("at once", func(t *testing.T) {
		p, c := newTestPeer(t), newCaller(t, nil)
		if err := fetch(c, p); err != nil {
			t.Error(err)
		}
		expectCalls(t, p, unknown, told, ask)
		expectTaken(t, p, intro)
		if c.told() != nil {
			t.Errorf("forgotten by %v, which never knew us", c.told())
		}
	})
	t.Run("after a while", func(t *testing.T) {
		p, c := newTestPeer(t), newCaller(t, nil)
		p.slow = 2
		if err := fetch(c, p); err != nil {
			t.Error(err)
		}
		expectCalls(t, p, unknown, told, unknown, unknown, ask)
	})
	t.Run("never", func(t *testing.T) {
		p, c := newTestPeer(t), newCaller(t, nil)
		p.deaf = true
		if err := fetch(c, p); !refusedAs(err, protocol.UnknownNode) {
			t.Error(err)
		}
		expectCalls(t, p, unknown, told, unknown, unknown, unknown)
	})
	t.Run("polls", func(t *testing.T) {
		p, c := newTestPeer(t), newCaller(t, nil)
		p.waiting = [][]byte{profileEvent(t, p.id)}
		if got, err := c.Poll(ctx, p.unknown(), 0); err != nil || len(got.Events) != 1 {
			t.Errorf("%v, %v", got, err)
		}
		expectTaken(t, p, intro)
	})
	t.Run("forgotten since the introduction", func(t *testing.T) {
		p, c := newTestPeer(t), newCaller(t, nil)
		now := time.Now()
		c.traits.now = func() time.Time { return now }
		if err := c.Broadcast(ctx, p.target(), [][]byte{c.own}, nil); err != nil {
			t.Fatal(err)
		}
		p.set(func() { clear(p.known) })
		now = now.Add(freshIntroduction)
		if err := fetch(c, p); err != nil {
			t.Error(err)
		}
		expectCalls(t, p, told, unknown, told, ask)
		if !slices.Equal(c.told(), []rid.RID{p.id.RID}) {
			t.Errorf("forgotten by %v", c.told())
		}
	})
	t.Run("forgotten since an answer", func(t *testing.T) {
		p, c := newTestPeer(t), newCaller(t, nil)
		p.knows(c.id)
		if err := fetch(c, p); err != nil {
			t.Error(err)
		}
		p.set(func() { clear(p.known) })
		if err := fetch(c, p); err != nil {
			t.Error(err)
		}
		expectCalls(t, p, ask, unknown, told, ask)
		if !slices.Equal(c.told(), []rid.RID{p.id.RID}) {
			t.Errorf("forgotten by %v", c.told())
		}
	})
	t.Run("not processed yet", func(t *testing.T) {
		p, c := newTestPeer(t), newCaller(t, nil)
		now := time.Now()
		c.traits.now = func() time.Time { return now }
		p.slow = 1
		if err := c.Broadcast(ctx, p.target(), [][]byte{c.own}, nil); err != nil {
			t.Fatal(err)
		}
		if err := fetch(c, p); err != nil {
			t.Error(err)
		}
		expectCalls(t, p, told, unknown, ask)
		// Forgotten right after: told once more than that.
		p.set(func() { clear(p.known); p.slow = 0 })
		if err := fetch(c, p); err != nil {
			t.Error(err)
		}
		expectCalls(t, p, told, unknown, ask, unknown, unknown, told, ask)
		if !slices.Equal(c.told(), []rid.RID{p.id.RID}) {
			t.Errorf("forgotten by %v", c.told())
		}
	})
	t.Run("the context ends the wait", func(t *testing.T) {
		p, c := newTestPeer(t), newCaller(t, nil)
		c.pauses = []time.Duration{time.Hour}
		ctx, cancel := context.WithCancel(ctx)
		p.before = func(_ http.ResponseWriter, r *http.Request, _ []byte) bool {
			if strings.HasSuffix(r.URL.Path, pathBroadcast) {
				time.AfterFunc(10*time.Millisecond, cancel)
			}
			return false
		}
		_, err := c.FetchRIDs(ctx, p.target(), nil)
		if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	t.Run("our introduction is refused", func(t *testing.T) {
		p, c := newTestPeer(t), newCaller(t, nil)
		p.before = func(w http.ResponseWriter, r *http.Request, _ []byte) bool {
			if !strings.HasSuffix(r.URL.Path, pathBroadcast) {
				return false
			}
			w.WriteHeader(422)
			return true
		}
		if err := fetch(c, p); !refusedAs(err, protocol.UnknownNode) || !errors.Is(err, errIntroduction) {
			t.Error(err)
		}
	})
}

func style(s protocol.FloatStyle) *protocol.FloatStyle { return &s }

// TestFloatStyles: a peer that verifies one style of floats alone is signed for in
// that, and asked in the other one once.
func TestFloatStyles(t *testing.T) {
	ctx := context.Background()
	floats, plain := bundleEvent(t, "orn:t:float", `{"x":1e+17}`), bundleEvent(t, "orn:t:plain", `{"x":1.5,"s":"1e+17"}`)
	const ok, invalid = "signed /events/broadcast: ok", "signed /events/broadcast: invalid_signature"
	send := func(t *testing.T, c *caller, p *testPeer, event []byte) {
		t.Helper()
		if err := c.Broadcast(ctx, p.target(), [][]byte{event}, nil); err != nil {
			t.Error(err)
		}
	}
	t.Run("older", func(t *testing.T) {
		p, c := newTestPeer(t), newCaller(t, nil)
		p.verifies = style(protocol.FloatsOlder)
		send(t, c, p, plain)
		send(t, c, p, floats)
		if c.traits.FloatStyle(p.id.RID) != protocol.FloatsOlder {
			t.Error("the style is not remembered")
		}
		send(t, c, p, floats)
		send(t, c, p, plain)
		expectCalls(t, p, ok, invalid, ok, ok, ok)
		// It is upgraded.
		p.set(func() { p.verifies = style(protocol.FloatsCurrent) })
		send(t, c, p, floats)
		send(t, c, p, floats)
		expectCalls(t, p, ok, invalid, ok, ok, ok, invalid, ok, ok)
	})
	t.Run("current", func(t *testing.T) {
		p, c := newTestPeer(t), newCaller(t, nil)
		p.verifies = style(protocol.FloatsCurrent)
		send(t, c, p, floats)
		expectCalls(t, p, ok)
	})
	t.Run("neither", func(t *testing.T) {
		p, c := newTestPeer(t), newCaller(t, nil)
		p.known[c.id.RID] = newIdentity(t, "x").PublicKeyText()
		p.before = func(w http.ResponseWriter, _ *http.Request, _ []byte) bool {
			w.WriteHeader(400)
			w.Write(protocol.EncodeErrorResponse(protocol.ErrorResponse{Code: protocol.InvalidSignature}))
			return true
		}
		for event, requests := range map[*[]byte]int{&plain: 1, &floats: 2} {
			before := len(p.called())
			if err := c.Broadcast(ctx, p.target(), [][]byte{*event}, nil); !refusedAs(err, protocol.InvalidSignature) {
				t.Error(err)
			}
			if n := len(p.called()) - before; n != requests {
				t.Errorf("%d requests for %s", n, *event)
			}
		}
		if c.traits.FloatStyle(p.id.RID) != protocol.FloatsCurrent {
			t.Error("a style that does not help is remembered")
		}
	})
	t.Run("answers teach", func(t *testing.T) {
		p, c := newTestPeer(t), newCaller(t, nil)
		p.knows(c.id)
		p.verifies, p.signs = style(protocol.FloatsOlder), protocol.FloatsOlder
		p.bundles["orn:t:float"] = testBundle(t, "orn:t:float", `{"x":1e+17}`)
		p.bundles["orn:t:plain"] = testBundle(t, "orn:t:plain", `{"x":1}`)
		fetch := func(r rid.RID) {
			t.Helper()
			answer, err := c.FetchBundles(ctx, p.target(), []rid.RID{r})
			if err != nil || len(answer.Bundles) != 1 || bytes.Contains(answer.Bundles[0].Contents, []byte("1e17")) {
				t.Errorf("%v, %v", answer, err)
			}
		}
		fetch("orn:t:float")
		send(t, c, p, floats)
		p.set(func() { p.verifies, p.signs = style(protocol.FloatsCurrent), protocol.FloatsCurrent })
		fetch("orn:t:plain") // shows nothing
		if c.traits.FloatStyle(p.id.RID) != protocol.FloatsOlder {
			t.Error("an answer without floats taught something")
		}
		fetch("orn:t:float")
		send(t, c, p, floats)
		expectCalls(t, p, "signed /bundles/fetch: ok", ok, "signed /bundles/fetch: ok", "signed /bundles/fetch: ok", ok)
	})
}

// TestOnce: repeated broadcasts of one batch are the same, byte for byte; others
// are not, even of the same events.
func TestOnce(t *testing.T) {
	ctx := context.Background()
	p, c := newTestPeer(t), newCaller(t, nil)
	fail := true
	p.before = func(w http.ResponseWriter, _ *http.Request, _ []byte) bool {
		if fail {
			w.WriteHeader(500)
		}
		return fail
	}
	batch := [][]byte{bundleEvent(t, "orn:t:1", `{"x":1e+17}`)}
	once := new(Once)
	c.Broadcast(ctx, p.target(), batch, once)
	c.Broadcast(ctx, p.target(), batch, once)
	// Somebody else introduces us meanwhile, and the batch stays as it was.
	p.set(func() { fail = false })
	if err := c.Broadcast(ctx, p.target(), [][]byte{c.own}, nil); err != nil {
		t.Error(err)
	}
	if err := c.Broadcast(ctx, p.target(), batch, once); err != nil {
		t.Error(err)
	}
	sent := p.sent()
	if !same(sent[0], sent[1], sent[3]) {
		t.Errorf("retries differ:\n%s\n%s\n%s", sent[0], sent[1], sent[3])
	}
	expectTaken(t, p, []string{"NEW self"}, []string{"NEW self", "NEW orn:t:1"})

	for range 2 {
		if err := c.Broadcast(ctx, p.target(), batch, nil); err != nil {
			t.Error(err)
		}
		if err := c.Broadcast(ctx, p.target(), batch, new(Once)); err != nil {
			t.Error(err)
		}
	}
	sent = p.sent()[4:]
	for i, a := range sent {
		for _, b := range sent[:i] {
			if bytes.Equal(a, b) {
				t.Error("two new broadcasts are the same")
			}
		}
	}
}

// TestOnceKeepsAllFormsOfABatch: in whichever form a batch was taken in, sending
// that form again is a replay.
func TestOnceKeepsAllFormsOfABatch(t *testing.T) {
	ctx := context.Background()
	p, c := newTestPeer(t), newCaller(t, nil)
	p.verifies = style(protocol.FloatsOlder)
	batch := [][]byte{bundleEvent(t, "orn:t:1", `{"x":1e+17}`)}
	// The peer takes in what it verifies, but its answer is lost.
	lose := true
	p.before = func(w http.ResponseWriter, r *http.Request, body []byte) bool {
		if !lose || bytes.Contains(body, []byte("1e+17")) {
			return false
		}
		w.WriteHeader(502)
		return true
	}
	once := new(Once)
	for range 3 {
		if err := c.Broadcast(ctx, p.target(), batch, once); err == nil {
			t.Error("no error")
		}
	}
	sent := p.sent()
	if len(sent) != 6 || !same(sent[0], sent[2], sent[4]) || !same(sent[1], sent[3], sent[5]) {
		t.Errorf("%d requests, not the same two each time", len(sent))
	}
	for i := range 2 * onceTexts {
		if err := c.Broadcast(ctx, p.target(), [][]byte{testEvent(rid.RID(fmt.Sprintf("orn:t:%d", i)))}, once); err == nil {
			t.Error("no error")
		}
	}
	if len(once.signed) != onceTexts {
		t.Errorf("%d signatures are kept", len(once.signed))
	}
}

// TestBadEvent: a row that is no event is refused before it is sent.
func TestBadEvent(t *testing.T) {
	p, c := newTestPeer(t), newCaller(t, nil)
	err := c.Broadcast(context.Background(), p.target(), [][]byte{[]byte("{}")}, nil)
	if judge(err) != refused || outcome(err) != "bad_event" {
		t.Errorf("verdict %d, outcome %s: %v", judge(err), outcome(err), err)
	}
}

// TestConcurrentCalls makes all kinds of calls at once, while the peer forgets us
// and our profile changes.
func TestConcurrentCalls(t *testing.T) {
	ctx := context.Background()
	p, c := newTestPeer(t), newCaller(t, nil)
	p.waiting = [][]byte{testEvent("orn:t:1")}
	done := make(chan error)
	const workers = 8
	for i := range workers {
		go func() {
			var errs []error
			for n := range 20 {
				switch (i + n) % 4 {
				case 0:
					errs = append(errs, c.Broadcast(ctx, p.target(), [][]byte{testEvent("orn:t:1")}, new(Once)))
				case 1:
					_, err := c.Poll(ctx, p.target(), 0)
					errs = append(errs, err)
				case 2:
					_, err := c.FetchRIDs(ctx, p.target(), nil)
					errs = append(errs, err)
				case 3:
					p.set(func() { clear(p.known) })
					c.traits.Reintroduce()
					c.traits.Snapshot()
				}
			}
			done <- errors.Join(errs...)
		}()
	}
	for range workers {
		if err := <-done; err != nil && !refusedAs(err, protocol.UnknownNode) {
			t.Error(err)
		}
	}
	if err := c.Broadcast(ctx, p.target(), nil, nil); err != nil {
		t.Error(err)
	}
}

func TestVerdicts(t *testing.T) {
	answer := func(code int, body string) error {
		return fmt.Errorf("http://a: %w", &StatusError{Code: code, Body: []byte(body)})
	}
	for _, c := range []struct {
		err  error
		want verdict
	}{
		{nil, taken},
		{context.Canceled, retry},
		{answer(413, ""), refused},
		{answer(500, ""), retry},
		{answer(400, `{"type":"error_response","error":"something new"}`), retry},
		{answer(400, `{"detail":"broken"}`), refused},
		{answer(422, `{"detail":[{"type":"enum","loc":["body","events",0,"event_type"]}]}`), refused},
		{answer(422, `{"detail":[{"type":"missing","loc":["body","events",3,"rid"]}]}`), refused},
		{answer(422, `{"detail":[{"type":"enum","loc":["body","payload","events",0,"event_type"]}]}`), refused},
		{answer(422, `{"detail":[{"type":"too_long","loc":["body","payload","events"]}]}`), refused},
		{answer(422, `{"detail":[{"type":"missing","loc":["body","payload"]},{"type":"missing","loc":["body","signature"]}]}`), retry},
		{answer(422, `{"detail":[{"type":"missing","loc":["body","events"]}]}`), retry},
		{answer(422, `{"detail":[{"type":"literal_error","loc":["body","payload","type"]}]}`), retry},
		{answer(422, `{"detail":[{"type":"json_invalid","loc":["body",12]}]}`), refused},
		{fmt.Errorf("%w: %w", errIntroduction, answer(413, "")), retry},
		{fmt.Errorf("event 3: %w", errBadEvent), refused},
	} {
		if got := judge(c.err); got != c.want {
			t.Errorf("%v: verdict %d, want %d", c.err, got, c.want)
		}
	}
}
