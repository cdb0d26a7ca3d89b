package scenario

import (
	"fmt"
	"math"

	"github.com/koi-net/koi-operator/hack/bench/report"
	"github.com/koi-net/koi-operator/hack/interop/reference"
)

// Units of targets.
const (
	factor = " ×"
	share  = " %"
	millis = " ms"
)

// Targets are what the node has to reach, each beside the reference or the limit
// that was measured in the same run.
func Targets() []report.Target {
	releases := reference.Releases()
	first, newest := releases[0], releases[len(releases)-1]
	shipped, quietFirst, quiet := ReferenceName(first, false), ReferenceName(first, true), ReferenceName(newest, true)
	oneByHundred, manyByHundred, manyByOne := BroadcastLoad(1, 100), BroadcastLoad(16, 100), BroadcastLoad(64, 1)
	out := []report.Target{
		{
			What: "cached/s, " + oneByHundred + ": of what bbolt alone commits", Want: 60, Unit: share,
			Got: percent(broadcastGroup.Name, oneByHundred, oursUnsigned, "cached", limitsGroup.Name, BboltLoad(1, 100), thisMachine, "rate"),
		},
		times(broadcastGroup, oneByHundred, oursUnsigned, shipped, 60),
		times(broadcastGroup, oneByHundred, oursSigned, quiet, 2),
		times(broadcastGroup, manyByHundred, oursSigned, quiet, 5),
		times(broadcastGroup, manyByOne, oursUnsigned, quietFirst, 5),
		times(broadcastGroup, manyByOne, oursSigned, quiet, 5),
	}
	for _, l := range []string{oneByHundred, manyByHundred} {
		out = append(out, report.Target{
			What: "cached/s, " + l + ": signed, of unsigned", Want: 50, Unit: share,
			Got: percent(broadcastGroup.Name, l, oursSigned, "cached", broadcastGroup.Name, l, oursUnsigned, "cached"),
		})
	}
	for _, call := range []string{callRIDs, callManifests, callBundles} {
		l := StateLoad(call, stateBundles, 1)
		out = append(out, times(stateGroup, l, oursUnsigned, quietFirst, 30), times(stateGroup, l, oursSigned, quiet, 30))
	}
	out = append(out, largeTargets()...)
	for _, event := range []string{nodeEvent, edgeEvent} {
		out = append(out, report.Target{
			What: fmt.Sprintf("%s: the node's CPU time at %s nodes, of that at %s", event, thousands(manyNodes), thousands(fewNodes)), Want: 150, AtMost: true, Unit: share,
			Got: percent(graphGroup.Name, GraphLoad(event, manyNodes), oursUnsigned, "cpu", graphGroup.Name, GraphLoad(event, fewNodes), oursUnsigned, "cpu"),
		})
	}
	for _, l := range []string{idlePartial, idleFull} {
		out = append(out, report.Target{
			What: "CPU time a second, idle with " + l, Want: 5, AtMost: true, Unit: millis, Digits: 1,
			Got: figure(idleGroup.Name, l, oursAlone, "cpu"),
		})
	}
	return append(out, report.Target{
		What: FanOutLoad + ": what the store grows, of what as many copies would take", Want: 25, AtMost: true, Unit: share,
		Got: percent(fanOutGroup.Name, FanOutLoad, oursUnsigned, "grew", fanOutGroup.Name, FanOutLoad, oursUnsigned, "copies"),
	})
}

// largeTargets are those of a cache of a million bundles.
func largeTargets() []report.Target {
	rids, manifests := StateLoad(callRIDs, largeBundles, 1), StateLoad(callManifests, largeBundles, 1)
	at := " at " + thousands(largeBundles) + " bundles"
	return []report.Target{
		{
			What: "memory beyond the page cache while all manifests and all RIDs are streamed" + at, Want: 200, AtMost: true, Unit: " MiB",
			Got: highest(stateGroup.Name, oursUnsigned, "peak", rids, manifests),
		},
		{
			What: "first byte of all RIDs and of all manifests, median" + at, Want: 10, AtMost: true, Unit: millis, Digits: 1,
			Got: highest(stateGroup.Name, oursUnsigned, "first50", rids, manifests),
		},
		{
			What: "start" + at, Want: 2000, AtMost: true, Unit: millis,
			Got: figure(startGroup.Name, StartLoad(largeBundles), oursUnsigned, "p50"),
		},
	}
}

// times is the target that ours is so many times better than a node of the
// reference, in the column that a group compares by.
func times(g report.Group, l, ours, theirs string, want float64) report.Target {
	title := g.Ratio
	for _, c := range g.Columns {
		if c.Key == g.Ratio {
			title = c.Title
		}
	}
	return report.Target{
		What: fmt.Sprintf("%s, %s: %s against %s", title, l, ours, theirs), Want: want, Unit: factor, Digits: 1,
		Got: func(r *report.Report) (float64, bool) {
			a, ok := r.Value(g.Name, l, ours, g.Ratio)
			b, okToo := r.Value(g.Name, l, theirs, g.Ratio)
			return a / b, ok && okToo && b != 0
		},
	}
}

// figure is one figure of the report.
func figure(group, l, node, key string) func(*report.Report) (float64, bool) {
	return func(r *report.Report) (float64, bool) { return r.Value(group, l, node, key) }
}

// highest is the highest of a figure over loads, all of which were measured.
func highest(group, node, key string, loads ...string) func(*report.Report) (float64, bool) {
	return func(r *report.Report) (float64, bool) {
		most := math.Inf(-1)
		for _, l := range loads {
			v, ok := r.Value(group, l, node, key)
			if !ok {
				return 0, false
			}
			most = max(most, v)
		}
		return most, true
	}
}

// percent is one figure of the report in percent of another.
func percent(group, l, node, key, ofGroup, ofLoad, ofNode, ofKey string) func(*report.Report) (float64, bool) {
	return func(r *report.Report) (float64, bool) {
		a, ok := r.Value(group, l, node, key)
		b, okToo := r.Value(ofGroup, ofLoad, ofNode, ofKey)
		return 100 * a / b, ok && okToo && b != 0
	}
}
