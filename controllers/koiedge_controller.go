package controllers

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/koi-net/koi-operator/api/v1alpha1"
	"github.com/koi-net/koi-operator/controllers/internal/conditions"
	"github.com/koi-net/koi-operator/controllers/internal/finalize"
	"github.com/koi-net/koi-operator/controllers/internal/metrics"
	"github.com/koi-net/koi-operator/controllers/internal/mirror"
	"github.com/koi-net/koi-operator/controllers/internal/observe"
	"github.com/koi-net/koi-operator/controllers/internal/refs"
	adminclient "github.com/koi-net/koi-operator/node/admin/client"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// +kubebuilder:rbac:groups=koi-net.io,resources=koiedges,verbs=list;watch;create;patch;delete
// +kubebuilder:rbac:groups=koi-net.io,resources=koiedges/status,verbs=patch

// edgeReconciler mirrors KoiEdges.
type edgeReconciler struct {
	client   client.Client
	events   events.EventRecorder
	observer *observe.Observer
	refs     *refs.Resolver
	pace     *pace
	metrics  *metrics.Metrics
	options  Options
	// begun is when the first edge was looked at: for an interval after it, a node
	// that is not followed yet is one that was not asked yet.
	begun func() time.Time
}

// pairVisit is one look at one KoiEdge.
type pairVisit struct {
	edge           *v1alpha1.KoiEdge
	next           *v1alpha1.KoiEdgeStatus
	source, target refs.End
	facts          mirror.Facts
	now            time.Time
	changed        time.Time     // when the newest word of the ends was noticed
	again          time.Duration // earliest next look, 0 for the interval
	requested      bool          // a person asks for this look
	trouble        bool          // an end does not answer, or not yet
}

// calmLooks is how many intervals an approved edge is left alone while nothing about
// it changes: its ends are asked in every interval, and wake it by what they say, or
// by their silence.
const calmLooks = 5

// Reconcile looks at one KoiEdge.
func (r *edgeReconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	var edge v1alpha1.KoiEdge
	if err := r.client.Get(ctx, req.NamespacedName, &edge); err != nil {
		if apierrors.IsNotFound(err) {
			r.pace.forget(req.NamespacedName)
			r.metrics.ForgetEdge(req.NamespacedName)
			return ctrl.Result{}, nil
		}
		return ctrl.Result{}, err
	}
	v := &pairVisit{edge: &edge, next: edge.Status.DeepCopy(), now: r.options.Clock()}
	if edge.DeletionTimestamp != nil {
		again, err := r.finalize(ctx, v)
		if err != nil {
			return retry(err)
		}
		return ctrl.Result{RequeueAfter: again}, nil
	}
	r.metrics.EdgeLooked(&edge, v.now)
	v.next.ObservedGeneration = edge.Generation
	if asked := v1alpha1.ReconcileRequest(edge.Annotations); asked != "" && asked != edge.Status.LastHandledReconcileAt {
		v.next.LastHandledReconcileAt, v.requested = asked, true
		r.pace.forget(req.NamespacedName)
	}
	state, err := r.look(ctx, v)
	if err != nil {
		var s *conditions.State
		if !errors.As(err, &s) {
			return retry(err)
		}
		state = s
	}
	if err := r.report(ctx, v, state); err != nil {
		return retry(err)
	}
	next := r.options.jittered()
	if state.Kind == conditions.Ready && !v.trouble {
		next *= calmLooks
	}
	if v.again > 0 {
		next = min(next, v.again)
	}
	return ctrl.Result{RequeueAfter: next}, nil
}

