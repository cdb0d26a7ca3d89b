package graph_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/koi-net/koi-operator/node/graph"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

const (
	self rid.RID  = "orn:koi-net.node:self+0"
	a    rid.RID  = "orn:koi-net.node:a+1"
	b    rid.RID  = "orn:koi-net.node:b+2"
	c    rid.RID  = "orn:koi-net.node:c+3"
	note rid.Type = "orn:example.note"
	task rid.Type = "orn:example.task"
)

func node(r rid.RID, kind protocol.NodeKind, state ...rid.Type) graph.Node {
	return graph.Node{RID: r, Verified: true, Profile: protocol.NodeProfile{NodeType: kind, Provides: protocol.Provides{State: state}}}
}

func edge(source, target rid.RID, status protocol.EdgeStatus, types ...rid.Type) graph.Edge {
	return graph.Edge{
		RID:     rid.NewEdge(source, target),
		Profile: protocol.EdgeProfile{Source: source, Target: target, Status: status, EdgeType: protocol.Webhook, RIDTypes: types},
	}
}

func want[T any](t *testing.T, what string, got, want T) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s = %v, want %v", what, got, want)
	}
}

func TestNodes(t *testing.T) {
	g := graph.New(self)
	g.PutNode(node(b, protocol.Full, note, task))
	g.PutNode(node(a, protocol.Full, note))
	g.PutNode(node(c, protocol.Partial, note))
	g.PutNode(node(self, protocol.Full, note))
	hearsay := node("orn:koi-net.node:d+4", protocol.Full, note)
	hearsay.Verified = false
	g.PutNode(hearsay)
	want(t, "Providers(note)", g.Providers(note), []rid.RID{a, b})
	want(t, "Providers(task)", g.Providers(task), []rid.RID{b})
	want(t, "Providers(none)", g.Providers("none"), nil)
	want(t, "number of nodes", len(g.Nodes()), 5)
	if all := g.Nodes(); !slices.IsSortedFunc(all, func(x, y graph.Node) int { return compare(x.RID, y.RID) }) {
		t.Errorf("Nodes are not sorted: %v", all)
	}

	g.PutNode(node(b, protocol.Full, task)) // a profile that shrinks
	want(t, "Providers(note)", g.Providers(note), []rid.RID{a})
	g.PutNode(node(b, protocol.Partial, task))
	want(t, "Providers(task)", g.Providers(task), nil)
	if n, known := g.Node(b); !known || n.Profile.NodeType != protocol.Partial {
		t.Errorf("Node(b) = %v, %t", n, known)
	}

	if n, found := g.FindNode(func(n graph.Node) bool { return n.Profile.NodeType == protocol.Partial && n.RID != c }); !found || n.RID != b {
		t.Errorf("FindNode = %v, %t", n, found)
	}
	if n, found := g.FindNode(func(n graph.Node) bool { return n.RID == "nobody" }); found {
		t.Errorf("FindNode = %v", n)
	}

	for range 2 {
		g.DeleteNode(a)
		if _, known := g.Node(a); known {
			t.Error("a is known after it was deleted")
		}
		want(t, "Providers(note)", g.Providers(note), nil)
	}
}

func compare(x, y rid.RID) int {
	switch {
	case x < y:
		return -1
	case x > y:
		return 1
	}
	return 0
}

