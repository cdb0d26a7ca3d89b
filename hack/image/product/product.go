package product

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/koi-net/koi-operator/hack/image/oci"
)

// Registry is where the published images are.
const Registry = "ghcr.io/koi-net"

// nonroot is the user that the programs run as, as in distroless images.
const nonroot = 65532

// Names are the images, each named as its program and its directory below cmd.
func Names() []string { return []string{"koi-node", "koi-operator"} }

// Reference returns the full name of an image.
func Reference(registry, name, version string) string {
	return strings.TrimSuffix(registry, "/") + "/" + name + ":" + version
}

// Options say what to build.
type Options struct {
	// Root is the root of the repository.
	Root string
	// Version is the tag of every image; empty derives each from its content.
	Version string
	// Registry is the prefix of the names; empty means Registry.
	Registry string
	// Archs are the architectures by Go's names; empty means this machine's.
	Archs []string
	// Names are the images to build; empty means all.
	Names []string
	// Progress receives a line for each step.
	Progress io.Writer
}

// Built is one image of one architecture.
type Built struct {
	// Name is the program's.
	Name string
	// Reference is the image's full name with its tag.
	Reference string
	// Arch is the architecture.
	Arch string
	// File is the archive.
	File string
	// Digest names the image's manifest.
	Digest string
	// Program is the size of the program in bytes, Compressed that of the image as it
	// is moved, Unpacked as it lies on disk.
	Program, Compressed, Unpacked int64
}

// Build builds images into the repository's dist directory, which Git ignores.
// Archives that are there and up to date are kept.
func Build(ctx context.Context, o Options) ([]Built, error) {
	if len(o.Archs) == 0 {
		o.Archs = []string{runtime.GOARCH}
	}
	if len(o.Names) == 0 {
		o.Names = Names()
	}
	if o.Registry == "" {
		o.Registry = Registry
	}
	if o.Progress == nil {
		o.Progress = io.Discard
	}
	roots, err := certificates()
	if err != nil {
		return nil, err
	}
	dist := filepath.Join(o.Root, "dist")
	if err := os.MkdirAll(dist, 0o755); err != nil {
		return nil, fmt.Errorf("make the directory of the images: %w", err)
	}
	var out []Built
	for _, name := range o.Names {
		if !slices.Contains(Names(), name) {
			return nil, fmt.Errorf("no image is called %q: there are %s", name, strings.Join(Names(), ", "))
		}
		for _, arch := range o.Archs {
			built, err := build(ctx, o, name, arch, roots)
			if err != nil {
				return nil, err
			}
			out = append(out, built)
		}
	}
	return out, nil
}

// build makes one image, or finds it made.
func build(ctx context.Context, o Options, name, arch string, roots []byte) (Built, error) {
	version := o.Version
	if version == "" {
		sum, err := contentHash(ctx, o.Root, name, roots)
		if err != nil {
			return Built{}, err
		}
		version = "dev-" + sum[:12]
	}
	out := Built{
		Name: name, Arch: arch, Reference: Reference(o.Registry, name, version),
		File: filepath.Join(o.Root, "dist", fmt.Sprintf("%s-linux-%s.tar", name, arch)),
	}
	// A version given by hand does not say what is in the image.
	if note, err := readNote(out.File); err == nil && o.Version == "" && note.Reference == out.Reference {
		note.File = out.File
		return note, nil
	}
	start := time.Now()
	stop := tell(o.Progress, "building image "+out.Reference+" for "+arch)
	program, err := compile(ctx, o.Root, name, arch, version)
	stop()
	if err != nil {
		return Built{}, err
	}
	out.Program = int64(len(program))
	var archive bytes.Buffer
	written, err := image(out.Reference, arch, version, program, roots).Write(&archive)
	if err != nil {
		return Built{}, err
	}
	out.Digest, out.Compressed, out.Unpacked = written.Digest, written.Compressed, written.Unpacked
	if err := replace(out.File, archive.Bytes()); err != nil {
		return Built{}, err
	}
	if err := writeNote(out); err != nil {
		return Built{}, err
	}
	fmt.Fprintf(o.Progress, "built %s in %s\n", out.Reference, time.Since(start).Round(time.Second/10))
	return out, nil
}

// image describes the image of a program.
func image(reference, arch, version string, program, roots []byte) oci.Image {
	_, repository, _ := strings.Cut(reference, "/")
	name, _, _ := strings.Cut(repository[strings.LastIndex(repository, "/")+1:], ":")
	return oci.Image{
		Reference:  reference,
		Arch:       arch,
		User:       fmt.Sprintf("%d:%d", nonroot, nonroot),
		Entrypoint: []string{"/" + name},
		Env:        []string{"PATH=/", "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt"},
		Labels: map[string]string{
			"org.opencontainers.image.title":    name,
			"org.opencontainers.image.version":  version,
			"org.opencontainers.image.source":   "https://github.com/koi-net/koi-operator",
			"org.opencontainers.image.licenses": "Apache-2.0",
		},
		Files: []oci.File{
			{Path: "/" + name, Mode: 0o755, Content: program},
			{Path: "/etc/passwd", Mode: 0o644, Content: fmt.Appendf(nil,
				"root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:%[1]d:%[1]d:nonroot:/home/nonroot:/sbin/nologin\n", nonroot)},
			{Path: "/etc/group", Mode: 0o644, Content: fmt.Appendf(nil, "root:x:0:\nnonroot:x:%d:\n", nonroot)},
			{Path: "/etc/ssl/certs/ca-certificates.crt", Mode: 0o644, Content: roots},
			{Path: "/home/nonroot/", Mode: 0o700, Owner: nonroot},
			{Path: "/tmp/", Mode: 0o1777},
		},
	}
}

