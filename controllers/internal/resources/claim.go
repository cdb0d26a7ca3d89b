package resources

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/koi-net/koi-operator/api/v1alpha1"
)

// StorageSize returns the size of the node's volume.
func StorageSize(n *v1alpha1.KoiNode) resource.Quantity {
	if n.Spec.Storage != nil && n.Spec.Storage.Size != nil {
		return *n.Spec.Storage.Size
	}
	return resource.MustParse("1Gi")
}

// Claim keeps the node's store; nil where the store is ephemeral. It has no
// owner: the finalizer decides whether it goes.
func Claim(n *v1alpha1.KoiNode) *corev1.PersistentVolumeClaim {
	if n.IsEphemeral() {
		return nil
	}
	c := &corev1.PersistentVolumeClaim{
		ObjectMeta: kept(n, n.ClaimName()),
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: n.AccessModes(),
			Resources: corev1.VolumeResourceRequirements{
				Requests: corev1.ResourceList{corev1.ResourceStorage: StorageSize(n)},
			},
		},
	}
	if n.Spec.Storage != nil {
		c.Spec.StorageClassName = n.Spec.Storage.StorageClassName
	}
	return c
}
