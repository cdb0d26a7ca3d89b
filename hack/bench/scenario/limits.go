package scenario

import (
	"context"
	"fmt"
	"time"

	"github.com/koi-net/koi-operator/hack/bench/limits"
	"github.com/koi-net/koi-operator/hack/bench/report"
)

// limitsGroup is the table of what the machine can do.
var limitsGroup = report.Group{
	Name: "limits", Title: "The limits of the machine",
	About: "What is under the nodes, by itself. bbolt writes the same bytes in the same batches as a node that gets the broadcasts below, each bundle at a random key " +
		"of one bucket; requests that wait share a commit, as a node's do. HTTP is a server that reads the body and answers null, or as many bytes as nodes are asked for below; it shares the cores with its clients, as nodes do.",
	Columns: []report.Column{
		{Key: "rate", Title: "a second"},
		{Key: "p50", Title: "p50 ms", Digits: 3, Lower: true},
		{Key: "p90", Title: "p90", Digits: 3, Lower: true},
		{Key: "p99", Title: "p99", Digits: 3, Lower: true},
	},
}

// thisMachine stands where other tables name a node.
const thisMachine = "this machine"

// BboltLoad names what bbolt is given that a broadcast gives a node.
func BboltLoad(clients, events int) string { return "bbolt alone: " + BroadcastLoad(clients, events) }

func (e *Env) limitCases() []Case {
	during := time.Duration(e.pick(5000, 1000)) * time.Millisecond
	cases := []Case{
		limit("write 4 KiB and fdatasync", func(ctx context.Context, dir string) (limits.Result, error) {
			return limits.Sync(ctx, dir, during)
		}),
	}
	for _, l := range broadcastLoads {
		requests := l.full.ours
		if e.Short {
			requests = l.short.ours
		}
		cases = append(cases, limit(BboltLoad(l.clients, l.events), func(ctx context.Context, dir string) (limits.Result, error) {
			return limits.Bbolt(ctx, dir, l.clients, requests, l.events)
		}))
	}
	cases = append(cases,
		limit("encoding/json, an event of 1 KiB into any", func(ctx context.Context, _ string) (limits.Result, error) {
			return limits.JSON(ctx, during)
		}),
		limit("P-256, sign", func(ctx context.Context, _ string) (limits.Result, error) { return limits.Sign(ctx, during) }),
		limit("P-256, verify", func(ctx context.Context, _ string) (limits.Result, error) { return limits.Verify(ctx, during) }))
	for _, l := range broadcastLoads {
		cases = append(cases, limit("HTTP alone: "+BroadcastLoad(l.clients, l.events), func(ctx context.Context, _ string) (limits.Result, error) {
			return limits.HTTP(ctx, l.clients, l.events, during)
		}))
	}
	// What a node answers to bundles/fetch of 100, signed and unsigned, and to
	// rids/fetch of 10,000.
	for _, kib := range []int{120, 240, 488} {
		cases = append(cases, limit(fmt.Sprintf("HTTP alone: 1 client, an answer of %d KiB", kib), func(ctx context.Context, _ string) (limits.Result, error) {
			return limits.Answers(ctx, kib<<10, during)
		}))
	}
	return cases
}

// limit is the case of one limit.
func limit(name string, measure func(ctx context.Context, dir string) (limits.Result, error)) Case {
	return Case{Group: limitsGroup.Name, Load: name, Node: thisMachine, run: func(ctx context.Context, dir string) ([]report.Row, error) {
		r, err := measure(ctx, dir)
		if err != nil {
			return nil, err
		}
		values := map[string]float64{"rate": r.Rate()}
		for key, share := range map[string]float64{"p50": 0.5, "p90": 0.9, "p99": 0.99} {
			if len(r.Each) > 0 {
				values[key] = report.Milliseconds(report.Percentile(r.Each, share))
			}
		}
		return []report.Row{{Group: limitsGroup.Name, Load: name, Node: thisMachine, Values: values}}, nil
	}}
}