// look resolves the ends, makes the plan and carries it out. What stops it is
// a *conditions.State or an error to be tried again.
func (r *edgeReconciler) look(ctx context.Context, v *pairVisit) (*conditions.State, error) {
	hold := controllerutil.AddFinalizer
	if v.edge.IsKept() {
		hold = controllerutil.RemoveFinalizer
	}
	if err := setFinalizer(ctx, r.client, v.edge, v1alpha1.FinalizerEdge, hold); err != nil {
		return nil, err
	}
	if err := r.resolve(ctx, v); err != nil {
		return nil, err
	}
	if err := r.contest(ctx, v); err != nil {
		return nil, err
	}
	if v.requested {
		r.observer.Refresh(v.source.Key())
		r.observer.Refresh(v.target.Key())
	}
	v.facts = r.facts(v)
	plan := mirror.Make(v.facts)
	r.show(v, plan)
	return r.act(ctx, v, plan)
}

func (r *edgeReconciler) resolve(ctx context.Context, v *pairVisit) error {
	for _, t := range v.edge.Spec.RIDTypes {
		if _, err := rid.ParseType(string(t)); err != nil {
			return conditions.Stall(v1alpha1.ReasonInvalidSpec, "spec.ridTypes: %v", err)
		}
	}
	var err error
	if v.source, err = r.refs.End(ctx, v.edge.Namespace, v.edge.Spec.Source); err != nil {
		return fmt.Errorf("source: %w", err)
	}
	if v.target, err = r.refs.End(ctx, v.edge.Namespace, v.edge.Spec.Target); err != nil {
		return fmt.Errorf("target: %w", err)
	}
	if v.source.RID == v.target.RID {
		return conditions.Stall(v1alpha1.ReasonInvalidSpec, "source and target are the same node, %s", v.source.RID)
	}
	v.next.Source, v.next.SourceRID = v.source.Name(), string(v.source.RID)
	v.next.Target, v.next.TargetRID = v.target.Name(), string(v.target.RID)
	return nil
}

// contest sees whether another object holds the pair.
func (r *edgeReconciler) contest(ctx context.Context, v *pairVisit) error {
	rivals, err := r.refs.Pair(ctx, v.source.RID, v.target.RID)
	if err != nil {
		return err
	}
	winner := refs.Winner(append(rivals, *v.edge), v.source.Node, v.target.Node)
	switch {
	case winner == nil || winner.UID == v.edge.UID:
		return nil
	case v.edge.IsDiscovered():
		return conditions.Wait(v1alpha1.ReasonCleaningUp, "the KoiEdge %s/%s takes this one's place", winner.Namespace, winner.Name)
	}
	return conditions.Stall(v1alpha1.ReasonConflict,
		"the older KoiEdge %s/%s is for the same source and target: delete one of the two", winner.Namespace, winner.Name)
}

func (r *edgeReconciler) facts(v *pairVisit) mirror.Facts {
	spec := v.edge.Spec
	pair := observe.Pair{Source: v.source.RID, Target: v.target.RID}
	f := mirror.Facts{
		Source:     r.end(v, v.source, pair),
		Target:     r.end(v, v.target, pair),
		Want:       mirror.NewTerms(spec.EdgeType, spec.RIDTypes),
		Discovered: v.edge.IsDiscovered(),
		Approval:   spec.Approval,
		Held:       v.edge.Status.Decision,
		Requested:  v.requested,
		Automatic:  v.source.Node != nil && v.source.Node.ApprovesEdges(),
	}
	if v.edge.Status.ObservedGeneration == v.edge.Generation {
		f.Before = conditions.Of(v.edge.Status.Conditions)
	}
	if f.Want.EdgeType == "" {
		f.Want.EdgeType = r.usualType(v)
	}
	return f
}

