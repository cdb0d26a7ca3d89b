package resources

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"github.com/koi-net/koi-operator/api/v1alpha1"
)

// ServiceAccount gives the pod a name of its own and no token: a node never
// talks to the API server.
func ServiceAccount(n *v1alpha1.KoiNode) *corev1.ServiceAccount {
	return &corev1.ServiceAccount{
		ObjectMeta:                   owned(n, n.Name),
		AutomountServiceAccountToken: ptr.To(false),
	}
}
