package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/koi-net/koi-operator/node/graph"
	"github.com/koi-net/koi-operator/node/pipeline"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
	"github.com/koi-net/koi-operator/node/store/bolt"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	self  rid.RID  = "orn:koi-net.node:self+1"
	other rid.RID  = "orn:koi-net.node:other+2"
	docs  rid.Type = "orn:test.doc"
	wait           = 20 * time.Second
)

func doc(i int) rid.RID { return rid.RID(fmt.Sprintf("%s:%d", docs, i)) }

// bench is a processor on a real store.
type bench struct {
	*pipeline.Processor
	t     *testing.T
	store store.Store
	stop  func()
}

func open(t *testing.T, path string) store.Store {
	t.Helper()
	st, err := bolt.Open(bolt.Options{Path: path, NodeRID: self, Create: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	return st
}

func start(t *testing.T, cfg pipeline.Config) *bench {
	t.Helper()
	b := prepare(t, cfg)
	b.run()
	return b
}

func prepare(t *testing.T, cfg pipeline.Config) *bench {
	t.Helper()
	if cfg.Store == nil {
		cfg.Store = open(t, filepath.Join(t.TempDir(), "s.db"))
	}
	cfg.Self = self
	if cfg.Graph == nil {
		cfg.Graph = graph.New(self)
	}
	if cfg.Route == nil {
		cfg.Route = func(rid.RID) (store.Queue, bool) { return store.Outbox, true }
	}
	p, err := pipeline.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return &bench{Processor: p, t: t, store: cfg.Store}
}

func (b *bench) run() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	b.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			b.t.Errorf("Run: %v", err)
		}
	})
	b.t.Cleanup(b.stop)
}

func (b *bench) flush() {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	if err := b.Flush(ctx); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) do(o ...pipeline.Object) []pipeline.Outcome {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	out, err := b.Do(ctx, o...)
	if err != nil {
		b.t.Fatal(err)
	}
	return out
}

