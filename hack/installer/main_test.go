package main

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/koi-net/koi-operator/hack/cluster/assets"
)

// object is any Kubernetes object.
type object map[string]any

func (o object) key() string {
	m, _ := o["metadata"].(map[string]any)
	return strings.Join(strings.Fields(text(o["kind"])+" "+text(m["namespace"])+" "+text(m["name"])), " ")
}

func text(v any) string {
	s, _ := v.(string)
	return s
}

// objects are those of a file of several documents.
func objects(t *testing.T, file []byte) []object {
	t.Helper()
	var out []object
	for doc := range bytes.SplitSeq(append([]byte("\n"), file...), []byte("\n---\n")) {
		var o object
		if err := yaml.UnmarshalStrict(doc, &o); err != nil {
			t.Fatalf("%v in\n%s", err, doc)
		}
		if len(o) > 0 {
			out = append(out, o)
		}
	}
	return out
}

// resources are the objects that a kustomization names, itself and by others.
func resources(t *testing.T, dir string) []object {
	t.Helper()
	read := func(path string) []byte {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	var k struct {
		Resources []string `json:"resources"`
	}
	// Whatever else a kustomization may say, this test would have to follow.
	if err := yaml.UnmarshalStrict(read(filepath.Join(dir, "kustomization.yaml")), &k); err != nil {
		t.Fatal(err)
	}
	var out []object
	for _, r := range k.Resources {
		path := filepath.Join(dir, r)
		if strings.HasSuffix(r, ".yaml") {
			out = append(out, objects(t, read(path))...)
		} else {
			out = append(out, resources(t, path)...)
		}
	}
	return out
}

func TestInstall(t *testing.T) {
	root, err := assets.Root()
	if err != nil {
		t.Fatal(err)
	}
	rendered, err := render(t.Context(), root)
	switch {
	case err != nil && os.Getenv("CI") == "true":
		t.Fatal(err)
	case err != nil:
		t.Skipf("NOT RUN: %v", err)
	}
	const operator, node = "registry.test/a/koi-operator:1", "registry.test/a/koi-node@sha256:0123"
	file, err := install(rendered, operator, node)
	if err != nil {
		t.Fatal(err)
	}
	made := map[string]object{}
	var order []string
	for _, o := range objects(t, file) {
		if made[o.key()] != nil {
			t.Errorf("%s is there twice", o.key())
		}
		made[o.key()] = o
		order = append(order, o.key())
	}
	want := resources(t, filepath.Join(root, "config", "default"))
	if len(want) < 10 || len(made) != len(want) {
		t.Errorf("%d objects, config/default has %d: %q", len(made), len(want), order)
	}
	for _, o := range want {
		if o.key() == "Deployment koi-operator-system koi-operator" {
			setImages(t, o, operator, node)
		}
		if !reflect.DeepEqual(made[o.key()], o) {
			t.Errorf("%s is\n%v\nconfig/default has\n%v", o.key(), made[o.key()], o)
		}
	}
	// One kubectl apply goes from top to bottom.
	at := func(key string) int { return slices.Index(order, key) }
	if ns := at("Namespace koi-operator-system"); ns != 0 {
		t.Errorf("the namespace is at %d in %q", ns, order)
	}
	for _, crd := range []string{"CustomResourceDefinition koinodes.koi-net.io", "CustomResourceDefinition koiedges.koi-net.io"} {
		if i := at(crd); i < 0 || i > at("Deployment koi-operator-system koi-operator") {
			t.Errorf("%s is at %d in %q", crd, i, order)
		}
	}
	if bytes.Contains(file, []byte("ghcr.io/koi-net/koi-")) {
		t.Error("an image that was not asked for is left")
	}
}

// setImages has the operator's Deployment name images.
func setImages(t *testing.T, deployment object, operator, node string) {
	t.Helper()
	var at any = map[string]any(deployment)
	for _, key := range []string{"spec", "template", "spec", "containers"} {
		at = at.(map[string]any)[key]
	}
	container := at.([]any)[0].(map[string]any)
	container["image"] = operator
	for _, e := range container["env"].([]any) {
		if e := e.(map[string]any); e["name"] == "KOI_NODE_IMAGE" {
			e["value"] = node
			return
		}
	}
	t.Fatal("the Deployment has no KOI_NODE_IMAGE")
}

func TestInstallWithoutImages(t *testing.T) {
	if _, err := install([]byte("kind: Deployment\nimage: ghcr.io/koi-net/koi-operator:dev\n"), "a:1", "b:1"); err == nil || !strings.Contains(err.Error(), "koi-node") {
		t.Errorf("error %v, want one that names the image that lacks", err)
	}
}
