package handlers

import (
	"context"
	"strings"

	"github.com/koi-net/koi-operator/node/pipeline"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

var changes = []protocol.EventType{protocol.New, protocol.Update}

// nodeProfile refuses node bundles without a valid profile, and nodes that
// claim our own base URL: what is meant for them would come to us.
func nodeProfile(o Options) pipeline.Handler {
	return pipeline.Handler{
		Name: "node-profile", Phase: pipeline.PhaseBundle, RIDTypes: []rid.Type{rid.NodeType}, EventTypes: changes,
		Func: func(_ context.Context, _ *pipeline.Context, k *pipeline.Object) error {
			p, err := protocol.ParseNodeProfile(k.Contents)
			if err != nil || p.Validate() != nil {
				return pipeline.Stop(ReasonInvalidProfile)
			}
			if own := o.Profile().BaseURL; k.RID != o.Self && own != "" && sameURL(p.BaseURL, own) {
				return pipeline.Stop(ReasonOurBaseURL)
			}
			return nil
		},
	}
}

// sameURL compares base URLs: a slash at the end makes no other one.
func sameURL(a, b string) bool { return strings.TrimRight(a, "/") == strings.TrimRight(b, "/") }

// edgeProfile refuses edge bundles without a valid profile.
func edgeProfile() pipeline.Handler {
	return pipeline.Handler{
		Name: "edge-profile", Phase: pipeline.PhaseBundle, RIDTypes: []rid.Type{rid.EdgeType}, EventTypes: changes,
		Func: func(_ context.Context, _ *pipeline.Context, k *pipeline.Object) error {
			if p, err := protocol.ParseEdgeProfile(k.Contents); err != nil || p.Validate() != nil {
				return pipeline.Stop(ReasonInvalidProfile)
			}
			return nil
		},
	}
}
