// Package docs holds README.md and docs/*.md to the code: flags, metrics,
// conditions and reasons are documented, links lead somewhere, the example
// compiles, and every command of README.md and of the tutorial is run by a test.
//
// Blocks reads the commands of a document; hack/e2e runs those of the tutorial
// with it. It imports the standard library alone.
package docs
