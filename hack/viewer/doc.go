// Viewer takes the files of a release of Swagger UI, the viewer of the page that a
// node serves for its OpenAPI document, into the repository.
//
//	go generate ./node/server/apidocs
//
// It asks npm for the package (npm checks what it got), takes the few files the page
// is made of as they are, compresses the large ones and writes down what each is:
// name and version of the package, npm's integrity of it, and the SHA-256 of every
// file. To move to another release, change the version in the go:generate line of
// node/server/apidocs. Nothing of the package is run.
package main
