package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

type options struct {
	nodes, edges     int
	processes, wires int
	idle, patience   time.Duration
	samples          int
	doc, profile     string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench/operator:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var o options
	flags := flag.NewFlagSet("bench/operator", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.IntVar(&o.nodes, "nodes", 1000, "KoiNodes with a simulated node each")
	flags.IntVar(&o.edges, "edges", 5000, "KoiEdges between them")
	flags.IntVar(&o.processes, "processes", 50, "KoiNodes with a koi-node process each, in a second world; 0 leaves it out")
	flags.IntVar(&o.wires, "wires", 500, "KoiEdges between those")
	flags.DurationVar(&o.idle, "idle", 6*time.Minute, "how long to watch the operator do nothing: an edge at rest is looked at every five minutes or so")
	flags.DurationVar(&o.patience, "patience", 15*time.Minute, "how long a phase may take")
	flags.IntVar(&o.samples, "samples", 200, "edges applied one after the other, to measure each")
	flags.StringVar(&o.profile, "profile", "", "write a CPU profile of the steady state to this file")
	flags.StringVar(&o.doc, "doc", "", "also write the tables between the markers <!-- operator --> of this file")
	if err := flags.Parse(args); err != nil {
		return err
	}
	root, err := repository(ctx)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "koi-bench-operator-")
	if err != nil {
		return err
	}
	say := func(format string, args ...any) { fmt.Fprintf(stderr, format+"\n", args...) }
	all, err := benchmark(ctx, root, dir, o, say, stderr)
	if err != nil {
		return fmt.Errorf("%w (what was written is in %s)", err, dir)
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	text := render(all)
	fmt.Fprint(stdout, text)
	if o.doc != "" {
		return replace(o.doc, text)
	}
	return nil
}

// benchmark measures both worlds.
func benchmark(ctx context.Context, root, dir string, o options, say func(string, ...any), progress io.Writer) ([]figures, error) {
	binary, err := build(ctx, root, dir, "koi-operator")
	if err != nil {
		return nil, err
	}
	var all []figures
	one := func(o options, start func(context.Context, settings) (running, error)) (figures, error) {
		w, err := newWorld(ctx, root, dir, progress, start)
		if w != nil {
			defer w.close()
		}
		if err != nil {
			return figures{}, err
		}
		return w.measure(ctx, binary, o, say)
	}
	if o.nodes > 0 {
		f, err := one(o, newFleet().run)
		if err != nil {
			return nil, err
		}
		all = append(all, f)
	}
	if o.processes > 0 {
		node, err := build(ctx, root, dir, "koi-node")
		if err != nil {
			return nil, err
		}
		p := o
		p.nodes, p.edges = o.processes, o.wires
		f, err := one(p, processes{binary: node, dir: filepath.Join(dir, "nodes")}.run)
		if err != nil {
			return nil, err
		}
		f.Processes = true
		all = append(all, f)
	}
	return all, nil
}

// repository is the root of the checkout this is run in.
func repository(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", fmt.Errorf("find the repository: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}
