package handlers

import (
	"context"

	"github.com/koi-net/koi-operator/node/pipeline"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// introducesItself reports whether a node's NEW comes from that node: signed by
// it, or, for one without a key, unsigned, of which more cannot be known.
func introducesItself(self rid.RID, k *pipeline.Object) bool {
	if k.Source == pipeline.Unsigned {
		return !pipeline.Keyed(self, k.RID)
	}
	return rid.RID(k.Source) == k.RID
}

// handshake is what makes a coordinator: it answers a newcomer's NEW with its
// own bundle and proposes to subscribe to the newcomer's nodes and edges, by
// webhook, even from partial nodes. An edge that is left of an earlier life of
// the newcomer is forgotten first.
func handshake(o Options) pipeline.Handler {
	return pipeline.Handler{
		Name: "handshake", Phase: pipeline.PhaseFinal, RIDTypes: []rid.Type{rid.NodeType}, EventTypes: changes, Origin: pipeline.ExternalOnly,
		Func: func(ctx context.Context, c *pipeline.Context, k *pipeline.Object) error {
			if k.EventType != protocol.New || !introducesItself(o.Self, k) {
				return nil
			}
			own, err := c.Bundle(ctx, o.Self)
			if err != nil {
				return pipeline.Retry(err) // not cached yet: the node is starting
			}
			c.Send(protocol.Event{
				RID: o.Self, EventType: protocol.New, Manifest: &own.Bundle.Manifest, Contents: own.Bundle.Contents,
			}, k.RID)
			if e, ok := c.Graph.Edge(k.RID, o.Self); ok {
				c.Handle(pipeline.Object{RID: e.RID, EventType: protocol.Forget})
			}
			c.Handle(pipeline.Object{
				RID: rid.NewEdge(k.RID, o.Self), EventType: protocol.New,
				Contents: protocol.EdgeProfile{
					Source: k.RID, Target: o.Self, EdgeType: protocol.Webhook, Status: protocol.Proposed,
					RIDTypes: []rid.Type{rid.NodeType, rid.EdgeType},
				}.Contents(),
			})
			return nil
		},
	}
}
