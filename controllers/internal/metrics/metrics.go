package metrics

import (
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"

	"github.com/koi-net/koi-operator/api/v1alpha1"
	"github.com/koi-net/koi-operator/controllers/internal/conditions"
)

// Who decided about an edge, a label of koi_operator_edge_approval_seconds.
const (
	byPolicy = "policy"
	byPerson = "person"
)

// Metrics are the operator's own metrics. It is safe for concurrent use.
type Metrics struct {
	calls    *prometheus.CounterVec
	watches  prometheus.Gauge
	writes   *prometheus.CounterVec
	approval *prometheus.HistogramVec
	lag      *prometheus.HistogramVec

	approvals approvals
	mirrored  mirrored
}

// New makes Metrics and registers them.
func New(r prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "koi_operator_admin_requests_total",
			Help: "Requests to the admin APIs of nodes.",
		}, []string{"call", "outcome"}),
		watches: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "koi_operator_admin_watches_connected",
			Help: "Nodes whose changes are told at once.",
		}),
		writes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "koi_operator_api_writes_total",
			Help: "Writes to the API server, tried or done; Events and leases apart.",
		}, []string{"kind", "verb"}),
		approval: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "koi_operator_edge_approval_seconds",
			Help:    "Time from a declared KoiEdge's creation or change to its being Approved.",
			Buckets: []float64{.1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 6 * 3600, 24 * 3600, 7 * 24 * 3600},
		}, []string{"decision"}),
		lag: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "koi_operator_mirror_lag_seconds",
			Help:    "Time from a node's change being noticed to the status that shows it.",
			Buckets: []float64{.05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60},
		}, []string{"kind"}),
		approvals: approvals{waits: map[types.NamespacedName]wait{}},
		mirrored:  mirrored{seen: map[object]time.Time{}},
	}
	var errs []error
	for _, c := range []prometheus.Collector{m.calls, m.watches, m.writes, m.approval, m.lag} {
		errs = append(errs, r.Register(c))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	// From the first scrape on: a rate over a series that begins at 1 misses that one.
	for _, d := range []string{byPolicy, byPerson} {
		m.approval.WithLabelValues(d)
	}
	for _, k := range []string{kindNode, kindEdge} {
		m.lag.WithLabelValues(k)
	}
	return m, nil
}

// EdgeLooked notes that a KoiEdge is looked at, before its status says so: the
// time to its approval begins with the first look at a generation, or with the
// creation where the operator was away or behind.
func (m *Metrics) EdgeLooked(e *v1alpha1.KoiEdge, now time.Time) { m.approvals.begin(e, now) }

// EdgeReported notes the state a KoiEdge was reported to be in. It has to be
// called at every look at the edge, whether or not that changed anything.
// changed is when the newest word of its ends was noticed, zero where there is
// none; wrote tells that the status was written at now.
func (m *Metrics) EdgeReported(e *v1alpha1.KoiEdge, s *conditions.State, changed time.Time, wrote bool, now time.Time) {
	key := types.NamespacedName{Namespace: e.Namespace, Name: e.Name}
	if decision, d, ok := m.approvals.stands(key, e, s, now); ok {
		m.approval.WithLabelValues(decision).Observe(d.Seconds())
	}
	m.reported(kindEdge, key, changed, wrote, now)
}

// NodeReported notes that a KoiNode was looked at; see EdgeReported.
func (m *Metrics) NodeReported(key types.NamespacedName, changed time.Time, wrote bool, now time.Time) {
	m.reported(kindNode, key, changed, wrote, now)
}

func (m *Metrics) reported(kind string, key types.NamespacedName, changed time.Time, wrote bool, now time.Time) {
	if d, ok := m.mirrored.shows(object{kind, key}, changed, now); ok && wrote {
		m.lag.WithLabelValues(kind).Observe(d.Seconds())
	}
}

// ForgetEdge drops what is remembered of a KoiEdge that is gone.
func (m *Metrics) ForgetEdge(key types.NamespacedName) {
	m.approvals.forget(key)
	m.mirrored.forget(object{kindEdge, key})
}

// ForgetNode drops what is remembered of a KoiNode that is gone.
func (m *Metrics) ForgetNode(key types.NamespacedName) { m.mirrored.forget(object{kindNode, key}) }
