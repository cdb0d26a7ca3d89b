package handlers

import (
	"context"

	"github.com/koi-net/koi-operator/node/pipeline"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// ownKnowledge ignores what others say about this node, and about knowledge
// that arose here: nobody else's word counts for it. Edges are left to the
// negotiation, in which both ends have a say.
func ownKnowledge(o Options) pipeline.Handler {
	return pipeline.Handler{
		Name: "own-knowledge", Quick: true, Phase: pipeline.PhaseRID, Origin: pipeline.ExternalOnly,
		Func: func(_ context.Context, _ *pipeline.Context, k *pipeline.Object) error {
			switch {
			case k.RID == o.Self:
				return pipeline.Stop(ReasonAboutOneself)
			case k.Previous != nil && k.Previous.Source == string(o.Self) && k.RID.Type() != rid.EdgeType:
				return pipeline.Stop(ReasonOwnKnowledge)
			}
			return nil
		},
	}
}

// unknownForgotten stops the FORGET of what is not held.
func unknownForgotten() pipeline.Handler {
	return pipeline.Handler{
		Name: "unknown-forgotten", Quick: true, Phase: pipeline.PhaseRID, EventTypes: []protocol.EventType{protocol.Forget},
		Func: func(_ context.Context, _ *pipeline.Context, k *pipeline.Object) error {
			if k.Previous == nil {
				return pipeline.Stop(ReasonUnknownForgotten)
			}
			return nil
		},
	}
}
