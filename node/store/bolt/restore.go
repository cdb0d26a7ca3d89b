package bolt

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

// RestoreOptions tell Restore what to accept. Zero values mean defaults.
type RestoreOptions struct {
	// NodeRID is whose store the backup has to be; empty: anybody's.
	NodeRID rid.RID
	// Replace moves a file that is already there aside, to its name with
	// ".replaced-" and the time, whatever is in it. Without it such a file is an
	// error that wraps fs.ErrExist.
	Replace bool
	// Timeout is how long to wait for the lock of another process on what is to be
	// replaced, or on the backup; default DefaultTimeout.
	Timeout time.Duration
	// Clock tells the time; default time.Now.
	Clock func() time.Time
}

// Restored is what Restore did.
type Restored struct {
	// Info is the sentinel of the store that was restored.
	Info store.Info `json:"info"`
	// Size is the restored file's, in bytes.
	Size int64 `json:"size"`
	// Replaced is where the file that was there before lies now; empty where
	// there was none.
	Replaced string `json:"replaced,omitempty"`
}

// Restore puts the backup that it reads from from at the path to. The backup is
// written beside its place first, and verified: structure, the checksum of every
// record, and what is derived from them. Only one that is whole and undamaged, and
// of the node it has to be of, gets the name, at once and on disk. After an error
// what was at to is there as before, and nothing else is left. Errors wrap
// fs.ErrExist, store.ErrDamaged, store.ErrForeign, store.ErrLocked where a node
// has the file at to open, or store.ErrFull.
//
// No more is read than the backup's head says it has bytes. An end of ctx is
// noticed between two reads.
func Restore(ctx context.Context, from io.Reader, to string, o RestoreOptions) (_ Restored, err error) {
	defer faultsPanic()()
	if o.Timeout <= 0 {
		o.Timeout = DefaultTimeout
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	p, err := findPlace(to, o)
	if err != nil {
		return Restored{}, fmt.Errorf("restore %s: %w", to, err)
	}
	defer func() { err = errors.Join(err, p.release()) }()
	done, err := p.restore(ctx, from, o)
	if err != nil {
		return Restored{}, fmt.Errorf("restore %s: %w", to, err)
	}
	return done, nil
}

// RestoreFile is Restore from a file: a backup, or the store of a node that does
// not run, which it makes sure of (else: store.ErrLocked). A missing file is
// store.ErrNotFound.
func RestoreFile(ctx context.Context, from, to string, o RestoreOptions) (_ Restored, err error) {
	if o.Timeout <= 0 {
		o.Timeout = DefaultTimeout
	}
	r, err := openReadable(from, o.Timeout)
	if errors.Is(err, fs.ErrNotExist) {
		return Restored{}, fmt.Errorf("restore from %s: %w", from, store.ErrNotFound)
	}
	if err != nil {
		return Restored{}, fmt.Errorf("restore from %s: %w", from, err)
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if stillAt(to, r.f) == nil {
		return Restored{}, fmt.Errorf("restore %s: it is the backup itself", to)
	}
	return Restore(ctx, io.NewSectionReader(r.f, 0, r.l.size), to, o)
}

// place is where a store is to be put.
type place struct {
	path string
	// taken: there is a file, which is moved aside.
	taken bool
	// lock keeps nodes from opening it; nil where no node could.
	lock interface{ Close() error }
}

// findPlace sees that a file may be put at the path, and keeps nodes away from one
// that is there.
func findPlace(to string, o RestoreOptions) (*place, error) {
	st, err := os.Stat(to)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Lstat(to); err == nil {
			return nil, fmt.Errorf("%w: it is a link that leads nowhere", fs.ErrExist)
		}
		return &place{path: to}, nil
	}
	switch {
	case err != nil:
		return nil, err
	case !st.Mode().IsRegular():
		return nil, fmt.Errorf("%w: it is not a regular file; name another path", store.ErrForeign)
	case !o.Replace:
		return nil, fmt.Errorf("%w: allow it to be replaced, or name another path", fs.ErrExist)
	}
	if to, err = filepath.EvalSymlinks(to); err != nil {
		return nil, err
	}
	p := &place{path: to, taken: true}
	if st.Size() == 0 {
		return p, nil // no store, and bbolt would make it one
	}
	r, err := openReadable(to, o.Timeout)
	switch {
	case err == nil:
		p.lock = r
	case errors.Is(err, store.ErrDamaged), errors.Is(err, store.ErrForeign):
		// Its lock was free, and no node opens it.
	default:
		return nil, err
	}
	return p, nil
}

func (p *place) release() error {
	if p.lock == nil {
		return nil
	}
	return p.lock.Close()
}

func (p *place) restore(ctx context.Context, from io.Reader, o RestoreOptions) (done Restored, err error) {
	// The head tells at once what is no backup, and how long one is.
	head := bufio.NewReaderSize(from, 2*maxPage)
	size, err := backupSize(head)
	if err != nil {
		return Restored{}, err
	}
	temp, drop, err := tempBeside(p.path)
	if err != nil {
		return Restored{}, err
	}
	defer func() { drop(err != nil) }()
	if err := writeFile(ctx, temp, head, size); err != nil {
		return Restored{}, err
	}
	info, err := wholeBackup(ctx, temp, o)
	if err != nil {
		return Restored{}, err
	}
	aside, err := p.put(temp, o.Clock())
	if err != nil {
		return Restored{}, err
	}
	return Restored{Info: info, Size: size, Replaced: aside}, nil
}

// backupSize is how many bytes of the file whose beginning is ahead in r are in use.
func backupSize(r *bufio.Reader) (int64, error) {
	ahead, err := r.Peek(r.Size())
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, fmt.Errorf("read the backup: %w", err)
	}
	if len(ahead) == 0 {
		return 0, fmt.Errorf("%w: the backup is empty", store.ErrDamaged)
	}
	beginning := bytes.NewReader(ahead)
	heads, err := readHeads(beginning, int64(len(ahead)))
	if err != nil {
		return 0, fmt.Errorf("read the backup: %w", err)
	}
	if len(heads) == 0 {
		if anyHead(beginning) {
			return 0, fmt.Errorf("%w: the backup: %w", store.ErrDamaged, errHead)
		}
		return 0, fmt.Errorf("%w: this is no backup of a store, or its beginning was overwritten", store.ErrForeign)
	}
	newest := newestOf(heads)
	return int64(newest.pages) * newest.pageSize, nil
}

