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
		{"nobody's label", func(c *corev1.ConfigMap) { delete(c.Labels, resources.LabelManagedBy) }, ErrConflict},
		{"another node's", func(c *corev1.ConfigMap) { c.Labels[v1alpha1.LabelNode] = "b" }, ErrConflict},
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
