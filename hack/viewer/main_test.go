package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// archive packs files as npm does.
func archive(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for name, content := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content)), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func release() map[string]string {
	files := map[string]string{"package/package.json": "{}", "package/other/LICENSE": "no", "../NOTICE": "no"}
	for _, name := range taken {
		files["package/"+name] = "what is in " + name
	}
	return files
}

func TestExtract(t *testing.T) {
	files, err := extract(archive(t, release()))
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != len(taken) {
		t.Errorf("%d files are taken", len(files))
	}
	for _, name := range taken {
		if string(files[name]) != "what is in "+name {
			t.Errorf("%s is %q", name, files[name])
		}
	}
	missing, large := release(), release()
	delete(missing, "package/NOTICE")
	large["package/NOTICE"] = strings.Repeat("x", maxFile+1)
	whole := archive(t, release())
	for name, content := range map[string][]byte{"missing": archive(t, missing), "large": archive(t, large), "cut": whole[:len(whole)/2], "none": nil} {
		if _, err := extract(content); err == nil {
			t.Errorf("%s: it is taken for a release", name)
		}
	}
}

// TestKeep finds that what is there already is left as it was compressed.
func TestKeep(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "swagger-ui.css.gz")
	var stored bytes.Buffer
	z, err := gzip.NewWriterLevel(&stored, gzip.NoCompression)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = z.Write([]byte("a"))
	_ = z.Close()
	if err := os.WriteFile(path, stored.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	for content, same := range map[string]bool{"a": true, "b": false} {
		if err := os.WriteFile(path, stored.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := keep(dir, "swagger-ui.css", []byte(content)); err != nil {
			t.Fatal(err)
		}
		packed, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := unzip(packed); err != nil || string(got) != content || bytes.Equal(packed, stored.Bytes()) != same {
			t.Errorf("%s: %q, %v; left as it was: %v", content, got, err, bytes.Equal(packed, stored.Bytes()))
		}
	}
	if err := keep(dir, "LICENSE", []byte("free")); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(filepath.Join(dir, "LICENSE")); err != nil || string(text) != "free" {
		t.Errorf("LICENSE: %q, %v", text, err)
	}
}

func TestDescribe(t *testing.T) {
	files := map[string][]byte{}
	for _, name := range taken {
		files[name] = []byte(name)
	}
	text := string(describe("swagger-ui-dist@1.2.3", []byte("archive"), files))
	for _, want := range []string{"swagger-ui-dist@1.2.3\n", "sha512-", fmt.Sprintf("  %s\n", taken[0])} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}
