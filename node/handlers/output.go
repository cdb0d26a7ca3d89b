package handlers

import (
	"context"
	"slices"

	"github.com/koi-net/koi-operator/node/pipeline"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// output names the nodes an event goes to: subscribers by an approved edge, if
// this node provides the type's events; every neighbour for the node's own
// profile; the other end for an own edge that was changed here. An event never
// goes back to the node it came from, nor to the node it is about.
func output(o Options) pipeline.Handler {
	return pipeline.Handler{
		Name: "output", Quick: true, Phase: pipeline.PhaseNetwork,
		Func: func(_ context.Context, c *pipeline.Context, k *pipeline.Object) error {
			t := k.RID.Type()
			if slices.Contains(o.Profile().Provides.Event, t) {
				k.Targets = append(k.Targets, c.Graph.Subscribers(t)...)
			}
			switch {
			case k.RID == o.Self:
				for _, e := range c.Graph.EdgesOf(o.Self) {
					k.Targets = append(k.Targets, otherEnd(o.Self, e.Profile))
				}
			case t == rid.EdgeType && !k.Source.External():
				if p, ok := ownEdge(o.Self, k); ok {
					k.Targets = append(k.Targets, otherEnd(o.Self, p))
				}
			}
			k.Targets = slices.DeleteFunc(k.Targets, func(r rid.RID) bool {
				return r == o.Self || r == rid.RID(k.Source) || r == k.RID
			})
			slices.Sort(k.Targets)
			k.Targets = slices.Compact(k.Targets)
			return nil
		},
	}
}

func otherEnd(self rid.RID, p protocol.EdgeProfile) rid.RID {
	if p.Source == self {
		return p.Target
	}
	return p.Source
}

// ownEdge returns the profile of an edge in which self is an end, from the
// object or, for a FORGET, from what was held.
func ownEdge(self rid.RID, k *pipeline.Object) (protocol.EdgeProfile, bool) {
	contents := k.Contents
	if k.Normalized == protocol.Forget {
		if k.Previous == nil {
			return protocol.EdgeProfile{}, false
		}
		contents = k.Previous.Bundle.Contents
	}
	p, err := protocol.ParseEdgeProfile(contents)
	if err != nil || (p.Source != self && p.Target != self) {
		return protocol.EdgeProfile{}, false
	}
	return p, true
}
