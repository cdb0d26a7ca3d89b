package apply

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"

	"github.com/koi-net/koi-operator/api/v1alpha1"
	"github.com/koi-net/koi-operator/controllers/internal/resources"
)

// FieldManager owns the fields this operator applies.
const FieldManager = "koi-operator"

// What stands in the way of an object.
var (
	// ErrConflict: an object of that name belongs to someone else.
	ErrConflict = errors.New("is not this KoiNode's")
	// ErrLeftover: an object of an earlier KoiNode of the same name is still being
	// removed.
	ErrLeftover = errors.New("is left over and being removed")
)

// Applier applies the objects of KoiNodes.
type Applier struct {
	// Client writes, and reads from the cache, which holds the operator's own
	// objects alone.
	Client client.Client
	// Live reads past the cache, to find what is not the operator's.
	Live client.Reader

	settled settled
}

// Apply brings want to be, for node. It returns the object as it was before
// (nil if there was none) and whether anything was written. Errors wrap
// ErrConflict and ErrLeftover.
func (a *Applier) Apply(ctx context.Context, node *v1alpha1.KoiNode, want client.Object) (client.Object, bool, error) {
	live, err := a.Find(ctx, node, want)
	if err != nil {
		return nil, false, err
	}
	sum, err := sumOf(want)
	if err != nil {
		return nil, false, err
	}
	if live != nil && a.settled.is(live, sum) {
		return live, false, nil
	}
	desired, err := a.configuration(want)
	if err != nil {
		return nil, false, err
	}
	if live != nil {
		same, err := a.unchanged(live, desired)
		if err != nil {
			return nil, false, fmt.Errorf("compare %s: %w", describe(want), err)
		}
		if same {
			a.settled.note(node, live, sum)
			return live, false, nil
		}
	}
	err = a.Client.Apply(ctx, client.ApplyConfigurationFromUnstructured(desired), client.FieldOwner(FieldManager), client.ForceOwnership)
	if err != nil {
		return nil, false, fmt.Errorf("apply %s: %w", describe(want), err)
	}
	return live, true, nil
}

// Find returns the object under the name of like that belongs to node, or nil.
// Errors wrap ErrConflict and ErrLeftover.
func (a *Applier) Find(ctx context.Context, node *v1alpha1.KoiNode, like client.Object) (client.Object, error) {
	live := blank(like)
	key := client.ObjectKeyFromObject(like)
	err := a.Client.Get(ctx, key, live)
	if apierrors.IsNotFound(err) {
		err = a.Live.Get(ctx, key, live)
	}
	switch {
	case apierrors.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read %s: %w", describe(like), err)
	}
	if err := Owned(node, live); err != nil {
		return nil, fmt.Errorf("%s %w", describe(like), err)
	}
	return live, nil
}

// Remove deletes the object under the name of like if it is the node's.
func (a *Applier) Remove(ctx context.Context, node *v1alpha1.KoiNode, like client.Object) (bool, error) {
	live := blank(like)
	err := a.Client.Get(ctx, client.ObjectKeyFromObject(like), live)
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read %s: %w", describe(like), err)
	}
	return a.remove(ctx, node, live)
}

// Purge deletes the object under the name of like if it is the node's. It looks
// past the cache, which may not know yet what was made a moment ago.
func (a *Applier) Purge(ctx context.Context, node *v1alpha1.KoiNode, like client.Object) error {
	live := blank(like)
	err := a.Live.Get(ctx, client.ObjectKeyFromObject(like), live)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", describe(like), err)
	}
	_, err = a.remove(ctx, node, live)
	return err
}

func (a *Applier) remove(ctx context.Context, node *v1alpha1.KoiNode, live client.Object) (bool, error) {
	if Owned(node, live) != nil || live.GetDeletionTimestamp() != nil {
		return false, nil
	}
	uid := live.GetUID()
	err := a.Client.Delete(ctx, live, client.Preconditions{UID: &uid})
	if err != nil && !apierrors.IsNotFound(err) {
		return false, fmt.Errorf("delete %s: %w", describe(live), err)
	}
	return true, nil
}

