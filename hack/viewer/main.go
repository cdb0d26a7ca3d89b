package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// What is taken of the package. Those of compressed are kept gzip-compressed.
var (
	taken      = []string{"LICENSE", "NOTICE", "favicon-32x32.png", "swagger-ui-bundle.js", "swagger-ui-bundle.js.LICENSE.txt", "swagger-ui.css"}
	compressed = []string{"swagger-ui-bundle.js", "swagger-ui.css"}
)

// sums is the file that says what the others are.
const sums = "SHA256SUMS"

// maxFile bounds one file of a package: what is larger is not what it was.
const maxFile = 16 << 20

var packageName = regexp.MustCompile(`^swagger-ui-dist@\d+\.\d+\.\d+$`)

func main() {
	if len(os.Args) != 3 || !packageName.MatchString(os.Args[1]) {
		fmt.Fprintln(os.Stderr, "usage: viewer swagger-ui-dist@VERSION DIRECTORY")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1], os.Args[2])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "viewer:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, name, dir string) error {
	archive, err := pack(ctx, name)
	if err != nil {
		return err
	}
	files, err := extract(archive)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	for _, file := range taken {
		if err := keep(dir, file, files[file]); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, sums), describe(name, archive, files), 0o644)
}

// pack has npm fetch the package and returns its archive.
func pack(ctx context.Context, name string) ([]byte, error) {
	dir, err := os.MkdirTemp("", "viewer-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	cmd := exec.CommandContext(ctx, "npm", "pack", "--ignore-scripts", "--silent", name)
	cmd.Dir, cmd.Stderr = dir, os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("npm pack %s: %w", name, err)
	}
	return os.ReadFile(filepath.Join(dir, filepath.Base(strings.TrimSpace(string(out)))))
}

// extract returns what is taken of the archive, by name.
func extract(archive []byte) (map[string][]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(archive))
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	for t := tar.NewReader(z); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		name, ok := strings.CutPrefix(h.Name, "package/")
		if !ok || !slices.Contains(taken, name) {
			continue
		}
		if h.Size > maxFile {
			return nil, fmt.Errorf("%s has %d bytes", name, h.Size)
		}
		if files[name], err = io.ReadAll(t); err != nil {
			return nil, err
		}
	}
	for _, name := range taken {
		if len(files[name]) == 0 {
			return nil, fmt.Errorf("it has no %s", name)
		}
	}
	return files, nil
}

// keep writes a file into dir. One that is there already in another compression is
// left, or each version of Go would change it.
func keep(dir, name string, content []byte) error {
	path := filepath.Join(dir, name)
	if !slices.Contains(compressed, name) {
		return os.WriteFile(path, content, 0o644)
	}
	path += ".gz"
	if packed, err := os.ReadFile(path); err == nil {
		if held, err := unzip(packed); err == nil && bytes.Equal(held, content) {
			return nil
		}
	}
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return err
	}
	if _, err := z.Write(content); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	return os.WriteFile(path, b.Bytes(), 0o644)
}

func unzip(packed []byte) ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(z, maxFile+1))
}

// describe writes what the files are, in the form that sha256sum reads.
func describe(name string, archive []byte, files map[string][]byte) []byte {
	integrity := sha512.Sum512(archive)
	var b bytes.Buffer
	fmt.Fprintf(&b, "# Made by hack/viewer. From the npm package\n#   %s\n# with the integrity\n#   sha512-%s\n", name, base64.StdEncoding.EncodeToString(integrity[:]))
	fmt.Fprintf(&b, "# The sums are of the package's files; here %s are compressed, with .gz after their names.\n", strings.Join(compressed, " and "))
	for _, file := range taken {
		fmt.Fprintf(&b, "%x  %s\n", sha256.Sum256(files[file]), file)
	}
	return b.Bytes()
}
