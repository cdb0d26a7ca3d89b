package resources

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/koi-net/koi-operator/api/v1alpha1"
)

// AdminSecret holds the token and certificate of the node's admin API. It goes
// with the node.
func AdminSecret(n *v1alpha1.KoiNode, data map[string][]byte) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: owned(n, n.AdminSecretName()), Data: data}
}

// IdentitySecret holds the node's identity. It has no owner: the finalizer
// decides whether it goes.
func IdentitySecret(n *v1alpha1.KoiNode, data map[string][]byte) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: kept(n, n.IdentitySecretName()), Data: data}
}
