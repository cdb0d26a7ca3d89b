// Package pipeline carries knowledge objects through their five handler phases
// (RID, Manifest, Bundle, Network, Final) and makes each one's effects durable
// in one transaction.
//
// It owns the inbox: what Accept or Submit returned for is on disk and is
// processed, in order for each RID, even after a kill. An object that lacks
// nothing, and whose handlers never wait, does not go there: it is processed by
// the transaction that accepts it, which other bodies may share. It imports
// node/rid, node/protocol, node/store and node/graph; it neither dials nor serves.
//
// Invariants: only the processor writes bundles, one object of a RID at a
// time; an object's cache action, outgoing events, follow-up objects and the
// removal of its inbox row commit together; the graph follows the commit; an
// object goes straight only while nothing else of its RID is under way.
package pipeline
