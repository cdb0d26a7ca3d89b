// Package nodetest is for tests of what is built on nodes, users' as much as
// ours:
//
//   - Fleet runs real nodes in the test's own process, each on loopback with a
//     store of its own; Member waits for what should come to pass in one;
//   - Process runs a program that embeds a node, to be stopped or killed;
//   - Clock is a node's clock, set and advanced by the test;
//   - the package hostile, below it, is a peer that misbehaves.
//
// It imports package node and what is below it. Nothing outlives the test that
// started it, every wait ends after Timeout, and nothing leaves loopback.
package nodetest
