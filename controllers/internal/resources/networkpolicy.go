package resources

import (
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/koi-net/koi-operator/api/v1alpha1"
)

// NetworkPolicy opens the protocol port to whom the spec names, the admin port
// to the operator's pods in operatorNamespace (any, where that is not known),
// and the metrics to namespaces whose label says that they scrape; every other
// port is closed. It is nil where the spec asks for none: a policy that nobody
// asked for would close the ports of sidecars, and the admin port is behind TLS
// and a token in any case. A Partial node serves no peers.
func NetworkPolicy(n *v1alpha1.KoiNode, operatorNamespace string) *networkingv1.NetworkPolicy {
	if n.Spec.NetworkPolicy == nil || !n.Spec.NetworkPolicy.Enabled {
		return nil
	}
	operator := &metav1.LabelSelector{}
	if operatorNamespace != "" {
		operator.MatchLabels = map[string]string{corev1.LabelMetadataName: operatorNamespace}
	}
	rules := []networkingv1.NetworkPolicyIngressRule{
		{
			Ports: []networkingv1.NetworkPolicyPort{port(AdminPort)},
			From: []networkingv1.NetworkPolicyPeer{{
				NamespaceSelector: operator,
				PodSelector:       &metav1.LabelSelector{MatchLabels: map[string]string{"app.kubernetes.io/name": ManagedBy}},
			}},
		},
		{
			Ports: []networkingv1.NetworkPolicyPort{port(MetricsPort)},
			From: []networkingv1.NetworkPolicyPeer{{
				NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{v1alpha1.LabelScraper: "true"}},
			}},
		},
	}
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
