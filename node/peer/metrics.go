package peer

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

type deliveryMetrics struct {
	attempts  *prometheus.CounterVec
	delivered prometheus.Counter
	dropped   *prometheus.CounterVec
	duration  prometheus.Histogram
}

func newDeliveryMetrics(r prometheus.Registerer) (*deliveryMetrics, error) {
	m := &deliveryMetrics{
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "koi_delivery_requests_total",
			Help: "Requests that push events to peers, by outcome (ok; unknown_node, invalid_key, invalid_signature, invalid_target; " +
				"3xx, 4xx, 5xx, network, timeout, circuit_open, forbidden, denied, bad_answer, unknown_server, bad_event, stopped) and generation (signed, unsigned).",
		}, []string{"outcome", "generation"}),
		delivered: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "koi_delivery_events_total",
			Help: "Events that peers took over.",
		}),
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "koi_delivery_dropped_total",
			Help: "Events that were not delivered and never will be, by reason (refused by the peer; unsuitable for it, so not sent).",
		}, []string{"reason"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "koi_delivery_request_duration_seconds",
			Help:    "Time of a request that pushes events to a peer.",
			Buckets: []float64{.001, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}),
	}
	return m, register(r, m.attempts, m.delivered, m.dropped, m.duration)
}

type pollsMetrics struct {
	offered    prometheus.Counter
	confirmed  prometheus.Counter
	expired    prometheus.Counter
	unsuitable prometheus.Counter
}

func newPollsMetrics(r prometheus.Registerer) (*pollsMetrics, error) {
	m := &pollsMetrics{
		offered: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "koi_polls_offered_total",
			Help: "Events offered to polling peers, repeated offers included.",
		}),
		confirmed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "koi_polls_confirmed_total",
			Help: "Events that polling peers have taken.",
		}),
		expired: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "koi_polls_expired_total",
			Help: "Events dropped because nobody polled for them in time.",
		}),
		unsuitable: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "koi_polls_unsuitable_total",
			Help: "Events dropped because they would not suit the polling peer they waited for.",
		}),
	}
	return m, register(r, m.offered, m.confirmed, m.expired, m.unsuitable)
}

type pollingMetrics struct {
	polls  *prometheus.CounterVec
	events prometheus.Counter
}

func newPollingMetrics(r prometheus.Registerer) (*pollingMetrics, error) {
	m := &pollingMetrics{
		polls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "koi_polling_requests_total",
			Help: "Polls of this partial node, by outcome and generation (as of koi_delivery_requests_total).",
		}, []string{"outcome", "generation"}),
		events: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "koi_polling_events_total",
			Help: "Events that polls of this partial node brought in.",
		}),
	}
	return m, register(r, m.polls, m.events)
}

type circuitMetrics struct {
	transitions *prometheus.CounterVec
}

func newCircuitMetrics(r prometheus.Registerer, open func() int) (*circuitMetrics, error) {
	m := &circuitMetrics{
		transitions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "koi_peer_circuit_transitions_total",
			Help: "Changes of peers' circuits, by what they became (open: calls fail at once; half_open: one is let through; closed).",
		}, []string{"to"}),
	}
	opened := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "koi_peer_circuits_open",
		Help: "Base URLs of peers that do not answer, so that calls to them fail at once.",
	}, func() float64 { return float64(open()) })
	return m, register(r, m.transitions, opened)
}

func register(r prometheus.Registerer, cs ...prometheus.Collector) error {
	if r == nil {
		return nil
	}
	for _, c := range cs {
		if err := r.Register(c); err != nil {
			return fmt.Errorf("registering metrics: %w", err)
		}
	}
	return nil
}
