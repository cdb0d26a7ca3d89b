// Package deploy installs the operator and the samples in a cluster and waits until
// the KOI-net stands.
//
// It owns the names of what is installed and what counts as standing. Imports the
// standard library and hack/up/kubectl.
//
// Invariant: everything is applied on the server's side from rendered manifests, so
// that doing it again with the same inputs writes nothing.
package deploy
