package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"os"
	"regexp"
	"time"

	"github.com/koi-net/koi-operator/hack/chaos/koinode"
)

// options are what a run is told.
type options struct {
	rounds   int
	duration time.Duration
	seed     uint64
	only     *regexp.Regexp
	program  string
}

// parse reads the flags.
func parse(args []string, stderr io.Writer) (options, error) {
	var o options
	f := flag.NewFlagSet("chaos", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.IntVar(&o.rounds, "rounds", 100, "rounds of each scenario that kills nodes")
	f.DurationVar(&o.duration, "duration", time.Minute, "how long each scenario that has no rounds lasts; others end after it, too, if -rounds is 0")
	f.Uint64Var(&o.seed, "seed", 0, "repeat the choices of an earlier run; 0 draws a seed, which is printed")
	only := f.String("run", "", "run the scenarios that match this regular expression alone")
	f.StringVar(&o.program, "koi-node", "", "the program to run; built from this tree where it is not given")
	f.Usage = func() {
		fmt.Fprintf(stderr, "usage: go run ./hack/chaos [flags]\n\nThe scenarios:\n")
		for _, s := range scenarios() {
			fmt.Fprintf(stderr, "  %-22s %s\n", s.name, s.about)
		}
		fmt.Fprintf(stderr, "\nThe flags:\n")
		f.PrintDefaults()
	}
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("%q is no flag", f.Arg(0))
	}
	if o.rounds < 0 || o.duration <= 0 {
		return o, errors.New("-rounds and -duration cannot be less than nothing")
	}
	var err error
	if o.only, err = regexp.Compile(*only); err != nil {
		return o, fmt.Errorf("-run: %w", err)
	}
	if o.seed == 0 {
		o.seed = rand.Uint64() | 1
	}
	return o, nil
}

// scenario is one thing that a run tries.
type scenario struct {
	name  string
	about string
	run   func(context.Context, *run) error
}

// errSkipped is wrapped by a scenario that cannot be tried on this machine.
var errSkipped = errors.New("skipped")

// run is one run of one scenario.
type run struct {
	options
	out   io.Writer
	until time.Time // for rounds without a number
}

// random returns a source of choices that depends on the seed and the name alone.
func (r *run) random(name string) *rand.Rand {
	h := fnv.New64a()
	_, _ = h.Write([]byte(name)) // cannot fail
	return rand.New(rand.NewPCG(r.seed, h.Sum64()))
}

// more reports whether there is another round.
func (r *run) more(ctx context.Context, round int) bool {
	if ctx.Err() != nil {
		return false
	}
	if r.rounds > 0 {
		return round < r.rounds
	}
	return time.Now().Before(r.until)
}

// say prints what came to pass.
func (r *run) say(format string, args ...any) { fmt.Fprintf(r.out, "    "+format+"\n", args...) }

// run runs all scenarios that are asked for, and goes on where one fails.
func (o options) run(ctx context.Context, out io.Writer) error {
	fmt.Fprintf(out, "seed %d\n", o.seed)
	dir, err := os.MkdirTemp("", "koi-chaos-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if o.program == "" {
		if o.program, err = koinode.Build(ctx, dir); err != nil {
			return err
		}
	}
	var failed []error
	tried := 0
	for _, s := range scenarios() {
		if !o.only.MatchString(s.name) || ctx.Err() != nil {
			continue
		}
		tried++
		began := time.Now()
		fmt.Fprintf(out, "=== %s\n", s.name)
		err := s.run(ctx, &run{options: o, out: out, until: began.Add(o.duration)})
		took := time.Since(began).Round(100 * time.Millisecond)
		switch {
		case ctx.Err() != nil:
		case errors.Is(err, errSkipped):
			fmt.Fprintf(out, "    %v\n", err)
		case err != nil:
			fmt.Fprintf(out, "--- FAIL %s (%s), seed %d\n%v\n", s.name, took, o.seed, err)
			failed = append(failed, fmt.Errorf("%s failed", s.name))
		default:
			fmt.Fprintf(out, "--- ok %s (%s)\n", s.name, took)
		}
	}
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("interrupted: %w", ctx.Err())
	case tried == 0:
		return fmt.Errorf("no scenario matches %q", o.only)
	}
	return errors.Join(failed...)
}

// scenarios returns all there are, in the order in which they run.
func scenarios() []scenario {
	var out []scenario
	for _, s := range []struct {
		stretch stretch
		name    string
		about   string
	}{
		{broadcast, "broadcast", "kills the node that many senders broadcast to"},
		{processing, "processing", "kills it while its inbox is full"},
		{delivery, "delivery", "kills it and those who follow it, while subscribers fail"},
	} {
		for _, generation := range []string{"unsigned", "signed"} {
			k := killing{name: s.name + "/" + generation, unsigned: generation == "unsigned", stretch: s.stretch}
			out = append(out, scenario{name: k.name, about: s.about, run: k.run})
		}
	}
	return append(out,
		scenario{"disk/volume", "fills the volume of a node, and enlarges it (Linux, as root)", full{}.run},
		scenario{"disk/bound", "fills the store of a node up to its bound, and forgets something", full{bound: true}.run},
		scenario{"clocks", "sets the clocks of nodes while they work", clocks},
		scenario{"soak", "runs nodes at an even pace, and measures that nothing grows", soak},
	)
}
