package target

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/koi-net/koi-operator/hack/cluster/assets"
	"github.com/koi-net/koi-operator/hack/cluster/local"
	"github.com/koi-net/koi-operator/hack/image/product"
	"github.com/koi-net/koi-operator/hack/up/kubectl"
)

// kindCluster is the name of the cluster that is made in kind.
const kindCluster = "koi-operator"

// Target is a cluster that runs, or can be started.
type Target struct {
	// Kind says what it is.
	Kind Kind
	// Kubectl talks to it once it is up.
	Kubectl *kubectl.Client

	progress io.Writer
	local    *local.Cluster
}

// Find chooses a cluster by the environment (CLUSTER, KUBECONFIG) and by what the
// machine has, and says which it is and why. Nothing is started.
func Find(ctx context.Context, progress io.Writer) (*Target, error) {
	kind, why, err := Choose(gather(ctx))
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(progress, "cluster: %s (%s)\n", kind, why)
	return &Target{Kind: kind, progress: progress}, nil
}

// gather looks at the machine.
func gather(ctx context.Context) Facts {
	f := Facts{Wanted: os.Getenv("CLUSTER"), Local: local.Possible()}
	if _, err := exec.LookPath("kind"); err != nil {
		f.KindTool = errors.New("kind is not on the path")
	} else {
		f.Docker = dockerAnswers(ctx)
	}
	if name := os.Getenv("KUBECONFIG"); name == "" {
		f.Kubeconfig = errors.New("KUBECONFIG is not set: name the cluster's kubeconfig by it")
	} else if _, err := os.Stat(filepath.SplitList(name)[0]); err != nil {
		f.Kubeconfig = fmt.Errorf("KUBECONFIG: %w", err)
	}
	return f
}

// dockerAnswers asks the Docker daemon whether it is there.
func dockerAnswers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "docker", "info").CombinedOutput(); err != nil {
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		return fmt.Errorf("docker info fails: %w: %s", err, lines[len(lines)-1])
	}
	return nil
}

// Start brings the cluster up where it is not, and makes Kubectl usable.
func (t *Target) Start(ctx context.Context) error {
	switch t.Kind {
	case Local:
		cluster, err := local.New(t.progress)
		if err != nil {
			return err
		}
		if err := cluster.Up(ctx); err != nil {
			return err
		}
		program, err := cluster.Kubectl(ctx)
		if err != nil {
			return err
		}
		t.local = cluster
		// The cache goes with the cluster: the next one has the same address.
		t.Kubectl = &kubectl.Client{Path: program, Kubeconfig: cluster.Kubeconfig(), CacheDir: filepath.Join(cluster.Run, "kubectl")}
		return nil
	case InKind:
		return t.startKind(ctx)
	case Existing:
		program, err := findKubectl(ctx, t.progress)
		if err != nil {
			return err
		}
		t.Kubectl = &kubectl.Client{Path: program, Kubeconfig: os.Getenv("KUBECONFIG")}
		if _, err := t.Kubectl.Run(ctx, "version", "--request-timeout=15s"); err != nil {
			return fmt.Errorf("the existing cluster does not answer: %w", err)
		}
		return nil
	default:
		return fmt.Errorf("no cluster is called %q", t.Kind)
	}
}

// findKubectl returns the kubectl of the path, else one of our own, which takes
// minutes to build the first time.
func findKubectl(ctx context.Context, progress io.Writer) (string, error) {
	if program, err := exec.LookPath("kubectl"); err == nil {
		return program, nil
	}
	b, err := assets.NewBuilder(progress)
	if err != nil {
		return "", err
	}
	fmt.Fprintln(progress, "no kubectl on the path: using one from the cache, built if missing")
	dirs, err := b.Ensure(ctx, assets.Kone())
	if err != nil {
		return "", err
	}
	return filepath.Join(dirs[assets.Kone().Name], "kubectl"), nil
}

// startKind creates the kind cluster unless it is there, and a kubeconfig for it.
func (t *Target) startKind(ctx context.Context) error {
	there, err := kindExists(ctx)
	if err != nil {
		return err
	}
	if there {
		fmt.Fprintf(t.progress, "the kind cluster %s is there already\n", kindCluster)
	} else {
		fmt.Fprintf(t.progress, "creating the kind cluster %s, which takes a minute or two\n", kindCluster)
		if _, err := runKind(ctx, "create", "cluster", "--name", kindCluster, "--kubeconfig", os.DevNull, "--wait", "180s"); err != nil {
			return err
		}
	}
	config, err := runKind(ctx, "get", "kubeconfig", "--name", kindCluster)
	if err != nil {
		return err
	}
	file, err := kindKubeconfig()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return fmt.Errorf("write the kubeconfig: %w", err)
	}
	if err := os.WriteFile(file, config, 0o600); err != nil {
		return fmt.Errorf("write the kubeconfig: %w", err)
	}
	program, err := findKubectl(ctx, t.progress)
	if err != nil {
		return err
	}
	t.Kubectl = &kubectl.Client{Path: program, Kubeconfig: file}
	return nil
}

func kindExists(ctx context.Context) (bool, error) {
	names, err := runKind(ctx, "get", "clusters")
	if err != nil {
		return false, err
	}
	return slices.Contains(strings.Fields(string(names)), kindCluster), nil
}

// kindKubeconfig is a file of our own: the user's is not touched.
func kindKubeconfig() (string, error) {
	cache, err := assets.CacheDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(cache, "kind.kubeconfig"), nil
}

// Load brings images into a cluster of ours.
func (t *Target) Load(ctx context.Context, images []product.Built) error {
	switch t.Kind {
	case Local:
		for _, i := range images {
			if err := t.local.Load(ctx, i.File); err != nil {
				return err
			}
		}
	case InKind:
		for _, i := range images {
			if _, err := runKind(ctx, "load", "image-archive", i.File, "--name", kindCluster); err != nil {
				return err
			}
			fmt.Fprintf(t.progress, "loaded %s\n", i.File)
		}
	case Existing:
		return errors.New("images cannot be loaded into an existing cluster, which has to pull them")
	}
	return nil
}

// StopOwn takes down the clusters that Start makes, local and in kind, where they are,
// and reports whether there was one.
func StopOwn(ctx context.Context, progress io.Writer) (bool, error) {
	found := false
	if _, err := exec.LookPath("kind"); err == nil && dockerAnswers(ctx) == nil {
		there, err := kindExists(ctx)
		if err != nil {
			return false, err
		}
		if there {
			found = true
			fmt.Fprintf(progress, "deleting the kind cluster %s\n", kindCluster)
			if _, err := runKind(ctx, "delete", "cluster", "--name", kindCluster, "--kubeconfig", os.DevNull); err != nil {
				return true, err
			}
			file, err := kindKubeconfig()
			if err != nil {
				return true, err
			}
			if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
				return true, fmt.Errorf("remove the kubeconfig: %w", err)
			}
		}
	}
	if local.Possible() != nil {
		return found, nil
	}
	cluster, err := local.New(progress)
	if err != nil {
		return found, err
	}
	status, err := cluster.Status(ctx)
	if err != nil || !status.Exists {
		return found, err
	}
	return true, cluster.Down(ctx, false)
}

// runKind runs kind and returns what it printed.
func runKind(ctx context.Context, args ...string) ([]byte, error) {
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, "kind", args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("kind %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return out, nil
}
