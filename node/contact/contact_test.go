package contact

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/koi-net/koi-operator/node/graph"
	"github.com/koi-net/koi-operator/node/peer"
	"github.com/koi-net/koi-operator/node/pipeline"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
	"github.com/koi-net/koi-operator/node/store/bolt"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	self  rid.RID  = "orn:koi-net.node:self+1"
	alice rid.RID  = "orn:koi-net.node:alice+2"
	notes rid.Type = "orn:test.note"
	url            = "http://10.0.0.1:8000/koi-net"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// world is a Manager between a fake peer and a fake pipeline. What is done is
// noted in the order in which it is done.
type world struct {
	t     *testing.T
	m     *Manager
	store store.Store
	graph *graph.Graph

	mu   sync.Mutex
	now  time.Time
	log  []string
	held map[rid.RID]protocol.Bundle // at the peer
	own  *protocol.Bundle            // the peer's own bundle; nil: it does not answer GET
	down bool
	gone map[rid.RID]bool // forgotten by the peer once it was fetched
}

func newWorld(t *testing.T, change func(*Config)) *world {
	t.Helper()
	w := &world{t: t, now: start, held: map[rid.RID]protocol.Bundle{}}
	cfg := Config{
		Self: self, Interests: []rid.Type{notes}, Caller: w, Knowledge: w, Now: w.clock,
		CheckInterval: time.Minute, RetryBase: time.Second, RetryCap: 10 * time.Second,
		Profile: func() protocol.NodeProfile { return protocol.NodeProfile{NodeType: protocol.Partial} },
	}
	if change != nil {
		change(&cfg)
	}
	st, err := bolt.Open(bolt.Options{Path: filepath.Join(t.TempDir(), "s.db"), NodeRID: cfg.Self, Create: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	w.store, w.graph = st, graph.New(cfg.Self)
	cfg.Store, cfg.Graph = w.store, w.graph
	if w.m, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	w.keep(w.bundle(cfg.Self, protocol.NodeProfile{NodeType: protocol.Partial}.Contents(), 0), string(cfg.Self))
	return w
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) note(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.log = append(w.log, fmt.Sprintf(format, args...))
}

func (w *world) bundle(r rid.RID, contents []byte, at time.Duration) protocol.Bundle {
	w.t.Helper()
	b, err := protocol.NewBundle(r, protocol.NewTimestamp(start.Add(at)), contents)
	if err != nil {
		w.t.Fatal(err)
	}
	return b
}

// keep puts a bundle into our cache and graph.
func (w *world) keep(b protocol.Bundle, source string) {
	w.t.Helper()
	err := w.store.Update(context.Background(), func(tx store.Writer) error {
		return tx.PutBundle(store.Record{Bundle: b, Source: source})
	})
	if err == nil {
		err = pipeline.Apply(w.graph, store.Record{Bundle: b, Source: source})
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) alice(kind protocol.NodeKind) protocol.Bundle {
	p := protocol.NodeProfile{NodeType: kind, Provides: protocol.Provides{Event: []rid.Type{notes}, State: []rid.Type{notes}}}
	if kind == protocol.Full {
		p.BaseURL = url
	}
	return w.bundle(alice, p.Contents(), 0)
}

func edgeContents(source, target rid.RID, status protocol.EdgeStatus) []byte {
	return protocol.EdgeProfile{Source: source, Target: target, EdgeType: protocol.Poll, Status: status, RIDTypes: []rid.Type{notes}}.Contents()
}

// The peer.

func (w *world) call() error {
	if w.down {
		return errors.New("connection refused")
	}
	return nil
}

func (w *world) Signs(t peer.Target) bool { return t.Key != "" }

func (w *world) Broadcast(_ context.Context, to peer.Target, events [][]byte, _ *peer.Once) error {
	if err := w.call(); err != nil {
		return err
	}
	var said []string
	for _, raw := range events {
		e, err := protocol.DecodeEvent(raw)
		if err != nil {
			return err
		}
		said = append(said, string(e.EventType)+" "+string(e.RID))
	}
	w.note("broadcast %s to %s", strings.Join(said, ", "), to.URL)
	return nil
}

func (w *world) FetchManifests(_ context.Context, _ peer.Target, types []rid.Type, rids []rid.RID) (ans protocol.ManifestsAnswer, err error) {
	if len(rids) > 0 {
		w.note("check %v", rids)
		for _, r := range rids {
			if w.gone[r] {
				ans.NotFound = append(ans.NotFound, r, r)
			}
		}
		ans.NotFound = append(ans.NotFound, "orn:test.note:not-asked-for")
		return ans, w.call()
	}
	w.note("fetch manifests of %v", types)
	for _, b := range w.held {
		ans.Manifests = append(ans.Manifests, b.Manifest)
	}
	return ans, w.call()
}

func (w *world) FetchBundles(_ context.Context, t peer.Target, rids []rid.RID) (ans protocol.BundlesAnswer, err error) {
	slices.Sort(rids)
	w.note("fetch %v%s", rids, w.elsewhere(t))
	for _, r := range rids {
		if b, ok := w.held[r]; ok {
			ans.Bundles = append(ans.Bundles, b)
		} else {
			ans.NotFound = append(ans.NotFound, r)
		}
	}
	return ans, w.call()
}

// elsewhere tells of a call to another URL than the usual one.
func (w *world) elsewhere(t peer.Target) string {
	if t.URL == url {
		return ""
	}
	return " at " + t.URL
}

func (w *world) Self(context.Context, string) (protocol.Bundle, error) {
	if w.own == nil {
		return protocol.Bundle{}, &peer.StatusError{Code: 404}
	}
	return *w.own, w.call()
}

// The pipeline.

func (w *world) Submit(_ context.Context, objects ...pipeline.Object) error {
	for _, o := range objects {
		if o.EventType == protocol.Forget {
			w.note("forget %s from %s", o.RID, o.Source)
			continue
		}
		w.note("take %s from %s", o.RID, o.Source)
	}
	return nil
}

func (w *world) Do(_ context.Context, objects ...pipeline.Object) ([]pipeline.Outcome, error) {
	for _, o := range objects {
		if o.EventType == protocol.Forget {
			w.note("forget %s", o.RID)
			continue
		}
		if o.Source.External() && o.Source != "" {
			w.note("learn %s", o.RID)
			w.keep(protocol.Bundle{Manifest: *o.Manifest, Contents: o.Contents}, string(o.Source))
			continue
		}
		w.note("propose %s", o.RID)
		w.keep(w.bundle(o.RID, o.Contents, w.clock().Sub(start)), string(self))
	}
	return make([]pipeline.Outcome, len(objects)), nil
}

func (w *world) Send(_ context.Context, e protocol.Event, targets ...rid.RID) error {
	w.note("send %s %s to %v", e.EventType, e.RID, targets)
	return nil
}

// turn looks at everything that is due after d has passed.
func (w *world) turn(d time.Duration) []string {
	w.t.Helper()
	w.mu.Lock()
	w.now, w.log = w.now.Add(d), nil
	w.mu.Unlock()
	for range 20 {
		peer, wait := w.m.next()
		if wait > 0 {
			break
		}
		w.m.look(context.Background(), peer)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log
}

func (w *world) expect(what string, got []string, want ...string) {
	w.t.Helper()
	if !slices.Equal(got, want) {
		w.t.Errorf("%s:\n  got  %s\n  want %s", what, strings.Join(got, "\n       "), strings.Join(want, "\n       "))
	}
}

var fromAlice = rid.NewEdge(alice, self)

func TestProviderOfAnInterestIsSubscribedToAndCaughtUpWith(t *testing.T) {
	w := newWorld(t, nil)
	w.keep(w.alice(protocol.Full), "unsigned")
	for i, at := range []time.Duration{0, 0, time.Second, -time.Second} { // unknown, same, newer, older
		r := rid.RID(fmt.Sprintf("%s:%d", notes, i))
		w.held[r] = w.bundle(r, fmt.Appendf(nil, `{"theirs":%d}`, i), at)
		if i == 1 {
			w.keep(w.held[r], "unsigned")
		} else if i > 1 {
			w.keep(w.bundle(r, []byte(`{"ours":1}`), 0), "unsigned")
		}
	}
	w.held["orn:test.other:1"] = w.bundle("orn:test.other:1", []byte(`{}`), 0) // not asked for
	w.m.Poke(alice)
	w.expect("on contact", w.turn(0),
		"send NEW "+string(self)+" to ["+string(alice)+"]", "propose "+string(fromAlice),
		"fetch manifests of [orn:test.note]", "fetch [orn:test.note:0 orn:test.note:2]",
		"take orn:test.note:0 from unsigned", "take orn:test.note:2 from unsigned", "check [orn:test.note:0 orn:test.note:2]")

	// Approved: once more, for what was published in between.
	w.keep(w.bundle(fromAlice, edgeContents(alice, self, protocol.Approved), time.Second), "unsigned")
	w.held[fromAlice] = w.bundle(fromAlice, edgeContents(alice, self, protocol.Approved), time.Second)
	w.m.Poke(alice)
	w.expect("on approval", w.turn(5*time.Second), "fetch ["+string(fromAlice)+"]", "fetch manifests of [orn:test.note]",
		"fetch [orn:test.note:0 orn:test.note:2]", "take orn:test.note:0 from unsigned", "take orn:test.note:2 from unsigned",
		"check [orn:test.note:0 orn:test.note:2]")
	w.expect("at rest", w.turn(time.Second))
	w.expect("at the next check", w.turn(2*time.Minute), "fetch ["+string(fromAlice)+"]")
}

func TestNobodyElseIsContacted(t *testing.T) {
	for name, b := range map[string]func(*world) protocol.Bundle{
		"partial": func(w *world) protocol.Bundle { return w.alice(protocol.Partial) },
		"nothing provided": func(w *world) protocol.Bundle {
			return w.bundle(alice, protocol.NodeProfile{NodeType: protocol.Full, BaseURL: url}.Contents(), 0)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			w.keep(b(w), "unsigned")
			w.m.Poke(alice)
			w.expect("contact", w.turn(0))
		})
	}
}

func TestRefusedProposalRests(t *testing.T) {
	for _, tt := range []struct {
		refused bool
		rest    time.Duration
	}{{true, time.Hour}, {false, 10 * time.Second}} {
		t.Run(fmt.Sprint("refused=", tt.refused), func(t *testing.T) {
			w := newWorld(t, nil)
			w.keep(w.alice(protocol.Full), "unsigned")
			w.m.Rest(fromAlice, protocol.EdgeProfile{Source: alice, Target: self}, tt.refused)
			w.m.Poke(alice)
			if got := w.turn(0); slices.Contains(got, "propose "+string(fromAlice)) {
				t.Errorf("proposed at once: %v", got)
			}
			if got := w.m.Refusals(); len(got) != 1 || got[0].RID != fromAlice {
				t.Errorf("refusals %+v", got)
			}
			if got := w.turn(tt.rest - time.Second); slices.Contains(got, "propose "+string(fromAlice)) {
				t.Errorf("proposed too early: %v", got)
			}
			if got := w.turn(2 * time.Second); !slices.Contains(got, "propose "+string(fromAlice)) {
				t.Errorf("not proposed after the rest: %v", got)
			}
		})
	}
}

func TestLostEdges(t *testing.T) {
	toAlice := rid.NewEdge(self, alice)
	for name, tt := range map[string]struct {
		edge     rid.RID
		contents []byte
		held     []byte // at the other end, a second later
		want     []string
	}{
		"approved for us, unknown there": {fromAlice, edgeContents(alice, self, protocol.Approved), nil,
			[]string{"send NEW " + string(self) + " to [" + string(alice) + "]", "propose " + string(fromAlice)}},
		"proposed by us, unknown there": {fromAlice, edgeContents(alice, self, protocol.Proposed), nil,
			[]string{"send NEW " + string(self) + " to [" + string(alice) + "]", "send NEW " + string(fromAlice) + " to [" + string(alice) + "]"}},
		"proposed by us, approved there": {fromAlice, edgeContents(alice, self, protocol.Proposed), edgeContents(alice, self, protocol.Approved),
			[]string{"take " + string(fromAlice) + " from unsigned"}},
		"approved by us, unknown there": {toAlice, edgeContents(self, alice, protocol.Approved), nil,
			[]string{"send NEW " + string(self) + " to [" + string(alice) + "]", "send NEW " + string(toAlice) + " to [" + string(alice) + "]"}},
		"the same at both ends": {fromAlice, edgeContents(alice, self, protocol.Approved), edgeContents(alice, self, protocol.Approved), nil},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, func(c *Config) { c.Interests = nil })
			w.keep(w.alice(protocol.Full), "unsigned")
			w.keep(w.bundle(tt.edge, tt.contents, 0), "unsigned")
			if tt.held != nil {
				w.held[tt.edge] = w.bundle(tt.edge, tt.held, time.Second)
			}
			w.m.Poke(alice)
			w.expect("first", w.turn(5*time.Second), append([]string{"fetch [" + string(tt.edge) + "]"}, tt.want...)...)
		})
	}
}

