package node_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/koi-net/koi-operator/node"
	"github.com/koi-net/koi-operator/node/nodetest"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// What waits shows in the metrics, and not whom it waits for.
func TestGauges(t *testing.T) {
	f := nodetest.NewFleet(t)
	r := prometheus.NewPedanticRegistry()
	source := f.Start("source", node.AsCoordinator(), node.WithProvides("orn:example.note"), func(c *node.Config) {
		c.Metrics, c.QueueRows, c.MaxInbox = r, 10, 1000
	})
	reader := f.Start("reader", node.AsPartial(), node.WithFirstContact(source.URL()), node.WithInterests("orn:example.note"))
	reader.WaitEdge(source.RID(), reader.RID(), protocol.Approved)
	source.WaitEdge(source.RID(), reader.RID(), protocol.Approved)
	reader.Stop()
	for i := range 12 {
		source.Put(rid.RID(fmt.Sprintf("orn:example.note:%d", i)), `{"text":"hello"}`)
	}
	nodetest.Eventually(t, "a full queue is measured", func() (bool, string) {
		const want = `
# HELP koi_node_queue_fill_ratio How full the queue of that peer is whose queue is nearest its bound, 1 being the bound.
# TYPE koi_node_queue_fill_ratio gauge
koi_node_queue_fill_ratio{queue="outbox"} 0
koi_node_queue_fill_ratio{queue="poll"} 1
# HELP koi_node_queue_rows Outgoing events that wait, for all peers together.
# TYPE koi_node_queue_rows gauge
koi_node_queue_rows{queue="outbox"} 0
koi_node_queue_rows{queue="poll"} 10
# HELP koi_node_resync_needed_peers Peers that lost events at a bound and have not taken in the whole state since.
# TYPE koi_node_resync_needed_peers gauge
koi_node_resync_needed_peers 1
# HELP koi_node_inbox_objects Knowledge objects accepted and not processed yet.
# TYPE koi_node_inbox_objects gauge
koi_node_inbox_objects 0
`
		err := testutil.GatherAndCompare(r, strings.NewReader(want),
			"koi_node_queue_fill_ratio", "koi_node_queue_rows", "koi_node_resync_needed_peers", "koi_node_inbox_objects")
		return err == nil, fmt.Sprint(err)
	})
	problems, err := testutil.GatherAndLint(r)
	if err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
}
