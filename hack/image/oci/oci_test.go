package oci

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
)

func sample() Image {
	return Image{
		Reference: "registry.example:5000/team/app:v1", Arch: "arm64", User: "65532", Entrypoint: []string{"/app"},
		Env: []string{"PATH=/"}, Labels: map[string]string{"b": "2", "a": "1"},
		Files: []File{
			{Path: "/usr/bin/app", Mode: 0o755, Content: []byte("program")},
			{Path: "/tmp/", Mode: 0o1777},
			{Path: "/data/", Mode: 0o750, Owner: 65532},
		},
	}
}

// unpack reads a tar into memory.
func unpack(t *testing.T, r io.Reader) (map[string]string, map[string]*tar.Header, []string) {
	t.Helper()
	content, headers := map[string]string{}, map[string]*tar.Header{}
	var order []string
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return content, headers, order
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		content[h.Name], headers[h.Name] = string(b), h
		order = append(order, h.Name)
	}
}

func TestWrite(t *testing.T) {
	var out bytes.Buffer
	written, err := sample().Write(&out)
	if err != nil {
		t.Fatal(err)
	}
	files, _, _ := unpack(t, &out)

	var top index
	if err := json.Unmarshal([]byte(files["index.json"]), &top); err != nil {
		t.Fatal(err)
	}
	if len(top.Manifests) != 1 || top.Manifests[0].Digest != written.Digest {
		t.Fatalf("index %+v does not name %s", top, written.Digest)
	}
	if got := top.Manifests[0].Annotations["io.containerd.image.name"]; got != sample().Reference {
		t.Errorf("image name %q", got)
	}
	if got := top.Manifests[0].Annotations["org.opencontainers.image.ref.name"]; got != "v1" {
		t.Errorf("tag %q", got)
	}
	// blob follows a descriptor and checks both digest and size.
	blob := func(d descriptor) []byte {
		t.Helper()
		b := []byte(files[blobPath(d.Digest)])
		if digest(b) != d.Digest || int64(len(b)) != d.Size {
			t.Fatalf("blob %+v: have %d bytes of %s", d, len(b), digest(b))
		}
		return b
	}
	var m manifest
	if err := json.Unmarshal(blob(top.Manifests[0]), &m); err != nil {
		t.Fatal(err)
	}
	var c config
	if err := json.Unmarshal(blob(m.Config), &c); err != nil {
		t.Fatal(err)
	}
	if c.Architecture != "arm64" || c.OS != "linux" || c.Config.User != "65532" || c.Config.Entrypoint[0] != "/app" {
		t.Errorf("config %+v", c)
	}
	zr, err := gzip.NewReader(bytes.NewReader(blob(m.Layers[0])))
	if err != nil {
		t.Fatal(err)
	}
	layer, err := io.ReadAll(zr)
	if err != nil {
		t.Fatal(err)
	}
	if digest(layer) != c.RootFS.DiffIDs[0] {
		t.Errorf("diff ID %s, layer is %s", c.RootFS.DiffIDs[0], digest(layer))
	}
	if int64(len(layer)) != written.Unpacked || m.Layers[0].Size != written.Compressed {
		t.Errorf("sizes %+v", written)
	}
	content, headers, order := unpack(t, bytes.NewReader(layer))
	if content["usr/bin/app"] != "program" || headers["usr/bin/app"].Mode != 0o755 {
		t.Errorf("layer holds %v", content)
	}
	if headers["tmp/"].Mode != 0o1777 || headers["data/"].Uid != 65532 || headers["usr/"].Typeflag != tar.TypeDir {
		t.Errorf("directories: %+v", headers)
	}
	if got := strings.Join(order, " "); got != "data/ tmp/ usr/ usr/bin/ usr/bin/app" {
		t.Errorf("order %s", got)
	}
	var docker []dockerManifest
	if err := json.Unmarshal([]byte(files["manifest.json"]), &docker); err != nil {
		t.Fatal(err)
	}
	if files[docker[0].Config] == "" || files[docker[0].Layers[0]] == "" || docker[0].RepoTags[0] != sample().Reference {
		t.Errorf("docker's manifest %+v", docker)
	}
}

func TestWriteIsReproducible(t *testing.T) {
	var a, b bytes.Buffer
	first, other := sample(), sample()
	other.Files[0], other.Files[2] = other.Files[2], other.Files[0]
	if _, err := first.Write(&a); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Write(&b); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a.Bytes(), b.Bytes()) {
		t.Error("the order of the files changes the image")
	}
	other.Files[0].Mode = 0o700
	b.Reset()
	if _, err := other.Write(&b); err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(a.Bytes(), b.Bytes()) {
		t.Error("a file's mode does not change the image")
	}
}

func TestWriteRefuses(t *testing.T) {
	tests := []struct {
		name   string
		change func(*Image)
		want   string
	}{
		{"no tag", func(i *Image) { i.Reference = "host:5000/app" }, "want HOST/NAME:TAG"},
		{"no architecture", func(i *Image) { i.Arch = "" }, "no architecture"},
		{"relative path", func(i *Image) { i.Files[0].Path = "app" }, "not a clean absolute path"},
		{"path that climbs", func(i *Image) { i.Files[0].Path = "/a/../../b" }, "not a clean absolute path"},
		{"one path twice", func(i *Image) { i.Files[1] = i.Files[0] }, "given twice"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			i := sample()
			tt.change(&i)
			if _, err := i.Write(io.Discard); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}
