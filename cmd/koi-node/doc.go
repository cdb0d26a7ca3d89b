// Command koi-node runs a KOI-net node (koi-node run), takes over nodes of the
// Python library and gives them back (import, export), looks after stores (backup,
// restore, verify, compact), and talks to the admin API of a running node (all other
// subcommands).
//
// It owns flags, environment variables, the configuration file, output and
// exit codes, and nothing of what a node does: run turns settings into a
// node.Config, import and export call node/transfer, what looks after stores
// node/store/bolt, the others node/admin/client.
//
// Invariants: a setting given twice is decided by flag, then KOI_* variable,
// then file; what came from peers is printed without control characters; exit
// codes are 0 done, 1 error, 3 not found, and for run 10 StoreDamaged,
// 11 StoreLocked, 12 IdentityMismatch, 13 BadConfig.
package main
