package transfer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	"golang.org/x/sync/errgroup"

	"github.com/koi-net/koi-operator/node/identity"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

// Exported says what was written.
type Exported struct {
	// Cache is the directory that was written.
	Cache   string `json:"cache"`
	Bundles int    `json:"bundles"`
	// Types count the bundles; whose knowledge they are is not looked at.
	Types []TypeCount `json:"types"`
	// Skipped lists at most MaxListed of the SkippedTotal bundles that have no
	// place in a cache of the library.
	Skipped      []Skipped `json:"skipped,omitempty"`
	SkippedTotal int       `json:"skippedTotal"`
	// Identity lists the files of the identity, where one was written.
	Identity []string `json:"identity,omitempty"`
}

// Records yields the bundles of a store of the given types (none: all). It holds
// a transaction all the while, which is for a store that no node runs on.
func Records(ctx context.Context, st store.Store, types []rid.Type) iter.Seq2[protocol.Bundle, error] {
	return func(yield func(protocol.Bundle, error) bool) {
		err := st.View(ctx, func(tx store.Reader) error {
			for rec, err := range tx.Records(types, "") {
				if err != nil {
					return err
				}
				if !yield(rec.Bundle, nil) {
					return errStopped
				}
			}
			return nil
		})
		if err != nil && !errors.Is(err, errStopped) {
			yield(protocol.Bundle{}, err)
		}
	}
}

// errStopped: whoever iterates has had enough.
var errStopped = errors.New("stopped")

// Export writes bundles as a cache of the library into dir: a file for each, in
// the form of pydantic's model_dump_json(indent=2). A manifest keeps its hash, of
// whatever generation, and an @context the library may have added to it is not
// written: no release needs one.
//
// A directory that is there has to be empty, or force is set: then files of the
// same bundles are replaced, one by one, and others stay. A new directory appears
// whole or not at all. When Export returns, all of it is on disk.
func Export(ctx context.Context, dir string, list iter.Seq2[protocol.Bundle, error], force bool) (Exported, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return Exported{}, err
	}
	ex := &exporter{dir: dir, types: map[rid.Type]int{}, report: Exported{Cache: dir, Types: []TypeCount{}}}
	there, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return ex.fresh(ctx, list)
	case err != nil:
		return Exported{}, err
	case len(there) > 0 && !force:
		return Exported{}, fmt.Errorf("%w: %s is not empty; name another directory, or have bundles of the same RIDs replaced", ErrExists, dir)
	}
	if err = ex.write(ctx, dir, list); err == nil {
		err = syncDir(dir)
	}
	if err != nil && len(there) == 0 {
		err = errors.Join(err, ex.undo())
	}
	return ex.result(err)
}

type exporter struct {
	dir    string
	types  map[rid.Type]int
	report Exported
}

func (ex *exporter) fresh(ctx context.Context, list iter.Seq2[protocol.Bundle, error]) (_ Exported, err error) {
	parent := filepath.Dir(ex.dir)
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return Exported{}, err
	}
	temp, err := os.MkdirTemp(parent, "."+filepath.Base(ex.dir)+".export-*")
	if err != nil {
		return Exported{}, err
	}
	if err = ex.write(ctx, temp, list); err == nil {
		err = syncDir(temp)
	}
	if err == nil {
		err = os.Rename(temp, ex.dir)
	}
	if err != nil {
		return ex.result(errors.Join(err, os.RemoveAll(temp)))
	}
	return ex.result(syncDir(parent))
}

func (ex *exporter) result(err error) (Exported, error) {
	if err != nil {
		return Exported{}, fmt.Errorf("write the cache %s: %w", ex.dir, err)
	}
	for _, t := range slices.Sorted(maps.Keys(ex.types)) {
		ex.report.Types = append(ex.report.Types, TypeCount{Type: t, Bundles: ex.types[t]})
	}
	return ex.report, nil
}

// undo empties a directory that was empty before.
func (ex *exporter) undo() error {
	files, err := os.ReadDir(ex.dir)
	for _, f := range files {
		if _, no := FileRID(f.Name()); no == nil {
			err = errors.Join(err, os.Remove(filepath.Join(ex.dir, f.Name())))
		}
	}
	return err
}

// syncing is how many files are on their way to the disk side by side: one after the
// other, each would wait for a sync of its own.
const syncing = 16

// write writes the files and waits until they are on disk.
func (ex *exporter) write(ctx context.Context, dir string, list iter.Seq2[protocol.Bundle, error]) error {
	files, ctx := errgroup.WithContext(ctx)
	files.SetLimit(syncing)
	err := ex.each(ctx, list, func(name string, text []byte) {
		files.Go(func() error { return replace(filepath.Join(dir, name), text) })
	})
	// Where a file failed, the walk ended for that.
	if failed := files.Wait(); failed != nil {
		return failed
	}
	return err
}

// each gives the bundles' files to write, each with a text of its own.
func (ex *exporter) each(ctx context.Context, list iter.Seq2[protocol.Bundle, error], write func(name string, text []byte)) error {
	for b, err := range list {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		r := b.Manifest.RID
		name, err := FileName(r)
		if err != nil {
			ex.report.SkippedTotal++
			if len(ex.report.Skipped) < MaxListed {
				ex.report.Skipped = append(ex.report.Skipped, Skipped{RID: r, Reason: err.Error()})
			}
			continue
		}
		text, err := appendFile(nil, b)
		if err != nil {
			return fmt.Errorf("%s: %w", r, err)
		}
		write(name, text)
		ex.report.Bundles++
		ex.types[r.Type()]++
	}
	return nil
}

