// Package peer speaks to other nodes: requests to them, delivery of the outbox,
// the poll queues that partial nodes empty, and a partial node's own polling; in
// both generations of the wire, signed to peers with a key.
//
// It is the only package that builds a transport towards peers, so that one
// place decides whom a node may call (Allowed) and how much it takes in.
// It imports node/protocol, node/identity, node/rid and node/store (the
// interface), and prometheus. Invariants:
//
//   - No connection is opened to an address that Allowed refuses; the check is
//     made on the resolved address, at every dial. No redirect and no proxy.
//   - Every answer is read up to a bound and within a time.
//   - A signed answer is believed only with the signature of the node that was
//     asked, made for us, with the key that its RID was made from; a node with a
//     key is never called unsigned by one that has a key.
//   - The first events to a signed peer bring it our own NEW; what a peer turns
//     out not to know is told again, and the call repeated.
//   - An outbox row leaves when its peer answered 2xx, or when the peer refuses
//     that very event, or with others when it would not suit the peer; a poll row
//     when its answer was written and the peer polls again. Rows of one peer go out
//     in order, one request at a time; a batch that failed is sent again the same,
//     byte for byte.
//   - A dead, slow or hostile peer delays no other, and costs a bounded number
//     of goroutines. What is remembered of peers is bounded.
//   - Whether a peer answers is known in one place, Circuits, by all calls to it. While
//     its circuit is open they fail at once, but for one now and then; nobody waits
//     for a back-off of its own besides.
package peer
