package pipeline_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/koi-net/koi-operator/node/pipeline"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

// counting counts the updates of a store, and how many rows they left in the inbox.
type counting struct {
	store.Store
	updates atomic.Int32
	rows    atomic.Int32
}

func (c *counting) Update(ctx context.Context, fn func(store.Writer) error) error {
	c.updates.Add(1)
	return c.Store.Update(ctx, func(tx store.Writer) error {
		return fn(counted{tx, c})
	})
}

type counted struct {
	store.Writer
	c *counting
}

func (c counted) AppendInbox(rows ...store.InboxRow) ([]uint64, error) {
	c.c.rows.Add(int32(len(rows)))
	return c.Writer.AppendInbox(rows...)
}

func quick(phase pipeline.Phase, fn pipeline.HandlerFunc) pipeline.Handler {
	return pipeline.Handler{Name: "quick", Phase: phase, Quick: true, Func: fn}
}

func pass(context.Context, *pipeline.Context, *pipeline.Object) error { return nil }

// What lacks nothing, and is looked at by quick handlers alone, is processed in
// the transaction that accepts it; anything else goes through the inbox.
func TestStraightThrough(t *testing.T) {
	at := time.Now().Truncate(time.Millisecond)
	whole := func(i int) protocol.Event { return event(t, doc(i), at, `{"a":1}`) }
	bare := whole(2)
	bare.Contents = nil
	nodes := event(t, other, at, `{"node_type":"PARTIAL","provides":{"event":[],"state":[]}}`)
	for _, c := range []struct {
		name     string
		handlers []pipeline.Handler
		events   []protocol.Event
		updates  int32
		rows     int32
	}{
		{"quick", []pipeline.Handler{quick(pipeline.PhaseBundle, pass)}, []protocol.Event{whole(1), whole(2)}, 1, 0},
		{"no handlers", nil, []protocol.Event{whole(1)}, 1, 0},
		{"forget", nil, []protocol.Event{{RID: doc(1), EventType: protocol.Forget}}, 1, 0},
		{"a handler that may wait", []pipeline.Handler{{Name: "slow", Phase: pipeline.PhaseBundle, Func: pass}}, []protocol.Event{whole(1)}, 2, 1},
		{"a handler that may wait, of another type",
			[]pipeline.Handler{{Name: "slow", Phase: pipeline.PhaseBundle, RIDTypes: []rid.Type{"orn:test.other"}, Func: pass}},
			[]protocol.Event{whole(1)}, 1, 0},
		{"a handler that may wait, of another origin",
			[]pipeline.Handler{{Name: "slow", Phase: pipeline.PhaseBundle, Origin: pipeline.InternalOnly, Func: pass}},
			[]protocol.Event{whole(1)}, 1, 0},
		{"a Final phase", []pipeline.Handler{quick(pipeline.PhaseFinal, pass)}, []protocol.Event{whole(1)}, 3, 2},
		{"stopped", []pipeline.Handler{quick(pipeline.PhaseRID, func(context.Context, *pipeline.Context, *pipeline.Object) error {
			return pipeline.Stop("No")
		})}, []protocol.Event{whole(1)}, 1, 0},
		{"failed", []pipeline.Handler{quick(pipeline.PhaseRID, func(context.Context, *pipeline.Context, *pipeline.Object) error {
			panic("no")
		})}, []protocol.Event{whole(1)}, 2, 1},
		{"set aside", []pipeline.Handler{quick(pipeline.PhaseRID, func(_ context.Context, c *pipeline.Context, _ *pipeline.Object) error {
			return pipeline.Quarantine("Early", c.Now.Add(time.Hour))
		})}, []protocol.Event{whole(1)}, 2, 1},
		{"something to fetch", nil, []protocol.Event{whole(1), bare}, 2, 1},
		{"forgotten behind what is fetched", nil, []protocol.Event{bare, {RID: bare.RID, EventType: protocol.Forget}}, 3, 2},
		{"the same RID twice", nil, []protocol.Event{whole(1), event(t, doc(1), at.Add(time.Second), `{"a":2}`)}, 2, 1},
		{"a node", nil, []protocol.Event{whole(1), nodes}, 3, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			st := &counting{Store: open(t, filepath.Join(t.TempDir(), "s.db"))}
			b := start(t, pipeline.Config{Store: st, Handlers: c.handlers})
			b.flush() // it runs
			if err := b.Accept(t.Context(), pipeline.Received{Source: pipeline.Unsigned, Events: c.events}); err != nil {
				t.Fatal(err)
			}
			b.flush()
			if u, r := st.updates.Load(), st.rows.Load(); u != c.updates || r != c.rows {
				t.Errorf("%d updates, %d rows in the inbox; want %d and %d", u, r, c.updates, c.rows)
			}
		})
	}
}

