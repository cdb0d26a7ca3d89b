package apidocs

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func all(t *testing.T) map[string][]byte {
	t.Helper()
	files, err := Files()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]byte{}
	for _, f := range files {
		in, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(in)
		if err != nil {
			t.Fatalf("%s: %v", f.Path, err)
		}
		if len(content) == 0 || len(content) != f.Size || len(f.ETag) != 34 || f.ContentType == "" {
			t.Errorf("%s: %d bytes, Size %d, ETag %s, %s", f.Path, len(content), f.Size, f.ETag, f.ContentType)
		}
		if f.Gzip() != nil && 2*len(f.Gzip()) > f.Size {
			t.Errorf("%s: compressed, it has %d bytes of %d", f.Path, len(f.Gzip()), f.Size)
		}
		out[f.Path] = content
	}
	if files[0].Path != Path {
		t.Errorf("the first file is %s", files[0].Path)
	}
	return out
}

// TestViewerIsARelease holds the viewer to the sums that were written when it was
// taken, and those to the release that go generate takes.
func TestViewerIsARelease(t *testing.T) {
	text, err := os.ReadFile("viewer/SHA256SUMS")
	if err != nil {
		t.Fatal(err)
	}
	files := all(t)
	left, err := os.ReadDir("viewer")
	if err != nil {
		t.Fatal(err)
	}
	sums := 0
	for s := bufio.NewScanner(bytes.NewReader(text)); s.Scan(); {
		if strings.HasPrefix(s.Text(), "#") {
			continue
		}
		sum, name, _ := strings.Cut(s.Text(), "  ")
		got := sha256.Sum256(files[Path+"/"+name])
		if hex.EncodeToString(got[:]) != sum {
			t.Errorf("%s is not what it was when it was taken: %x", name, got)
		}
		sums++
	}
	if sums != len(left)-1 {
		t.Errorf("%d sums for %d files", sums, len(left)-1)
	}
	source, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	version := regexp.MustCompile(`(?m)^//go:generate .* (\S+@\S+) viewer$`).FindSubmatch(source)
	if version == nil || !bytes.Contains(text, append([]byte("#   "), append(version[1], '\n')...)) {
		t.Errorf("SHA256SUMS is of another release than %q, which go generate takes", version)
	}
}

// TestEveryFileIsServed finds files that were put here and forgotten.
func TestEveryFileIsServed(t *testing.T) {
	known := map[string]bool{"viewer/SHA256SUMS": true}
	for _, f := range files {
		known[f.embedded] = true
	}
	for _, dir := range []string{"page", "viewer"} {
		names, err := filepath.Glob(dir + "/*")
		if err != nil || len(names) == 0 {
			t.Fatal(names, err)
		}
		for _, name := range names {
			if !known[name] {
				t.Errorf("%s is embedded and not served", name)
			}
		}
	}
}

var reference = regexp.MustCompile(`(?:href|src)="([^"]*)"`)

// TestPageRefersToItself follows what the page refers to, as a browser would below
// any base path.
func TestPageRefersToItself(t *testing.T) {
	files := all(t)
	page := files[Path]
	found := reference.FindAllSubmatch(page, -1)
	if len(found) < 8 {
		t.Fatalf("%d references", len(found))
	}
	for _, m := range found {
		ref := string(m[1])
		if ref == "openapi.json" {
			continue
		}
		if strings.HasPrefix(ref, "/") || strings.Contains(ref, ":") {
			t.Errorf("%s is not relative", ref)
		}
		if files[path.Join(path.Dir(Path), ref)] == nil {
			t.Errorf("the page refers to %s, which is not there", ref)
		}
	}
	for _, inline := range []string{"<style", " style=", " onload=", "<script>"} {
		if bytes.Contains(page, []byte(inline)) {
			t.Errorf("%s: its own policy forbids it", inline)
		}
	}
}

func TestFileThatIsNone(t *testing.T) {
	if f, err := newFile([]byte{0x1f, 0x8b, 8}); err == nil {
		t.Errorf("three bytes are taken for a file of %d", f.Size)
	}
}
