package node_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/koi-net/koi-operator/node"
	"github.com/koi-net/koi-operator/node/nodetest"
	"github.com/koi-net/koi-operator/node/nodetest/hostile"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

// resolver is a Dereferencer that counts how often it was asked.
type resolver struct {
	asked  atomic.Int32
	answer any
	err    error
}

func (r *resolver) deref(context.Context, rid.RID) (any, error) {
	r.asked.Add(1)
	return r.answer, r.err
}

func deref(t *testing.T, m *nodetest.Member, r rid.RID, options ...node.DerefOption) string {
	t.Helper()
	b, err := m.Deref(t.Context(), r, options...)
	if err != nil {
		t.Fatal(err)
	}
	if b.Manifest.RID != r || protocol.VerifyHash(b.Contents, b.Manifest.SHA256Hash) != nil {
		t.Errorf("bundle %+v", b)
	}
	return string(b.Contents)
}

func TestDerefAsksByTypeInOrder(t *testing.T) {
	const pageType rid.Type = "orn:test.page"
	missing := &resolver{err: fmt.Errorf("not here: %w", store.ErrNotFound)}
	notes := &resolver{answer: map[string]string{"by": "notes"}}
	all := &resolver{answer: []byte(`{"by": "all"}`)}
	n := nodetest.NewFleet(t).Start("n",
		node.WithDeref(missing.deref, noteType, pageType), node.WithDeref(notes.deref, noteType), node.WithDeref(all.deref))
	for _, tt := range []struct {
		rid                 rid.RID
		want                string
		missing, notes, all int32
	}{
		{note(1), `{"by":"notes"}`, 1, 1, 0},
		{note(1), `{"by":"notes"}`, 1, 1, 0}, // from the cache
		{"orn:test.page:1", `{"by":"all"}`, 2, 1, 1},
		{"https://example.com/x", `{"by":"all"}`, 2, 1, 2},
	} {
		if got := deref(t, n, tt.rid); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.rid, got, tt.want)
		}
		if m, o, a := missing.asked.Load(), notes.asked.Load(), all.asked.Load(); m != tt.missing || o != tt.notes || a != tt.all {
			t.Errorf("%s: asked %d, %d, %d times; want %d, %d, %d", tt.rid, m, o, a, tt.missing, tt.notes, tt.all)
		}
	}
}

func TestDerefReadsTheCacheFirst(t *testing.T) {
	made := &resolver{answer: map[string]string{"made": "new"}}
	var heard told
	n := nodetest.NewFleet(t).Start("n", node.WithDeref(made.deref, noteType), heard.option())
	n.Put(note(1), `{"made":"before"}`)
	heard.expect(t, "NEW 1")
	if got := deref(t, n, note(1)); got != `{"made":"before"}` || made.asked.Load() != 0 {
		t.Errorf("%s, and %d questions", got, made.asked.Load())
	}
	if got := deref(t, n, note(1), node.SkipCache); got != `{"made":"new"}` || made.asked.Load() != 1 {
		t.Errorf("anew: %s, and %d questions", got, made.asked.Load())
	}
	heard.expect(t, "UPDATE 1") // what was made is the node's own knowledge
	if got := deref(t, n, note(1), node.SkipCache, node.SkipNetwork); got != `{"made":"new"}` {
		t.Errorf("unchanged: %s", got)
	}
	heard.expect(t)
	// No other node's word counts for it.
	if _, err := hostile.NewPeer(t).Say(t.Context(), n.URL(), hostile.Forget(note(1))); err != nil {
		t.Fatal(err)
	}
	if err := n.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.WaitBundle(note(1), `{"made":"new"}`)
}

func TestDerefFails(t *testing.T) {
	broken := errors.New("the page is behind a wall")
	second := &resolver{answer: struct{}{}}
	for name, tt := range map[string]struct {
		first *resolver
		want  error
		text  string
	}{
		"fails":              {&resolver{err: broken}, broken, string(note(1))},
		"no object":          {&resolver{answer: []int{1}}, nil, "JSON object"},
		"nothing":            {&resolver{}, nil, "JSON object"},
		"no JSON":            {&resolver{answer: json.RawMessage(`{`)}, nil, "contents of"},
		"what has no JSON":   {&resolver{answer: func() {}}, nil, "unsupported type"},
		"its own time is up": {&resolver{err: context.DeadlineExceeded}, context.DeadlineExceeded, string(note(1))},
	} {
		t.Run(name, func(t *testing.T) {
			n := nodetest.NewFleet(t).Start("n", node.WithDeref(tt.first.deref), node.WithDeref(second.deref))
			_, err := n.Deref(t.Context(), note(1))
			if err == nil || errors.Is(err, store.ErrNotFound) || tt.want != nil && !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("%v, want %v and %q", err, tt.want, tt.text)
			}
			if has, err := n.Has(t.Context(), note(1)); has || err != nil {
				t.Errorf("held: %t, %v", has, err)
			}
		})
	}
	if asked := second.asked.Load(); asked != 0 {
		t.Errorf("after a failure the next was asked, %d times", asked)
	}
}

func TestDerefOfNothing(t *testing.T) {
	missing := &resolver{err: store.ErrNotFound}
	n := nodetest.NewFleet(t).Start("n", node.WithDeref(missing.deref))
	for _, options := range [][]node.DerefOption{nil, {node.SkipNetwork}, {node.SkipCache}, {node.SkipCache, node.SkipNetwork}} {
		if b, err := n.Deref(t.Context(), note(1), options...); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%v: %+v, %v; want not found", options, b, err)
		}
	}
	if _, err := n.Deref(t.Context(), "note one"); err == nil {
		t.Error("a RID of no form was dereferenced")
	}
	// What is held and cannot be made again is not found by those who skip the cache.
	n.Put(note(1), `{}`)
	if _, err := n.Deref(t.Context(), note(1), node.SkipCache, node.SkipNetwork); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("%v, want not found", err)
	}
	if got := deref(t, n, note(1)); got != `{}` {
		t.Errorf("held: %s", got)
	}
}

