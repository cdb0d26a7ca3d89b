// Package netpol enforces NetworkPolicy on the local cluster's one node, for IPv4, with
// iptables.
//
// It owns the firewall chains whose names begin with KOI-NP. It relies on a network in
// which the host routes all traffic of pods (the ptp plugin): pod to pod passes the
// chain FORWARD, pod to host passes INPUT, so that every packet is seen.
//
// rules.go is pure: pods, namespaces and policies in, rules out. agent.go watches the
// API server and hands the rules to iptables-restore, all at once. It is made to show
// what policies select; it is no measure of how other networks enforce them.
package netpol
