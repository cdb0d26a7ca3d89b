package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"github.com/koi-net/koi-operator/hack/cluster/assets"
	"github.com/koi-net/koi-operator/hack/cluster/local"
)

const usage = `usage: go run ./hack/cluster COMMAND

  build [--only api|all]  build what the cache lacks; api is what envtest needs
  assets                  print the directory of etcd, kube-apiserver and kubectl, built if missing
  up                      start the cluster; does nothing when it runs and is healthy
  down [--force]          stop it, take back every trace and check that none is left
  status                  say what runs and what does not; exit 1 unless all is well
  load FILE.tar...        import image archives
  kubeconfig              print the path of the cluster's kubeconfig

Programs are cached in $KOI_CACHE (default ~/.cache/koi-operator), the running cluster
lives in $KOI_RUN (default /var/lib/koi-operator).
`

// errUsage asks for the usage text.
var errUsage = errors.New("usage")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	switch {
	case errors.Is(err, errUsage):
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

// run carries out one command. Results go to stdout, progress to stderr.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	if len(args) == 0 {
		return errUsage
	}
	name, args := args[0], args[1:]
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	flags.SetOutput(stderr)
	switch name {
	case "build":
		only := flags.String("only", "all", "what to build: api (etcd, kube-apiserver, kubectl) or all")
		if flags.Parse(args) != nil || flags.NArg() > 0 {
			return errUsage
		}
		return build(ctx, *only, stderr)
	case "assets":
		if flags.Parse(args) != nil || flags.NArg() > 0 {
			return errUsage
		}
		return printAssets(ctx, stdout, stderr)
	}
	cluster, err := local.New(stderr)
	if err != nil {
		return err
	}
	switch name {
	case "up":
		if flags.Parse(args) != nil || flags.NArg() > 0 {
			return errUsage
		}
		return cluster.Up(ctx)
	case "down":
		force := flags.Bool("force", false, "remove a cluster's traces even where its run directory is gone")
		if flags.Parse(args) != nil || flags.NArg() > 0 {
			return errUsage
		}
		return cluster.Down(ctx, *force)
	case "status":
		if flags.Parse(args) != nil || flags.NArg() > 0 {
			return errUsage
		}
		return status(ctx, cluster, stdout)
	case "load":
		if flags.Parse(args) != nil || flags.NArg() == 0 {
			return errUsage
		}
		return cluster.Load(ctx, flags.Args()...)
	case "kubeconfig":
		if flags.Parse(args) != nil || flags.NArg() > 0 {
			return errUsage
		}
		_, err := fmt.Fprintln(stdout, cluster.Kubeconfig())
		return err
	default:
		return errUsage
	}
}

// build fills the cache.
func build(ctx context.Context, only string, progress io.Writer) error {
	b, err := assets.NewBuilder(progress)
	if err != nil {
		return err
	}
	components := assets.All()
	switch only {
	case "all":
	case "api":
		components = []assets.Component{assets.Kone()}
	default:
		return fmt.Errorf("--only %q: want api or all", only)
	}
	_, err = b.Ensure(ctx, components...)
	return err
}

// printAssets prints the directory that KUBEBUILDER_ASSETS wants.
func printAssets(ctx context.Context, stdout, progress io.Writer) error {
	dir, err := assets.Envtest(ctx, progress)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(stdout, dir)
	return err
}

// errUnhealthy ends status with a failure after it has said why.
var errUnhealthy = errors.New("the cluster is not healthy")

// status prints each daemon and what is wrong.
func status(ctx context.Context, cluster *local.Cluster, stdout io.Writer) error {
	s, err := cluster.Status(ctx)
	if err != nil {
		return err
	}
	if !s.Exists {
		return errors.New("no local cluster is up")
	}
	for _, name := range slices.Sorted(maps.Keys(s.Running)) {
		fmt.Fprintf(stdout, "%-20s running, process %d\n", name, s.Running[name])
	}
	for _, fault := range s.Faults {
		fmt.Fprintln(stdout, "fault:", fault)
	}
	if !s.Healthy() {
		return errUnhealthy
	}
	fmt.Fprintln(stdout, "healthy, kubeconfig", cluster.Kubeconfig())
	return nil
}
