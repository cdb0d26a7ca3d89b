// Package apidocs is the page on which a person reads a node's OpenAPI document and
// tries its calls: Swagger UI, and the few lines of HTML, script and style around it.
//
// It owns the page's files, what they are called and by which policy a browser shows
// them; package server sends them. It imports nothing of this repository. Invariants:
//
//   - Everything the page needs is embedded in the program. A browser that keeps the
//     page's policy loads from, and calls, nothing but the node itself.
//   - Every URL in the page is relative, so that it works below any base path, and
//     behind a proxy that takes the base path off.
//   - The viewer's files are those of a release, unchanged: viewer/SHA256SUMS says of
//     which, and its licence goes with them. Package hack/viewer makes them.
package apidocs

//go:generate go run ../../../hack/viewer swagger-ui-dist@5.35.0 viewer
