package node_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/koi-net/koi-operator/node"
	"github.com/koi-net/koi-operator/node/nodetest"
	"github.com/koi-net/koi-operator/node/nodetest/hostile"
	"github.com/koi-net/koi-operator/node/pipeline"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

// told records what is sent of notes: "EVENT rid".
type told struct {
	mu     sync.Mutex
	events []string
}

// option has a node with a subscriber that is not there tell what it would send.
func (l *told) option() node.Option {
	return node.WithHandlers(pipeline.Handler{
		Name: "told", Phase: pipeline.PhaseNetwork, RIDTypes: []rid.Type{noteType},
		Func: func(_ context.Context, _ *pipeline.Context, o *pipeline.Object) error {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.events = append(l.events, fmt.Sprintf("%s %s", o.Normalized, o.RID.Reference()))
			return nil
		},
	})
}

// since returns what was sent since the last call.
func (l *told) since() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := l.events
	l.events = nil
	return out
}

func (l *told) expect(t *testing.T, want ...string) {
	t.Helper()
	if got := l.since(); !slices.Equal(got, want) {
		t.Errorf("told %q, want %q", got, want)
	}
}

func put(t *testing.T, m *nodetest.Member, r rid.RID, contents any) protocol.Manifest {
	t.Helper()
	held, err := m.Node.Put(t.Context(), r, contents)
	if err != nil {
		t.Fatal(err)
	}
	return held
}

func contentsOf(t *testing.T, m *nodetest.Member, r rid.RID) string {
	t.Helper()
	b, err := m.Bundle(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b.Contents)
}

func TestPutTellsWhatChanged(t *testing.T) {
	var heard told
	n := nodetest.NewFleet(t).Start("n", heard.option())
	first := put(t, n, note(1), map[string]any{"b": 1, "a": "<ä>"})
	heard.expect(t, "NEW 1")
	if first.RID != note(1) || protocol.VerifyHash([]byte(`{"a":"<ä>","b":1}`), first.SHA256Hash) != nil {
		t.Errorf("manifest %+v", first)
	}
	if got := contentsOf(t, n, note(1)); got != `{"a":"<ä>","b":1}` {
		t.Errorf("held: %s", got)
	}
	for name, same := range map[string]any{
		"the same": map[string]any{"a": "<ä>", "b": 1}, "text": json.RawMessage(` {"b":1, "a":"<\u00e4>"} `), "bytes": []byte(`{"a":"<ä>","b":1}`),
	} {
		if m := put(t, n, note(1), same); m.SHA256Hash != first.SHA256Hash || !m.Timestamp.Time().Equal(first.Timestamp.Time()) {
			t.Errorf("%s put again: %+v, was %+v", name, m, first)
		}
	}
	heard.expect(t)
	if m := put(t, n, note(1), struct{}{}); !m.Timestamp.Time().After(first.Timestamp.Time()) {
		t.Errorf("changed at %s, before that %s", m.Timestamp, first.Timestamp)
	}
	heard.expect(t, "UPDATE 1")
	if err := n.Node.Forget(t.Context(), note(1)); err != nil {
		t.Fatal(err)
	}
	heard.expect(t, "FORGET 1")
	put(t, n, note(1), struct{}{})
	heard.expect(t, "NEW 1")
}

// A change is later than what it changes, whatever the clock says.
func TestPutWithAClockThatWasSetBack(t *testing.T) {
	at := time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	clock := nodetest.NewClock(at)
	clock.Stop()
	clock.Set(at)
	n := nodetest.NewFleet(t).Start("n", clock.Option())
	if m := put(t, n, note(1), map[string]int{"n": 0}); !m.Timestamp.Time().Equal(at) {
		t.Errorf("stamped %s, want %s", m.Timestamp, at)
	}
	clock.Set(at.AddDate(-1, 0, 0))
	for i := 1; i <= 2; i++ {
		want := at.Add(time.Duration(i) * time.Microsecond)
		if m := put(t, n, note(1), map[string]int{"n": i}); !m.Timestamp.Time().Equal(want) {
			t.Errorf("stamped %s, want %s", m.Timestamp, want)
		}
	}
	if m := put(t, n, note(2), struct{}{}); !m.Timestamp.Time().Equal(clock.Now()) {
		t.Errorf("stamped %s, want %s", m.Timestamp, clock.Now())
	}
}

