// Package kubectl runs kubectl against one cluster.
//
// It owns how kubectl is called: which program, which kubeconfig, where its discovery
// cache lies, and how a failure reads. Imports only the standard library.
package kubectl
