// Package assets builds the programs of the local cluster and keeps them in a
// cache outside the repository.
//
// It owns the list of components (what is built from which nested Go module, with
// which flags) and the layout of the cache. Versions live in one place, the go.mod
// of each nested module; nothing here repeats them.
//
// Invariants: a directory of the cache is complete or absent (it is renamed into
// place), its name says what it was built from (toolchain, flags, every source
// file), and two builds never run at once (a lock file, released by the kernel when
// its holder dies). Imports only the standard library.
package assets
