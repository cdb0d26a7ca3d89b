package identity

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/koi-net/koi-operator/node/rid"
)

// The files of an identity. RIDFile is always there; KeyFile where the node has
// a key pair, as PKCS #8 PEM; PasswordFile where that PEM is encrypted.
const (
	RIDFile      = "rid"
	KeyFile      = "priv_key.pem"
	PasswordFile = "password"
)

// maxFile bounds what is read of one file; real ones have a few hundred bytes.
const maxFile = 64 << 10

// Load reads the identity in dir and changes nothing. The error wraps
// ErrNotFound, ErrDamaged or ErrMismatch, or is that of the file system.
func Load(dir string) (Identity, error) {
	files, err := readAll(dir)
	if err == nil && (files[RIDFile] == nil) != (files[KeyFile] == nil) {
		// Half of an identity may be one that is just being saved.
		files, err = readAll(dir)
	}
	if err != nil {
		return Identity{}, fmt.Errorf("reading the identity: %w", err)
	}
	if len(files) == 0 {
		return Identity{}, fmt.Errorf("%w in %s", ErrNotFound, dir)
	}
	return parse(dir, files)
}

// readAll returns the files of an identity that are there.
func readAll(dir string) (map[string][]byte, error) {
	files := map[string][]byte{}
	for _, name := range []string{RIDFile, KeyFile, PasswordFile} {
		data, err := read(filepath.Join(dir, name))
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return nil, err
		default:
			files[name] = data
		}
	}
	return files, nil
}

func parse(dir string, files map[string][]byte) (Identity, error) {
	var id Identity
	keyPath := filepath.Join(dir, KeyFile)
	if data, ok := files[KeyFile]; ok {
		key, err := parseKey(data, files[PasswordFile])
		if err != nil {
			return Identity{}, fmt.Errorf("%w: %s: %w", ErrDamaged, keyPath, err)
		}
		id.Key = key
	}
	ridPath := filepath.Join(dir, RIDFile)
	data, ok := files[RIDFile]
	if !ok {
		remedy := "restore it"
		if id.Key != nil {
			remedy = fmt.Sprintf("restore it, the RID ends in +%s", rid.KeyID(id.PublicKeyText()))
		}
		return Identity{}, fmt.Errorf("%w: %s is missing beside other files of an identity; %s", ErrDamaged, ridPath, remedy)
	}
	r, err := rid.Parse(strings.TrimSpace(string(data)))
	if err != nil {
		return Identity{}, fmt.Errorf("%w: %s: %w; restore the file", ErrDamaged, ridPath, err)
	}
	id.RID = r
	if err := id.check(); err != nil {
		return Identity{}, fmt.Errorf("%s: %w", dir, err)
	}
	return id, nil
}

func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) || !isNotDirectory(path) {
			return nil, err
		}
		return nil, fmt.Errorf("%w: %s is no directory", ErrDamaged, filepath.Dir(path))
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	switch {
	case err != nil:
		return nil, err
	case len(data) > maxFile:
		return nil, fmt.Errorf("%w: %s has more than %d bytes and is no file of an identity; restore it", ErrDamaged, path, maxFile)
	}
	return data, nil
}

func isNotDirectory(path string) bool {
	info, err := os.Stat(filepath.Dir(path))
	return err == nil && !info.IsDir()
}

// LoadOrCreate returns the identity in dir, or makes and saves one where there
// is no file of one. created says which. name and unsigned must agree with an
// identity that is there; an empty name agrees with any.
func LoadOrCreate(dir, name string, unsigned bool) (id Identity, created bool, err error) {
	id, err = Load(dir)
	if errors.Is(err, ErrNotFound) {
		if id, err = Generate(name, unsigned); err != nil {
			return Identity{}, false, err
		}
		err = Save(dir, id)
		if err == nil {
			return id, true, nil
		}
		if !errors.Is(err, fs.ErrExist) {
			return Identity{}, false, err
		}
		id, err = Load(dir) // another process was faster
	}
	if err != nil {
		return Identity{}, false, err
	}
	if err := id.Agrees(name, unsigned); err != nil {
		return Identity{}, false, fmt.Errorf("%s: %w", dir, err)
	}
	return id, false, nil
}

