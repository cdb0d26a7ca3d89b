package bolt

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"runtime"
	"syscall"
	"time"

	bbolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

// openFile is bbolt.Open of a file that is there, with its errors and panics given
// their meaning. It returns the file that bbolt has open, too, which is bbolt's to
// close.
func openFile(path string, options *bbolt.Options) (db *bbolt.DB, f *os.File, err error) {
	defer func() {
		if r := recover(); r != nil {
			if f != nil {
				_ = f.Close() // ends the lock; nothing was written
			}
			db, f, err = nil, nil, fmt.Errorf("%w: %s: %v; %s", store.ErrDamaged, path, r, remedy)
		}
	}()
	options.OpenFile = func(name string, flag int, mode fs.FileMode) (_ *os.File, err error) {
		f, err = os.OpenFile(name, flag&^os.O_CREATE, mode)
		return f, err
	}
	db, err = bbolt.Open(path, 0o600, options)
	switch {
	case err == nil:
		return db, f, nil
	case errors.Is(err, berrors.ErrTimeout):
		return nil, nil, fmt.Errorf("%w: %s: stop the other process, or wait until it has ended", store.ErrLocked, path)
	case errors.Is(err, fs.ErrPermission), errors.Is(err, fs.ErrNotExist):
		return nil, nil, fmt.Errorf("open the store: %w", err)
	case errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrChecksum), errors.Is(err, berrors.ErrVersionMismatch):
		return nil, nil, badHead(path, err)
	case errors.Is(err, syscall.ENOMEM):
		return nil, nil, fmt.Errorf("open the store %s: %w", path, err)
	}
	return nil, nil, fmt.Errorf("%w: %s: %w; %s", store.ErrDamaged, path, err, remedy)
}

// openWritable opens the file at o.Path for writing, with as much address space
// as may be had.
func openWritable(o Options, timeout time.Duration) (*bbolt.DB, *os.File, error) {
	size := int64(0)
	if st, err := os.Stat(o.Path); err == nil {
		size = st.Size()
	}
	mapped := int(min(size, math.MaxInt-mapSize)) + mapSize
	if runtime.GOOS == "windows" { // where what is mapped is made part of the file
		mapped = 0
	}
	db, f, err := openFile(o.Path, writableOptions(o, timeout, mapped))
	if errors.Is(err, syscall.ENOMEM) {
		db, f, err = openFile(o.Path, writableOptions(o, timeout, 0))
	}
	if err != nil {
		return nil, nil, err
	}
	db.AllocSize = allocSize
	if err := stillAt(o.Path, f); err != nil {
		return nil, nil, errors.Join(err, db.Close())
	}
	return db, f, nil
}

func writableOptions(o Options, timeout time.Duration, mapped int) *bbolt.Options {
	return &bbolt.Options{Timeout: timeout, FreelistType: bbolt.FreelistMapType, InitialMmapSize: mapped, MaxSize: int(o.MaxSize)}
}

// stillAt sees that f is the file that path names: while its lock was waited for
// another may have been put there.
func stillAt(path string, f *os.File) error {
	there, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("open the store: %w", err)
	}
	ours, err := f.Stat()
	if err != nil {
		return fmt.Errorf("open the store: %w", err)
	}
	if !os.SameFile(there, ours) {
		return fmt.Errorf("%w: %s: %w", store.ErrForeign, path, errReplaced)
	}
	return nil
}

func layoutOf(f *os.File) (*layout, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return readLayout(f, st.Size())
}

// readable is a file that is open for reading alone. Its shared lock keeps those
// out who write.
type readable struct {
	path string
	db   *bbolt.DB
	f    *os.File
	l    *layout
	info store.Info
}

// openReadable opens a file that may be a store of ours, and finds its newest
// state. Without an error, the caller closes it.
func openReadable(path string, timeout time.Duration) (*readable, error) {
	if err := inspect(path); err != nil {
		return nil, err
	}
	db, f, err := openFile(path, &bbolt.Options{ReadOnly: true, Timeout: timeout})
	if err != nil {
		return nil, err
	}
	r := &readable{path: path, db: db, f: f}
	if err = stillAt(path, f); err == nil {
		if r.l, err = layoutOf(f); err != nil {
			err = layoutError(path, err)
		}
	}
	if err == nil && r.l.freelist == noFreelist {
		err = fmt.Errorf("%w: %s is a bbolt file of another program (it has no free list); name another path", store.ErrForeign, path)
	}
	if err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// Close ends the lock.
func (r *readable) Close() error {
	if err := r.db.Close(); err != nil {
		return fmt.Errorf("close the store %s: %w", r.path, err)
	}
	return nil
}

// sentinel reads whose store it is.
func (r *readable) sentinel(ctx context.Context) error {
	ours := false
	var sentinel []byte
	err := r.l.top(ctx, nil, func(name []byte, child subtree) error {
		if string(name) != bucketNames[bucketSentinel] {
			return nil
		}
		ours = true
		return r.l.walk(ctx, child, nil, func(k, v []byte) error {
			if string(k) == string(keyInfo) {
				sentinel = v
			}
			return nil
		})
	})
	if err != nil {
		return layoutError(r.path, err)
	}
	if !ours {
		return fmt.Errorf("%w: %s is a bbolt file of another program (it has no bucket %s); name another path", store.ErrForeign, r.path, bucketSentinel)
	}
	r.info, err = decodeInfo(r.path, sentinel)
	return err
}

// accept refuses a store of another node, or of a format that is not known here.
func (r *readable) accept(node rid.RID) error {
	switch info := r.info; {
	case info.Format < 1 || info.Format > Format:
		return fmt.Errorf("%w: %s has format %d, this program reads formats up to %d; use the program that wrote it", store.ErrForeign, r.path, info.Format, Format)
	case node != "" && info.NodeRID != node:
		return fmt.Errorf("%w: %s is the store of %s, this node is %s; give it its own data directory or its former identity", store.ErrForeign, r.path, info.NodeRID, node)
	}
	return nil
}

// look opens the file at o.Path for reading and verifies it, as far as a start
// has time for.
func look(o Options) (*readable, error) {
	r, err := openReadable(o.Path, o.Timeout)
	if err != nil {
		return nil, err
	}
	ctx := context.Background()
	if err = r.sentinel(ctx); err == nil {
		err = r.accept(o.NodeRID)
	}
	if err == nil {
		err = r.lookAround(ctx, o.VerifyBytes)
	}
	if err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// lookAround verifies the structure, all of it where the file is small enough and
// there is time; nothing of it where whole is negative.
func (r *readable) lookAround(ctx context.Context, whole int64) error {
	if whole < 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, verifyTime)
	defer cancel()
	var err error
	if r.l.size <= whole {
		err = r.l.verify(ctx)
	} else {
		err = r.l.verifyTop(ctx, verifyPages)
	}
	if err == nil || errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	return layoutError(r.path, err)
}
