// Package server answers the five KOI-net calls of a full node over HTTP, in both
// generations on the same paths: a body that is an envelope is verified and
// answered by one, any other is unsigned.
//
// It owns the routes, the limits on what a peer may send and hold open, the
// mapping of errors to the reference's answers, and the streaming of large
// answers from the store. What a broadcast means is the Acceptor's business,
// what waits for a polling peer the Poller's, what is known of other nodes that of
// Peers; all three are interfaces here.
//
// For people it answers with the OpenAPI document of the calls, and with the page of
// package apidocs that shows it.
//
// It imports node/protocol, node/identity, node/rid, node/store (the interface),
// node/server/apidocs, chi and prometheus. Invariants:
//
//   - A broadcast is answered 200 only after the Acceptor returned, that is,
//     after its events are durable. A body that is refused leaves no trace.
//   - Of an envelope nothing is used before it is known to be from its sender and
//     for this node; one in our own name is refused, whoever signed it.
//   - A signed body that comes again takes nothing away: the Acceptor is told what
//     a broadcast is known by, and a poll draws events once.
//   - Every request, valid or hostile, is within bounds: concurrent requests,
//     one body's bytes, all bodies' bytes together, header bytes, and the time
//     a peer may take to send a body or to take an answer in.
//   - No store transaction stays open while a peer's connection is written to.
//   - State is served as it is kept, checked but not decoded, in parts: what an
//     answer takes in memory does not grow with the store.
//   - An answer that cannot be completed is cut, never ended as if it were whole.
package server
