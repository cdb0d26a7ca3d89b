// Package contact keeps a node in contact with others: the handshake with its
// first contact, proposals to the providers of its interests, catching up with
// their state, and asking the other end of each edge whether it still knows it.
//
// It works like a reconciler: what it does follows from the graph, the standing
// proposals in the store and the configuration, so nothing is lost with the
// process. It calls peers through the Caller it is given and changes knowledge
// through the pipeline alone. It imports node/rid, node/protocol, node/edge,
// node/graph, node/store, node/pipeline and, for where nodes are, node/peer.
package contact
