// Package scenario holds what is measured: one file for each load, each a list
// of cases. A case makes a node in a directory of its own, puts the load on it
// and returns rows of the report; nothing of it is left when it ends.
//
// Imports the other packages of hack/bench, node and what is below it.
package scenario
