package assets

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// checkout makes a checkout with one small component in it.
func checkout(t *testing.T) (*Builder, Component) {
	t.Helper()
	root := t.TempDir()
	dir := filepath.Join(root, "tool")
	write(t, filepath.Join(dir, "go.mod"), "module example.com/tool\n\ngo 1.26\n")
	write(t, filepath.Join(dir, "main.go"), "package main\n\nfunc main() { println(\"one\") }\n")
	return &Builder{Root: root, Cache: filepath.Join(t.TempDir(), "cache"), Progress: io.Discard},
		Component{Name: "tool", Dir: "tool", Packages: []string{"."}, Links: []string{"other-name"}}
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

func TestKey(t *testing.T) {
	b, c := checkout(t)
	key := func() string {
		t.Helper()
		k, err := c.Key(b.Root)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	first := key()
	if !strings.HasPrefix(first, "tool-") || key() != first {
		t.Fatalf("key %q, then %q", first, key())
	}
	write(t, filepath.Join(b.Root, "tool", "main_test.go"), "package main\n")
	write(t, filepath.Join(b.Root, "tool", "notes.txt"), "hello\n")
	if key() != first {
		t.Error("a file that is not built changes the key")
	}
	changes := []struct {
		name   string
		change func()
	}{
		{"a source", func() { write(t, filepath.Join(b.Root, "tool", "main.go"), "package main\n\nfunc main() {}\n") }},
		{"a new source", func() { write(t, filepath.Join(b.Root, "tool", "sub", "a.go"), "package sub\n") }},
		{"the versions", func() { write(t, filepath.Join(b.Root, "tool", "go.sum"), "x\n") }},
		{"the tags", func() { c.Tags = "a" }},
		{"the links", func() { c.Links = nil }},
	}
	for last := first; len(changes) > 0; changes = changes[1:] {
		changes[0].change()
		if now := key(); now == last {
			t.Errorf("%s does not change the key", changes[0].name)
		} else {
			last = now
		}
	}
}

func TestEnsure(t *testing.T) {
	b, c := checkout(t)
	var progress bytes.Buffer
	b.Progress = &lineWriter{w: &progress}
	// What an interrupted build left behind does no harm and goes.
	write(t, filepath.Join(b.Cache, ".building-tool", "tool"), "half a program")
	dirs, err := b.Ensure(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"tool", "other-name"} {
		info, err := os.Stat(filepath.Join(dirs["tool"], name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode()&0o100 == 0 || info.Size() < 1000 {
			t.Errorf("%s is no program: %v, %d bytes", name, info.Mode(), info.Size())
		}
	}
	if left, _ := filepath.Glob(filepath.Join(b.Cache, ".building-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if !strings.Contains(progress.String(), "tool: built in") {
		t.Errorf("progress: %q", progress.String())
	}
	progress.Reset()
	if _, err := b.Ensure(t.Context(), c); err != nil || progress.Len() > 0 {
		t.Errorf("a second run: %v, %q", err, progress.String())
	}
}

func TestEnsureFails(t *testing.T) {
	b, c := checkout(t)
	write(t, filepath.Join(b.Root, "tool", "main.go"), "package main\n\nfunc main() { undefined() }\n")
	_, err := b.Ensure(t.Context(), c)
	if err == nil || !strings.Contains(err.Error(), "undefined: undefined") {
		t.Errorf("error %v, want the compiler's message", err)
	}
	dir, err := b.Dir(c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("a failed build is in the cache: %v", err)
	}
}

func TestLockWaits(t *testing.T) {
	file := filepath.Join(t.TempDir(), "lock")
	release, err := Lock(t.Context(), file, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	var note bytes.Buffer
	if _, err := Lock(ctx, file, &note); err == nil {
		t.Fatal("two hold the lock")
	}
	if !strings.Contains(note.String(), "waiting for another run") {
		t.Errorf("note %q", note.String())
	}
	release()
	again, err := Lock(t.Context(), file, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	again()
}

// TestComponents checks the real ones against the checkout: every one has a key, and
// the stamped ones find their version in go.mod.
func TestComponents(t *testing.T) {
	root, err := Root()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range All() {
		if _, err := c.Key(root); err != nil {
			t.Errorf("%s: %v", c.Name, err)
		}
		version, err := c.Version(root)
		if err != nil || c.Stamp != "" && !strings.HasPrefix(version, "v") {
			t.Errorf("%s: version %q, %v", c.Name, version, err)
		}
	}
	stamp, err := kubernetesStamp("v1.36.3")
	if err != nil || !strings.Contains(stamp, "gitMajor=1 ") || !strings.Contains(stamp, "gitMinor=36 ") {
		t.Errorf("stamp %q, %v", stamp, err)
	}
	if _, err := kubernetesStamp("v1"); err == nil {
		t.Error("a version without a minor was taken")
	}
}

func TestProgress(t *testing.T) {
	p := &progress{total: 4}
	steps := []struct{ line, want string }{
		{"", "starting"},
		{"go: downloading k8s.io/api v0.36.3", "downloading modules (1)"},
		{"k8s.io/api/core/v1", "1 of 4 packages"},
		{"# k8s.io/api/core/v1", "1 of 4 packages"},
		{"x.go:3:4: undefined: y", "1 of 4 packages"},
		{"k8s.io/api/apps/v1", "2 of 4 packages"},
		{"example.com/tool", "linking"},
	}
	for _, s := range steps {
		p.line(s.line)
		if got := p.String(); got != s.want {
			t.Errorf("after %q: %q, want %q", s.line, got, s.want)
		}
	}
	if tail := p.tail(); !strings.Contains(tail, "undefined: y") || strings.Contains(tail, "downloading") {
		t.Errorf("tail %q", tail)
	}
}