func TestYoungEdgesAreNotAskedFor(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Interests = nil })
	w.keep(w.alice(protocol.Full), "unsigned")
	w.keep(w.bundle(fromAlice, edgeContents(alice, self, protocol.Proposed), 0), string(self))
	w.m.Poke(alice)
	w.expect("at once", w.turn(0))
	if got := w.turn(time.Second); !slices.Contains(got, "fetch ["+string(fromAlice)+"]") {
		t.Errorf("a second later: %v", got)
	}
}

func TestHandshake(t *testing.T) {
	first := func(c *Config) { c.FirstContact, c.Interests = url, nil }
	handshake := "broadcast FORGET " + string(self) + ", NEW " + string(self) + " to " + url
	t.Run("ours", func(t *testing.T) {
		w := newWorld(t, first)
		own := w.alice(protocol.Full)
		w.own = &own
		w.m.Resync()
		// Introduced before it is learned: see shakeHands.
		w.expect("first", w.turn(0), handshake, "learn "+string(alice))
		if fc := w.m.FirstContact(); !fc.Reached || fc.RID != alice || fc.Message != "" {
			t.Errorf("first contact %+v", fc)
		}
	})
	t.Run("one that does not answer GET", func(t *testing.T) {
		w := newWorld(t, first)
		w.m.Resync()
		w.expect("first", w.turn(0), handshake)
		w.keep(w.alice(protocol.Full), "unsigned") // it introduced itself
		w.keep(w.bundle(fromAlice, edgeContents(alice, self, protocol.Approved), 0), "unsigned")
		w.held[fromAlice] = w.bundle(fromAlice, edgeContents(alice, self, protocol.Approved), 0)
		if got := w.turn(time.Minute); slices.Contains(got, handshake) {
			t.Errorf("a second handshake would forget our edges: %v", got)
		}
	})
	t.Run("another RID", func(t *testing.T) {
		w := newWorld(t, func(c *Config) { first(c); c.FirstContactRID = "orn:koi-net.node:bob+9" })
		own := w.alice(protocol.Full)
		w.own = &own
		w.m.Resync()
		w.expect("nothing is said to the wrong node", w.turn(0))
		if fc := w.m.FirstContact(); fc.Reached || !strings.Contains(fc.Message, string(alice)) {
			t.Errorf("first contact %+v", fc)
		}
	})
	t.Run("down", func(t *testing.T) {
		w := newWorld(t, first)
		w.down = true
		w.m.Resync()
		w.expect("down", w.turn(0))
		if fc := w.m.FirstContact(); fc.Reached || !strings.Contains(fc.Message, "connection refused") {
			t.Errorf("first contact %+v", fc)
		}
		w.down = false
		w.expect("up again", w.turn(15*time.Second), handshake)
	})
}