// replace writes a file to disk so that a reader sees the old one or the new one.
func replace(path string, text []byte) error {
	switch err := writeSynced(path, text); {
	case err == nil:
		return nil
	case !errors.Is(err, fs.ErrExist):
		_ = os.Remove(path) // what there is of it is ours
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".export-*")
	if err != nil {
		return err
	}
	if _, err = f.Write(text); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		err = errors.Join(err, os.Remove(f.Name()))
	}
	return err
}

// appendFile appends the text of a bundle's file.
func appendFile(dst []byte, b protocol.Bundle) ([]byte, error) {
	out := bytes.NewBuffer(dst)
	if err := json.Indent(out, protocol.AppendBundle(nil, b), "", "  "); err != nil {
		return dst, err
	}
	return out.Bytes(), nil
}

// IdentityExport is what makes a node of the library be this one: a config.yaml
// with RID and profile and, where there is one, the key. They suit koi-net 1.1
// and later or, for a node without a key, 1.0.
type IdentityExport struct {
	dir   string
	files map[string][]byte
}

// NewIdentityExport prepares the files of an identity for dir, in which none of
// them may be there yet. keyFile is the text of the key's file; the library reads
// encrypted keys alone, so the key is encrypted with password or, where that is
// empty, has to be encrypted already. own is the node's own bundle, and cache
// where its cache is. The error wraps ErrExists or ErrPassword.
func NewIdentityExport(dir string, id identity.Identity, keyFile, password []byte, own protocol.Bundle, cache string) (*IdentityExport, error) {
	profile, err := protocol.ParseNodeProfile(own.Contents)
	if err != nil {
		return nil, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	if cache, err = filepath.Abs(cache); err != nil {
		return nil, err
	}
	if rel, err := filepath.Rel(dir, cache); err == nil && filepath.IsLocal(rel) {
		cache = rel
	}
	x := &IdentityExport{dir: dir, files: map[string][]byte{}}
	if x.files[configName], err = configYAML(id, profile, cache); err != nil {
		return nil, err
	}
	if id.Key != nil {
		if x.files[defaultKey], err = exportKey(id, keyFile, password); err != nil {
			return nil, err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(x.files)) {
		if _, err := os.Lstat(filepath.Join(dir, name)); !errors.Is(err, fs.ErrNotExist) {
			return nil, leftAlone(filepath.Join(dir, name), err)
		}
	}
	return x, nil
}

// leftAlone is the error about a file that is there, or cannot be looked for.
func leftAlone(path string, err error) error {
	if err == nil || errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%w: %s: it is left as it is", ErrExists, path)
	}
	return err
}

// Write writes the files, all or none, and returns their paths.
func (x *IdentityExport) Write() (paths []string, err error) {
	if err := os.MkdirAll(x.dir, 0o700); err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(x.files)) {
		path := filepath.Join(x.dir, name)
		if err := writeSynced(path, x.files[name]); err != nil {
			err = leftAlone(path, err)
			for _, path := range paths {
				err = errors.Join(err, os.Remove(path))
			}
			return nil, err
		}
		paths = append(paths, path)
	}
	return paths, syncDir(x.dir)
}

// exportKey returns the key's file.
func exportKey(id identity.Identity, keyFile, password []byte) ([]byte, error) {
	switch {
	case len(password) > 0:
		return encryptKey(id.Key, password, keyRounds)
	case isEncrypted(keyFile):
		return keyFile, nil
	}
	return nil, fmt.Errorf("%w: the Python library reads encrypted keys alone", ErrPassword)
}

// configYAML makes the library's configuration of a node.
func configYAML(id identity.Identity, p protocol.NodeProfile, cache string) ([]byte, error) {
	type provides struct {
		Event []string `yaml:"event"`
		State []string `yaml:"state"`
	}
	type profile struct {
		BaseURL   string   `yaml:"base_url,omitempty"`
		NodeType  string   `yaml:"node_type"`
		Provides  provides `yaml:"provides"`
		PublicKey string   `yaml:"public_key,omitempty"`
	}
	type server struct {
		Host string `yaml:"host"`
		Port int    `yaml:"port"`
		Path string `yaml:"path"`
	}
	type koiNet struct {
		Name    string  `yaml:"node_name"`
		RID     string  `yaml:"node_rid"`
		Profile profile `yaml:"node_profile"`
		Cache   string  `yaml:"cache_directory_path"`
		Key     string  `yaml:"private_key_pem_path,omitempty"`
	}
	config := struct {
		Server *server `yaml:"server,omitempty"`
		KoiNet koiNet  `yaml:"koi_net"`
	}{KoiNet: koiNet{
		Name: id.Name(), RID: string(id.RID), Cache: cache,
		Profile: profile{
			BaseURL: p.BaseURL, NodeType: string(p.NodeType), PublicKey: p.PublicKey,
			Provides: provides{Event: texts(p.Provides.Event), State: texts(p.Provides.State)},
		},
	}}
	if id.Key != nil {
		config.KoiNet.Key = defaultKey
	}
	if listen, path := listenAt(p.BaseURL); listen != "" && p.NodeType == protocol.Full {
		host, port, _ := net.SplitHostPort(listen) // it was joined from them
		if n, err := strconv.Atoi(port); err == nil {
			config.Server = &server{host, n, strings.TrimRight(path, "/")}
		}
	}
	return yaml.Marshal(config)
}
