// Package handlers holds the default knowledge handlers: what makes a node
// behave as KOI-net expects. One file holds one of them.
//
// They decide and cause; they neither dial nor write. The package imports
// node/rid, node/protocol, node/edge, node/graph, node/store (for its errors)
// and node/pipeline.
package handlers
