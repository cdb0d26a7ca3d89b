package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/koi-net/koi-operator/hack/cluster/assets"
)

// DefaultRun is the run directory where $KOI_RUN names none. It is on disk, not below
// /run: a tmpfs is often mounted noexec and too small for volumes and images, and
// nobody but root can put anything in its place, as in /var/tmp.
const DefaultRun = "/var/lib/koi-operator"

// Cluster is the local cluster of this machine, running or not.
type Cluster struct {
	// Run is the run directory, absolute.
	Run string
	// Builder provides the programs.
	Builder *assets.Builder
	// Progress receives a line for each step.
	Progress io.Writer
}

// New returns the cluster of the run directory that the environment names, built from
// the checkout around the working directory.
func New(progress io.Writer) (*Cluster, error) {
	run := os.Getenv("KOI_RUN")
	if run == "" {
		run = DefaultRun
	}
	run, err := filepath.Abs(run)
	if err != nil {
		return nil, fmt.Errorf("run directory: %w", err)
	}
	// A socket's path may have 107 bytes; the longest below the run directory has 48.
	if len(run) > 58 || strings.ContainsAny(run, " \t\n\"\\,:") || run == "/" {
		return nil, fmt.Errorf("run directory %q: want at most 58 characters, without spaces, quotes, commas and colons", run)
	}
	b, err := assets.NewBuilder(progress)
	if err != nil {
		return nil, err
	}
	return &Cluster{Run: run, Builder: b, Progress: b.Progress}, nil
}

// path returns a path below the run directory.
func (c *Cluster) path(elem ...string) string {
	return filepath.Join(append([]string{c.Run}, elem...)...)
}

// Kubeconfig returns the path of the administrator's kubeconfig; the file is there
// while the cluster runs.
func (c *Cluster) Kubeconfig() string { return c.path("kubeconfig", "admin.conf") }

// Kubectl returns the kubectl of the cluster's own version, built if missing.
func (c *Cluster) Kubectl(ctx context.Context) (string, error) {
	dirs, err := c.Builder.Ensure(ctx, assets.Kone())
	if err != nil {
		return "", err
	}
	return filepath.Join(dirs[assets.Kone().Name], "kubectl"), nil
}

// Load imports image archives (OCI or docker, plain tar) into the running cluster.
func (c *Cluster) Load(ctx context.Context, files ...string) error {
	s, err := readState(c.Run)
	if errors.Is(err, os.ErrNotExist) {
		return errors.New("no cluster is up: run go run ./hack/cluster up")
	}
	if err != nil {
		return err
	}
	for _, file := range files {
		if err := c.load(ctx, s, file); err != nil {
			return err
		}
		fmt.Fprintf(c.Progress, "loaded %s\n", file)
	}
	return nil
}

func (c *Cluster) load(ctx context.Context, s *state, file string) error {
	out, err := c.ctr(ctx, s, "images", "import", file)
	if err != nil {
		return fmt.Errorf("import %s: %w: %s", file, err, out)
	}
	return nil
}

// ctr runs containerd's client.
func (c *Cluster) ctr(ctx context.Context, s *state, args ...string) (string, error) {
	args = append([]string{"--address", c.path("containerd.sock"), "--namespace", "k8s.io"}, args...)
	cmd := exec.CommandContext(ctx, filepath.Join(s.Assets[assets.Containerd().Name], "ctr"), args...)
	cmd.Env = daemonEnv("")
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}
