package apply

import (
	"errors"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/koi-net/koi-operator/api/v1alpha1"
	"github.com/koi-net/koi-operator/controllers/internal/resources"
)

func TestOwned(t *testing.T) {
	node := &v1alpha1.KoiNode{ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "n", UID: "1"}}
	for _, tt := range []struct {
		name   string
		change func(*corev1.ConfigMap)
		want   error
	}{
		{"its own", func(*corev1.ConfigMap) {}, nil},
		{"kept or orphaned", func(c *corev1.ConfigMap) { c.OwnerReferences = nil }, nil},
		{"owned besides", func(c *corev1.ConfigMap) { c.OwnerReferences = []metav1.OwnerReference{{Kind: "X", UID: "2"}} }, nil},
		{"its own, the labels changed", func(c *corev1.ConfigMap) { c.Labels = map[string]string{v1alpha1.LabelNode: "b"} }, nil},
		{"nobody's", func(c *corev1.ConfigMap) { c.OwnerReferences, c.Labels = nil, nil }, ErrConflict},
		{"nobody's label", func(c *corev1.ConfigMap) { c.OwnerReferences = nil; delete(c.Labels, resources.LabelManagedBy) }, ErrConflict},
		{"another node's", func(c *corev1.ConfigMap) { c.OwnerReferences = nil; c.Labels[v1alpha1.LabelNode] = "b" }, ErrConflict},
		{"applied here, the labels taken off", func(c *corev1.ConfigMap) {
			c.OwnerReferences, c.Labels, c.ManagedFields = nil, nil, fields(FieldManager, metav1.ManagedFieldsOperationApply)
		}, nil},
		{"applied here, labelled as another node's", func(c *corev1.ConfigMap) {
			c.OwnerReferences, c.ManagedFields = nil, fields(FieldManager, metav1.ManagedFieldsOperationApply)
			c.Labels[v1alpha1.LabelNode] = "b"
		}, ErrConflict},
		{"applied by another", func(c *corev1.ConfigMap) {
			c.OwnerReferences, c.Labels, c.ManagedFields = nil, nil, fields("kubectl", metav1.ManagedFieldsOperationApply)
		}, ErrConflict},
		{"another controller's", func(c *corev1.ConfigMap) {
			c.OwnerReferences = []metav1.OwnerReference{{Kind: "X", Name: "a", UID: "2", Controller: ptr.To(true)}}
		}, ErrConflict},
		{"of a node of that name before", func(c *corev1.ConfigMap) { c.OwnerReferences[0].UID = "0" }, ErrLeftover},
		{"going", func(c *corev1.ConfigMap) { c.DeletionTimestamp = &metav1.Time{} }, ErrLeftover},
	} {
		o := resources.ConfigMap(node, "")
		tt.change(o)
		if err := Owned(node, o); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
}

func fields(manager string, operation metav1.ManagedFieldsOperationType) []metav1.ManagedFieldsEntry {
	return []metav1.ManagedFieldsEntry{{Manager: manager, Operation: operation}}
}

func TestPrune(t *testing.T) {
	for _, tt := range []struct{ in, want any }{
		{map[string]any{"a": map[string]any{"b": []any{}}, "c": 1}, map[string]any{"c": 1}},
		{map[string]any{"a": map[string]any{}}, nil},
		{[]any{map[string]any{"a": nil}}, []any{nil}},
		{"x", "x"},
	} {
		in := fmt.Sprint(tt.in)
		if got := fmt.Sprint(prune(tt.in)); got != fmt.Sprint(tt.want) {
			t.Errorf("%s: %s, want %v", in, got, tt.want)
		}
	}
}
