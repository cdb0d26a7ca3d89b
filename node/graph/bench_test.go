package graph_test

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/koi-net/koi-operator/node/graph"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// sizes are how many nodes are known besides the ones that change.
var sizes = []int{100, 10_000, 100_000}

func benchNode(i int) graph.Node {
	return graph.Node{
		RID: rid.RID(fmt.Sprintf("orn:koi-net.node:node%06d+%064d", i, i)), Verified: true,
		Profile: protocol.NodeProfile{
			NodeType: protocol.Full, BaseURL: fmt.Sprintf("http://node%06d.example/koi-net", i),
			Provides: protocol.Provides{Event: []rid.Type{note}, State: []rid.Type{note, task}},
		},
	}
}

// network is what a coordinator of n nodes knows: each of them, and an edge from us
// to every tenth, from it to us, and from it to the next one.
func network(n int) *graph.Graph {
	g := graph.New(self)
	for i := range n {
		g.PutNode(benchNode(i))
		g.PutEdge(edge(benchNode(i).RID, self, protocol.Approved, note, task))
		g.PutEdge(edge(benchNode(i).RID, benchNode((i+1)%n).RID, protocol.Approved, note))
		if i%10 == 0 {
			g.PutEdge(edge(self, benchNode(i).RID, protocol.Approved, note, rid.NodeType))
		}
	}
	return g
}

// each runs fn against networks of all sizes; i counts the rounds.
func each(b *testing.B, fn func(b *testing.B, g *graph.Graph, n, i int)) {
	for _, n := range sizes {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			g, i := network(n), 0
			b.ReportAllocs()
			for b.Loop() {
				fn(b, g, n, i)
				i++
			}
		})
	}
}

// BenchmarkPutNode has a node known: the next of a thousand that come round again.
func BenchmarkPutNode(b *testing.B) {
	var nodes []graph.Node
	for i := range 1000 {
		nodes = append(nodes, benchNode(500_000+i))
	}
	each(b, func(_ *testing.B, g *graph.Graph, _, i int) { g.PutNode(nodes[i%len(nodes)]) })
}

// BenchmarkPutDeleteNode has a node known and forgets it.
func BenchmarkPutDeleteNode(b *testing.B) {
	added := benchNode(500_000)
	each(b, func(_ *testing.B, g *graph.Graph, _, _ int) {
		g.PutNode(added)
		g.DeleteNode(added.RID)
	})
}

// BenchmarkPutEdge has an edge of others change.
func BenchmarkPutEdge(b *testing.B) {
	changed := edge(benchNode(7).RID, benchNode(70).RID, protocol.Approved, note, task)
	each(b, func(_ *testing.B, g *graph.Graph, _, _ int) { g.PutEdge(changed) })
}

// BenchmarkPutDeleteEdge gains a subscriber and loses it.
func BenchmarkPutDeleteEdge(b *testing.B) {
	added := edge(self, benchNode(7).RID, protocol.Approved, note, rid.NodeType)
	each(b, func(_ *testing.B, g *graph.Graph, _, _ int) {
		g.PutEdge(added)
		g.DeleteEdge(added.RID)
	})
}

// BenchmarkNodeEvent is all that one node event asks of the graph: the change, an
// edge that comes with it, its standing, and who is told of it, ten nodes whatever
// the size of the network.
func BenchmarkNodeEvent(b *testing.B) {
	changed := benchNode(3)
	each(b, func(b *testing.B, g *graph.Graph, n, i int) {
		if i == 0 {
			for j := range n {
				if j%10 == 0 && j >= 100 {
					g.DeleteEdge(rid.NewEdge(self, benchNode(j).RID))
				}
			}
			b.ResetTimer()
		}
		if !g.HasApprovedFrom(changed.RID, note) {
			b.Fatal("no standing")
		}
		g.PutNode(changed)
		g.PutEdge(edge(changed.RID, self, protocol.Approved, note, task))
		if got := g.Subscribers(rid.NodeType); len(got) != 10 {
			b.Fatalf("%d subscribers", len(got))
		}
	})
}

// BenchmarkLookups are the questions about one node or edge.
func BenchmarkLookups(b *testing.B) {
	r := benchNode(42).RID
	e := rid.NewEdge(r, self)
	each(b, func(b *testing.B, g *graph.Graph, _, _ int) {
		_, node := g.Node(r)
		_, between := g.Edge(r, self)
		_, by := g.EdgeByRID(e)
		if !node || !between || !by || len(g.EdgesOf(r)) != 3 {
			b.Fatal("something is missing")
		}
	})
}

// BenchmarkSubscribers is one question for a number of subscribers.
func BenchmarkSubscribers(b *testing.B) {
	for _, n := range []int{10, 1000, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			g := network(10 * n)
			b.ReportAllocs()
			for b.Loop() {
				if got := g.Subscribers(note); len(got) != n {
					b.Fatalf("%d subscribers", len(got))
				}
			}
		})
	}
}

// BenchmarkMemory reports what one node, and one edge, of 100,000 takes.
func BenchmarkMemory(b *testing.B) {
	const n = 100_000
	held := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	for b.Loop() {
		before := held()
		g := graph.New(self)
		for i := range n {
			g.PutNode(benchNode(i))
		}
		nodes := held()
		for i := range n {
			g.PutEdge(edge(benchNode(i).RID, self, protocol.Approved, note, task))
		}
		b.ReportMetric(float64(nodes-before)/n, "B/node")
		b.ReportMetric(float64(held()-nodes)/n, "B/edge")
		runtime.KeepAlive(g)
	}
}