func TestPutRefuses(t *testing.T) {
	var heard told
	n := nodetest.NewFleet(t).Start("n", heard.option(), func(c *node.Config) { c.Limits.ContentsBytes, c.Limits.Depth = 1000, 10 })
	for name, tt := range map[string]struct {
		rid      rid.RID
		contents any
		want     string
	}{
		"a RID of no form":    {"note one", struct{}{}, "invalid RID"},
		"no RID":              {"", struct{}{}, "invalid RID"},
		"a RID too long":      {note(1) + rid.RID(strings.Repeat("x", rid.MaxLength)), struct{}{}, "invalid RID"},
		"a list":              {note(1), []int{1}, "JSON object"},
		"a string":            {note(1), `{"a":1}`, "JSON object"},
		"nothing":             {note(1), nil, "JSON object"},
		"empty text":          {note(1), []byte{}, "contents of"},
		"broken text":         {note(1), []byte(`{"a":`), "contents of"},
		"two objects":         {note(1), json.RawMessage(`{}{}`), "contents of"},
		"what has no JSON":    {note(1), map[string]any{"a": make(chan int)}, "unsupported type"},
		"too much":            {note(1), map[string]string{"a": strings.Repeat("x", 1000)}, "limit"},
		"too deep":            {note(1), []byte(strings.Repeat(`{"a":`, 11) + "1" + strings.Repeat("}", 11)), "contents of"},
		"text that is no UTF": {note(1), []byte("{\"a\":\"\xff\"}"), "contents of"},
	} {
		if m, err := n.Node.Put(t.Context(), tt.rid, tt.contents); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %+v, %v; want an error about %q", name, m, err, tt.want)
		}
	}
	heard.expect(t)
	put(t, n, note(1), map[string]string{"a": strings.Repeat("x", 1000-len(`{"a":""}`))}) // what fits is taken
}

func TestPutSaysThatAHandlerFailed(t *testing.T) {
	broken := errors.New("the disk with the drafts is gone")
	n := nodetest.NewFleet(t).Start("n", node.WithHandlers(pipeline.Handler{
		Name: "checks-drafts", Phase: pipeline.PhaseBundle, RIDTypes: []rid.Type{noteType},
		Func: func(_ context.Context, _ *pipeline.Context, o *pipeline.Object) error {
			if string(o.Contents) == `{"draft":true}` {
				return pipeline.Stop("Draft")
			}
			return broken
		},
	}))
	if _, err := n.Node.Put(t.Context(), note(1), struct{}{}); !errors.Is(err, broken) || !strings.Contains(err.Error(), "checks-drafts") {
		t.Errorf("%v, want the handler's name and %v", err, broken)
	}
	if _, err := n.Node.Put(t.Context(), note(1), map[string]bool{"draft": true}); err == nil || !strings.Contains(err.Error(), "Draft") {
		t.Errorf("%v, want the reason", err)
	}
	if has, err := n.Has(t.Context(), note(1)); has || err != nil {
		t.Errorf("held: %t, %v", has, err)
	}
}

func TestPutEndsWithItsContext(t *testing.T) {
	held := make(chan struct{})
	n := nodetest.NewFleet(t).Start("n", node.WithHandlers(pipeline.Handler{
		Name: "waits", Phase: pipeline.PhaseBundle, RIDTypes: []rid.Type{noteType},
		Func: func(ctx context.Context, _ *pipeline.Context, _ *pipeline.Object) error {
			select {
			case <-held:
			case <-ctx.Done():
			}
			return nil
		},
	}))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := n.Node.Put(ctx, note(1), struct{}{}); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want %v", err, context.Canceled)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := n.Node.Put(ctx, note(2), struct{}{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v, want %v", err, context.DeadlineExceeded)
	}
	close(held)
	n.WaitBundle(note(2), `{}`) // nobody waited, but it was accepted
}

