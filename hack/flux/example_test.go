package flux

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"

	"github.com/koi-net/koi-operator/hack/cluster/assets"
)

// root is the repository's, seen from this package; example is what docs/gitops.md describes.
const (
	root    = "../.."
	example = "docs/gitops"
)

// objects decodes the documents of a stream.
func objects(t *testing.T, text []byte) []*unstructured.Unstructured {
	t.Helper()
	var out []*unstructured.Unstructured
	for documents := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text))); ; {
		doc, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := yaml.ToJSON(doc)
		if err != nil {
			t.Fatal(err)
		}
		if string(content) == "null" {
			continue
		}
		o := &unstructured.Unstructured{}
		if err := o.UnmarshalJSON(content); err != nil { // it tells whole numbers from others
			t.Fatal(err)
		}
		out = append(out, o)
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// unavailable skips what needs a module that cannot be had; in CI it fails.
func unavailable(t *testing.T, err error) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(err)
	}
	t.Skipf("NOT RUN: %v", err)
}

// kustomize renders a directory, any in the file system.
func kustomize(t *testing.T, dir string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "tool", "-modfile=hack/tools/kustomize/go.mod", "kustomize", "build", dir)
	cmd.Dir = root
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	err := cmd.Run()
	switch {
	case err != nil && strings.Contains(said.String(), "go: "):
		unavailable(t, fmt.Errorf("kustomize: %w\n%s", err, said.String()))
	case err != nil:
		t.Fatalf("kustomize build %s: %v\n%s", dir, err, said.String())
	}
	return out.Bytes()
}

