package scenario

import (
	"context"
	"fmt"
	"slices"

	"github.com/koi-net/koi-operator/hack/bench/load"
	"github.com/koi-net/koi-operator/hack/bench/report"
	"github.com/koi-net/koi-operator/hack/bench/subject"
)

// subscribers is how many nodes an event is for.
const subscribers = 1_000

// fanOutGroup is the table of events that go out to many.
var fanOutGroup = report.Group{
	Name: "fanout", Title: "One event for many", Ratio: "each",
	About: "A node has approved edges to " + thousands(subscribers) + " partial nodes that do not poll meanwhile. Events of 1 KiB come in one by one; each is queued for all of them. " +
		"*KiB an event* is what the store grew, the bundle itself included: ours keeps queues on disk, the reference in memory (*RssAnon*); " +
		"*as copies* is what it would be if each subscriber had one of its own. The reference is measured quiet.",
	Columns: slices.Concat([]report.Column{
		{Key: "each", Title: "ms an event", Digits: 2, Lower: true},
		{Key: "p50", Title: "answer p50 ms", Digits: 1, Lower: true},
		{Key: "p99", Title: "p99", Digits: 1, Lower: true},
		{Key: "cpu", Title: "CPU ms an event", Digits: 2, Lower: true},
		{Key: "grew", Title: "KiB an event", Digits: 1, Lower: true},
		{Key: "copies", Title: "as copies", Digits: 1},
	}, memoryColumns),
}

// FanOutLoad is the load's name in the report.
const FanOutLoad = "1 event for 1,000 subscribers"

func (e *Env) fanOutCases() []Case {
	var out []Case
	for _, c := range e.contenders() {
		if c.ours != "" && !c.quiet {
			continue
		}
		out = append(out, Case{
			Group: fanOutGroup.Name, Load: FanOutLoad, Node: c.name,
			run: func(ctx context.Context, dir string) ([]report.Row, error) { return e.fanOut(ctx, c, dir) },
		})
	}
	return out
}

// fanOut measures events for many subscribers.
func (e *Env) fanOut(ctx context.Context, c contender, dir string) ([]report.Row, error) {
	n, err := c.prepare(ctx, dir)
	if err != nil {
		return nil, err
	}
	star := load.Star{Center: n.RID(), Size: subscribers, Signed: c.signed, Types: provided}
	if err := n.Seed(ctx, n.RID(), star.Bundles()); err != nil {
		return nil, err
	}
	speaker, err := c.speaker(ctx, n)
	if err != nil {
		return nil, err
	}
	events := e.pick(300, 50)
	if c.ours != "" {
		events = e.pick(40, 10)
	}
	notes := make([]single, events)
	eventBytes := 0
	for i := range notes {
		b, err := load.Note()
		if err != nil {
			return nil, err
		}
		if notes[i], err = tell(speaker, b); err != nil {
			return nil, err
		}
		eventBytes = len(load.NewEvent(b))
	}
	if err := n.Start(ctx); err != nil {
		return nil, err
	}
	defer n.Stop()
	before, err := n.StoreBytes()
	if err != nil {
		return nil, err
	}
	values, err := oneByOne(ctx, n, notes)
	if err != nil {
		return nil, err
	}
	after, err := n.StoreBytes()
	if err != nil {
		return nil, err
	}
	values["copies"] = float64(subscribers*eventBytes) / (1 << 10)
	values["grew"] = float64(after-before) / (1 << 10) / float64(events)
	if ours, ok := n.(*subject.Ours); ok {
		if err := queued(ctx, ours, events); err != nil {
			return nil, err
		}
	}
	return []report.Row{{Group: fanOutGroup.Name, Load: FanOutLoad, Node: c.name, Ours: c.ours, Values: values}}, nil
}

// queued sees that every subscriber has every event waiting.
func queued(ctx context.Context, n *subject.Ours, events int) error {
	st, err := n.Status(ctx)
	if err != nil {
		return err
	}
	full := 0
	for _, q := range st.Queues {
		if q.Rows >= events { // what the node says of itself at its start waits too
			full++
		}
	}
	if full != subscribers {
		return fmt.Errorf("%d of %d subscribers have all %d events waiting", full, subscribers, events)
	}
	return nil
}
