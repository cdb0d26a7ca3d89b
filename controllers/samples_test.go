package controllers_test

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/koi-net/koi-operator/api/v1alpha1"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// samples are the files of config/samples, in the order in which they are applied,
// and what becomes of each.
var samples = []struct {
	file    string
	becomes func(*world)
}{
	{"coordinator.yaml", func(w *world) { w.configured("coordinator", "coordinator: true") }},
	{"sensor.yaml", func(w *world) { w.configured("sensor", "- orn:git.commit", "first-contact: http://coordinator.") }},
	{"reader.yaml", func(w *world) { w.configured("reader", "partial: true", "- orn:git.commit") }},
	{"processor.yaml", func(w *world) {
		w.configured("processor", "interest:", "- orn:git.commit", "provides-event:", "- orn:git.digest", "first-contact: http://coordinator.")
	}},
	{"external-python.yaml", sampleElsewhere},
	{"manual-approval.yaml", sampleApproval},
	{"ingress.yaml", sampleIngress},
	{"hardened.yaml", sampleHardened},
	{"archive-suspended.yaml", sampleSuspended},
}

// configured waits until a node of the samples is Ready, and looks for text in its
// configuration.
func (w *world) configured(name string, wants ...string) {
	w.t.Helper()
	w.node(name, v1alpha1.ReasonReady)
	var c corev1.ConfigMap
	w.must(name+"-config", &c)
	for _, want := range wants {
		if !strings.Contains(c.Data["config.yaml"], want) {
			w.t.Errorf("the configuration of %s lacks %q:\n%s", name, want, c.Data["config.yaml"])
		}
	}
}

func sampleElsewhere(w *world) {
	desk := w.node("desk", v1alpha1.ReasonExternal)
	if w.get("desk", &appsv1.Deployment{}) {
		w.t.Error("a Deployment was made for a node that runs elsewhere")
	}
	w.edge("sensor-to-desk", v1alpha1.ReasonAwaitingProposal)
	// That node does its part.
	far := w.net.elsewhere("desk")
	w.net.mu.Lock()
	delete(w.net.nodes, far.rid)
	far.rid, far.kind = rid.RID(desk.Status.RID), protocol.Full
	w.net.nodes[far.rid] = far
	w.net.mu.Unlock()
	w.net.subscribe(w.net.named("sensor"), far, "orn:git.commit")
	w.edge("sensor-to-desk", v1alpha1.ReasonApproved)
}

func sampleApproval(w *world) {
	w.configured("vault", "edge-approval: Manual")
	w.edge("vault-to-reader", v1alpha1.ReasonAwaitingApproval)
	change(w, "vault-to-reader", &v1alpha1.KoiEdge{}, func(e *v1alpha1.KoiEdge) { e.Spec.Approval = v1alpha1.Approved })
	w.edge("vault-to-reader", v1alpha1.ReasonApproved)
}

func sampleIngress(w *world) {
	const host = "koi.example.org"
	w.configured("gate", "base-url: https://"+host+"/koi-net")
	var i networkingv1.Ingress
	w.must("gate", &i)
	backend := i.Spec.Rules[0].HTTP.Paths[0].Backend.Service
	var s corev1.Service
	w.must(backend.Name, &s)
	if len(s.Spec.Ports) != 1 || s.Spec.Ports[0].Port != backend.Port.Number {
		w.t.Errorf("the Ingress leads to port %d, the Service has %+v", backend.Port.Number, s.Spec.Ports)
	}
	rule := i.Spec.Rules[0]
	if n := w.node("gate", v1alpha1.ReasonReady); n.Status.BaseURL != "https://"+rule.Host+rule.HTTP.Paths[0].Path {
		w.t.Errorf("peers are told %s, the Ingress serves %s%s", n.Status.BaseURL, rule.Host, rule.HTTP.Paths[0].Path)
	}
}

