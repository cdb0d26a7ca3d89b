package scenario

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/koi-net/koi-operator/hack/bench/load"
	"github.com/koi-net/koi-operator/hack/bench/report"
	"github.com/koi-net/koi-operator/hack/bench/subject"
)

// idleEdges is how many edges an idle node has.
const idleEdges = 1_000

// idleGroup is the table of nodes that have nothing to do.
var idleGroup = report.Group{
	Name: "idle", Title: "Nothing to do",
	About: "A node with " + thousands(idleEdges) + " approved edges, to partial nodes that do not poll, to full ones that answer (the node asks them at its start and every five " +
		"minutes whether the edge still holds), or to full ones at a port that nobody listens on (which it tries again after ever longer pauses of up to 30 s). Nothing else happens. " +
		"Measured from 30 s after the start (5 s in a short run).",
	Columns: slices.Concat([]report.Column{{Key: "cpu", Title: "CPU ms a second", Digits: 2, Lower: true}, {Key: "seconds", Title: "seconds"}}, memoryColumns),
}

// Names of loads.
const (
	idlePartial = "edges to 1,000 partial nodes"
	idleFull    = "edges to 1,000 full nodes"
	idleAway    = "edges to 1,000 full nodes that are away"
)

func (e *Env) idleCases() []Case {
	var out []Case
	for _, l := range []string{idlePartial, idleFull, idleAway} {
		out = append(out, Case{
			Group: idleGroup.Name, Load: l, Node: oursAlone,
			run: func(ctx context.Context, dir string) ([]report.Row, error) { return e.idle(ctx, l, dir) },
		})
	}
	return out
}

// idle measures a node to which nothing happens.
func (e *Env) idle(ctx context.Context, kind, dir string) (rows []report.Row, err error) {
	n, err := subject.NewOurs(e.Program, dir, provided)
	if err != nil {
		return nil, err
	}
	others, err := listen(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, others.close()) }()
	if err := seedIdle(ctx, n, kind, others); err != nil {
		return nil, err
	}
	if err := n.Start(ctx); err != nil {
		return nil, err
	}
	defer n.Stop()
	if err := approved(ctx, n, idleEdges); err != nil {
		return nil, err
	}
	if err := pause(ctx, time.Duration(e.pick(30, 5))*time.Second); err != nil {
		return nil, err
	}
	meter, err := subject.Measure(n.PID())
	if err != nil {
		return nil, err
	}
	err = pause(ctx, time.Duration(e.pick(60, 5))*time.Second)
	usage, meterErr := meter.Stop()
	if err != nil || meterErr != nil {
		return nil, errors.Join(err, meterErr)
	}
	if err := approved(ctx, n, idleEdges); err != nil {
		return nil, err
	}
	values := map[string]float64{"cpu": report.Milliseconds(usage.CPU) / usage.Wall.Seconds(), "seconds": usage.Wall.Seconds()}
	memory(values, usage)
	return []report.Row{{Group: idleGroup.Name, Load: kind, Node: oursAlone, Values: values}}, nil
}

// seedIdle gives a node its edges, and others what they are asked for.
func seedIdle(ctx context.Context, n subject.Node, kind string, others *neighbours) error {
	star := load.Star{Center: n.RID(), Size: idleEdges, Types: provided}
	switch kind {
	case idleFull:
		star.BaseURL = others.url
	case idleAway:
		closed, err := subject.ClosedAddress()
		if err != nil {
			return err
		}
		star.BaseURL = "http://" + closed
	}
	return n.Seed(ctx, n.RID(), others.note(star.Bundles()))
}

// approved sees that a node has so many approved edges.
func approved(ctx context.Context, n *subject.Ours, edges int) error {
	st, err := n.Status(ctx)
	if err != nil {
		return err
	}
	if st.Edges.Approved != edges {
		return fmt.Errorf("the node has %d approved edges, not %d", st.Edges.Approved, edges)
	}
	return nil
}

// pause waits.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
