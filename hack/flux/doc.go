// Package flux runs Flux against a cluster, from outside it, and gives it a Git
// repository to follow: so that what docs/gitops.md says is tried.
//
// It owns the build of Flux's kustomize-controller (the real one, from its Go
// module), a Git repository served over HTTP, and Source, which stands in for
// Flux's source-controller: one of the modules that program is made of,
// github.com/fluxcd/pkg/artifact, cannot be had everywhere this is built. Source
// does for a GitRepository what Flux documents of it, with the definitions of
// source-controller's own module; it is not that program, and what is seen with
// it says nothing of how that one fetches. Imports the standard library, apimachinery,
// controller-runtime's client and hack/cluster/assets.
//
// Invariants: everything listens on the loopback address alone and writes below
// the directory it is given; whatever is started has ended when its Stop returns.
package flux
