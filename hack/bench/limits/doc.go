// Package limits measures what the machine and the libraries can do by
// themselves: a sync to disk, bbolt, JSON, signatures, HTTP on the loopback
// interface. What a node does is to be read beside it.
//
// It is the one package outside node/store/bolt that imports bbolt: what a store
// on it is held against has to be bbolt itself. Imports hack/bench/load for the
// same bytes that nodes are given, bbolt, node/identity and the standard library.
package limits
