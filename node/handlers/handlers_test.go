package handlers_test

import (
	"context"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/koi-net/koi-operator/node/edge"
	"github.com/koi-net/koi-operator/node/graph"
	"github.com/koi-net/koi-operator/node/handlers"
	"github.com/koi-net/koi-operator/node/pipeline"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
	"github.com/koi-net/koi-operator/node/store/bolt"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	self   rid.RID  = "orn:koi-net.node:self+1"
	alice  rid.RID  = "orn:koi-net.node:alice+2"
	bob    rid.RID  = "orn:koi-net.node:bob+3"
	partly rid.RID  = "orn:koi-net.node:partly+4"
	notes  rid.Type = "orn:test.note"
	note   rid.RID  = "orn:test.note:1"
	other  rid.RID  = "orn:test.other:1"
)

var now = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// world is a processor with the default handlers on a real store.
type world struct {
	t     *testing.T
	p     *pipeline.Processor
	store store.Store
	graph *graph.Graph

	mu  sync.Mutex
	now time.Time
}

func newWorld(t *testing.T, change func(*handlers.Options)) *world {
	t.Helper()
	opts := handlers.Options{
		Self: self, Approval: edge.Automatic, ClockSkew: time.Minute,
		Profile: func() protocol.NodeProfile {
			return protocol.NodeProfile{BaseURL: "http://127.0.0.1:1/koi-net", NodeType: protocol.Full,
				Provides: protocol.Provides{Event: []rid.Type{notes}, State: []rid.Type{notes}}}
		},
	}
	if change != nil {
		change(&opts)
	}
	st, err := bolt.Open(bolt.Options{Path: filepath.Join(t.TempDir(), "s.db"), NodeRID: opts.Self, Create: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	w := &world{t: t, store: st, graph: graph.New(opts.Self), now: now}
	w.p, err = pipeline.New(pipeline.Config{
		Self: opts.Self, Store: st, Graph: w.graph, Handlers: handlers.Default(opts),
		Route: func(r rid.RID) (store.Queue, bool) {
			_, ok := w.graph.Node(r)
			return store.Outbox, ok
		},
		MaxAttempts: 2, RetryBase: time.Millisecond, Now: w.clock,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	w.do(pipeline.Object{RID: opts.Self, Contents: opts.Profile().Contents()})
	return w
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) advance(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

func (w *world) do(o pipeline.Object) pipeline.Outcome {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	out, err := w.p.Do(ctx, o)
	if err == nil {
		err = w.p.Flush(ctx)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return out[0]
}

// says has an event come in unsigned; it is stamped at after now.
func (w *world) says(kind protocol.EventType, r rid.RID, contents []byte, at time.Duration) pipeline.Outcome {
	w.t.Helper()
	return w.hears(pipeline.Unsigned, kind, r, contents, at)
}

// hears has an event come in from a source.
func (w *world) hears(from pipeline.Source, kind protocol.EventType, r rid.RID, contents []byte, at time.Duration) pipeline.Outcome {
	w.t.Helper()
	e := protocol.Event{RID: r, EventType: kind}
	if contents != nil {
		b, err := protocol.NewBundle(r, protocol.NewTimestamp(now.Add(at)), contents)
		if err != nil {
			w.t.Fatal(err)
		}
		e.Manifest, e.Contents = &b.Manifest, b.Contents
	}
	return w.do(pipeline.FromEvent(from, e))
}

func full(url string, provides ...rid.Type) []byte {
	return protocol.NodeProfile{BaseURL: url, NodeType: protocol.Full, Provides: protocol.Provides{Event: provides}}.Contents()
}

func (w *world) meet(nodes ...rid.RID) {
	w.t.Helper()
	for _, n := range nodes {
		contents := full("http://10.0.0.1/" + n.Reference()[:3])
		if n == partly {
			contents = protocol.NodeProfile{NodeType: protocol.Partial}.Contents()
		}
		if out := w.says(protocol.New, n, contents, 0); out.Stopped != "" || out.Err != nil {
			w.t.Fatalf("meeting %s: %+v", n, out)
		}
	}
}

func between(source, target rid.RID, status protocol.EdgeStatus, kind protocol.EdgeKind, types ...rid.Type) []byte {
	return protocol.EdgeProfile{Source: source, Target: target, EdgeType: kind, Status: status, RIDTypes: types}.Contents()
}

// queued returns "EVENT rid" for what waits for a peer.
func (w *world) queued(peer rid.RID) (out []string) {
	w.t.Helper()
	err := w.store.View(context.Background(), func(tx store.Reader) error {
		for row, err := range tx.QueueRows(store.Outbox, peer, 0) {
			if err != nil {
				return err
			}
			e, err := protocol.DecodeEvent(row.Event)
			if err != nil {
				return err
			}
			out = append(out, string(e.EventType)+" "+string(e.RID))
		}
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

func (w *world) status(source, target rid.RID) string {
	e, ok := w.graph.Edge(source, target)
	if !ok {
		return "none"
	}
	return string(e.Profile.Status)
}

func TestWhoMayTellUsWhat(t *testing.T) {
	w := newWorld(t, nil)
	w.do(pipeline.Object{RID: note, Contents: []byte(`{"mine":1}`)})
	w.says(protocol.New, other, []byte(`{"theirs":1}`), 0)
	for name, tt := range map[string]struct {
		out  pipeline.Outcome
		want string
	}{
		"about oneself":          {w.says(protocol.Forget, self, nil, 0), handlers.ReasonAboutOneself},
		"own knowledge changed":  {w.says(protocol.Update, note, []byte(`{"mine":2}`), time.Second), handlers.ReasonOwnKnowledge},
		"own knowledge forgot":   {w.says(protocol.Forget, note, nil, 0), handlers.ReasonOwnKnowledge},
		"forget of unknown":      {w.says(protocol.Forget, "orn:test.note:9", nil, 0), handlers.ReasonUnknownForgotten},
		"unchanged":              {w.says(protocol.Update, other, []byte(`{"theirs":1}`), time.Second), handlers.ReasonUnchanged},
		"older":                  {w.says(protocol.Update, other, []byte(`{"theirs":0}`), -time.Second), handlers.ReasonNotNewer},
		"from the future":        {w.says(protocol.Update, other, []byte(`{"theirs":9}`), time.Hour), handlers.ReasonFromTheFuture},
		"a little ahead":         {w.says(protocol.Update, other, []byte(`{"theirs":2}`), 59*time.Second), ""},
		"node without base URL":  {w.says(protocol.New, alice, []byte(`{"node_type":"FULL","provides":{"event":[],"state":[]}}`), 0), handlers.ReasonInvalidProfile},
		"node that claims ours":  {w.says(protocol.New, alice, full("http://127.0.0.1:1/koi-net"), 0), handlers.ReasonOurBaseURL},
		"edge without a profile": {w.says(protocol.New, rid.NewEdge(alice, bob), []byte(`{"source":"x"}`), 0), handlers.ReasonInvalidProfile},
	} {
		if tt.out.Stopped != tt.want || tt.out.Err != nil {
			t.Errorf("%s: %+v, want stopped %q", name, tt.out, tt.want)
		}
	}
}

func TestSourceNegotiates(t *testing.T) {
	r := rid.NewEdge(self, alice)
	for name, tt := range map[string]struct {
		policy   edge.Policy
		decision *store.Decision
		target   rid.RID
		proposal []byte
		want     string // status held afterwards
		told     string // what the target is told, the last of it
	}{
		"automatic":           {edge.Automatic, nil, alice, between(self, alice, protocol.Proposed, protocol.Webhook, notes), "APPROVED", "UPDATE " + string(r)},
		"manual":              {edge.Manual, nil, alice, between(self, alice, protocol.Proposed, protocol.Webhook, notes), "PROPOSED", ""},
		"not provided":        {edge.Automatic, nil, alice, between(self, alice, protocol.Proposed, protocol.Webhook, "orn:test.other"), "none", "FORGET " + string(r)},
		"self-approval":       {edge.Automatic, nil, alice, between(self, alice, protocol.Approved, protocol.Webhook, notes), "none", ""},
		"webhook to partial":  {edge.Automatic, nil, partly, between(self, partly, protocol.Proposed, protocol.Webhook, notes), "none", "FORGET " + string(rid.NewEdge(self, partly))},
		"poll by partial":     {edge.Automatic, nil, partly, between(self, partly, protocol.Proposed, protocol.Poll, notes), "APPROVED", "UPDATE " + string(rid.NewEdge(self, partly))},
		"refused by decision": {edge.Automatic, &store.Decision{Source: self, Target: alice}, alice, between(self, alice, protocol.Proposed, protocol.Webhook, notes), "none", "FORGET " + string(r)},
		"approved by decision": {edge.Manual, &store.Decision{Source: self, Target: alice, Approved: true, EdgeType: protocol.Webhook, RIDTypes: []rid.Type{notes}},
			alice, between(self, alice, protocol.Proposed, protocol.Webhook, notes), "APPROVED", "UPDATE " + string(r)},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, func(o *handlers.Options) { o.Approval = tt.policy })
			w.meet(alice, partly)
			if tt.decision != nil {
				if err := w.store.Update(t.Context(), func(tx store.Writer) error { return tx.PutDecision(*tt.decision) }); err != nil {
					t.Fatal(err)
				}
			}
			w.says(protocol.New, rid.NewEdge(self, tt.target), tt.proposal, 0)
			if got := w.status(self, tt.target); got != tt.want {
				t.Errorf("held: %s, want %s", got, tt.want)
			}
			told := append([]string{""}, w.queued(tt.target)...)
			if got := told[len(told)-1]; got != tt.told {
				t.Errorf("told %q, want %q", got, tt.told)
			}
		})
	}
}

func TestUnknownTargetMayIntroduceItselfMeanwhile(t *testing.T) {
	w := newWorld(t, nil)
	out := w.says(protocol.New, rid.NewEdge(self, alice), between(self, alice, protocol.Proposed, protocol.Webhook, notes), 0)
	if out.Stopped != pipeline.ReasonRetriesUsedUp {
		t.Errorf("outcome %+v, want it tried again", out)
	}
}

// The answer has to be later than the proposal, whatever our clock says.
func TestApprovalIsNewerThanProposal(t *testing.T) {
	w := newWorld(t, nil)
	w.meet(alice)
	w.says(protocol.New, rid.NewEdge(self, alice), between(self, alice, protocol.Proposed, protocol.Webhook, notes), 30*time.Second)
	e, _ := w.graph.Edge(self, alice)
	if at := e.Timestamp.Time(); !at.After(now.Add(30 * time.Second)) {
		t.Errorf("approved at %s", at)
	}
}

// Both generations' RIDs name one edge: the pair has one bundle.
func TestOneEdgeForAPair(t *testing.T) {
	w := newWorld(t, nil)
	w.meet(alice)
	first, second := rid.NewEdge(self, alice), rid.LegacyEdge(self, alice)
	w.says(protocol.New, first, between(self, alice, protocol.Proposed, protocol.Webhook, notes), 0)
	w.says(protocol.New, second, between(self, alice, protocol.Proposed, protocol.Webhook, notes), time.Second)
	e, ok := w.graph.Edge(self, alice)
	if !ok || e.RID != second || e.Profile.Status != protocol.Approved {
		t.Errorf("edge %+v, want it under the RID it last came with", e)
	}
	err := w.store.View(t.Context(), func(tx store.Reader) error { _, err := tx.Bundle(first); return err })
	if err == nil {
		t.Error("the bundle under the former RID is still there")
	}
}

func TestTargetTakesTheSourcesWord(t *testing.T) {
	r := rid.NewEdge(alice, self)
	propose := func(w *world) {
		w.do(pipeline.Object{RID: r, EventType: protocol.New, Contents: between(alice, self, protocol.Proposed, protocol.Webhook, notes)})
	}
	t.Run("approved", func(t *testing.T) {
		w := newWorld(t, nil)
		w.meet(alice)
		propose(w)
		w.says(protocol.Update, r, between(alice, self, protocol.Approved, protocol.Webhook, notes), time.Second)
		if got := w.status(alice, self); got != "APPROVED" {
			t.Errorf("held: %s", got)
		}
	})
	t.Run("approved by a clock that is behind", func(t *testing.T) {
		w := newWorld(t, nil)
		w.meet(alice)
		propose(w)
		w.says(protocol.Update, r, between(alice, self, protocol.Approved, protocol.Webhook, notes), -time.Hour)
		if got := w.status(alice, self); got != "APPROVED" {
			t.Errorf("held: %s", got)
		}
		// What is approved does not go back to an older word.
		w.says(protocol.Update, r, between(alice, self, protocol.Proposed, protocol.Webhook, notes), -2*time.Hour)
		if got := w.status(alice, self); got != "APPROVED" {
			t.Errorf("after an older word: %s", got)
		}
	})
	t.Run("unasked", func(t *testing.T) {
		w := newWorld(t, nil)
		w.meet(alice)
		w.says(protocol.New, r, between(alice, self, protocol.Approved, protocol.Webhook, notes), 0)
		if got := w.status(alice, self); got != "none" {
			t.Errorf("held: %s, but nobody asked for it", got)
		}
	})
	t.Run("other terms", func(t *testing.T) {
		w := newWorld(t, nil)
		w.meet(alice)
		propose(w)
		w.says(protocol.Update, r, between(alice, self, protocol.Approved, protocol.Webhook, "orn:test.other"), time.Second)
		e, _ := w.graph.Edge(alice, self)
		if e.Profile.Status != protocol.Proposed || !slices.Equal(e.Profile.RIDTypes, []rid.Type{notes}) {
			t.Errorf("held: %+v, want our own terms, proposed again", e.Profile)
		}
	})
	t.Run("forgotten", func(t *testing.T) {
		w := newWorld(t, nil)
		w.meet(alice)
		propose(w)
		w.says(protocol.Forget, r, nil, 0)
		if got := w.status(alice, self); got != "none" {
			t.Errorf("held: %s", got)
		}
	})
}

func TestWhoIsToldWhat(t *testing.T) {
	w := newWorld(t, nil)
	w.meet(alice, bob)
	w.says(protocol.New, rid.NewEdge(self, alice), between(self, alice, protocol.Proposed, protocol.Webhook, notes), 0)
	w.do(pipeline.Object{RID: note, Contents: []byte(`{"n":1}`)})
	w.do(pipeline.Object{RID: other, Contents: []byte(`{"n":1}`)})                          // not provided
	w.do(pipeline.Object{RID: "orn:test.note:2", Contents: []byte(`{"n":2}`), Quiet: true}) // not to be told
	w.do(pipeline.Object{RID: note, EventType: protocol.Forget})
	want := []string{"UPDATE " + string(rid.NewEdge(self, alice)), "NEW " + string(note), "FORGET " + string(note)}
	if got := w.queued(alice); !slices.Equal(got, want) {
		t.Errorf("the subscriber is told %v, want %v", got, want)
	}
	if got := w.queued(bob); len(got) != 0 {
		t.Errorf("who did not subscribe is told %v", got)
	}
}

func TestForgottenNodeTakesItsEdgesAlong(t *testing.T) {
	w := newWorld(t, nil)
	w.meet(alice, bob)
	for _, pair := range [][2]rid.RID{{self, alice}, {bob, alice}, {self, bob}} {
		w.says(protocol.New, rid.NewEdge(pair[0], pair[1]), between(pair[0], pair[1], protocol.Proposed, protocol.Webhook, notes), 0)
	}
	w.says(protocol.Forget, alice, nil, 0)
	if a, b := w.status(self, alice), w.status(bob, alice); a != "none" || b != "none" {
		t.Errorf("edges of the forgotten node: %s, %s", a, b)
	}
	if got := w.status(self, bob); got != "APPROVED" {
		t.Errorf("another node's edge: %s", got)
	}
	if got := w.queued(alice); len(got) != 0 {
		t.Errorf("events wait for a forgotten node: %v", got)
	}
}

func TestCoordinatorAnswersHandshakes(t *testing.T) {
	w := newWorld(t, func(o *handlers.Options) { o.Coordinator = true })
	w.says(protocol.Forget, alice, nil, 0)
	w.meet(alice)
	r := rid.NewEdge(alice, self)
	if got, want := w.queued(alice), []string{"NEW " + string(self), "NEW " + string(r)}; !slices.Equal(got, want) {
		t.Errorf("the newcomer is told %v, want %v", got, want)
	}
	e, _ := w.graph.Edge(alice, self)
	if e.Profile.Status != protocol.Proposed || e.Profile.EdgeType != protocol.Webhook ||
		!slices.Equal(e.Profile.RIDTypes, []rid.Type{rid.NodeType, rid.EdgeType}) {
		t.Errorf("proposed %+v", e.Profile)
	}
	// State that is caught up with is no self-introduction.
	b, err := protocol.NewBundle(bob, protocol.NewTimestamp(now), full("http://10.0.0.1/bob"))
	if err != nil {
		t.Fatal(err)
	}
	w.do(pipeline.FromBundle(pipeline.Unsigned, b))
	if got := w.queued(bob); len(got) != 0 {
		t.Errorf("a node that did not introduce itself is told %v", got)
	}
}
