package main

import (
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/yaml"

	"github.com/koi-net/koi-operator/api/v1alpha1"
)

// elsewhere are kinds whose types are not ours to import; those of the Prometheus
// Operator are compared with config/monitored, which hack/monitoring checks.
var elsewhere = []string{"CustomResourceDefinition", "PodMonitor", "PrometheusRule", "HTTPRoute"}

// typed decodes an object as its type, which has to know every field.
func typed(t *testing.T, o object) runtime.Object {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	text, err := yaml.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	decoder := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
	out, _, err := decoder.Decode(text, nil, nil)
	if err != nil {
		t.Fatalf("%s: %v\n%s", o, err, text)
	}
	return out
}

func TestObjectsAreOfTheirTypes(t *testing.T) {
	for _, tt := range goldens {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			seen := map[string]bool{}
			for _, o := range tt.render(t) {
				if key := o.kind() + o.String(); seen[key] {
					t.Errorf("%s is there twice", o)
				} else {
					seen[key] = true
				}
				if !slices.Contains(elsewhere, o.kind()) {
					typed(t, o)
				}
			}
		})
	}
}

// Pods meet the restricted Pod Security Standard.
func TestPodsAreRestricted(t *testing.T) {
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	level := api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()}
	pods := 0
	for _, tt := range goldens {
		for _, o := range tt.render(t) {
			var meta metav1.ObjectMeta
			var spec corev1.PodSpec
			switch o.kind() {
			case "Pod":
				p := typed(t, o).(*corev1.Pod)
				meta, spec = p.ObjectMeta, p.Spec
			case "Deployment":
				d := typed(t, o).(*appsv1.Deployment)
				meta, spec = d.Spec.Template.ObjectMeta, d.Spec.Template.Spec
				if meta.Labels["app.kubernetes.io/name"] != "koi-operator" {
					t.Errorf("%s: NetworkPolicies of nodes would not let the operator in", tt.name)
				}
			default:
				continue
			}
			pods++
			result := policy.AggregateCheckResults(evaluator.EvaluatePod(level, &meta, &spec))
			if !result.Allowed {
				t.Errorf("%s: %s: %s", tt.name, o, result.ForbiddenDetail())
			}
		}
	}
	if pods < 6 {
		t.Errorf("found %d pods only", pods)
	}
}

// Somebody who may write nothing of the cluster installs it for his namespaces.
func TestNamespacesOnly(t *testing.T) {
	for _, tt := range goldens {
		if tt.name != "operator-namespaces" {
			continue
		}
		roles := map[string]int{}
		for _, o := range tt.render(t) {
			namespace, _ := o.meta()["namespace"].(string)
			if namespace == "" {
				t.Errorf("%s is of the cluster", o)
			}
			if strings.HasPrefix(o.kind(), "Role") {
				roles[o.kind()+" "+namespace]++
			}
		}
		for _, want := range []string{"Role team-a", "RoleBinding team-a", "Role team-b", "RoleBinding team-b", "Role koi-operator-system"} {
			if roles[want] != 1 {
				t.Errorf("%s: %d, want 1", want, roles[want])
			}
		}
	}
	for _, o := range operator(`{watchNamespaces: [team-a]}`).render(t) {
		if o.kind() == "ClusterRoleBinding" {
			t.Errorf("%s, with namespaces given", o)
		}
	}
}

func TestDefinitionsAreKept(t *testing.T) {
	for values, want := range map[string]any{"": "keep", `{crds: {keep: false}}`: nil} {
		n := 0
		for _, o := range operator(values).render(t) {
			if o.kind() != "CustomResourceDefinition" {
				continue
			}
			n++
			if got := asMap(o.meta()["annotations"])["helm.sh/resource-policy"]; got != want {
				t.Errorf("%s with %q: resource-policy %v, want %v", o, values, got, want)
			}
		}
		if n != 2 {
			t.Errorf("%d definitions with %q, want 2", n, values)
		}
	}
}
