package oci

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"time"
)

const (
	typeIndex    = "application/vnd.oci.image.index.v1+json"
	typeManifest = "application/vnd.oci.image.manifest.v1+json"
	typeConfig   = "application/vnd.oci.image.config.v1+json"
	typeLayer    = "application/vnd.oci.image.layer.v1.tar+gzip"
)

// File is one file or directory of an image. Parent directories are made as needed,
// owned by root with mode 0755.
type File struct {
	// Path is absolute; a path that ends in a slash is a directory.
	Path string
	// Mode is the permission bits, the sticky bit (01000) included.
	Mode int64
	// Owner is the numeric user and group.
	Owner int
	// Content is the file's bytes; nil for a directory.
	Content []byte
}

// Image is what an image holds and how it is run.
type Image struct {
	// Reference is the full name with a tag, such as ghcr.io/koi-net/koi-node:v1.
	Reference string
	// Arch is the processor architecture by Go's name; the system is always linux.
	Arch string
	// User is whom the process runs as, numeric so that runAsNonRoot can be checked.
	User string
	// Entrypoint is the command, absolute.
	Entrypoint []string
	// Env are the variables, NAME=VALUE.
	Env []string
	// Labels are the image's labels.
	Labels map[string]string
	// Files are the contents of the one layer.
	Files []File
}

