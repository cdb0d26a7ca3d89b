package netpol

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func pod(n int, namespace string, set labels.Set) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: fmt.Sprint("pod", n), Namespace: namespace, Labels: set,
			UID: types.UID(fmt.Sprintf("%08d-0000-0000-0000-000000000000", n)),
		},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Ports: []corev1.ContainerPort{
			{Name: "http", ContainerPort: 8080}, {Name: "dns", ContainerPort: 53, Protocol: corev1.ProtocolUDP},
		}}}},
		Status: corev1.PodStatus{PodIP: fmt.Sprint("10.244.0.", n), Phase: corev1.PodRunning},
	}
}

func selecting(set map[string]string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: set}
}

func TestRules(t *testing.T) {
	server, client := pod(1, "a", labels.Set{"app": "server"}), pod(2, "a", labels.Set{"app": "client"})
	other := pod(3, "b", labels.Set{"app": "client"})
	done := pod(4, "a", labels.Set{"app": "client"})
	done.Status.Phase = corev1.PodSucceeded
	base := world{
		pods:       []*corev1.Pod{server, client, other, done},
		namespaces: map[string]labels.Set{"a": {"team": "a"}, "b": {"team": "b"}},
	}
	const chainIn, chainOut = "KOI-NPI0000000100000000", "KOI-NPE0000000100000000"
	ingress := func(rules ...networkingv1.NetworkPolicyIngressRule) networkingv1.NetworkPolicySpec {
		return networkingv1.NetworkPolicySpec{
			PodSelector: *selecting(map[string]string{"app": "server"}), PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}, Ingress: rules,
		}
	}
	named := intstr.FromString("http")
	tests := []struct {
		name string
		spec networkingv1.NetworkPolicySpec
		want []string
	}{
		{"nothing may come in", ingress(), []string{
			"-A KOI-NP -d 10.244.0.1 -j " + chainIn, "-A " + chainIn + " -j DROP",
		}},
		{"an empty rule lets all in", ingress(networkingv1.NetworkPolicyIngressRule{}), []string{
			"-A KOI-NP -d 10.244.0.1 -j " + chainIn, "-A " + chainIn + " -s 0.0.0.0/0 -j RETURN", "-A " + chainIn + " -j DROP",
		}},
		{"pods of the same namespace, at a named port", ingress(networkingv1.NetworkPolicyIngressRule{
			From:  []networkingv1.NetworkPolicyPeer{{PodSelector: selecting(map[string]string{"app": "client"})}},
			Ports: []networkingv1.NetworkPolicyPort{{Port: &named}},
		}), []string{
			"-A KOI-NP -d 10.244.0.1 -j " + chainIn, "-A " + chainIn + " -s 10.244.0.2 -p tcp --dport 8080 -j RETURN", "-A " + chainIn + " -j DROP",
		}},
		{"pods of another namespace", ingress(networkingv1.NetworkPolicyIngressRule{
			From: []networkingv1.NetworkPolicyPeer{{NamespaceSelector: selecting(map[string]string{"team": "b"}), PodSelector: &metav1.LabelSelector{}}},
		}), []string{
			"-A KOI-NP -d 10.244.0.1 -j " + chainIn, "-A " + chainIn + " -s 10.244.0.3 -j RETURN", "-A " + chainIn + " -j DROP",
		}},
		{"an address block out", networkingv1.NetworkPolicySpec{
			PodSelector: *selecting(map[string]string{"app": "server"}), PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeEgress},
			Egress: []networkingv1.NetworkPolicyEgressRule{{To: []networkingv1.NetworkPolicyPeer{{
				IPBlock: &networkingv1.IPBlock{CIDR: "10.0.0.0/30", Except: []string{"10.0.0.1/32", "fd00::/8"}},
			}}}},
		}, []string{
			"-A KOI-NP -s 10.244.0.1 -j " + chainOut, "-A " + chainOut + " -d 10.0.0.0/32 -j RETURN",
			"-A " + chainOut + " -d 10.0.0.2/31 -j RETURN", "-A " + chainOut + " -j DROP",
		}},
		{"no pod is selected", networkingv1.NetworkPolicySpec{
			PodSelector: *selecting(map[string]string{"app": "none"}), PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress},
		}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := base
			w.policies = []*networkingv1.NetworkPolicy{{ObjectMeta: metav1.ObjectMeta{Namespace: "a"}, Spec: tt.spec}}
			want := strings.Join(tt.want, "\n")
			if want != "" {
				want += "\n"
			}
			if got := w.rules().rules; got != want {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

func TestScript(t *testing.T) {
	before := ruleset{chains: []string{"KOI-NPIa", "KOI-NPIb"}}
	now := ruleset{chains: []string{"KOI-NPIb", "KOI-NPIc"}, rules: "-A KOI-NPIb -j DROP\n"}
	want := `*filter
:KOI-NP - [0:0]
:KOI-NPIb - [0:0]
:KOI-NPIc - [0:0]
:KOI-NPIa - [0:0]
-A KOI-NP -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN
-A KOI-NPIb -j DROP
-X KOI-NPIa
COMMIT
`
	if got := now.script(before); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func TestSubtract(t *testing.T) {
	tests := []struct{ p, x, want string }{
		{"10.0.0.0/8", "192.168.0.0/16", "[10.0.0.0/8]"},
		{"10.0.0.0/24", "10.0.0.0/16", "[]"},
		{"10.0.0.0/24", "10.0.0.0/24", "[]"},
		{"10.0.0.0/30", "10.0.0.3/32", "[10.0.0.0/31 10.0.0.2/32]"},
		{"0.0.0.0/0", "128.0.0.0/1", "[0.0.0.0/1]"},
	}
	for _, tt := range tests {
		got := subtract(netip.MustParsePrefix(tt.p), netip.MustParsePrefix(tt.x))
		if fmt.Sprint(got) != tt.want && !(len(got) == 0 && tt.want == "[]") {
			t.Errorf("%s without %s: %v, want %s", tt.p, tt.x, got, tt.want)
		}
	}
}

func TestPorts(t *testing.T) {
	udp, end := corev1.ProtocolUDP, int32(90)
	number, http, dns := intstr.FromInt32(80), intstr.FromString("http"), intstr.FromString("dns")
	reached := pod(1, "a", nil)
	tests := []struct {
		name    string
		port    networkingv1.NetworkPolicyPort
		reached *corev1.Pod
		want    string
	}{
		{"a protocol alone", networkingv1.NetworkPolicyPort{Protocol: &udp}, reached, " -p udp"},
		{"a number", networkingv1.NetworkPolicyPort{Port: &number}, nil, " -p tcp --dport 80"},
		{"a range", networkingv1.NetworkPolicyPort{Port: &number, EndPort: &end}, nil, " -p tcp --dport 80:90"},
		{"a name", networkingv1.NetworkPolicyPort{Port: &http}, reached, " -p tcp --dport 8080"},
		{"a name of the other protocol", networkingv1.NetworkPolicyPort{Port: &dns}, reached, ""},
		{"a name, of no known pod", networkingv1.NetworkPolicyPort{Port: &http}, nil, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := strings.Join(ports([]networkingv1.NetworkPolicyPort{tt.port}, tt.reached), ","); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}
