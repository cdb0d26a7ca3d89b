package server

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/koi-net/koi-operator/node/identity"
	"github.com/koi-net/koi-operator/node/nodetest/hostile"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// made returns an envelope that a test has changed.
func made(t testing.TB, body []byte, err error) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func refusal400(code protocol.ErrorCode) string {
	return string(protocol.EncodeErrorResponse(protocol.ErrorResponse{Code: code}))
}

// Our own key is known like that of any node, and a copy of this node has it: what
// it signs is refused all the same, or it would count as our own word.
func TestEnvelopeInOurName(t *testing.T) {
	f := newSignedFixture(t)
	f.known.keys[f.self.RID] = f.self.PublicKeyText()
	f.put(t, bundle(t, "orn:test.note:1", `{}`))
	f.polls.events = [][]byte{protocol.AppendEvent(nil, protocol.Event{RID: "orn:test.note:2", EventType: protocol.Forget})}
	h := f.handler(t)
	for path, call := range map[string]protocol.Payload{
		"/events/broadcast": protocol.EventsPayload{newEvent(t, f.self.RID, profileOf(f.self))},
		"/events/poll":      protocol.PollRequest{},
		"/rids/fetch":       protocol.FetchRIDs{},
		"/manifests/fetch":  protocol.FetchManifests{},
		"/bundles/fetch":    protocol.FetchBundles{RIDs: []rid.RID{"orn:test.note:1"}},
	} {
		w := do(h, "POST", "/koi-net"+path, f.envelope(f.self, call))
		if w.Code != 400 || w.Body.String() != refusal400(protocol.UnknownNode) {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	if _, released := f.polls.outcome(); f.inbox.calls != 0 || released != 0 || len(f.known.learnt) != 0 {
		t.Errorf("accepted %d times, leased %d times, learnt %v", f.inbox.calls, released, f.known.learnt)
	}
}

// A profile without a key is none that a node with one could have: it is as unknown
// as without, and may introduce itself.
func TestProfileWithoutTheKey(t *testing.T) {
	f := newSignedFixture(t)
	f.known.keys[f.peer.RID] = ""
	h := f.handler(t)
	w := do(h, "POST", "/koi-net/rids/fetch", f.envelope(f.peer, protocol.FetchRIDs{}))
	if w.Code != 400 || w.Body.String() != refusal400(protocol.UnknownNode) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	w = do(h, "POST", "/koi-net/events/broadcast", f.envelope(f.peer, protocol.EventsPayload{newEvent(t, f.peer.RID, profileOf(f.peer))}))
	if w.Code != 200 || f.inbox.from.RID != f.peer.RID {
		t.Errorf("introducing itself: %d %s", w.Code, w.Body)
	}
}

// TestHostileEnvelopes: what is wrong is told in the protocol's terms, by a body
// of JSON, and nothing reaches the inbox.
func TestHostileEnvelopes(t *testing.T) {
	f := newSignedFixture(t)
	f.Limits = protocol.Limits{Events: 3, RIDs: 3, Depth: 20, ContentsBytes: 500, BodyBytes: 4000}
	thief := newIdentity(t, "thief")
	good := f.envelope(f.peer, protocol.EventsPayload{newEvent(t, "orn:test.note:1", `{"a":1}`)})
	swap := func(old, with string) string {
		t.Helper()
		out := strings.Replace(good, old, with, 1)
		if out == good {
			t.Fatalf("%s is not in %s", old, good)
		}
		return out
	}
	resigned := func(signature string) string {
		t.Helper()
		body, err := hostile.Resign([]byte(good), signature)
		return made(t, body, err)
	}
	signature := good[strings.LastIndex(good, `"signature"`):]
	nested := func(depth int) string {
		return `{"a":` + strings.Repeat("[", depth-1) + strings.Repeat("]", depth-1) + `}`
	}
	many := make(protocol.EventsPayload, 4)
	for i := range many {
		many[i] = newEvent(t, "orn:test.note:1", `{}`)
	}
	padded := func(size int) string { return good[:len(good)-1] + strings.Repeat(" ", size-len(good)) + "}" }
	swapped, err := hostile.SwapKey(thief.RID, f.peer, protocol.NodeProfile{NodeType: protocol.Partial}, time.Now(), f.self.RID)
	stolen := made(t, swapped, err)
	moved, err := hostile.Readdress([]byte(good), thief.RID)
	readdressed := made(t, moved, err)
	h := f.handler(t)

	for _, c := range []struct {
		name, body string
		status     int
		code       protocol.ErrorCode
	}{
		{"honest", good, 200, ""},
		{"signature of one character too few", resigned("AAA"), 400, protocol.InvalidSignature},
		{"signature of as many as are read", resigned(strings.Repeat("A", 1024)), 400, protocol.InvalidSignature},
		{"signature too long to be read", resigned(strings.Repeat("A", 1025)), 422, ""},
		{"signature in the URL alphabet", resigned(strings.Repeat("-_", 43) + "=="), 400, protocol.InvalidSignature},
		{"signature of zeros", resigned(strings.Repeat("A", 86) + "=="), 400, protocol.InvalidSignature},
		{"signature is a number", swap(signature, `"signature":1}`), 422, ""},
		{"signature is null", swap(signature, `"signature":null}`), 422, ""},
		{"signature is missing", swap(","+signature, "}"), 422, ""},
		{"source is missing", swap(`"source_node":`, `"sauce_node":`), 422, ""},
		{"source is no node", swap(`"source_node":"orn:koi-net.node`, `"source_node":"orn:test.note`), 422, ""},
		{"source has no colon", swap(`"source_node":"`+string(f.peer.RID), `"source_node":"x`), 422, ""},
		{"source in capitals", swap(`"source_node":"`+string(f.peer.RID), `"source_node":"`+capitals(f.peer.RID)), 400, protocol.UnknownNode},
		{"payload is null", swap(good[strings.Index(good, `{"type"`):strings.Index(good, `,"source_node"`)], "null"), 422, ""},
		{"payload of another path", swap("events_payload", "poll_events"), 422, ""},
		{"payload is an answer of ours", swap("events_payload", "error_response"), 422, ""},
		{"addressed to another", readdressed, 400, protocol.InvalidSignature},
		{"key of another", stolen, 400, protocol.InvalidKey},
		{"one level too deep", swap(`{"a":1}`, nested(22)), 422, ""},
		{"much too deep, beside the fields", swap(`{"payload"`, `{"x":`+strings.Repeat("[", 1500)+strings.Repeat("]", 1500)+`,"payload"`), 422, ""},
		{"too many events", f.envelope(f.peer, many), 422, ""},
		{"contents too large", f.envelope(f.peer, protocol.EventsPayload{newEvent(t, "orn:test.note:1", `{"a":"`+strings.Repeat("x", 500)+`"}`)}), 422, ""},
		{"cut short", good[:len(good)-1], 422, ""},
		{"more behind it", good + "{}", 422, ""},
		{"not UTF-8", swap("orn:test.note:1", "orn:test.note:\xff"), 422, ""},
		{"as large as may be", padded(4000), 200, ""},
		{"a byte larger", padded(4001), 413, ""},
		{"compressed", good, 415, ""},
		{"called text", good, 422, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := f.inbox.calls
			var header []string
			switch c.status {
			case 415:
				header = []string{"Content-Encoding", "gzip"}
			case 422:
				if c.body == good {
					header = []string{"Content-Type", "text/plain"}
				}
			}
			w := do(h, "POST", "/koi-net/events/broadcast", c.body, header...)
			if w.Code != c.status {
				t.Errorf("status %d, want %d: %s", w.Code, c.status, w.Body)
			}
			if c.code != "" && w.Body.String() != refusal400(c.code) {
				t.Errorf("answer %s, want %s", w.Body, c.code)
			}
			if got := w.Header().Get("Content-Type"); got != "application/json" {
				t.Errorf("Content-Type %q", got)
			}
			decodeJSON(t, w.Body.Bytes())
			if accepted := f.inbox.calls != before; accepted != (c.status == 200) {
				t.Errorf("accepted: %t", accepted)
			}
		})
	}
	chunked := httptest.NewRequest("POST", "/koi-net/events/broadcast", io.MultiReader(strings.NewReader(padded(4001))))
	chunked.ContentLength = -1
	w := httptest.NewRecorder()
	if h.ServeHTTP(w, chunked); w.Code != 413 {
		t.Errorf("a byte larger, of unknown length: %d", w.Code)
	}
	rids := f.envelope(f.peer, protocol.FetchBundles{RIDs: []rid.RID{"orn:a:1", "orn:a:2", "orn:a:3", "orn:a:4"}})
	if w := do(h, "POST", "/koi-net/bundles/fetch", rids); w.Code != 422 {
		t.Errorf("too many RIDs: %d", w.Code)
	}
}

// capitals returns a node's RID with its hash in capitals: another RID, that of no
// key.
func capitals(r rid.RID) string {
	name, id, _ := strings.Cut(string(r), "+")
	return name + "+" + strings.ToUpper(id)
}

// TestReplaysAreKnown: a broadcast is named to the acceptor by what was signed, not
// by how it is spelt, and by the name that a client gives to what it polled.
func TestReplaysAreKnown(t *testing.T) {
	f := newSignedFixture(t)
	h := f.handler(t)
	event := newEvent(t, "orn:test.note:1", `{"big":1e16,"small":0.00001}`)
	for _, style := range []protocol.FloatStyle{protocol.FloatsCurrent, protocol.FloatsOlder} {
		body, err := protocol.EncodeEnvelope(protocol.EventsPayload{event}, f.peer.RID, f.self.RID, style, f.peer.Sign)
		if err != nil {
			t.Fatal(err)
		}
		e, err := protocol.DecodeEnvelope[protocol.EventsPayload](body, protocol.DefaultLimits())
		if err != nil {
			t.Fatal(err)
		}
		want, err := identity.ReplayKey(e.Signed, e.Signature)
		if err != nil {
			t.Fatal(err)
		}
		respelt, err := hostile.Respell(body)
		second, err2 := hostile.Malleate(body)
		for name, text := range map[string]string{
			"as sent":                  string(body),
			"respelt":                  made(t, respelt, err),
			"with the other signature": made(t, second, err2),
			"with floats respelt":      strings.NewReplacer("0.00001", "1e-05", "1e+16", "10E15", "1e16", "10E15").Replace(string(body)),
			"with a field of its own":  strings.Replace(string(body), `{"payload"`, `{"more":0,"payload"`, 1),
		} {
			if name != "as sent" && text == string(body) {
				t.Fatalf("%s: it is the same", name)
			}
			if w := do(h, "POST", "/koi-net/events/broadcast", text); w.Code != 200 {
				t.Fatalf("style %d, %s: %d %s", style, name, w.Code, w.Body)
			}
			if got := f.inbox.from; got.RID != f.peer.RID || got.Replay == nil || *got.Replay != want {
				t.Errorf("style %d, %s: %x, want %x", style, name, got.Replay, want)
			}
		}
	}
}

// TestPollSentTwiceAtOnce: of any number of copies of one poll one draws events.
func TestPollSentTwiceAtOnce(t *testing.T) {
	f := newSignedFixture(t)
	f.polls.events = [][]byte{protocol.AppendEvent(nil, protocol.Event{RID: "orn:test.note:2", EventType: protocol.Forget})}
	h := f.handler(t)
	body := f.envelope(f.peer, protocol.PollRequest{})
	second, err := hostile.Malleate([]byte(body))
	bodies := []string{body, made(t, second, err)}
	answers := make(chan *httptest.ResponseRecorder, 16)
	var wg sync.WaitGroup
	for i := range cap(answers) {
		wg.Go(func() { answers <- do(h, "POST", "/koi-net/events/poll", bodies[i%2]) })
	}
	wg.Wait()
	close(answers)
	drawn := 0
	for w := range answers {
		drawn += len(open[protocol.EventsPayload](f, w))
	}
	if written, released := f.polls.outcome(); drawn != 1 || written != 1 || released != 1 {
		t.Errorf("%d events drawn, %d leases written, %d released", drawn, written, released)
	}
	// To read the same twice takes nothing away.
	f.put(t, bundle(t, "orn:test.note:1", `{}`))
	fetch := f.envelope(f.peer, protocol.FetchRIDs{})
	for range 2 {
		if rids := open[protocol.RIDsPayload](f, do(h, "POST", "/koi-net/rids/fetch", fetch)); len(rids) != 1 {
			t.Errorf("RIDs %v", rids)
		}
	}
}

// TestSignedAnswersAreCut: without its end an answer has no signature, and the
// lease of a poll counts as unwritten.
func TestSignedAnswersAreCut(t *testing.T) {
	f := newSignedFixture(t)
	pad := strings.Repeat("x", 100<<10)
	for range 10 {
		f.polls.events = append(f.polls.events, protocol.AppendEvent(nil, newEvent(t, "orn:test.note:1", `{"pad":"`+pad+`"}`)))
	}
	h := f.handler(t)
	for _, left := range []int{0, 300 << 10, 1000 << 10} {
		r := httptest.NewRequest("POST", "/koi-net/events/poll", strings.NewReader(f.envelope(f.peer, protocol.PollRequest{})))
		w := &failing{httptest.NewRecorder(), left}
		func() {
			defer func() {
				if v := recover(); v != http.ErrAbortHandler {
					t.Errorf("after %d bytes the answer was not cut: %v", left, v)
				}
			}()
			h.ServeHTTP(w, r)
		}()
		if bytes.Contains(w.Body.Bytes(), []byte(`"signature"`)) {
			t.Errorf("after %d bytes it is signed", left)
		}
		if written, _ := f.polls.outcome(); written != 0 {
			t.Errorf("after %d bytes the lease is written", left)
		}
	}

	var rids []rid.RID
	for _, r := range []rid.RID{"orn:test.big:1", "orn:test.big:2", "orn:test.big:3", "orn:test.big:4"} {
		f.put(t, bundle(t, r, `{"x":"`+strings.Repeat("x", 300<<10)+`"}`))
		rids = append(rids, r)
	}
	f.Metrics, f.Store = nil, &broken{Store: f.store, left: 2}
	s := f.serve(t)
	ask := func() (*http.Response, []byte, error) {
		t.Helper()
		res, err := http.Post(s.URL+"/koi-net/bundles/fetch", "", strings.NewReader(f.envelope(f.peer, protocol.FetchBundles{RIDs: rids})))
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		return res, body, err
	}
	if _, body, err := ask(); err == nil || bytes.Contains(body, []byte(`"signature"`)) {
		t.Errorf("the answer ended as if it were whole: %d bytes", len(body))
	}
	// Before anything has gone out it is an ordinary error.
	if res, body, err := ask(); err != nil || res.StatusCode != 500 {
		t.Errorf("%d %.100s, %v", res.StatusCode, body, err)
	}
}

// TestEnvelopesAreWithinBounds: the room for bodies and the places are those of
// either generation.
func TestEnvelopesAreWithinBounds(t *testing.T) {
	f := newSignedFixture(t)
	f.Limits.BodyBytes, f.BodyBudget = 1<<20, 600<<10
	f.Concurrency, f.BacklogWait = 2, 20*time.Millisecond
	f.inbox.hold, f.inbox.inside = make(chan struct{}), make(chan struct{}, 8)
	f.Product = "koi-node/9"
	h := f.handler(t)
	events := func(pad int) string {
		return f.envelope(f.peer, protocol.EventsPayload{newEvent(t, "orn:test.note:1", `{"pad":"`+strings.Repeat("x", pad)+`"}`)})
	}
	large, small := events(500<<10), events(0)
	codes := make(chan int, 2)
	var wg sync.WaitGroup
	wg.Go(func() { codes <- do(h, "POST", "/koi-net/events/broadcast", large).Code })
	<-f.inbox.inside
	refused := func(what, body string) {
		t.Helper()
		w := do(h, "POST", "/koi-net/events/broadcast", body)
		if w.Code != 503 || w.Header().Get("Retry-After") == "" || w.Header().Get("Server") != "koi-node/9" || !strings.Contains(w.Body.String(), what) {
			t.Errorf("%s: %d %v %s", what, w.Code, w.Header(), w.Body)
		}
	}
	refused("too many large requests", large)
	wg.Go(func() { codes <- do(h, "POST", "/koi-net/events/broadcast", small).Code })
	<-f.inbox.inside
	refused("too many requests", small)
	close(f.inbox.hold)
	wg.Wait()
	close(codes)
	for code := range codes {
		if code != 200 {
			t.Errorf("within the bounds: %d", code)
		}
	}
	if w := do(h, "POST", "/koi-net/events/broadcast", large); w.Code != 200 {
		t.Errorf("afterwards: %d", w.Code)
	}
}

// TestUnsignedIsDenied: every call, and nothing is drawn or accepted; who this node
// is can be asked without a signature.
func TestUnsignedIsDenied(t *testing.T) {
	f := newSignedFixture(t)
	f.DenyUnsigned, f.Product = true, "koi-node/9"
	h := f.handler(t)
	for path, body := range map[string]string{
		"/events/broadcast": `{"events":[{"rid":"orn:test.note:1","event_type":"FORGET"}]}`,
		"/events/poll":      `{"rid":"orn:koi-net.node:old+7f7e1c3e-5c1c-4c39-9b0e-3f0e3a7a7a3e"}`,
		"/rids/fetch":       `{}`,
		"/manifests/fetch":  `{"rids":["orn:test.note:1"]}`,
		"/bundles/fetch":    `{"rids":["orn:test.note:1"]}`,
	} {
		w := do(h, "POST", "/koi-net"+path, body)
		if w.Code != 403 || !strings.Contains(w.Body.String(), "signed envelopes only") || w.Header().Get("Server") != "koi-node/9" {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	if _, released := f.polls.outcome(); f.inbox.calls != 0 || released != 0 {
		t.Errorf("accepted %d times, leased %d times", f.inbox.calls, released)
	}
	if w := do(h, "GET", "/koi-net", ""); w.Code != 200 || w.Header().Get("Server") != "koi-node/9" {
		t.Errorf("GET: %d %v", w.Code, w.Header())
	}
	f.Product, f.Metrics = "", nil
	if w := do(f.handler(t), "GET", "/koi-net", ""); w.Header().Values("Server") != nil {
		t.Errorf("without a product: %v", w.Header())
	}
}

// A node without a key cannot be called signed, so it takes the name of a node
// with one as it is, like koi-net 1.0.
func TestPollOfANodeWithAKeyAtOneWithout(t *testing.T) {
	f := newSignedFixture(t)
	f.Identity = identity.Identity{RID: self}
	f.polls.events = [][]byte{protocol.AppendEvent(nil, protocol.Event{RID: "orn:test.note:2", EventType: protocol.Forget})}
	w := do(f.handler(t), "POST", "/koi-net/events/poll", string(protocol.EncodePoll(protocol.PollRequest{RID: f.peer.RID})))
	if w.Code != 200 || f.polls.peer != f.peer.RID || !strings.Contains(w.Body.String(), "orn:test.note:2") {
		t.Errorf("%d %s, leased for %q", w.Code, w.Body, f.polls.peer)
	}
}

func TestNewRefusesContradictions(t *testing.T) {
	f := newSignedFixture(t)
	for name, change := range map[string]func(*Config){
		"no peers":                     func(c *Config) { c.Peers = nil },
		"neither generation is spoken": func(c *Config) { c.DenyUnsigned, c.Identity.Key = true, nil },
	} {
		c := f.Config
		c.Metrics = nil
		change(&c)
		if _, err := New(c); err == nil {
			t.Errorf("%s: New accepted it", name)
		}
	}
}

func TestGenerationsAreCounted(t *testing.T) {
	f := newSignedFixture(t)
	h := f.handler(t)
	stranger := newIdentity(t, "stranger")
	do(h, "POST", "/koi-net/rids/fetch", `{}`)
	do(h, "POST", "/koi-net/rids/fetch", f.envelope(f.peer, protocol.FetchRIDs{}))
	do(h, "POST", "/koi-net/rids/fetch", f.envelope(stranger, protocol.FetchRIDs{}))
	do(h, "POST", "/koi-net/rids/fetch", f.envelope(f.peer, protocol.FetchRIDs{}, stranger.RID))
	do(h, "POST", "/koi-net/rids/fetch", `{"payload":{}}`)
	do(h, "POST", "/koi-net/events/poll", string(protocol.EncodePoll(protocol.PollRequest{RID: f.peer.RID})))
	do(h, "GET", "/koi-net", "")
	for series, want := range map[string]float64{
		"koi_server_requests_total rids 200 unsigned": 1,
		"koi_server_requests_total rids 200 signed":   1,
		"koi_server_requests_total rids 400 signed":   2,
		"koi_server_requests_total rids 422 signed":   1,
		"koi_server_requests_total poll 400 unsigned": 1,
		"koi_server_requests_total self 200 ":         1,
		"koi_server_refused_total unknown_node":       2,
		"koi_server_refused_total invalid_target":     1,
		"koi_server_refused_total invalid":            1,
	} {
		if got := counted(t, f.registry)[series]; got != want {
			t.Errorf("%s: %v, want %v", series, got, want)
		}
	}
}

// counted returns the counters, each by its name and its labels' values.
func counted(t *testing.T, r *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]float64{}
	for _, fam := range families {
		for _, m := range fam.GetMetric() {
			values := map[string]string{}
			for _, l := range m.GetLabel() {
				values[l.GetName()] = l.GetValue()
			}
			name := fam.GetName()
			for _, label := range []string{"call", "code", "generation", "reason"} {
				if v, ok := values[label]; ok {
					name += " " + v
				}
			}
			all[name] += m.GetCounter().GetValue()
		}
	}
	return all
}

// Keys are parsed once, and only if they are the sender's.
func TestKeysAreKept(t *testing.T) {
	alice, bob := newIdentity(t, "alice"), newIdentity(t, "bob")
	s := &server{signing: signing{keys: newRecent[string, identity.PublicKey](8)}}
	for range 2 {
		if _, err := s.key(alice.RID, alice.PublicKeyText()); err != nil {
			t.Fatal(err)
		}
	}
	garbage := "bm8ga2V5"
	none, err := rid.NewNode("none", rid.KeyID(garbage))
	if err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		sender rid.RID
		text   string
	}{
		"another's key":      {bob.RID, alice.PublicKeyText()},
		"no key":             {bob.RID, ""},
		"the hash of no key": {none, garbage},
	} {
		if _, err := s.key(c.sender, c.text); !errors.Is(err, identity.ErrPublicKey) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if n := len(s.keys.now) + len(s.keys.old); n != 1 {
		t.Errorf("%d keys are kept", n)
	}
}
