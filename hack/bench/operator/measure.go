package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/koi-net/koi-operator/api/v1alpha1"
	"github.com/koi-net/koi-operator/hack/bench/subject"
)

const ridType v1alpha1.RIDType = "orn:bench.note"

// node makes the KoiNode of a number. Its base URL is that of its address, where
// a process serves; nobody calls a simulated one.
func node(number int) *v1alpha1.KoiNode {
	types := []v1alpha1.RIDType{ridType}
	return &v1alpha1.KoiNode{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: fmt.Sprintf("n%d", number)},
		Spec: v1alpha1.KoiNodeSpec{
			NodeType:  v1alpha1.NodeFull,
			BaseURL:   "http://" + address(number+1) + ":" + protocolPort + "/koi-net",
			Provides:  &v1alpha1.Provides{Event: types, State: types},
			Interests: []v1alpha1.RIDType{},
		},
	}
}

// edge makes a KoiEdge between two nodes.
func edge(source, target int) *v1alpha1.KoiEdge {
	ref := func(n int) v1alpha1.EdgeEnd {
		return v1alpha1.EdgeEnd{NodeRef: &v1alpha1.NodeReference{Name: fmt.Sprintf("n%d", n)}}
	}
	return &v1alpha1.KoiEdge{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: fmt.Sprintf("n%d-n%d", source, target)},
		Spec:       v1alpha1.KoiEdgeSpec{Source: ref(source), Target: ref(target), RIDTypes: []v1alpha1.RIDType{ridType}},
	}
}

// pairs lists edges: from each node to those that follow it, further and further away.
func pairs(nodes, edges int) [][2]int {
	var all [][2]int
	for step := 1; step < nodes && len(all) < edges; step++ {
		for n := 0; n < nodes && len(all) < edges; n++ {
			all = append(all, [2]int{n, (n + step) % nodes})
		}
	}
	return all
}

// figures are what a run measured.
type figures struct {
	Nodes, Edges int
	Processes    bool
	Apply        time.Duration // until all objects were written
	Cold         time.Duration // from the first of them until all were Ready
	ColdCPU      time.Duration
	ColdPeak     int64 // bytes, anonymous
	ColdRequests map[string]float64

	Idle         time.Duration // how long nothing was changed
	IdleCPU      time.Duration
	IdleMemory   int64
	IdleRequests map[string]float64

	Restart time.Duration // until a new operator had confirmed everything
	Latency []time.Duration
}

// measure runs all phases.
func (w *world) measure(ctx context.Context, binary string, o options, say func(string, ...any)) (figures, error) {
	f := figures{Nodes: o.nodes, Edges: o.edges}
	if err := w.startOperator(ctx, binary); err != nil {
		return f, err
	}
	say("bringing up %d nodes and %d edges", o.nodes, o.edges)
	if err := w.cold(ctx, o, &f); err != nil {
		return f, err
	}
	say("cold start took %s; waiting for rest", f.Cold.Round(10*time.Millisecond))
	if err := w.rest(ctx); err != nil {
		return f, err
	}
	say("nothing changes for %s", o.idle)
	if err := w.idle(ctx, o, &f); err != nil {
		return f, err
	}
	say("applying %d edges, one after the other", o.samples)
	if err := w.latency(ctx, o, &f); err != nil {
		return f, err
	}
	say("restarting the operator")
	return f, w.restart(ctx, binary, &f)
}

func (w *world) cold(ctx context.Context, o options, f *figures) error {
	meter, err := subject.Measure(w.operator.pid())
	if err != nil {
		return err
	}
	began := time.Now()
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for n := range o.nodes {
		g.Go(func() error { return w.client.Create(gctx, node(n)) })
	}
	for _, p := range pairs(o.nodes, o.edges) {
		g.Go(func() error { return w.client.Create(gctx, edge(p[0], p[1])) })
	}
	err = g.Wait()
	f.Apply = time.Since(began)
	if err == nil {
		err = w.allReady(ctx, o)
	}
	f.Cold = time.Since(began)
	usage, stopErr := meter.Stop()
	f.ColdCPU, f.ColdPeak = usage.CPU, usage.PeakAnonymous
	if err != nil {
		return err
	}
	if stopErr != nil {
		return stopErr
	}
	f.ColdRequests, err = w.requests(ctx)
	return err
}

// allReady waits until every node and every edge is Ready.
func (w *world) allReady(ctx context.Context, o options) error {
	ready := func(c []metav1.Condition) bool { return meta.IsStatusConditionTrue(c, v1alpha1.ConditionReady) }
	return w.until(ctx, o.patience, func() (bool, string, error) {
		var nodes v1alpha1.KoiNodeList
		var edges v1alpha1.KoiEdgeList
		if err := w.client.List(ctx, &nodes, client.InNamespace(namespace)); err != nil {
			return false, "", err
		}
		n := 0
		for i := range nodes.Items {
			if ready(nodes.Items[i].Status.Conditions) {
				n++
			}
		}
		if n < o.nodes {
			return false, fmt.Sprintf("%d of %d nodes are Ready", n, o.nodes), nil
		}
		if err := w.client.List(ctx, &edges, client.InNamespace(namespace)); err != nil {
			return false, "", err
		}
		e := 0
		for i := range edges.Items {
			if ready(edges.Items[i].Status.Conditions) {
				e++
			}
		}
		return e >= o.edges, fmt.Sprintf("%d of %d edges are Ready", e, o.edges), nil
	})
}

