package controllers_test

import (
	"fmt"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/koi-net/koi-operator/api/v1alpha1"
)

// settled waits until the operator writes nothing for a second.
func (w *world) settled() {
	w.t.Helper()
	w.eventually("the operator settles", func() string {
		w.writes.reset()
		time.Sleep(time.Second)
		if seen := w.writes.list(); len(seen) > 0 {
			return fmt.Sprintf("%q", seen)
		}
		return ""
	})
}

// discoveredEdge finds the discovered KoiEdge between two nodes.
func (w *world) discoveredEdge(source, target string) *v1alpha1.KoiEdge {
	w.t.Helper()
	var list v1alpha1.KoiEdgeList
	if err := w.client.List(w.t.Context(), &list, client.InNamespace(w.ns), client.MatchingLabels{v1alpha1.LabelOrigin: v1alpha1.OriginDiscovered}); err != nil {
		w.t.Fatal(err)
	}
	for i := range list.Items {
		if e := &list.Items[i]; e.Status.Source == source && e.Status.Target == target {
			return e
		}
	}
	return nil
}

func (w *world) discovered(source, target, reason string) string {
	w.t.Helper()
	e := w.discoveredEdge(source, target)
	if e == nil {
		return "it does not exist"
	}
	return in(e.Status.Conditions, e.Generation, e.Status.ObservedGeneration, reason)
}
