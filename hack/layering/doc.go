// Package layering holds no code, only the test that keeps the packages of
// this repository in their layers.
package layering
