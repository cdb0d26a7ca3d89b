package server

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// Reasons of koi_server_refused_total, beside the error codes of the signed
// generation (unknown_node, invalid_key, invalid_signature, invalid_target).
const (
	reasonOverload = "overload"    // too many requests at once, or the acceptor is busy
	reasonMemory   = "body_budget" // the bodies being served take all the room there is
	reasonTooLarge = "too_large"
	reasonInvalid  = "invalid"  // not JSON, or not the call's shape
	reasonUnsigned = "unsigned" // no signature, where that is denied
	reasonEncoding = "encoding" // compressed body
	reasonFull     = "store_full"
	reasonAborted  = "aborted" // the peer left, or was too slow
)

type metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	refused  *prometheus.CounterVec
	damaged  prometheus.Counter
	inFlight prometheus.Gauge
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "koi_server_requests_total",
			Help: "Requests from peers, by call, status code (499: the peer left before the answer was whole) and generation.",
		}, []string{"call", "code", "generation"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "koi_server_request_duration_seconds",
			Help:    "Time from a request's head to the end of its answer, by call.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10, 60},
		}, []string{"call"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "koi_server_refused_total",
			Help: "Requests from peers that were refused, by reason.",
		}, []string{"reason"}),
		damaged: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "koi_server_damaged_records_total",
			Help: "Damaged records met while answering peers; each was answered as not found, or left out of what was polled.",
		}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "koi_server_requests_in_flight",
			Help: "Requests from peers being served.",
		}),
	}
	if r == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.requests, m.duration, m.refused, m.damaged, m.inFlight} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("registering metrics: %w", err)
		}
	}
	return m, nil
}
