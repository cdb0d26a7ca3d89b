package kubectl

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fake makes a kubectl that is a shell script.
func fake(t *testing.T, script string) *Client {
	t.Helper()
	file := filepath.Join(t.TempDir(), "kubectl")
	if err := os.WriteFile(file, []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return &Client{Path: file, Kubeconfig: "/etc/some.conf", CacheDir: "/var/cache/k"}
}

func TestRun(t *testing.T) {
	out, err := fake(t, `echo "$KUBECONFIG $KUBECACHEDIR $*"; echo noise >&2`).Run(t.Context(), "get", "pods")
	if err != nil || string(out) != "/etc/some.conf /var/cache/k get pods\n" {
		t.Errorf("got %q, %v", out, err)
	}
	_, err = fake(t, `echo "pods not found" >&2; exit 1`).Run(t.Context(), "get", "pods")
	if err == nil || !strings.Contains(err.Error(), "kubectl get pods: exit status 1: pods not found") {
		t.Errorf("error %v", err)
	}
}

func TestGet(t *testing.T) {
	var into struct{ Args string }
	if err := fake(t, `echo "{\"args\":\"$*\"}"`).Get(t.Context(), &into, "get", "pods"); err != nil || into.Args != "get pods -o json" {
		t.Errorf("got %+v, %v", into, err)
	}
	if err := fake(t, `echo nonsense`).Get(t.Context(), &into, "get", "pods"); err == nil {
		t.Error("an answer that is not JSON was taken")
	}
}

func TestApply(t *testing.T) {
	dir := t.TempDir()
	c := fake(t, `cat > `+dir+`/stdin; echo "$*" > `+dir+`/args`)
	if err := c.Apply(t.Context(), []byte("kind: X\n"), "-n", "a"); err != nil {
		t.Fatal(err)
	}
	stdin, err := os.ReadFile(filepath.Join(dir, "stdin"))
	if err != nil || string(stdin) != "kind: X\n" {
		t.Errorf("input %q, %v", stdin, err)
	}
	args, err := os.ReadFile(filepath.Join(dir, "args"))
	if err != nil || !strings.Contains(string(args), "--server-side") || !strings.HasSuffix(string(args), "-n a\n") {
		t.Errorf("arguments %q, %v", args, err)
	}
}