// laidOut is a copy of the example, with the operator's manifests in their place.
func laidOut(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(root, example))); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "operator", "install.yaml"), kustomize(t, "config/default"), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// buildable are the directories that are built by themselves, and what they make.
func buildable(t *testing.T, dir string) map[string][]*unstructured.Unstructured {
	t.Helper()
	out := map[string][]*unstructured.Unstructured{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() != "kustomization.yaml" {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil || bytes.Contains(text, []byte("kind: Component")) {
			return err
		}
		name, err := filepath.Rel(dir, filepath.Dir(path))
		out[name] = objects(t, kustomize(t, filepath.Dir(path)))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// validator is the program that holds objects to definitions; see there.
var validator = sync.OnceValues(func() (string, error) {
	b, err := assets.NewBuilder(os.Stderr)
	if err != nil {
		return "", err
	}
	dirs, err := b.Ensure(context.Background(), assets.Component{Name: "validate", Dir: "hack/tools/validate", Packages: []string{"."}})
	return filepath.Join(dirs["validate"], "validate"), err
})

// problems says what is wrong with each object: nil where no definition is of its kind.
func problems(t *testing.T, definitions, list []*unstructured.Unstructured) [][]string {
	t.Helper()
	program, err := validator()
	if err != nil {
		unavailable(t, err)
	}
	request, err := json.Marshal(map[string]any{"definitions": definitions, "objects": list})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program)
	cmd.Stdin, cmd.Stderr = bytes.NewReader(request), os.Stderr
	answer, err := cmd.Output()
	if err != nil {
		t.Fatalf("validate: %v", err)
	}
	var out [][]string
	if err := json.Unmarshal(answer, &out); err != nil || len(out) != len(list) {
		t.Fatalf("%d answers: %v", len(out), err)
	}
	return out
}

func ours(t *testing.T) []*unstructured.Unstructured {
	t.Helper()
	var out []*unstructured.Unstructured
	for _, name := range []string{"koinodes", "koiedges"} {
		out = append(out, objects(t, read(t, "config/crd/bases/koi-net.io_"+name+".yaml"))...)
	}
	return out
}

// Every directory of the example can be built, and what it makes of our kinds, and of
// Flux's, is as their definitions want it.
func TestExampleIsValid(t *testing.T) {
	definitions, err := Definitions(t.Context(), root)
	if err != nil {
		unavailable(t, err)
	}
	built := buildable(t, laidOut(t))
	seen := map[string]bool{}
	for dir, list := range built {
		twice := map[string]bool{}
		for i, problems := range problems(t, append(ours(t), objects(t, definitions)...), list) {
			o := list[i]
			name := o.GetKind() + " " + o.GetNamespace() + "/" + o.GetName()
			if twice[name] {
				t.Errorf("%s: %s is there twice", dir, name)
			}
			twice[name] = true
			seen[o.GetKind()] = seen[o.GetKind()] || problems != nil
			for _, problem := range problems {
				t.Errorf("%s: %s: %s", dir, name, problem)
			}
		}
	}
	for _, kind := range []string{"KoiNode", "KoiEdge", "GitRepository", "Kustomization"} {
		if !seen[kind] {
			t.Errorf("no %s was held to its definition", kind)
		}
	}
	if len(built) < 11 {
		t.Errorf("found %v only", slices.Sorted(maps.Keys(built)))
	}
}

// The validation of these tests finds what the API server would refuse.
func TestWrongIsFound(t *testing.T) {
	for _, tt := range []struct{ kind, spec, want string }{
		{"KoiNode", `{coordinator: true}`, ""},
		{"KoiNode", `{coordinatr: true}`, "spec.coordinatr: unknown field"},
		{"KoiNode", `{coordinator: perhaps}`, "boolean"},
		{"KoiNode", `{nodeType: Partial, baseURL: "http://a.example.org"}`, "Partial"},
		{"KoiEdge", `{source: {nodeRef: {name: a}}, target: {nodeRef: {name: b}}, ridTypes: [orn:x.y], approval: Perhaps}`, "Approved"},
	} {
		o := objects(t, []byte("apiVersion: koi-net.io/v1alpha1\nkind: "+tt.kind+"\nmetadata: {name: one, namespace: net}\nspec: "+tt.spec))
		got := problems(t, ours(t), o)[0]
		if all := strings.Join(got, "; "); got == nil || (tt.want == "") != (all == "") || !strings.Contains(all, tt.want) {
			t.Errorf("%s %s: %q, want %q", tt.kind, tt.spec, all, tt.want)
		}
	}
}

// text returns a string of an object, "" where it has none.
func text(o *unstructured.Unstructured, path ...string) string {
	s, _, _ := unstructured.NestedString(o.Object, path...)
	return s
}

// What Flux and Argo CD are told to apply is there, the same for both, and each waits
// for what it needs.
func TestExampleHangsTogether(t *testing.T) {
	built := buildable(t, laidOut(t))
	kustomizations := map[string]*unstructured.Unstructured{}
	flux, argo := map[string]bool{}, map[string]bool{}
	for _, o := range built["flux/production"] {
		if o.GetKind() == "Kustomization" {
			kustomizations[o.GetName()] = o
			flux[filepath.Clean(text(o, "spec", "path"))] = true
		}
	}
	for name, o := range kustomizations {
		dependencies, _, _ := unstructured.NestedSlice(o.Object, "spec", "dependsOn")
		for _, d := range dependencies {
			if on := d.(map[string]any)["name"]; kustomizations[on.(string)] == nil {
				t.Errorf("%s depends on %s, which is not there", name, on)
			}
		}
	}
	for _, o := range append(built["argocd/production"], objects(t, read(t, example+"/argocd/production.yaml"))...) {
		if o.GetKind() != "Application" {
			t.Errorf("argocd has a %s", o.GetKind())
		}
		argo[text(o, "spec", "source", "path")] = true
	}
	delete(argo, "argocd/production") // the Application of those
	if !maps.Equal(flux, argo) {
		t.Errorf("Flux applies %v, Argo CD %v", slices.Sorted(maps.Keys(flux)), slices.Sorted(maps.Keys(argo)))
	}
	for path := range flux {
		if len(built[path]) == 0 {
			t.Errorf("%s makes nothing", path)
		}
	}
	// Nobody prunes the definitions: every KoiNode and KoiEdge would go with them.
	if prune, _, _ := unstructured.NestedBool(kustomizations["koi-operator"].Object, "spec", "prune"); prune {
		t.Error("Flux prunes the definitions")
	}
}
