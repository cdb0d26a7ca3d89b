package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"syscall"
	"time"

	"github.com/koi-net/koi-operator/hack/bench/report"
	"github.com/koi-net/koi-operator/hack/bench/scenario"
	"github.com/koi-net/koi-operator/hack/bench/subject"
	"github.com/koi-net/koi-operator/hack/interop/reference"
)

// errUsage says that the flags make no sense; the flag package has said why.
var errUsage = errors.New("usage")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errUsage):
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options are the flags.
type options struct {
	run         *regexp.Regexp
	short       bool
	large       bool
	list        bool
	noReference bool
	dir         string
	json, doc   string
	from        string
}

func parse(args []string, stderr io.Writer) (options, error) {
	var o options
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(stderr)
	match := f.String("run", "", "measure what matches this regular expression alone; see -list")
	f.BoolVar(&o.short, "short", false, "a few seconds for each case")
	f.BoolVar(&o.large, "large", true, "also what takes 1,000,000 bundles (ours alone); with -short only if it is asked for")
	f.BoolVar(&o.list, "list", false, "list what would be measured")
	f.BoolVar(&o.noReference, "no-reference", false, "leave the Python reference out")
	f.StringVar(&o.dir, "dir", "", "where nodes have their data; default: a temporary directory on a real file system")
	f.StringVar(&o.json, "json", "", "write the results to this file too, as JSON")
	f.StringVar(&o.doc, "doc", "", "put the results between the markers of this document too")
	f.StringVar(&o.from, "from", "", "measure nothing: take the results from this file that -json wrote")
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return o, err
		}
		return o, errUsage
	}
	asked := false
	f.Visit(func(set *flag.Flag) { asked = asked || set.Name == "large" })
	o.large = o.large && (asked || !o.short)
	var err error
	if o.run, err = regexp.Compile(*match); err != nil || f.NArg() > 0 {
		fmt.Fprintln(stderr, "bench: -run takes a regular expression, and there are no arguments:", err, f.Args())
		return o, errUsage
	}
	return o, nil
}

// run measures and reports. Tables go to stdout, progress to stderr.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	o, err := parse(args, stderr)
	if err != nil {
		return err
	}
	if o.from != "" {
		r, err := report.Load(o.from)
		if err != nil {
			return err
		}
		return publish(r, o, stdout)
	}
	env := &scenario.Env{Short: o.short, Large: o.large}
	var missing error
	switch {
	case o.noReference:
	case o.list:
		env.First, env.Newest = &reference.Environment{Release: oldest()}, &reference.Environment{Release: newest()}
	default:
		missing = addReference(ctx, env, stderr)
	}
	cases := choose(scenario.Cases(env), o.run)
	if o.list {
		for _, c := range cases {
			fmt.Fprintln(stdout, c.Name())
		}
		return nil
	}
	if len(cases) == 0 {
		return fmt.Errorf("nothing matches -run %s; see -list", o.run)
	}
	base, err := dataDir(o.dir)
	if err != nil {
		return err
	}
	r, err := measure(ctx, env, base, cases, stderr)
	if err != nil {
		return err
	}
	if missing != nil {
		r.Skipped = append(r.Skipped, report.Skipped{What: "the Python reference", Why: missing.Error()})
	}
	return errors.Join(publish(r, o, stdout), missing, failures(r))
}

// addReference installs the releases that ours is compared with.
func addReference(ctx context.Context, env *scenario.Env, stderr io.Writer) error {
	environments, err := reference.Install(ctx, stderr, oldest(), newest())
	if err != nil {
		fmt.Fprintf(stderr, "\nNO PYTHON REFERENCE: %v\nOurs is measured alone, nothing is compared. -no-reference asks for that.\n\n", err)
		return err
	}
	env.First, env.Newest = &environments[0], &environments[1]
	return nil
}

// oldest and newest are the releases that ours is compared with.
func oldest() reference.Release { return reference.Releases()[0] }

func newest() reference.Release {
	all := reference.Releases()
	return all[len(all)-1]
}

// choose returns the cases whose names match.
func choose(cases []scenario.Case, match *regexp.Regexp) []scenario.Case {
	var out []scenario.Case
	for _, c := range cases {
		if match.MatchString(c.Name()) {
			out = append(out, c)
		}
	}
	return out
}

// measure runs cases one after another, with the nodes' data below base. koi-node
// is built unless env names one. A case that fails is noted and the
// others go on; the end of ctx ends all.
func measure(ctx context.Context, env *scenario.Env, base string, cases []scenario.Case, stderr io.Writer) (r *report.Report, err error) {
	if env.Dir, err = os.MkdirTemp(base, "koi-bench-"); err != nil {
		return nil, fmt.Errorf("make a directory for the nodes' data: %w", err)
	}
	defer func() {
		if e := os.RemoveAll(env.Dir); err == nil {
			err = e
		}
	}()
	if env.Program == "" {
		if env.Program, err = subject.Build(ctx, env.Dir); err != nil {
			return nil, err
		}
	}
	r = &report.Report{Machine: machine(env.Dir), Short: env.Short, Groups: scenario.Groups()}
	for i, c := range cases {
		began := time.Now()
		fmt.Fprintf(stderr, "%3d/%d %s", i+1, len(cases), c.Name())
		rows, err := c.Run(ctx, env)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		r.Rows = append(r.Rows, rows...)
		if err != nil {
			r.Skipped = append(r.Skipped, report.Skipped{What: c.Name(), Why: err.Error(), Failed: true})
			fmt.Fprintf(stderr, ": FAILED: %v\n", err)
			continue
		}
		fmt.Fprintf(stderr, ": %s\n", time.Since(began).Round(time.Second/10))
	}
	return r, nil
}

// publish prints the report and writes it where it was asked for.
func publish(r *report.Report, o options, stdout io.Writer) error {
	text := r.Markdown(scenario.Targets())
	fmt.Fprint(stdout, text)
	if o.json != "" {
		if err := r.Save(o.json); err != nil {
			return err
		}
	}
	if o.doc != "" {
		return report.WriteInto(o.doc, text)
	}
	return nil
}

// failures is the error of a run in which a case failed.
func failures(r *report.Report) error {
	n := 0
	for _, s := range r.Skipped {
		if s.Failed {
			n++
		}
	}
	if n > 0 {
		return fmt.Errorf("%d of the cases failed", n)
	}
	return nil
}
