package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/koi-net/koi-operator/node"
	"github.com/koi-net/koi-operator/node/pipeline"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

const (
	noteType rid.Type = "orn:example.markdown-note"
	linkType rid.Type = "orn:example.note-link"
)

// vault is a directory of notes. Paths in it are relative, with slashes.
type vault struct {
	name       string // in the notes' RIDs
	dir        string
	root       *os.Root // follows no link out of the directory
	maxBytes   int64
	maxEntries int
}

func openVault(dir, name string, maxBytes int64, maxEntries int) (*vault, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if name == "" {
		name = filepath.Base(dir)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open the directory of the notes: %w", err)
	}
	return &vault{name: url.PathEscape(name), dir: dir, root: root, maxBytes: maxBytes, maxEntries: maxEntries}, nil
}

func (v *vault) close() { _ = v.root.Close() } // nothing is written through it

// rid returns a note's RID. Whatever bytes a path has, they are escaped; the
// error is that of a path too long for a RID.
func (v *vault) rid(file string) (rid.RID, error) {
	elements := strings.Split(file, "/")
	for i := range elements {
		elements[i] = url.PathEscape(elements[i])
	}
	return rid.Parse(string(noteType) + ":" + v.name + "/" + strings.Join(elements, "/"))
}

// file is the inverse of rid; ok is false for what is no RID of a note in here.
func (v *vault) file(r rid.RID) (file string, ok bool) {
	escaped, ok := strings.CutPrefix(string(r), string(noteType)+":"+v.name+"/")
	if !ok {
		return "", false
	}
	file, err := url.PathUnescape(escaped)
	if err != nil || !isNote(file) {
		return "", false
	}
	back, err := v.rid(file)
	return file, err == nil && back == r // one RID for each note
}

// look is what is seen of a file without reading it. The zero look is that of a
// file that is not there.
type look struct{ size, modified int64 }

func lookOf(info fs.FileInfo) look {
	return look{size: info.Size(), modified: info.ModTime().UnixNano()}
}

// scan looks at all notes, and tells enter of every directory before it reads it.
// Any doubt about what is there is an error: what it did not see would be forgotten.
func (v *vault) scan(enter func(dir string)) (map[string]look, error) {
	seen := map[string]look{}
	entries := 0
	err := fs.WalkDir(v.root.FS(), ".", func(file string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist) && file != ".":
			return nil // it went meanwhile
		case err != nil:
			return err
		case d.IsDir() && file != "." && !isVisible(file):
			return fs.SkipDir
		case !d.IsDir() && !isNote(file):
			return nil
		}
		if entries++; entries > v.maxEntries {
			return fmt.Errorf("more than %d notes and directories: raise -max-entries", v.maxEntries)
		}
		if d.IsDir() {
			enter(filepath.Join(v.dir, filepath.FromSlash(file)))
			return nil
		}
		info, err := v.root.Stat(filepath.FromSlash(file)) // follows links to files in here
		if err == nil && info.Mode().IsRegular() {
			seen[file] = lookOf(info)
		}
		return nil // gone, a link that leads nowhere or out of here, a pipe
	})
	if err != nil {
		return nil, fmt.Errorf("look at %s: %w", v.dir, err)
	}
	return seen, nil
}

var errUnsteady = errors.New("it changed while it was read")

// read returns a file's text and modification time; an error that wraps
// node.ErrNotFound means that there is no note to be published.
func (v *vault) read(file string) ([]byte, time.Time, error) {
	// Without O_NONBLOCK a pipe would keep us waiting for its other end.
	f, err := v.root.OpenFile(filepath.FromSlash(file), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, time.Time{}, fmt.Errorf("%w: %w", node.ErrNotFound, err)
	}
	if err != nil {
		return nil, time.Time{}, err
	}
	defer f.Close()
	before, err := f.Stat()
	switch {
	case err != nil:
		return nil, time.Time{}, err
	case !before.Mode().IsRegular():
		return nil, time.Time{}, fmt.Errorf("%s is no file: %w", file, node.ErrNotFound)
	}
	text, err := io.ReadAll(io.LimitReader(f, v.maxBytes+1))
	if err != nil {
		return nil, time.Time{}, err
	}
	if int64(len(text)) > v.maxBytes {
		return nil, time.Time{}, fmt.Errorf("%s has more than %d bytes: raise -max-bytes", file, v.maxBytes)
	}
	after, err := f.Stat()
	if err == nil && lookOf(before) != lookOf(after) {
		err = errUnsteady
	}
	return text, before.ModTime(), err
}

// deref is the node.Dereferencer of notes.
func (v *vault) deref(_ context.Context, r rid.RID) (any, error) {
	file, ok := v.file(r)
	if !ok {
		return nil, fmt.Errorf("%s is no note of %s: %w", r, v.dir, node.ErrNotFound)
	}
	text, modified, err := v.read(file)
	if err != nil {
		return nil, err
	}
	n, err := parse(file, text, modified)
	if err == nil && n.draft {
		err = fmt.Errorf("%s is a draft: %w", file, node.ErrNotFound)
	}
	return n, err
}

// indexLinks is a handler of notes: it keeps one bundle for each link from the
// note to another. Only the note's own object touches them, so that no two
// handlers are at odds over one.
func (v *vault) indexLinks(_ context.Context, c *pipeline.Context, o *pipeline.Object) error {
	file, ok := v.file(o.RID)
	if !ok {
		return nil
	}
	was := map[rid.RID]json.RawMessage{}
	if o.Previous != nil {
		was = v.links(file, o.Previous.Bundle.Contents)
	}
	is := map[rid.RID]json.RawMessage{}
	if o.Normalized != protocol.Forget {
		is = v.links(file, o.Contents)
	}
	for r := range was {
		if is[r] == nil {
			c.Handle(pipeline.Object{RID: r, EventType: protocol.Forget})
		}
	}
	for r, contents := range is {
		if was[r] == nil {
			c.Handle(pipeline.Object{RID: r, Contents: contents})
		}
	}
	return nil
}

// links returns the link bundles of a note, as RIDs and contents.
func (v *vault) links(file string, contents json.RawMessage) map[rid.RID]json.RawMessage {
	out := map[rid.RID]json.RawMessage{}
	var n note
	from, err := v.rid(file)
	if err != nil || json.Unmarshal(contents, &n) != nil {
		return out // another version's
	}
	for _, target := range links(file, n.Text) {
		to, err := v.rid(target)
		if err != nil {
			continue // too long to be a note's
		}
		text, err := json.Marshal(map[string]rid.RID{"from": from, "to": to})
		if err != nil {
			continue // RIDs are text, which always marshals
		}
		out[rid.RID(fmt.Sprintf("%s:%x", linkType, sha256.Sum256([]byte(from+"\n"+to))))] = text
	}
	return out
}
