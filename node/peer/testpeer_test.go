package peer

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/koi-net/koi-operator/node/identity"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// testPeer is a node that speaks both generations, by the rules of the signed one,
// with knobs to break them. What it holds is guarded by mu once it is called.
type testPeer struct {
	*httptest.Server
	t  testing.TB
	id identity.Identity

	mu       sync.Mutex
	known    map[rid.RID]string // the public keys of who introduced itself
	pending  map[rid.RID]int    // how many more of their calls it answers before it has taken that in
	slow     int                // pending of the next to introduce itself
	deaf     bool               // it takes introductions and never processes them
	verifies *protocol.FloatStyle
	signs    protocol.FloatStyle // in which style
	product  string              // of its Server header
	waiting  [][]byte            // what it answers a poll
	polls    *Polls              // instead of waiting
	bundles  map[rid.RID]protocol.Bundle
	// before, if set, may answer a call in its place.
	before func(w http.ResponseWriter, r *http.Request, body []byte) bool
	// forge, if set, changes a signed answer: what is signed, by whom, and the text.
	forge func(a *forgery)

	calls      []string   // such as "signed /events/poll: ok"
	broadcasts [][]string // of each taken broadcast, such as "NEW orn:t:1"
	bodies     [][]byte   // of all requests
	answers    [][]byte   // to signed calls
}

// forgery is a signed answer in the making.
type forgery struct {
	payload        protocol.Payload
	source, target rid.RID
	signer         identity.Identity
	body           []byte // "" until it is signed; where set, it is the answer
}

func newIdentity(t testing.TB, name string) identity.Identity {
	t.Helper()
	id, err := identity.Generate(name, false)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func newTestPeer(t testing.TB) *testPeer {
	t.Helper()
	p := &testPeer{
		t: t, id: newIdentity(t, "peer"), product: "uvicorn",
		known: map[rid.RID]string{}, pending: map[rid.RID]int{}, bundles: map[rid.RID]protocol.Bundle{},
	}
	p.Server = httptest.NewServer(p)
	t.Cleanup(p.Close)
	return p
}

// target is the peer as one calls it that knows it.
func (p *testPeer) target() Target {
	return Target{RID: p.id.RID, URL: p.URL + "/koi-net", Key: p.id.PublicKeyText()}
}

// unknown is the peer as one calls it that has its RID alone.
func (p *testPeer) unknown() Target {
	return Target{RID: p.id.RID, URL: p.URL + "/koi-net"}
}

// set changes what mu guards.
func (p *testPeer) set(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
}

// knows makes the peer know a node.
func (p *testPeer) knows(id identity.Identity) {
	p.set(func() { p.known[id.RID] = id.PublicKeyText() })
}

func (p *testPeer) called() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.calls)
}

func (p *testPeer) took() [][]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.broadcasts)
}

func (p *testPeer) sent() [][]byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.bodies)
}

func (p *testPeer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.bodies = append(p.bodies, body)
	if p.product != "" {
		w.Header().Set("Server", p.product)
	}
	path := strings.TrimPrefix(r.URL.Path, "/koi-net")
	kind, result := "unsigned", "ok"
	switch {
	case p.before != nil && p.before(w, r, body):
		result = "other"
	case protocol.IsEnvelope(body):
		kind = "signed"
		if refusal := p.signed(w, path, body); refusal != "" {
			result = refusal
		}
	default:
		p.unsigned(w, path, body)
	}
	p.calls = append(p.calls, kind+" "+path+": "+result)
}

