// Package witness is a node that only looks on: it subscribes to a real one, writes
// down everything it is offered in the order in which it came, and takes part in no
// other way. It has no cache and no queue, and so no bug of ours in common with what
// it watches. It also speaks for the one who drives a run: what that broadcasts
// comes from a witness, and so does what the nodes fetch from their source.
//
// It speaks either generation, as a full node that is called or as a partial one
// that polls. It imports node/rid, node/protocol and node/identity alone.
//
// Invariants: what it was offered is written down before it is answered; nothing
// runs once Close has returned; it listens on loopback alone.
package witness
