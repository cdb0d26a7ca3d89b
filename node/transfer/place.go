package transfer

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/koi-net/koi-operator/node/identity"
)

// ErrExists is wrapped where the target holds something already. It is left as
// it is.
var ErrExists = errors.New("there is something already")

// free reports whether a node can be taken over to t.
func (t Target) free() error {
	var taken []string
	for _, path := range []string{
		filepath.Join(t.DataDir, StoreFile), filepath.Join(t.DataDir, SettingsFile),
		filepath.Join(t.IdentityDir, identity.RIDFile), filepath.Join(t.IdentityDir, identity.KeyFile), filepath.Join(t.IdentityDir, identity.PasswordFile),
	} {
		_, err := os.Lstat(path)
		switch {
		case err == nil:
			taken = append(taken, path)
		case !errors.Is(err, fs.ErrNotExist):
			return err
		}
	}
	if len(taken) > 0 {
		return fmt.Errorf("%w: %s: it is left as it is; take the node over to another data directory and identity directory, or move it away", ErrExists, taken[0])
	}
	return nil
}

// staging is where something is made before it takes its place in dir: beside
// dir, so that it can become dir in one step, or in dir where that is there.
type staging struct {
	dir   string
	temp  string
	fresh bool // dir was not there
}

func stage(dir string) (*staging, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	s := &staging{dir: dir}
	parent, prefix := dir, ".import-"
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		s.fresh, parent, prefix = true, filepath.Dir(dir), "."+filepath.Base(dir)+".import-"
		if err := os.MkdirAll(parent, 0o700); err != nil {
			return nil, err
		}
	}
	s.temp, err = os.MkdirTemp(parent, prefix+"*")
	return s, err
}

func (s *staging) remove() error { return os.RemoveAll(s.temp) }

// path is where a file of the directory is being made.
func (s *staging) path(name string) string { return filepath.Join(s.temp, name) }

// mover gives what is staged its place, and takes it back after an error.
type mover struct{ placed []string }

// move places what is staged: the whole directory at once where it is new, else
// the names given in their order, none of which replaces anything.
func (m *mover) move(s *staging, names ...string) error {
	if s.fresh {
		if err := syncDir(s.temp); err != nil {
			return err
		}
		if err := m.rename(s.temp, s.dir); err != nil {
			return err
		}
		return syncDir(filepath.Dir(s.dir))
	}
	for _, name := range names {
		if err := m.rename(s.path(name), filepath.Join(s.dir, name)); err != nil {
			return err
		}
	}
	return syncDir(s.dir)
}

// rename moves a file or a directory to a place that is free. An empty directory
// gives way to a directory.
func (m *mover) rename(from, to string) error {
	info, err := os.Lstat(from)
	if err != nil {
		return err
	}
	if info.IsDir() {
		return m.note(to, os.Rename(from, to))
	}
	// A link, unlike a rename, replaces nothing.
	if err := os.Link(from, to); err == nil || errors.Is(err, fs.ErrExist) {
		return m.note(to, err)
	}
	// Some file systems have no hard links.
	if _, err := os.Lstat(to); !errors.Is(err, fs.ErrNotExist) {
		return m.note(to, fs.ErrExist)
	}
	return m.note(to, os.Rename(from, to))
}

// note remembers what was placed, or names what was in the way.
func (m *mover) note(to string, err error) error {
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%w: %s", ErrExists, to)
	}
	if err == nil {
		m.placed = append(m.placed, to)
	}
	return err
}

// undo removes what was placed.
func (m *mover) undo() error {
	var errs []error
	for _, path := range slices.Backward(m.placed) {
		errs = append(errs, os.RemoveAll(path))
	}
	return errors.Join(errs...)
}

func writeSynced(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
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
