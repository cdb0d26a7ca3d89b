package controllers_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/koi-net/koi-operator/api/v1alpha1"
)

// install creates the objects of a manifest of config/, unless they are there.
func (w *world) install(parts ...string) {
	w.t.Helper()
	text, err := os.ReadFile(filepath.Join(append([]string{"..", "config"}, parts...)...))
	if err != nil {
		w.t.Fatal(err)
	}
	for d := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(text), 4096); ; {
		var o unstructured.Unstructured
		if err := d.Decode(&o); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			w.t.Fatal(err)
		}
		if err := w.client.Create(w.t.Context(), &o); err != nil && !apierrors.IsAlreadyExists(err) {
			w.t.Fatalf("create %s %s: %v", o.GetKind(), o.GetName(), err)
		}
	}
}

// person is a client of somebody who has a ClusterRole in the world's namespace.
func (w *world) person(name, role string) client.Client {
	w.t.Helper()
	w.create(&rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: name}},
	})
	cfg := rest.CopyConfig(apiserver.config)
	cfg.Impersonate = rest.ImpersonationConfig{UserName: name}
	c, err := client.New(cfg, client.Options{Scheme: apiserver.scheme})
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// Who may approve edges may do just that.
func TestApprover(t *testing.T) {
	w := two(t, manual)
	w.install("rbac", "user_roles.yaml")
	w.install("rbac", "approver_policy.yaml")
	w.create(edge("e", "a", "b", "orn:x.y"))
	w.edge("e", v1alpha1.ReasonAwaitingApproval)
	approver, editor := w.person("approver", "koi-edge-approver"), w.person("editor", "koi-editor")

	patch := func(c client.Client, o client.Object, name, text string) error {
		o.SetNamespace(w.ns)
		o.SetName(name)
		return c.Patch(t.Context(), o, client.RawPatch("application/merge-patch+json", []byte(text)))
	}
	// The policy is in force a moment after it was made, the roles likewise.
	w.eventually("the approver may not widen an edge", func() string {
		err := patch(approver, &v1alpha1.KoiEdge{}, "e", `{"spec":{"ridTypes":["orn:x.y","orn:x.z"]}}`)
		if err == nil {
			_ = patch(w.client, &v1alpha1.KoiEdge{}, "e", `{"spec":{"ridTypes":["orn:x.y"]}}`)
			return "it was taken"
		}
		if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "spec.approval") {
			return err.Error()
		}
		return ""
	})
	for what, text := range map[string]string{
		"a field added":     `{"spec":{"deletionPolicy":"Retain"}}`,
		"a field removed":   `{"spec":{"edgeType":null,"deletionPolicy":null,"ridTypes":null}}`,
		"a label":           `{"metadata":{"labels":{"koi-net.io/origin":"discovered"}}}`,
		"finalizers":        `{"metadata":{"finalizers":null}}`,
		"approval and more": `{"spec":{"approval":"Approved","ridTypes":["orn:x.z"]}}`,
	} {
		if err := patch(approver, &v1alpha1.KoiEdge{}, "e", text); !apierrors.IsForbidden(err) && !apierrors.IsInvalid(err) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for what, err := range map[string]error{
		"a node":        patch(approver, &v1alpha1.KoiNode{}, "a", `{"spec":{"suspend":true}}`),
		"the status":    approver.Status().Patch(t.Context(), &v1alpha1.KoiEdge{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "e"}}, client.RawPatch("application/merge-patch+json", []byte(`{"status":{"status":"Approved"}}`))),
		"a new edge":    approver.Create(t.Context(), &v1alpha1.KoiEdge{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "f"}, Spec: edge("f", "b", "a", "orn:x.y").Spec}),
		"an edge's end": approver.Delete(t.Context(), &v1alpha1.KoiEdge{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "e"}}),
	} {
		if !apierrors.IsForbidden(err) {
			t.Errorf("the approver and %s: %v", what, err)
		}
	}
	if err := patch(approver, &v1alpha1.KoiEdge{}, "e", `{"spec":{"approval":"Approved"},"metadata":{"annotations":{"why":"asked for"}}}`); err != nil {
		t.Fatal(err)
	}
	w.edge("e", v1alpha1.ReasonApproved)
	if err := patch(editor, &v1alpha1.KoiEdge{}, "e", `{"spec":{"deletionPolicy":"Retain"}}`); err != nil {
		t.Errorf("the editor: %v", err)
	}
}
