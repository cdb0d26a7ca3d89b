//go:build scale

package main

import (
	"os"
	"testing"
	"time"
)

// The operator brings 50 nodes and 250 edges to rest, writes nothing while nothing
// happens for longer than an interval, and finds all of it again after a restart.
// What it takes for that is for the benchmark to say; only memory has a bound here.
func TestAtScale(t *testing.T) {
	root, err := repository(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	o := options{nodes: 50, edges: 250, idle: 70 * time.Second, patience: 5 * time.Minute, samples: 10}
	all, err := benchmark(t.Context(), root, t.TempDir(), o, t.Logf, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("\n%s", render(all))
	if len(all) != 1 {
		t.Fatalf("%d worlds were measured", len(all))
	}
	f := all[0]
	if n := written(f.IdleRequests); n != targetWrites {
		t.Errorf("%.0f writes while nothing happened: %v", n, f.IdleRequests)
	}
	if f.ColdPeak > targetMemory || f.IdleMemory > targetMemory {
		t.Errorf("memory: %s, then %s", mebibytes(f.ColdPeak), mebibytes(f.IdleMemory))
	}
	if len(f.Latency) != o.samples || f.Restart == 0 {
		t.Errorf("%d edges were measured, and a restart of %s", len(f.Latency), f.Restart)
	}
}