func TestEdges(t *testing.T) {
	g := graph.New(self)
	g.PutEdge(edge(self, a, protocol.Approved, note))
	g.PutEdge(edge(self, b, protocol.Approved, note, task))
	g.PutEdge(edge(self, c, protocol.Proposed, note))
	g.PutEdge(edge(a, self, protocol.Approved, task))
	g.PutEdge(edge(c, self, protocol.Proposed, task))
	g.PutEdge(edge(a, b, protocol.Approved, note))

	want(t, "Subscribers(note)", g.Subscribers(note), []rid.RID{a, b})
	want(t, "Subscribers(task)", g.Subscribers(task), []rid.RID{b})
	want(t, "Subscribers(none)", g.Subscribers("none"), nil)
	for _, test := range []struct {
		query graph.Query
		want  []rid.RID
	}{
		{graph.Query{}, []rid.RID{a, b, c}},
		{graph.Query{Direction: graph.In}, []rid.RID{a, c}},
		{graph.Query{Direction: graph.Out}, []rid.RID{a, b, c}},
		{graph.Query{Direction: graph.Out, Status: protocol.Proposed}, []rid.RID{c}},
		{graph.Query{Direction: graph.In, Status: protocol.Approved}, []rid.RID{a}},
		{graph.Query{Direction: graph.In, Type: note}, nil},
		{graph.Query{Type: task}, []rid.RID{a, b, c}},
		{graph.Query{Type: task, Status: protocol.Approved}, []rid.RID{a, b}},
	} {
		want(t, fmt.Sprintf("Neighbors(%+v)", test.query), g.Neighbors(test.query), test.want)
	}
	for _, test := range []struct {
		node rid.RID
		typ  rid.Type
		want bool
	}{{a, task, true}, {a, note, false}, {c, task, false}, {b, task, false}, {self, note, false}} {
		want(t, fmt.Sprintf("HasApprovedFrom(%s, %s)", test.node, test.typ), g.HasApprovedFrom(test.node, test.typ), test.want)
	}
	want(t, "number of edges", len(g.Edges()), 6)
	want(t, "number of edges of a", len(g.EdgesOf(a)), 3)
	want(t, "number of edges of nobody", len(g.EdgesOf("orn:koi-net.node:d+4")), 0)
	if e, ok := g.Edge(self, c); !ok || e.Profile.Status != protocol.Proposed {
		t.Errorf("Edge(self, c) = %v, %t", e, ok)
	}
	if _, ok := g.Edge(c, b); ok {
		t.Error("there is an edge from c to b")
	}

	g.PutEdge(edge(self, b, protocol.Approved, note)) // terms that shrink
	want(t, "Subscribers(task)", g.Subscribers(task), nil)
	g.PutEdge(edge(self, b, protocol.Proposed, note))
	want(t, "Subscribers(note)", g.Subscribers(note), []rid.RID{a})
	g.DeleteNode(a) // leaves its edges
	want(t, "Subscribers(note)", g.Subscribers(note), []rid.RID{a})
	for range 2 {
		g.DeleteEdge(rid.NewEdge(self, a))
		want(t, "Subscribers(note)", g.Subscribers(note), nil)
		want(t, "number of edges of a", len(g.EdgesOf(a)), 2)
	}
}

func TestOneEdgeForAPair(t *testing.T) {
	legacy, current := rid.LegacyEdge(self, a), rid.NewEdge(self, a)
	put := func(g *graph.Graph, r rid.RID, types ...rid.Type) {
		e := edge(self, a, protocol.Approved, types...)
		e.RID = r
		g.PutEdge(e)
	}
	for _, test := range []struct {
		name          string
		first, second rid.RID
	}{
		{"legacy, then current", legacy, current},
		{"current, then legacy", current, legacy},
		{"odd, then current", "orn:koi-net.edge:odd", current},
		{"legacy, then odd", legacy, "orn:koi-net.edge:odd"},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, by := range []rid.RID{test.first, test.second, legacy, current} {
				g := graph.New(self)
				put(g, test.first, note)
				put(g, test.second, task)
				want(t, "number of edges", len(g.Edges()), 1)
				want(t, "Subscribers(note)", g.Subscribers(note), nil)
				want(t, "Subscribers(task)", g.Subscribers(task), []rid.RID{a})
				if e, ok := g.EdgeByRID(by); !ok || e.RID != test.second {
					t.Errorf("EdgeByRID(%s) = %v, %t", by, e, ok)
				}
				g.DeleteEdge(by)
				want(t, "number of edges", len(g.Edges()), 0)
				want(t, "Subscribers(task)", g.Subscribers(task), nil)
				for _, r := range []rid.RID{test.first, test.second, legacy, current} {
					if _, ok := g.EdgeByRID(r); ok {
						t.Errorf("%s is known after deleting %s", r, by)
					}
				}
			}
		})
	}
}

// A RID names one bundle, whoever wrote it.
func TestRIDOfAnotherPair(t *testing.T) {
	g := graph.New(self)
	g.PutEdge(edge(self, a, protocol.Approved, note))
	taken := edge(self, b, protocol.Approved, note)
	taken.RID = rid.NewEdge(self, a)
	g.PutEdge(taken)
	want(t, "Subscribers(note)", g.Subscribers(note), []rid.RID{b})
	if _, ok := g.Edge(self, a); ok {
		t.Error("the edge whose bundle was replaced is still there")
	}

	// The rightful edge comes back under its legacy RID: both are found.
	back := edge(self, a, protocol.Approved, note)
	back.RID = rid.LegacyEdge(self, a)
	g.PutEdge(back)
	want(t, "Subscribers(note)", g.Subscribers(note), []rid.RID{a, b})
	if e, ok := g.EdgeByRID(taken.RID); !ok || e.Profile.Target != b {
		t.Errorf("EdgeByRID = %v, %t", e, ok)
	}
	g.DeleteEdge(taken.RID)
	want(t, "Subscribers(note)", g.Subscribers(note), []rid.RID{a})
	if e, ok := g.EdgeByRID(taken.RID); !ok || e.Profile.Target != a {
		t.Errorf("EdgeByRID = %v, %t", e, ok)
	}
}

