// Package cli is kubectl-koi's commands: it reads flags, asks the API server and, by
// package reach, the nodes, and prints. Every command works with the permissions of
// whoever calls it, and none holds a secret longer than its call.
package cli
