// Reference writes docs/reference.md: every field of the custom resources with its
// type, its default, what it may hold and what it means, read from the definitions
// in config/crd/bases. The definitions are generated from package api/v1alpha1, so
// that is where to change a word.
//
//	go run ./hack/reference    # or make manifests
package main
