package edge

import (
	"slices"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// Subscription is what the target of an edge knows when it decides whether to
// propose.
type Subscription struct {
	Self     rid.RID
	SelfKind protocol.NodeKind
	// Source is the node that provides, and what it says of itself.
	Source        rid.RID
	SourceProfile protocol.NodeProfile
	// Want are the RID types this node is interested in; AllTypes is every type.
	// Of them those are asked for that the source gives events of.
	Want []rid.Type
	// Terms, where set, are exactly the RID types to ask for: a coordinator's
	// nodes and edges, or what a person asked for. Want is not looked at then.
	Terms []rid.Type
	// EdgeType is the edge type a person asked for; "" means WEBHOOK for a full
	// node, POLL for a partial one.
	EdgeType protocol.EdgeKind
	// Current is the edge held for the pair; nil where there is none.
	Current *protocol.EdgeProfile
	// Pinned: a person asked for Current, so that interests alone leave it be.
	Pinned bool
}

// Subscribe returns the proposal that the target sends to the source, or nil
// and the reason where none is due: nothing of interest is provided, or an edge
// is there, proposed or approved. Without Terms an edge that carries at least
// what is wanted will do; with Terms it has to have just those (and EdgeType,
// if that is set). When to repeat a proposal that stays unanswered is the
// caller's business.
func Subscribe(in Subscription) (*protocol.EdgeProfile, string) {
	if in.Source == in.Self {
		return nil, ReasonNotOurs
	}
	p := protocol.EdgeProfile{Source: in.Source, Target: in.Self, EdgeType: in.EdgeType, Status: protocol.Proposed}
	if p.EdgeType == "" {
		p.EdgeType = UsualType(in.SelfKind)
	}
	if p.EdgeType == protocol.Webhook && in.SelfKind == protocol.Partial {
		return nil, ReasonWebhookToPartial
	}
	if in.Terms != nil {
		p.RIDTypes = unique(in.Terms)
		if len(p.RIDTypes) == 0 {
			return nil, ReasonNoTypes
		}
		if in.Current != nil && SameTypes(in.Current.RIDTypes, p.RIDTypes) && (in.EdgeType == "" || in.EdgeType == in.Current.EdgeType) {
			return nil, ReasonSameTerms
		}
		return &p, ReasonWanted
	}
	p.RIDTypes = wanted(in.Want, in.SourceProfile.Provides.Event)
	switch {
	case len(p.RIDTypes) == 0:
		return nil, ReasonNothingOfInterest
	case in.Current != nil && in.Pinned:
		return nil, ReasonPinned
	case in.Current != nil && TypesSubset(p.RIDTypes, in.Current.RIDTypes):
		return nil, ReasonSameTerms
	}
	return &p, ReasonWanted
}

// UsualType is the edge type a target of the given kind asks for where nobody
// asked for another: a partial node cannot be called.
func UsualType(target protocol.NodeKind) protocol.EdgeKind {
	if target == protocol.Partial {
		return protocol.Poll
	}
	return protocol.Webhook
}

// wanted returns what of provided is wanted, in the order provided.
func wanted(want, provided []rid.Type) []rid.Type {
	if slices.Contains(want, AllTypes) {
		return unique(provided)
	}
	return slices.DeleteFunc(unique(provided), func(t rid.Type) bool { return !slices.Contains(want, t) })
}

// Reception is what the target of an edge knows when word of that edge comes
// in from outside.
type Reception struct {
	Self rid.RID
	// Received is the edge bundle; nil where the edge is to be forgotten.
	Received *protocol.EdgeProfile
	// FromSource: it is the source's word: its own, or relayed by a node whose
	// word about edges counts.
	FromSource bool
	// Current is the edge held for the pair; nil where there is none.
	Current *protocol.EdgeProfile
}

// Receive decides what the target of an edge does about word of that edge. Only
// the source's answer to what this node proposed is taken: an approval nobody
// asked for would let any node become one whose word counts here.
//
//   - an edge of another target, one that contradicts itself, or a proposal (our
//     own come from nobody else): Drop;
//   - not the source's word: Drop;
//   - forgotten: Refused where the edge was proposed, Withdrawn where it was
//     approved;
//   - approved with the terms held: Accept, or Keep where it is approved here too;
//   - approved with no edge held: Drop;
//   - approved with other terms, as when it crossed a newer proposal of ours:
//     Repropose what is held.
func Receive(in Reception) Outcome {
	if in.Received == nil {
		switch {
		case in.Current == nil:
			return Outcome{Action: Keep}
		case in.Current.Target != in.Self:
			return Outcome{Action: Drop, Reason: ReasonNotOurs}
		case !in.FromSource:
			return Outcome{Action: Drop, Reason: ReasonNotFromSource}
		case in.Current.Status == protocol.Approved:
			return Outcome{Action: Withdrawn, Reason: ReasonForgotten}
		}
		return Outcome{Action: Refused, Reason: ReasonForgotten}
	}
	p := *in.Received
	switch {
	case p.Target != in.Self:
		return Outcome{Action: Drop, Reason: ReasonNotOurs}
	case p.Validate() != nil:
		return Outcome{Action: Drop, Reason: ReasonInvalid}
	case p.Status == protocol.Proposed:
		return Outcome{Action: Drop, Reason: ReasonEcho}
	case !in.FromSource:
		return Outcome{Action: Drop, Reason: ReasonNotFromSource}
	case in.Current == nil:
		return Outcome{Action: Drop, Reason: ReasonUnasked}
	case !SameTerms(p, *in.Current):
		again := *in.Current
		again.Status = protocol.Proposed
		return Outcome{Action: Repropose, Reason: ReasonOtherTerms, Profile: again}
	case in.Current.Status == protocol.Approved:
		return Outcome{Action: Keep, Reason: ReasonSameTerms, Profile: *in.Current}
	}
	return Outcome{Action: Accept, Reason: ReasonSameTerms, Profile: p}
}