// Owned tells whether a live object is the node's: made by the operator for a
// KoiNode of this name, and not another object's. An object without an owner
// was kept or orphaned, and is adopted. The labels tell, and where somebody took
// them off, the owner or, for an object without one, whose fields it has.
func Owned(node *v1alpha1.KoiNode, live client.Object) error {
	labels := live.GetLabels()
	owner := metav1.GetControllerOf(live)
	labelled := labels[resources.LabelManagedBy] == resources.ManagedBy && labels[v1alpha1.LabelNode] == node.Name
	switch {
	case labelled:
	case owner != nil && owner.UID != node.UID, owner == nil && !applied(node, live):
		return ErrConflict
	}
	switch {
	case owner != nil && owner.UID != node.UID && owner.Kind == "KoiNode" && owner.Name == node.Name:
		return ErrLeftover
	case owner != nil && owner.UID != node.UID:
		return fmt.Errorf("%w: it belongs to %s %s", ErrConflict, owner.Kind, owner.Name)
	case live.GetDeletionTimestamp() != nil:
		return ErrLeftover
	}
	return nil
}

// applied tells whether an object whose labels somebody changed still has
// fields that were applied here, and is not labelled as another node's.
func applied(node *v1alpha1.KoiNode, live client.Object) bool {
	if other := live.GetLabels()[v1alpha1.LabelNode]; other != "" && other != node.Name {
		return false
	}
	return slices.ContainsFunc(live.GetManagedFields(), func(f metav1.ManagedFieldsEntry) bool {
		return f.Manager == FieldManager && f.Operation == metav1.ManagedFieldsOperationApply && f.Subresource == ""
	})
}

// configuration is want as an apply configuration: what the builder set and
// nothing else.
func (a *Applier) configuration(want client.Object) (*unstructured.Unstructured, error) {
	gvk, err := apiutil.GVKForObject(want, a.Client.Scheme())
	if err != nil {
		return nil, fmt.Errorf("kind of %s: %w", describe(want), err)
	}
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(want)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", describe(want), err)
	}
	delete(content, "status")
	dropNulls(content)
	u := &unstructured.Unstructured{Object: content}
	u.SetGroupVersionKind(gvk)
	return u, nil
}

// unchanged compares what is desired with what this manager's fields hold.
func (a *Applier) unchanged(live client.Object, desired *unstructured.Unstructured) (bool, error) {
	applied, err := extract(live)
	if err != nil {
		return false, err
	}
	have, err := runtime.DefaultUnstructuredConverter.ToUnstructured(applied)
	if err != nil {
		return false, err
	}
	return reflect.DeepEqual(prune(have), prune(desired.DeepCopy().Object)), nil
}

// prune drops empty maps and lists: whether an empty struct counts as owned
// depends on how it was written.
func prune(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			if e = prune(e); e == nil {
				delete(v, k)
			} else {
				v[k] = e
			}
		}
		if len(v) == 0 {
			return nil
		}
		return v
	case []any:
		if len(v) == 0 {
			return nil
		}
		for i := range v {
			v[i] = prune(v[i])
		}
		return v
	}
	return v
}

func dropNulls(m map[string]any) {
	for k, v := range m {
		switch v := v.(type) {
		case nil:
			delete(m, k)
		case map[string]any:
			dropNulls(v)
		case []any:
			for _, e := range v {
				if e, ok := e.(map[string]any); ok {
					dropNulls(e)
				}
			}
		}
	}
}

func blank(like client.Object) client.Object {
	return reflect.New(reflect.TypeOf(like).Elem()).Interface().(client.Object)
}

func describe(o client.Object) string {
	return fmt.Sprintf("%s %s", reflect.TypeOf(o).Elem().Name(), o.GetName())
}
