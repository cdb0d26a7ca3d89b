package product

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// checkout makes a repository with both programs in it.
func checkout(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	write(t, filepath.Join(root, "go.mod"), "module example.com/koi\n\ngo 1.26\n")
	for _, name := range Names() {
		write(t, filepath.Join(root, "cmd", name, "main.go"), "package main\n\nvar version = \"none\"\n\nfunc main() { println(version) }\n")
	}
	certs := filepath.Join(root, "certs.pem")
	write(t, certs, "-----BEGIN CERTIFICATE-----\n")
	t.Setenv("SSL_CERT_FILE", certs)
	return root
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestTagsNameTheContent builds, builds again, and builds after changes.
func TestTagsNameTheContent(t *testing.T) {
	root := checkout(t)
	build := func() map[string]Built {
		t.Helper()
		all, err := Build(t.Context(), Options{Root: root})
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]Built{}
		for _, b := range all {
			out[b.Name] = b
		}
		return out
	}
	first := build()
	node := first["koi-node"]
	if !strings.HasPrefix(node.Reference, "ghcr.io/koi-net/koi-node:dev-") || node.Program == 0 || node.Compressed == 0 {
		t.Fatalf("built %+v", node)
	}
	program, err := os.ReadFile(node.File)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(node.File)
	if err != nil {
		t.Fatal(err)
	}
	if again := build(); again["koi-node"] != node {
		t.Errorf("again: %+v, before: %+v", again["koi-node"], node)
	}
	if now, err := os.Stat(node.File); err != nil || now.ModTime() != info.ModTime() {
		t.Errorf("an archive that was up to date was written again (%v)", err)
	}
	// Without what is kept from before, the same comes out.
	if err := os.RemoveAll(filepath.Join(root, "dist")); err != nil {
		t.Fatal(err)
	}
	if again := build(); again["koi-node"].Digest != node.Digest {
		t.Errorf("built from nothing: %s, before: %s", again["koi-node"].Digest, node.Digest)
	}
	if b, err := os.ReadFile(node.File); err != nil || !bytes.Equal(b, program) {
		t.Errorf("the archive differs (%v)", err)
	}
	write(t, filepath.Join(root, "cmd", "koi-node", "main_test.go"), "package main\n")
	if again := build(); again["koi-node"].Reference != node.Reference {
		t.Error("a test changes the tag")
	}
	write(t, filepath.Join(root, "cmd", "koi-node", "more.go"), "package main\n\nfunc init() { println(1) }\n")
	changed := build()
	if changed["koi-node"].Reference == node.Reference || changed["koi-node"].Digest == node.Digest {
		t.Error("a source does not change the tag and the image")
	}
	if changed["koi-operator"] != first["koi-operator"] {
		t.Error("a source of one program changes the image of the other")
	}
}

func TestBuildWithVersion(t *testing.T) {
	root := checkout(t)
	all, err := Build(t.Context(), Options{Root: root, Version: "v1.2.3", Registry: "registry.example/team/", Names: []string{"koi-node"}, Archs: []string{"amd64", "arm64"}})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != 2 || all[0].Digest == all[1].Digest {
		t.Fatalf("built %+v", all)
	}
	for _, b := range all {
		if b.Reference != "registry.example/team/koi-node:v1.2.3" || !strings.HasSuffix(b.File, "koi-node-linux-"+b.Arch+".tar") {
			t.Errorf("built %+v", b)
		}
	}
	if _, err := Build(t.Context(), Options{Root: root, Names: []string{"koi-nothing"}}); err == nil {
		t.Error("an image that does not exist was built")
	}
}

func TestBuildShowsTheCompilersMessage(t *testing.T) {
	root := checkout(t)
	write(t, filepath.Join(root, "cmd", "koi-node", "main.go"), "package main\n\nfunc main() { undefined() }\n")
	if _, err := Build(t.Context(), Options{Root: root}); err == nil || !strings.Contains(err.Error(), "undefined: undefined") {
		t.Errorf("error %v", err)
	}
}

func TestImage(t *testing.T) {
	i := image("ghcr.io/koi-net/koi-node:v1", "amd64", "v1", []byte("program"), []byte("roots"))
	if i.User != "65532:65532" || len(i.Entrypoint) != 1 || i.Entrypoint[0] != "/koi-node" {
		t.Errorf("user %q, entrypoint %v", i.User, i.Entrypoint)
	}
	want := map[string]string{"/koi-node": "program", "/etc/ssl/certs/ca-certificates.crt": "roots"}
	for _, f := range i.Files {
		if text, ok := want[f.Path]; ok && string(f.Content) == text {
			delete(want, f.Path)
		}
	}
	if len(want) > 0 {
		t.Errorf("lacking: %v", want)
	}
}
