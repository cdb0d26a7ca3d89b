package netpol

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// root is the chain that FORWARD and INPUT jump to, and the beginning of all others.
const root = "KOI-NP"

// world is what the policies are about.
type world struct {
	pods       []*corev1.Pod
	namespaces map[string]labels.Set
	policies   []*networkingv1.NetworkPolicy
}

// ruleset are the chains of the isolated pods, one for each direction, and the rules in
// them. Equal worlds give equal rulesets.
type ruleset struct {
	chains []string
	rules  string
}

// rules works out who may reach whom.
func (w world) rules() ruleset {
	pods := slices.SortedFunc(slices.Values(w.pods), func(a, b *corev1.Pod) int { return cmp.Compare(a.UID, b.UID) })
	policies := slices.SortedFunc(slices.Values(w.policies), func(a, b *networkingv1.NetworkPolicy) int { return cmp.Compare(a.UID, b.UID) })
	chains := map[string]bool{}
	var jumps, rules strings.Builder
	for _, pod := range pods {
		if !live(pod) {
			continue
		}
		var ingress, egress []string
		isolatedIn, isolatedOut := false, false
		for _, policy := range policies {
			if policy.Namespace != pod.Namespace || !matches(&policy.Spec.PodSelector, pod.Labels) {
				continue
			}
			for _, direction := range policy.Spec.PolicyTypes { // the API server always fills them in
				if direction == networkingv1.PolicyTypeIngress {
					isolatedIn = true
					for _, rule := range policy.Spec.Ingress {
						for _, from := range w.peers(policy.Namespace, rule.From) {
							for _, port := range ports(rule.Ports, pod) {
								ingress = append(ingress, "-s "+from.cidr+port)
							}
						}
					}
				} else {
					isolatedOut = true
					for _, rule := range policy.Spec.Egress {
						for _, to := range w.peers(policy.Namespace, rule.To) {
							for _, port := range ports(rule.Ports, to.pod) {
								egress = append(egress, "-d "+to.cidr+port)
							}
						}
					}
				}
			}
		}
		emit := func(isolated bool, direction, flag string, allowed []string) {
			if !isolated {
				return
			}
			// A chain's name may have 28 characters.
			chain := root + direction + strings.ReplaceAll(string(pod.UID), "-", "")[:16]
			chains[chain] = true
			fmt.Fprintf(&jumps, "-A %s %s %s -j %s\n", root, flag, pod.Status.PodIP, chain)
			for _, match := range allowed {
				fmt.Fprintf(&rules, "-A %s %s -j RETURN\n", chain, match)
			}
			fmt.Fprintf(&rules, "-A %s -j DROP\n", chain)
		}
		emit(isolatedOut, "E", "-s", egress)
		emit(isolatedIn, "I", "-d", ingress)
	}
	return ruleset{chains: slices.Sorted(maps.Keys(chains)), rules: jumps.String() + rules.String()}
}

// script is the input of iptables-restore --noflush that replaces one ruleset by another.
func (r ruleset) script(before ruleset) string {
	gone := slices.DeleteFunc(slices.Clone(before.chains), func(c string) bool { return slices.Contains(r.chains, c) })
	var out strings.Builder
	fmt.Fprintf(&out, "*filter\n:%s - [0:0]\n", root)
	for _, chain := range slices.Concat(r.chains, gone) {
		fmt.Fprintf(&out, ":%s - [0:0]\n", chain) // made, or emptied
	}
	// What a connection was let in for may be answered.
	fmt.Fprintf(&out, "-A %s -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN\n%s", root, r.rules)
	for _, chain := range gone {
		fmt.Fprintf(&out, "-X %s\n", chain)
	}
	out.WriteString("COMMIT\n")
	return out.String()
}

// live tells whether a pod has an address of its own that it uses.
func live(p *corev1.Pod) bool {
	return !p.Spec.HostNetwork && p.Status.PodIP != "" && p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed
}

