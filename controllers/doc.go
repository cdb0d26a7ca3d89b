// Package controllers keeps KoiNodes and KoiEdges as their specs say: it runs
// nodes as pods, and mirrors edges between objects and the network.
//
// It owns the steps and the watches; what to build, decide or say is in the
// packages below internal/, which are pure where they can be. A node is
// reached through node/admin/client alone. The spec of an object that a person
// wrote is never written, an unchanged world is never written to, and no
// Reconcile waits for a node to be read: see internal/observe. Calls that
// change a node are made in Reconcile, each bounded by a few seconds.
package controllers
