package controllers

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/koi-net/koi-operator/api/v1alpha1"
	"github.com/koi-net/koi-operator/controllers/internal/apply"
	"github.com/koi-net/koi-operator/controllers/internal/conditions"
	"github.com/koi-net/koi-operator/controllers/internal/finalize"
	"github.com/koi-net/koi-operator/controllers/internal/metrics"
	"github.com/koi-net/koi-operator/controllers/internal/observe"
	"github.com/koi-net/koi-operator/controllers/internal/refs"
	"github.com/koi-net/koi-operator/controllers/internal/resources"
	"github.com/koi-net/koi-operator/node/rid"
)

// +kubebuilder:rbac:groups=koi-net.io,resources=koinodes,verbs=list;watch;patch
// +kubebuilder:rbac:groups=koi-net.io,resources=koinodes/status,verbs=patch
// +kubebuilder:rbac:groups=koi-net.io,resources=koinodes/finalizers,verbs=update
// +kubebuilder:rbac:groups=apps,resources=deployments,verbs=get;list;watch;create;patch
// +kubebuilder:rbac:groups="",resources=configmaps;serviceaccounts;services,verbs=get;list;watch;create;patch
// +kubebuilder:rbac:groups="",resources=persistentvolumeclaims,verbs=get;list;watch;create;patch;delete
// +kubebuilder:rbac:groups="",resources=secrets,verbs=get;list;watch;create;update;delete
// +kubebuilder:rbac:groups="",resources=pods,verbs=list;watch
// +kubebuilder:rbac:groups=networking.k8s.io,resources=networkpolicies,verbs=get;list;watch;create;patch;delete
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch

// nodeReconciler keeps KoiNodes.
type nodeReconciler struct {
	client   client.Client
	live     client.Reader // past the cache
	events   events.EventRecorder
	observer *observe.Observer
	applier  *apply.Applier
	configs  *configs
	refs     *refs.Resolver
	upgrades *turn
	metrics  *metrics.Metrics
	options  Options
	// begun is when the first node was looked at.
	begun func() time.Time
}

// visit is one look at one KoiNode: what its steps found out and decided.
type visit struct {
	node *v1alpha1.KoiNode
	next *v1alpha1.KoiNodeStatus

	admin   map[string][]byte // data of the admin Secret
	contact resources.Contact
	missing string // why a first contact that is named is not there
	config  string
	hash    string
	facts   conditions.NodeFacts
	more    []metav1.Condition // beside Ready and its like
	refused *conditions.State  // what of the spec was not taken, while the node runs on without it
	again   time.Duration      // earliest next look, 0 for the interval
}

// Reconcile looks at one KoiNode.
func (r *nodeReconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	var node v1alpha1.KoiNode
	if err := r.client.Get(ctx, req.NamespacedName, &node); err != nil {
		if apierrors.IsNotFound(err) {
			r.observer.Unfollow(req.NamespacedName)
			r.upgrades.leave(req.NamespacedName)
			r.applier.Forget(req.NamespacedName)
			r.configs.forget(req.NamespacedName)
			r.metrics.ForgetNode(req.NamespacedName)
			return ctrl.Result{}, nil
		}
		return ctrl.Result{}, err
	}
	begun := r.begun()
	if node.DeletionTimestamp != nil {
		again, err := r.finalize(ctx, &node, begun)
		if err != nil {
			return retry(err)
		}
		return ctrl.Result{RequeueAfter: again}, nil
	}
	v := &visit{node: &node, next: node.Status.DeepCopy()}
	v.next.ObservedGeneration = node.Generation
	if asked := v1alpha1.ReconcileRequest(node.Annotations); asked != "" && asked != node.Status.LastHandledReconcileAt {
		v.next.LastHandledReconcileAt = asked
		r.observer.Refresh(req.NamespacedName)
	}
	state, err := r.look(ctx, v)
	if state != nil {
		if err := r.report(ctx, v, state); err != nil {
			if apierrors.IsNotFound(err) {
				err = r.sweep(ctx, &node)
			}
			return retry(err)
		}
	}
	if err != nil {
		return retry(err)
	}
	return ctrl.Result{RequeueAfter: r.nextLook(v)}, nil
}

// look takes the steps in their order until one cannot go on. The state says
// how the node fares; an error is to be tried again.
func (r *nodeReconciler) look(ctx context.Context, v *visit) (*conditions.State, error) {
	steps := []func(context.Context, *visit) error{
		r.validate,
		r.holdFinalizer,
		r.identity,
		r.adminSecret,
		r.firstContact,
		r.image,
		r.configure,
		r.children,
		r.observe,
		r.discover,
	}
	if v.node.IsExternal() {
		steps = []func(context.Context, *visit) error{r.validate, r.external}
	}
	for _, step := range steps {
		if err := step(ctx, v); err != nil {
			return settle(err)
		}
	}
	if v.node.IsExternal() {
		return conditions.Rest(v1alpha1.ReasonExternal, "the node runs elsewhere; nothing is deployed"), nil
	}
	return conditions.Short(conditions.Node(v.facts), v.refused), nil
}