// compile builds a program, static and without paths of the machine in it.
func compile(ctx context.Context, root, name, arch, version string) ([]byte, error) {
	dir, err := os.MkdirTemp("", "koi-image-")
	if err != nil {
		return nil, fmt.Errorf("compile %s: %w", name, err)
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, name)
	_, err = goCommand(ctx, root, arch, "build", "-trimpath", "-buildvcs=false",
		"-ldflags=-s -w -X main.version="+version, "-o", file, "./cmd/"+name)
	if err != nil {
		return nil, err
	}
	program, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("compile %s: %w", name, err)
	}
	return program, nil
}

// goCommand runs the go command for a static Linux program.
func goCommand(ctx context.Context, root, arch string, args ...string) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch, "GOFLAGS=", "GOWORK=off")
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.Bytes(), nil
}

// listed is what is asked of go list about a package.
type listed struct {
	ImportPath, Dir string
	GoFiles, SFiles []string
	EmbedFiles      []string
	Module          *struct {
		Path, Version, Dir string
		Main               bool
		Replace            *struct{ Path, Version string }
	}
	Standard bool
}

// contentHash hashes everything that an image is made of: toolchain, the sources of
// the project's packages, the versions of all others, certificates.
func contentHash(ctx context.Context, root, name string, roots []byte) (string, error) {
	text, err := goCommand(ctx, root, runtime.GOARCH, "list", "-deps",
		"-json=ImportPath,Dir,GoFiles,SFiles,EmbedFiles,Module,Standard", "./cmd/"+name)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	// The layout of the image itself, with stand-ins for what is hashed below.
	layout, err := json.Marshal(image(Reference(Registry, name, "v"), "arch", "v", nil, roots))
	if err != nil {
		return "", fmt.Errorf("hash the image of %s: %w", name, err)
	}
	fmt.Fprintf(h, "%s %s\n%s\n", runtime.Version(), name, layout)
	for dec := json.NewDecoder(bytes.NewReader(text)); ; {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return hex.EncodeToString(h.Sum(nil)), nil
		} else if err != nil {
			return "", fmt.Errorf("read what go list says of %s: %w", name, err)
		}
		switch {
		case p.Standard || p.Module == nil:
		case !p.Module.Main:
			fmt.Fprintf(h, "%s %s %s\n", p.ImportPath, p.Module.Path, p.Module.Version)
			if r := p.Module.Replace; r != nil {
				fmt.Fprintf(h, "replaced by %s %s\n", r.Path, r.Version)
			}
		default:
			for _, file := range slices.Concat(p.GoFiles, p.SFiles, p.EmbedFiles) {
				b, err := os.ReadFile(filepath.Join(p.Dir, file))
				if err != nil {
					return "", fmt.Errorf("hash the sources of %s: %w", name, err)
				}
				fmt.Fprintf(h, "%s/%s %d\n", p.ImportPath, file, len(b))
				h.Write(b)
			}
		}
	}
}

// certificates returns the machine's bundle of certificate authorities, which lets the
// programs reach peers by https.
func certificates() ([]byte, error) {
	candidates := []string{
		os.Getenv("SSL_CERT_FILE"),
		"/etc/ssl/certs/ca-certificates.crt", // Debian, Alpine
		"/etc/pki/tls/certs/ca-bundle.crt",   // Fedora
		"/etc/ssl/cert.pem",                  // macOS, BSD
	}
	for _, file := range candidates {
		if file == "" {
			continue
		}
		if b, err := os.ReadFile(file); err == nil && bytes.Contains(b, []byte("BEGIN CERTIFICATE")) {
			return b, nil
		}
	}
	return nil, errors.New("no bundle of certificate authorities on this machine: install ca-certificates, or name one by SSL_CERT_FILE")
}

// noteFile is where what is known of an archive is kept, next to it.
func noteFile(archive string) string { return strings.TrimSuffix(archive, ".tar") + ".json" }

// readNote returns what is known of an archive that is there.
func readNote(archive string) (Built, error) {
	if _, err := os.Stat(archive); err != nil {
		return Built{}, err
	}
	b, err := os.ReadFile(noteFile(archive))
	if err != nil {
		return Built{}, err
	}
	var out Built
	return out, json.Unmarshal(b, &out)
}

func writeNote(b Built) error {
	note := b
	note.File = filepath.Base(b.File) // the checkout may be moved
	text, err := json.MarshalIndent(note, "", "  ")
	if err != nil {
		return fmt.Errorf("note what is in %s: %w", b.File, err)
	}
	return replace(noteFile(b.File), append(text, '\n'))
}

// replace writes a file as a whole or not at all.
func replace(file string, content []byte) error {
	tmp := file + ".tmp"
	if err := os.WriteFile(tmp, content, 0o644); err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	if err := os.Rename(tmp, file); err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	return nil
}

// tell says what is going on, and again every ten seconds until it is stopped.
func tell(w io.Writer, what string) (stop func()) {
	fmt.Fprintln(w, what)
	start := time.Now()
	done := make(chan struct{})
	var group sync.WaitGroup
	group.Go(func() {
		tick := time.NewTicker(10 * time.Second)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				fmt.Fprintf(w, "%s, %s\n", what, time.Since(start).Round(time.Second))
			}
		}
	})
	return func() { close(done); group.Wait() }
}
