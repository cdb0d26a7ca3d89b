package bolt

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"sync"

	bbolt "go.etcd.io/bbolt"

	"github.com/koi-net/koi-operator/node/store"
)

// backupChunk is about how much Backup reads before it writes: some pages, or one
// record that is larger.
const backupChunk = 256 << 10

// Backup implements store.Store. What it writes is a store file of its own, which
// Restore puts in place and Open opens. Pages in no use are written as zeros, so
// that what was deleted is not in it.
func (s *Store) Backup(ctx context.Context, w io.Writer) (int64, error) {
	var shot *snapshot
	err := errSnapshotGone
	for try := 0; try < 10 && errors.Is(err, errSnapshotGone); try++ {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		shot, err = s.snapshot()
	}
	if err != nil {
		return 0, err
	}
	released := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		shot.release()
		close(released)
	})
	defer func() {
		if !stop() {
			<-released
		}
		shot.release()
	}()
	b := backup{shot: shot, path: s.path}
	return b.run(ctx, w)
}

// snapshot is a state of the file that stays as it is until it is released, which
// may be at any time and from anywhere.
type snapshot struct {
	l   *layout
	mu  sync.Mutex
	btx *bbolt.Tx // nil once it is released
}

func (s *Store) snapshot() (*snapshot, error) {
	defer faultsPanic()()
	btx, err := beginRead(s.db, s.path)
	if err != nil {
		return nil, err
	}
	l, err := s.layoutOf(btx)
	if err != nil {
		_ = btx.Rollback() // of a read-only transaction it cannot fail
		return nil, err
	}
	return &snapshot{l: l, btx: btx}, nil
}

func (s *snapshot) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.btx != nil {
		_ = s.btx.Rollback() // of a read-only transaction it cannot fail
		s.btx = nil
	}
}

// read calls fn, during which the snapshot is not released.
func (s *snapshot) read(ctx context.Context, fn func() error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.btx == nil {
		return ctx.Err()
	}
	return fn()
}

// backup is one run of Backup.
type backup struct {
	shot *snapshot
	path string
	buf  []byte
	free []bool // nil: not known, so that no page can be told from what is left of one
	// damage is the first fault of what was copied.
	damage error
}

func (b *backup) run(ctx context.Context, w io.Writer) (n int64, err error) {
	l := b.shot.l
	next := uint64(0)
	for next < l.pages {
		b.buf = b.buf[:0]
		err := b.shot.read(ctx, func() (err error) {
			if next == 0 {
				b.heads()
				next = 2
			}
			for next < l.pages && len(b.buf) < backupChunk && err == nil {
				next, err = b.page(next)
			}
			return err
		})
		if err != nil {
			return n, layoutError(b.path, err)
		}
		wrote, err := w.Write(b.buf)
		n += int64(wrote)
		switch {
		case ctx.Err() != nil:
			return n, ctx.Err()
		case err == nil && wrote < len(b.buf):
			return n, fmt.Errorf("write the backup: %w", io.ErrShortWrite)
		case err != nil:
			return n, fmt.Errorf("write the backup: %w", err)
		}
	}
	if b.damage != nil {
		return n, fmt.Errorf("%w: %s was copied with what is damaged in it: %w", store.ErrDamaged, b.path, b.damage)
	}
	return n, nil
}

// heads makes both heads lead to this one state, and finds out which pages are in
// no use.
func (b *backup) heads() {
	l := b.shot.l
	b.buf = append(append(b.buf, l.headPage(0, l.txid)...), l.headPage(1, l.txid-1)...)
	p, err := l.page(l.freelist)
	var ids []byte
	if err == nil {
		ids, err = p.freeIDs()
	}
	if err != nil {
		b.damage = fmt.Errorf("the free list: %w", err)
		return
	}
	b.free = make([]bool, l.pages)
	for ; len(ids) > 0; ids = ids[8:] {
		if id := native.Uint64(ids); id < l.pages {
			b.free[id] = true
		}
	}
}

// headPage is a head that leads to this state, under a transaction's number.
func (l *layout) headPage(id, txid uint64) []byte {
	data := make([]byte, l.pageSize)
	copy(data, l.head)
	native.PutUint64(data, id)
	m := data[pageHeader:len(l.head)]
	native.PutUint64(m[48:], txid)
	sum := fnv.New64a()
	sum.Write(m[:len(m)-8])
	native.PutUint64(m[len(m)-8:], sum.Sum64())
	return data
}

// page adds the page id, with those it reaches over, and returns the next.
func (b *backup) page(id uint64) (next uint64, err error) {
	l := b.shot.l
	if b.free != nil && b.free[id] {
		b.buf = append(b.buf, make([]byte, l.pageSize)...)
		return id + 1, nil
	}
	if b.free != nil {
		p, err := l.page(id)
		if err == nil {
			err = p.records(checkSeal)
		}
		if err == nil {
			b.buf = append(b.buf, p.data...)
			return id + p.overflow + 1, nil
		}
		if b.damage == nil {
			b.damage = err
		}
	}
	at := len(b.buf)
	b.buf = append(b.buf, make([]byte, l.pageSize)...)
	return id + 1, l.read(b.buf[at:], id)
}

// checkSeal checks a record's checksum. A version that is not known has one, too,
// and marks that stand for themselves have no value.
func checkSeal(k, v []byte) error {
	if len(v) == 0 {
		return nil
	}
	if _, err := unseal(k, v); err != nil && !errors.Is(err, errVersion) {
		return fmt.Errorf("record %s: %w", printable(k), err)
	}
	return nil
}

// records calls fn with the records on a page, those of buckets that lie within it
// among them.
func (p page) records(fn func(k, v []byte) error) error {
	switch p.flags {
	case pageBranch:
		return p.branch(nil, func([]byte) error { return nil }, func(uint64, []byte, []byte) error { return nil })
	case pageFreelist:
		return nil
	case pageLeaf:
		return p.leaf(func(flags uint32, k, v []byte) error {
			if flags&isBucket == 0 {
				return fn(k, v)
			}
			t, err := subtreeOf(k, v)
			if err != nil || t.inline == nil {
				return err
			}
			return pageOf(t.inline).leaf(func(_ uint32, k, v []byte) error { return fn(k, v) })
		})
	}
	return faultf("page %d is of unknown kind %#x", p.id, p.flags)
}
