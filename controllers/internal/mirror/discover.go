package mirror

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/koi-net/koi-operator/api/v1alpha1"
	"github.com/koi-net/koi-operator/controllers/internal/resources"
	"github.com/koi-net/koi-operator/node/admin/client"
	"github.com/koi-net/koi-operator/node/rid"
)

// MaxDiscovered is how many discovered edges one node shows as objects.
const MaxDiscovered = 64

// Discovered is the object that shows an edge found in the network. home is
// the managed node it belongs to; names gives, for a RID, the KoiNode of that
// namespace, or "".
func Discovered(home *v1alpha1.KoiNode, e client.Edge, names func(rid.RID) string) *v1alpha1.KoiEdge {
	end := func(r rid.RID) v1alpha1.EdgeEnd {
		if name := names(r); name != "" {
			return v1alpha1.EdgeEnd{NodeRef: &v1alpha1.NodeReference{Name: name}}
		}
		return v1alpha1.EdgeEnd{RID: v1alpha1.NodeRID(r)}
	}
	labels := map[string]string{
		v1alpha1.LabelOrigin:     v1alpha1.OriginDiscovered,
		v1alpha1.LabelNode:       home.Name,
		resources.LabelManagedBy: resources.ManagedBy,
	}
	t := TermsOf(&e)
	spec := v1alpha1.KoiEdgeSpec{
		Source:         end(e.Source),
		Target:         end(e.Target),
		EdgeType:       APIType(t.EdgeType),
		DeletionPolicy: v1alpha1.DeletionRetain,
	}
	for _, r := range t.RIDTypes {
		spec.RIDTypes = append(spec.RIDTypes, v1alpha1.RIDType(r))
	}
	return &v1alpha1.KoiEdge{
		ObjectMeta: metav1.ObjectMeta{
			Name:            Name(e.Source, e.Target),
			Namespace:       home.Namespace,
			Labels:          labels,
			OwnerReferences: []metav1.OwnerReference{resources.Owner(home)},
		},
		Spec: spec,
	}
}

// SameTerms tells whether a discovered object still shows the edge's terms.
func SameTerms(o *v1alpha1.KoiEdge, e client.Edge) bool {
	return NewTerms(o.Spec.EdgeType, o.Spec.RIDTypes).Equal(TermsOf(&e))
}

// Representable tells whether an edge fits into an object: the network allows
// more RID types than the API does.
func Representable(e client.Edge) bool {
	t := TermsOf(&e)
	if len(t.RIDTypes) == 0 || len(t.RIDTypes) > 64 {
		return false
	}
	return !slices.ContainsFunc(t.RIDTypes, func(r rid.Type) bool {
		return len(r) > 256 || strings.ContainsFunc(string(r), func(c rune) bool { return c <= ' ' })
	})
}

// Name is the name of a pair's discovered object: readable, and told apart by a
// hash of the pair.
func Name(source, target rid.RID) string {
	sum := sha256.Sum256([]byte(string(source) + "\n" + string(target)))
	return short(source) + "-to-" + short(target) + "-" + hex.EncodeToString(sum[:4])
}

// short makes a node's name fit for an object's name.
func short(r rid.RID) string {
	name, _, err := rid.SplitNode(r)
	if err != nil {
		return "x"
	}
	name = strings.Map(func(c rune) rune {
		switch {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-':
			return c
		case c >= 'A' && c <= 'Z':
			return c - 'A' + 'a'
		}
		return '-'
	}, name)
	if len(name) > 60 {
		name = name[:60]
	}
	if name = strings.Trim(name, "-"); name == "" {
		return "x"
	}
	return name
}
