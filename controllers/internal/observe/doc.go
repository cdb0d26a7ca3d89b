// Package observe watches nodes from outside the reconcile loop: one follower
// for each node reads its admin API, keeps the latest snapshot, and tells the
// controllers when it changed, so that no Reconcile waits for a slow node.
//
// It imports node/admin/client, node/protocol and node/rid, and
// controller-runtime for its events, and knows nothing of KoiNodes but their
// names. Snapshots are immutable. Every follower is a child of the Observer's
// Start, which waits for all of them before it returns.
package observe