// settle turns what stopped a step into a state, and into an error where it is
// to be tried again.
func settle(err error) (*conditions.State, error) {
	var state *conditions.State
	switch {
	case errors.As(err, &state):
		return state, nil
	case errors.Is(err, apply.ErrConflict):
		return conditions.Stall(v1alpha1.ReasonConflict, "%v; rename one of the two", err), nil
	case errors.Is(err, apply.ErrLeftover):
		return conditions.Wait(v1alpha1.ReasonCleaningUp, "%v", err), nil
	case errors.Is(err, resources.ErrPodTemplate), apierrors.IsInvalid(err):
		return conditions.Stall(v1alpha1.ReasonInvalidSpec, "%v", err), nil
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded), namespaceGoes(err),
		apierrors.IsServerTimeout(err), apierrors.IsTooManyRequests(err), apierrors.IsConflict(err):
		return nil, err // says nothing about the object
	}
	return conditions.Wait(v1alpha1.ReasonApplyFailed, "%v", err), err
}

// report writes the status if it says something new, and an Event if the node
// went over into another state.
func (r *nodeReconciler) report(ctx context.Context, v *visit, state *conditions.State) error {
	before := conditions.Of(v.node.Status.Conditions)
	v.next.Conditions = conditions.Set(v.node.Status.Conditions, v.node.Generation, r.options.Clock(), state, v.more...)
	rests := state.Kind == conditions.Ready || state.Kind == conditions.Suspended
	if !upgradesItself(v.node) || rests && v.next.Image == r.options.NodeImage {
		r.upgrades.leave(client.ObjectKeyFromObject(v.node))
	}
	if equality.Semantic.DeepEqual(&v.node.Status, v.next) {
		r.measure(v, false)
		return nil
	}
	base := v.node.DeepCopy()
	v.node.Status = *v.next
	patch := client.MergeFromWithOptions(base, client.MergeFromWithOptimisticLock{})
	if err := r.client.Status().Patch(ctx, v.node, patch); err != nil {
		return fmt.Errorf("write the status of KoiNode %s: %w", v.node.Name, err)
	}
	r.measure(v, true)
	announce(ctx, r.events, v.node, before, state)
	return nil
}

// measure notes how long the node's newest word took to here.
func (r *nodeReconciler) measure(v *visit, wrote bool) {
	if s := v.facts.Snapshot; s != nil {
		r.metrics.NodeReported(client.ObjectKeyFromObject(v.node), s.Changed, wrote, r.options.Clock())
	}
}

// nextLook is when to look again if nothing happens: after an interval, or when
// the word of a node that answers no more becomes too old.
func (r *nodeReconciler) nextLook(v *visit) time.Duration {
	next := r.options.jittered()
	if v.again > 0 {
		next = min(next, v.again)
	}
	if s := v.facts.Snapshot; s.Fresh(v.facts.Now, r.options.Interval) && s.Err != nil {
		next = min(next, s.At.Add(r.options.Interval).Sub(v.facts.Now)+100*time.Millisecond)
	}
	return next
}

// finalize lets the node take its leave, keeps or removes what outlives it, and
// lets the object go. It returns when to go on, 0 where nothing is left to do.
func (r *nodeReconciler) finalize(ctx context.Context, node *v1alpha1.KoiNode, begun time.Time) (time.Duration, error) {
	key := client.ObjectKeyFromObject(node)
	r.upgrades.leave(key)
	if !controllerutil.ContainsFinalizer(node, v1alpha1.FinalizerNode) {
		r.observer.Unfollow(key)
		return 0, nil
	}
	followed := r.followLeaving(ctx, node)
	now := r.options.Clock()
	snapshot := r.observer.Snapshot(key)
	facts := finalize.NodeFacts{
		External:     node.IsExternal(),
		Suspended:    node.Spec.Suspend,
		Reachable:    snapshot.Fresh(now, r.options.Interval),
		Unheard:      followed && snapshot == nil,
		Since:        since(node, begun, now),
		KeepStorage:  node.KeepsStorage(),
		KeepIdentity: node.KeepsIdentity(),
		OwnIdentity:  true, // Purge leaves alone what the operator did not make
	}
	plan := finalize.Node(facts)
	if plan.Wait {
		return finalize.RetryAfter, nil
	}
	if admin := r.observer.Admin(key); plan.Leave && admin != nil {
		leave, cancel := context.WithTimeout(ctx, finalize.LeaveTimeout-facts.Since)
		err := admin.Leave(leave)
		cancel()
		if err != nil {
			ctrl.LoggerFrom(ctx).Info("the node could not take its leave", "error", err.Error())
		}
	}
	if err := r.purge(ctx, node, plan); err != nil {
		return 0, err
	}
	if err := r.setFinalizers(ctx, node, controllerutil.RemoveFinalizer); err != nil {
		return 0, err
	}
	r.observer.Unfollow(key)
	return 0, nil
}

