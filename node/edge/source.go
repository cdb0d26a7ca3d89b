package edge

import (
	"slices"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// Negotiation is what the source of an edge knows when it decides.
type Negotiation struct {
	Self rid.RID
	// Provides are the RID types Self gives out events or state of. Nodes and
	// edges may be subscribed to besides, as in every reference version.
	Provides []rid.Type
	Policy   Policy
	// Decision is the standing decision for the pair; nil where there is none.
	Decision *Decision
	// Known: a profile of the target is held (and for a keyed target verified);
	// TargetKind is what it says.
	Known      bool
	TargetKind protocol.NodeKind
	// Current is the edge held for the pair; nil where there is none.
	Current *protocol.EdgeProfile
	// Received is the edge bundle that came in from outside.
	Received protocol.EdgeProfile
}

// Negotiate decides what the source of an edge does about an edge bundle from
// outside. In order:
//
//   - an edge of another source, or one that contradicts itself: Drop;
//   - not PROPOSED: Drop. Only the source approves; in the reference a target
//     can approve itself by sending the approved edge;
//   - a target nobody introduced: Drop. It is repeated after the introduction;
//   - a standing refusal, a WEBHOOK to a partial node, no RID types, or types
//     that are not provided: Refuse;
//   - the terms of the approved edge that is held: Reaffirm. The target may have
//     missed our approval; nothing steps back to a proposal;
//   - within a standing approval: Approve. Beyond it: Wait, whatever the policy,
//     for a person drew that line;
//   - else the policy: Automatic approves, Manual waits.
//
// Other terms for an approved edge are a new proposal. Where it waits it takes
// the approved edge's place, as it did at the target, which asked for it.
func Negotiate(in Negotiation) Outcome {
	p := in.Received
	switch {
	case p.Source != in.Self:
		return Outcome{Action: Drop, Reason: ReasonNotOurs}
	case p.Status != protocol.Proposed:
		if in.Current != nil && p.Status == in.Current.Status && SameTerms(p, *in.Current) {
			return Outcome{Action: Drop, Reason: ReasonEcho}
		}
		return Outcome{Action: Drop, Reason: ReasonSelfApproval}
	case len(p.RIDTypes) > 0 && p.Validate() != nil:
		return Outcome{Action: Drop, Reason: ReasonInvalid}
	case !in.Known:
		return Outcome{Action: Drop, Reason: ReasonUnknownTarget}
	}
	if reason, refuse := in.refusal(p); refuse {
		return Outcome{Action: Refuse, Reason: reason}
	}
	if in.Current != nil && in.Current.Status == protocol.Approved && SameTerms(p, *in.Current) {
		return Outcome{Action: Reaffirm, Reason: ReasonSameTerms, Profile: *in.Current}
	}
	p.RIDTypes = unique(p.RIDTypes)
	switch {
	case in.Decision != nil && in.Decision.Covers(p):
		p.Status = protocol.Approved
		return Outcome{Action: Approve, Reason: ReasonByDecision, Profile: p}
	case in.Decision != nil:
		return Outcome{Action: Wait, Reason: ReasonNotCovered, Profile: p}
	case in.Policy == Automatic:
		p.Status = protocol.Approved
		return Outcome{Action: Approve, Reason: ReasonByPolicy, Profile: p}
	}
	return Outcome{Action: Wait, Reason: ReasonAwaitingApproval, Profile: p}
}

// refusal returns why the terms of p cannot be had from this source at all.
func (in Negotiation) refusal(p protocol.EdgeProfile) (string, bool) {
	switch {
	case in.Decision != nil && !in.Decision.Approved:
		return ReasonRefusedByDecision, true
	case len(p.RIDTypes) == 0:
		return ReasonNoTypes, true
	case p.EdgeType == protocol.Webhook && in.TargetKind == protocol.Partial:
		return ReasonWebhookToPartial, true
	case !TypesSubset(p.RIDTypes, append(slices.Clone(in.Provides), rid.NodeType, rid.EdgeType)):
		return ReasonNotProvided, true
	}
	return "", false
}

// Reconsider decides what the source does about the edge it holds, Current,
// after a decision, the policy, what it provides or the target's profile
// changed. Received is not looked at. The outcome is
//
//   - Refuse where the terms cannot be had any longer: a standing refusal came,
//     a type is provided no more, the target became partial, or an approved edge
//     is wider than the standing approval. To narrow an edge without a gap let
//     the target propose first, then narrow the approval;
//   - Approve where a waiting proposal is covered by a decision, or by the
//     policy and no decision speaks against it;
//   - Keep in every other case.
func Reconsider(in Negotiation) Outcome {
	if in.Current == nil || in.Current.Source != in.Self || !in.Known {
		return Outcome{Action: Keep}
	}
	p := *in.Current
	if reason, refuse := in.refusal(p); refuse {
		return Outcome{Action: Refuse, Reason: reason}
	}
	if p.Status == protocol.Approved {
		if in.Decision != nil && !in.Decision.Covers(p) {
			return Outcome{Action: Refuse, Reason: ReasonNotCovered}
		}
		return Outcome{Action: Keep, Reason: ReasonSameTerms, Profile: p}
	}
	in.Received, in.Current = p, nil
	out := Negotiate(in)
	if out.Action != Approve {
		return Outcome{Action: Keep, Reason: out.Reason, Profile: p}
	}
	return out
}
