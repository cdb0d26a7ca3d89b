// Package graph is one node's view of the network in memory: the nodes and
// edges it has cached, indexed for the questions asked on every event. It is
// built from the store at start and from then on kept up by the node or edge
// that changed.
//
// It imports node/rid, node/protocol and the standard library, does no I/O and
// starts no goroutine.
//
// # Invariants
//
//   - There is one edge for an ordered pair of nodes, whatever the generation
//     of its RID. The edge last put counts.
//   - No change and no question about one node or edge costs more for a larger
//     network: changes are O(number of RID types in the profile), but for a search in
//     the index of each, questions O(size of the answer) or O(edges of the node), plus
//     sorting an answer of edges or neighbours. The indexes by type are kept in order.
//   - Answers are sorted by RID, and the caller's own. The slices inside
//     profiles are shared: neither side changes them.
//   - Nothing cascades. An edge may name nodes that are not known; forgetting a
//     node's edges is up to whoever forgets the node.
package graph
