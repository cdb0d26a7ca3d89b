// Package identity owns who a node is: its RID and, in the signed generation,
// the P-256 key pair the RID is derived from; and the files that keep both. It
// signs with the key, and verifies with those of peers.
//
// It imports node/rid, the standard library and small libraries for UUIDs and
// encrypted PEM, and touches no other file than those of one directory: rid,
// priv_key.pem and, where the key is encrypted, password. The directory may be
// a read-only mount of a Kubernetes Secret.
//
// Invariants: nothing that is there is ever replaced; a set of files that is
// incomplete, damaged or contradicts itself is an error that names the file and
// the remedy, never a reason for a new identity; private keys appear in no
// error and no log.
package identity
