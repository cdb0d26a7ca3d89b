package resources

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/koi-net/koi-operator/api/v1alpha1"
)

var update = flag.Bool("update", false, "write the golden files anew")

func node(name string, spec v1alpha1.KoiNodeSpec) *v1alpha1.KoiNode {
	return &v1alpha1.KoiNode{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "net", UID: "u-1"}, Spec: spec}
}

var goldens = map[string]struct {
	node    *v1alpha1.KoiNode
	contact Contact
}{
	"least": {node: node("least", v1alpha1.KoiNodeSpec{NodeType: v1alpha1.NodeFull})},
	"full": {
		node: node("full", v1alpha1.KoiNodeSpec{
			NodeType:    v1alpha1.NodeFull,
			BaseURL:     "https://koi.example.org/koi-net/",
			Provides:    &v1alpha1.Provides{Event: []v1alpha1.RIDType{"orn:git.commit"}, State: []v1alpha1.RIDType{"orn:git.commit", "https"}},
			Interests:   []v1alpha1.RIDType{"*"},
			Coordinator: true,
			Identity:    &v1alpha1.Identity{Name: "other", SecretName: "keys"},
			Security:    &v1alpha1.Security{UnsignedPeers: v1alpha1.UnsignedPeersDeny, AllowedPeerCIDRs: []string{"10.0.0.0/8"}},
			NetworkPolicy: &v1alpha1.NetworkPolicy{Enabled: true, From: []networkingv1.NetworkPolicyPeer{{
				PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "x"}},
			}}},
			Edges:            &v1alpha1.NodeEdges{Approval: v1alpha1.ApprovalManual},
			Storage:          &v1alpha1.Storage{Size: ptr.To(resource.MustParse("5Gi")), StorageClassName: ptr.To("fast"), AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOncePod}},
			ImagePullPolicy:  corev1.PullNever,
			ImagePullSecrets: []corev1.LocalObjectReference{{Name: "pull"}},
			Resources:        &corev1.ResourceRequirements{Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("1Gi")}},
			Service:          &v1alpha1.Service{Type: corev1.ServiceTypeLoadBalancer, Annotations: map[string]string{"a": "b"}},
			PodTemplate: &runtime.RawExtension{Raw: []byte(`{
				"metadata": {"annotations": {"mine": "yes"}},
				"spec": {
					"tolerations": [{"operator": "Exists"}],
					"terminationGracePeriodSeconds": null,
					"containers": [
						{"name": "node", "livenessProbe": null, "env": [{"name": "KOI_ADMIN", "$patch": "delete"}, {"name": "KOI_LOG_LEVEL", "value": "debug"}]},
						{"name": "sidecar", "image": "side:1"}
					]
				}
			}`)},
		}),
		contact: Contact{URL: "http://coordinator.net.svc:8000/koi-net", RID: "orn:koi-net.node:coordinator+0123"},
	},
	"partial": {
		node: node("partial", v1alpha1.KoiNodeSpec{
			NodeType:      v1alpha1.NodePartial,
			Interests:     []v1alpha1.RIDType{},
			Security:      &v1alpha1.Security{Mode: v1alpha1.SecurityUnsigned},
			NetworkPolicy: &v1alpha1.NetworkPolicy{Enabled: true},
			Storage:       &v1alpha1.Storage{Ephemeral: true, Size: ptr.To(resource.MustParse("100Mi"))},
			Suspend:       true,
		}),
	},
}

// What stands in these files restarts every node when it changes.
func TestGoldens(t *testing.T) {
	for name, tt := range goldens {
		t.Run(name, func(t *testing.T) {
			got := render(t, tt.node, tt.contact)
			file := filepath.Join("testdata", name+".yaml")
			if *update {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("differs from %s; see what restarts, then go test -update:\n%s", file, got)
			}
		})
	}
}

