package edge

import (
	"slices"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// Policy is what a source does with a proposal that no standing decision covers.
type Policy string

// Values of Policy.
const (
	Automatic Policy = "Automatic" // approve whatever the node provides
	Manual    Policy = "Manual"    // leave it proposed until a person decides
)

// AllTypes stands, as a wish, for every RID type the source gives events of.
const AllTypes rid.Type = "*"

// Decision is a person's standing decision about an ordered pair of nodes.
type Decision struct {
	// Approved: proposals within EdgeType and RIDTypes are approved, others wait
	// for another decision. Not approved: every proposal is refused.
	Approved bool
	EdgeType protocol.EdgeKind
	RIDTypes []rid.Type
}

// Covers reports whether an approval reaches as far as the terms of p.
func (d Decision) Covers(p protocol.EdgeProfile) bool {
	return d.Approved && d.EdgeType == p.EdgeType && TypesSubset(p.RIDTypes, d.RIDTypes)
}

// Action is what a node does about an edge.
type Action string

// Values of Action.
const (
	// Drop: do nothing and count the reason.
	Drop Action = "Drop"
	// Keep: all is as it should be; there is nothing to do or to count.
	Keep Action = "Keep"
	// Refuse: answer FORGET of the edge to the other end and hold it no longer.
	Refuse Action = "Refuse"
	// Approve: hold Profile, which is approved, and broadcast it.
	Approve Action = "Approve"
	// Reaffirm: send Profile, the approved edge held already, to the target
	// again, under a manifest newer than the proposal's.
	Reaffirm Action = "Reaffirm"
	// Wait: hold Profile, which is proposed; a person decides.
	Wait Action = "Wait"
	// Accept: hold Profile, the source's answer to our proposal.
	Accept Action = "Accept"
	// Repropose: send Profile, which is proposed, to the source.
	Repropose Action = "Repropose"
	// Refused: the source refused our proposal; hold it no longer and ask again
	// only after a long while.
	Refused Action = "Refused"
	// Withdrawn: the source gave up an approved edge; hold it no longer.
	Withdrawn Action = "Withdrawn"
)

// Reasons of an Outcome or of Subscribe, in a form fit for a metric's label and
// a condition.
const (
	ReasonNotOurs           = "NotOurs"           // another node's edge to decide about
	ReasonInvalid           = "Invalid"           // the profile contradicts itself
	ReasonSelfApproval      = "SelfApproval"      // the target says approved where only the source may
	ReasonEcho              = "Echo"              // our own words came back
	ReasonUnknownTarget     = "UnknownTarget"     // no profile of the target is held yet
	ReasonWebhookToPartial  = "WebhookToPartial"  // a partial node cannot be called
	ReasonNotProvided       = "NotProvided"       // RID types beyond what the source provides
	ReasonNoTypes           = "NoTypes"           // no RID types at all
	ReasonRefusedByDecision = "RefusedByDecision" // a standing refusal
	ReasonNotCovered        = "NotCovered"        // beyond the standing approval
	ReasonByDecision        = "ByDecision"        // within the standing approval
	ReasonByPolicy          = "ByPolicy"          // the node's policy is Automatic
	ReasonAwaitingApproval  = "AwaitingApproval"  // the node's policy is Manual
	ReasonSameTerms         = "SameTerms"         // an edge with these terms is there
	ReasonOtherTerms        = "OtherTerms"        // the answer is not to what was proposed
	ReasonUnasked           = "Unasked"           // an answer to no proposal of ours
	ReasonNotFromSource     = "NotFromSource"     // an approval that is not the source's word
	ReasonForgotten         = "Forgotten"         // the source forgot the edge
	ReasonNothingOfInterest = "NothingOfInterest" // the source gives no events of the wanted types
	ReasonPinned            = "Pinned"            // a person asked for the edge's terms
	ReasonWanted            = "Wanted"            // the source has what this node wants
)

// Outcome is what to do, why, and with which profile.
type Outcome struct {
	Action  Action
	Reason  string               // one of the Reason constants
	Profile protocol.EdgeProfile // zero for Drop, Refuse, Refused and Withdrawn
}

// SameTerms reports whether two profiles name the same edge type and the same
// set of RID types. Ends and status are not terms.
func SameTerms(a, b protocol.EdgeProfile) bool {
	return a.EdgeType == b.EdgeType && SameTypes(a.RIDTypes, b.RIDTypes)
}

// Offered returns the RID types others may subscribe to at a node, beside nodes
// and edges: those it gives out events or state of.
func Offered(p protocol.Provides) []rid.Type {
	return unique(append(slices.Clone(p.Event), p.State...))
}

// SameTypes reports whether a and b are equal as sets.
func SameTypes(a, b []rid.Type) bool { return TypesSubset(a, b) && TypesSubset(b, a) }

// TypesSubset reports whether every type of a is in b.
func TypesSubset(a, b []rid.Type) bool {
	if len(a)*len(b) <= 256 {
		for _, t := range a {
			if !slices.Contains(b, t) {
				return false
			}
		}
		return true
	}
	in := make(map[rid.Type]struct{}, len(b))
	for _, t := range b {
		in[t] = struct{}{}
	}
	for _, t := range a {
		if _, ok := in[t]; !ok {
			return false
		}
	}
	return true
}

// unique returns types without repetitions, in the order of first mention.
func unique(types []rid.Type) []rid.Type {
	seen := make(map[rid.Type]struct{}, len(types))
	out := make([]rid.Type, 0, len(types))
	for _, t := range types {
		if _, ok := seen[t]; !ok {
			seen[t] = struct{}{}
			out = append(out, t)
		}
	}
	return out
}
