// Package bolt keeps a node's store in one bbolt file. It is the only importer
// of bbolt, and imports node/rid, node/protocol and node/store besides.
//
// # Invariants
//
//   - A file this package did not make, or that fails its checks, is never
//     written to: Open verifies it under a shared lock, through plain reads,
//     before bbolt opens it for writing.
//   - A store appears under its name complete, sentinel included, or not at all.
//   - Every value ends in a CRC32C over its key and itself, checked on every
//     read. What bbolt reports by panic or by a memory fault becomes
//     store.ErrDamaged.
//   - One goroutine, owned by the Store, writes. It commits whatever has queued
//     while the former commit was syncing in one transaction, so fsyncs are
//     shared without any added delay.
//   - Counters, per-peer figures and indexes are kept up in the transaction
//     that changes what they describe; nothing on the write path scans.
//   - The free list is always synced: without it bbolt cannot survive damage.
//
// # Layout
//
// All buckets are at the top level. key(type, ref) is the RID type, a zero byte
// and the reference (see bundleKey), so cursors run in the order of type, then RID.
//
//	koi         "info"                 the sentinel (JSON)
//	index       key(type, ref)         manifest, source, stored time, seq and size of the contents
//	contents    seq                    RID, contents as on the wire
//	types       type                   number of bundles
//	inbox       seq                    RID, accepted time, data
//	peers       queue, peer RID        peer id, rows, bytes, resync mark
//	rows        queue, peer id, seq    size of the event, digest of its RID
//	latest      queue, peer id, digest seq of the newest row for the RID
//	superseded  queue, peer id, seq    rows a newer one for the same RID supersedes
//	bodies      seq                    RID, queued time, event; shared by all its rows
//	refs        seq                    number of rows that share the body
//	decisions   source, target         JSON
//	values      name                   bytes
//	counters    "inbox", "replay"      number of inbox rows, of keys in replay
//	replay      key                    seq of its row in noted
//	noted       seq                    key, when it was noted
//
// Sequence numbers are those of bbolt's buckets: they only grow, and outlive
// the rows they numbered.
//
// RIDs come in any order. A bundle whole under its RID would have a commit of a
// hundred new ones rewrite two hundred pages; so only the index, small enough for
// some twenty entries a page, is written at random places, and new contents fill
// page after page. A bundle that is replaced keeps its seq, and so its place.
//
// # Formats
//
// Format 1 had the whole bundle under its RID's key, and the manifest in an index
// of its own. Open moves the bundles of such a store, some in each transaction,
// and raises the format in its sentinel at the end; whatever else it holds stays
// as it is. The last two buckets came after the first stores of format 1: a store
// that has neither is given them.
package bolt