// Whoever names one pair by ever new RIDs does not fill our memory.
func TestAliasesAreBounded(t *testing.T) {
	g := graph.New(self)
	e := edge(self, a, protocol.Approved, note)
	odd := func(n int) rid.RID { return rid.RID(fmt.Sprintf("orn:koi-net.edge:%d", n)) }
	for n := range 100 {
		e.RID = odd(n)
		g.PutEdge(e)
	}
	known := 0
	for n := range 100 {
		if _, ok := g.EdgeByRID(odd(n)); ok {
			known++
		}
	}
	if known < 2 || known > 10 {
		t.Errorf("%d of 100 former RIDs are remembered", known)
	}
	for _, r := range []rid.RID{odd(99), odd(98), rid.NewEdge(self, a), rid.LegacyEdge(self, a)} {
		if _, ok := g.EdgeByRID(r); !ok {
			t.Errorf("%s is not known", r)
		}
	}
}

func TestLoop(t *testing.T) {
	g := graph.New(self)
	g.PutEdge(edge(self, self, protocol.Approved, note))
	want(t, "number of edges of self", len(g.EdgesOf(self)), 1)
	want(t, "Neighbors", g.Neighbors(graph.Query{}), []rid.RID{self})
	g.DeleteEdge(rid.NewEdge(self, self))
	want(t, "number of edges of self", len(g.EdgesOf(self)), 0)
}

// The indexes agree with a scan after any sequence of changes.
func TestAgreesWithScan(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	nodes := []rid.RID{self, a, b, c}
	types := []rid.Type{note, task, rid.NodeType}
	some := func() []rid.Type {
		return slices.DeleteFunc(slices.Clone(types), func(rid.Type) bool { return rng.IntN(2) == 0 })
	}
	pick := func() rid.RID { return nodes[rng.IntN(len(nodes))] }
	g := graph.New(self)
	for step := range 5000 {
		switch rng.IntN(5) {
		case 0:
			n := node(pick(), []protocol.NodeKind{protocol.Full, protocol.Partial}[rng.IntN(2)], some()...)
			n.Verified = rng.IntN(4) > 0
			g.PutNode(n)
		case 1:
			g.DeleteNode(pick())
		case 2, 3:
			e := edge(pick(), pick(), []protocol.EdgeStatus{protocol.Approved, protocol.Proposed}[rng.IntN(2)], some()...)
			switch rng.IntN(4) {
			case 0:
				e.RID = rid.LegacyEdge(e.Profile.Source, e.Profile.Target)
			case 1:
				e.RID = rid.NewEdge(pick(), pick())
			}
			g.PutEdge(e)
		case 4:
			if all := g.Edges(); len(all) > 0 {
				e := all[rng.IntN(len(all))]
				g.DeleteEdge([]rid.RID{e.RID, rid.LegacyEdge(e.Profile.Source, e.Profile.Target)}[rng.IntN(2)])
			}
		}
		edges := g.Edges()
		for _, typ := range types {
			var subscribers, providers []rid.RID
			for _, e := range edges {
				if e.Profile.Source == self && e.Profile.Status == protocol.Approved && e.Profile.Allows(typ) {
					subscribers = append(subscribers, e.Profile.Target)
				}
			}
			for _, n := range g.Nodes() {
				if n.RID != self && n.Verified && n.Profile.NodeType == protocol.Full && slices.Contains(n.Profile.Provides.State, typ) {
					providers = append(providers, n.RID)
				}
			}
			slices.Sort(subscribers)
			if got := g.Subscribers(typ); !slices.Equal(got, subscribers) {
				t.Fatalf("step %d: Subscribers(%s) = %v, want %v", step, typ, got, subscribers)
			}
			if got := g.Providers(typ); !slices.Equal(got, providers) {
				t.Fatalf("step %d: Providers(%s) = %v, want %v", step, typ, got, providers)
			}
			most := rng.IntN(4)
			if got, want := g.SomeProviders(typ, most, false), providers[:min(most, len(providers))]; !slices.Equal(got, want) {
				t.Fatalf("step %d: SomeProviders(%s, %d) = %v, want %v", step, typ, most, got, want)
			}
			approved := slices.DeleteFunc(slices.Clone(providers), func(r rid.RID) bool { return !g.HasApprovedFrom(r, typ) })
			if got, want := g.SomeProviders(typ, most, true), approved[:min(most, len(approved))]; !slices.Equal(got, want) {
				t.Fatalf("step %d: approved of SomeProviders(%s, %d) = %v, want %v", step, typ, most, got, want)
			}
			for _, away := range nodes {
				e, ok := g.Edge(away, self)
				if want := ok && e.Profile.Status == protocol.Approved && e.Profile.Allows(typ); g.HasApprovedFrom(away, typ) != want {
					t.Fatalf("step %d: HasApprovedFrom(%s, %s) is %t", step, away, typ, !want)
				}
			}
		}
		ends := 0
		for _, n := range nodes {
			var of []rid.RID
			for _, e := range edges {
				if e.Profile.Source == n || e.Profile.Target == n {
					of = append(of, e.RID)
				}
			}
			var got []rid.RID
			for _, e := range g.EdgesOf(n) {
				got = append(got, e.RID)
			}
			if ends += len(of); !slices.Equal(got, of) {
				t.Fatalf("step %d: EdgesOf(%s) = %v, want %v", step, n, got, of)
			}
		}
		for _, q := range []graph.Query{{}, {Direction: graph.In}, {Direction: graph.Out, Status: protocol.Approved}, {Type: task}} {
			var want []rid.RID
			for _, e := range edges {
				if q.Status != "" && e.Profile.Status != q.Status || q.Type != "" && !e.Profile.Allows(q.Type) {
					continue
				}
				if e.Profile.Source == self && q.Direction != graph.In {
					want = append(want, e.Profile.Target)
				}
				if e.Profile.Target == self && q.Direction != graph.Out {
					want = append(want, e.Profile.Source)
				}
			}
			slices.Sort(want)
			if got := g.Neighbors(q); !slices.Equal(got, slices.Compact(want)) {
				t.Fatalf("step %d: Neighbors(%+v) = %v, want %v", step, q, got, want)
			}
		}
		loops := 0
		for _, e := range edges {
			if e.Profile.Source == e.Profile.Target {
				loops++
			}
			if got, ok := g.EdgeByRID(e.RID); !ok || got.Profile.Source != e.Profile.Source || got.Profile.Target != e.Profile.Target {
				t.Fatalf("step %d: EdgeByRID(%s) = %v, %t", step, e.RID, got, ok)
			}
		}
		if ends != 2*len(edges)-loops {
			t.Fatalf("step %d: %d ends of %d edges", step, ends, len(edges))
		}
	}
}