// tempBeside makes an empty file beside the path, and the directory where there is
// none. What drop removes of it, removeUnfinished would remove after a crash.
func tempBeside(path string) (temp string, drop func(failed bool), err error) {
	dir := filepath.Dir(path)
	made := missingDirs(dir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", nil, fmt.Errorf("make the directory of the store: %w", err)
	}
	f, err := os.CreateTemp(dir, filepath.Base(path)+unfinished+"*")
	if err == nil {
		temp = f.Name()
		err = f.Close()
	}
	drop = func(failed bool) {
		if temp != "" {
			_ = os.Remove(temp) // where it got its name by being moved it is gone
		}
		for _, d := range made {
			if failed {
				_ = os.Remove(d) // stays if somebody put something there
			}
		}
	}
	if err != nil {
		drop(true)
		return "", nil, mapError(path, err)
	}
	return temp, drop, nil
}

// missingDirs are the directories that have to be made, the innermost first.
func missingDirs(dir string) (missing []string) {
	for {
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
			return missing
		}
		missing = append(missing, dir)
		dir = filepath.Dir(dir)
	}
}

// writeFile writes size bytes of r into the file at path, and has them reach the disk.
func writeFile(ctx context.Context, path string, r io.Reader, size int64) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	buf := make([]byte, backupChunk)
	for left := size; left > 0; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := r.Read(buf[:min(left, int64(len(buf)))])
		left -= int64(n)
		if _, err := f.Write(buf[:n]); err != nil {
			return mapError(path, err)
		}
		switch {
		case errors.Is(err, io.EOF) && left > 0:
			return fmt.Errorf("%w: the backup is truncated: %d bytes of at least %d", store.ErrDamaged, size-left, size)
		case err != nil && !errors.Is(err, io.EOF):
			return fmt.Errorf("read the backup: %w", err)
		}
	}
	if err := f.Sync(); err != nil {
		return mapError(path, err)
	}
	return nil
}

// wholeBackup refuses what is damaged or another's.
func wholeBackup(ctx context.Context, path string, o RestoreOptions) (_ store.Info, err error) {
	r, err := openReadable(path, o.Timeout)
	if err != nil {
		return store.Info{}, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	r.path = "the backup"
	v := newVerification(VerifyOptions{MaxFaults: 1, SkipHashes: true})
	if err := v.run(ctx, r); err != nil {
		return store.Info{}, err
	}
	if o.NodeRID != "" && r.info.NodeRID != o.NodeRID && r.info.NodeRID != "" {
		return store.Info{}, fmt.Errorf("%w: the backup is of %s, not of %s", store.ErrForeign, r.info.NodeRID, o.NodeRID)
	}
	if err := v.report.Err(); err != nil {
		return store.Info{}, fmt.Errorf("the backup: %w", err)
	}
	return r.info, nil
}

// put gives the file its name, and moves what had it aside.
func (p *place) put(temp string, now time.Time) (aside string, err error) {
	if p.taken {
		aside, err = replace(temp, p.path, now)
	} else {
		err = publish(temp, p.path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(p.path))
	}
	return aside, err
}

// replace puts temp in the place of the file at path, which gets another name. At
// no time is there nothing at path: a node would take that for a first start.
func replace(temp, path string, now time.Time) (aside string, err error) {
	name := path + ".replaced-" + now.UTC().Format("20060102T150405Z")
	undo := func() error { return os.Remove(aside) }
	for n := 1; ; n++ {
		if aside = name; n > 1 {
			aside = fmt.Sprintf("%s-%d", name, n)
		}
		err := os.Link(path, aside)
		if err == nil {
			break
		}
		if errors.Is(err, fs.ErrExist) && n < 1000 {
			continue
		}
		if _, there := os.Lstat(aside); !errors.Is(there, fs.ErrNotExist) {
			return "", err
		}
		// Some file systems have no hard links.
		if err := os.Rename(path, aside); err != nil {
			return "", err
		}
		undo = func() error { return os.Rename(aside, path) }
		break
	}
	if err := os.Rename(temp, path); err != nil {
		return "", errors.Join(err, undo())
	}
	return aside, nil
}
