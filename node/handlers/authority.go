package handlers

import (
	"context"

	"github.com/koi-net/koi-operator/node/graph"
	"github.com/koi-net/koi-operator/node/pipeline"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

// Whose word counts, by the rules of docs/node.md. In the reference any known
// node may change and forget whatever it names; here

//   - a node with a key speaks for itself, under its signature; who forgets one that
//     we have an edge with has it asked;
//   - an end of an edge speaks for the edge;
//   - whoever provided a bundle may change it, and so may a provider of its type
//     that we subscribe to, as coordinators relay what they hear;
//   - a body without a signature speaks for what was last heard without one, and
//     never for a node with a key or an edge between two of them.
//
// What is not known yet is taken from anyone known.

// mayForget holds a FORGET against these rules.
func mayForget(o Options) pipeline.Handler {
	return pipeline.Handler{
		Name: "may-forget", Quick: true, Phase: pipeline.PhaseRID, EventTypes: []protocol.EventType{protocol.Forget}, Origin: pipeline.ExternalOnly,
		Func: func(_ context.Context, c *pipeline.Context, k *pipeline.Object) error {
			switch {
			case k.Previous == nil:
				return nil
			case !speaksFor(c.Graph, k.Source, k.RID, *k.Previous):
				return pipeline.Stop(ReasonNoStanding)
			case o.Doubted != nil && answersForItself(o.Self, c.Graph, k):
				o.Doubted(k.RID)
				return pipeline.Stop(ReasonHearsay)
			}
			return nil
		},
	}
}

// answersForItself reports whether an object is about another node than who sent it,
// that has a key, can be called and has an edge with us.
func answersForItself(self rid.RID, g *graph.Graph, k *pipeline.Object) bool {
	if k.RID.Type() != rid.NodeType || rid.RID(k.Source) == k.RID || !rid.IsKeyed(k.RID) {
		return false
	}
	n, ok := g.Node(k.RID)
	if !ok || n.Profile.NodeType != protocol.Full || n.Profile.BaseURL == "" {
		return false
	}
	_, to := g.Edge(self, k.RID)
	_, from := g.Edge(k.RID, self)
	return to || from
}

// mayChange holds a change of what is known against these rules. Nodes and edges
// are left to the Bundle phase, in which it shows who they are about.
func mayChange() pipeline.Handler {
	return pipeline.Handler{
		Name: "may-change", Quick: true, Phase: pipeline.PhaseManifest, Origin: pipeline.ExternalOnly,
		Func: func(_ context.Context, c *pipeline.Context, k *pipeline.Object) error {
			switch t := k.RID.Type(); {
			case t == rid.NodeType, t == rid.EdgeType, k.Previous == nil:
				return nil
			case speaksFor(c.Graph, k.Source, k.RID, *k.Previous):
				return nil
			}
			return pipeline.Stop(ReasonNoStanding)
		},
	}
}

// speaksFor reports whether a source may change or forget what is held as rec.
func speaksFor(g *graph.Graph, source pipeline.Source, r rid.RID, rec store.Record) bool {
	switch r.Type() {
	case rid.NodeType:
		return speaksForNode(g, source, r, rec.Source)
	case rid.EdgeType:
		p, err := protocol.ParseEdgeProfile(rec.Bundle.Contents)
		return err == nil && speaksForEdge(g, source, p)
	}
	return provides(g, source, r.Type(), rec.Source)
}

// provides reports whether a source may change what provider gave us: it is the
// same, or gives us that type by an approved edge. What came without a signature
// is open to whoever signs.
func provides(g *graph.Graph, source pipeline.Source, t rid.Type, provider string) bool {
	if provider == string(source) || provider == string(pipeline.Unsigned) {
		return true
	}
	return source != pipeline.Unsigned && g.HasApprovedFrom(rid.RID(source), t)
}

// speaksForNode reports whether a source may take back what is held of node r.
// Nothing tells a node without a key from others, so its own word, which is
// unsigned, always counts for it.
func speaksForNode(g *graph.Graph, source pipeline.Source, r rid.RID, provider string) bool {
	if source == pipeline.Unsigned {
		return !pipeline.Keyed(g.Self(), r)
	}
	return rid.RID(source) == r || provides(g, source, rid.NodeType, provider)
}

// speaksForEdge reports whether a source may speak of an edge at all. What its
// word is worth for an edge of our own is the negotiation's matter.
func speaksForEdge(g *graph.Graph, source pipeline.Source, p protocol.EdgeProfile) bool {
	if source == pipeline.Unsigned {
		return !pipeline.Keyed(g.Self(), p.Source) || !pipeline.Keyed(g.Self(), p.Target)
	}
	s := rid.RID(source)
	return s == p.Source || s == p.Target || g.HasApprovedFrom(s, rid.EdgeType)
}
