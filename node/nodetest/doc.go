// Package nodetest runs nodes inside a test: a fleet of real nodes on loopback,
// each with a store of its own, and helpers that wait for what should come to
// pass. It is meant for users' tests as much as for our own.
package nodetest
