package controllers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/koi-net/koi-operator/api/v1alpha1"
	"github.com/koi-net/koi-operator/controllers/internal/apply"
	"github.com/koi-net/koi-operator/controllers/internal/mirror"
	"github.com/koi-net/koi-operator/controllers/internal/observe"
	"github.com/koi-net/koi-operator/controllers/internal/refs"
	adminclient "github.com/koi-net/koi-operator/node/admin/client"
	"github.com/koi-net/koi-operator/node/rid"
)

const maxDiscovered = mirror.MaxDiscovered

// discovery shows a node's edges that nobody wrote as KoiEdges.
type discovery struct {
	client client.Client
	refs   *refs.Resolver
	admin  observe.Admin
}

// found is an edge of the network that belongs to a node's namespace.
type found struct {
	edge   adminclient.Edge
	object *v1alpha1.KoiEdge // as it should be
}

// mirror brings the node's discovered KoiEdges and its edges together, and
// returns how many edges are beyond the bound.
func (d discovery) mirror(ctx context.Context, node *v1alpha1.KoiNode, self rid.RID, s *observe.Snapshot) (int32, error) {
	have, err := d.refs.Discovered(ctx, node)
	if err != nil {
		return 0, err
	}
	want, err := d.find(ctx, node, self, s)
	if err != nil {
		return 0, err
	}
	more := bound(want, have)
	for i := range have {
		o := &have[i]
		f, still := want[o.Name]
		if still && mirror.SameTerms(o, f.edge) {
			delete(want, o.Name)
			continue
		}
		// Gone, taken over by a declared KoiEdge, or on other terms: the object of
		// the new terms is made when this one has gone.
		delete(want, o.Name)
		if err := d.drop(ctx, node, o, self, still); err != nil {
			return 0, err
		}
	}
	for _, f := range want {
		if err := d.client.Create(ctx, f.object, client.FieldOwner(apply.FieldManager)); err != nil && !apierrors.IsAlreadyExists(err) {
			return 0, fmt.Errorf("make the discovered edge %s: %w", f.object.Name, err)
		}
	}
	return more, nil
}

// find returns the edges this node shows, by the names of their objects.
func (d discovery) find(ctx context.Context, node *v1alpha1.KoiNode, self rid.RID, s *observe.Snapshot) (map[string]found, error) {
	out := map[string]found{}
	if !node.MirrorsEdges() {
		return out, nil
	}
	declared, err := d.refs.EdgesOf(ctx, client.ObjectKeyFromObject(node), string(self))
	if err != nil {
		return nil, err
	}
	for pair, e := range s.Edges {
		other := pair.Target
		if other == self {
			other = pair.Source
		}
		peer, err := d.refs.NodeByRID(ctx, node.Namespace, string(other))
		if err != nil {
			return nil, err
		}
		managed := peer != nil && !peer.IsExternal()
		switch {
		case pair.Source != self && managed: // belongs to its source
			continue
		case !managed && !s.Peers[other].Verified:
			continue
		case e.Refused, !mirror.Representable(e):
			continue
		}
		if refs.Declared(declared, pair.Source, pair.Target, node, peer) {
			continue
		}
		o := mirror.Discovered(node, e, func(r rid.RID) string {
			switch {
			case r == self:
				return node.Name
			case peer != nil && peer.Namespace == node.Namespace:
				return peer.Name
			}
			return ""
		})
		out[o.Name] = found{edge: e, object: o}
	}
	return out, nil
}

// bound drops what is beyond the most a node shows: those that are shown
// already stay, then the names decide.
func bound(want map[string]found, have []v1alpha1.KoiEdge) int32 {
	if len(want) <= maxDiscovered {
		return 0
	}
	shown := make(map[string]bool, len(have))
	for i := range have {
		shown[have[i].Name] = true
	}
	names := make([]string, 0, len(want))
	for n := range want {
		names = append(names, n)
	}
	slices.SortFunc(names, func(a, b string) int {
		if shown[a] != shown[b] {
			if shown[a] {
				return -1
			}
			return 1
		}
		return strings.Compare(a, b)
	})
	for _, n := range names[maxDiscovered:] {
		delete(want, n)
	}
	return int32(len(names) - maxDiscovered)
}

// drop removes a discovered object. A refusal stays when the network forgot the
// edge, because that is what was asked for; an approval does not outlive the
// terms it was given for.
func (d discovery) drop(ctx context.Context, node *v1alpha1.KoiNode, o *v1alpha1.KoiEdge, self rid.RID, replaced bool) error {
	if o.DeletionTimestamp != nil {
		return nil
	}
	source, target := rid.RID(o.Status.SourceRID), rid.RID(o.Status.TargetRID)
	if o.Spec.Approval == v1alpha1.Rejected && !replaced {
		taken, err := d.taken(ctx, node, self, source, target)
		if err != nil || !taken {
			return err
		}
	}
	if replaced && o.Status.Decision == v1alpha1.Approved && source == self && d.admin != nil {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		if err := d.admin.DeletePolicy(ctx, source, target); err != nil && !errors.Is(err, adminclient.ErrNotFound) {
			return fmt.Errorf("take back the approval of %s: %w", o.Name, err)
		}
	}
	// What a person decided since it was read counts: then it is looked at again.
	uid, version := o.UID, o.ResourceVersion
	if err := d.client.Delete(ctx, o, client.Preconditions{UID: &uid, ResourceVersion: &version}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("remove the discovered edge %s: %w", o.Name, err)
	}
	return nil
}

// taken tells whether a declared KoiEdge holds the pair.
func (d discovery) taken(ctx context.Context, node *v1alpha1.KoiNode, self, source, target rid.RID) (bool, error) {
	other := source
	if other == self {
		other = target
	}
	peer, err := d.refs.NodeByRID(ctx, node.Namespace, string(other))
	if err != nil {
		return false, err
	}
	edges, err := d.refs.Pair(ctx, source, target)
	return refs.Winner(edges, node, peer) != nil, err
}
