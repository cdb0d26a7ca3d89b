package graph

import (
	"cmp"
	"maps"
	"slices"
	"sync"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// Node is a node whose bundle is cached.
type Node struct {
	RID     rid.RID
	Profile protocol.NodeProfile
	// Verified: the profile was obtained as the protocol asks for nodes of its
	// kind; for one with a key, under its own signature.
	Verified  bool
	Timestamp protocol.Timestamp
}

// Callable reports whether the node can be called: it is full, and has said
// itself where it is. Partial nodes may have a base URL too, as those of koi-net
// 1.0.0 do; nobody answers there.
func (n Node) Callable() bool {
	return n.Verified && n.Profile.NodeType == protocol.Full && n.Profile.BaseURL != ""
}

// Believed reports whether the node may subscribe on the profile that is held: it
// is the node's own word, or the node is partial. That one cannot be asked who it
// is; but nothing is sent to where others say it is either: it comes to fetch, and
// signs for it.
func (n Node) Believed() bool { return n.Verified || n.Profile.NodeType == protocol.Partial }

// Edge is an edge whose bundle is cached, under the RID it was last seen with.
type Edge struct {
	RID       rid.RID
	Profile   protocol.EdgeProfile
	Timestamp protocol.Timestamp
}

// Direction is how an edge lies to the node the graph belongs to.
type Direction int

// Directions. Knowledge flows from an edge's source to its target.
const (
	// Both stands for any edge of ours.
	Both Direction = iota
	// In: we are the target; the neighbour provides.
	In
	// Out: we are the source; the neighbour subscribes.
	Out
)

// Query selects neighbours by the edges they share with us. Zero fields select
// everything.
type Query struct {
	Direction Direction
	Status    protocol.EdgeStatus
	Type      rid.Type // the edge allows it
}

// Graph is the view of the node self. It is safe for concurrent use.
type Graph struct {
	self rid.RID

	mu    sync.RWMutex
	nodes map[rid.RID]Node
	edges map[pair]*entry
	// byRID leads from the RID each edge is cached under to the edge; aliases
	// from its RIDs in either generation, and from those it had before.
	byRID   map[rid.RID]*entry
	aliases map[rid.RID]*entry
	// out and in lead from a node to its edges by their other end.
	out map[rid.RID]map[rid.RID]*entry
	in  map[rid.RID]map[rid.RID]*entry
	// providers are verified full nodes but self by the types they provide the state of,
	// subscribers the targets of our approved edges by the types these allow.
	providers   index
	subscribers index
}

// maxAliases bounds the RIDs one edge is remembered under besides its own: the
// two it has by rule, and the last few that broke the rule.
const maxAliases = 8

type pair struct{ source, target rid.RID }

// entry is an edge with the aliases to remove along with it.
type entry struct {
	edge    Edge
	aliases []rid.RID
}

func (e *entry) pair() pair { return pair{e.edge.Profile.Source, e.edge.Profile.Target} }

// index is a set of RIDs for each type.
type index map[rid.Type]map[rid.RID]struct{}

func (x index) add(types []rid.Type, r rid.RID) {
	for _, t := range types {
		if x[t] == nil {
			x[t] = make(map[rid.RID]struct{})
		}
		x[t][r] = struct{}{}
	}
}

func (x index) remove(types []rid.Type, r rid.RID) {
	for _, t := range types {
		if delete(x[t], r); len(x[t]) == 0 {
			delete(x, t)
		}
	}
}

// New returns the empty graph of the node self.
func New(self rid.RID) *Graph {
	return &Graph{
		self:        self,
		nodes:       make(map[rid.RID]Node),
		edges:       make(map[pair]*entry),
		byRID:       make(map[rid.RID]*entry),
		aliases:     make(map[rid.RID]*entry),
		out:         make(map[rid.RID]map[rid.RID]*entry),
		in:          make(map[rid.RID]map[rid.RID]*entry),
		providers:   make(index),
		subscribers: make(index),
	}
}

// Self returns the node whose view it is.
func (g *Graph) Self() rid.RID { return g.self }

// PutNode adds or replaces a node.
func (g *Graph) PutNode(n Node) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.removeNode(n.RID)
	g.nodes[n.RID] = n
	g.providers.add(g.provided(n), n.RID)
}

// DeleteNode removes a node, and leaves its edges; a missing one is no matter.
func (g *Graph) DeleteNode(r rid.RID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.removeNode(r)
}

func (g *Graph) removeNode(r rid.RID) {
	if n, known := g.nodes[r]; known {
		g.providers.remove(g.provided(n), r)
		delete(g.nodes, r)
	}
}

// provided are the types under which n belongs into providers.
func (g *Graph) provided(n Node) []rid.Type {
	if n.RID == g.self || !n.Verified || n.Profile.NodeType != protocol.Full {
		return nil
	}
	return n.Profile.Provides.State
}

// PutEdge adds an edge, or replaces the one there is for its pair of nodes,
// under whatever RID. Where an edge of another pair was known under this RID, it
// is gone: a RID names one bundle.
func (g *Graph) PutEdge(e Edge) {
	g.mu.Lock()
	defer g.mu.Unlock()
	p := pair{e.Profile.Source, e.Profile.Target}
	if other := g.byRID[e.RID]; other != nil && other.pair() != p {
		g.removeEdge(other)
	}
	added := &entry{edge: e}
	if former := g.edges[p]; former != nil {
		g.removeEdge(former)
		added.aliases = former.aliases
		if former.edge.RID != e.RID && !slices.Contains(former.aliases, former.edge.RID) {
			if len(added.aliases) == maxAliases {
				added.aliases = slices.Delete(added.aliases, 2, 3)
			}
			added.aliases = append(added.aliases, former.edge.RID)
		}
	} else {
		added.aliases = []rid.RID{rid.NewEdge(p.source, p.target), rid.LegacyEdge(p.source, p.target)}
	}
	g.edges[p] = added
	g.byRID[e.RID] = added
	for _, r := range added.aliases {
		g.aliases[r] = added
	}
	link(g.out, p.source, p.target, added)
	link(g.in, p.target, p.source, added)
	g.subscribers.add(g.allowed(e), p.target)
}

