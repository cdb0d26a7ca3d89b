package resources

import (
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/koi-net/koi-operator/api/v1alpha1"
)

// NetworkPolicy opens the protocol port to whom the spec names and the admin
// port to the operator's pods in operatorNamespace; nil where the spec asks
// for none. A Partial node serves no peers, so only its admin port is open.
func NetworkPolicy(n *v1alpha1.KoiNode, operatorNamespace string) *networkingv1.NetworkPolicy {
	if n.Spec.NetworkPolicy == nil || !n.Spec.NetworkPolicy.Enabled {
		return nil
	}
	rules := []networkingv1.NetworkPolicyIngressRule{{
		Ports: []networkingv1.NetworkPolicyPort{port(AdminPort)},
		From: []networkingv1.NetworkPolicyPeer{{
			NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": operatorNamespace}},
			PodSelector:       &metav1.LabelSelector{MatchLabels: map[string]string{"app.kubernetes.io/name": ManagedBy}},
		}},
	}}
	if !n.IsPartial() {
		rules = append(rules, networkingv1.NetworkPolicyIngressRule{
			Ports: []networkingv1.NetworkPolicyPort{port(ProtocolPort)},
			From:  n.Spec.NetworkPolicy.From,
		})
	}
	return &networkingv1.NetworkPolicy{
		ObjectMeta: owned(n, n.Name),
		Spec: networkingv1.NetworkPolicySpec{
			PodSelector: metav1.LabelSelector{MatchLabels: Selector(n)},
			PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress},
			Ingress:     rules,
		},
	}
}

func port(n int32) networkingv1.NetworkPolicyPort {
	return networkingv1.NetworkPolicyPort{Protocol: ptr.To(corev1.ProtocolTCP), Port: ptr.To(intstr.FromInt32(n))}
}
