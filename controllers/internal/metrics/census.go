package metrics

import (
	"context"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/koi-net/koi-operator/api/v1alpha1"
	"github.com/koi-net/koi-operator/controllers/internal/conditions"
)

// Census counts KoiNodes and KoiEdges when it is asked to.
type Census struct {
	// Reader reads from the cache.
	Reader client.Reader
	// Leads tells whether this operator leads: one that waits counts nothing, or
	// all would be counted twice.
	Leads func() bool
	// Clock tells the time.
	Clock func() time.Time
}

// censusTimeout bounds reading the cache, which waits only until it is filled.
const censusTimeout = 5 * time.Second

var (
	nodesDesc = prometheus.NewDesc("koi_operator_nodes",
		"KoiNodes by how they fare.", []string{"namespace", "state", "reason"}, nil)
	edgesDesc = prometheus.NewDesc("koi_operator_edges",
		"KoiEdges by how they fare.", []string{"namespace", "state", "reason"}, nil)
	nodeUnreadyDesc = prometheus.NewDesc("koi_operator_node_longest_unready_seconds",
		"For how long the KoiNode has not been Ready that has not been for longest.", []string{"namespace"}, nil)
	edgeUnreadyDesc = prometheus.NewDesc("koi_operator_edge_longest_unready_seconds",
		"For how long the KoiEdge has not been Ready that has not been for longest; those that wait for approval apart.", []string{"namespace"}, nil)
	proposalDesc = prometheus.NewDesc("koi_operator_proposal_longest_wait_seconds",
		"For how long the oldest proposal has waited for a person's approval.", []string{"namespace"}, nil)
)

// Describe names the metrics.
func (c *Census) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{nodesDesc, edgesDesc, nodeUnreadyDesc, edgeUnreadyDesc, proposalDesc} {
		out <- d
	}
}

// Collect counts what the cache holds now. Where it cannot be read, it counts
// nothing.
func (c *Census) Collect(out chan<- prometheus.Metric) {
	if !c.Leads() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), censusTimeout)
	defer cancel()
	now := c.Clock()
	var nodes v1alpha1.KoiNodeList
	if err := c.Reader.List(ctx, &nodes, client.UnsafeDisableDeepCopy); err != nil {
		return
	}
	var edges v1alpha1.KoiEdgeList
	if err := c.Reader.List(ctx, &edges, client.UnsafeDisableDeepCopy); err != nil {
		return
	}
	n := newCount()
	for i := range nodes.Items {
		n.add(&nodes.Items[i], nodes.Items[i].Status.Conditions, now)
	}
	e := newCount()
	for i := range edges.Items {
		e.add(&edges.Items[i], edges.Items[i].Status.Conditions, now)
	}
	n.send(out, nodesDesc, nodeUnreadyDesc)
	e.send(out, edgesDesc, edgeUnreadyDesc)
	sendAges(out, proposalDesc, e.waiting)
}

// fare is how objects of a namespace fare.
type fare struct{ namespace, state, reason string }

type count struct {
	objects map[fare]int
	unready map[string]float64 // seconds, by namespace
	waiting map[string]float64
}

func newCount() count {
	return count{objects: map[fare]int{}, unready: map[string]float64{}, waiting: map[string]float64{}}
}

func (c count) add(o client.Object, have []metav1.Condition, now time.Time) {
	f := fare{o.GetNamespace(), "Reconciling", "Unobserved"}
	s := conditions.Of(have)
	if s != nil {
		f.state, f.reason = stateName(s.Kind), reasonName(s.Reason)
	}
	if o.GetDeletionTimestamp() != nil {
		f.state = "Deleting"
	}
	c.objects[f]++
	if s != nil && (s.Kind == conditions.Ready || s.Kind == conditions.Suspended) {
		return
	}
	since := o.GetCreationTimestamp().Time
	if ready := meta.FindStatusCondition(have, v1alpha1.ConditionReady); ready != nil {
		since = ready.LastTransitionTime.Time
	}
	ages := c.unready
	if f.reason == v1alpha1.ReasonAwaitingApproval {
		ages = c.waiting
	}
	ages[f.namespace] = max(ages[f.namespace], now.Sub(since).Seconds())
}

func (c count) send(out chan<- prometheus.Metric, objects, unready *prometheus.Desc) {
	for f, n := range c.objects {
		out <- prometheus.MustNewConstMetric(objects, prometheus.GaugeValue, float64(n), f.namespace, f.state, f.reason)
	}
	sendAges(out, unready, c.unready)
}

func sendAges(out chan<- prometheus.Metric, d *prometheus.Desc, ages map[string]float64) {
	for namespace, age := range ages {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, age, namespace)
	}
}

// stateName names a state as kstatus and the conditions do.
func stateName(k conditions.Kind) string {
	switch k {
	case conditions.Ready:
		return v1alpha1.ConditionReady
	case conditions.Stalled:
		return v1alpha1.ConditionStalled
	case conditions.Suspended:
		return v1alpha1.ConditionSuspended
	}
	return v1alpha1.ConditionReconciling
}

// reasonName keeps labels to the reasons of the API, whatever a status says.
func reasonName(reason string) string {
	if slices.Contains(reasons, reason) {
		return reason
	}
	return "Other"
}
