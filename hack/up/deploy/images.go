package deploy

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
)

// reference matches an image reference of the project in a manifest, whatever its tag.
var reference = regexp.MustCompile(`\bghcr\.io/koi-net/([a-z-]+):[A-Za-z0-9_][A-Za-z0-9._-]*`)

// SetImages puts references in the place of the project's images in manifests: as a
// container's image, in a flag or in a variable. The keys are the images' names, such
// as koi-node. A name that does not occur is an error: the manifests would run
// something else than what was built.
func SetImages(manifests []byte, references map[string]string) ([]byte, error) {
	seen := map[string]bool{}
	out := reference.ReplaceAllFunc(manifests, func(found []byte) []byte {
		name := string(reference.FindSubmatch(found)[1])
		if to, ok := references[name]; ok {
			seen[name] = true
			return []byte(to)
		}
		return found
	})
	for _, name := range slices.Sorted(maps.Keys(references)) {
		if !seen[name] {
			return nil, fmt.Errorf("the manifests name no image ghcr.io/koi-net/%s", name)
		}
	}
	return out, nil
}
