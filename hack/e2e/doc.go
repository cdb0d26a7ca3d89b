// Package e2e tests the whole product on a real cluster: what make up makes is
// used as people use it, by kubectl and koi-node, from its first pod to a
// machine left as it was. Its tests need the build tag e2e and run by make e2e.
package e2e