// signed answers an envelope in the order of the reference's checks.
func (p *testPeer) signed(w http.ResponseWriter, path string, body []byte) (refusal string) {
	env, err := protocol.DecodeEnvelope[protocol.Payload](body, protocol.Limits{})
	if err != nil {
		text, _ := json.Marshal(err)
		w.WriteHeader(http.StatusUnprocessableEntity)
		w.Write(text)
		return "422"
	}
	code := p.check(env)
	if code != "" {
		w.WriteHeader(http.StatusBadRequest)
		w.Write(protocol.EncodeErrorResponse(protocol.ErrorResponse{Code: code}))
		return string(code)
	}
	var lease Lease
	a := &forgery{source: p.id.RID, target: env.Source, signer: p.id}
	switch q := env.Payload.(type) {
	case protocol.EventsPayload:
		p.take(env.Source, q)
		io.WriteString(w, "null")
		return ""
	case protocol.PollRequest:
		rows := p.waiting
		if p.polls != nil {
			if lease, err = p.polls.Lease(context.Background(), env.Source, "", q.Limit); err != nil {
				p.t.Error(err)
			}
			rows = lease.Events()
		}
		events := protocol.EventsPayload{}
		for _, row := range rows {
			e, err := protocol.DecodeEvent(row)
			if err != nil {
				p.t.Error(err)
			}
			events = append(events, e)
		}
		a.payload = events
	case protocol.FetchRIDs:
		a.payload = protocol.RIDsPayload(p.rids())
	case protocol.FetchManifests:
		a.payload = p.manifests(q.RIDs)
	case protocol.FetchBundles:
		a.payload = p.find(q.RIDs)
	default:
		p.t.Errorf("payload %T at %s", q, path)
	}
	p.answer(w, a)
	if lease != nil {
		lease.Written()
		lease.Release()
	}
	return ""
}

func (p *testPeer) answer(w http.ResponseWriter, a *forgery) {
	if p.forge != nil {
		p.forge(a)
	}
	if a.body == nil {
		body, err := protocol.EncodeEnvelope(a.payload, a.source, a.target, p.signs, a.signer.Sign)
		if err != nil {
			p.t.Error(err)
		}
		a.body = body
	}
	p.answers = append(p.answers, a.body)
	w.Write(a.body)
}

// check refuses an envelope as the reference does.
func (p *testPeer) check(env protocol.Envelope[protocol.Payload]) protocol.ErrorCode {
	key := p.known[env.Source]
	if p.pending[env.Source] > 0 {
		p.pending[env.Source]--
		key = ""
	}
	if events, ok := env.Payload.(protocol.EventsPayload); ok && key == "" {
		for _, e := range events {
			if e.RID == env.Source && e.EventType == protocol.New && e.Manifest != nil && len(e.Contents) > 0 {
				profile, err := protocol.ParseNodeProfile(e.Contents)
				if err != nil {
					p.t.Error(err)
				}
				key = profile.PublicKey
			}
		}
	}
	if key == "" {
		return protocol.UnknownNode
	}
	if !(protocol.NodeProfile{PublicKey: key}).KeyMatches(env.Source) {
		return protocol.InvalidKey
	}
	public, err := identity.ParsePublicKey(key)
	if err != nil {
		return protocol.InvalidKey
	}
	if p.verifies == nil {
		_, err = env.Verify(public.Verify)
	} else {
		text := env.Signed
		if older := protocol.OlderFloats(text); older != nil && *p.verifies == protocol.FloatsOlder {
			text = older
		}
		err = public.Verify(text, env.Signature)
	}
	if err != nil {
		return protocol.InvalidSignature
	}
	if env.Target != p.id.RID {
		return protocol.InvalidTarget
	}
	return ""
}

func (p *testPeer) take(source rid.RID, events []protocol.Event) {
	words := []string{}
	for _, e := range events {
		what := string(e.RID)
		if e.RID == source {
			what = "self"
		}
		words = append(words, string(e.EventType)+" "+what)
		if e.RID != source || p.deaf {
			continue
		}
		switch profile, err := protocol.ParseNodeProfile(e.Contents); {
		case e.EventType == protocol.Forget:
			delete(p.known, source)
		case err == nil:
			p.known[source], p.pending[source] = profile.PublicKey, p.slow
		}
	}
	p.broadcasts = append(p.broadcasts, words)
}

func (p *testPeer) rids() (out []rid.RID) {
	for r := range p.bundles {
		out = append(out, r)
	}
	slices.Sort(out)
	return out
}

func (p *testPeer) manifests(rids []rid.RID) (a protocol.ManifestsAnswer) {
	if len(rids) == 0 {
		rids = p.rids()
	}
	for _, r := range rids {
		if b, ok := p.bundles[r]; ok {
			a.Manifests = append(a.Manifests, b.Manifest)
		} else {
			a.NotFound = append(a.NotFound, r)
		}
	}
	return a
}

func (p *testPeer) find(rids []rid.RID) (a protocol.BundlesAnswer) {
	for _, r := range rids {
		if b, ok := p.bundles[r]; ok {
			a.Bundles = append(a.Bundles, b)
		} else {
			a.NotFound = append(a.NotFound, r)
		}
	}
	return a
}

