package mirror

import (
	"fmt"

	"github.com/koi-net/koi-operator/api/v1alpha1"
	"github.com/koi-net/koi-operator/controllers/internal/conditions"
	"github.com/koi-net/koi-operator/node/admin/client"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// End is one end of an edge and what it says.
type End struct {
	Name string
	RID  rid.RID
	// Steered: the object may act on this node.
	Steered bool
	// Managed: the operator runs this node, here or in another namespace.
	Managed bool
	// Suspended: it is managed and has no pod.
	Suspended bool
	// Asked: it had the time to answer since the operator began.
	Asked bool
	// Fresh: it answered within the last interval. Edge and Decision are its answer.
	Fresh bool
	// Edge is the pair's edge as this node has it, nil for none.
	Edge *client.Edge
	// Decision is the standing decision held here (source only), nil for none.
	Decision *client.Policy
}

// Facts are what a Plan is made of.
type Facts struct {
	Source, Target End
	Want           Terms
	Discovered     bool // the object follows the network and proposes nothing
	Approval       v1alpha1.Approval
	// Held is the decision the object made before.
	Held v1alpha1.Approval
	// Requested: a person asks for a look, and so for another proposal where one was
	// refused.
	Requested bool
	// Automatic: the source approves by itself what it provides.
	Automatic bool
	// Before is the state this generation was in, nil if none.
	Before *conditions.State
}

// Plan is what to ask of the ends, and how the edge fares meanwhile.
type Plan struct {
	// Propose has the target propose the wanted terms.
	Propose bool
	// Decide is the decision to make in the source, nil for none.
	Decide *client.Policy
	// Undecide takes the object's earlier decision back.
	Undecide bool
	// Held is the object's decision that stands in the source before Decide and
	// Undecide are carried out.
	Held v1alpha1.Approval

	// Edge is the edge as it stands in the source, or, where that is not ours to
	// ask, in the target; nil for none.
	Edge   *client.Edge
	Status v1alpha1.EdgeStatus
	State  *conditions.State
	// Silent: an end cannot be asked, so Edge and Status say nothing new.
	Silent bool
}

// Make makes the plan for one edge.
func Make(f Facts) Plan {
	p := Plan{Edge: f.observed(), Held: f.Held}
	p.Status = f.status(p.Edge)
	if s := f.obstacle(); s != nil {
		p.State, p.Silent = s, true
		return p
	}
	f.decide(&p)
	p.Propose = f.proposes()
	p.State = f.state(p)
	return p
}

// observed is the source's edge where the source is managed, else the target's.
func (f Facts) observed() *client.Edge {
	if f.Source.Managed {
		return f.Source.Edge
	}
	return f.Target.Edge
}

func (f Facts) status(e *client.Edge) v1alpha1.EdgeStatus {
	switch {
	case e != nil && e.Status == protocol.Approved:
		return v1alpha1.EdgeApproved
	case f.refused() || f.rejected():
		return v1alpha1.EdgeRejected
	case e != nil:
		return v1alpha1.EdgeProposed
	}
	return ""
}

// refused: the target's own proposal was answered by FORGET.
func (f Facts) refused() bool {
	return f.Target.Edge != nil && f.Target.Edge.Refused && f.Target.Edge.Status != protocol.Approved
}

// rejected: the source holds a standing refusal.
func (f Facts) rejected() bool {
	return f.Source.Decision != nil && f.Source.Decision.Verdict == client.Reject
}

// obstacle is why nothing can be said or done now.
func (f Facts) obstacle() *conditions.State {
	ends := []struct {
		role string
		End
	}{{"source", f.Source}, {"target", f.Target}}
	if !f.Source.Steered && !f.Target.Steered {
		return conditions.Stall(v1alpha1.ReasonNoManagedEnd,
			"neither end is a node that runs in this namespace, so nobody can be asked: an edge is declared where one of its ends runs")
	}
	for _, e := range ends {
		if e.Suspended {
			return conditions.Suspend("the %s %s is suspended", e.role, e.Name)
		}
	}
	for _, e := range ends {
		if e.Managed && !e.Fresh {
			if !e.Asked && f.Before != nil && f.Before.Kind != conditions.Suspended {
				return f.Before // an operator that has just begun takes nothing back
			}
			return conditions.Wait(v1alpha1.ReasonNodeUnreachable, "the %s %s does not answer", e.role, e.Name)
		}
	}
	return nil
}

// decide fills in what to tell the source.
func (f Facts) decide(p *Plan) {
	if !f.Source.Steered {
		return
	}
	switch f.Approval {
	case v1alpha1.Approved:
		want := f.approval()
		switch {
		case want == nil:
		case f.sameApproval(want):
			p.Held = v1alpha1.Approved
		default:
			p.Decide = want
		}
	case v1alpha1.Rejected:
		if f.rejected() {
			p.Held = v1alpha1.Rejected
		} else {
			p.Decide = &client.Policy{Source: f.Source.RID, Target: f.Target.RID, Verdict: client.Reject}
		}
	default:
		p.Undecide = f.holds()
		if !p.Undecide {
			p.Held = v1alpha1.Undecided
		}
	}
}

// holds tells whether the object's earlier decision still stands in the
// source. One that somebody else made since stays theirs. Approvals given
// beforehand are not listed by the node, so without an edge the decision counts
// as standing.
func (f Facts) holds() bool {
	if f.Held == v1alpha1.Undecided {
		return false
	}
	if f.Source.Decision == nil {
		return f.Held == v1alpha1.Approved && f.Source.Edge == nil
	}
	return f.Source.Decision.Verdict == string(f.Held)
}

// approval is the decision spec.approval asks for: the object's terms and
// nothing wider. Where the edge type is left open and the target's type is not
// known, the proposal has to be there first.
func (f Facts) approval() *client.Policy {
	t := f.Want
	if t.EdgeType == "" {
		e := f.observed()
		if e == nil {
			return nil
		}
		t.EdgeType = e.EdgeType
	}
	return &client.Policy{
		Source: f.Source.RID, Target: f.Target.RID,
		Verdict: client.Approve, EdgeType: t.EdgeType, RIDTypes: t.RIDTypes,
	}
}

func (f Facts) sameApproval(want *client.Policy) bool {
	d := f.Source.Decision
	if d == nil || d.Verdict != client.Approve {
		return false
	}
	held := Terms{EdgeType: d.EdgeType, RIDTypes: append([]rid.Type(nil), d.RIDTypes...)}.sorted()
	return held.EdgeType == want.EdgeType && held.Equal(Terms{EdgeType: want.EdgeType, RIDTypes: want.RIDTypes})
}

// proposes tells whether the target has to propose (again): it has no such
// edge, has it on other terms, or the source has lost it.
func (f Facts) proposes() bool {
	if f.Discovered || !f.Target.Steered || f.Approval == v1alpha1.Rejected || (f.rejected() && f.Approval == v1alpha1.Undecided) {
		return false
	}
	mine := f.Target.Edge
	if mine == nil || !f.Want.Equal(TermsOf(mine)) {
		return true
	}
	if mine.Refused {
		// The node asks again at most hourly; a person's approval or request asks at once.
		return f.Requested || f.Source.Steered && f.Approval == v1alpha1.Approved
	}
	return f.Source.Managed && f.Source.Edge == nil
}

func (f Facts) state(p Plan) *conditions.State {
	if f.Approval == v1alpha1.Rejected {
		return f.rejection()
	}
	switch {
	case p.Status == v1alpha1.EdgeRejected && !p.Propose && p.Decide == nil && !p.Undecide:
		return conditions.Stall(v1alpha1.ReasonRefusedBySource,
			"the source %s refused the edge: it may not provide these RID types, or a decision there stands against it", f.Source.Name)
	case p.Edge == nil || p.Propose && f.Target.Edge == nil:
		return f.absent()
	case p.Edge.Status == protocol.Approved:
		return f.approved(p)
	}
	return f.proposed(p)
}

func (f Facts) rejection() *conditions.State {
	if !f.Source.Steered {
		return conditions.Stall(v1alpha1.ReasonNotSource,
			"only the source can refuse an edge, and %s is not a node of this namespace", f.Source.Name)
	}
	gone := func(e *client.Edge) bool { return e == nil || e.Refused || e.Status != protocol.Approved }
	if !f.rejected() || !gone(f.Source.Edge) || f.Target.Managed && !gone(f.Target.Edge) {
		return conditions.Wait(v1alpha1.ReasonRejected, "the refusal is on its way to the target %s", f.Target.Name)
	}
	return conditions.Rest(v1alpha1.ReasonRejected, "the edge is refused, as approval says")
}

func (f Facts) absent() *conditions.State {
	if f.Target.Steered && !f.Discovered {
		return conditions.Wait(v1alpha1.ReasonProposed, "the target %s is proposing the edge to %s", f.Target.Name, f.Source.Name)
	}
	return conditions.Wait(v1alpha1.ReasonAwaitingProposal,
		"the target %s does not run in this namespace, so the edge waits until that node proposes it", f.Target.Name)
}

func (f Facts) proposed(p Plan) *conditions.State {
	asked := TermsOf(p.Edge)
	switch {
	case !f.Source.Managed:
		return conditions.Wait(v1alpha1.ReasonProposed, "proposed to %s, which did not answer yet", f.Source.Name)
	case f.Approval == v1alpha1.Approved && !f.Want.Covers(asked):
		return conditions.Wait(v1alpha1.ReasonAwaitingApproval, "%s asks for %s, which is more than this object approves", f.Target.Name, text(asked))
	case f.Approval == v1alpha1.Undecided && !f.Automatic:
		return conditions.Wait(v1alpha1.ReasonAwaitingApproval, "%s asks for %s: set spec.approval to Approved or Rejected", f.Target.Name, text(asked))
	}
	return conditions.Wait(v1alpha1.ReasonProposed, "%s asks for %s; the source %s is deciding", f.Target.Name, text(asked), f.Source.Name)
}

func (f Facts) approved(p Plan) *conditions.State {
	if have := TermsOf(p.Edge); !f.Want.Equal(have) {
		return conditions.Wait(v1alpha1.ReasonEndsDisagree, "the approved edge carries %s, and this object says %s", text(have), text(f.Want))
	}
	if f.Source.Managed && f.Target.Managed {
		t := f.Target.Edge
		if t == nil || t.Status != protocol.Approved || !f.Want.Equal(TermsOf(t)) {
			return conditions.Wait(v1alpha1.ReasonEndsDisagree, "the source %s approved; the target %s does not say so yet", f.Source.Name, f.Target.Name)
		}
	}
	if p.Decide != nil || p.Undecide {
		return conditions.Wait(v1alpha1.ReasonProposed, "the decision is on its way to the source %s", f.Source.Name)
	}
	return conditions.Rest(v1alpha1.ReasonApproved, "%s provides %s to %s", f.Source.Name, text(f.Want), f.Target.Name)
}

func text(t Terms) string {
	const most = 8
	types, more := t.RIDTypes, ""
	if len(types) > most {
		more = fmt.Sprintf(" and %d more", len(types)-most)
		types = types[:most]
	}
	kind := APIType(t.EdgeType)
	if kind == "" {
		return fmt.Sprintf("%v%s", types, more)
	}
	return fmt.Sprintf("%v%s by %s", types, more, kind)
}
