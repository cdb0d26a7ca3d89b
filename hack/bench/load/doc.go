// Package load makes requests of the protocol in advance and sends them.
//
// It owns what is sent (bundles of a given size under fresh RIDs, the bodies of
// both generations of the wire) and how: clients that each keep one connection
// and send the next request when the answer to the last was read whole, and
// what that took. Bodies are made before the clock starts. The client speaks
// HTTP/1.1 itself, since net/http's costs more than some of the answers.
//
// Imports node/identity, node/protocol, node/rid and the standard library.
// Connects to loopback addresses alone.
package load
