// Package transfer moves nodes between the Python library (koi-net with
// rid-lib) and this one: it takes over a node's identity, cache, waiting events
// and settings from the directory the library left them in, and writes a cache,
// and an identity, the way the library reads them.
//
// It owns what is known of the library's files on disk: names, places and forms,
// from koi-net 1.0.0b5 to 2.1. It imports node/rid, node/protocol, node/identity,
// node/store and the engine node/store/bolt, and knows nothing of a running node:
// what the files say is turned into settings of koi-node run, by name.
//
// # Invariants
//
//   - The library's files are read and never written to.
//   - Nothing that is there is replaced: a target with a store or an identity is
//     refused by name. What is written is made beside its place and moved there
//     when it is whole; after an error nothing of it is left. A crash may leave a
//     directory whose name holds ".import-", or a store without its identity,
//     which a node refuses to run on.
//   - A node keeps its RID. A key has to be the one its RID was made from.
//   - Contents are taken in normal form and only where they match the hash of
//     their manifest. A file that cannot be taken is named with the reason, and
//     the others are taken all the same.
//   - Every file read is bounded; in the cache, links are not followed.
//   - Passwords and keys appear in no error and no report.
package transfer
