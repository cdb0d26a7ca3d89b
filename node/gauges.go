package node

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/store"
)

// gaugesTimeout bounds reading the store for a scrape.
const gaugesTimeout = 5 * time.Second

var (
	inboxDesc = prometheus.NewDesc("koi_node_inbox_objects",
		"Knowledge objects accepted and not processed yet.", nil, nil)
	inboxFillDesc = prometheus.NewDesc("koi_node_inbox_fill_ratio",
		"The same, as a part of the most there may be.", nil, nil)
	queueDesc = prometheus.NewDesc("koi_node_queue_rows",
		"Outgoing events that wait, for all peers together.", []string{"queue"}, nil)
	queueFillDesc = prometheus.NewDesc("koi_node_queue_fill_ratio",
		"How full the queue of that peer is whose queue is nearest its bound, 1 being the bound.", []string{"queue"}, nil)
	resyncDesc = prometheus.NewDesc("koi_node_resync_needed_peers",
		"Peers that lost events at a bound and have not taken in the whole state since.", nil, nil)
	edgesDesc = prometheus.NewDesc("koi_node_edges",
		"Edges this node is an end of.", []string{"status"}, nil)
)

// gauges tells at a scrape what waits in the store, without a series for each
// peer: peers choose their names.
type gauges struct{ n *Node }

// Describe names the metrics.
func (g gauges) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{inboxDesc, inboxFillDesc, queueDesc, queueFillDesc, resyncDesc, edgesDesc} {
		out <- d
	}
}

// Collect reads the store. Where that fails, as in a node that has ended, it
// tells what it got.
func (g gauges) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	edges := map[protocol.EdgeStatus]int{}
	for _, e := range g.n.graph.EdgesOf(g.n.identity.RID) {
		edges[e.Profile.Status]++
	}
	gauge(edgesDesc, float64(edges[protocol.Approved]), "approved")
	gauge(edgesDesc, float64(edges[protocol.Proposed]), "proposed")

	ctx, cancel := context.WithTimeout(context.Background(), gaugesTimeout)
	defer cancel()
	err := g.n.store.View(ctx, func(tx store.Reader) error {
		inbox, err := tx.InboxLen()
		if err != nil {
			return err
		}
		gauge(inboxDesc, float64(inbox))
		gauge(inboxFillDesc, part(int64(inbox), int64(g.n.cfg.MaxInbox)))
		resync := 0
		for _, q := range []store.Queue{store.Outbox, store.PollQueue} {
			peers, err := tx.Queues(q)
			if err != nil {
				return err
			}
			rows, fullest := 0, 0.0
			for _, s := range peers {
				rows += s.Rows
				fullest = max(fullest, part(int64(s.Rows), int64(g.n.cfg.QueueRows)), part(s.Bytes, g.n.cfg.QueueBytes))
				if s.ResyncNeeded {
					resync++
				}
			}
			gauge(queueDesc, float64(rows), string(q))
			gauge(queueFillDesc, fullest, string(q))
		}
		gauge(resyncDesc, float64(resync))
		return nil
	})
	if err != nil {
		g.n.log.Debug("queues not measured", "error", err)
	}
}

// part is n of bound; 0 where there is no bound.
func part(n, bound int64) float64 {
	if bound <= 0 {
		return 0
	}
	return float64(n) / float64(bound)
}
