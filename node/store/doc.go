// Package store defines what a node keeps: bundles with an index by RID type,
// the inbox of accepted events, the memory of bodies that were accepted (against
// replays), the outbox and poll queues towards peers, standing edge decisions,
// small named values, and the sentinel that names the store.
//
// It is an interface with explicit transactions and nothing else; engines live
// below it (store/bolt) and pass store/storetest. It imports node/rid,
// node/protocol and the standard library. Nothing outside an engine may assume
// that a store belongs to one process or one machine.
package store