// unsigned answers the polls and fetches of the unsigned generation that tests make.
func (p *testPeer) unsigned(w http.ResponseWriter, path string, body []byte) {
	switch path {
	case pathBroadcast:
		events, err := protocol.DecodeBroadcast(body, protocol.Limits{})
		if err != nil {
			p.t.Error(err)
		}
		p.take("", events)
		io.WriteString(w, "null")
	case pathPoll:
		q, err := protocol.DecodePoll(body, protocol.Limits{})
		if err != nil {
			p.t.Error(err)
		}
		rows := p.waiting
		if p.polls != nil {
			lease, err := p.polls.Lease(context.Background(), q.RID, "", q.Limit)
			if err != nil {
				p.t.Error(err)
			}
			defer lease.Release()
			rows = lease.Events()
			defer lease.Written()
		}
		w.Write(protocol.EncodeBroadcast(rows))
	case pathRIDs:
		w.Write(append(protocol.AppendRIDs([]byte(`{"rids":`), p.rids()), '}'))
	case pathBundles:
		q, err := protocol.DecodeFetchBundles(body, protocol.Limits{})
		if err != nil {
			p.t.Error(err)
		}
		out := []byte(`{"bundles":[`)
		a := p.find(q.RIDs)
		for i, b := range a.Bundles {
			if i > 0 {
				out = append(out, ',')
			}
			out = protocol.AppendBundle(out, b)
		}
		out = protocol.AppendRIDs(append(out, `],"not_found":`...), a.NotFound)
		w.Write(append(out, `,"deferred":[]}`...))
	default:
		http.NotFound(w, nil)
	}
}

// profileEvent is a node's NEW about itself.
func profileEvent(t testing.TB, id identity.Identity) []byte {
	t.Helper()
	return profileEventWith(t, id.RID, id.PublicKeyText())
}

func profileEventWith(t testing.TB, r rid.RID, key string) []byte {
	t.Helper()
	profile := protocol.NodeProfile{NodeType: protocol.Partial, PublicKey: key}
	b := testBundle(t, r, string(profile.Contents()))
	return protocol.AppendEvent(nil, protocol.Event{RID: r, EventType: protocol.New, Manifest: &b.Manifest, Contents: b.Contents})
}

// bundleEvent is a NEW with contents.
func bundleEvent(t testing.TB, r rid.RID, contents string) []byte {
	t.Helper()
	b := testBundle(t, r, contents)
	return protocol.AppendEvent(nil, protocol.Event{RID: r, EventType: protocol.New, Manifest: &b.Manifest, Contents: b.Contents})
}

// caller is a signed client with what it was told.
type caller struct {
	*Client
	id     identity.Identity
	traits *Traits

	mu        sync.Mutex
	own       []byte
	forgotten []rid.RID
}

// newCaller returns a client with a key, an introduction, and no pauses.
func newCaller(t testing.TB, change func(*ClientConfig)) *caller {
	t.Helper()
	c := &caller{id: newIdentity(t, "self"), traits: NewTraits()}
	c.own = profileEvent(t, c.id)
	config := ClientConfig{
		AllowLoopback: yes, Identity: c.id, Traits: c.traits, Timeout: 10 * time.Second, UserAgent: Product + "/test",
		Introduction: func() ([]byte, bool) {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.own, c.own != nil
		},
		Forgotten: func(r rid.RID) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.forgotten = append(c.forgotten, r)
		},
	}
	if change != nil {
		change(&config)
	}
	if config.Circuits == nil {
		config.Circuits = shortCircuits(t)
	}
	c.Client = NewClient(config)
	c.pauses = []time.Duration{time.Millisecond, time.Millisecond, time.Millisecond}
	t.Cleanup(c.Close)
	return c
}

func (c *caller) told() []rid.RID {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.forgotten)
}

func (c *caller) become(own []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.own = own
}

func expectCalls(t *testing.T, p *testPeer, want ...string) {
	t.Helper()
	if got := p.called(); !slices.Equal(got, want) {
		t.Errorf("calls:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func expectTaken(t *testing.T, p *testPeer, want ...[]string) {
	t.Helper()
	if got := p.took(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("taken: %v, want %v", got, want)
	}
}

// same reports whether bodies are the same byte for byte.
func same(bodies ...[]byte) bool {
	for _, b := range bodies[1:] {
		if !bytes.Equal(bodies[0], b) {
			return false
		}
	}
	return true
}
