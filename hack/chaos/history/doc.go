// Package history says what has to be true of a node that is killed again and
// again, and holds what was seen against it. It is pure: it knows RIDs, and
// nothing of processes, clocks or the network.
//
// A Model is what was done at one node: for each RID the versions it was given
// and the times it was forgotten, in their order. A body whose sender got no
// answer because the node was killed is in doubt; the cache of the node settles
// afterwards whether it was accepted, and it was accepted as a whole or not at all.
//
// At least once, in order per RID, means for a subscriber of that node (Follower):
// it is offered every change in turn. After a disturbance, the death of the node or
// an answer of the subscriber that was no success, what was offered may be offered
// again, from some change on and again in turn up to the last. One disturbance
// excuses one such step back. Without one nothing is skipped, repeated or swapped.
//
// For a subscriber of a node that follows that node in turn (Relay) it means: what
// the node in the middle applied never goes back. An older version over a newer one
// is excused only by a disturbance of the node in the middle, which offers again what
// it applied in order. A version that comes back after its FORGET is excused by a
// disturbance of either: a FORGET carries no version, so one that is offered again
// cannot be told from a new one until the version behind it is offered again as well.
//
// In every case what was offered last is what the Model ends with.
package history