// What is put while the node does not run waits, on disk, until it does.
func TestPutBeforeRun(t *testing.T) {
	cfg := lifeConfig(t)
	n, err := node.New(node.WithConfig(cfg))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := n.Put(ctx, note(1), struct{}{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v, want %v", err, context.DeadlineExceeded)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Put(t.Context(), note(2), struct{}{}); !errors.Is(err, store.ErrClosed) {
		t.Errorf("after Close: %v, want %v", err, store.ErrClosed)
	}
	again := nodetest.NewFleet(t).Start("life", node.WithConfig(cfg))
	again.WaitBundle(note(1), `{}`)
}

func TestForget(t *testing.T) {
	var heard told
	f := nodetest.NewFleet(t)
	n := f.Start("n", heard.option())
	if err := n.Node.Forget(t.Context(), note(1)); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("%v, want %v", err, store.ErrNotFound)
	}
	heard.expect(t)
	put(t, n, note(1), struct{}{})
	if err := n.Node.Forget(t.Context(), note(1)); err != nil {
		t.Fatal(err)
	}
	heard.expect(t, "NEW 1", "FORGET 1")
	if has, err := n.Has(t.Context(), note(1)); has || err != nil {
		t.Errorf("held: %t, %v", has, err)
	}
	if err := n.Node.Forget(t.Context(), note(1)); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("again: %v, want %v", err, store.ErrNotFound)
	}
}

func TestHas(t *testing.T) {
	n := nodetest.NewFleet(t).Start("n")
	put(t, n, note(1), struct{}{})
	for r, want := range map[rid.RID]bool{note(1): true, note(2): false, n.RID(): true, note(1) + "0": false} {
		if has, err := n.Has(t.Context(), r); has != want || err != nil {
			t.Errorf("%s: %t, %v; want %t", r, has, err, want)
		}
	}
	if _, err := n.Has(t.Context(), "note one"); !errors.Is(err, rid.ErrInvalid) {
		t.Errorf("%v, want %v", err, rid.ErrInvalid)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := n.Has(ctx, note(1)); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want %v", err, context.Canceled)
	}
}

// write puts as many bundles of a type, in transactions shared by many.
func write(t *testing.T, m *nodetest.Member, kind rid.Type, count int) []rid.RID {
	t.Helper()
	var rids []rid.RID
	var bundles []protocol.Bundle
	for i := range count {
		r := rid.RID(fmt.Sprintf("%s:%06d", kind, i))
		b, err := protocol.NewBundle(r, protocol.NewTimestamp(m.Now()), []byte(`{}`))
		if err != nil {
			t.Fatal(err)
		}
		rids, bundles = append(rids, r), append(bundles, b)
	}
	if err := m.Write(t.Context(), bundles...); err != nil {
		t.Fatal(err)
	}
	return rids
}

