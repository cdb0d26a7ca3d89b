package handlers

import (
	"context"
	"strings"

	"github.com/koi-net/koi-operator/node/pipeline"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

var changes = []protocol.EventType{protocol.New, protocol.Update}

// nodeProfile refuses node bundles without a valid profile, profiles whose key
// is not the one that their node's RID was made from, and nodes that claim our
// own base URL: what is meant for them would come to us.
//
// Of a node with a key others may say what they like: until the node has said it
// itself, nothing is sent to where they say it is. Its own word is never replaced
// by theirs.
func nodeProfile(o Options) pipeline.Handler {
	return pipeline.Handler{
		Name: "node-profile", Quick: true, Phase: pipeline.PhaseBundle, RIDTypes: []rid.Type{rid.NodeType}, EventTypes: changes,
		Func: func(_ context.Context, c *pipeline.Context, k *pipeline.Object) error {
			p, err := protocol.ParseNodeProfile(k.Contents)
			if err != nil || p.Validate() != nil {
				return pipeline.Stop(ReasonInvalidProfile)
			}
			keyed := pipeline.Keyed(o.Self, k.RID)
			own := o.Profile().BaseURL
			switch {
			case rid.IsKeyed(k.RID) && p.PublicKey == "", !p.KeyMatches(k.RID):
				return pipeline.Stop(ReasonInvalidKey)
			case k.RID != o.Self && own != "" && sameURL(p.BaseURL, own):
				return pipeline.Stop(ReasonOurBaseURL)
			case !k.Source.External():
				return nil
			case !keyed && o.DenyUnsigned:
				return pipeline.Stop(ReasonUnsignedPeer)
			case !keyed:
				return nil // nothing tells its own word from others'
			case rid.RID(k.Source) == k.RID:
				// Whoever was told the same by others need not be told again.
				k.Quiet = confirms(o.Self, k) && k.Previous.Bundle.Manifest.SHA256Hash == k.Manifest.SHA256Hash
				return nil
			case k.Source == pipeline.Unsigned, k.Previous != nil && pipeline.Verified(o.Self, *k.Previous):
				if o.Heard != nil {
					o.Heard(k.RID, p)
				}
				return pipeline.Stop(ReasonHearsay)
			case k.Previous != nil && !provides(c.Graph, k.Source, rid.NodeType, k.Previous.Source):
				return pipeline.Stop(ReasonNoStanding)
			}
			return nil
		},
	}
}

// sameURL compares base URLs: a slash at the end makes no other one.
func sameURL(a, b string) bool { return strings.TrimRight(a, "/") == strings.TrimRight(b, "/") }

// edgeProfile refuses edge bundles without a valid profile, those under a RID
// that was not made from the edge's ends, which would take another edge's place,
// and those from nodes whose word does not count for the edge.
func edgeProfile() pipeline.Handler {
	return pipeline.Handler{
		Name: "edge-profile", Quick: true, Phase: pipeline.PhaseBundle, RIDTypes: []rid.Type{rid.EdgeType}, EventTypes: changes,
		Func: func(_ context.Context, c *pipeline.Context, k *pipeline.Object) error {
			p, err := protocol.ParseEdgeProfile(k.Contents)
			switch {
			case err != nil, p.Validate() != nil:
				return pipeline.Stop(ReasonInvalidProfile)
			case k.RID != rid.NewEdge(p.Source, p.Target) && k.RID != rid.LegacyEdge(p.Source, p.Target):
				return pipeline.Stop(ReasonForeignEdge)
			case k.Source.External() && !speaksForEdge(c.Graph, k.Source, p):
				return pipeline.Stop(ReasonNoStanding)
			}
			return nil
		},
	}
}