// until asks twice a second whether something holds.
func (w *world) until(ctx context.Context, patience time.Duration, holds func() (bool, string, error)) error {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); ; {
		ok, seen, err := holds()
		if err == nil {
			if err = w.operator.ended(); err == nil && ok {
				return nil
			}
		}
		if err != nil {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("not within %s: %s; the operator's log is %s", patience, seen, w.operator.log)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// rest waits until the operator has written nothing for ten seconds.
func (w *world) rest(ctx context.Context) error {
	last, since := -1.0, time.Now()
	return w.until(ctx, 5*time.Minute, func() (bool, string, error) {
		by, err := w.requests(ctx)
		if err != nil {
			return false, "", err
		}
		if n := written(by); n != last {
			last, since = n, time.Now()
		}
		return time.Since(since) > 10*time.Second, fmt.Sprintf("%.0f writes", last), nil
	})
}

func written(by map[string]float64) float64 {
	return by["POST"] + by["PUT"] + by["PATCH"] + by["DELETE"]
}

func (w *world) idle(ctx context.Context, o options, f *figures) error {
	before, err := w.requests(ctx)
	if err != nil {
		return err
	}
	meter, err := subject.Measure(w.operator.pid())
	if err != nil {
		return err
	}
	if o.profile != "" {
		err = w.profile(ctx, o.idle, o.profile)
	} else {
		err = pause(ctx, o.idle)
	}
	if err != nil {
		_, _ = meter.Stop() // what matters is err
		return err
	}
	usage, err := meter.Stop()
	if err != nil {
		return err
	}
	after, err := w.requests(ctx)
	if err != nil {
		return err
	}
	for method := range after {
		after[method] -= before[method]
	}
	f.Idle, f.IdleCPU, f.IdleMemory, f.IdleRequests = usage.Wall, usage.CPU, usage.End.Anonymous, after
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// latency applies further edges and measures each until it is Approved.
func (w *world) latency(ctx context.Context, o options, f *figures) error {
	ctx, cancel := context.WithTimeout(ctx, o.patience)
	defer cancel()
	for _, p := range pairs(o.nodes, o.edges+o.samples)[o.edges:] {
		e := edge(p[0], p[1])
		watch, err := w.client.Watch(ctx, &v1alpha1.KoiEdgeList{}, client.InNamespace(namespace), client.MatchingFields{"metadata.name": e.Name})
		if err != nil {
			return err
		}
		began := time.Now()
		if err := w.client.Create(ctx, e); err != nil {
			watch.Stop()
			return err
		}
		approved := false
		for !approved {
			select {
			case event, ok := <-watch.ResultChan():
				if !ok {
					watch.Stop()
					return fmt.Errorf("the watch of KoiEdge %s ended", e.Name)
				}
				is, _ := event.Object.(*v1alpha1.KoiEdge)
				approved = is != nil && is.Status.Status == v1alpha1.EdgeApproved
			case <-ctx.Done():
				watch.Stop()
				return fmt.Errorf("KoiEdge %s was not Approved: %w", e.Name, ctx.Err())
			}
		}
		f.Latency = append(f.Latency, time.Since(began))
		watch.Stop()
	}
	slices.Sort(f.Latency)
	return nil
}

// restart measures until a new operator has looked at everything: it has nothing
// more to do, after it had something.
func (w *world) restart(ctx context.Context, binary string, f *figures) error {
	w.operator.stop()
	began := time.Now()
	if err := w.startOperator(ctx, binary); err != nil {
		return err
	}
	var quiet time.Time
	objects := float64(f.Nodes + f.Edges)
	err := w.until(ctx, 5*time.Minute, func() (bool, string, error) {
		done, err := w.scrape(ctx, "controller_runtime_reconcile_total", "")
		if err != nil {
			return false, err.Error(), nil // not up yet
		}
		waiting, err := w.waiting(ctx)
		if err != nil {
			return false, err.Error(), nil
		}
		if done[""] < objects || waiting > 0 {
			quiet = time.Time{}
			return false, fmt.Sprintf("%.0f reconciles, %.0f objects wait", done[""], waiting), nil
		}
		if quiet.IsZero() {
			quiet = time.Now()
		}
		return time.Since(quiet) > 2*time.Second, "it has just come to rest", nil
	})
	f.Restart = quiet.Sub(began)
	return err
}

// quantile of sorted durations.
func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}
