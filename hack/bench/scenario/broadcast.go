package scenario

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/koi-net/koi-operator/hack/bench/load"
	"github.com/koi-net/koi-operator/hack/bench/report"
	"github.com/koi-net/koi-operator/hack/bench/subject"
	"github.com/koi-net/koi-operator/node/rid"
)

// broadcastGroup is the table of events that come in.
var broadcastGroup = report.Group{
	Name: "broadcast", Title: "Events that come in", Ratio: "cached",
	About: "New events with contents of 1 KiB under fresh random RIDs, by broadcast, from clients that each wait for an answer before they go on. " +
		"*cached/s* counts until the last event is in the cache, *answered/s* until the last 200: the reference answers before it processes. " +
		"Percentiles are those of requests. *CPU ms* is the node's own for 1,000 events; *client* is what the driver took of one core beside it.",
	Columns: slices.Concat([]report.Column{
		{Key: "cached", Title: "cached/s"},
		{Key: "answered", Title: "answered/s"},
		{Key: "p50", Title: "p50 ms", Digits: 1, Lower: true},
		{Key: "p90", Title: "p90", Digits: 1, Lower: true},
		{Key: "p99", Title: "p99", Digits: 1, Lower: true},
		{Key: "cpu", Title: "CPU ms", Lower: true},
		{Key: "client", Title: "client %", Lower: true},
	}, memoryColumns),
}

// broadcastLoad is a number of clients with a number of events a request.
type broadcastLoad struct {
	clients, events int
	// requests of a full and of a short run.
	full, short pace
}

// The loads of the table. A slow node is given less to do.
var broadcastLoads = []broadcastLoad{
	{
		clients: 1, events: 100,
		full:  pace{ours: 600, first: 8, firstQuiet: 120, newest: 40, newestQuiet: 150},
		short: pace{ours: 150, first: 2, firstQuiet: 30, newest: 10, newestQuiet: 40},
	},
	{
		clients: 16, events: 100,
		full:  pace{ours: 1200, first: 16, firstQuiet: 160, newest: 48, newestQuiet: 160},
		short: pace{ours: 320, first: 3, firstQuiet: 32, newest: 16, newestQuiet: 48},
	},
	{
		clients: 1, events: 1,
		full:  pace{ours: 5000, first: 500, firstQuiet: 3000, newest: 1000, newestQuiet: 2000},
		short: pace{ours: 1000, first: 100, firstQuiet: 600, newest: 250, newestQuiet: 500},
	},
	{
		clients: 64, events: 1,
		full:  pace{ours: 40_000, first: 640, firstQuiet: 4000, newest: 1280, newestQuiet: 2560},
		short: pace{ours: 10_000, first: 128, firstQuiet: 1280, newest: 320, newestQuiet: 640},
	},
}

// BroadcastLoad names a load in the report.
func BroadcastLoad(clients, events int) string {
	return fmt.Sprintf("%s, %s a request", count(clients, "client"), count(events, "event"))
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func (e *Env) broadcastCases() []Case {
	var out []Case
	for _, l := range broadcastLoads {
		for _, c := range e.contenders() {
			out = append(out, Case{
				Group: broadcastGroup.Name, Load: BroadcastLoad(l.clients, l.events), Node: c.name,
				run: func(ctx context.Context, dir string) ([]report.Row, error) {
					return e.broadcast(ctx, c, l, dir)
				},
			})
		}
	}
	return out
}

// broadcast measures one load on one contender.
func (e *Env) broadcast(ctx context.Context, c contender, l broadcastLoad, dir string) ([]report.Row, error) {
	n, err := c.prepare(ctx, dir)
	if err != nil {
		return nil, err
	}
	speaker, err := c.speaker(ctx, n)
	if err != nil {
		return nil, err
	}
	requests := l.full.of(c)
	if e.Short {
		requests = l.short.of(c)
	}
	bodies, err := speaker.Broadcasts(requests, l.events)
	if err != nil {
		return nil, err
	}
	if err := n.Start(ctx); err != nil {
		return nil, err
	}
	defer n.Stop()
	before, err := n.Cached(ctx)
	if err != nil {
		return nil, err
	}
	values, err := measureBroadcast(ctx, n, l.clients, bodies, func(ctx context.Context) error {
		return n.WaitCached(ctx, before+requests*l.events)
	})
	if err != nil {
		return nil, err
	}
	if err := readable(ctx, n, speaker, requests*l.events); err != nil {
		return nil, err
	}
	events := float64(requests * l.events)
	values["cached"] *= events
	values["answered"] *= events
	values["cpu"] *= 1000 / events
	return []report.Row{{Group: broadcastGroup.Name, Load: BroadcastLoad(l.clients, l.events), Node: c.name, Ours: c.ours, Values: values}}, nil
}

// measureBroadcast sends bodies and waits until their events are cached. Rates are of
// the whole load a second, CPU is that of the whole load in milliseconds.
func measureBroadcast(ctx context.Context, n subject.Node, clients int, bodies [][]byte, wait func(context.Context) error) (map[string]float64, error) {
	target, err := load.NewTarget(n.URL(), "/events/broadcast")
	if err != nil {
		return nil, err
	}
	meters, err := measure(n)
	if err != nil {
		return nil, err
	}
	outcome, err := load.Each(ctx, target, clients, bodies)
	meters.clientDone()
	if err == nil {
		err = wait(ctx)
	}
	cached := time.Since(outcome.Began)
	usage, client, meterErr := meters.stop()
	if err != nil {
		return nil, err
	}
	if meterErr != nil {
		return nil, meterErr
	}
	wholes := outcome.Wholes()
	values := map[string]float64{
		"cached": 1 / cached.Seconds(), "answered": 1 / outcome.Elapsed.Seconds(),
		"p50": report.Milliseconds(report.Percentile(wholes, 0.5)),
		"p90": report.Milliseconds(report.Percentile(wholes, 0.9)),
		"p99": report.Milliseconds(report.Percentile(wholes, 0.99)),
		"cpu": report.Milliseconds(usage.CPU), "client": client,
	}
	memory(values, usage)
	return values, nil
}

// readable sees by the protocol that a node holds that many notes.
func readable(ctx context.Context, n subject.Node, speaker load.Speaker, notes int) error {
	body, err := speaker.FetchRIDs(load.NoteType)
	if err != nil {
		return err
	}
	target, err := load.NewTarget(n.URL(), "/rids/fetch")
	if err != nil {
		return err
	}
	answer, err := load.Ask(ctx, target, body)
	if err != nil {
		return err
	}
	rids, err := speaker.RIDs(answer)
	if err != nil {
		return err
	}
	distinct := map[rid.RID]bool{}
	for _, r := range rids {
		distinct[r] = true
	}
	if len(distinct) != notes {
		return fmt.Errorf("the node shows %d notes, %d were sent", len(distinct), notes)
	}
	return nil
}
