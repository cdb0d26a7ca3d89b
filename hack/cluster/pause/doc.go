// Pause is the first process of every pod: it holds the pod's namespaces open,
// reaps what is orphaned inside them and ends on SIGTERM.
//
// It is built into the image koi-net.local/pause by hack/cluster/local. It imports
// the standard library alone, so that the image stays near one megabyte.
package main