func TestRIDs(t *testing.T) {
	const pages, more rid.Type = "orn:test.page", "orn:test.more"
	n := nodetest.NewFleet(t).Start("n")
	many := write(t, n, pages, 2500) // more than two pages of the iterator
	few := write(t, n, more, 3)
	collect := func(types ...rid.Type) (out []rid.RID) {
		t.Helper()
		for r, err := range n.RIDs(t.Context(), types...) {
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, r)
		}
		return out
	}
	for name, tt := range map[string]struct {
		types []rid.Type
		want  []rid.RID
	}{
		"all":      {nil, slices.Concat([]rid.RID{n.RID()}, few, many)}, // by type, then RID
		"many":     {[]rid.Type{pages}, many},
		"two":      {[]rid.Type{pages, more}, slices.Concat(few, many)},
		"none":     {[]rid.Type{"orn:test.none"}, nil},
		"its self": {[]rid.Type{rid.NodeType}, []rid.RID{n.RID()}},
	} {
		if got := collect(tt.types...); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %d RIDs, want %d", name, len(got), len(tt.want))
		}
	}
	// No transaction is held: what is seen can be changed on the way.
	seen := 0
	for r, err := range n.RIDs(t.Context(), more) {
		if err == nil {
			err = n.Node.Forget(t.Context(), r)
		}
		if err != nil {
			t.Fatal(err)
		}
		if seen++; seen == 2 {
			break
		}
	}
	if got := collect(more); !slices.Equal(got, few[2:]) {
		t.Errorf("left: %v", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var last error
	seen = 0
	for _, err := range n.RIDs(ctx, pages) {
		seen++
		last = err
		cancel()
	}
	if !errors.Is(last, context.Canceled) || seen > 1001 {
		t.Errorf("%d elements after the end of the context, the last with %v", seen, last)
	}
}

func TestWriteAndDropTellNobody(t *testing.T) {
	var heard told
	n := nodetest.NewFleet(t).Start("n", heard.option())
	at := n.Now()
	bundle := func(i int, after time.Duration, contents string) protocol.Bundle {
		b, err := protocol.NewBundle(note(i), protocol.NewTimestamp(at.Add(after)), []byte(contents))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	if err := n.Write(t.Context(), bundle(1, 0, `{"n":1}`), bundle(2, 0, `{"n":2}`)); err != nil {
		t.Fatal(err)
	}
	if err := n.Write(t.Context(), bundle(1, -time.Second, `{"older":1}`), bundle(2, time.Second, `{"newer":2}`)); err != nil {
		t.Fatal(err)
	}
	for r, want := range map[rid.RID]string{note(1): `{"n":1}`, note(2): `{"newer":2}`} {
		if got := contentsOf(t, n, r); got != want {
			t.Errorf("%s: %s, want %s", r, got, want)
		}
	}
	if err := n.Drop(t.Context(), note(1), note(3)); err != nil {
		t.Fatal(err)
	}
	if has, err := n.Has(t.Context(), note(1)); has || err != nil {
		t.Errorf("dropped and held: %t, %v", has, err)
	}
	if err := n.Drop(t.Context(), note(2), n.RID()); err == nil {
		t.Error("the node dropped itself")
	}
	if has, err := n.Has(t.Context(), note(2)); !has || err != nil {
		t.Errorf("a drop that was refused dropped: %t, %v", !has, err)
	}
	if err := errors.Join(n.Write(t.Context()), n.Drop(t.Context())); err != nil {
		t.Errorf("nothing to do: %v", err)
	}
	heard.expect(t)
	// What was written is the node's own: others may not take it back.
	p := hostile.NewPeer(t)
	if _, err := p.Say(t.Context(), n.URL(), hostile.Forget(note(2))); err != nil {
		t.Fatal(err)
	}
	if err := n.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := contentsOf(t, n, note(2)); got != `{"newer":2}` {
		t.Errorf("held: %s", got)
	}
}

// Quiet changes stay with the node, and what is put later is told of.
func TestSubscriberHearsOfPutsAlone(t *testing.T) {
	f := nodetest.NewFleet(t)
	first := f.Start("first", node.AsCoordinator())
	sens := f.Start("sensor", node.WithProvides(noteType), node.WithFirstContact(first.URL()))
	read := f.Start("reader", node.WithInterests(noteType), node.WithFirstContact(first.URL()))
	read.WaitEdge(sens.RID(), read.RID(), protocol.Approved)
	sens.WaitEdge(sens.RID(), read.RID(), protocol.Approved)
	quiet := write(t, sens, noteType, 1)[0]
	sens.Put(note(1), `{"n":1}`)
	read.WaitBundle(note(1), `{"n":1}`)
	if has, err := read.Has(t.Context(), quiet); has || err != nil {
		t.Errorf("the reader holds what was written quietly: %t, %v", has, err)
	}
	if err := sens.Drop(t.Context(), note(1)); err != nil {
		t.Fatal(err)
	}
	sens.Put(note(2), `{"n":2}`)
	sens.Forget(note(2))
	sens.Put(note(3), `{"n":3}`)
	read.WaitBundle(note(3), `{"n":3}`)
	read.WaitForgotten(note(2))
	if has, err := read.Has(t.Context(), note(1)); !has || err != nil {
		t.Errorf("the reader holds what was dropped quietly: %t, %v", has, err)
	}
}
