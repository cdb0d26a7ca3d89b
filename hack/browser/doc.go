// Package browser holds no code, only the test that uses the page at docs of a real
// node as a person would: in a headless Chromium, on loopback.
//
//	make browser
//
// It is a module of its own, so that what drives the browser is no dependency of those
// who import a node. The browser is the first there is of chromium-headless-shell (a
// package of Debian), chromium, chromium-browser, google-chrome and chrome. Where there
// is none the test is skipped, and in CI fails.
package browser