// The outcome of what went straight is known as that of any other.
func TestStraightOutcomes(t *testing.T) {
	var commits []pipeline.Commit
	b := start(t, pipeline.Config{
		Handlers: []pipeline.Handler{
			quick(pipeline.PhaseRID, func(_ context.Context, _ *pipeline.Context, o *pipeline.Object) error {
				if o.RID == doc(2) {
					return pipeline.Stop("Two")
				}
				return nil
			}),
			quick(pipeline.PhaseNetwork, func(_ context.Context, c *pipeline.Context, o *pipeline.Object) error {
				o.Targets = []rid.RID{other}
				if o.RID == doc(1) {
					return c.Put(doc(3), map[string]int{"b": 1})
				}
				return nil
			}),
		},
		OnCommit: func(c pipeline.Commit) { commits = append(commits, c) },
	})
	b.flush()
	out := b.do(pipeline.Object{RID: doc(1), Contents: []byte(`{"a":1}`)}, pipeline.Object{RID: doc(2), Contents: []byte(`{"a":1}`)})
	if out[0].Normalized != protocol.New || out[0].Manifest == nil || out[1].Stopped != "Two" {
		t.Errorf("outcomes %+v", out)
	}
	b.flush()
	if len(commits) != 2 || commits[0].Object.RID != doc(1) || commits[0].Record == nil || !slices.Equal(commits[0].Queued[store.Outbox], []rid.RID{other}) {
		t.Errorf("commits %+v", commits)
	}
	if got := b.queued(other); !slices.Equal(got, []rid.RID{doc(1), doc(3)}) {
		t.Errorf("queued %v", got)
	}
}

