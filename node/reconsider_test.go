package node_test

import (
	"testing"

	"github.com/koi-net/koi-operator/node"
	"github.com/koi-net/koi-operator/node/admin/client"
	"github.com/koi-net/koi-operator/node/edge"
	"github.com/koi-net/koi-operator/node/nodetest"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// A source that starts with another approval mode, or provides something else, holds
// its edges against that: nobody else would, as their targets see no need to ask.
func TestEdgesAreReconsideredAtStart(t *testing.T) {
	f := nodetest.NewFleet(t)
	manual := func(c *node.Config) { c.EdgeApproval = edge.Manual }
	automatic := func(c *node.Config) { c.EdgeApproval = edge.Automatic }
	source := f.Start("source", node.WithProvides(noteType), manual)
	reader := f.Start("reader", node.WithInterests(noteType), node.WithFirstContact(source.URL()))
	bounded := f.Start("bounded", node.WithInterests(noteType), node.WithFirstContact(source.URL()))
	self := source.RID()
	for _, target := range []rid.RID{reader.RID(), bounded.RID()} {
		source.WaitEdge(self, target, protocol.Proposed)
	}
	// A person drew a line for one of them that its proposal is beyond.
	_, err := source.Admin.SetPolicy(t.Context(), client.Policy{
		Source: self, Target: bounded.RID(), Verdict: client.Approve, EdgeType: protocol.Webhook, RIDTypes: []rid.Type{"orn:test.other"},
	})
	if err != nil {
		t.Fatal(err)
	}
	reader.Stop() // what happens now is not its asking
	bounded.Stop()

	source = source.Restart(automatic)
	source.WaitEdge(self, reader.RID(), protocol.Approved)
	if e, ok := source.Edge(self, bounded.RID()); !ok || e.Status != protocol.Proposed {
		t.Errorf("the edge a person decided on is %+v, %v", e, ok)
	}

	source = source.Restart(manual)
	if e, ok := source.Edge(self, reader.RID()); !ok || e.Status != protocol.Approved {
		t.Errorf("an approved edge under Manual is %+v, %v", e, ok)
	}

	source = source.Restart(func(c *node.Config) { c.Provides = protocol.Provides{} })
	nodetest.Eventually(t, "an edge of types that are not provided is withdrawn", func() (bool, string) {
		_, ok := source.Edge(self, reader.RID())
		return !ok, "it is there"
	})
}