// Written says what an archive holds.
type Written struct {
	// Digest is the manifest's, which names the image: sha256:...
	Digest string
	// Compressed is the size of the layer in the archive, in bytes: what a pull moves.
	Compressed int64
	// Unpacked is the size of the layer's tar, in bytes.
	Unpacked int64
}

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Platform    *platform         `json:"platform,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
}

type runConfig struct {
	User       string            `json:"User,omitempty"`
	Env        []string          `json:"Env,omitempty"`
	Entrypoint []string          `json:"Entrypoint,omitempty"`
	WorkingDir string            `json:"WorkingDir,omitempty"`
	Labels     map[string]string `json:"Labels,omitempty"`
}

type rootFS struct {
	Type    string   `json:"type"`
	DiffIDs []string `json:"diff_ids"`
}

type config struct {
	Created string `json:"created"`
	platform
	Config runConfig `json:"config"`
	RootFS rootFS    `json:"rootfs"`
}

type manifest struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Config        descriptor   `json:"config"`
	Layers        []descriptor `json:"layers"`
}

type index struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Manifests     []descriptor `json:"manifests"`
}

// dockerManifest is an entry of docker's manifest.json.
type dockerManifest struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// Write writes the archive of one image.
func (i Image) Write(w io.Writer) (Written, error) {
	tag, err := i.tag()
	if err != nil {
		return Written{}, err
	}
	layer, err := layerTar(i.Files)
	if err != nil {
		return Written{}, err
	}
	packed, err := compress(layer)
	if err != nil {
		return Written{}, err
	}
	p := platform{Architecture: i.Arch, OS: "linux"}
	var blobs blobs
	layerDesc := blobs.add(typeLayer, packed)
	configDesc, err := blobs.addJSON(typeConfig, config{
		Created: time.Unix(0, 0).UTC().Format(time.RFC3339), platform: p,
		Config: runConfig{User: i.User, Env: i.Env, Entrypoint: i.Entrypoint, WorkingDir: "/", Labels: i.Labels},
		RootFS: rootFS{Type: "layers", DiffIDs: []string{digest(layer)}},
	})
	if err != nil {
		return Written{}, err
	}
	manifestDesc, err := blobs.addJSON(typeManifest, manifest{
		SchemaVersion: 2, MediaType: typeManifest, Config: configDesc, Layers: []descriptor{layerDesc},
	})
	if err != nil {
		return Written{}, err
	}
	manifestDesc.Platform = &p
	manifestDesc.Annotations = map[string]string{
		"io.containerd.image.name":          i.Reference,
		"org.opencontainers.image.ref.name": tag,
	}
	top, err := json.Marshal(index{SchemaVersion: 2, MediaType: typeIndex, Manifests: []descriptor{manifestDesc}})
	if err != nil {
		return Written{}, fmt.Errorf("encode the image index: %w", err)
	}
	docker, err := json.Marshal([]dockerManifest{{
		Config: blobPath(configDesc.Digest), RepoTags: []string{i.Reference}, Layers: []string{blobPath(layerDesc.Digest)},
	}})
	if err != nil {
		return Written{}, fmt.Errorf("encode docker's manifest: %w", err)
	}
	files := slices.Clone(blobs.files)
	files = append(files,
		File{Path: "/index.json", Content: top},
		File{Path: "/manifest.json", Content: docker},
		File{Path: "/oci-layout", Content: []byte(`{"imageLayoutVersion":"1.0.0"}`)})
	for n := range files {
		files[n].Mode = 0o644
	}
	if err := writeTar(w, files); err != nil {
		return Written{}, fmt.Errorf("write the archive of %s: %w", i.Reference, err)
	}
	return Written{Digest: manifestDesc.Digest, Compressed: int64(len(packed)), Unpacked: int64(len(layer))}, nil
}

// tag returns the tag of the reference and checks what the archive depends on.
func (i Image) tag() (string, error) {
	slash := strings.LastIndex(i.Reference, "/")
	colon := strings.LastIndex(i.Reference, ":")
	if colon <= slash || colon == len(i.Reference)-1 || slash < 0 {
		return "", fmt.Errorf("image reference %q: want HOST/NAME:TAG", i.Reference)
	}
	if i.Arch == "" {
		return "", fmt.Errorf("image %s: no architecture", i.Reference)
	}
	return i.Reference[colon+1:], nil
}

// blobs collects the content-addressed part of a layout.
type blobs struct{ files []File }

func (b *blobs) add(mediaType string, content []byte) descriptor {
	d := descriptor{MediaType: mediaType, Digest: digest(content), Size: int64(len(content))}
	b.files = append(b.files, File{Path: "/" + blobPath(d.Digest), Content: content})
	return d
}

func (b *blobs) addJSON(mediaType string, v any) (descriptor, error) {
	content, err := json.Marshal(v)
	if err != nil {
		return descriptor{}, fmt.Errorf("encode %s: %w", mediaType, err)
	}
	return b.add(mediaType, content), nil
}

func blobPath(digest string) string {
	return "blobs/sha256/" + strings.TrimPrefix(digest, "sha256:")
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// layerTar packs the files of a layer.
func layerTar(files []File) ([]byte, error) {
	var out bytes.Buffer
	if err := writeTar(&out, files); err != nil {
		return nil, fmt.Errorf("pack the layer: %w", err)
	}
	return out.Bytes(), nil
}

// writeTar writes files sorted by path, each directory before what is in it.
func writeTar(w io.Writer, files []File) error {
	all := map[string]File{}
	for _, f := range files {
		if !path.IsAbs(f.Path) || path.Clean(f.Path) != strings.TrimSuffix(f.Path, "/") {
			return fmt.Errorf("%q is not a clean absolute path", f.Path)
		}
		if _, twice := all[strings.TrimSuffix(f.Path, "/")]; twice {
			return fmt.Errorf("%s is given twice", f.Path)
		}
		all[strings.TrimSuffix(f.Path, "/")] = f
	}
	for _, f := range files {
		for dir := path.Dir(strings.TrimSuffix(f.Path, "/")); dir != "/"; dir = path.Dir(dir) {
			if _, ok := all[dir]; !ok {
				all[dir] = File{Path: dir + "/", Mode: 0o755}
			}
		}
	}
	tw := tar.NewWriter(w)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		f := all[name]
		header := &tar.Header{
			Typeflag: tar.TypeReg, Name: strings.TrimPrefix(f.Path, "/"), Mode: f.Mode, Uid: f.Owner, Gid: f.Owner,
			Size: int64(len(f.Content)), ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR,
		}
		if strings.HasSuffix(f.Path, "/") {
			header.Typeflag = tar.TypeDir
		}
		if err := tw.WriteHeader(header); err != nil {
			return fmt.Errorf("%s: %w", f.Path, err)
		}
		if _, err := tw.Write(f.Content); err != nil {
			return fmt.Errorf("%s: %w", f.Path, err)
		}
	}
	return tw.Close()
}

// compress packs with gzip, whose header names neither file nor time.
func compress(b []byte) ([]byte, error) {
	var out bytes.Buffer
	zw := gzip.NewWriter(&out)
	if _, err := zw.Write(b); err != nil {
		return nil, fmt.Errorf("compress the layer: %w", err)
	}
	if err := zw.Close(); err != nil {
		return nil, fmt.Errorf("compress the layer: %w", err)
	}
	return out.Bytes(), nil
}
