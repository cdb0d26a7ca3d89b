package scenario

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/koi-net/koi-operator/hack/bench/load"
	"github.com/koi-net/koi-operator/hack/bench/report"
	"github.com/koi-net/koi-operator/hack/bench/subject"
	"github.com/koi-net/koi-operator/node/identity"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// graphGroup is the table of changes of the net.
var graphGroup = report.Group{
	Name: "graph", Title: "Changes of the net", Ratio: "each",
	About: "A node knows a number of others and has an approved edge to each. New nodes introduce themselves, then edges between these are proposed: one event a request, " +
		"one request after the other, until the last is in the cache. *ms an event* is that time by the number of events. The reference is measured quiet.",
	Columns: slices.Concat([]report.Column{
		{Key: "each", Title: "ms an event", Digits: 2, Lower: true},
		{Key: "p50", Title: "answer p50 ms", Digits: 1, Lower: true},
		{Key: "p99", Title: "p99", Digits: 1, Lower: true},
		{Key: "cpu", Title: "CPU ms an event", Digits: 2, Lower: true},
	}, memoryColumns),
}

// Names of loads.
const (
	nodeEvent = "node event"
	edgeEvent = "edge event"
)

// GraphLoad names a load in the report.
func GraphLoad(event string, known int) string {
	return fmt.Sprintf("%s at %s nodes", event, thousands(known))
}

// Numbers of nodes that are known. Beyond mostForReference the reference takes
// minutes for an event.
const (
	fewNodes         = 100
	mostForReference = 5_000
	manyNodes        = 100_000
)

func (e *Env) graphCases() []Case {
	sizes := []int{fewNodes, 1_000, mostForReference, manyNodes}
	if e.Short {
		sizes = []int{fewNodes, 1_000}
		if e.Large {
			sizes = append(sizes, manyNodes)
		}
	}
	var out []Case
	for _, size := range sizes {
		for _, c := range e.contenders() {
			if c.ours != "" && (!c.quiet || size > mostForReference) {
				continue
			}
			out = append(out, Case{
				Group: graphGroup.Name, Load: thousands(size) + " nodes", Node: c.name, Deadline: 10 * time.Minute,
				run: func(ctx context.Context, dir string) ([]report.Row, error) {
					return e.graph(ctx, c, size, e.graphEvents(c), dir)
				},
			})
		}
	}
	return out
}

// graphEvents is how many events about nodes, and as many about edges, a
// contender is given: the reference takes a second for one, at worst.
func (e *Env) graphEvents(c contender) int {
	if c.ours != "" {
		return e.pick(20, 5)
	}
	return e.pick(1000, 300)
}

// graph measures events about nodes and edges at a node that knows many.
func (e *Env) graph(ctx context.Context, c contender, known, events int, dir string) ([]report.Row, error) {
	n, err := c.prepare(ctx, dir)
	if err != nil {
		return nil, err
	}
	star := load.Star{Center: n.RID(), Size: known, Signed: c.signed, Types: provided}
	if err := n.Seed(ctx, n.RID(), star.Bundles()); err != nil {
		return nil, err
	}
	nodes, edges, err := newcomers(n.RID(), !c.signed, events)
	if err != nil {
		return nil, err
	}
	if err := n.Start(ctx); err != nil {
		return nil, err
	}
	defer n.Stop()
	var rows []report.Row
	for _, l := range []struct {
		event  string
		events []single
	}{{nodeEvent, nodes}, {edgeEvent, edges}} {
		values, err := oneByOne(ctx, n, l.events)
		if err != nil {
			return rows, fmt.Errorf("%s: %w", l.event, err)
		}
		rows = append(rows, report.Row{Group: graphGroup.Name, Load: GraphLoad(l.event, known), Node: c.name, Ours: c.ours, Values: values})
	}
	return rows, nil
}

// single is the body of a broadcast of one new bundle.
type single struct {
	rid  rid.RID
	body []byte
}

// tell makes a speaker's broadcast of one new bundle.
func tell(s load.Speaker, b protocol.Bundle) (single, error) {
	body, err := s.Broadcast([][]byte{load.NewEvent(b)})
	return single{b.Manifest.RID, body}, err
}

// oneByOne sends events one after the other from one client, and waits until the
// last is cached. Afterwards all have to be.
func oneByOne(ctx context.Context, n subject.Node, events []single) (map[string]float64, error) {
	before, err := n.Cached(ctx)
	if err != nil {
		return nil, err
	}
	bodies := make([][]byte, len(events))
	for i, e := range events {
		bodies[i] = e.body
	}
	values, err := measureBroadcast(ctx, n, 1, bodies, func(ctx context.Context) error {
		return n.WaitFor(ctx, events[len(events)-1].rid)
	})
	if err != nil {
		return nil, err
	}
	if err := n.WaitCached(ctx, before+len(events)); err != nil {
		return nil, err
	}
	values["each"] = 1000 / values["cached"] / float64(len(events))
	values["cpu"] /= float64(len(events))
	for _, key := range []string{"cached", "answered", "client"} {
		delete(values, key)
	}
	return values, nil
}

// newcomers makes broadcasts in which new partial nodes introduce themselves, and
// others in which each proposes an edge from the one after it. Each speaks for
// itself.
func newcomers(to rid.RID, unsigned bool, n int) (nodes, edges []single, err error) {
	ids := make([]identity.Identity, n)
	for i := range ids {
		if ids[i], err = identity.Generate(fmt.Sprintf("newcomer-%d", i), unsigned); err != nil {
			return nil, nil, err
		}
	}
	nodes, edges = make([]single, n), make([]single, n)
	for i, id := range ids {
		s := load.Speaker{Self: id, To: to}
		profile, err := load.PartialNode(id)
		if err == nil {
			nodes[i], err = tell(s, profile)
		}
		if err != nil {
			return nil, nil, err
		}
		edge, err := load.Edge(protocol.EdgeProfile{
			Source: ids[(i+1)%n].RID, Target: id.RID, EdgeType: protocol.Poll, Status: protocol.Proposed, RIDTypes: provided,
		})
		if err == nil {
			edges[i], err = tell(s, edge)
		}
		if err != nil {
			return nil, nil, err
		}
	}
	return nodes, edges, nil
}
