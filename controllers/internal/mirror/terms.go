package mirror

import (
	"slices"

	"github.com/koi-net/koi-operator/api/v1alpha1"
	"github.com/koi-net/koi-operator/node/admin/client"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// Terms are what an edge's ends agree on.
type Terms struct {
	EdgeType protocol.EdgeKind // "" leaves it to the target
	RIDTypes []rid.Type        // sorted, without repetition
}

// NewTerms makes Terms of a spec.
func NewTerms(t v1alpha1.EdgeType, types []v1alpha1.RIDType) Terms {
	out := Terms{EdgeType: WireType(t)}
	for _, s := range types {
		out.RIDTypes = append(out.RIDTypes, rid.Type(s))
	}
	return out.sorted()
}

// TermsOf returns the terms of an edge in the network.
func TermsOf(e *client.Edge) Terms {
	return Terms{EdgeType: e.EdgeType, RIDTypes: slices.Clone(e.RIDTypes)}.sorted()
}

func (t Terms) sorted() Terms {
	slices.Sort(t.RIDTypes)
	t.RIDTypes = slices.Compact(t.RIDTypes)
	return t
}

// Equal tells whether both are the same terms; an edge type left open is equal
// to any.
func (t Terms) Equal(u Terms) bool {
	open := t.EdgeType == "" || u.EdgeType == ""
	return (open || t.EdgeType == u.EdgeType) && slices.Equal(t.RIDTypes, u.RIDTypes)
}

// Covers tells whether u asks for nothing beyond t.
func (t Terms) Covers(u Terms) bool {
	if t.EdgeType != "" && u.EdgeType != "" && t.EdgeType != u.EdgeType {
		return false
	}
	for _, r := range u.RIDTypes {
		if _, ok := slices.BinarySearch(t.RIDTypes, r); !ok {
			return false
		}
	}
	return true
}

// WireType is an edge type as the protocol writes it.
func WireType(t v1alpha1.EdgeType) protocol.EdgeKind {
	switch t {
	case v1alpha1.EdgeWebhook:
		return protocol.Webhook
	case v1alpha1.EdgePoll:
		return protocol.Poll
	}
	return ""
}

// APIType is an edge type as the API writes it.
func APIType(k protocol.EdgeKind) v1alpha1.EdgeType {
	switch k {
	case protocol.Webhook:
		return v1alpha1.EdgeWebhook
	case protocol.Poll:
		return v1alpha1.EdgePoll
	}
	return ""
}
