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
//   - Before a store that was opened is first written to, the state that was found
//     is on the disk (see Store.settle).
//   - After a commit that failed for want of room, writing goes on; after any other
//     failure nothing is written until the store is opened again (see
//     Store.untouched).
//   - Files are made beside their place and get their name when they are whole and
//     on disk: new stores, restored ones, compact ones. What a crash leaves of one
//     is called like it, with ".new-", and goes when the store is next opened.
//
// # Files apart from a running node
//
// Verify, RestoreFile, Compact and Options.ReadOnly take bbolt's lock shared: beside
// each other, never beside a node. Backup runs within one. All of them read pages
// by themselves, through bounded reads (layout.go), and check records one by one, so
// that they go on behind damage. Verify reports what is wrong with a file and writes
// nothing; nothing here repairs.
//
// # Bounds
//
//	a commit                    Options.BatchUpdates functions, Options.BatchBytes
//	the file                    Options.MaxSize; additions leave a sixteenth of it, 1 MiB at least, to deletions
//	its volume                  additions leave 1 MiB and a sixty-fourth of the file, 2 MiB at least
//	Open's look at a file       512 pages, or all of a file up to Options.VerifyBytes; two seconds
//	memory of Verify, Check     one page with its overflow (what its entries need), a byte for
//	                            each page of the file, the figures of each peer and RID type
//	memory of Backup            256 KiB and one record, a byte for each page of the file
//	faults of a Report          VerifyOptions.MaxFaults; the others are counted
//	a transaction of Compact    8 MiB, or 20,000 records
//	what Restore reads          as much as the backup's head says it has
//	a snapshot of Backup        its context
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