func (r *edgeReconciler) end(v *pairVisit, e refs.End, pair observe.Pair) mirror.End {
	out := mirror.End{Name: e.Name(), RID: e.RID, Steered: e.Steered(), Managed: e.Managed(), Suspended: e.Suspended()}
	if !e.Managed() {
		return out
	}
	s := r.observer.Snapshot(e.Key())
	out.Fresh = s.Fresh(v.now, r.options.Interval) && s.Status.RID == e.RID
	out.Asked = s != nil || v.now.Sub(r.begun()) > r.options.Interval
	out.Edge, out.Decision = s.Edge(pair), s.Decision(pair)
	if s != nil && s.Changed.After(v.changed) {
		v.changed = s.Changed
	}
	if !out.Asked {
		v.soon(time.Second)
	}
	if !out.Fresh || s.Err != nil {
		v.trouble = true
	}
	if out.Fresh && s.Err != nil {
		v.soon(s.At.Add(r.options.Interval).Sub(v.now) + 100*time.Millisecond) // when its word is too old
	}
	return out
}

// usualType is the edge type that goes with the target's node type, "" where
// that is not known.
func (r *edgeReconciler) usualType(v *pairVisit) protocol.EdgeKind {
	if n := v.target.Node; n != nil {
		if n.IsPartial() {
			return protocol.Poll
		}
		return protocol.Webhook
	}
	if s := r.observer.Snapshot(v.source.Key()); s != nil {
		switch s.Peers[v.target.RID].Kind {
		case protocol.Full:
			return protocol.Webhook
		case protocol.Partial:
			return protocol.Poll
		}
	}
	return ""
}

// show puts what the network says into the status. While an end is silent or
// suspended the last word stands.
func (r *edgeReconciler) show(v *pairVisit, p mirror.Plan) {
	if p.Silent {
		return
	}
	v.next.Status = p.Status
	v.next.RID, v.next.EdgeType, v.next.RIDTypes, v.next.Timestamp = "", "", nil, ""
	if e := p.Edge; e != nil {
		v.next.RID, v.next.EdgeType, v.next.Timestamp = string(e.RID), mirror.APIType(e.EdgeType), e.Timestamp.String()
		for _, t := range mirror.TermsOf(e).RIDTypes {
			v.next.RIDTypes = append(v.next.RIDTypes, string(t))
		}
	}
}

// report writes the status if it says something new, and an Event if the edge
// went over into another state.
func (r *edgeReconciler) report(ctx context.Context, v *pairVisit, state *conditions.State) error {
	before := conditions.Of(v.edge.Status.Conditions)
	v.next.Conditions = conditions.Set(v.edge.Status.Conditions, v.edge.Generation, v.now, state)
	if equality.Semantic.DeepEqual(&v.edge.Status, v.next) {
		r.metrics.EdgeReported(v.edge, state, v.changed, false, v.now)
		return nil
	}
	base := v.edge.DeepCopy()
	v.edge.Status = *v.next
	patch := client.MergeFromWithOptions(base, client.MergeFromWithOptimisticLock{})
	if err := r.client.Status().Patch(ctx, v.edge, patch); err != nil {
		return fmt.Errorf("write the status of KoiEdge %s: %w", v.edge.Name, err)
	}
	r.metrics.EdgeReported(v.edge, state, v.changed, true, r.options.Clock())
	announce(ctx, r.events, v.edge, before, state)
	return nil
}

// finalize has the ends forget the edge, for as long as patience lasts, and
// lets the object go.
func (r *edgeReconciler) finalize(ctx context.Context, v *pairVisit) (time.Duration, error) {
	if !controllerutil.ContainsFinalizer(v.edge, v1alpha1.FinalizerEdge) {
		return 0, nil
	}
	facts := finalize.EdgeFacts{
		Kept:  v.edge.IsKept(),
		Loser: lost(v.edge),
		Since: since(v.edge, r.begun(), v.now),
	}
	var err error
	if v.source, err = r.lastKnown(ctx, v.edge, v.edge.Spec.Source, v.edge.Status.SourceRID); err != nil {
		return 0, err
	}
	if v.target, err = r.lastKnown(ctx, v.edge, v.edge.Spec.Target, v.edge.Status.TargetRID); err != nil {
		return 0, err
	}
	pair := observe.Pair{Source: v.source.RID, Target: v.target.RID}
	facts.Source, facts.Target = r.last(v, v.source, pair), r.last(v, v.target, pair)
	plan := finalize.Edge(facts)
	if plan.Done {
		return 0, setFinalizer(ctx, r.client, v.edge, v1alpha1.FinalizerEdge, controllerutil.RemoveFinalizer)
	}
	// Both are asked, whatever the first one answers.
	source := !plan.Source || r.forget(ctx, v, v.source, pair)
	target := !plan.Target || r.forget(ctx, v, v.target, pair)
	switch {
	case !source || !target || plan.Wait:
		return finalize.RetryAfter, nil
	case r.remembered(v.source, pair) || r.remembered(v.target, pair):
		// An end's next word is without the edge. Until then, and without this
		// object, it would be shown as discovered.
		return finalize.ConfirmAfter, nil
	}
	return 0, setFinalizer(ctx, r.client, v.edge, v1alpha1.FinalizerEdge, controllerutil.RemoveFinalizer)
}

