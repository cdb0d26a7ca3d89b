package refs

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/koi-net/koi-operator/api/v1alpha1"
	"github.com/koi-net/koi-operator/controllers/internal/conditions"
	"github.com/koi-net/koi-operator/controllers/internal/resources"
	"github.com/koi-net/koi-operator/node/rid"
)

// Resolver resolves references in the cache, with the indexes of Index. The objects it
// lists are the cache's own: they are for reading alone.
type Resolver struct {
	Reader client.Reader
}

// End is one resolved end of an edge.
type End struct {
	RID rid.RID
	// Node is the KoiNode with that RID, nil if there is none.
	Node *v1alpha1.KoiNode
	// Local: Node stands in the namespace of the reference, which may therefore
	// steer it.
	Local bool
}

// Managed tells whether the end is a node the operator runs.
func (e End) Managed() bool { return e.Node != nil && !e.Node.IsExternal() }

// Steered tells whether the edge's object may act on the node at this end.
func (e End) Steered() bool { return e.Managed() && e.Local }

// Suspended tells whether the end is a suspended node.
func (e End) Suspended() bool { return e.Managed() && e.Node.Spec.Suspend }

// Key is the name of the end's KoiNode; zero where there is none.
func (e End) Key() types.NamespacedName {
	if e.Node == nil {
		return types.NamespacedName{}
	}
	return client.ObjectKeyFromObject(e.Node)
}

// Name is what to call the end: its KoiNode's name or the name in its RID.
func (e End) Name() string {
	if e.Node != nil {
		return e.Node.Name
	}
	name, _, err := rid.SplitNode(e.RID)
	if err != nil {
		return string(e.RID)
	}
	return name
}

// End resolves one end of an edge in namespace. What is not there yet is a
// *conditions.State.
func (r *Resolver) End(ctx context.Context, namespace string, end v1alpha1.EdgeEnd) (End, error) {
	if end.NodeRef == nil {
		return r.byRID(ctx, namespace, string(end.RID))
	}
	var n v1alpha1.KoiNode
	err := r.Reader.Get(ctx, types.NamespacedName{Namespace: namespace, Name: end.NodeRef.Name}, &n)
	if apierrors.IsNotFound(err) {
		return End{}, conditions.Wait(v1alpha1.ReasonNodeNotFound, "there is no KoiNode %s in this namespace", end.NodeRef.Name)
	}
	if err != nil {
		return End{}, fmt.Errorf("read KoiNode %s: %w", end.NodeRef.Name, err)
	}
	if n.Status.RID == "" {
		return End{}, conditions.Wait(v1alpha1.ReasonNodeNotReady, "the KoiNode %s has no RID yet", n.Name)
	}
	return End{RID: rid.RID(n.Status.RID), Node: &n, Local: true}, nil
}

func (r *Resolver) byRID(ctx context.Context, namespace, text string) (End, error) {
	parsed, err := rid.Parse(text)
	if err != nil {
		return End{}, conditions.Stall(v1alpha1.ReasonInvalidSpec, "%v", err)
	}
	node, err := r.NodeByRID(ctx, namespace, text)
	if err != nil {
		return End{}, err
	}
	return End{RID: parsed, Node: node, Local: node != nil && node.Namespace == namespace}, nil
}

// NodeByRID returns the KoiNode with a RID, or nil: one that runs here before one
// that describes a node elsewhere, then the one in namespace before others.
func (r *Resolver) NodeByRID(ctx context.Context, namespace, text string) (*v1alpha1.KoiNode, error) {
	var list v1alpha1.KoiNodeList
	if err := r.Reader.List(ctx, &list, client.MatchingFields{nodeByRID: text}, client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("find the KoiNode of %s: %w", text, err)
	}
	if len(list.Items) == 0 {
		return nil, nil
	}
	rank := func(n v1alpha1.KoiNode) string {
		order := []byte{'1', '1'}
		if !n.IsExternal() {
			order[0] = '0'
		}
		if n.Namespace == namespace {
			order[1] = '0'
		}
		return string(order) + n.Namespace + "/" + n.Name
	}
	best := slices.MinFunc(list.Items, func(a, b v1alpha1.KoiNode) int { return strings.Compare(rank(a), rank(b)) })
	return &best, nil
}

// Contact resolves a node's first contact. A KoiNode that does not exist is
// told by missing, and the node goes without it; one that has no RID yet is
// waited for, because it will in a moment and the configuration would change
// under the running node.
func (r *Resolver) Contact(ctx context.Context, n *v1alpha1.KoiNode) (contact resources.Contact, missing string, err error) {
	c := n.Spec.FirstContact
	switch {
	case c == nil:
		return resources.Contact{}, "", nil
	case c.NodeRef == nil:
		return resources.Contact{URL: strings.TrimSuffix(c.URL, "/"), RID: string(c.RID)}, "", nil
	}
	var other v1alpha1.KoiNode
	err = r.Reader.Get(ctx, types.NamespacedName{Namespace: n.Namespace, Name: c.NodeRef.Name}, &other)
	switch {
	case apierrors.IsNotFound(err):
		return resources.Contact{}, fmt.Sprintf("there is no KoiNode %s in this namespace; the node started without it", c.NodeRef.Name), nil
	case err != nil:
		return resources.Contact{}, "", fmt.Errorf("read KoiNode %s: %w", c.NodeRef.Name, err)
	case other.IsPartial():
		return resources.Contact{}, "", conditions.Stall(v1alpha1.ReasonInvalidSpec,
			"firstContact: the KoiNode %s is Partial and answers nobody; name a Full node", other.Name)
	case other.Status.RID == "":
		return resources.Contact{}, "", conditions.Wait(v1alpha1.ReasonAwaitingContact, "the KoiNode %s has no RID yet", other.Name)
	}
	return resources.Contact{URL: other.EffectiveBaseURL(), RID: other.Status.RID}, "", nil
}

