// Package peers runs nodes of the Python reference as processes and drives
// them.
//
// It owns the programs, one for each API family of the reference (v1_0.py and
// so on; control.py is what they share), and the control channel: a line of
// JSON for each request and each answer on the process's standard input and
// output. A process has a directory of its own for its cache, its key and its
// log. It is in a process group of its own and dies with whoever started it,
// however that ends.
//
// A program is written as the release's own examples are: it names its
// profile, adds the handlers that a coordinator needs and, where the release
// has none, one that subscribes to what it is interested in.
//
// Imports node/rid and the standard library.
package peers
