package bolt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"

	bbolt "go.etcd.io/bbolt"

	"github.com/koi-net/koi-operator/node/store"
)

// What one transaction of Compact writes, at most, and one record more.
const (
	compactBytes = 8 << 20
	compactRows  = 20_000
)

// compactFill is how full Compact leaves the pages of buckets whose keys come in
// any order: so that one more key does not split a page at once.
const compactFill = 0.9

// Compact writes what is in the store at src, which no node may have open for
// writing meanwhile, into a new file at dst, without the room that is in no use,
// and returns the bytes of both. It is the same store (same ID), its sequence
// numbers go on where they were. Like a new store, dst appears complete and on
// disk, or not at all, and never replaces a file (fs.ErrExist). A store with
// damaged records is refused: store.ErrDamaged. Errors besides: store.ErrNotFound,
// store.ErrForeign, store.ErrLocked, store.ErrFull, that of ctx.
func Compact(ctx context.Context, src, dst string) (before, after int64, err error) {
	defer faultsPanic()()
	r, err := openReadable(src, DefaultTimeout)
	if errors.Is(err, fs.ErrNotExist) {
		err = store.ErrNotFound
	}
	if err != nil {
		return 0, 0, fmt.Errorf("compact %s: %w", src, err)
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if after, err = r.compactTo(ctx, dst); err != nil {
		return 0, 0, fmt.Errorf("compact %s: %w", src, err)
	}
	return r.l.size, after, nil
}

func (r *readable) compactTo(ctx context.Context, dst string) (after int64, err error) {
	if _, err := os.Lstat(dst); !errors.Is(err, fs.ErrNotExist) {
		if err == nil {
			err = fmt.Errorf("%s: %w", dst, fs.ErrExist)
		}
		return 0, err
	}
	if err = r.sentinel(ctx); err == nil {
		err = r.accept("")
	}
	if err != nil {
		return 0, err
	}
	if err := r.l.verify(ctx); err != nil {
		return 0, layoutError(r.path, err)
	}
	temp, drop, err := tempBeside(dst)
	if err != nil {
		return 0, err
	}
	defer func() { drop(err != nil) }()
	copied, err := r.copyTo(ctx, temp)
	if err != nil {
		return 0, err
	}
	if after, err = copied.holds(ctx, temp, r.info); err != nil {
		return 0, err
	}
	if err := publish(temp, dst); err != nil {
		return 0, fmt.Errorf("%s: %w", dst, err)
	}
	return after, syncDir(filepath.Dir(dst))
}

// inventory is what is in the buckets of a file.
type inventory map[string]stock

type stock struct {
	rows     int
	sequence uint64
}

// copyTo writes all that is in the store into the empty file at path, and has it
// reach the disk.
func (r *readable) copyTo(ctx context.Context, path string) (_ inventory, err error) {
	from, err := beginRead(r.db, r.path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = from.Rollback() }() // of a read-only transaction it cannot fail
	// Nothing depends on the file before it is whole: one sync at the end does.
	to, err := bbolt.Open(path, 0o600, &bbolt.Options{
		Timeout: DefaultTimeout, FreelistType: bbolt.FreelistMapType, NoSync: true, NoGrowSync: true,
	})
	if err != nil {
		return nil, mapError(path, err)
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	to.AllocSize = 0 // no room beyond what is needed
	c := compaction{ctx: ctx, from: from, to: to, copied: make(inventory)}
	if err := c.run(); err != nil {
		return nil, err
	}
	if err := to.Sync(); err != nil {
		return nil, mapError(path, err)
	}
	return c.copied, nil
}

// compaction copies in transactions of bounded size.
type compaction struct {
	ctx    context.Context
	from   *bbolt.Tx
	to     *bbolt.DB
	copied inventory

	tx    *bbolt.Tx // the one under way
	bytes int
	rows  int
}

func (c *compaction) run() (err error) {
	names, err := bucketsOf(c.from)
	if err != nil {
		return err
	}
	if err := c.begin(); err != nil {
		return err
	}
	defer func() {
		if err != nil && c.tx != nil {
			_ = c.tx.Rollback() // a commit that failed has done so itself
		}
	}()
	for _, name := range names {
		if err := c.bucket(name); err != nil {
			return err
		}
	}
	return c.commit()
}

// bucketsOf lists the buckets of a file, whatever they are.
func bucketsOf(btx *bbolt.Tx) (names [][]byte, err error) {
	defer guard(&err, "reading the list of buckets")
	err = btx.ForEach(func(name []byte, _ *bbolt.Bucket) error {
		names = append(names, bytes.Clone(name))
		return nil
	})
	return names, err
}

func (c *compaction) begin() (err error) {
	c.bytes, c.rows = 0, 0
	if c.tx, err = c.to.Begin(true); err != nil {
		return mapError(c.to.Path(), err)
	}
	return nil
}

func (c *compaction) commit() error {
	if err := c.tx.Commit(); err != nil {
		return mapError(c.to.Path(), err)
	}
	return nil
}

// source finds a bucket to copy.
func (c *compaction) source(name []byte) (b *bbolt.Bucket, err error) {
	defer guard(&err, "finding a bucket")
	if b = c.from.Bucket(name); b == nil {
		err = fmt.Errorf("%w: bucket %s is missing", store.ErrDamaged, printable(name))
	}
	return b, err
}

// bucket copies one bucket.
func (c *compaction) bucket(name []byte) error {
	from, err := c.source(name)
	if err != nil {
		return err
	}
	to, err := c.tx.CreateBucket(name)
	if err == nil {
		err = to.SetSequence(from.Sequence())
	}
	if err != nil {
		return mapError(c.to.Path(), err)
	}
	n := 0
	at := cursor{Cursor: from.Cursor()}
	for err = at.seek(nil); err == nil && at.k != nil; err = at.next() {
		if n++; n%256 == 0 && c.ctx.Err() != nil {
			return c.ctx.Err()
		}
		value, err := sealedCopy(at.k, at.v)
		if err != nil {
			return damaged(string(name), at.k, err)
		}
		if err := c.put(name, at.k, value); err != nil {
			return err
		}
	}
	c.copied[string(name)] = stock{rows: n, sequence: from.Sequence()}
	return err
}

// sealedCopy copies a value whose checksum is right.
func sealedCopy(key, value []byte) (v []byte, err error) {
	if err := checkSeal(key, value); err != nil {
		return nil, err
	}
	return append(make([]byte, 0, len(value)), value...), nil
}

func (c *compaction) put(name, key, value []byte) error {
	if c.bytes >= compactBytes || c.rows >= compactRows {
		if err := c.commit(); err != nil {
			return err
		}
		if err := c.begin(); err != nil {
			return err
		}
	}
	b := c.tx.Bucket(name)
	if b.FillPercent = compactFill; appendedName(name) {
		b.FillPercent = 1
	}
	c.bytes += len(key) + len(value)
	c.rows++
	if err := b.Put(key, value); err != nil {
		return mapError(c.to.Path(), err)
	}
	return nil
}

// appendedName is bucket.appended for a bucket's name.
func appendedName(name []byte) bool {
	for id := range bucketCount {
		if bucketNames[id] == string(name) {
			return id.appended()
		}
	}
	return false
}

// holds sees that the file at path is a sound store that holds as much of everything,
// and returns its size.
func (i inventory) holds(ctx context.Context, path string, info store.Info) (size int64, err error) {
	r, err := openReadable(path, DefaultTimeout)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if err = r.sentinel(ctx); err == nil {
		err = r.l.verify(ctx)
	}
	if err != nil {
		return 0, layoutError(path, err)
	}
	there := make(inventory)
	err = r.l.top(ctx, nil, func(name []byte, child subtree) error {
		n := 0
		err := r.l.walk(ctx, child, nil, func(k, v []byte) error {
			n++
			return checkSeal(k, v)
		})
		there[string(name)] = stock{rows: n, sequence: child.sequence}
		return err
	})
	if err != nil {
		return 0, layoutError(path, err)
	}
	if r.info != info || !maps.Equal(i, there) {
		return 0, fmt.Errorf("%w: %s: the copy is not what was copied", store.ErrDamaged, path)
	}
	return r.l.size, nil
}
