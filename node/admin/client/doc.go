// Package client is the typed client of a node's admin API, and the home of
// the API's JSON types (version v1, which only grows).
//
// It imports node/rid, node/protocol and the standard library, so that the
// operator and the command line reach a node through it alone. It keeps no
// state beyond its HTTP connections and starts no goroutine of its own.
//
// Invariants: the token goes to the one server it is meant for (no redirects,
// no plain HTTP off this machine, a pinned certificate where one is given);
// every answer is bounded; nothing is retried unless the caller asks (Follow).
package client