func TestStandingProposalsGoBeforeInterestsAndLast(t *testing.T) {
	w := newWorld(t, nil)
	w.keep(w.alice(protocol.Full), "unsigned")
	p := protocol.EdgeProfile{Source: alice, Target: self, RIDTypes: []rid.Type{"orn:test.other"}}
	if err := w.m.Propose(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	e, _ := w.graph.Edge(alice, self)
	if e.Profile.EdgeType != protocol.Poll || !slices.Equal(e.Profile.RIDTypes, p.RIDTypes) {
		t.Errorf("proposed %+v", e.Profile)
	}
	if got := w.turn(5 * time.Second); slices.Contains(got, "propose "+string(fromAlice)) {
		t.Errorf("interests proposed over it: %v", got)
	}
	// Another life of the manager, on the same store, with the edge gone.
	w.graph.DeleteEdge(fromAlice)
	again, err := New(w.m.cfg)
	if err != nil {
		t.Fatal(err)
	}
	w.m = again
	w.m.Resync()
	w.turn(0)
	if e, _ := w.graph.Edge(alice, self); !slices.Equal(e.Profile.RIDTypes, p.RIDTypes) {
		t.Errorf("proposed after a restart: %+v", e.Profile)
	}
	if err := w.m.Withdraw(t.Context(), alice); err != nil {
		t.Fatal(err)
	}
	w.graph.DeleteEdge(fromAlice)
	w.m.Resync()
	w.turn(0)
	if e, _ := w.graph.Edge(alice, self); !slices.Equal(e.Profile.RIDTypes, []rid.Type{notes}) {
		t.Errorf("proposed after the withdrawal: %+v, want the interests' terms", e.Profile)
	}
	if err := w.m.Propose(t.Context(), protocol.EdgeProfile{Source: self, Target: alice}); err == nil {
		t.Error("a source proposed")
	}
}

func TestPauseIsForGood(t *testing.T) {
	w := newWorld(t, nil)
	w.keep(w.alice(protocol.Full), "unsigned")
	w.m.Pause()
	w.m.Resync()
	w.expect("after Pause", w.turn(time.Hour))
}

func TestBackOffGrowsAndIsBounded(t *testing.T) {
	w := newWorld(t, nil)
	w.keep(w.alice(protocol.Full), "unsigned")
	w.keep(w.bundle(fromAlice, edgeContents(alice, self, protocol.Approved), -time.Hour), "unsigned")
	w.down = true
	w.m.Poke(alice)
	calls := 0
	for range 300 {
		calls += len(w.turn(time.Second))
	}
	if calls < 15 || calls > 80 {
		t.Errorf("%d calls in five minutes to a peer that is down", calls)
	}
	for range 20 {
		w.turn(time.Minute)
	}
	calls = 0
	for range 360 {
		calls += len(w.turn(10 * time.Second))
	}
	if calls < 15 || calls > 120 {
		t.Errorf("%d calls in an hour to a peer that was silent for long", calls)
	}
	w.down = false
	w.m.Poke(alice)
	if said := w.turn(0); len(said) == 0 {
		t.Error("it is back, and is not asked at once")
	}
}

func TestRunWaitsForWhatIsUnderWay(t *testing.T) {
	w := newWorld(t, nil)
	w.keep(w.alice(protocol.Full), "unsigned")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.m.Run(ctx) }()
	deadline := time.Now().Add(10 * time.Second)
	for {
		if _, ok := w.graph.Edge(alice, self); ok {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("Run did not contact the provider")
		}
		time.Sleep(time.Millisecond)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
