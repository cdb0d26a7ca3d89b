// Package examples holds programs that show how to write a node of one's own,
// smallest first: coordinator, partial (subscribes), full (publishes), custom (a
// handler that makes knowledge of knowledge) and notes (a sensor of a directory
// of Markdown notes, as one would run it). Start the coordinator, then the others
// in any order:
//
//	go run ./node/examples/coordinator
//	go run ./node/examples/full
//	go run ./node/examples/custom
//	go run ./node/examples/partial
//
// Each takes -h, and shares nothing with the others: copy its directory. They
// import what users may import: node, node/pipeline, node/protocol, node/rid and,
// for its errors, node/store.
package examples
