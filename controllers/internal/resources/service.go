package resources

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/koi-net/koi-operator/api/v1alpha1"
)

// PortName names the protocol port in the pod and in the Service.
const PortName = "koi-net"

// Service stands in front of a Full node; nil for a Partial one. The admin port
// is not part of it.
func Service(n *v1alpha1.KoiNode) *corev1.Service {
	if n.IsPartial() {
		return nil
	}
	s := &corev1.Service{
		ObjectMeta: owned(n, n.Name),
		Spec: corev1.ServiceSpec{
			Type:     corev1.ServiceTypeClusterIP,
			Selector: Selector(n),
			Ports: []corev1.ServicePort{{
				Name:       PortName,
				Port:       ProtocolPort,
				TargetPort: intstr.FromString(PortName),
				Protocol:   corev1.ProtocolTCP,
			}},
		},
	}
	if o := n.Spec.Service; o != nil {
		s.Annotations = o.Annotations
		if o.Type != "" {
			s.Spec.Type = o.Type
		}
	}
	return s
}