// sweep removes what outlives a node where the policies say so, for one that was
// deleted in the moment in which it was first looked at: its finalizer came too
// late to be heeded.
func (r *nodeReconciler) sweep(ctx context.Context, node *v1alpha1.KoiNode) error {
	var again v1alpha1.KoiNode
	err := r.client.Get(ctx, client.ObjectKeyFromObject(node), &again)
	if node.IsExternal() || err == nil && again.UID != node.UID || client.IgnoreNotFound(err) != nil {
		return err
	}
	return r.purge(ctx, node, finalize.NodePlan{DeleteStorage: !node.KeepsStorage(), DeleteIdentity: !node.KeepsIdentity()})
}

// purge removes what outlives the node where the plan says so.
func (r *nodeReconciler) purge(ctx context.Context, node *v1alpha1.KoiNode, plan finalize.NodePlan) error {
	if plan.DeleteStorage {
		claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: node.Namespace, Name: node.ClaimName()}}
		if err := r.applier.Purge(ctx, node, claim); err != nil {
			return err
		}
	}
	if plan.DeleteIdentity {
		return r.applier.Purge(ctx, node, resources.IdentitySecret(node, nil))
	}
	return nil
}

// followLeaving follows a node that is to take its leave: an operator that
// began after the deletion does not know it yet. It tells whether there is
// anything to follow. Whatever stands in the way of that holds no object.
func (r *nodeReconciler) followLeaving(ctx context.Context, node *v1alpha1.KoiNode) bool {
	if node.IsExternal() || node.Spec.Suspend {
		return false
	}
	secret, err := r.secret(ctx, node.Namespace, node.AdminSecretName())
	url := ""
	if err == nil && secret != nil {
		_, url, err = r.follow(ctx, node, secret.Data)
	}
	if err != nil {
		ctrl.LoggerFrom(ctx).Info("the node goes without taking its leave", "error", err.Error())
	}
	return err == nil && url != ""
}

func (r *nodeReconciler) holdFinalizer(ctx context.Context, v *visit) error {
	return r.setFinalizers(ctx, v.node, controllerutil.AddFinalizer)
}

func (r *nodeReconciler) setFinalizers(ctx context.Context, node *v1alpha1.KoiNode, change func(client.Object, string) bool) error {
	return setFinalizer(ctx, r.client, node, v1alpha1.FinalizerNode, change)
}

func (r *nodeReconciler) external(_ context.Context, v *visit) error {
	e := v.node.Spec.External
	v.next.RID, v.next.PublicKey, v.next.BaseURL = string(e.RID), e.PublicKey, v.node.EffectiveBaseURL()
	now := r.options.Clock()
	seen := r.observer.Seen(rid.RID(e.RID), now)
	switch {
	case seen.Asked > 0:
		v.more = append(v.more, conditions.Reachable(seen))
	case seen.Known > 0, now.Sub(r.begun()) < r.options.Interval:
		v.keep(v1alpha1.ConditionReachable) // nobody answers, or was heard yet
	}
	return nil
}

func (r *nodeReconciler) discover(ctx context.Context, v *visit) error {
	d := discovery{client: r.client, refs: r.refs, admin: r.observer.Admin(client.ObjectKeyFromObject(v.node))}
	if !v.facts.Snapshot.Fresh(v.facts.Now, r.options.Interval) {
		return nil
	}
	more, err := d.mirror(ctx, v.node, rid.RID(v.next.RID), v.facts.Snapshot)
	if err != nil {
		return err
	}
	before := int32(0)
	if v.next.Edges != nil {
		before = v.next.Edges.Unmirrored
	}
	v.next.Edges = count(v.facts.Snapshot)
	v.next.Edges.Unmirrored = more
	if more > 0 && before == 0 {
		r.events.Eventf(v.node, nil, corev1.EventTypeWarning, v1alpha1.ReasonDiscoveryTruncated, "Mirror",
			"%d edges are beyond the %d that appear as KoiEdges; koi-node edges shows them all", more, maxDiscovered)
	}
	return nil
}
