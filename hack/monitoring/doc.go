// Command monitoring builds the programs that the tests beside it use, into a
// cache, and prints where they are: promtool, and inspect of hack/tools/promtool.
// Cold that takes a minute or two of two cores, and so goes before the tests.
//
// The tests hold config/monitoring to the code and to its readers: every metric
// and label that alerts and dashboard name exists, every alert has a runbook and
// does what its test says, and Prometheus' own parsers take it all. Of the
// product they import node, its test fleet and controllers.
package main
