// Package e2e tests the whole product on a real cluster: what make up makes is
// used as people use it, by kubectl, koi-node, Helm and Git, from its first pod to
// a machine left as it was; and the commands of docs/tutorial.md are typed one after
// the other, from a machine without a cluster to one without again. Its tests need
// the build tag e2e and run by make e2e.
package e2e
