// Package koinode runs koi-node as processes of their own, to be killed: what
// SIGKILL leaves behind can be seen in no other way.
//
// A Node is one node through all its lives: it starts on the same data and at the
// same address again. It imports node/admin/client to ask it, and node/store/bolt
// to look at the store of one that is dead.
//
// Invariants: a process that was started is waited for; none outlives the program
// that started it (on Linux, not even if that is killed); nodes listen on loopback
// alone.
package koinode