func sampleHardened(w *world) {
	w.configured("keep", "unsigned-peers: Deny", "- 10.0.0.0/8", "edge-approval: Manual")
	var p networkingv1.NetworkPolicy
	w.must("keep", &p)
	open := map[int32]networkingv1.NetworkPolicyPeer{}
	for _, rule := range p.Spec.Ingress {
		if len(rule.From) != 1 || len(rule.Ports) != 1 {
			w.t.Fatalf("a rule has not one peer and one port: %+v", rule)
		}
		open[rule.Ports[0].Port.IntVal] = rule.From[0]
	}
	if ports := slices.Sorted(maps.Keys(open)); !slices.Equal(ports, []int32{8000, 8081, 8082}) {
		w.t.Errorf("ports %v are open", ports)
	}
	if from := open[8000]; from.PodSelector == nil || from.NamespaceSelector != nil || from.IPBlock != nil {
		w.t.Errorf("peers may be %+v", from)
	}
}

func sampleSuspended(w *world) {
	n := w.node("archive", v1alpha1.ReasonSuspended)
	if n.Status.RID == "" {
		w.t.Error("it has no identity")
	}
	w.must("archive-identity", &corev1.Secret{})
	change(w, "archive", n, func(n *v1alpha1.KoiNode) { n.Spec.Suspend = false })
	w.configured("archive", "- orn:git.commit")
	if again := w.node("archive", v1alpha1.ReasonReady); again.Status.RID != n.Status.RID {
		w.t.Errorf("it woke as %s, was %s", again.Status.RID, n.Status.RID)
	}
	w.must("archive-data", &corev1.PersistentVolumeClaim{})
}

// sample are the objects of a file, in the world's namespace.
func (w *world) sample(file string) []*unstructured.Unstructured {
	w.t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "config", "samples", file))
	if err != nil {
		w.t.Fatal(err)
	}
	if !strings.HasPrefix(string(text), "# ") {
		w.t.Errorf("%s does not begin with what it is for", file)
	}
	var out []*unstructured.Unstructured
	for doc := range strings.SplitSeq(string(text), "\n---\n") {
		var o unstructured.Unstructured
		if err := yaml.UnmarshalStrict([]byte(doc), &o.Object); err != nil {
			w.t.Fatalf("%s: %v", file, err)
		}
		if o.GetKind() == "Namespace" {
			continue // the world has one; the label is tried on a real cluster
		}
		o.SetNamespace(w.ns)
		out = append(out, &o)
	}
	return out
}

// applySample applies a file as kubectl does, and returns the generations.
func (w *world) applySample(file string) map[string]int64 {
	w.t.Helper()
	out := map[string]int64{}
	for _, o := range w.sample(file) {
		if err := w.client.Apply(w.t.Context(), client.ApplyConfigurationFromUnstructured(o), client.FieldOwner("kubectl")); err != nil {
			w.t.Fatalf("%s: %v", file, err)
		}
		out[o.GetKind()+" "+o.GetName()] = o.GetGeneration()
	}
	return out
}

// The samples are taken, each becomes what it says, and a second apply of the same
// changes nothing.
func TestSamples(t *testing.T) {
	w := newWorld(t)
	files, err := filepath.Glob(filepath.Join("..", "config", "samples", "*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	untried := map[string]bool{}
	for _, f := range files {
		untried[filepath.Base(f)] = filepath.Base(f) != "kustomization.yaml"
	}
	first := map[string]map[string]int64{}
	for _, s := range samples {
		untried[s.file] = false
		first[s.file] = w.applySample(s.file)
	}
	for name, left := range untried {
		if left {
			t.Errorf("nobody tries the sample %s", name)
		}
	}
	// Before what is suspended or waits is changed by hand.
	w.settled()
	for _, s := range samples {
		if again := w.applySample(s.file); !maps.Equal(again, first[s.file]) {
			t.Errorf("%s: generations %v after the second apply, %v before", s.file, again, first[s.file])
		}
	}
	w.settled()
	for _, s := range samples {
		t.Run(strings.TrimSuffix(s.file, ".yaml"), func(t *testing.T) { s.becomes(w.in(t)) })
	}
}
