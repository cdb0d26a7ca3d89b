package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/koi-net/koi-operator/hack/chaos/koinode"
	"github.com/koi-net/koi-operator/hack/chaos/witness"
)

// What a node may use more at the end of a soak than after its first third. The
// work is the same all the time, and so are the RIDs.
const (
	soakGoroutines = 16
	soakFiles      = 16
	soakRSS        = 16 << 20 // and a quarter of what there was
	soakStore      = 4 << 20  // the file grows by steps of 1 MiB
	soakReplay     = 300      // for each signed body, which is remembered
)

// Pace of a soak.
const (
	soakEvent  = 100 * time.Millisecond // between two bodies of one event
	soakSample = time.Second
	soakRest   = 15 * time.Second
)

// soak runs a net for a while at an even pace and measures that nothing grows.
func soak(ctx context.Context, r *run) (err error) {
	n := &koiNet{}
	defer func() { err = errors.Join(err, n.close()) }()
	if err := n.start(ctx, r.program, shape{subscribed: true, nodes: true}); err != nil {
		return fmt.Errorf("%w\n%s", err, n.logs())
	}
	s := &soaking{net: n, lane: newLane("soak", n.source, &n.model, false, false), usage: map[*koinode.Node][]koinode.Usage{}}
	s.lane.rnd = r.random("soak")
	if err := s.run(ctx, r); err != nil {
		return fmt.Errorf("%w\n%s", err, n.logs())
	}
	return s.judge(r)
}

// soaking is a soak under way.
type soaking struct {
	net    *koiNet
	lane   *lane
	bodies int
	usage  map[*koinode.Node][]koinode.Usage
	lag    []time.Duration
}

func (s *soaking) run(ctx context.Context, r *run) error {
	event, sample, rest := time.NewTicker(soakEvent), time.NewTicker(soakSample), time.NewTicker(soakRest)
	defer event.Stop()
	defer sample.Stop()
	defer rest.Stop()
	for time.Now().Before(r.until) {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-event.C:
			if err := s.send(ctx); err != nil {
				return err
			}
		case <-sample.C:
			if err := s.sample(ctx); err != nil {
				return err
			}
		case <-rest.C:
			if err := s.net.rest(ctx, false); err != nil {
				return err
			}
		}
	}
	return s.net.rest(ctx, true)
}

func (s *soaking) send(ctx context.Context) error {
	p, err := s.lane.pack(s.net.target, 1)
	if err != nil {
		return err
	}
	s.bodies++
	gone, err := s.lane.send(ctx, s.net.target, p)
	if gone {
		return errors.New("first is gone, and nobody killed it")
	}
	return err
}

// sample measures the nodes, and how long events take to the webhook.
func (s *soaking) sample(ctx context.Context) error {
	for _, node := range s.net.nodes {
		u, err := node.Usage(ctx)
		if err != nil {
			return err
		}
		s.usage[node] = append(s.usage[node], u)
	}
	return s.net.readWith(func(w *witness.Witness, e witness.Entry) {
		for _, event := range e.Events {
			if w == s.net.webhook && event.Manifest != nil && event.RID.Type() == noteType {
				s.lag = append(s.lag, e.At.Sub(event.Manifest.Timestamp.Time()))
			}
		}
	})
}

// judge holds the end of the soak against its beginning.
func (s *soaking) judge(r *run) error {
	var grown []error
	for _, node := range s.net.nodes {
		all := s.usage[node]
		if len(all) < 6 {
			return fmt.Errorf("%d measurements: the soak is too short", len(all))
		}
		third := len(all) / 3
		before, after := most(all[third/2:third+1]), all[len(all)-1]
		grown = append(grown, grew(node.Name, before, after, s.bodies))
		r.say("%-8s RSS %d -> %d KiB, files %d -> %d, goroutines %d -> %d, store %d -> %d KiB", node.Name,
			before.RSS>>10, after.RSS>>10, before.Files, after.Files, before.Goroutines, after.Goroutines, before.Store>>10, after.Store>>10)
	}
	slices.Sort(s.lag)
	if n := len(s.lag); n > 0 {
		r.say("%d bodies; to the webhook in %s (p50), %s (p99), %s at most", s.bodies, s.lag[n/2].Round(time.Microsecond), s.lag[n*99/100].Round(time.Microsecond), s.lag[n-1].Round(time.Microsecond))
	}
	return errors.Join(grown...)
}

// most is the most of each that was used.
func most(all []koinode.Usage) (m koinode.Usage) {
	m.Goroutines = -1
	for _, u := range all {
		m.RSS, m.Files = max(m.RSS, u.RSS), max(m.Files, u.Files)
		m.Goroutines, m.Store = max(m.Goroutines, u.Goroutines), max(m.Store, u.Store)
	}
	return m
}

// grew says what a node uses more than it may.
func grew(name string, before, after koinode.Usage, bodies int) error {
	var errs []error
	check := func(what string, before, after, more int64) {
		if after > before+more {
			errs = append(errs, fmt.Errorf("%s: %s grew from %d to %d, more than by %d", name, what, before, after, more))
		}
	}
	check("goroutines", int64(before.Goroutines), int64(after.Goroutines), soakGoroutines)
	check("open files", int64(before.Files), int64(after.Files), soakFiles)
	check("memory in bytes", before.RSS, after.RSS, soakRSS+before.RSS/4)
	check("the store in bytes", before.Store, after.Store, int64(soakStore+soakReplay*bodies))
	return errors.Join(errs...)
}
