// Bench puts the same load on our node and on nodes of the Python reference, as
// real processes one after another on one machine, and prints tables of what
// they did, with ratios, beside the limits of the machine.
//
//	go run ./hack/bench                      # everything, against the first and the newest release
//	go run ./hack/bench -short -run state    # a few seconds each, of what matches
//	go run ./hack/bench -no-reference        # ours alone
//	go run ./hack/bench -doc docs/performance.md
//
// Package load makes requests and sends them, subject runs the nodes, scenario
// holds what is measured, limits what the machine can do at all, report the
// tables. This package takes flags and goes through the cases.
//
// Every case has a deadline and a directory of its own, which is removed;
// processes are waited for, or killed, before the program ends. It connects to
// loopback addresses alone. docs/performance.md says how to read the results.
package main
