package helm

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRun(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "helm")
	script := "#!/bin/sh\necho \"$KUBECONFIG $HELM_CONFIG_HOME ${HELM_NAMESPACE-none} $*\"; echo noise >&2; test \"$1\" != fail\n"
	if err := os.WriteFile(program, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("HELM_NAMESPACE", "somebody's")
	c := &Client{Path: program, Home: "/h", Kubeconfig: "/k"}
	if out, err := c.Run(t.Context(), "list", "-A"); err != nil || out != "/k /h/config none list -A\n" {
		t.Errorf("got %q, %v", out, err)
	}
	c.Kubeconfig = ""
	out, err := c.Run(t.Context(), "fail")
	if err == nil || !strings.Contains(err.Error(), "helm fail: exit status 1: noise") || !strings.HasPrefix(out, os.DevNull+" ") {
		t.Errorf("got %q, %v", out, err)
	}
}
