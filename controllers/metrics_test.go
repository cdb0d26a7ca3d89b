package controllers_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/koi-net/koi-operator/api/v1alpha1"
	"github.com/koi-net/koi-operator/controllers"
)

// measured gives an operator a registry to look into.
func measured(r *prometheus.Registry) func(*controllers.Options) {
	return func(o *controllers.Options) { o.Metrics = r }
}

// metric sums up the series of a metric that have the given labels (name,
// value, ...): values, or how often a histogram was observed.
func metric(t *testing.T, r *prometheus.Registry, name string, labels ...string) float64 {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
	series:
		for _, m := range f.GetMetric() {
			have := map[string]string{}
			for _, l := range m.GetLabel() {
				have[l.GetName()] = l.GetValue()
			}
			for i := 0; i < len(labels); i += 2 {
				if have[labels[i]] != labels[i+1] {
					continue series
				}
			}
			sum += m.GetGauge().GetValue() + m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return sum
}

// reaches waits until a metric has a value.
func (w *world) reaches(r *prometheus.Registry, want float64, name string, labels ...string) {
	w.t.Helper()
	w.eventually(fmt.Sprintf("%s%q is %v", name, labels, want), func() string {
		if got := metric(w.t, r, name, labels...); got != want {
			return fmt.Sprintf("it is %v", got)
		}
		return ""
	})
}

func TestMetrics(t *testing.T) {
	r := prometheus.NewPedanticRegistry()
	w := newWorld(t, measured(r))
	w.create(full("a", manual, provides("orn:x.y")), full("b"))
	w.create(edge("e", "a", "b", "orn:x.y"))
	w.edge("e", v1alpha1.ReasonAwaitingApproval)
	w.reaches(r, 2, "koi_operator_nodes", "namespace", w.ns, "state", "Ready", "reason", "Ready")
	w.reaches(r, 1, "koi_operator_edges", "namespace", w.ns, "state", "Reconciling", "reason", "AwaitingApproval")
	w.reaches(r, 2, "koi_operator_admin_watches_connected")
	w.eventually("the proposal is seen to wait", func() string {
		if metric(t, r, "koi_operator_proposal_longest_wait_seconds", "namespace", w.ns) > 0 {
			return ""
		}
		return "it is not"
	})
	change(w, "e", &v1alpha1.KoiEdge{}, func(e *v1alpha1.KoiEdge) { e.Spec.Approval = v1alpha1.Approved })
	w.edge("e", v1alpha1.ReasonApproved)
	w.reaches(r, 0, "koi_operator_proposal_longest_wait_seconds")
	w.eventually("the approval was timed", func() string {
		if n := metric(t, r, "koi_operator_edge_approval_seconds"); n != 1 {
			return fmt.Sprintf("%v approvals", n)
		}
		return ""
	})

	t.Log("a node's change reaches the status")
	w.settled()
	lag := metric(t, r, "koi_operator_mirror_lag_seconds", "kind", "KoiNode")
	w.net.subscribe(w.net.named("b"), w.net.named("a"), "orn:koi-net.node")
	w.eventually("it is mirrored", func() string {
		if n := metric(t, r, "koi_operator_mirror_lag_seconds", "kind", "KoiNode"); n <= lag {
			return fmt.Sprintf("observed %v times", n)
		}
		return ""
	})

	t.Log("an unchanged world is not written to")
	w.settled()
	writes := metric(t, r, "koi_operator_api_writes_total")
	if writes == 0 || metric(t, r, "koi_operator_api_writes_total", "kind", "KoiEdge/status", "verb", "patch") == 0 ||
		metric(t, r, "koi_operator_api_writes_total", "kind", "Deployment", "verb", "apply") == 0 {
		t.Error("writes are not counted")
	}
	time.Sleep(2 * interval) // the claim is about time passing
	if now := metric(t, r, "koi_operator_api_writes_total"); now != writes {
		t.Errorf("%v writes", now-writes)
	}

	t.Log("a node falls silent")
	if n := metric(t, r, "koi_operator_admin_requests_total", "outcome", "unreachable"); n != 0 {
		t.Errorf("%v errors before", n)
	}
	w.net.mu.Lock()
	silent := w.net.names["b"].server
	w.net.mu.Unlock()
	silent.CloseClientConnections()
	_ = silent.Listener.Close()
	w.reaches(r, 1, "koi_operator_admin_watches_connected")
	w.reaches(r, 1, "koi_operator_nodes", "reason", v1alpha1.ReasonNodeUnreachable)
	if n := metric(t, r, "koi_operator_admin_requests_total", "call", "status", "outcome", "unreachable"); n == 0 {
		t.Error("no errors")
	}
	if metric(t, r, "koi_operator_node_longest_unready_seconds", "namespace", w.ns) == 0 {
		t.Error("nothing is seen to be unready")
	}
}
