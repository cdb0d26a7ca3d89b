// Package hostile is a peer that misbehaves, for tests of what has to bear it.
//
// As a server, a Peer is a KOI-net node on loopback that answers as it should
// until told to misbehave, call by call. As a client it says what a node must
// refuse or leave alone. What it says is made by pure functions: events of valid
// form that are not to be believed, bodies of invalid form, and envelopes whose
// signature is right but for one thing. Peer.Post and Peer.Trickle send them.
//
// It imports node/rid, node/protocol and node/identity alone, so that tests of
// every package from the server up can use it. Nothing outlives the test, and
// nothing leaves loopback.
package hostile
