package controllers

import (
	"context"
	"fmt"
	"sync"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/koi-net/koi-operator/api/v1alpha1"
	"github.com/koi-net/koi-operator/controllers/internal/apply"
	"github.com/koi-net/koi-operator/controllers/internal/metrics"
	"github.com/koi-net/koi-operator/controllers/internal/observe"
	"github.com/koi-net/koi-operator/controllers/internal/refs"
	"github.com/koi-net/koi-operator/node/rid"
)

// Setup adds the controllers to a manager whose cache has CacheOptions and
// whose scheme knows the API.
func Setup(ctx context.Context, mgr ctrl.Manager, options Options) error {
	o, err := options.withDefaults()
	if err != nil {
		return err
	}
	if err := refs.Index(ctx, mgr.GetFieldIndexer()); err != nil {
		return err
	}
	measured, err := measure(mgr, o)
	if err != nil {
		return err
	}
	writer := measured.Client(mgr.GetClient())
	observer := observe.New(observe.Options{
		Interval: o.Interval,
		Dial:     measured.Dial(o.Dial),
		Clock:    o.Clock,
		Log:      mgr.GetLogger().WithName("observe"),
	})
	resolver := &refs.Resolver{Reader: mgr.GetClient()}
	nodes := &nodeReconciler{
		client:   writer,
		live:     mgr.GetAPIReader(),
		events:   mgr.GetEventRecorder("koi-operator"),
		observer: observer,
		applier:  &apply.Applier{Client: writer, Live: mgr.GetAPIReader()},
		configs:  &configs{},
		refs:     resolver,
		upgrades: &turn{},
		metrics:  measured,
		options:  o,
		begun:    sync.OnceValue(o.Clock),
	}
	edges := &edgeReconciler{
		client:   writer,
		events:   mgr.GetEventRecorder("koi-operator"),
		observer: observer,
		refs:     resolver,
		pace:     newPace(),
		metrics:  measured,
		options:  o,
		begun:    sync.OnceValue(o.Clock),
	}
	if err := nodes.setup(mgr); err != nil {
		return fmt.Errorf("set up the KoiNode controller: %w", err)
	}
	if err := edges.setup(mgr); err != nil {
		return fmt.Errorf("set up the KoiEdge controller: %w", err)
	}
	if err := mgr.Add(observer); err != nil {
		return fmt.Errorf("add the observer: %w", err)
	}
	return nil
}

// measure registers the operator's metrics.
func measure(mgr ctrl.Manager, o Options) (*metrics.Metrics, error) {
	measured, err := metrics.New(o.Metrics)
	if err != nil {
		return nil, err
	}
	elected := mgr.Elected()
	census := &metrics.Census{Reader: mgr.GetCache(), Clock: o.Clock, Leads: func() bool {
		select {
		case <-elected:
			return true
		default:
			return false
		}
	}}
	if err := o.Metrics.Register(census); err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	return measured, nil
}

func (r *nodeReconciler) setup(mgr ctrl.Manager) error {
	byLabel := handler.EnqueueRequestsFromMapFunc(nodeOf)
	return ctrl.NewControllerManagedBy(mgr).
		Named("koinode").
		For(&v1alpha1.KoiNode{}, builder.WithPredicates(specChanged)).
		Owns(&appsv1.Deployment{}).
		Owns(&corev1.ConfigMap{}).
		Owns(&corev1.Service{}).
		Owns(&corev1.ServiceAccount{}).
		Owns(&networkingv1.NetworkPolicy{}).
		Watches(&corev1.Secret{}, byLabel).
		Watches(&corev1.PersistentVolumeClaim{}, byLabel).
		Watches(&corev1.Pod{}, byLabel).
		Watches(&v1alpha1.KoiNode{}, handler.EnqueueRequestsFromMapFunc(r.newcomers), builder.WithPredicates(contactChanged)).
		Watches(&v1alpha1.KoiEdge{}, handler.EnqueueRequestsFromMapFunc(r.ends), builder.WithPredicates(pairChanged)).
		WatchesRawSource(source.Channel(r.observer.Subscribe(), handler.EnqueueRequestsFromMapFunc(r.heard))).
		WithOptions(controller.Options{MaxConcurrentReconciles: r.options.Workers}).
		Complete(r)
}

// heard are the nodes to look at when one has something new to say: itself, and
// those that run elsewhere, of which nothing is known but what it says.
func (r *nodeReconciler) heard(ctx context.Context, o client.Object) []reconcile.Request {
	key := client.ObjectKeyFromObject(o)
	out := []reconcile.Request{{NamespacedName: key}}
	for _, peer := range r.observer.Snapshot(key).Others() {
		n, err := r.refs.NodeByRID(ctx, key.Namespace, string(peer))
		if err == nil && n != nil && n.IsExternal() {
			out = append(out, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(n)})
		}
	}
	return out
}

func (r *edgeReconciler) setup(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).
		Named("koiedge").
		For(&v1alpha1.KoiEdge{}, builder.WithPredicates(predicate.Or(specChanged, statusChanged))).
		Watches(&v1alpha1.KoiNode{}, handler.EnqueueRequestsFromMapFunc(r.edgesOf), builder.WithPredicates(predicate.Or(specChanged, contactChanged))).
		Watches(&v1alpha1.KoiEdge{}, handler.EnqueueRequestsFromMapFunc(r.rivals), builder.WithPredicates(pairChanged)).
		WatchesRawSource(source.Channel(r.observer.Subscribe(), handler.EnqueueRequestsFromMapFunc(r.edgesOf))).
		WithOptions(controller.Options{MaxConcurrentReconciles: r.options.Workers}).
		Complete(r)
}

