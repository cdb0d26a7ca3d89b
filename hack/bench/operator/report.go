package main

import (
	"fmt"
	"os"
	"strings"
	"time"
)

// targets of the project, shown beside what was measured.
const (
	targetWrites  = 0
	targetCPU     = 0.05 // of a core
	targetLatency = time.Second
	targetMemory  = 300 << 20
	targetRestart = 30 * time.Second
)

// render writes the figures as Markdown tables.
func render(all []figures) string {
	var b strings.Builder
	for i, f := range all {
		if i > 0 {
			b.WriteByte('\n')
		}
		kind := "simulated nodes"
		if f.Processes {
			kind = "koi-node processes"
		}
		fmt.Fprintf(&b, "%d %s, %d edges:\n\n| | measured | target |\n|---|---|---|\n", f.Nodes, kind, f.Edges)
		row := func(what, measured, target string) { fmt.Fprintf(&b, "| %s | %s | %s |\n", what, measured, target) }
		row("objects applied until all are Ready", fmt.Sprintf("%s (%s of it to apply them)", seconds(f.Cold), seconds(f.Apply)), "")
		row("meanwhile: CPU; requests to the API server, writes of them", fmt.Sprintf("%s; %.0f, %.0f", seconds(f.ColdCPU), sum(f.ColdRequests), written(f.ColdRequests)), "")
		row("memory, highest", mebibytes(f.ColdPeak), verdict(f.ColdPeak < targetMemory, "below 300 MiB"))
		cpu := 0.0
		if f.Idle > 0 {
			cpu = float64(f.IdleCPU) / float64(f.Idle)
		}
		row(fmt.Sprintf("steady state, %s: CPU of one core", f.Idle.Round(time.Second)), fmt.Sprintf("%.1f %%", 100*cpu), verdict(cpu < targetCPU, "below 5 %"))
		row("steady state: requests, writes of them", fmt.Sprintf("%.0f, %.0f", sum(f.IdleRequests), written(f.IdleRequests)), verdict(written(f.IdleRequests) == targetWrites, "no writes"))
		row("steady state: memory", mebibytes(f.IdleMemory), verdict(f.IdleMemory < targetMemory, "below 300 MiB"))
		p50 := quantile(f.Latency, 0.5)
		row(fmt.Sprintf("KoiEdge applied until Approved, p50 and p99 of %d", len(f.Latency)),
			fmt.Sprintf("%s, %s", milliseconds(p50), milliseconds(quantile(f.Latency, 0.99))), verdict(p50 < targetLatency, "p50 below 1 s"))
		row("operator restarted until it has seen to everything", seconds(f.Restart), verdict(f.Restart < targetRestart, "below 30 s"))
	}
	return b.String()
}

func verdict(met bool, target string) string {
	if met {
		return target + ": met"
	}
	return target + ": **missed**"
}

func sum(by map[string]float64) (n float64) {
	for _, v := range by {
		n += v
	}
	return n
}

func seconds(d time.Duration) string      { return fmt.Sprintf("%.1f s", d.Seconds()) }
func milliseconds(d time.Duration) string { return fmt.Sprintf("%.0f ms", float64(d)/1e6) }
func mebibytes(n int64) string            { return fmt.Sprintf("%d MiB", n>>20) }

// Marks of the place in a document that the tables go to.
const (
	beginMark = "<!-- operator -->\n"
	endMark   = "<!-- /operator -->"
)

// replace puts text between the marks of a file.
func replace(file, text string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(data), beginMark)
	_, after, ended := strings.Cut(rest, endMark)
	if !ok || !ended {
		return fmt.Errorf("%s lacks the marks %q and %q", file, strings.TrimSpace(beginMark), endMark)
	}
	return os.WriteFile(file, []byte(before+beginMark+"\n"+text+"\n"+endMark+after), 0o644)
}
