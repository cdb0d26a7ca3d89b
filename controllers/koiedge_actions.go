package controllers

import (
	"context"
	"errors"
	"fmt"

	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/koi-net/koi-operator/api/v1alpha1"
	"github.com/koi-net/koi-operator/controllers/internal/conditions"
	"github.com/koi-net/koi-operator/controllers/internal/mirror"
	"github.com/koi-net/koi-operator/controllers/internal/refs"
	adminclient "github.com/koi-net/koi-operator/node/admin/client"
)

// act carries a plan out. Decisions go before proposals, so that a proposal
// meets the decision that awaits it. The same request is repeated with growing
// pauses only, because a node's answer takes its way through the network.
func (r *edgeReconciler) act(ctx context.Context, v *pairVisit, p mirror.Plan) (*conditions.State, error) {
	key := client.ObjectKeyFromObject(v.edge)
	if p.State.Kind == conditions.Ready {
		r.pace.forget(key)
	}
	v.next.Decision = p.Held
	request := ""
	switch {
	case p.Decide != nil:
		request = fmt.Sprintf("decide %s %v %v", p.Decide.Verdict, p.Decide.EdgeType, p.Decide.RIDTypes)
	case p.Undecide:
		request = "undecide"
	case p.Propose:
		request = "propose"
	default:
		return p.State, nil
	}
	request += fmt.Sprintf(" for generation %d", v.edge.Generation)
	if wait, refused := r.pace.wait(key, request, v.now); wait > 0 {
		v.soon(wait)
		if refused != nil {
			return refused, nil
		}
		return p.State, nil
	}
	if p.Decide != nil {
		if err := r.intend(ctx, v); err != nil {
			return nil, err
		}
	}
	v.soon(r.pace.step(key, request, v.now, r.options.Interval))
	state := r.decide(ctx, v, p)
	if state == nil && p.Propose {
		state = r.propose(ctx, v)
	}
	r.pace.refused(key, state)
	if state != nil {
		return state, nil
	}
	return p.State, nil
}

// intend writes down that the object has a decision in the source before it is
// made there, so that it is taken back one day even if the operator ends, or the
// source's answer is lost, in between.
func (r *edgeReconciler) intend(ctx context.Context, v *pairVisit) error {
	v.next.Decision = v.edge.Spec.Approval
	if v.edge.Status.Decision == v.next.Decision {
		return nil
	}
	base := v.edge.DeepCopy()
	v.edge.Status.Decision = v.next.Decision
	patch := client.MergeFromWithOptions(base, client.MergeFromWithOptimisticLock{})
	if err := r.client.Status().Patch(ctx, v.edge, patch); err != nil {
		return fmt.Errorf("write the decision of KoiEdge %s: %w", v.edge.Name, err)
	}
	return nil
}

// decide tells the source, or takes back, the object's decision.
func (r *edgeReconciler) decide(ctx context.Context, v *pairVisit, p mirror.Plan) *conditions.State {
	if p.Decide == nil && !p.Undecide {
		return nil
	}
	admin := r.observer.Admin(v.source.Key())
	if admin == nil {
		return unreachable("source", v.source, nil)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	defer r.observer.Refresh(v.source.Key())
	if p.Undecide {
		if err := admin.DeletePolicy(ctx, v.source.RID, v.target.RID); err != nil && !errors.Is(err, adminclient.ErrNotFound) {
			return refusal(v1alpha1.ReasonDecisionRefused, "source", v.source, err)
		}
		v.next.Decision = v1alpha1.Undecided
		return nil
	}
	if _, err := admin.SetPolicy(ctx, *p.Decide); err != nil {
		return refusal(v1alpha1.ReasonDecisionRefused, "source", v.source, err)
	}
	ctrl.LoggerFrom(ctx).Info("decision made in the source", "source", v.source.Name(), "target", v.target.Name(), "verdict", p.Decide.Verdict)
	return nil
}

// propose has the target propose the wanted terms.
func (r *edgeReconciler) propose(ctx context.Context, v *pairVisit) *conditions.State {
	admin := r.observer.Admin(v.target.Key())
	if admin == nil {
		return unreachable("target", v.target, nil)
	}
	want := v.facts.Want
	proposal := adminclient.Proposal{Source: v.source.RID, EdgeType: want.EdgeType, RIDTypes: want.RIDTypes}
	if n := v.source.Node; n != nil {
		proposal.SourceURL, proposal.SourcePublicKey = n.EffectiveBaseURL(), n.Status.PublicKey
	}
	if proposal.SourceURL == "" {
		proposal.SourcePublicKey = "" // it goes with the URL alone
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	defer r.observer.Refresh(v.target.Key())
	if _, err := admin.Propose(ctx, proposal); err != nil {
		return refusal(v1alpha1.ReasonProposalRefused, "target", v.target, err)
	}
	ctrl.LoggerFrom(ctx).Info("edge proposed", "source", v.source.Name(), "target", v.target.Name())
	return nil
}

// refusal turns a node's answer into a state: what it will never take needs a
// person, all else is tried again.
func refusal(reason, role string, e refs.End, err error) *conditions.State {
	var answer *adminclient.Error
	if !errors.As(err, &answer) {
		return unreachable(role, e, err)
	}
	if errors.Is(err, adminclient.ErrBadRequest) {
		return conditions.Stall(reason, "the %s %s refused: %v", role, e.Name(), err)
	}
	return conditions.Wait(reason, "the %s %s refused: %v", role, e.Name(), err)
}

func unreachable(role string, e refs.End, err error) *conditions.State {
	if err == nil {
		return conditions.Wait(v1alpha1.ReasonNodeUnreachable, "the %s %s is not running", role, e.Name())
	}
	return conditions.Wait(v1alpha1.ReasonNodeUnreachable, "the %s %s does not answer: %v", role, e.Name(), err)
}
