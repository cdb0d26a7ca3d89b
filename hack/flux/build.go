package flux

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/koi-net/koi-operator/hack/cluster/assets"
)

const (
	kustomizeModule = "github.com/fluxcd/kustomize-controller"
	sourceModule    = "github.com/fluxcd/source-controller"
)

// component says how kustomize-controller is built; its go.mod has the version.
var component = assets.Component{
	Name:     "kustomize-controller",
	Dir:      "hack/tools/flux-kustomize",
	Packages: []string{kustomizeModule},
	Stamp:    kustomizeModule,
}

// Build returns the path of Flux's kustomize-controller, which it builds where the
// cache lacks it: three minutes of two cores. progress receives a line every few
// seconds of that.
func Build(ctx context.Context, progress io.Writer) (string, error) {
	b, err := assets.NewBuilder(progress)
	if err != nil {
		return "", err
	}
	dirs, err := b.Ensure(ctx, component)
	if err != nil {
		return "", err
	}
	return filepath.Join(dirs[component.Name], "kustomize-controller"), nil
}

// Definitions returns Flux's custom resource definitions of sources and
// Kustomizations, as their modules have them. root is the repository's.
func Definitions(ctx context.Context, root string) ([]byte, error) {
	var out bytes.Buffer
	for _, d := range []struct{ module, pinnedBy string }{{sourceModule, "flux-source"}, {kustomizeModule, "flux-kustomize"}} {
		dir, err := moduleDir(ctx, filepath.Join(root, "hack", "tools", d.pinnedBy), d.module)
		if err != nil {
			return nil, err
		}
		files, err := filepath.Glob(filepath.Join(dir, "config", "crd", "bases", "*.yaml"))
		if err != nil {
			return nil, err
		}
		if len(files) == 0 {
			return nil, fmt.Errorf("the module %s has no definitions", d.module)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				return nil, fmt.Errorf("read the definitions of Flux: %w", err)
			}
			fmt.Fprintf(&out, "---\n%s\n", text)
		}
	}
	return out.Bytes(), nil
}

// moduleDir returns where the module cache has a module, in the version that the
// go.mod in pinned requires.
func moduleDir(ctx context.Context, pinned, module string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", "mod", "download", "-json", module)
	cmd.Dir = pinned
	cmd.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off")
	var said bytes.Buffer
	cmd.Stderr = &said
	text, err := cmd.Output()
	var found struct{ Dir, Error string }
	if jsonErr := json.Unmarshal(text, &found); jsonErr == nil && found.Error != "" {
		err = errors.Join(err, errors.New(found.Error))
	}
	switch {
	case err != nil:
		return "", fmt.Errorf("download %s: %w\n%s", module, err, said.String())
	case found.Dir == "":
		return "", fmt.Errorf("download %s: go tells no directory", module)
	}
	return found.Dir, nil
}