// matches applies a label selector; one that is not valid matches nothing.
func matches(s *metav1.LabelSelector, set labels.Set) bool {
	selector, err := metav1.LabelSelectorAsSelector(s)
	return err == nil && selector.Matches(set)
}

// peer is an address range; of a pod, where it is one pod's.
type peer struct {
	cidr string
	pod  *corev1.Pod
}

// peers resolves the peers of a rule in a namespace; none given means everyone.
func (w world) peers(namespace string, given []networkingv1.NetworkPolicyPeer) []peer {
	if len(given) == 0 {
		return []peer{{cidr: "0.0.0.0/0"}}
	}
	var out []peer
	for _, g := range given {
		if g.IPBlock != nil {
			for _, prefix := range block(g.IPBlock) {
				out = append(out, peer{cidr: prefix.String()})
			}
			continue
		}
		for _, pod := range w.pods {
			if !live(pod) || g.PodSelector != nil && !matches(g.PodSelector, pod.Labels) {
				continue
			}
			if g.NamespaceSelector == nil {
				if pod.Namespace != namespace {
					continue
				}
			} else if set, ok := w.namespaces[pod.Namespace]; !ok || !matches(g.NamespaceSelector, set) {
				continue
			}
			out = append(out, peer{cidr: pod.Status.PodIP, pod: pod})
		}
	}
	slices.SortStableFunc(out, func(a, b peer) int { return cmp.Compare(a.cidr, b.cidr) })
	return out
}

// block returns the IPv4 prefixes of an address block without its exceptions.
func block(b *networkingv1.IPBlock) []netip.Prefix {
	whole, err := netip.ParsePrefix(b.CIDR)
	if err != nil || !whole.Addr().Is4() {
		return nil
	}
	out := []netip.Prefix{whole.Masked()}
	for _, text := range b.Except {
		except, err := netip.ParsePrefix(text)
		if err != nil || !except.Addr().Is4() {
			continue
		}
		var rest []netip.Prefix
		for _, p := range out {
			rest = append(rest, subtract(p, except.Masked())...)
		}
		out = rest
	}
	return out
}

// subtract returns the prefixes that make up p without x.
func subtract(p, x netip.Prefix) []netip.Prefix {
	if !p.Overlaps(x) {
		return []netip.Prefix{p}
	}
	if x.Bits() <= p.Bits() {
		return nil
	}
	lower := netip.PrefixFrom(p.Addr(), p.Bits()+1)
	a := p.Addr().As4()
	a[p.Bits()/8] |= 0x80 >> (p.Bits() % 8)
	upper := netip.PrefixFrom(netip.AddrFrom4(a), p.Bits()+1)
	return append(subtract(lower, x), subtract(upper, x)...)
}

// ports returns the iptables matches of a rule's ports; none given means any. A named
// port is looked up in the pod that is reached; without one it matches nothing.
func ports(given []networkingv1.NetworkPolicyPort, reached *corev1.Pod) []string {
	if len(given) == 0 {
		return []string{""}
	}
	var out []string
	for _, g := range given {
		protocol := corev1.ProtocolTCP
		if g.Protocol != nil {
			protocol = *g.Protocol
		}
		match := " -p " + strings.ToLower(string(protocol))
		switch {
		case g.Port == nil:
			out = append(out, match)
		case g.Port.Type == intstr.Int && g.EndPort != nil:
			out = append(out, fmt.Sprintf("%s --dport %d:%d", match, g.Port.IntVal, *g.EndPort))
		case g.Port.Type == intstr.Int:
			out = append(out, fmt.Sprintf("%s --dport %d", match, g.Port.IntVal))
		case reached != nil:
			for _, c := range reached.Spec.Containers {
				for _, p := range c.Ports {
					if p.Name == g.Port.StrVal && cmp.Or(p.Protocol, corev1.ProtocolTCP) == protocol {
						out = append(out, fmt.Sprintf("%s --dport %d", match, p.ContainerPort))
					}
				}
			}
		}
	}
	return out
}
