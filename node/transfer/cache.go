package transfer

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"strings"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

const (
	// suffix ends the names of a cache's files.
	suffix = ".json"
	// maxName is the longest file name that common file systems take, in bytes.
	maxName = 255
	// maxBundleFile bounds one file of a cache. Indented, contents take a few
	// times the room of their normal form, which Limits.ContentsBytes bounds.
	maxBundleFile = 64 << 20
)

// ErrLongName is wrapped where a RID is too long for the name of a file. The library cannot keep
// such a bundle either.
var ErrLongName = errors.New("RID too long for a file name")

// names is how rid-lib encodes RIDs in file names.
var names = base64.RawURLEncoding.Strict()

// FileName returns the name of r's file in a cache of the library: the RID in
// URL-safe base64 without padding, with .json behind it. The error wraps
// ErrLongName.
func FileName(r rid.RID) (string, error) {
	if n := names.EncodedLen(len(r)) + len(suffix); n > maxName {
		return "", fmt.Errorf("%w: its name would have %d bytes, file systems take %d", ErrLongName, n, maxName)
	}
	return names.EncodeToString([]byte(r)) + suffix, nil
}

// FileRID returns the RID whose file in a cache has the given name, of which
// FileName is the inverse. The error says why it is no such name.
func FileRID(name string) (rid.RID, error) {
	text, ok := strings.CutSuffix(name, suffix)
	if !ok {
		return "", errors.New("no file of a cache: its name does not end in " + suffix)
	}
	raw, err := names.DecodeString(text)
	if err != nil || names.EncodeToString(raw) != text {
		return "", errors.New("no file of a cache: its name is no RID in base64")
	}
	r, err := rid.Parse(string(raw))
	if err != nil {
		return "", fmt.Errorf("its name stands for no RID: %w", err)
	}
	return r, nil
}

// entry is a file of a cache.
type entry struct {
	name string
	rid  rid.RID
	// problem is why the file is none of a cache; rid is empty then.
	problem error
}

// entries lists a cache in the order of names, which are all held in memory.
// Nothing is opened; links and whatever else is no regular file are problems.
func entries(cache fs.FS) ([]entry, error) {
	files, err := fs.ReadDir(cache, ".")
	if err != nil {
		return nil, err
	}
	out := make([]entry, 0, len(files))
	for _, f := range files {
		e := entry{name: f.Name()}
		if f.Type().IsRegular() {
			e.rid, e.problem = FileRID(e.name)
		} else {
			e.problem = errors.New("no regular file")
		}
		out = append(out, e)
	}
	return out, nil
}

// bundle reads one file of a cache and holds it against its name and its hash.
// Contents come in normal form.
func bundle(cache fs.FS, e entry, l protocol.Limits) (protocol.Bundle, error) {
	text, err := readFile(cache, e.name, maxBundleFile)
	switch {
	case err != nil:
		return protocol.Bundle{}, err
	case len(text) == 0:
		return protocol.Bundle{}, errors.New("the file is empty: writing it was interrupted")
	}
	l.BodyBytes = maxBundleFile
	b, err := protocol.DecodeBundle(text, l)
	if err != nil {
		return protocol.Bundle{}, fmt.Errorf("no bundle: %w", err)
	}
	if b.Manifest.RID != e.rid {
		return protocol.Bundle{}, fmt.Errorf("the bundle in it is that of another RID, %q", clip(string(b.Manifest.RID)))
	}
	if err := protocol.VerifyHash(b.Contents, b.Manifest.SHA256Hash); err != nil {
		return protocol.Bundle{}, err
	}
	return b, nil
}

// bundles reads a cache, in the order of names: a bundle or why there is none.
// It ends early with ctx.
func bundles(ctx context.Context, cache fs.FS, list []entry, l protocol.Limits) iter.Seq2[entry, protocol.Bundle] {
	return func(yield func(entry, protocol.Bundle) bool) {
		for _, e := range list {
			if ctx.Err() != nil {
				return
			}
			var b protocol.Bundle
			if e.problem == nil {
				b, e.problem = bundle(cache, e, l)
			}
			if !yield(e, b) {
				return
			}
		}
	}
}

// readFile reads a regular file of at most limit bytes.
func readFile(in fs.FS, name string, limit int64) ([]byte, error) {
	// Opening a pipe would wait for whoever writes into it.
	info, err := fs.Stat(in, name)
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is no regular file", name)
	case info.Size() > limit:
		return nil, tooLarge(name, limit)
	}
	f, err := in.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // it was only read
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	switch {
	case err != nil:
		return nil, err
	case int64(len(text)) > limit: // it has grown meanwhile
		return nil, tooLarge(name, limit)
	}
	return text, nil
}

func tooLarge(name string, limit int64) error {
	return fmt.Errorf("%s is larger than %d bytes", name, limit)
}

// clip keeps a foreign text in a message short.
func clip(s string) string {
	const most = 120
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

// withCache opens a cache's directory for reading. Nothing outside it is read,
// whatever it links to.
func withCache(dir string, do func(fs.FS) error) (err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("open the cache: %w", err)
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	if err := do(root.FS()); err != nil {
		return fmt.Errorf("read the cache %s: %w", dir, err)
	}
	return nil
}

// edges yields the sound edges of a cache.
func edges(cache fs.FS, list []entry) iter.Seq[protocol.EdgeProfile] {
	return func(yield func(protocol.EdgeProfile) bool) {
		for _, e := range list {
			if e.rid.Type() != rid.EdgeType {
				continue
			}
			b, err := bundle(cache, e, protocol.Limits{})
			if err != nil {
				continue // told when all bundles are read
			}
			if p, err := edgeOf(b); err == nil && !yield(p) {
				return
			}
		}
	}
}
