// Package target finds or starts the Kubernetes that a KOI-net is brought up on: one
// that exists, one in kind, or the local one of hack/cluster.
//
// It owns the choice, and says what was chosen and why. Imports the standard library,
// hack/cluster, hack/image and hack/up/kubectl.
//
// Invariant: it never takes down a cluster that it did not make: an existing one is
// left alone, the kind cluster has a name of its own.
package target
