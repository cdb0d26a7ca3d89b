// Package docs holds README.md and docs/*.md to the code: flags, metrics,
// conditions and reasons are documented, links lead somewhere, and the example
// compiles. It consists of tests, and imports the standard library alone.
package docs
