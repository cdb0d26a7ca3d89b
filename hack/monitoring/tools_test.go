package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// root is the repository's, seen from this package.
const root = "../.."

// built builds them, unless that was done before.
var built = sync.OnceValues(func() (string, error) { return build(context.Background(), root) })

// program returns the path of one of them. Where they cannot be built, as
// without a network, the test is not run, and in CI it fails.
func program(t *testing.T, name string) string {
	t.Helper()
	dir, err := built()
	switch {
	case err != nil && os.Getenv("CI") == "true":
		t.Fatal(err)
	case err != nil:
		t.Skipf("NOT RUN: config/monitoring is not checked with Prometheus' own programs: %v", err)
	}
	return filepath.Join(dir, name)
}

// kustomize renders a directory of the repository.
func kustomize(t *testing.T, dir string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "tool", "-modfile=hack/tools/kustomize/go.mod", "kustomize", "build", dir)
	cmd.Dir = root
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	err := cmd.Run()
	switch {
	case err != nil && os.Getenv("CI") == "true":
		t.Fatalf("kustomize build %s: %v\n%s", dir, err, said.String())
	case err != nil:
		t.Skipf("NOT RUN: kustomize build %s: %v\n%s", dir, err, said.String())
	}
	return out.Bytes()
}

// expression is what the program inspect says of one; see there.
type expression struct {
	Error     string     `json:"error"`
	Selectors []selector `json:"selectors"`
	Labels    []string   `json:"labels"`
}

type selector struct {
	Name   string   `json:"name"`
	Labels []string `json:"labels"`
}

// inspect parses PromQL, and holds custom resources to their types.
func inspect(t *testing.T, expressions, objects []string) ([]expression, []string) {
	t.Helper()
	request, err := json.Marshal(map[string][]string{"expressions": expressions, "objects": objects})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program(t, "inspect"))
	cmd.Stdin = bytes.NewReader(request)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("inspect: %v", err)
	}
	var answer struct {
		Expressions []expression `json:"expressions"`
		Objects     []string     `json:"objects"`
	}
	if err := json.Unmarshal(out, &answer); err != nil {
		t.Fatal(err)
	}
	if len(answer.Expressions) != len(expressions) || len(answer.Objects) != len(objects) {
		t.Fatalf("%d and %d answers", len(answer.Expressions), len(answer.Objects))
	}
	return answer.Expressions, answer.Objects
}
