package handlers

import (
	"context"
	"errors"
	"slices"

	"github.com/koi-net/koi-operator/node/edge"
	"github.com/koi-net/koi-operator/node/pipeline"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

// negotiation answers what others say about edges of this node: as source it
// decides on proposals, as target it takes the source's word.
func negotiation(o Options) pipeline.Handler {
	return pipeline.Handler{
		Name: "edge-negotiation", Quick: true, Phase: pipeline.PhaseBundle, RIDTypes: []rid.Type{rid.EdgeType}, EventTypes: changes, Origin: pipeline.ExternalOnly,
		Func: func(ctx context.Context, c *pipeline.Context, k *pipeline.Object) error {
			p, err := protocol.ParseEdgeProfile(k.Contents)
			if err != nil {
				return pipeline.Stop(ReasonInvalidProfile)
			}
			switch o.Self {
			case p.Source:
				return asSource(ctx, o, c, k, p)
			case p.Target:
				return asTarget(c, k, p)
			}
			return nil // others' edges are knowledge like any other
		},
	}
}

func asSource(ctx context.Context, o Options, c *pipeline.Context, k *pipeline.Object, p protocol.EdgeProfile) error {
	in := edge.Negotiation{Self: o.Self, Provides: Provided(o.Profile()), Policy: o.Approval, Received: p}
	if t, ok := c.Graph.Node(p.Target); ok && t.Believed() {
		in.Known, in.TargetKind = true, t.Profile.NodeType
	}
	if e, ok := c.Graph.Edge(p.Source, p.Target); ok {
		in.Current = &e.Profile
		if e.RID != k.RID {
			// The other generation's RID for the same pair: the one it came
			// with now takes the place of the one before.
			c.Handle(pipeline.Object{RID: e.RID, EventType: protocol.Forget, Quiet: true})
		}
	}
	switch d, err := c.Decision(ctx, p.Source, p.Target); {
	case err == nil:
		in.Decision = &edge.Decision{Approved: d.Approved, EdgeType: d.EdgeType, RIDTypes: d.RIDTypes}
	case !errors.Is(err, store.ErrNotFound):
		return pipeline.Retry(err)
	}
	out := edge.Negotiate(in)
	switch out.Action {
	case edge.Approve, edge.Reaffirm:
		return answer(c, k, out.Profile)
	case edge.Wait:
		return nil // cached as proposed; a person decides
	case edge.Refuse:
		c.Send(protocol.Event{RID: k.RID, EventType: protocol.Forget}, p.Target)
		return refuse(k)
	}
	if out.Reason == edge.ReasonUnknownTarget {
		// Its introduction may be on the way.
		return pipeline.AwaitNode(p.Target, errors.New("the proposing node is not known"))
	}
	return pipeline.Stop(out.Reason)
}

// Provided returns the RID types a node gives out events or state of.
func Provided(p protocol.NodeProfile) []rid.Type {
	return slices.Concat(p.Provides.Event, p.Provides.State)
}

// answer makes the object ours: an UPDATE of what the other end said, as in the
// reference, stamped later than that and than what we hold, so that the other
// end takes it.
func answer(c *pipeline.Context, k *pipeline.Object, p protocol.EdgeProfile) error {
	after := k.Manifest
	if k.Previous != nil && k.Previous.Bundle.Manifest.Timestamp.Time().After(after.Timestamp.Time()) {
		after = &k.Previous.Bundle.Manifest
	}
	b, err := protocol.NewBundle(k.RID, pipeline.NextTime(c.Now, after), p.Contents())
	if err != nil {
		return err
	}
	k.Manifest, k.Contents, k.Source, k.Normalized = &b.Manifest, b.Contents, pipeline.Internal, protocol.Update
	return nil
}

// refuse ends a proposal and what was held of the edge: the object becomes the
// FORGET of both, so that what the refusal causes commits with it.
func refuse(k *pipeline.Object) error {
	k.Normalized, k.Manifest, k.Contents = protocol.Forget, nil, nil
	return nil
}

// asTarget takes the source's word for an edge to us.
func asTarget(c *pipeline.Context, k *pipeline.Object, p protocol.EdgeProfile) error {
	in := edge.Reception{Self: p.Target, Received: &p, FromSource: spokenForBy(c, k.Source, p.Source)}
	held, ok := c.Graph.Edge(p.Source, p.Target)
	if ok {
		in.Current = &held.Profile
	}
	out := edge.Receive(in)
	switch out.Action {
	case edge.Accept, edge.Keep:
		if held.RID != k.RID {
			c.Handle(pipeline.Object{RID: held.RID, EventType: protocol.Forget, Quiet: true})
		}
		return nil
	case edge.Repropose:
		return answer(c, k, out.Profile)
	}
	return pipeline.Stop(out.Reason)
}

// spokenForBy reports whether who sent an edge may speak for its source: the
// source itself, a provider of edges that we subscribe to, or a body without a
// sender, of which nothing more can be known. It has passed edgeProfile, so the
// source of an edge to us has no key where the body has no signature.
func spokenForBy(c *pipeline.Context, sender pipeline.Source, source rid.RID) bool {
	return sender == pipeline.Unsigned || rid.RID(sender) == source || c.Graph.HasApprovedFrom(rid.RID(sender), rid.EdgeType)
}