// Newcomers returns the nodes that name a KoiNode as their first contact.
func (r *Resolver) Newcomers(ctx context.Context, key types.NamespacedName) ([]v1alpha1.KoiNode, error) {
	var list v1alpha1.KoiNodeList
	err := r.Reader.List(ctx, &list, client.InNamespace(key.Namespace), client.MatchingFields{nodeByContact: key.Name}, client.UnsafeDisableDeepCopy)
	if err != nil {
		return nil, fmt.Errorf("find the nodes whose first contact is %s: %w", key, err)
	}
	return list.Items, nil
}

// EdgesOf returns the KoiEdges with a node as an end, by name or by RID.
func (r *Resolver) EdgesOf(ctx context.Context, key types.NamespacedName, nodeRID string) ([]v1alpha1.KoiEdge, error) {
	var named, byRID v1alpha1.KoiEdgeList
	err := r.Reader.List(ctx, &named, client.InNamespace(key.Namespace), client.MatchingFields{edgeByNode: key.Name}, client.UnsafeDisableDeepCopy)
	if err != nil {
		return nil, fmt.Errorf("find the edges of %s: %w", key, err)
	}
	if nodeRID == "" {
		return named.Items, nil
	}
	if err := r.Reader.List(ctx, &byRID, client.MatchingFields{edgeByRID: nodeRID}, client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("find the edges of %s: %w", nodeRID, err)
	}
	return append(named.Items, byRID.Items...), nil
}

// Pair returns the KoiEdges whose status names the ordered pair.
func (r *Resolver) Pair(ctx context.Context, source, target rid.RID) ([]v1alpha1.KoiEdge, error) {
	var list v1alpha1.KoiEdgeList
	err := r.Reader.List(ctx, &list, client.MatchingFields{edgeByPair: pairKey(string(source), string(target))}, client.UnsafeDisableDeepCopy)
	if err != nil {
		return nil, fmt.Errorf("find the edges from %s to %s: %w", source, target, err)
	}
	return list.Items, nil
}

// Winner returns the declared edge among edges that holds the pair: the
// oldest, then the first by namespace and name; nil if none is declared. Only
// the namespaces of its ends have a say in an edge.
func Winner(edges []v1alpha1.KoiEdge, ends ...*v1alpha1.KoiNode) *v1alpha1.KoiEdge {
	var best *v1alpha1.KoiEdge
	for i := range edges {
		e := &edges[i]
		if e.DeletionTimestamp != nil || !hasSay(e, ends) {
			continue
		}
		if best == nil || older(e, best) {
			best = e
		}
	}
	return best
}

// Declared tells whether any of edges is a declared one for the ordered pair: by
// the ends it names, or by what its status says they were. Those count that are
// not looked at yet, and those that are being deleted and so are just being
// forgotten. Of the pair's nodes nil is one that has no KoiNode.
func Declared(edges []v1alpha1.KoiEdge, source, target rid.RID, nodes ...*v1alpha1.KoiNode) bool {
	return slices.ContainsFunc(edges, func(e v1alpha1.KoiEdge) bool {
		if !hasSay(&e, nodes) {
			return false
		}
		if e.Status.SourceRID == string(source) && e.Status.TargetRID == string(target) {
			return true
		}
		return names(&e, e.Spec.Source, source, nodes) && names(&e, e.Spec.Target, target, nodes)
	})
}

// names tells whether an end of e names the node with a RID.
func names(e *v1alpha1.KoiEdge, end v1alpha1.EdgeEnd, r rid.RID, nodes []*v1alpha1.KoiNode) bool {
	if end.NodeRef == nil {
		return string(end.RID) == string(r)
	}
	return slices.ContainsFunc(nodes, func(n *v1alpha1.KoiNode) bool {
		return n != nil && n.Status.RID == string(r) && n.Namespace == e.Namespace && n.Name == end.NodeRef.Name
	})
}

func hasSay(e *v1alpha1.KoiEdge, ends []*v1alpha1.KoiNode) bool {
	return !e.IsDiscovered() && slices.ContainsFunc(ends, func(n *v1alpha1.KoiNode) bool {
		return n != nil && !n.IsExternal() && n.Namespace == e.Namespace
	})
}

func older(a, b *v1alpha1.KoiEdge) bool {
	if !a.CreationTimestamp.Equal(&b.CreationTimestamp) {
		return a.CreationTimestamp.Before(&b.CreationTimestamp)
	}
	if a.Namespace != b.Namespace {
		return a.Namespace < b.Namespace
	}
	return a.Name < b.Name
}

// Discovered returns the discovered KoiEdges that a node shows.
func (r *Resolver) Discovered(ctx context.Context, node *v1alpha1.KoiNode) ([]v1alpha1.KoiEdge, error) {
	var list v1alpha1.KoiEdgeList
	if err := r.Reader.List(ctx, &list, client.InNamespace(node.Namespace), client.MatchingFields{edgeByShower: node.Name}, client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("list the discovered edges: %w", err)
	}
	return list.Items, nil
}

// Pods returns a node's pods.
func (r *Resolver) Pods(ctx context.Context, node *v1alpha1.KoiNode) ([]corev1.Pod, error) {
	var list corev1.PodList
	err := r.Reader.List(ctx, &list, client.InNamespace(node.Namespace),
		client.MatchingFields{podByNode: node.Name}, client.MatchingLabels(resources.Selector(node)), client.UnsafeDisableDeepCopy)
	if err != nil {
		return nil, fmt.Errorf("list the node's pods: %w", err)
	}
	return list.Items, nil
}
