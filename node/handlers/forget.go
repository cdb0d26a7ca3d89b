package handlers

import (
	"context"
	"slices"

	"github.com/koi-net/koi-operator/node/pipeline"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// forgetNode forgets the edges of a node that is forgotten, and tells those who
// subscribe to edges. The node itself is not told: it may be shaking hands anew
// by then, and would take it for the refusal of what it has just proposed.
func forgetNode(o Options) pipeline.Handler {
	return pipeline.Handler{
		Name: "forget-node", Quick: true, Phase: pipeline.PhaseBundle, RIDTypes: []rid.Type{rid.NodeType}, EventTypes: []protocol.EventType{protocol.Forget},
		Func: func(_ context.Context, c *pipeline.Context, k *pipeline.Object) error {
			var told []rid.RID
			if slices.Contains(o.Profile().Provides.Event, rid.EdgeType) {
				told = slices.DeleteFunc(c.Graph.Subscribers(rid.EdgeType), func(r rid.RID) bool {
					return r == k.RID || r == rid.RID(k.Source)
				})
			}
			for _, e := range c.Graph.EdgesOf(k.RID) {
				c.Handle(pipeline.Object{RID: e.RID, EventType: protocol.Forget, Quiet: true})
				c.Send(protocol.Event{RID: e.RID, EventType: protocol.Forget}, told...)
			}
			return nil
		},
	}
}
