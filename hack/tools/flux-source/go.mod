module github.com/koi-net/koi-operator/hack/tools/flux-source

go 1.26.0

// For the custom resource definitions in it alone. The program cannot be built: it
// requires fluxcd/pkg/artifact, of which the module proxy has no version.
require github.com/fluxcd/source-controller v1.9.6
