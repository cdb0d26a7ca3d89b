package scenario

import (
	"context"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/koi-net/koi-operator/hack/bench/load"
	"github.com/koi-net/koi-operator/hack/bench/report"
	"github.com/koi-net/koi-operator/hack/bench/subject"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// Sizes of caches.
const (
	// stateBundles is what both we and the reference are asked for.
	stateBundles = 10_000
	// largeBundles is for ours alone: the reference takes minutes for an answer.
	largeBundles = 1_000_000
	// fetched is how many bundles a request asks for.
	fetched = 100
)

// stateGroup is the table of answers about state.
var stateGroup = report.Group{
	Name: "state", Title: "State that is asked for", Ratio: "rate",
	About: "Bundles of 1 KiB contents are there; clients ask over and over for all RIDs of their type, all manifests of it, or 100 bundles at random. " +
		"*First byte* and *whole* are times to the first and the last byte of an answer. The reference is measured quiet.",
	Columns: slices.Concat([]report.Column{
		{Key: "rate", Title: "requests/s", Digits: 1},
		{Key: "first50", Title: "first byte p50 ms", Digits: 1, Lower: true},
		{Key: "first99", Title: "p99", Digits: 1, Lower: true},
		{Key: "p50", Title: "whole p50 ms", Digits: 1, Lower: true},
		{Key: "p90", Title: "p90", Digits: 1, Lower: true},
		{Key: "p99", Title: "p99", Digits: 1, Lower: true},
		{Key: "size", Title: "answer KiB"},
		{Key: "cpu", Title: "CPU ms a request", Digits: 1, Lower: true},
		{Key: "client", Title: "client %", Lower: true},
	}, memoryColumns),
}

// stateCall is a question about state.
type stateCall struct {
	name, path string
	bodies     func(s load.Speaker, sample []rid.RID) ([][]byte, error)
}

// The calls.
const (
	callRIDs      = "rids/fetch"
	callManifests = "manifests/fetch"
	callBundles   = "bundles/fetch of 100"
)

// stateCalls are all there are.
func stateCalls() []stateCall {
	return []stateCall{
		{callRIDs, "/rids/fetch", func(s load.Speaker, _ []rid.RID) ([][]byte, error) {
			return many(16, func() ([]byte, error) { return s.FetchRIDs(load.NoteType) })
		}},
		{callManifests, "/manifests/fetch", func(s load.Speaker, _ []rid.RID) ([][]byte, error) {
			return many(16, func() ([]byte, error) { return s.FetchManifests(load.NoteType) })
		}},
		{callBundles, "/bundles/fetch", func(s load.Speaker, sample []rid.RID) ([][]byte, error) {
			return many(64, func() ([]byte, error) {
				rids := make([]rid.RID, fetched)
				for i := range rids {
					rids[i] = sample[rand.IntN(len(sample))]
				}
				return s.FetchBundles(rids)
			})
		}},
	}
}

// many makes n bodies.
func many(n int, one func() ([]byte, error)) ([][]byte, error) {
	out := make([][]byte, n)
	for i := range out {
		var err error
		if out[i], err = one(); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// StateLoad names a load in the report.
func StateLoad(call string, bundles, clients int) string {
	return fmt.Sprintf("%s at %s, %s", call, thousands(bundles), count(clients, "client"))
}

// thousands writes a number with its thousands apart.
func thousands(n int) string {
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%s,%03d", thousands(n/1000), n%1000)
}

func (e *Env) stateCases() []Case {
	var out []Case
	for _, c := range e.contenders() {
		if c.ours != "" && !c.quiet {
			continue
		}
		out = append(out, Case{
			Group: stateGroup.Name, Load: thousands(stateBundles) + " bundles", Node: c.name,
			run: func(ctx context.Context, dir string) ([]report.Row, error) { return e.state(ctx, c, dir) },
		})
	}
	return out
}

// fill seeds a node with notes, as of the unsigned generation, and returns the RIDs of some of them.
func fill(ctx context.Context, n subject.Node, notes int) (sample []rid.RID, err error) {
	const keep = 10_000
	every := max(notes/keep, 1)
	i := 0
	var seq iter.Seq2[protocol.Bundle, error] = func(yield func(protocol.Bundle, error) bool) {
		for b, err := range load.Notes(notes) {
			if i%every == 0 {
				sample = append(sample, b.Manifest.RID)
			}
			i++
			if !yield(b, err) {
				return
			}
		}
	}
	return sample, n.Seed(ctx, "unsigned", seq)
}

// state measures every call on one contender.
func (e *Env) state(ctx context.Context, c contender, dir string) ([]report.Row, error) {
	n, err := c.prepare(ctx, dir)
	if err != nil {
		return nil, err
	}
	speaker, err := c.speaker(ctx, n)
	if err != nil {
		return nil, err
	}
	sample, err := fill(ctx, n, stateBundles)
	if err != nil {
		return nil, err
	}
	if err := n.Start(ctx); err != nil {
		return nil, err
	}
	defer n.Stop()
	if err := readable(ctx, n, speaker, stateBundles); err != nil {
		return nil, err
	}
	var rows []report.Row
	during := time.Duration(e.pick(4000, 1000)) * time.Millisecond
	for _, call := range stateCalls() {
		for _, clients := range []int{1, 4} {
			values, err := ask(ctx, n, speaker, call, clients, sample, 2*clients, during)
			if err != nil {
				return rows, fmt.Errorf("%s: %w", call.name, err)
			}
			rows = append(rows, report.Row{
				Group: stateGroup.Name, Load: StateLoad(call.name, stateBundles, clients), Node: c.name, Ours: c.ours, Values: values,
			})
		}
	}
	return rows, nil
}

// ask measures one call.
func ask(ctx context.Context, n subject.Node, s load.Speaker, call stateCall, clients int, sample []rid.RID, atLeast int, during time.Duration) (map[string]float64, error) {
	target, err := load.NewTarget(n.URL(), call.path)
	if err != nil {
		return nil, err
	}
	bodies, err := call.bodies(s, sample)
	if err != nil {
		return nil, err
	}
	meters, err := measure(n)
	if err != nil {
		return nil, err
	}
	outcome, err := load.Again(ctx, target, clients, bodies, atLeast, during)
	usage, client, meterErr := meters.stop()
	if err != nil {
		return nil, err
	}
	if meterErr != nil {
		return nil, meterErr
	}
	first, whole := outcome.FirstBytes(), outcome.Wholes()
	requests := float64(len(outcome.Samples))
	values := map[string]float64{
		"rate":    requests / outcome.Elapsed.Seconds(),
		"first50": report.Milliseconds(report.Percentile(first, 0.5)),
		"first99": report.Milliseconds(report.Percentile(first, 0.99)),
		"p50":     report.Milliseconds(report.Percentile(whole, 0.5)),
		"p90":     report.Milliseconds(report.Percentile(whole, 0.9)),
		"p99":     report.Milliseconds(report.Percentile(whole, 0.99)),
		"size":    float64(outcome.Samples[0].Bytes) / (1 << 10),
		"cpu":     report.Milliseconds(usage.CPU) / requests,
		"client":  client,
	}
	memory(values, usage)
	return values, nil
}

// largeCase is a cache of a million bundles: ours alone.
func (e *Env) largeCase() Case {
	return Case{
		Group: "large", Load: thousands(largeBundles) + " bundles", Node: oursAlone, Deadline: 20 * time.Minute,
		run: func(ctx context.Context, dir string) ([]report.Row, error) { return e.large(ctx, dir) },
	}
}

// large measures starts with a large cache, and answers about its state.
func (e *Env) large(ctx context.Context, dir string) ([]report.Row, error) {
	n, err := subject.NewOurs(e.Program, dir, provided)
	if err != nil {
		return nil, err
	}
	c := contender{name: oursUnsigned}
	speaker, err := c.speaker(ctx, n)
	if err != nil {
		return nil, err
	}
	sample, err := fill(ctx, n, largeBundles)
	if err != nil {
		return nil, err
	}
	row, err := e.starts(ctx, c, n, largeBundles)
	if err != nil {
		return nil, err
	}
	rows := []report.Row{row}
	if err := n.Start(ctx); err != nil {
		return rows, err
	}
	defer n.Stop()
	for _, call := range stateCalls() {
		values, err := ask(ctx, n, speaker, call, 1, sample, 3, 5*time.Second)
		if err != nil {
			return rows, fmt.Errorf("%s: %w", call.name, err)
		}
		rows = append(rows, report.Row{Group: stateGroup.Name, Load: StateLoad(call.name, largeBundles, 1), Node: c.name, Values: values})
	}
	return rows, nil
}
