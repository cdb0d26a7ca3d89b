package resources

import (
	"os"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/yaml"
)

// restricted says what the restricted Pod Security Standard has against a pod.
func restricted(t *testing.T, meta metav1.ObjectMeta, spec corev1.PodSpec) string {
	t.Helper()
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	level := api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()}
	result := policy.AggregateCheckResults(evaluator.EvaluatePod(level, &meta, &spec))
	if result.Allowed {
		return ""
	}
	return result.ForbiddenReason() + ": " + result.ForbiddenDetail()
}

// What the operator generates runs where Kubernetes enforces the restricted
// Pod Security Standard; what a podTemplate adds is its author's.
func TestNodesAreRestricted(t *testing.T) {
	for name, tt := range goldens {
		n := tt.node.DeepCopy()
		n.Spec.PodTemplate = nil
		d, err := Deployment(n, Run{Image: "koi-node:1", ConfigHash: "h"})
		if err != nil {
			t.Fatal(err)
		}
		if said := restricted(t, d.Spec.Template.ObjectMeta, d.Spec.Template.Spec); said != "" {
			t.Errorf("%s: %s", name, said)
		}
	}
	n := node("n", goldens["least"].node.Spec)
	template := podTemplate(n, Run{})
	template.Spec.Containers[0].SecurityContext.AllowPrivilegeEscalation = nil
	if restricted(t, template.ObjectMeta, template.Spec) == "" {
		t.Error("a pod that is not restricted passes")
	}
}

func TestOperatorIsRestricted(t *testing.T) {
	read := func(file string, into any) {
		text, err := os.ReadFile("../../../config/manager/" + file)
		if err != nil {
			t.Fatal(err)
		}
		if err := yaml.UnmarshalStrict(text, into); err != nil {
			t.Fatal(err)
		}
	}
	var d appsv1.Deployment
	read("manager.yaml", &d)
	if said := restricted(t, d.Spec.Template.ObjectMeta, d.Spec.Template.Spec); said != "" {
		t.Error(said)
	}
	var ns corev1.Namespace
	read("namespace.yaml", &ns)
	if ns.Labels[api.EnforceLevelLabel] != string(api.LevelRestricted) {
		t.Errorf("the namespace enforces %q", ns.Labels[api.EnforceLevelLabel])
	}
	// The NetworkPolicies of nodes let in the operator by these.
	if d.Spec.Template.Labels["app.kubernetes.io/name"] != ManagedBy || d.Namespace != ns.Name {
		t.Errorf("pods labelled %v in %s", d.Spec.Template.Labels, d.Namespace)
	}
}