// lastKnown resolves an end of an edge that goes. Each end counts for itself:
// where one is not there any more, the other still has an edge with its RID to
// forget.
func (r *edgeReconciler) lastKnown(ctx context.Context, edge *v1alpha1.KoiEdge, end v1alpha1.EdgeEnd, was string) (refs.End, error) {
	e, err := r.refs.End(ctx, edge.Namespace, end)
	var s *conditions.State
	if err != nil && !errors.As(err, &s) {
		return refs.End{}, err
	}
	if was != "" && string(e.RID) != was {
		return refs.End{RID: rid.RID(was)}, nil
	}
	return e, nil
}

func lost(e *v1alpha1.KoiEdge) bool {
	s := conditions.Of(e.Status.Conditions)
	return s != nil && s.Reason == v1alpha1.ReasonConflict
}

func (r *edgeReconciler) last(v *pairVisit, e refs.End, pair observe.Pair) finalize.EndFacts {
	if !e.Steered() {
		return finalize.EndFacts{}
	}
	s := r.observer.Snapshot(e.Key())
	return finalize.EndFacts{
		Steered:   true,
		Going:     e.Node.DeletionTimestamp != nil,
		Suspended: e.Suspended(),
		Reachable: s.Fresh(v.now, r.options.Interval),
		Knows:     s.Edge(pair) != nil || e.RID == pair.Source && v.edge.Status.Decision != v1alpha1.Undecided,
	}
}

// remembered tells whether an end that forgot the edge had it when it was heard last.
func (r *edgeReconciler) remembered(e refs.End, pair observe.Pair) bool {
	return e.Steered() && e.Node.DeletionTimestamp == nil && !e.Suspended() && r.observer.Snapshot(e.Key()).Edge(pair) != nil
}

// forget has one end forget the edge, and the source the object's decision; it
// tells whether nothing is left to do there.
func (r *edgeReconciler) forget(ctx context.Context, v *pairVisit, e refs.End, pair observe.Pair) bool {
	admin := r.observer.Admin(e.Key())
	if admin == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	defer r.observer.Refresh(e.Key())
	if e.RID == pair.Source && v.edge.Status.Decision != v1alpha1.Undecided {
		if err := admin.DeletePolicy(ctx, pair.Source, pair.Target); err != nil && !errors.Is(err, adminclient.ErrNotFound) {
			ctrl.LoggerFrom(ctx).Info("the source keeps the decision for now", "node", e.Name(), "error", err.Error())
			return false
		}
	}
	if err := admin.ForgetEdge(ctx, pair.Source, pair.Target); err != nil && !errors.Is(err, adminclient.ErrNotFound) {
		ctrl.LoggerFrom(ctx).Info("the node keeps the edge for now", "node", e.Name(), "error", err.Error())
		return false
	}
	return true
}

// soon has the edge looked at again within d.
func (v *pairVisit) soon(d time.Duration) {
	if v.again == 0 || d < v.again {
		v.again = d
	}
}
