package pipeline

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/koi-net/koi-operator/node/store"
)

type metrics struct {
	accepted  prometheus.Counter
	processed *prometheus.CounterVec // by outcome: new, update, forget, failed, or the reason of a stop
	retried   prometheus.Counter
	dropped   *prometheus.CounterVec // by queue and reason: superseded, oldest, too-large
	replayed  prometheus.Counter
}

// newMetrics registers the pipeline's metrics with r, if there is one.
func newMetrics(r prometheus.Registerer, quarantined func() int) (*metrics, error) {
	m := &metrics{
		accepted: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "koi_node_objects_accepted_total", Help: "Knowledge objects that were accepted: they are on disk."}),
		processed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "koi_node_objects_processed_total", Help: "Knowledge objects whose way through the pipeline ended, by outcome."}, []string{"outcome"}),
		retried: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "koi_node_objects_retried_total", Help: "Attempts that failed for now and will be made again."}),
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "koi_node_queue_dropped_total", Help: "Outgoing events dropped at a queue's bound, by reason."}, []string{"queue", "reason"}),
		replayed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "koi_node_bodies_replayed_total", Help: "Signed bodies that had been accepted before and were left alone."}),
	}
	aside := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "koi_node_objects_quarantined", Help: "Knowledge objects kept aside until the time they are stamped with."},
		func() float64 { return float64(quarantined()) })
	if r == nil {
		return m, nil
	}
	var errs []error
	for _, c := range []prometheus.Collector{m.accepted, m.processed, m.retried, m.dropped, m.replayed, aside} {
		errs = append(errs, r.Register(c))
	}
	return m, errors.Join(errs...)
}

// drops counts what a peer lost at a bound of q.
func (m *metrics) drops(q store.Queue, d store.Drops) {
	for _, c := range []struct {
		reason string
		n      int
	}{{"superseded", d.Superseded}, {"oldest", d.Oldest}, {"too-large", d.TooLarge}} {
		if c.n > 0 {
			m.dropped.WithLabelValues(string(q), c.reason).Add(float64(c.n))
		}
	}
}
