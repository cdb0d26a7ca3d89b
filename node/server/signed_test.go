package server

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/koi-net/koi-operator/node/identity"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// signedFixture is a server with a key, and a peer that it knows.
type signedFixture struct {
	*fixture
	t     testing.TB
	self  identity.Identity
	peer  identity.Identity
	known *acquaintances
}

func newIdentity(t testing.TB, name string) identity.Identity {
	t.Helper()
	id, err := identity.Generate(name, false)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func newSignedFixture(t *testing.T) *signedFixture {
	t.Helper()
	f := &signedFixture{fixture: newFixture(t), t: t, self: newIdentity(t, "self"), peer: newIdentity(t, "peer")}
	f.known = &acquaintances{keys: map[rid.RID]string{f.peer.RID: f.peer.PublicKeyText()}}
	f.Identity, f.Peers = f.self, f.known
	return f
}

// envelope signs a payload as who sends it, for the server unless to says so.
func (f *signedFixture) envelope(from identity.Identity, p protocol.Payload, to ...rid.RID) string {
	f.t.Helper()
	target := append(to, f.self.RID)[0]
	body, err := protocol.EncodeEnvelope(p, from.RID, target, protocol.FloatsCurrent, from.Sign)
	if err != nil {
		f.t.Fatal(err)
	}
	return string(body)
}

// open verifies an answer and returns its payload.
func open[P protocol.Payload](f *signedFixture, w *httptest.ResponseRecorder) P {
	f.t.Helper()
	if w.Code != 200 {
		f.t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	e, err := protocol.DecodeEnvelope[P](w.Body.Bytes(), protocol.DefaultLimits())
	if err != nil {
		f.t.Fatalf("answer %s: %v", w.Body, err)
	}
	key, err := identity.ParsePublicKey(f.self.PublicKeyText())
	if err != nil {
		f.t.Fatal(err)
	}
	if _, err := e.Verify(key.Verify); err != nil || e.Source != f.self.RID || e.Target != f.peer.RID {
		f.t.Fatalf("answer from %s to %s: %v", e.Source, e.Target, err)
	}
	return e.Payload
}

func profileOf(id identity.Identity) string {
	return string(protocol.NodeProfile{NodeType: protocol.Partial, PublicKey: id.PublicKeyText()}.Contents())
}

func newEvent(t testing.TB, r rid.RID, contents string) protocol.Event {
	b := bundle(t, r, contents)
	return protocol.Event{RID: r, EventType: protocol.New, Manifest: &b.Manifest, Contents: b.Contents}
}

// The streamed envelope is, byte for byte, the one that is made at once.
func TestSignedAnswers(t *testing.T) {
	contents := []string{`{"z":null,"a":[1.0,1e-7,123456789012345678901234567890],"s":"<é\u2028>\n"}`, `{"f":1e16,"g":-2.5e20,"h":"1e+16"}`}
	rids := []rid.RID{"HTTPS://Example.com", "orn:test.note:1"}
	for _, style := range []protocol.FloatStyle{protocol.FloatsCurrent, protocol.FloatsOlder} {
		for _, many := range []int{0, 4000} {
			t.Run(fmt.Sprintf("style %d, %d more", style, many), func(t *testing.T) {
				f := newSignedFixture(t)
				f.known.style = style
				bundles := []protocol.Bundle{bundle(t, rids[0], contents[0]), bundle(t, rids[1], contents[1])}
				for i := range many {
					bundles = append(bundles, bundle(t, rid.RID(fmt.Sprintf("orn:test.note:2%06d", i)), `{"pad":"`+strings.Repeat("x", 200)+`"}`))
				}
				f.put(t, bundles...)
				h := f.handler(t)
				var (
					all       []rid.RID
					manifests []protocol.Manifest
					listed    []protocol.Bundle
				)
				byType := append(bundles[1:len(bundles):len(bundles)], bundles[0]) // types come in the order of their bytes
				if "HTTPS" < "orn" {
					byType = bundles
				}
				for _, b := range byType {
					all = append(all, b.Manifest.RID)
					manifests = append(manifests, b.Manifest)
					listed = append(listed, b)
				}
				missing := []rid.RID{"orn:test.note:0"}
				for _, c := range []struct {
					path string
					call protocol.Payload
					want protocol.Payload
				}{
					{"/rids/fetch", protocol.FetchRIDs{}, protocol.RIDsPayload(all)},
					{"/manifests/fetch", protocol.FetchManifests{}, protocol.ManifestsAnswer{Manifests: manifests}},
					{"/manifests/fetch", protocol.FetchManifests{RIDs: missing}, protocol.ManifestsAnswer{NotFound: missing}},
					{"/bundles/fetch", protocol.FetchBundles{RIDs: append(all, missing...)}, protocol.BundlesAnswer{Bundles: listed, NotFound: missing}},
				} {
					w := do(h, "POST", "/koi-net"+c.path, f.envelope(f.peer, c.call))
					want := protocol.SignedText(c.want, f.self.RID, f.peer.RID, style)
					got, signature, ok := bytes.Cut(w.Body.Bytes(), []byte(`,"signature":"`))
					if !ok || !bytes.Equal(append(bytes.Clone(got), '}'), want) {
						t.Errorf("%s: answer\n%.300s\nwant the text\n%.300s", c.path, w.Body, want)
						continue
					}
					text, _, _ := strings.Cut(string(signature), `"`)
					if err := identity.Verify(f.self.PublicKeyText(), want, text); err != nil {
						t.Errorf("%s: %v", c.path, err)
					}
				}
			})
		}
	}
}

func TestSignedPoll(t *testing.T) {
	f := newSignedFixture(t)
	e := newEvent(t, "orn:test.note:1", `{"n":1e16}`)
	f.polls.events = [][]byte{protocol.AppendEvent(nil, e), protocol.AppendEvent(nil, protocol.Event{RID: "orn:test.note:2", EventType: protocol.Forget})}
	h := f.handler(t)
	body := f.envelope(f.peer, protocol.PollRequest{Limit: 7})
	got := open[protocol.EventsPayload](f, do(h, "POST", "/koi-net/events/poll", body))
	if len(got) != 2 || got[0].RID != e.RID || string(got[0].Contents) != `{"n":1e+16}` || got[1].Manifest != nil {
		t.Errorf("events %+v", got)
	}
	if f.polls.peer != f.peer.RID || f.polls.limit != 7 || f.polls.written != 1 || f.polls.released != 1 {
		t.Errorf("leased %d for %s, written %d, released %d", f.polls.limit, f.polls.peer, f.polls.written, f.polls.released)
	}
	// Somebody sends the same poll again.
	if got := open[protocol.EventsPayload](f, do(h, "POST", "/koi-net/events/poll", body)); len(got) != 0 || f.polls.released != 1 {
		t.Errorf("the repeated poll is answered %+v, %d leases", got, f.polls.released)
	}
	if got := open[protocol.EventsPayload](f, do(h, "POST", "/koi-net/events/poll", f.envelope(f.peer, protocol.PollRequest{Limit: 7}))); len(got) != 2 {
		t.Errorf("a new poll is answered %+v", got)
	}
}

func TestSignedBroadcast(t *testing.T) {
	f := newSignedFixture(t)
	h := f.handler(t)
	body := f.envelope(f.peer, protocol.EventsPayload{newEvent(t, "orn:test.note:1", `{}`)})
	for range 2 {
		w := do(h, "POST", "/koi-net/events/broadcast", body, "User-Agent", "koi-node/9")
		if w.Code != 200 || w.Body.String() != "null" {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
	}
	first := f.inbox.from
	if first.RID != f.peer.RID || first.Replay == nil || len(f.inbox.events) != 2 {
		t.Errorf("sender %+v, %d events", first, len(f.inbox.events))
	}
	if want := fmt.Sprint(f.peer.RID, protocol.FloatsCurrent, "koi-node/9"); f.known.learnt[0] != want {
		t.Errorf("learnt %q, want %q", f.known.learnt[0], want)
	}
	do(h, "POST", "/koi-net/events/broadcast", f.envelope(f.peer, protocol.EventsPayload{newEvent(t, "orn:test.note:1", `{}`)}))
	if *f.inbox.from.Replay == *first.Replay {
		t.Error("a body signed anew has the replay key of the one before")
	}
}

func TestWhoIsBelieved(t *testing.T) {
	f := newSignedFixture(t)
	f.put(t, bundle(t, "orn:test.note:1", `{}`))
	newcomer, thief := newIdentity(t, "newcomer"), newIdentity(t, "thief")
	keyless := identity.Identity{RID: "orn:koi-net.node:old+7f7e1c3e-5c1c-4c39-9b0e-3f0e3a7a7a3e", Key: thief.Key}
	f.known.keys[keyless.RID] = ""
	pretender := identity.Identity{RID: newcomer.RID, Key: thief.Key}
	own := protocol.EventsPayload{newEvent(t, newcomer.RID, profileOf(newcomer))}
	bare := protocol.EventsPayload{{RID: newcomer.RID, EventType: protocol.New}}
	updated := own[0]
	updated.EventType = protocol.Update
	impostor := identity.Identity{RID: f.peer.RID, Key: thief.Key}
	events, fetch := "/events/broadcast", "/rids/fetch"
	spoil := func(body, with string) string {
		i := strings.Index(body, `"signature":"`) + len(`"signature":"`)
		return body[:i] + with + body[strings.LastIndex(body, `"`):]
	}
	for name, c := range map[string]struct {
		path, body string
		want       protocol.ErrorCode // "" for 200
	}{
		"known":                                {fetch, f.envelope(f.peer, protocol.FetchRIDs{}), ""},
		"unknown":                              {fetch, f.envelope(newcomer, protocol.FetchRIDs{}), protocol.UnknownNode},
		"unknown, about something else":        {events, f.envelope(newcomer, protocol.EventsPayload{newEvent(t, "orn:test.note:1", `{}`)}), protocol.UnknownNode},
		"introduces itself":                    {events, f.envelope(newcomer, own), ""},
		"introduces itself without a bundle":   {events, f.envelope(newcomer, bare), protocol.UnknownNode},
		"unknown, with an UPDATE":              {events, f.envelope(newcomer, protocol.EventsPayload{updated}), protocol.UnknownNode},
		"introduces another":                   {events, f.envelope(thief, own), protocol.UnknownNode},
		"introduces itself with another's key": {events, f.envelope(newcomer, protocol.EventsPayload{newEvent(t, newcomer.RID, profileOf(thief))}), protocol.InvalidKey},
		"pretends to be the newcomer":          {events, f.envelope(pretender, own), protocol.InvalidSignature},
		"without a key in profile and RID":     {fetch, f.envelope(keyless, protocol.FetchRIDs{}), protocol.InvalidKey},
		"signed by another":                    {fetch, f.envelope(impostor, protocol.FetchRIDs{}), protocol.InvalidSignature},
		"signature of another text":            {fetch, strings.Replace(f.envelope(f.peer, protocol.FetchRIDs{}), `"rid_types":[]`, `"rid_types":["orn:test.note"]`, 1), protocol.InvalidSignature},
		"signature is empty":                   {fetch, spoil(f.envelope(f.peer, protocol.FetchRIDs{}), ""), protocol.InvalidSignature},
		"signature is no base64":               {fetch, spoil(f.envelope(f.peer, protocol.FetchRIDs{}), "%%%"), protocol.InvalidSignature},
		"signature is short":                   {fetch, spoil(f.envelope(f.peer, protocol.FetchRIDs{}), "AAAA"), protocol.InvalidSignature},
		"for another node":                     {fetch, f.envelope(f.peer, protocol.FetchRIDs{}, thief.RID), protocol.InvalidTarget},
		"claims to be us":                      {fetch, f.envelope(identity.Identity{RID: f.self.RID, Key: thief.Key}, protocol.FetchRIDs{}), protocol.UnknownNode},
	} {
		t.Run(name, func(t *testing.T) {
			before := f.inbox.calls
			w := do(f.handlerAgain(t), "POST", "/koi-net"+c.path, c.body)
			if c.want == "" {
				if w.Code != 200 {
					t.Errorf("%d %s", w.Code, w.Body)
				}
				return
			}
			if want := string(protocol.EncodeErrorResponse(protocol.ErrorResponse{Code: c.want})); w.Code != 400 || w.Body.String() != want {
				t.Errorf("%d %s, want 400 %s", w.Code, w.Body, want)
			}
			if f.inbox.calls != before {
				t.Error("it reached the inbox")
			}
		})
	}
}

// handlerAgain makes another handler of the same configuration.
func (f *signedFixture) handlerAgain(t *testing.T) http.Handler {
	t.Helper()
	f.Metrics = nil
	return f.handler(t)
}

func TestEnvelopeOfAnotherCall(t *testing.T) {
	f := newSignedFixture(t)
	w := do(f.handler(t), "POST", "/koi-net/rids/fetch", f.envelope(f.peer, protocol.FetchBundles{}))
	if w.Code != 422 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestUnsignedBodiesAtANodeWithAKey(t *testing.T) {
	f := newSignedFixture(t)
	f.polls.events = [][]byte{protocol.AppendEvent(nil, protocol.Event{RID: "orn:test.note:2", EventType: protocol.Forget})}
	h := f.handler(t)
	poll := func(r rid.RID) *httptest.ResponseRecorder {
		return do(h, "POST", "/koi-net/events/poll", string(protocol.EncodePoll(protocol.PollRequest{RID: r})))
	}
	if w := poll(f.peer.RID); w.Code != 400 || !strings.Contains(w.Body.String(), "unknown_node") || f.polls.released != 0 {
		t.Errorf("in the name of a node with a key: %d %s, %d leases", w.Code, w.Body, f.polls.released)
	}
	if w := poll("orn:koi-net.node:old+7f7e1c3e-5c1c-4c39-9b0e-3f0e3a7a7a3e"); w.Code != 200 || f.polls.released != 1 {
		t.Errorf("in the name of a node without: %d %s", w.Code, w.Body)
	}
	f.Metrics, f.DenyUnsigned, f.Product = nil, true, "koi-node/9"
	w := do(f.handler(t), "POST", "/koi-net/rids/fetch", `{}`)
	if w.Code != 403 || !strings.Contains(w.Body.String(), "signed envelopes only") || w.Header().Get("Server") != "koi-node/9" {
		t.Errorf("%d %s %v", w.Code, w.Body, w.Header())
	}
	if w := do(f.handlerAgain(t), "POST", "/koi-net/rids/fetch", f.envelope(f.peer, protocol.FetchRIDs{})); w.Code != 200 {
		t.Errorf("signed: %d %s", w.Code, w.Body)
	}
}

func TestEnvelopeAtANodeWithoutAKey(t *testing.T) {
	f := newSignedFixture(t)
	f.Identity = identity.Identity{RID: self}
	w := do(f.handler(t), "POST", "/koi-net/rids/fetch", f.envelope(f.peer, protocol.FetchRIDs{}))
	if w.Code != 400 || !strings.Contains(w.Body.String(), "invalid_target") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestWhatDoesNotSuitIsLeftOut(t *testing.T) {
	f := newSignedFixture(t)
	f.known.hidden = "orn:koi-net.node:hidden+1"
	const shown = rid.RID("orn:koi-net.node:shown+1")
	f.put(t, bundle(t, f.known.hidden, `{}`), bundle(t, shown, `{}`), bundle(t, "orn:test.note:1", `{}`))
	h := f.handler(t)
	rids := open[protocol.RIDsPayload](f, do(h, "POST", "/koi-net/rids/fetch", f.envelope(f.peer, protocol.FetchRIDs{})))
	all := open[protocol.ManifestsAnswer](f, do(h, "POST", "/koi-net/manifests/fetch", f.envelope(f.peer, protocol.FetchManifests{})))
	got := open[protocol.BundlesAnswer](f, do(h, "POST", "/koi-net/bundles/fetch", f.envelope(f.peer, protocol.FetchBundles{RIDs: []rid.RID{f.known.hidden, shown, "orn:test.note:1"}})))
	some := open[protocol.ManifestsAnswer](f, do(h, "POST", "/koi-net/manifests/fetch", f.envelope(f.peer, protocol.FetchManifests{RIDs: []rid.RID{f.known.hidden, shown}})))
	if !slices.Equal(rids, []rid.RID{shown, "orn:test.note:1"}) || len(all.Manifests) != 2 || len(got.Bundles) != 2 || len(some.Manifests) != 1 ||
		!slices.Equal(got.NotFound, []rid.RID{f.known.hidden}) || !slices.Equal(some.NotFound, got.NotFound) {
		t.Errorf("rids %v, manifests %v and %v, bundles %v, not found %v", rids, all.Manifests, some, got.Bundles, got.NotFound)
	}
	var unsigned struct{ RIDs []string }
	w := do(h, "POST", "/koi-net/rids/fetch", `{}`)
	if err := json.Unmarshal(w.Body.Bytes(), &unsigned); err != nil || len(unsigned.RIDs) != 3 {
		t.Errorf("unsigned: %s", w.Body)
	}
}

func TestRecentIsBounded(t *testing.T) {
	r := newRecent[int, int](8)
	for i := range 100 {
		if r.put(i, i) {
			t.Errorf("%d was seen before", i)
		}
		if !r.put(i, i) {
			t.Errorf("%d is forgotten at once", i)
		}
		if v, ok := r.get(0); !ok || v != 0 {
			t.Fatal("what is used is forgotten")
		}
		if len(r.now)+len(r.old) > 8 {
			t.Fatalf("%d kept", len(r.now)+len(r.old))
		}
	}
	if _, ok := r.get(50); ok {
		t.Error("what is old and unused is kept")
	}
}

// differsSigned lists where our answer to a captured envelope is not the
// reference's, and why.
var differsSigned = map[string]struct {
	status int
	why    string
}{
	"14_signature_not_base64": {400, "the reference fails with 500"},
	"15_signature_empty":      {400, "the reference fails with 500"},
	"22_bad_rid":              {422, "the reference fails with 500 on a RID without ':'"},
	"25_source_bad_rid":       {422, "the reference fails with 500 on a RID without ':'"},
	"21_unsigned_old_style":   {200, "the other generation, which is spoken too"},
	"26_no_content_type":      {200, "nodes of 1.1 and 1.2 send none"},
	"32_no_prefix":            {200, "nodes of 1.0 use both"},
	"34_openapi":              {200, "ours is another document"},
	"54_invalid_utf8":         {422, "one shape for all that is no JSON"},
}

// student lets a server's peers be learnt from what it accepts.
type student struct {
	*acceptor
	known *acquaintances
}

func (s student) Accept(ctx context.Context, from Sender, events []protocol.Event) error {
	for _, e := range events {
		switch {
		case e.RID == from.RID && e.EventType == protocol.Forget:
			delete(s.known.keys, e.RID)
		case e.RID.Type() == rid.NodeType && len(e.Contents) > 0:
			if p, err := protocol.ParseNodeProfile(e.Contents); err == nil {
				s.known.keys[e.RID] = p.PublicKey
			}
		}
	}
	return s.acceptor.Accept(ctx, from, events)
}

// What nodes of the reference said to each other, in their order, is understood
// as it was there: who is believed, which calls are answered, and how.
func TestCapturedSigned(t *testing.T) {
	for _, version := range []string{"v1.1.0", "v1.3.2", "v2", "v2-errors"} {
		t.Run(version, func(t *testing.T) {
			f := newFixture(t)
			servers := map[rid.RID]*acquaintances{}
			var asked rid.RID
			for _, e := range captures(t, version) {
				f.Identity = newIdentity(t, "self")
				var to struct {
					Target rid.RID `json:"target_node"`
				}
				if json.Unmarshal([]byte(e.Body), &to) == nil && to.Target != "" && !strings.Contains(e.Name, "_target") {
					asked = to.Target
				}
				if asked != "" {
					f.Identity.RID = asked // the key is ours: what was signed by the other is not needed
				}
				known := servers[asked]
				if known == nil {
					known = &acquaintances{keys: map[rid.RID]string{}}
					servers[asked] = known
				}
				f.Peers, f.Inbox = known, student{&acceptor{}, known}
				if e.Name == "54_invalid_utf8" {
					e.Body = strings.ReplaceAll(e.Body, "ÿ", "\xff") // JSON cannot hold what was sent
				}
				status, body := e.send(t, f)
				want := e.Status
				if d, ok := differsSigned[e.Name]; ok {
					want = d.status
				}
				switch {
				case status != want:
					t.Errorf("%s: status %d, want %d: %.300s", e.Name, status, want, body)
				case want != e.Status || !strings.HasPrefix(e.Path, "/koi-net") || e.Method != "POST":
				case status == 400 || e.Answer == "null":
					if string(body) != e.Answer {
						t.Errorf("%s: answer %s, the reference's %s", e.Name, body, e.Answer)
					}
				case status == 422:
					checkDetail(t, decodeJSON(t, body), decodeJSON(t, []byte(e.Answer)))
				case status == 200:
					sameEnvelope(t, e.Name, body, []byte(e.Answer))
				}
			}
		})
	}
}

// sameEnvelope compares who answers whom with what kind of payload.
func sameEnvelope(t *testing.T, name string, got, want []byte) {
	t.Helper()
	read := func(body []byte) (e struct {
		Payload map[string]json.RawMessage
		Source  string `json:"source_node"`
		Target  string `json:"target_node"`
	}) {
		if err := json.Unmarshal(body, &e); err != nil {
			t.Errorf("%s: %s: %v", name, body, err)
		}
		return e
	}
	g, w := read(got), read(want)
	if g.Source != w.Source || g.Target != w.Target || string(g.Payload["type"]) != string(w.Payload["type"]) || len(g.Payload) != len(w.Payload) {
		t.Errorf("%s: answer %.300s, the reference's %.300s", name, got, want)
	}
}

// discard knows keys and takes everything.
type discard map[rid.RID]string

func (d discard) PublicKey(r rid.RID) (string, bool)                   { return d[r], true }
func (discard) FloatStyle(rid.RID) protocol.FloatStyle                 { return protocol.FloatsCurrent }
func (discard) Learn(rid.RID, protocol.FloatStyle, string)             {}
func (discard) Suits(rid.RID, rid.RID) bool                            { return true }
func (discard) Accept(context.Context, Sender, []protocol.Event) error { return nil }

func BenchmarkBroadcast(b *testing.B) {
	id, peer := newIdentity(b, "self"), newIdentity(b, "peer")
	events := make(protocol.EventsPayload, 100)
	var rows [][]byte
	for i := range events {
		events[i] = newEvent(b, rid.RID(fmt.Sprintf("orn:test.note:%d", i)), `{"text":"`+strings.Repeat("x", 1000)+`"}`)
		rows = append(rows, protocol.AppendEvent(nil, events[i]))
	}
	signed, err := protocol.EncodeEnvelope(events, peer.RID, id.RID, protocol.FloatsCurrent, peer.Sign)
	if err != nil {
		b.Fatal(err)
	}
	h, err := New(Config{Store: emptyStore{}, Inbox: discard{}, Polls: &poller{}, Identity: id,
		Peers: discard{peer.RID: peer.PublicKeyText()}, Self: func() (protocol.Bundle, bool) { return protocol.Bundle{}, false }})
	if err != nil {
		b.Fatal(err)
	}
	for name, body := range map[string]string{"unsigned": string(protocol.EncodeBroadcast(rows)), "signed": string(signed)} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(body)))
			for b.Loop() {
				if w := do(h, "POST", "/events/broadcast", body); w.Code != 200 {
					b.Fatalf("%d %s", w.Code, w.Body)
				}
			}
		})
	}
}
