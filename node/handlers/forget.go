package handlers

import (
	"context"

	"github.com/koi-net/koi-operator/node/pipeline"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// forgetNode forgets the edges of a node that is forgotten.
func forgetNode() pipeline.Handler {
	return pipeline.Handler{
		Name: "forget-node", Phase: pipeline.PhaseBundle, RIDTypes: []rid.Type{rid.NodeType}, EventTypes: []protocol.EventType{protocol.Forget},
		Func: func(_ context.Context, c *pipeline.Context, k *pipeline.Object) error {
			for _, e := range c.Graph.EdgesOf(k.RID) {
				c.Handle(pipeline.Object{RID: e.RID, EventType: protocol.Forget})
			}
			return nil
		},
	}
}
