// Interop proves that our node speaks with the released Python reference of
// KOI-net: it installs each release into an environment of its own and runs
// it as real processes beside ours, in every role.
//
//	go run ./hack/interop install   # what the tests need; prints the environments
//	make interop                    # the tests, which install it themselves
//
// Package reference installs the releases, package peers runs and drives one
// of their nodes. The tests need the build tag interop. They fail in CI where
// the reference cannot be installed, and are skipped elsewhere. What they saw
// is printed as a table at the end; docs/interop.md holds that table.
package main
