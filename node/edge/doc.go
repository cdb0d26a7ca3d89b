// Package edge decides about edges: what the source of an edge answers to a
// proposal, what the target proposes and how it takes the answer.
//
// It is a pure state machine. It imports node/protocol, node/rid and the
// standard library, does no I/O, reads no clock and keeps no state: everything
// a decision rests on comes in, everything it leads to goes out. The handlers
// of a node supply the one and carry out the other.
//
// Invariants: nothing a peer sends makes an edge wider than what the node
// provides or a standing decision allows; only the source of an edge makes it
// approved; an approved edge never steps back to a proposal of the same terms;
// the same input always gives the same answer, so duplicated, lost and
// reordered events do no harm.
package edge
