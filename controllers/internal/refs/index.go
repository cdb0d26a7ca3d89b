package refs

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/koi-net/koi-operator/api/v1alpha1"
	"github.com/koi-net/koi-operator/controllers/internal/resources"
)

// Names of the cache indexes.
const (
	nodeByRID     = "rid"
	nodeByContact = "firstContact"
	edgeByNode    = "nodeRefs"
	edgeByRID     = "rids"
	edgeByPair    = "pair"
	edgeByShower  = "discoveredBy"
	podByNode     = "node"
)

// Index sets the indexes up; it is called once, before the cache starts.
func Index(ctx context.Context, indexer client.FieldIndexer) error {
	for _, i := range []struct {
		of   client.Object
		name string
		keys client.IndexerFunc
	}{
		{&v1alpha1.KoiNode{}, nodeByRID, nodeRID},
		{&v1alpha1.KoiNode{}, nodeByContact, nodeContact},
		{&v1alpha1.KoiEdge{}, edgeByNode, edgeNodes},
		{&v1alpha1.KoiEdge{}, edgeByRID, edgeRIDs},
		{&v1alpha1.KoiEdge{}, edgeByPair, edgePair},
		{&v1alpha1.KoiEdge{}, edgeByShower, edgeShower},
		{&corev1.Pod{}, podByNode, podNode},
	} {
		if err := indexer.IndexField(ctx, i.of, i.name, i.keys); err != nil {
			return fmt.Errorf("index %T by %s: %w", i.of, i.name, err)
		}
	}
	return nil
}

func nodeRID(o client.Object) []string {
	n, ok := o.(*v1alpha1.KoiNode)
	if !ok || n.Status.RID == "" {
		return nil
	}
	return []string{n.Status.RID}
}

func nodeContact(o client.Object) []string {
	n, ok := o.(*v1alpha1.KoiNode)
	if !ok || n.Spec.FirstContact == nil || n.Spec.FirstContact.NodeRef == nil {
		return nil
	}
	return []string{n.Spec.FirstContact.NodeRef.Name}
}

func edgeNodes(o client.Object) []string {
	e, ok := o.(*v1alpha1.KoiEdge)
	if !ok {
		return nil
	}
	var out []string
	for _, end := range []v1alpha1.EdgeEnd{e.Spec.Source, e.Spec.Target} {
		if end.NodeRef != nil {
			out = append(out, end.NodeRef.Name)
		}
	}
	return out
}

func edgeRIDs(o client.Object) []string {
	e, ok := o.(*v1alpha1.KoiEdge)
	if !ok {
		return nil
	}
	var out []string
	for _, end := range []v1alpha1.EdgeEnd{e.Spec.Source, e.Spec.Target} {
		if end.RID != "" {
			out = append(out, string(end.RID))
		}
	}
	return out
}

func edgePair(o client.Object) []string {
	e, ok := o.(*v1alpha1.KoiEdge)
	if !ok || e.Status.SourceRID == "" || e.Status.TargetRID == "" {
		return nil
	}
	return []string{pairKey(e.Status.SourceRID, e.Status.TargetRID)}
}

// edgeShower is the node that shows a discovered edge.
func edgeShower(o client.Object) []string {
	labels := o.GetLabels()
	if labels[v1alpha1.LabelOrigin] != v1alpha1.OriginDiscovered || labels[resources.LabelManagedBy] != resources.ManagedBy {
		return nil
	}
	return []string{labels[v1alpha1.LabelNode]}
}

func podNode(o client.Object) []string {
	if name := o.GetLabels()[v1alpha1.LabelNode]; name != "" {
		return []string{name}
	}
	return nil
}

// A RID holds no newline that could make two pairs one key: lengths part them.
func pairKey(source, target string) string {
	return fmt.Sprintf("%d:%s%s", len(source), source, target)
}
