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
	// from its other RIDs: that of the other generation, and those it had before.
	byRID   map[rid.RID]*entry
	aliases map[rid.RID]*entry
	// ends lead from a node to the first of its edges that begin there, and of those
	// that end there.
	ends [2]map[rid.RID]*entry
	// providers are verified full nodes but self by the types they provide the state of,
	// subscribers the targets of our approved edges by the types these allow, sources
	// the same for the approved edges to us.
	providers   index
	subscribers index
	sources     index
}

// The ends of an edge, as indexes.
const (
	begins = 0
	ends   = 1
)

// maxAliases bounds the RIDs one edge is remembered under besides its own: the
// two it has by rule, and the last few that broke the rule.
const maxAliases = 8

type pair struct{ source, target rid.RID }

// entry is an edge with the aliases to remove along with it, in the list of the
// edges that begin, and of those that end, at the same node.
type entry struct {
	edge       Edge
	aliases    []rid.RID // the RIDs it is known under, its own may be among them
	next, prev [2]*entry
}

func (e *entry) pair() pair { return pair{e.edge.Profile.Source, e.edge.Profile.Target} }

// end is the node at one end of the edge.
func (e *entry) end(i int) rid.RID {
	if i == begins {
		return e.edge.Profile.Source
	}
	return e.edge.Profile.Target
}

// index is a set of RIDs for each type.
type index map[rid.Type]*ordered

func (x index) add(types []rid.Type, r rid.RID) {
	for _, t := range types {
		if x[t] == nil {
			x[t] = &ordered{}
		}
		x[t].add(r)
	}
}

func (x index) remove(types []rid.Type, r rid.RID) {
	for _, t := range types {
		if set := x[t]; set != nil {
			if set.remove(r); set.size == 0 {
				delete(x, t)
			}
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
		ends:        [2]map[rid.RID]*entry{make(map[rid.RID]*entry), make(map[rid.RID]*entry)},
		providers:   make(index),
		subscribers: make(index),
		sources:     make(index),
	}
}

// Self returns the node whose view it is.
func (g *Graph) Self() rid.RID { return g.self }

// PutNode adds or replaces a node.
func (g *Graph) PutNode(n Node) {
	g.mu.Lock()
	defer g.mu.Unlock()
	before, after := g.provided(g.nodes[n.RID]), g.provided(n)
	if !slices.Equal(before, after) {
		g.providers.remove(before, n.RID)
		g.providers.add(after, n.RID)
	}
	g.nodes[n.RID] = n
}

// DeleteNode removes a node, and leaves its edges; a missing one is no matter.
func (g *Graph) DeleteNode(r rid.RID) {
	g.mu.Lock()
	defer g.mu.Unlock()
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
		added.aliases = bothRIDs(e)
	}
	g.edges[p] = added
	g.byRID[e.RID] = added
	for _, r := range added.aliases {
		if r != e.RID {
			g.aliases[r] = added
		}
	}
	g.link(added)
	g.subscribers.add(g.allowed(e), p.target)
	g.sources.add(g.allowing(e), p.source)
}

// bothRIDs are the RIDs of an edge by rule, in either generation. They are long, so
// the text it comes with is used where it is one of them.
func bothRIDs(e Edge) []rid.RID {
	out := []rid.RID{rid.NewEdge(e.Profile.Source, e.Profile.Target), rid.LegacyEdge(e.Profile.Source, e.Profile.Target)}
	for i := range out {
		if out[i] == e.RID {
			out[i] = e.RID
		}
	}
	return out
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
	g.unlink(e)
	g.subscribers.remove(g.allowed(e.edge), p.target)
	g.sources.remove(g.allowing(e.edge), p.source)
}

// link puts an edge in front of the others at its ends.
func (g *Graph) link(e *entry) {
	for i := range g.ends {
		first := g.ends[i][e.end(i)]
		if e.next[i] = first; first != nil {
			first.prev[i] = e
		}
		g.ends[i][e.end(i)] = e
	}
}

func (g *Graph) unlink(e *entry) {
	for i := range g.ends {
		before, after := e.prev[i], e.next[i]
		if after != nil {
			after.prev[i] = before
		}
		switch {
		case before != nil:
			before.next[i] = after
		case after != nil:
			g.ends[i][e.end(i)] = after
		default:
			delete(g.ends[i], e.end(i))
		}
		e.prev[i], e.next[i] = nil, nil
	}
}

// allowed are the types under which e's target belongs into subscribers.
func (g *Graph) allowed(e Edge) []rid.Type {
	if e.Profile.Source != g.self || e.Profile.Status != protocol.Approved {
		return nil
	}
	return e.Profile.RIDTypes
}

// allowing are the types under which e's source belongs into sources.
func (g *Graph) allowing(e Edge) []rid.Type {
	if e.Profile.Target != g.self || e.Profile.Status != protocol.Approved {
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

// FindNode returns a node that match accepts, any one of them. It looks at all there
// are, so it is not for every event; match must not use the graph.
func (g *Graph) FindNode(match func(Node) bool) (Node, bool) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	for _, n := range g.nodes {
		if match(n) {
			return n, true
		}
	}
	return Node{}, false
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
	var all []Edge
	g.mu.RLock()
	for e := g.ends[begins][node]; e != nil; e = e.next[begins] {
		all = append(all, e.edge)
	}
	for e := g.ends[ends][node]; e != nil; e = e.next[ends] {
		if e.end(begins) != node {
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
	return g.subscribers[t].list()
}

// Providers returns the verified full nodes, other than self, that provide the
// state of t: whom to fetch it from.
func (g *Graph) Providers(t rid.Type) []rid.RID {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.providers[t].list()
}

// SomeProviders returns the first of Providers, at most so many; where they are to be
// approved, the first of those that provide t to us along an approved edge, so that
// their word on it counts. It costs no more for others there are.
func (g *Graph) SomeProviders(t rid.Type, most int, approved bool) []rid.RID {
	g.mu.RLock()
	defer g.mu.RUnlock()
	from := g.providers[t]
	if approved {
		from = g.sources[t]
	}
	var out []rid.RID
	for r := range from.all {
		if len(out) >= most {
			break
		}
		if !approved || slices.Contains(g.provided(g.nodes[r]), t) {
			out = append(out, r)
		}
	}
	return out
}

// Neighbors returns the nodes at the other end of our own edges that q selects.
func (g *Graph) Neighbors(q Query) []rid.RID {
	var found []rid.RID
	g.mu.RLock()
	for _, side := range []struct {
		direction  Direction
		ours, away int
	}{{In, ends, begins}, {Out, begins, ends}} {
		if q.Direction != Both && q.Direction != side.direction {
			continue
		}
		for e := g.ends[side.ours][g.self]; e != nil; e = e.next[side.ours] {
			if q.selects(e.edge) {
				found = append(found, e.end(side.away))
			}
		}
	}
	g.mu.RUnlock()
	slices.Sort(found)
	return slices.Compact(found)
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