func (b *bench) queued(peer rid.RID) (rids []rid.RID) {
	b.t.Helper()
	err := b.store.View(context.Background(), func(tx store.Reader) error {
		for row, err := range tx.QueueRows(store.Outbox, peer, 0) {
			if err != nil {
				return err
			}
			rids = append(rids, row.RID)
		}
		return nil
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return rids
}

func event(t *testing.T, r rid.RID, at time.Time, contents string) protocol.Event {
	t.Helper()
	bundle, err := protocol.NewBundle(r, protocol.NewTimestamp(at), []byte(contents))
	if err != nil {
		t.Fatal(err)
	}
	return protocol.Event{RID: r, EventType: protocol.New, Manifest: &bundle.Manifest, Contents: bundle.Contents}
}

func TestPhasesInOrderAndWhatTheySee(t *testing.T) {
	var mu sync.Mutex
	var seen []string
	spy := func(phase pipeline.Phase, name string) pipeline.Handler {
		return pipeline.Handler{Name: name, Phase: phase, Func: func(_ context.Context, _ *pipeline.Context, o *pipeline.Object) error {
			mu.Lock()
			defer mu.Unlock()
			seen = append(seen, fmt.Sprintf("%s/%s %s manifest=%t contents=%t", phase, name, o.Normalized, o.Manifest != nil, o.Contents != nil))
			return nil
		}}
	}
	b := start(t, pipeline.Config{Handlers: []pipeline.Handler{
		spy(pipeline.PhaseFinal, "f"), spy(pipeline.PhaseNetwork, "n"), spy(pipeline.PhaseBundle, "b1"), spy(pipeline.PhaseBundle, "b2"),
		spy(pipeline.PhaseManifest, "m"), spy(pipeline.PhaseRID, "r"),
	}})
	out := b.do(pipeline.Object{RID: doc(1), Contents: []byte(`{"a":1}`)})
	if out[0].Normalized != protocol.New || out[0].Manifest == nil {
		t.Fatalf("outcome %+v", out[0])
	}
	out = b.do(pipeline.Object{RID: doc(1), EventType: protocol.Forget})
	if out[0].Normalized != protocol.Forget {
		t.Fatalf("outcome %+v", out[0])
	}
	b.flush()
	want := []string{
		"RID/r  manifest=false contents=true", "Manifest/m  manifest=true contents=true",
		"Bundle/b1 NEW manifest=true contents=true", "Bundle/b2 NEW manifest=true contents=true",
		"Network/n NEW manifest=true contents=true", "Final/f NEW manifest=true contents=true",
		"RID/r  manifest=false contents=false", "Bundle/b1 FORGET manifest=false contents=false", "Bundle/b2 FORGET manifest=false contents=false",
		"Network/n FORGET manifest=false contents=false", "Final/f FORGET manifest=false contents=false",
	}
	mu.Lock()
	defer mu.Unlock()
	if !slices.Equal(seen, want) {
		t.Errorf("seen:\n%q\nwant:\n%q", seen, want)
	}
}

// What a handler causes commits with its object, or not at all.
func TestStopLeavesNothingBehind(t *testing.T) {
	b := start(t, pipeline.Config{Handlers: []pipeline.Handler{{
		Name: "stops", Phase: pipeline.PhaseNetwork,
		Func: func(_ context.Context, c *pipeline.Context, o *pipeline.Object) error {
			if o.RID != doc(1) {
				return nil
			}
			c.Handle(pipeline.Object{RID: doc(2), Contents: []byte(`{}`)})
			c.Send(protocol.Event{RID: doc(1), EventType: protocol.Forget}, other)
			return pipeline.Stop("test")
		},
	}}})
	out := b.do(pipeline.Object{RID: doc(1), Contents: []byte(`{}`)})
	if out[0].Stopped != "test" {
		t.Fatalf("outcome %+v", out[0])
	}
	b.flush()
	for _, r := range []rid.RID{doc(1), doc(2)} {
		err := b.store.View(t.Context(), func(tx store.Reader) error { _, err := tx.Bundle(r); return err })
		if !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%s: %v, want not found", r, err)
		}
	}
	if rows := b.queued(other); len(rows) != 0 {
		t.Errorf("queued %v", rows)
	}
}

func TestEffectsCommitTogether(t *testing.T) {
	b := start(t, pipeline.Config{Handlers: []pipeline.Handler{{
		Name: "causes", Phase: pipeline.PhaseBundle, RIDTypes: []rid.Type{docs}, EventTypes: []protocol.EventType{protocol.New},
		Func: func(_ context.Context, c *pipeline.Context, o *pipeline.Object) error {
			c.Handle(pipeline.Object{RID: "orn:test.copy:" + rid.RID(o.RID.Reference()), Contents: o.Contents})
			o.Targets = []rid.RID{other, self, other}
			return nil
		},
	}}})
	b.do(pipeline.Object{RID: doc(1), Contents: []byte(`{"a":1}`)})
	b.flush()
	err := b.store.View(t.Context(), func(tx store.Reader) error {
		_, err := tx.Bundle("orn:test.copy:1")
		return err
	})
	if err != nil {
		t.Errorf("follow-up: %v", err)
	}
	if rows := b.queued(other); !slices.Equal(rows, []rid.RID{doc(1)}) {
		t.Errorf("queued for the target, once: %v", rows)
	}
	if rows := b.queued(self); len(rows) != 0 {
		t.Errorf("queued for ourselves: %v", rows)
	}
}

func TestOrderWithinARIDAndRetry(t *testing.T) {
	var mu sync.Mutex
	var order []string
	failures := 3
	b := start(t, pipeline.Config{RetryBase: time.Millisecond, Handlers: []pipeline.Handler{{
		Name: "fails at first", Phase: pipeline.PhaseBundle,
		Func: func(_ context.Context, _ *pipeline.Context, o *pipeline.Object) error {
			mu.Lock()
			defer mu.Unlock()
			if failures > 0 && o.RID == doc(1) {
				failures--
				return pipeline.Retry(errors.New("not yet"))
			}
			order = append(order, string(o.RID)+string(o.Contents))
			return nil
		},
	}}})
	var objects []pipeline.Object
	for i := range 20 {
		objects = append(objects, pipeline.Object{RID: doc(1), Contents: fmt.Appendf(nil, `{"n":%d}`, i)})
	}
	for _, out := range b.do(objects...) {
		if out.Err != nil || out.Stopped != "" {
			t.Fatalf("outcome %+v", out)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	for i, got := range order {
		if want := fmt.Sprintf(`%s{"n":%d}`, doc(1), i); got != want {
			t.Fatalf("place %d: %s, want %s", i, got, want)
		}
	}
	if len(order) != 20 {
		t.Errorf("%d objects came through", len(order))
	}
}

func TestSlowRIDStallsNobodyElse(t *testing.T) {
	release := make(chan struct{})
	b := start(t, pipeline.Config{Workers: 2, Handlers: []pipeline.Handler{{
		Name: "slow", Phase: pipeline.PhaseRID,
		Func: func(ctx context.Context, _ *pipeline.Context, o *pipeline.Object) error {
			if o.RID == doc(0) {
				select {
				case <-release:
				case <-ctx.Done():
				}
			}
			return nil
		},
	}}})
	if err := b.Submit(t.Context(), pipeline.Object{RID: doc(0), Contents: []byte(`{}`)}); err != nil {
		t.Fatal(err)
	}
	var rest []pipeline.Object
	for i := 1; i < 50; i++ {
		rest = append(rest, pipeline.Object{RID: doc(i), Contents: []byte(`{}`)})
	}
	b.do(rest...) // times out if the slow one stalls them
	close(release)
	b.flush()
}

func TestRetriesEnd(t *testing.T) {
	b := start(t, pipeline.Config{RetryBase: time.Millisecond, RetryCap: time.Millisecond, MaxAttempts: 3, Handlers: []pipeline.Handler{{
		Name: "never", Phase: pipeline.PhaseRID,
		Func: func(context.Context, *pipeline.Context, *pipeline.Object) error {
			return pipeline.Retry(errors.New("never"))
		},
	}}})
	out := b.do(pipeline.Object{RID: doc(1), Contents: []byte(`{}`)})
	if out[0].Stopped != pipeline.ReasonRetriesUsedUp {
		t.Errorf("outcome %+v", out[0])
	}
}

// Accepted is on disk: a processor that never ran leaves it to the next.
func TestAcceptedSurvives(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.db")
	st := open(t, path)
	first := prepare(t, pipeline.Config{Store: st})
	now := time.Now()
	err := first.Accept(t.Context(), pipeline.Received{Source: pipeline.Unsigned, Events: []protocol.Event{event(t, doc(1), now, `{"a":1}`), event(t, doc(2), now, `{"a":2}`)}})
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	b := start(t, pipeline.Config{Store: open(t, path)})
	b.flush()
	for i := 1; i <= 2; i++ {
		err := b.store.View(t.Context(), func(tx store.Reader) error {
			rec, err := tx.Bundle(doc(i))
			if err == nil && rec.Source != string(pipeline.Unsigned) {
				t.Errorf("source %q", rec.Source)
			}
			return err
		})
		if err != nil {
			t.Errorf("%s: %v", doc(i), err)
		}
	}
}

func TestInboxIsBounded(t *testing.T) {
	b := prepare(t, pipeline.Config{MaxInbox: 2})
	objects := []pipeline.Object{{RID: doc(1)}, {RID: doc(2)}}
	if err := b.Submit(t.Context(), objects...); err != nil {
		t.Fatal(err)
	}
	if err := b.Submit(t.Context(), pipeline.Object{RID: doc(3)}); !errors.Is(err, pipeline.ErrBusy) {
		t.Errorf("beyond the bound: %v, want ErrBusy", err)
	}
}

func TestExternalContentsAreChecked(t *testing.T) {
	good := event(t, doc(1), time.Now(), `{"a":1}`)
	wrongHash := good
	wrongHash.Contents = []byte(`{"a":2}`)
	foreign := good
	foreign.RID = doc(2)
	for name, tt := range map[string]struct {
		e    protocol.Event
		want string
	}{
		"hash":         {wrongHash, pipeline.ReasonHashMismatch},
		"other RID":    {foreign, pipeline.ReasonForeignRID},
		"no contents":  {protocol.Event{RID: doc(1), EventType: protocol.New, Manifest: good.Manifest}, pipeline.ReasonNoContents},
		"bare":         {protocol.Event{RID: doc(1), EventType: protocol.New}, pipeline.ReasonNoContents},
		"all in order": {good, ""},
	} {
		t.Run(name, func(t *testing.T) {
			b := start(t, pipeline.Config{})
			if out := b.do(pipeline.FromEvent(pipeline.Unsigned, tt.e)); out[0].Stopped != tt.want {
				t.Errorf("outcome %+v, want stopped %q", out[0], tt.want)
			}
		})
	}
}

// fakeFetcher answers from a map, after failing a number of times.
type fakeFetcher struct {
	mu       sync.Mutex
	failures int
	bundles  map[rid.RID]protocol.Bundle
}

func (f *fakeFetcher) FetchManifest(ctx context.Context, r rid.RID, s pipeline.Source) (protocol.Manifest, error) {
	b, err := f.FetchBundle(ctx, r, s)
	return b.Manifest, err
}

func (f *fakeFetcher) FetchBundle(_ context.Context, r rid.RID, _ pipeline.Source) (protocol.Bundle, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failures > 0 {
		f.failures--
		return protocol.Bundle{}, pipeline.Retry(errors.New("unreachable"))
	}
	b, ok := f.bundles[r]
	if !ok {
		return b, store.ErrNotFound
	}
	return b, nil
}

func TestMissingPartsAreFetched(t *testing.T) {
	e := event(t, doc(1), time.Now(), `{"a":1}`)
	f := &fakeFetcher{failures: 2, bundles: map[rid.RID]protocol.Bundle{doc(1): {Manifest: *e.Manifest, Contents: e.Contents}}}
	b := start(t, pipeline.Config{Fetcher: f, RetryBase: time.Millisecond})
	out := b.do(pipeline.FromEvent(pipeline.Unsigned, protocol.Event{RID: doc(1), EventType: protocol.New}),
		pipeline.FromEvent(pipeline.Unsigned, protocol.Event{RID: doc(2), EventType: protocol.New}))
	if out[0].Normalized != protocol.New || out[0].Manifest.SHA256Hash != e.Manifest.SHA256Hash {
		t.Errorf("fetched: %+v", out[0])
	}
	if out[1].Stopped != pipeline.ReasonNoContents {
		t.Errorf("nobody has it: %+v", out[1])
	}
}

func TestOwnChangesAreNeverOlderThanWhatTheyReplace(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	b := start(t, pipeline.Config{Now: func() time.Time { return now }})
	ahead := event(t, doc(1), now.Add(time.Hour), `{"a":1}`)
	b.do(pipeline.FromEvent(pipeline.Unsigned, ahead))
	out := b.do(pipeline.Object{RID: doc(1), Contents: []byte(`{"a":2}`)})
	if got := out[0].Manifest.Timestamp.Time(); !got.Equal(now.Add(time.Hour + time.Microsecond)) {
		t.Errorf("stamped %s", got)
	}
}

// A handler that waits in the Final phase is called again without anything
// else happening.
func TestFinalPhaseIsRetried(t *testing.T) {
	calls := make(chan struct{}, 10)
	failed := false
	b := start(t, pipeline.Config{RetryBase: time.Millisecond, Handlers: []pipeline.Handler{{
		Name: "fails once", Phase: pipeline.PhaseFinal,
		Func: func(context.Context, *pipeline.Context, *pipeline.Object) error {
			calls <- struct{}{}
			if failed {
				return nil
			}
			failed = true
			return pipeline.Retry(errors.New("not yet"))
		},
	}}})
	b.do(pipeline.Object{RID: doc(1), Contents: []byte(`{}`)})
	for i := range 2 {
		select {
		case <-calls:
		case <-time.After(wait):
			t.Fatalf("call %d did not come", i+1)
		}
	}
	b.flush()
}

// What waits for one node is woken by it, and keeps its attempts when others
// become known.
func TestOnlyTheAwaitedNodeWakes(t *testing.T) {
	var mu sync.Mutex
	attempts := 0
	g := graph.New(self)
	b := start(t, pipeline.Config{Graph: g, RetryBase: time.Hour, RetryCap: time.Hour, MaxAttempts: 3, Handlers: []pipeline.Handler{{
		Name: "waits", Phase: pipeline.PhaseBundle, RIDTypes: []rid.Type{docs},
		Func: func(_ context.Context, c *pipeline.Context, _ *pipeline.Object) error {
			mu.Lock()
			attempts++
			mu.Unlock()
			if _, ok := c.Graph.Node(other); !ok {
				return pipeline.AwaitNode(other, errors.New("not introduced"))
			}
			return nil
		},
	}}})
	if err := b.Submit(t.Context(), pipeline.Object{RID: doc(1), Contents: []byte(`{}`)}); err != nil {
		t.Fatal(err)
	}
	node := func(i int) pipeline.Object {
		r := rid.RID(fmt.Sprintf("orn:koi-net.node:n+%d", i))
		if i == 0 {
			r = other
		}
		return pipeline.Object{RID: r, Contents: []byte(`{"node_type":"PARTIAL","provides":{"event":[],"state":[]}}`)}
	}
	for i := 1; i < 10; i++ {
		b.do(node(i))
	}
	mu.Lock()
	if attempts != 1 {
		t.Errorf("%d attempts before the awaited node came, want 1", attempts)
	}
	mu.Unlock()
	b.do(node(0))
	b.flush() // would wait an hour
	mu.Lock()
	defer mu.Unlock()
	if attempts != 2 {
		t.Errorf("%d attempts, want 2", attempts)
	}
}

// slowFetcher answers when it is released.
type slowFetcher struct{ release chan struct{} }

func (f slowFetcher) FetchManifest(ctx context.Context, _ rid.RID, _ pipeline.Source) (protocol.Manifest, error) {
	select {
	case <-f.release:
	case <-ctx.Done():
	}
	return protocol.Manifest{}, store.ErrNotFound
}

func (f slowFetcher) FetchBundle(context.Context, rid.RID, pipeline.Source) (protocol.Bundle, error) {
	return protocol.Bundle{}, store.ErrNotFound
}

func TestSlowFetchesStallNobodyElse(t *testing.T) {
	f := slowFetcher{release: make(chan struct{})}
	b := start(t, pipeline.Config{Workers: 2, Fetcher: f})
	for i := range 20 {
		if err := b.Accept(t.Context(), pipeline.Received{Source: pipeline.Unsigned, Events: []protocol.Event{{RID: doc(i), EventType: protocol.New}}}); err != nil {
			t.Fatal(err)
		}
	}
	b.do(pipeline.FromEvent(pipeline.Unsigned, event(t, doc(100), time.Now(), `{}`))) // times out if the slow ones stall it
	close(f.release)
	b.flush()
}

// busyFetcher is busy for as many calls as it is told.
type busyFetcher struct {
	slowFetcher
	left *atomic.Int32
}

func (f busyFetcher) FetchManifest(context.Context, rid.RID, pipeline.Source) (m protocol.Manifest, err error) {
	if f.left.Add(-1) >= 0 {
		return m, fmt.Errorf("busy: %w", pipeline.ErrLater)
	}
	return m, store.ErrNotFound
}

// A busy peer uses up no attempts.
func TestLaterIsNoAttempt(t *testing.T) {
	var left atomic.Int32
	left.Store(5)
	b := start(t, pipeline.Config{Fetcher: busyFetcher{left: &left}, MaxAttempts: 2, RetryBase: 100 * time.Microsecond})
	out := b.do(pipeline.Object{RID: doc(1), EventType: protocol.New, Source: pipeline.Unsigned})
	if out[0].Stopped != pipeline.ReasonNoContents {
		t.Errorf("outcome %+v, want the answer that came after the peer was busy", out[0])
	}
}

// What a provider has is held against the cache like what an event brings.
func TestFetchedVersionPassesTheManifestPhase(t *testing.T) {
	now := time.Now()
	held := event(t, doc(1), now.Add(-time.Minute), `{"n":2}`)
	older := event(t, doc(1), now.Add(-time.Hour), `{"n":1}`)
	announced := event(t, doc(1), now, `{"n":3}`)
	f := &fakeFetcher{bundles: map[rid.RID]protocol.Bundle{doc(1): {Manifest: *older.Manifest, Contents: older.Contents}}}
	b := start(t, pipeline.Config{Fetcher: f, Handlers: []pipeline.Handler{{
		Name: "newer only", Phase: pipeline.PhaseManifest,
		Func: func(_ context.Context, _ *pipeline.Context, o *pipeline.Object) error {
			if o.Previous != nil && !o.Manifest.Timestamp.Time().After(o.Previous.Bundle.Manifest.Timestamp.Time()) {
				return pipeline.Stop("older")
			}
			return nil
		},
	}}})
	announced.Contents = nil
	out := b.do(pipeline.FromEvent(pipeline.Unsigned, held), pipeline.FromEvent(pipeline.Unsigned, announced))
	if out[0].Stopped != "" || out[1].Stopped != "older" {
		t.Errorf("outcomes %+v", out)
	}
}

func TestPanicEndsOneObjectOnly(t *testing.T) {
	b := start(t, pipeline.Config{Handlers: []pipeline.Handler{{
		Name: "panics", Phase: pipeline.PhaseBundle,
		Func: func(_ context.Context, _ *pipeline.Context, o *pipeline.Object) error {
			if o.RID == doc(1) {
				panic("no such page")
			}
			return nil
		},
	}}})
	out := b.do(pipeline.Object{RID: doc(1), Contents: []byte(`{}`)}, pipeline.Object{RID: doc(2), Contents: []byte(`{}`)})
	if out[0].Err == nil || out[1].Err != nil {
		t.Errorf("outcomes %+v", out)
	}
}

// Who waits for a processor that has stopped is told, however it stopped.
func TestStopEndsTheWaiting(t *testing.T) {
	b := prepare(t, pipeline.Config{Handlers: []pipeline.Handler{{
		Name: "never", Phase: pipeline.PhaseRID,
		Func: func(context.Context, *pipeline.Context, *pipeline.Object) error {
			return pipeline.Retry(errors.New("never"))
		},
	}}})
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	waits := make(chan error, 2)
	go func() {
		_, err := b.Do(ctx, pipeline.Object{RID: doc(1), Contents: []byte(`{}`)})
		waits <- err
	}()
	go func() { waits <- b.Flush(ctx) }()
	for accepted := 0; accepted == 0; {
		err := b.store.View(ctx, func(tx store.Reader) (err error) { accepted, err = tx.InboxLen(); return err })
		if err != nil {
			t.Fatal(err)
		}
	}
	b.run()
	b.stop()
	for range 2 {
		if err := <-waits; !errors.Is(err, pipeline.ErrStopped) {
			t.Errorf("after the stop: %v", err)
		}
	}
}

// An edge that took another RID for its pair stays when the former RID goes.
func TestForgetOfAFormerEdgeRIDKeepsTheEdge(t *testing.T) {
	g := graph.New(self)
	b := start(t, pipeline.Config{Graph: g})
	profile := protocol.EdgeProfile{Source: self, Target: other, EdgeType: protocol.Webhook, Status: protocol.Approved, RIDTypes: []rid.Type{docs}}
	b.do(pipeline.Object{RID: rid.LegacyEdge(self, other), Contents: profile.Contents()})
	b.do(pipeline.Object{RID: rid.NewEdge(self, other), Contents: profile.Contents()})
	b.do(pipeline.Object{RID: rid.LegacyEdge(self, other), EventType: protocol.Forget})
	if e, ok := g.Edge(self, other); !ok || e.RID != rid.NewEdge(self, other) {
		t.Errorf("edge in the graph: %+v, %t", e, ok)
	}
}

// Nothing with a RID that is none gets into the store: it could not be written
// from there, at this start and at every later one.
func TestInvalidRIDsAreRefused(t *testing.T) {
	long := rid.RID("orn:test.doc:" + strings.Repeat("x", rid.MaxLength))
	b := start(t, pipeline.Config{Handlers: []pipeline.Handler{{
		Name: "derives", Phase: pipeline.PhaseBundle,
		Func: func(_ context.Context, c *pipeline.Context, o *pipeline.Object) error {
			switch o.RID {
			case doc(1):
				return c.Put(long, map[string]int{"n": 1})
			case doc(2):
				c.Send(protocol.Event{RID: "none", EventType: protocol.Forget}, self)
			}
			return nil
		},
	}}})
	for _, r := range []rid.RID{"", "none", long} {
		if err := b.Submit(t.Context(), pipeline.Object{RID: r, Contents: []byte(`{}`)}); !errors.Is(err, rid.ErrInvalid) {
			t.Errorf("Submit of %.20q: %v", r, err)
		}
	}
	for _, r := range []rid.RID{doc(1), doc(2)} {
		if out := b.do(pipeline.Object{RID: r, Contents: []byte(`{}`)}); !errors.Is(out[0].Err, rid.ErrInvalid) {
			t.Errorf("%s: %+v, want the handler's failure", r, out[0])
		}
	}
	if out := b.do(pipeline.Object{RID: doc(3), Contents: []byte(`{}`)}); out[0].Err != nil {
		t.Errorf("afterwards: %+v", out[0])
	}
}

// A handler that hands objects to the node and waits would wait for itself.
func TestHandlersDoNotWaitForThemselves(t *testing.T) {
	var p *pipeline.Processor
	b := start(t, pipeline.Config{Handlers: []pipeline.Handler{{
		Name: "waits", Phase: pipeline.PhaseBundle,
		Func: func(ctx context.Context, _ *pipeline.Context, o *pipeline.Object) error {
			_, err := p.Do(ctx, *o)
			return err
		},
	}}})
	p = b.Processor
	if out := b.do(pipeline.Object{RID: doc(1), Contents: []byte(`{}`)}); out[0].Err == nil || !strings.Contains(out[0].Err.Error(), "Context") {
		t.Errorf("%+v, want to be told of the Context", out[0])
	}
}
