package resources

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/koi-net/koi-operator/api/v1alpha1"
)

// ManagedBy is the value of app.kubernetes.io/managed-by on all the operator makes.
const ManagedBy = "koi-operator"

// LabelManagedBy is on every object the operator makes; the operator's caches
// hold no others.
const LabelManagedBy = "app.kubernetes.io/managed-by"

// Labels are on every object of a node.
func Labels(n *v1alpha1.KoiNode) map[string]string {
	return map[string]string{
		"app.kubernetes.io/name":     "koi-node",
		"app.kubernetes.io/instance": n.Name,
		"app.kubernetes.io/part-of":  "koi-net",
		LabelManagedBy:               ManagedBy,
		v1alpha1.LabelNode:           n.Name,
	}
}

// Selector picks the node's pods. It can never change: a Deployment's selector
// is immutable.
func Selector(n *v1alpha1.KoiNode) map[string]string {
	return map[string]string{
		"app.kubernetes.io/name": "koi-node",
		v1alpha1.LabelNode:       n.Name,
	}
}

// Owner makes the node the controller of an object, which is then collected
// with it.
func Owner(n *v1alpha1.KoiNode) metav1.OwnerReference {
	return *metav1.NewControllerRef(n, v1alpha1.GroupVersion.WithKind("KoiNode"))
}

// owned is the metadata of an object that goes with the node.
func owned(n *v1alpha1.KoiNode, name string) metav1.ObjectMeta {
	m := kept(n, name)
	m.OwnerReferences = []metav1.OwnerReference{Owner(n)}
	return m
}

// kept is the metadata of an object whose end the finalizer decides.
func kept(n *v1alpha1.KoiNode, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: name, Namespace: n.Namespace, Labels: Labels(n)}
}
