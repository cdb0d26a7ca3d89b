// Package peer speaks to other nodes: requests to them, delivery of the outbox,
// the poll queues that partial nodes empty, and a partial node's own polling.
//
// It is the only package that builds a transport towards peers, so that one
// place decides whom a node may call (Allowed) and how much it takes in.
// It imports node/protocol, node/rid and node/store (the interface), and
// prometheus. Invariants:
//
//   - No connection is opened to an address that Allowed refuses; the check is
//     made on the resolved address, at every dial. No redirect and no proxy.
//   - Every answer is read up to a bound and within a time.
//   - An outbox row leaves when its peer answered 2xx, or when the peer refuses
//     that very event; a poll row when its answer was written and the peer polls
//     again. Rows of one peer go out in order, one request at a time.
//   - A dead, slow or hostile peer delays no other, and costs a bounded number
//     of goroutines.
package peer
