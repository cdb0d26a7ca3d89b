package reference

import (
	"embed"
	"fmt"
)

// Release is a released version of the reference that is run.
type Release struct {
	// Version is the version of the Python package koi-net.
	Version string
	// Script is the program in hack/interop/peers that speaks its API.
	Script string
	// Signed tells the generation of the wire: envelopes with signatures, or bodies without.
	Signed bool
}

// Releases returns the last release of each minor version, the oldest first,
// and the beta that the first networks were built on.
func Releases() []Release {
	return []Release{
		{Version: "1.0.0b5", Script: "v1_0.py"},
		{Version: "1.0.0", Script: "v1_0.py"},
		{Version: "1.1.0", Script: "v1_1.py", Signed: true},
		{Version: "1.2.5", Script: "v1_2.py", Signed: true},
		{Version: "1.3.2", Script: "v2.py", Signed: true},
		{Version: "2.1.2", Script: "v2.py", Signed: true},
	}
}

//go:embed requirements/*.txt
var requirementFiles embed.FS

// Requirements returns the packages of the release's environment in the form
// of a pip requirements file: every one, each at one version.
func (r Release) Requirements() ([]byte, error) {
	text, err := requirementFiles.ReadFile("requirements/" + r.Version + ".txt")
	if err != nil {
		return nil, fmt.Errorf("packages of koi-net %s: %w", r.Version, err)
	}
	return text, nil
}

// Forgets tells whether a node of the release forgets another at the fourth
// connection to it that fails in a row, with its edges and what waits for it.
func (r Release) Forgets() bool { return r.Signed }
