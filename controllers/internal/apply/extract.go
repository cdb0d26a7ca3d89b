package apply

import (
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	appsac "k8s.io/client-go/applyconfigurations/apps/v1"
	coreac "k8s.io/client-go/applyconfigurations/core/v1"
	networkingac "k8s.io/client-go/applyconfigurations/networking/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// extract returns what FieldManager owns of a live object.
func extract(live client.Object) (any, error) {
	switch o := live.(type) {
	case *appsv1.Deployment:
		return appsac.ExtractDeployment(o, FieldManager)
	case *corev1.ConfigMap:
		return coreac.ExtractConfigMap(o, FieldManager)
	case *corev1.PersistentVolumeClaim:
		return coreac.ExtractPersistentVolumeClaim(o, FieldManager)
	case *corev1.Service:
		return coreac.ExtractService(o, FieldManager)
	case *corev1.ServiceAccount:
		return coreac.ExtractServiceAccount(o, FieldManager)
	case *networkingv1.NetworkPolicy:
		return networkingac.ExtractNetworkPolicy(o, FieldManager)
	}
	return nil, fmt.Errorf("objects of type %T are not applied", live)
}
