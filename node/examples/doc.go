// Package examples holds programs that show how to embed a node, smallest
// first: coordinator, full (publishes), partial (subscribes) and custom (a
// handler that makes knowledge of knowledge). Start the coordinator, then the
// others in any order:
//
//	go run ./node/examples/coordinator
//	go run ./node/examples/full
//	go run ./node/examples/custom
//	go run ./node/examples/partial
//
// Each takes -h. They import what users may import: node, node/pipeline,
// node/protocol and node/rid.
package examples