// Agrees reports, as an ErrMismatch, where the identity is not the one asked
// for. An empty name agrees with any.
func (id Identity) Agrees(name string, unsigned bool) error {
	if name != "" && name != id.Name() {
		return fmt.Errorf("%w: it belongs to the node named %q (%s), not to %q; use that name, or another identity directory for a new node", ErrMismatch, id.Name(), id.RID, name)
	}
	switch {
	case unsigned && id.Key != nil:
		return fmt.Errorf("%w: %s has a key pair, but an unsigned node was asked for; leave out unsigned, or use another identity directory for a new node", ErrMismatch, id.RID)
	case !unsigned && id.Key == nil:
		return fmt.Errorf("%w: %s has no key pair, but a signed node was asked for; ask for an unsigned node, or use another identity directory for a new node", ErrMismatch, id.RID)
	}
	return nil
}

// Save writes the files of id into dir, which is made if missing, readable by
// the owner alone, and durably: after a crash either the whole identity is
// there or, if dir was there before, possibly a part that Load reports. It
// never replaces anything: where a file of an identity is there the error wraps
// fs.ErrExist.
func Save(dir string, id Identity) error {
	if err := id.check(); err != nil {
		return err
	}
	files := []file{{RIDFile, []byte(string(id.RID) + "\n")}}
	if id.Key != nil {
		der, err := x509.MarshalPKCS8PrivateKey(id.Key)
		if err != nil {
			return fmt.Errorf("encoding the private key: %w", err)
		}
		block := pem.EncodeToMemory(&pem.Block{Type: pemPlain, Bytes: der})
		// The key first: a key alone tells what is missing, a RID alone does not.
		files = []file{{KeyFile, block}, files[0]}
	}
	for _, name := range []string{RIDFile, KeyFile, PasswordFile} {
		path := filepath.Join(dir, name)
		if _, err := os.Lstat(path); err == nil {
			return fmt.Errorf("saving the identity: %s is there and is not replaced: %w", path, fs.ErrExist)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("saving the identity: %w", err)
		}
	}
	if err := save(dir, files); err != nil {
		return fmt.Errorf("saving the identity: %w", err)
	}
	return nil
}

type file struct {
	name string
	data []byte
}

// save writes the files into a fresh directory beside dir. Where dir is not
// there, that directory becomes dir in one step; else the files move into it
// one by one.
func save(dir string, files []file) (err error) {
	dir = filepath.Clean(dir)
	parent, base := filepath.Split(dir)
	if parent == "" {
		parent = "."
	}
	_, statErr := os.Stat(dir)
	fresh := errors.Is(statErr, fs.ErrNotExist)
	place := dir
	if fresh {
		if err := os.MkdirAll(parent, 0o700); err != nil {
			return err
		}
		place = parent
	}
	temp, err := os.MkdirTemp(place, "."+base+"-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(temp)) }()
	for _, f := range files {
		if err := writeSynced(filepath.Join(temp, f.name), f.data); err != nil {
			return err
		}
	}
	if fresh {
		if err := syncDir(temp); err != nil {
			return err
		}
		if err := os.Rename(temp, dir); err != nil {
			if _, statErr := os.Stat(filepath.Join(dir, RIDFile)); statErr == nil {
				return fmt.Errorf("%s is there by now and is not replaced: %w", dir, fs.ErrExist)
			}
			return err
		}
		return syncDir(parent)
	}
	for _, f := range files {
		// A link, unlike a rename, replaces nothing.
		if err := os.Link(filepath.Join(temp, f.name), filepath.Join(dir, f.name)); err != nil {
			return err
		}
	}
	return syncDir(dir)
}

func writeSynced(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, bytes.NewReader(data))
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
