// Package subject runs the nodes that are measured, each as a real process with
// a directory of its own: ours (koi-node, built here) and those of the Python
// reference.
//
// It owns how a node is started, filled before its start and stopped, how many
// bundles are in its cache, and what it costs: CPU time and resident memory, as
// the kernel counts them.
//
// A node of the reference is one of hack/interop/reference's environments with a
// program of this package: what the release's own documentation makes of it, as
// shipped or with its logging silenced. It is not asked how far it is: its cache
// is a directory whose entries are counted.
//
// Processes are in groups of their own, die with this one, and are waited for.
// Imports hack/interop/reference, node and packages below it, and the standard
// library.
package subject
