package helm

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/koi-net/koi-operator/hack/cluster/assets"
)

// module is Helm's own.
const module = "helm.sh/helm/v4"

// component says how Helm is built. Unstamped it would not know its patch version.
var component = assets.Component{
	Name:     "helm",
	Dir:      "hack/tools/helm",
	Packages: []string{module + "/cmd/helm"},
	Stamp:    module,
	StampFlags: func(version string) (string, error) {
		return "-X " + module + "/internal/version.version=" + version, nil
	},
}

// Build returns the path of Helm, which it builds where the cache lacks it: two
// minutes of two cores. progress receives a line every few seconds of that.
func Build(ctx context.Context, progress io.Writer) (string, error) {
	b, err := assets.NewBuilder(progress)
	if err != nil {
		return "", err
	}
	dirs, err := b.Ensure(ctx, component)
	if err != nil {
		return "", err
	}
	return filepath.Join(dirs[component.Name], "helm"), nil
}

// Client runs Helm.
type Client struct {
	// Path is the program.
	Path string
	// Home is a directory for all that Helm keeps; made if missing.
	Home string
	// Dir is the working directory; empty is the caller's.
	Dir string
	// Kubeconfig names the cluster; with none Helm finds no cluster.
	Kubeconfig string
}

// Run runs Helm and returns what it printed. An error carries its messages.
func (c *Client) Run(ctx context.Context, args ...string) (string, error) {
	kubeconfig := c.Kubeconfig
	if kubeconfig == "" {
		kubeconfig = os.DevNull
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, c.Path, args...)
	cmd.Dir = c.Dir
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + c.Home, "KUBECONFIG=" + kubeconfig,
		"HELM_CACHE_HOME=" + filepath.Join(c.Home, "cache"),
		"HELM_CONFIG_HOME=" + filepath.Join(c.Home, "config"),
		"HELM_DATA_HOME=" + filepath.Join(c.Home, "data"),
	}
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return stdout.String(), fmt.Errorf("helm %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}
