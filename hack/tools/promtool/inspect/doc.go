// Command inspect reads what config/monitoring says with the parsers of those
// who will read it: PromQL with Prometheus' own, custom resources with the types
// of the Prometheus operator. The tests of hack/monitoring run it; it is in this
// module so that the product does not depend on theirs.
//
// It takes a Request as JSON on its standard input and gives an Answer.
package main