// specChanged passes what a person or Git did, not what a controller wrote into
// the status. A deletion counts: it raises the generation.
var specChanged = predicate.Or[client.Object](
	predicate.GenerationChangedPredicate{},
	predicate.LabelChangedPredicate{},
	predicate.AnnotationChangedPredicate{},
)

// statusChanged passes what was written into an edge's status, by whomever: an edge
// at rest is looked at so seldom that others' words in it would stand for long.
var statusChanged = predicate.Funcs{
	UpdateFunc: func(e event.UpdateEvent) bool {
		was, ok1 := e.ObjectOld.(*v1alpha1.KoiEdge)
		is, ok2 := e.ObjectNew.(*v1alpha1.KoiEdge)
		return ok1 && ok2 && !equality.Semantic.DeepEqual(was.Status, is.Status)
	},
	CreateFunc:  func(event.CreateEvent) bool { return false },
	DeleteFunc:  func(event.DeleteEvent) bool { return false },
	GenericFunc: func(event.GenericEvent) bool { return false },
}

// contactChanged passes what others see of a node: that it is there, its RID
// and its base URL.
var contactChanged = predicate.Funcs{
	UpdateFunc: func(e event.UpdateEvent) bool {
		was, ok1 := e.ObjectOld.(*v1alpha1.KoiNode)
		is, ok2 := e.ObjectNew.(*v1alpha1.KoiNode)
		return ok1 && ok2 && (was.Status.RID != is.Status.RID || was.EffectiveBaseURL() != is.EffectiveBaseURL())
	},
}

// pairChanged passes what decides who holds a pair of nodes.
var pairChanged = predicate.Funcs{
	UpdateFunc: func(e event.UpdateEvent) bool {
		was, ok1 := e.ObjectOld.(*v1alpha1.KoiEdge)
		is, ok2 := e.ObjectNew.(*v1alpha1.KoiEdge)
		return ok1 && ok2 && (was.Status.SourceRID != is.Status.SourceRID || was.Status.TargetRID != is.Status.TargetRID ||
			was.Generation != is.Generation || was.IsDiscovered() != is.IsDiscovered())
	},
}

// nodeOf is the KoiNode an object is labelled with.
func nodeOf(_ context.Context, o client.Object) []reconcile.Request {
	name := o.GetLabels()[v1alpha1.LabelNode]
	if name == "" {
		return nil
	}
	return []reconcile.Request{{NamespacedName: types.NamespacedName{Namespace: o.GetNamespace(), Name: name}}}
}

// newcomers are the nodes whose first contact a KoiNode is.
func (r *nodeReconciler) newcomers(ctx context.Context, o client.Object) []reconcile.Request {
	list, err := r.refs.Newcomers(ctx, client.ObjectKeyFromObject(o))
	if err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "newcomers are looked at again within an interval")
	}
	return requests(list)
}

// ends are the KoiNodes at the ends of a KoiEdge.
func (r *nodeReconciler) ends(ctx context.Context, o client.Object) []reconcile.Request {
	edge, ok := o.(*v1alpha1.KoiEdge)
	if !ok {
		return nil
	}
	var out []reconcile.Request
	for _, end := range []struct {
		v1alpha1.EdgeEnd
		rid string
	}{{edge.Spec.Source, edge.Status.SourceRID}, {edge.Spec.Target, edge.Status.TargetRID}} {
		switch {
		case end.NodeRef != nil:
			out = append(out, reconcile.Request{NamespacedName: types.NamespacedName{Namespace: edge.Namespace, Name: end.NodeRef.Name}})
		case end.rid != "":
			n, err := r.refs.NodeByRID(ctx, edge.Namespace, end.rid)
			if err != nil {
				ctrl.LoggerFrom(ctx).Error(err, "an edge's end is looked at again within an interval")
			}
			if n != nil {
				out = append(out, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(n)})
			}
		}
	}
	return out
}

// edgesOf are the KoiEdges of a node, given by the KoiNode or by its name alone.
func (r *edgeReconciler) edgesOf(ctx context.Context, o client.Object) []reconcile.Request {
	key := client.ObjectKeyFromObject(o)
	node, ok := o.(*v1alpha1.KoiNode)
	if !ok {
		node = &v1alpha1.KoiNode{}
		if err := r.client.Get(ctx, key, node); client.IgnoreNotFound(err) != nil {
			ctrl.LoggerFrom(ctx).Error(err, "a node's edges are looked at again within an interval")
		}
	}
	list, err := r.refs.EdgesOf(ctx, key, node.Status.RID)
	if err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "a node's edges are looked at again within an interval")
	}
	return edgeRequests(list, nil)
}

// rivals are the other KoiEdges for the same pair of nodes.
func (r *edgeReconciler) rivals(ctx context.Context, o client.Object) []reconcile.Request {
	edge, ok := o.(*v1alpha1.KoiEdge)
	if !ok || edge.Status.SourceRID == "" {
		return nil
	}
	list, err := r.refs.Pair(ctx, rid.RID(edge.Status.SourceRID), rid.RID(edge.Status.TargetRID))
	if err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "an edge's rivals are looked at again within an interval")
	}
	return edgeRequests(list, edge)
}

func requests(nodes []v1alpha1.KoiNode) []reconcile.Request {
	out := make([]reconcile.Request, len(nodes))
	for i := range nodes {
		out[i].NamespacedName = client.ObjectKeyFromObject(&nodes[i])
	}
	return out
}

func edgeRequests(edges []v1alpha1.KoiEdge, but *v1alpha1.KoiEdge) []reconcile.Request {
	var out []reconcile.Request
	for i := range edges {
		if but == nil || edges[i].UID != but.UID {
			out = append(out, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&edges[i])})
		}
	}
	return out
}