// strangers are a provider of notes and a node that knows it but wants no notes.
func strangers(t *testing.T, options ...node.Option) (sensor, other *nodetest.Member) {
	t.Helper()
	f := nodetest.NewFleet(t)
	first := f.Start("first", node.AsCoordinator())
	sensor = f.Start("sensor", node.WithProvides(noteType), node.WithFirstContact(first.URL()))
	other = f.Start("other", append(options, node.WithFirstContact(first.URL()))...)
	knows(t, other, sensor.RID(), sensor.Profile())
	return sensor, other
}

// knows waits until a node holds another's profile, and would ask it.
func knows(t *testing.T, m *nodetest.Member, r rid.RID, p protocol.NodeProfile) {
	t.Helper()
	m.WaitBundle(r, string(p.Contents()))
	nodetest.Eventually(t, m.Name+" would ask "+string(r), func() (bool, string) {
		n, ok := m.Graph().Node(r)
		return ok && n.Verified, "not known by its own word"
	})
}

func TestDerefFromTheNetwork(t *testing.T) {
	missing := &resolver{err: store.ErrNotFound}
	sensor, other := strangers(t, node.WithDeref(missing.deref, noteType))
	sensor.Put(note(1), `{"n":1}`)
	if _, err := other.Deref(t.Context(), note(1), node.SkipNetwork); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("without the network: %v, want not found", err)
	}
	if got := deref(t, other, note(1)); got != `{"n":1}` {
		t.Errorf("from the sensor: %s", got)
	}
	if missing.asked.Load() < 2 {
		t.Error("the network was asked before the dereferencer")
	}
	other.WaitBundle(note(1), `{"n":1}`) // it was taken into the cache
	if _, err := other.Deref(t.Context(), note(2)); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("what nobody has: %v, want not found", err)
	}

	// It is the sensor's knowledge, which the sensor's next word replaces.
	sensor.Put(note(1), `{"n":2}`)
	if got := deref(t, other, note(1)); got != `{"n":1}` {
		t.Errorf("from the cache: %s", got)
	}
	if got := deref(t, other, note(1), node.SkipCache); got != `{"n":2}` {
		t.Errorf("anew: %s", got)
	}
	if got := deref(t, other, note(1), node.SkipCache); got != `{"n":2}` {
		t.Errorf("anew and unchanged: %s", got)
	}
}

func TestDerefFromANodeThatIsAway(t *testing.T) {
	sensor, other := strangers(t, impatient)
	sensor.Put(note(1), `{"n":1}`)
	sensor.Stop()
	if _, err := other.Deref(t.Context(), note(1)); err == nil || errors.Is(err, store.ErrNotFound) {
		t.Errorf("%v, want an error that says that nobody could be asked", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := other.Deref(ctx, note(1)); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want %v", err, context.Canceled)
	}
}

func impatient(c *node.Config) { c.RequestTimeout = 500 * time.Millisecond }

// A provider's bundle is checked like any other.
func TestDerefFromALiar(t *testing.T) {
	p := hostile.NewPeer(t, noteType)
	n := nodetest.NewFleet(t).Start("n", impatient)
	if err := p.Introduce(t.Context(), n.URL()); err != nil {
		t.Fatal(err)
	}
	knows(t, n, p.RID(), p.Profile)
	wrong := hostile.WrongHash(note(1), n.Now())
	p.Hold(protocol.Bundle{Manifest: *wrong.Manifest, Contents: wrong.Contents})
	if b, err := n.Deref(t.Context(), note(1)); err == nil {
		t.Errorf("%+v was taken", b)
	}
	for _, m := range []hostile.Misbehaviour{hostile.NotJSON, hostile.WrongJSON, hostile.ServerError, hostile.Hang, hostile.Reset, hostile.GzipBomb} {
		p.Misbehave(m, hostile.FetchBundles)
		before := p.Calls(hostile.FetchBundles)
		if b, err := n.Deref(t.Context(), note(1)); err == nil || errors.Is(err, store.ErrNotFound) {
			t.Errorf("%s: %+v, %v", m, b, err)
		}
		if p.Calls(hostile.FetchBundles) == before {
			t.Errorf("%s: the peer was not asked", m)
		}
	}
	if has, err := n.Has(t.Context(), note(1)); has || err != nil {
		t.Errorf("held: %t, %v", has, err)
	}
	p.Behave()
	right, err := hostile.Honest(note(1), n.Now(), `{"n":1}`)
	if err != nil {
		t.Fatal(err)
	}
	p.Hold(protocol.Bundle{Manifest: *right.Manifest, Contents: right.Contents})
	if got := deref(t, n, note(1)); got != `{"n":1}` {
		t.Errorf("the truth: %s", got)
	}
}

// A dereferencer works under the caller's context.
func TestDerefGivesItsContextOn(t *testing.T) {
	type key struct{}
	n := nodetest.NewFleet(t).Start("n", node.WithDeref(func(ctx context.Context, _ rid.RID) (any, error) {
		return map[string]any{"given": ctx.Value(key{})}, nil
	}))
	b, err := n.Deref(context.WithValue(t.Context(), key{}, http.MethodGet), note(1))
	if err != nil || string(b.Contents) != `{"given":"GET"}` {
		t.Errorf("%s, %v", b.Contents, err)
	}
}