func render(t *testing.T, n *v1alpha1.KoiNode, contact Contact) []byte {
	t.Helper()
	config, err := Config(n, contact)
	if err != nil {
		t.Fatal(err)
	}
	deployment, err := Deployment(n, Run{Image: "koi-node:1", ConfigHash: "0123456789abcdef"})
	if err != nil {
		t.Fatal(err)
	}
	objects := []client.Object{ServiceAccount(n), ConfigMap(n, config), AdminSecret(n, nil), IdentitySecret(n, nil)}
	if c := Claim(n); c != nil {
		objects = append(objects, c)
	}
	if s := Service(n); s != nil {
		objects = append(objects, s)
	}
	if p := NetworkPolicy(n, "koi-operator-system"); p != nil {
		objects = append(objects, p)
	}
	var b bytes.Buffer
	for _, o := range append(objects, deployment) {
		text, err := yaml.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		b.WriteString("---\n")
		b.Write(text)
	}
	return b.Bytes()
}

func TestPodTemplateRefused(t *testing.T) {
	for name, template := range map[string]string{
		"no JSON":                   `{`,
		"unknown field":             `{"spec":{"containers":[{"name":"node","imgae":"x"}]}}`,
		"other type":                `{"spec":{"containers":"none"}}`,
		"container taken away":      `{"spec":{"containers":[{"name":"node","$patch":"delete"}]}}`,
		"label taken away":          `{"metadata":{"labels":{"koi-net.io/node":null}}}`,
		"label changed":             `{"metadata":{"labels":{"app.kubernetes.io/managed-by":"me"}}}`,
		"annotation changed":        `{"metadata":{"annotations":{"koi-net.io/config-hash":"x"}}}`,
		"all replaced":              `{"spec":{"$patch":"replace","containers":[]}}`,
		"merge key missing":         `{"spec":{"containers":[{"image":"x"}]}}`,
		"patch directive not known": `{"spec":{"containers":[{"name":"node","$patch":"frobnicate"}]}}`,
	} {
		t.Run(name, func(t *testing.T) {
			n := node("n", v1alpha1.KoiNodeSpec{PodTemplate: &runtime.RawExtension{Raw: []byte(template)}})
			if _, err := Deployment(n, Run{Image: "i", ConfigHash: "h"}); !errors.Is(err, ErrPodTemplate) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestConfigHash(t *testing.T) {
	if once, again := ConfigHash("config"), ConfigHash("config"); once != again || ConfigHash("config") == ConfigHash("other") || len(ConfigHash("")) != 16 {
		t.Error("the hash does not tell configurations apart")
	}
}

// Whatever the spec, the objects are valid for the API or refused with a reason.
func FuzzPodTemplate(f *testing.F) {
	f.Add(`{"spec":{"tolerations":[{"operator":"Exists"}]}}`)
	f.Add(`{"spec":{"containers":[{"name":"node","$patch":"delete"}]}}`)
	f.Add(`null`)
	f.Add(`[]`)
	f.Add(`{"metadata":{"labels":null}}`)
	f.Fuzz(func(t *testing.T, template string) {
		n := node("n", v1alpha1.KoiNodeSpec{PodTemplate: &runtime.RawExtension{Raw: []byte(template)}})
		d, err := Deployment(n, Run{Image: "i", ConfigHash: "h"})
		if err != nil {
			if !errors.Is(err, ErrPodTemplate) {
				t.Errorf("%v", err)
			}
			return
		}
		if d.Spec.Template.Labels[v1alpha1.LabelNode] != "n" {
			t.Error("the pod lost its label")
		}
	})
}

func TestDefaultBaseURL(t *testing.T) {
	for want, n := range map[string]*v1alpha1.KoiNode{
		"http://a.net.svc:8000/koi-net": node("a", v1alpha1.KoiNodeSpec{}),
		"https://x/koi-net":             node("a", v1alpha1.KoiNodeSpec{BaseURL: "https://x/koi-net/"}),
		"":                              node("a", v1alpha1.KoiNodeSpec{NodeType: v1alpha1.NodePartial}),
	} {
		if got := n.EffectiveBaseURL(); got != want || strings.HasSuffix(got, "/") {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
