package scenario

import (
	"context"
	"slices"
	"time"

	"github.com/koi-net/koi-operator/hack/bench/report"
	"github.com/koi-net/koi-operator/hack/bench/subject"
)

// startGroup is the table of starts.
var startGroup = report.Group{
	Name: "start", Title: "Start", Ratio: "p50",
	About: "From the start of the process with that many bundles until `/readyz` says so (ours) or a request is answered (the reference, quiet). " +
		"The files are in the kernel's cache. Memory is that right after the start.",
	Columns: slices.Concat([]report.Column{
		{Key: "p50", Title: "ms, median", Lower: true},
		{Key: "worst", Title: "slowest", Lower: true},
		{Key: "cpu", Title: "CPU ms", Lower: true},
		{Key: "disk", Title: "on disk MiB", Lower: true},
	}, memoryColumns[:1], memoryColumns[2:]),
}

// StartLoad names a load in the report.
func StartLoad(bundles int) string { return "start with " + thousands(bundles) + " bundles" }

func (e *Env) startCases() []Case {
	var out []Case
	for _, c := range e.contenders() {
		if c.name == oursSigned || c.ours != "" && !c.quiet {
			continue
		}
		out = append(out, Case{
			Group: startGroup.Name, Load: thousands(stateBundles) + " bundles", Node: c.name,
			run: func(ctx context.Context, dir string) ([]report.Row, error) {
				n, err := c.prepare(ctx, dir)
				if err != nil {
					return nil, err
				}
				if _, err := fill(ctx, n, stateBundles); err != nil {
					return nil, err
				}
				row, err := e.starts(ctx, c, n, stateBundles)
				return []report.Row{row}, err
			},
		})
	}
	return out
}

// starts measures starts of a node that is filled and does not run.
func (e *Env) starts(ctx context.Context, c contender, n subject.Node, bundles int) (report.Row, error) {
	row := report.Row{Group: startGroup.Name, Load: StartLoad(bundles), Node: c.name}
	if c.ours != "" {
		row.Ours = oursUnsigned
	}
	var took []time.Duration
	for range e.pick(5, 2) {
		began := time.Now()
		if err := n.Start(ctx); err != nil {
			return row, err
		}
		took = append(took, time.Since(began))
		cpu, err := subject.CPU(n.PID())
		if err != nil {
			n.Stop()
			return row, err
		}
		now, err := subject.Resident(n.PID())
		n.Stop()
		if err != nil {
			return row, err
		}
		row.Values = map[string]float64{"cpu": report.Milliseconds(cpu), "anon": report.MiB(now.Anonymous), "file": report.MiB(now.File)}
	}
	disk, err := n.StoreBytes()
	slices.Sort(took)
	row.Values["disk"] = report.MiB(disk)
	row.Values["p50"] = report.Milliseconds(report.Percentile(took, 0.5))
	row.Values["worst"] = report.Milliseconds(took[len(took)-1])
	return row, err
}
