// Package storetest is the suite every store engine passes. It knows nothing of
// an engine but store.Store and a function that opens one.
//
// It imports node/rid, node/protocol, node/store and the standard library.
package storetest