func TestConcurrent(t *testing.T) {
	g := graph.New(self)
	var wg sync.WaitGroup
	for worker := range 4 {
		wg.Go(func() {
			for n := range 200 {
				r := rid.RID(fmt.Sprintf("orn:koi-net.node:n+%d", n))
				switch worker {
				case 0:
					g.PutNode(node(r, protocol.Full, note))
					g.PutEdge(edge(self, r, protocol.Approved, note))
				case 1:
					g.DeleteEdge(rid.LegacyEdge(self, r))
					g.DeleteNode(r)
				case 2:
					_ = append(g.Subscribers(note), self)
					g.Neighbors(graph.Query{})
				default:
					g.Nodes()
					g.EdgesOf(self)
					g.Providers(note)
				}
			}
		})
	}
	wg.Wait()
	for n := range 200 {
		r := rid.RID(fmt.Sprintf("orn:koi-net.node:n+%d", n))
		g.DeleteNode(r)
		g.DeleteEdge(rid.NewEdge(self, r))
	}
	want(t, "nodes and edges left", len(g.Nodes())+len(g.Edges()), 0)
	want(t, "Subscribers", g.Subscribers(note), nil)
}

// One change in a star costs the same whatever the size of the network.
func BenchmarkPut(b *testing.B) {
	for _, size := range []int{100, 100_000} {
		g := graph.New(self)
		for n := range size {
			r := rid.RID(fmt.Sprintf("orn:koi-net.node:n+%d", n))
			g.PutNode(node(r, protocol.Full, note))
			g.PutEdge(edge(self, r, protocol.Approved, task))
		}
		n := node("orn:koi-net.node:n+50", protocol.Full, note)
		e := edge(self, n.RID, protocol.Approved, task)
		b.Run(fmt.Sprintf("node/%d", size), func(b *testing.B) {
			for b.Loop() {
				g.PutNode(n)
			}
		})
		b.Run(fmt.Sprintf("edge/%d", size), func(b *testing.B) {
			for b.Loop() {
				g.PutEdge(e)
			}
		})
		b.Run(fmt.Sprintf("approved/%d", size), func(b *testing.B) {
			for b.Loop() {
				g.HasApprovedFrom(n.RID, task)
			}
		})
	}
}