// An object that waits keeps what comes after it of the same RID behind it.
func TestStraightNeverOvertakes(t *testing.T) {
	release := make(chan struct{})
	seen := make(chan string, 10)
	b := start(t, pipeline.Config{Handlers: []pipeline.Handler{
		{Name: "waits", Phase: pipeline.PhaseBundle, Origin: pipeline.InternalOnly, Func: func(context.Context, *pipeline.Context, *pipeline.Object) error {
			<-release
			return nil
		}},
		quick(pipeline.PhaseNetwork, func(_ context.Context, _ *pipeline.Context, o *pipeline.Object) error {
			seen <- string(o.Contents)
			return nil
		}),
	}})
	b.flush()
	if err := b.Submit(t.Context(), pipeline.Object{RID: doc(1), Contents: []byte(`{"n":1}`)}); err != nil {
		t.Fatal(err)
	}
	for n := 2; n <= 3; n++ {
		e := event(t, doc(1), time.Now().Add(time.Duration(n)*time.Second), fmt.Sprintf(`{"n":%d}`, n))
		if err := b.Accept(t.Context(), pipeline.Received{Source: pipeline.Unsigned, Events: []protocol.Event{e}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Accept(t.Context(), pipeline.Received{Source: pipeline.Unsigned, Events: []protocol.Event{event(t, doc(2), time.Now(), `{"n":0}`)}}); err != nil {
		t.Fatal(err)
	}
	close(release)
	b.flush()
	close(seen)
	var all []string
	for s := range seen {
		all = append(all, s)
	}
	if got := strings.Join(all, ""); got != `{"n":0}{"n":1}{"n":2}{"n":3}` {
		t.Errorf("seen %s", got)
	}
}

// While an object goes straight, what is accepted of its RID waits for it.
func TestStraightIsNotOvertaken(t *testing.T) {
	began, release := make(chan struct{}), make(chan struct{})
	var mu sync.Mutex
	var told []string
	b := start(t, pipeline.Config{
		Handlers: []pipeline.Handler{quick(pipeline.PhaseNetwork, func(_ context.Context, _ *pipeline.Context, o *pipeline.Object) error {
			if o.Source.External() {
				close(began)
				<-release
			}
			return nil
		})},
		OnCommit: func(c pipeline.Commit) {
			mu.Lock()
			defer mu.Unlock()
			before := ""
			if c.Object.Previous != nil {
				before = string(c.Object.Previous.Bundle.Contents)
			}
			told = append(told, before+">"+string(c.Object.Contents))
		},
	})
	b.flush()
	done := make(chan error, 1)
	go func() {
		e := event(t, doc(1), time.Now(), `{"n":1}`)
		done <- b.Accept(context.Background(), pipeline.Received{Source: pipeline.Unsigned, Events: []protocol.Event{e}})
	}()
	<-began
	if err := b.Submit(t.Context(), pipeline.Object{RID: doc(1), Contents: []byte(`{"n":2}`)}); err != nil {
		t.Fatal(err)
	}
	for n := range 5 { // time in which it could be processed
		b.do(pipeline.Object{RID: doc(2), Contents: fmt.Appendf(nil, `{"m":%d}`, n)})
	}
	close(release)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	b.flush()
	mu.Lock()
	defer mu.Unlock()
	told = slices.DeleteFunc(told, func(s string) bool { return !strings.Contains(s, `{"n":1}`) })
	if got := strings.Join(told[:min(2, len(told))], " "); !strings.HasSuffix(got, `>{"n":1} {"n":1}>{"n":2}`) {
		t.Errorf("told of %s", got)
	}
}

// Rows of a former run are processed before anything of their RIDs goes straight.
func TestStraightWaitsForRowsOfAFormerRun(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.db")
	former := prepare(t, pipeline.Config{Store: open(t, path)})
	for n := range 3 {
		if err := former.Submit(t.Context(), pipeline.Object{RID: doc(n), Contents: []byte(`{"n":1}`)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := former.store.Close(); err != nil {
		t.Fatal(err)
	}
	st := &counting{Store: open(t, path)}
	release := make(chan struct{})
	b := start(t, pipeline.Config{Store: st, Workers: 1, Handlers: []pipeline.Handler{
		quick(pipeline.PhaseBundle, func(_ context.Context, _ *pipeline.Context, o *pipeline.Object) error {
			if o.RID == doc(0) {
				<-release
			}
			return nil
		}),
	}})
	accept := func(r rid.RID) {
		t.Helper()
		e := event(t, r, time.Now().Add(time.Minute), `{"n":2}`)
		if err := b.Accept(t.Context(), pipeline.Received{Source: pipeline.Unsigned, Events: []protocol.Event{e}}); err != nil {
			t.Fatal(err)
		}
	}
	accept(doc(2))
	if st.rows.Load() != 1 {
		t.Error("an event overtook a row of its RID that a former run left")
	}
	close(release)
	b.flush()
	accept(doc(2))
	if st.rows.Load() != 1 {
		t.Error("an event waited though nothing of its RID was under way")
	}
}

// Objects of few RIDs, from many goroutines, straight and not: commits are told
// in the order in which they happened, and the last one holds.
func TestStraightAndNotTogether(t *testing.T) {
	const rids, clients, each = 4, 8, 40
	var mu sync.Mutex
	last := map[rid.RID]protocol.Timestamp{}
	var wrong []string
	b := start(t, pipeline.Config{
		Handlers: []pipeline.Handler{
			{Name: "may wait", Phase: pipeline.PhaseRID, Origin: pipeline.InternalOnly, Func: pass},
			quick(pipeline.PhaseBundle, func(_ context.Context, _ *pipeline.Context, o *pipeline.Object) error {
				if o.Previous != nil && !o.Source.External() && !o.Manifest.Timestamp.Time().After(o.Previous.Bundle.Manifest.Timestamp.Time()) {
					return fmt.Errorf("not after what it replaces")
				}
				return nil
			}),
		},
		OnCommit: func(c pipeline.Commit) {
			mu.Lock()
			defer mu.Unlock()
			r := c.Object.RID
			var was protocol.Timestamp
			if c.Object.Previous != nil {
				was = c.Object.Previous.Bundle.Manifest.Timestamp
			}
			if last[r] != was {
				wrong = append(wrong, fmt.Sprintf("%s: replaced %s, after %s was told", r, was, last[r]))
			}
			last[r] = protocol.Timestamp{}
			if c.Record != nil {
				last[r] = c.Record.Bundle.Manifest.Timestamp
			}
		},
	})
	b.flush()
	var wg sync.WaitGroup
	for client := range clients {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(client), 1))
			for n := range each {
				r := doc(rnd.IntN(rids))
				contents := fmt.Sprintf(`{"client":%d,"n":%d}`, client, n)
				var err error
				switch rnd.IntN(5) {
				case 0:
					err = b.Submit(t.Context(), pipeline.Object{RID: r, Contents: []byte(contents)})
				case 1:
					err = b.Submit(t.Context(), pipeline.Object{RID: r, EventType: protocol.Forget})
				case 2:
					_, err = b.Do(t.Context(), pipeline.Object{RID: r, Source: pipeline.Unsigned, EventType: protocol.Forget})
				default:
					err = b.Accept(t.Context(), pipeline.Received{Source: pipeline.Unsigned, Events: []protocol.Event{event(t, r, time.Now(), contents)}})
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.flush()
	mu.Lock()
	defer mu.Unlock()
	for _, w := range wrong {
		t.Error(w)
	}
	for r, want := range last {
		var got protocol.Timestamp
		err := b.store.View(t.Context(), func(tx store.Reader) error {
			if m, err := tx.Manifest(r); err == nil {
				got = m.Timestamp
			}
			return nil
		})
		if err != nil || got != want {
			t.Errorf("%s: %s is held, %s was told last (%v)", r, got, want, err)
		}
	}
}
