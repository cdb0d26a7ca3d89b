package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var root = filepath.Join("..", "..")

// The document is what the definitions say now.
func TestReferenceIsCurrent(t *testing.T) {
	want, err := render(filepath.Join(root, "config", "crd", "bases"))
	if err != nil {
		t.Fatal(err)
	}
	have, err := os.ReadFile(filepath.Join(root, "docs", "reference.md"))
	if err != nil {
		t.Fatal(err)
	}
	if string(have) != want {
		t.Error("docs/reference.md is not what the definitions say: run make manifests")
	}
	for _, field := range []string{"`spec.interests` | list of string", "`spec.storage.size` | quantity", "`spec.source.nodeRef.name`", "`status.conditions` | list of object", "*Immutable*"} {
		if !strings.Contains(want, field) {
			t.Errorf("there is no %s", field)
		}
	}
}

const someCRD = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: things.x.y}
spec:
  group: x.y
  scope: Namespaced
  names: {kind: Thing, plural: things, shortNames: [th]}
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        description: a thing
        properties:
          spec:
            type: object
            x-kubernetes-validations: [{rule: "true", message: "a and b go together"}]
            required: [a]
            properties:
              a: {type: string, description: "a | b\nthat", default: x, enum: [x, z], maxLength: 9}
              list:
                type: array
                description: many
                maxItems: 3
                items: {type: object, properties: {deep: {type: integer, description: how deep, minimum: 1}}}
`

func TestRender(t *testing.T) {
	dir := t.TempDir()
	put := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "crd.yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := render(dir); err == nil {
		t.Error("nothing was read, and that is no error")
	}
	put(someCRD)
	got, err := render(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"## Thing\n\n`x.y/v1`; `kubectl get things` or `th`. a thing.",
		"* a and b go together.\n",
		"| `spec.a` | string | a \\| b that. Required. Default: `\"x\"`. One of `x`, `z`. Up to 9 characters. |\n",
		"| `spec.list` | list of object | many. At most 3. |\n| `spec.list[].deep` | integer | how deep. At least 1. |\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("there is no %q in\n%s", want, got)
		}
	}
	put(strings.Replace(someCRD, "description: how deep, ", "", 1))
	if _, err := render(dir); err == nil || !strings.Contains(err.Error(), "spec.list[].deep has no description") {
		t.Errorf("a field without a word: %v", err)
	}
	put("kind: [")
	if _, err := render(dir); err == nil {
		t.Error("what is no definition is read")
	}
}