// DeleteEdge removes the edge known under r, which may be its RID of either
// generation; a missing one is no matter.
func (g *Graph) DeleteEdge(r rid.RID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if e := g.find(r); e != nil {
		g.removeEdge(e)
	}
}

func (g *Graph) removeEdge(e *entry) {
	p := e.pair()
	delete(g.edges, p)
	delete(g.byRID, e.edge.RID)
	for _, r := range e.aliases {
		if g.aliases[r] == e {
			delete(g.aliases, r)
		}
	}
	unlink(g.out, p.source, p.target)
	unlink(g.in, p.target, p.source)
	g.subscribers.remove(g.allowed(e.edge), p.target)
}

func link(ends map[rid.RID]map[rid.RID]*entry, from, to rid.RID, e *entry) {
	if ends[from] == nil {
		ends[from] = make(map[rid.RID]*entry)
	}
	ends[from][to] = e
}

func unlink(ends map[rid.RID]map[rid.RID]*entry, from, to rid.RID) {
	if delete(ends[from], to); len(ends[from]) == 0 {
		delete(ends, from)
	}
}

// allowed are the types under which e's target belongs into subscribers.
func (g *Graph) allowed(e Edge) []rid.Type {
	if e.Profile.Source != g.self || e.Profile.Status != protocol.Approved {
		return nil
	}
	return e.Profile.RIDTypes
}

// find returns the edge known under r: first the one cached under it.
func (g *Graph) find(r rid.RID) *entry {
	if e := g.byRID[r]; e != nil {
		return e
	}
	return g.aliases[r]
}

// Node returns the node r.
func (g *Graph) Node(r rid.RID) (Node, bool) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	n, known := g.nodes[r]
	return n, known
}

// Nodes returns all nodes, self included once it is cached.
func (g *Graph) Nodes() []Node {
	g.mu.RLock()
	all := slices.Collect(maps.Values(g.nodes))
	g.mu.RUnlock()
	slices.SortFunc(all, func(a, b Node) int { return cmp.Compare(a.RID, b.RID) })
	return all
}

// Edge returns the edge from source to target.
func (g *Graph) Edge(source, target rid.RID) (Edge, bool) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return value(g.edges[pair{source, target}])
}

// EdgeByRID returns the edge known under r, which may be its RID of either
// generation; the edge's own RID field may then differ from r.
func (g *Graph) EdgeByRID(r rid.RID) (Edge, bool) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return value(g.find(r))
}

func value(e *entry) (Edge, bool) {
	if e == nil {
		return Edge{}, false
	}
	return e.edge, true
}

// Edges returns all edges.
func (g *Graph) Edges() []Edge {
	g.mu.RLock()
	all := make([]Edge, 0, len(g.edges))
	for _, e := range g.edges {
		all = append(all, e.edge)
	}
	g.mu.RUnlock()
	return sortEdges(all)
}

// EdgesOf returns the edges that begin or end at a node.
func (g *Graph) EdgesOf(node rid.RID) []Edge {
	g.mu.RLock()
	all := make([]Edge, 0, len(g.out[node])+len(g.in[node]))
	for _, e := range g.out[node] {
		all = append(all, e.edge)
	}
	for source, e := range g.in[node] {
		if source != node {
			all = append(all, e.edge)
		}
	}
	g.mu.RUnlock()
	return sortEdges(all)
}

func sortEdges(all []Edge) []Edge {
	slices.SortFunc(all, func(a, b Edge) int { return cmp.Compare(a.RID, b.RID) })
	return all
}

// Subscribers returns the targets of our own approved edges that allow t:
// where events of that type go.
func (g *Graph) Subscribers(t rid.Type) []rid.RID {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return slices.Sorted(maps.Keys(g.subscribers[t]))
}

// Providers returns the verified full nodes, other than self, that provide the
// state of t: whom to fetch it from.
func (g *Graph) Providers(t rid.Type) []rid.RID {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return slices.Sorted(maps.Keys(g.providers[t]))
}

// Neighbors returns the nodes at the other end of our own edges that q selects.
func (g *Graph) Neighbors(q Query) []rid.RID {
	g.mu.RLock()
	defer g.mu.RUnlock()
	found := make(map[rid.RID]struct{})
	for direction, ends := range map[Direction]map[rid.RID]*entry{In: g.in[g.self], Out: g.out[g.self]} {
		if q.Direction != Both && q.Direction != direction {
			continue
		}
		for other, e := range ends {
			if q.selects(e.edge) {
				found[other] = struct{}{}
			}
		}
	}
	return slices.Sorted(maps.Keys(found))
}

func (q Query) selects(e Edge) bool {
	return (q.Status == "" || e.Profile.Status == q.Status) && (q.Type == "" || e.Profile.Allows(q.Type))
}

// HasApprovedFrom reports whether node provides t to us along an approved edge:
// its word on knowledge of that type counts.
func (g *Graph) HasApprovedFrom(node rid.RID, t rid.Type) bool {
	g.mu.RLock()
	defer g.mu.RUnlock()
	e := g.edges[pair{node, g.self}]
	return e != nil && Query{Status: protocol.Approved, Type: t}.selects(e.edge)
}
