package refs

import (
	"context"
	"fmt"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/koi-net/koi-operator/api/v1alpha1"
)

// Names of the cache indexes.
const (
	nodeByRID     = "rid"
	nodeByContact = "firstContact"
	edgeByNode    = "nodeRefs"
	edgeByRID     = "rids"
	edgeByPair    = "pair"
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

// A RID holds no newline that could make two pairs one key: lengths part them.
func pairKey(source, target string) string {
	return fmt.Sprintf("%d:%s%s", len(source), source, target)
}
