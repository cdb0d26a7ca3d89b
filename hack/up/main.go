package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/koi-net/koi-operator/hack/cluster/assets"
	"github.com/koi-net/koi-operator/hack/image/product"
	"github.com/koi-net/koi-operator/hack/up/deploy"
	"github.com/koi-net/koi-operator/hack/up/feed"
	"github.com/koi-net/koi-operator/hack/up/target"
)

// The samples: the node that is fed, and the one the knowledge travels to.
const (
	sensor = "sensor"
	reader = "reader"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	var err error
	progress := &stamped{w: os.Stderr, start: time.Now()}
	switch strings.Join(os.Args[1:], " ") {
	case "up":
		err = up(ctx, os.Stdout, progress)
	case "down":
		err = down(ctx, progress)
	default:
		fmt.Fprintln(os.Stderr, "usage: go run ./hack/up up|down")
		os.Exit(2)
	}
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "up:", err)
		os.Exit(1)
	}
}

// up does all of it, each step in place before the next.
func up(ctx context.Context, stdout, progress io.Writer) error {
	root, err := assets.Root()
	if err != nil {
		return err
	}
	commits, err := feed.Commits(ctx, root)
	if err != nil {
		return err
	}
	t, err := target.Find(ctx, progress)
	if err != nil {
		return err
	}
	references, err := images(ctx, root, t, progress)
	if err != nil {
		return err
	}
	d := &deploy.Deployer{Kubectl: t.Kubectl, Root: root, Progress: progress}
	if err := d.Install(ctx, references); err != nil {
		return err
	}
	if err := d.Samples(ctx); err != nil {
		return err
	}
	if err := d.WaitReady(ctx, references["koi-node"], 5*time.Minute); err != nil {
		return err
	}
	source := feed.Node{Kubectl: t.Kubectl, Namespace: deploy.Namespace, Name: sensor}
	put, err := feed.Feed(ctx, source, commits)
	if err != nil {
		return err
	}
	fmt.Fprintf(progress, "put %d of the repository's %d commits into node %s; it held the others\n", put, len(commits), sensor)
	arrived := feed.Node{Kubectl: t.Kubectl, Namespace: deploy.Namespace, Name: reader}
	if err := feed.Await(ctx, arrived, commits, 3*time.Minute, progress); err != nil {
		return err
	}
	return report(ctx, stdout, t)
}

// images brings the images into the cluster, started on the way, and returns the
// references of them by name.
func images(ctx context.Context, root string, t *target.Target, progress io.Writer) (map[string]string, error) {
	if t.Kind == target.Existing {
		registry, version := os.Getenv("IMAGE_REGISTRY"), os.Getenv("IMAGE_VERSION")
		if registry == "" || version == "" {
			return nil, errors.New("CLUSTER=existing: images cannot be loaded into it, it has to pull them: push those of go run ./hack/image (or of the Dockerfile) to a registry, and set IMAGE_REGISTRY=HOST/PATH and IMAGE_VERSION=TAG")
		}
		fmt.Fprintf(progress, "the cluster has to be able to pull the images from %s\n", registry)
		out := map[string]string{}
		for _, name := range product.Names() {
			out[name] = product.Reference(registry, name, version)
		}
		return out, t.Start(ctx)
	}
	// Compiling the product first shows its mistakes before minutes go into a cluster.
	built, err := product.Build(ctx, product.Options{Root: root, Progress: progress})
	if err != nil {
		return nil, err
	}
	if err := t.Start(ctx); err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, i := range built {
		out[i.Name] = i.Reference
	}
	return out, t.Load(ctx, built)
}

// report shows what stands and says how to go on.
func report(ctx context.Context, stdout io.Writer, t *target.Target) error {
	table, err := t.Kubectl.Run(ctx, "get", "koinodes,koiedges", "-n", deploy.Namespace)
	if err != nil {
		return err
	}
	down := "make down"
	if t.Kind == target.Existing {
		down = "CLUSTER=existing make down"
	}
	kubectl := "kubectl"
	if _, err := exec.LookPath(kubectl); err != nil {
		kubectl = t.Kubectl.Path
	}
	_, err = fmt.Fprintf(stdout, `
%[1]s
How to go on:

  export KUBECONFIG=%[2]s
  %[6]s -n %[3]s get koinodes,koiedges

Put a bundle into the sensor, and see it arrive at the reader:

  echo '{"text":"hello"}' | %[6]s -n %[3]s exec -i deploy/%[4]s -c node -- /koi-node put orn:git.commit:hello -
  %[6]s -n %[3]s exec deploy/%[5]s -c node -- /koi-node get orn:git.commit:hello

Take it all back: %[7]s
`, table, t.Kubectl.Kubeconfig, deploy.Namespace, sensor, reader, kubectl, down)
	return err
}

// down takes back what up made: the cluster where it is ours, else what is in it.
func down(ctx context.Context, progress io.Writer) error {
	if os.Getenv("CLUSTER") != string(target.Existing) {
		found, err := target.StopOwn(ctx, progress)
		if err == nil && !found {
			fmt.Fprintln(progress, "no cluster of ours is up")
		}
		return err
	}
	root, err := assets.Root()
	if err != nil {
		return err
	}
	t, err := target.Find(ctx, progress)
	if err != nil {
		return err
	}
	if err := t.Start(ctx); err != nil {
		return err
	}
	return (&deploy.Deployer{Kubectl: t.Kubectl, Root: root, Progress: progress}).Remove(ctx)
}

// stamped puts the time since the start before every line.
type stamped struct {
	w     io.Writer
	start time.Time
}

func (s *stamped) Write(b []byte) (int, error) {
	at := time.Since(s.start).Round(time.Second)
	for line := range strings.Lines(string(b)) {
		if _, err := fmt.Fprintf(s.w, "%5s  %s", at, line); err != nil {
			return 0, err
		}
	}
	return len(b), nil
}
