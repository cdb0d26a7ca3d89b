package bolt

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"

	"github.com/koi-net/koi-operator/node/store"
)

// This file reads bbolt's pages (file format version 2) by itself, through
// plain bounded reads. bbolt trusts what it has mapped: over a damaged page it
// panics, or touches memory that is not there. Here each offset is checked
// first, so a file can be looked at before anything relies on it.

const (
	layoutMagic   = 0xED0CDAED
	layoutVersion = 2

	pageBranch   = 0x01
	pageLeaf     = 0x02
	pageMeta     = 0x04
	pageFreelist = 0x10

	pageHeader  = 16
	branchEntry = 16
	leafEntry   = 16
	bucketEntry = 16 // root page and sequence, at the head of a bucket's value

	minPage = 1 << 10 // page sizes tried
	maxPage = 1 << 16

	isBucket = 0x01 // flag of a leaf entry

	// noFreelist: the file was written without a free list.
	noFreelist = ^uint64(0)
	// maxDepth bounds the height of a tree: with two keys a page, 2^40 pages.
	maxDepth = 40
)

var native = binary.NativeEndian

// errHead: neither head of the file is a valid one of bbolt.
var errHead = errors.New("neither of its two heads is valid")

// layout is one consistent state of a file: what one of its heads points to.
type layout struct {
	f        io.ReaderAt
	size     int64 // of the file
	pageSize int64
	root     uint64 // page of the top bucket
	freelist uint64
	pages    uint64 // high-water mark: pages from here on are not in use
	txid     uint64
}

// readLayout takes the newest valid head.
func readLayout(f io.ReaderAt, size int64) (*layout, error) {
	heads, err := readHeads(f, size)
	if err != nil {
		return nil, err
	}
	if len(heads) == 0 {
		return nil, errHead
	}
	newest := heads[0]
	for _, h := range heads {
		if h.txid > newest.txid {
			newest = h
		}
	}
	if want := int64(newest.pages) * newest.pageSize; size < want {
		return nil, fmt.Errorf("it is truncated: %d bytes of at least %d", size, want)
	}
	return newest, nil
}

// readHeads returns the valid heads among the two.
func readHeads(f io.ReaderAt, size int64) ([]*layout, error) {
	var heads []*layout
	// The second head lies one page on; its page size is known from the first,
	// or tried.
	head, err := readHead(f, 0, size)
	if err != nil {
		return nil, err
	}
	if head != nil {
		heads = append(heads, head)
	}
	for at := int64(minPage); at <= maxPage; at <<= 1 {
		if head != nil && at != head.pageSize {
			continue
		}
		second, err := readHead(f, at, size)
		if err != nil {
			return nil, err
		}
		if second != nil && second.pageSize == at {
			return append(heads, second), nil
		}
	}
	return heads, nil
}

func readHead(f io.ReaderAt, at, size int64) (*layout, error) {
	const length = 64
	buf := make([]byte, pageHeader+length)
	if _, err := f.ReadAt(buf, at); errors.Is(err, io.EOF) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	m := buf[pageHeader:]
	sum := fnv.New64a()
	sum.Write(m[:length-8])
	if native.Uint32(m) != layoutMagic || native.Uint32(m[4:]) != layoutVersion || native.Uint64(m[length-8:]) != sum.Sum64() {
		return nil, nil
	}
	l := &layout{
		f: f, size: size,
		pageSize: int64(native.Uint32(m[8:])),
		root:     native.Uint64(m[16:]),
		freelist: native.Uint64(m[32:]),
		pages:    native.Uint64(m[40:]),
		txid:     native.Uint64(m[48:]),
	}
	if l.pageSize < minPage || l.pageSize > maxPage || l.pages > uint64(1<<62)/uint64(l.pageSize) {
		return nil, nil
	}
	return l, nil
}

// badHead tells a damaged store from a file that never was one.
func badHead(path string, cause error) error {
	if f, err := os.Open(path); err == nil {
		defer f.Close()
		var buf [4]byte
		for _, at := range []int64{0, int64(os.Getpagesize())} {
			if _, err := f.ReadAt(buf[:], at+pageHeader); err == nil && native.Uint32(buf[:]) == layoutMagic {
				return fmt.Errorf("%w: %s: %w; %s", store.ErrDamaged, path, cause, remedy)
			}
		}
	}
	return fmt.Errorf("%w: %s is not a store, or its beginning was overwritten; name another path, or %s", store.ErrForeign, path, remedy)
}

func layoutError(path string, err error) error {
	var sys *os.PathError
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.As(err, &sys):
		return fmt.Errorf("read the store: %w", err)
	case errors.Is(err, store.ErrDamaged), errors.Is(err, store.ErrForeign):
		return err
	case errors.Is(err, errHead):
		return badHead(path, err)
	}
	return fmt.Errorf("%w: %s: %w; %s", store.ErrDamaged, path, err, remedy)
}

// subtree is a bucket: a tree at a page, or one inline page.
type subtree struct {
	root   uint64
	inline []byte
}

// page is one page with its overflow, its head checked.
type page struct {
	id       uint64
	flags    uint16
	count    int
	overflow uint64
	data     []byte // from the page's head on
}

func (l *layout) page(id uint64) (page, error) {
	if id < 2 || id >= l.pages {
		return page{}, fmt.Errorf("page %d is referred to, beyond the %d in use", id, l.pages)
	}
	var head [pageHeader]byte
	if _, err := l.f.ReadAt(head[:], int64(id)*l.pageSize); err != nil {
		return page{}, err
	}
	p := pageOf(head[:])
	if p.id != id {
		return page{}, fmt.Errorf("page %d says it is page %d", id, p.id)
	}
	if p.overflow >= l.pages-id {
		return page{}, fmt.Errorf("page %d reaches beyond the %d pages in use", id, l.pages)
	}
	p.data = make([]byte, int64(p.overflow+1)*l.pageSize)
	if _, err := l.f.ReadAt(p.data, int64(id)*l.pageSize); err != nil {
		return page{}, err
	}
	return p, nil
}

func pageOf(data []byte) page {
	return page{
		id:       native.Uint64(data),
		flags:    native.Uint16(data[8:]),
		count:    int(native.Uint16(data[10:])),
		overflow: uint64(native.Uint32(data[12:])),
		data:     data,
	}
}

// part is a bounded slice of the page, relative to the entry at base.
func (p page) part(base int, pos, size uint32) ([]byte, error) {
	from := int64(base) + int64(pos)
	if to := from + int64(size); to <= int64(len(p.data)) {
		return p.data[from:to:to], nil
	}
	return nil, fmt.Errorf("page %d: an entry reaches beyond the page", p.id)
}

func (p page) entries(size int) error {
	if pageHeader+p.count*size > len(p.data) {
		return fmt.Errorf("page %d: %d entries do not fit in it", p.id, p.count)
	}
	return nil
}

// leaf calls fn with the entries of a leaf page, whose keys have to ascend.
func (p page) leaf(fn func(flags uint32, k, v []byte) error) error {
	if err := p.entries(leafEntry); err != nil {
		return err
	}
	var last []byte
	for i := range p.count {
		base := pageHeader + i*leafEntry
		e := p.data[base:]
		pos, ksize, vsize := native.Uint32(e[4:]), native.Uint32(e[8:]), native.Uint32(e[12:])
		k, err := p.part(base, pos, ksize)
		if err != nil {
			return err
		}
		if uint64(pos)+uint64(ksize) > 1<<32-1 {
			return fmt.Errorf("page %d: an entry reaches beyond the page", p.id)
		}
		v, err := p.part(base, pos+ksize, vsize)
		if err != nil {
			return err
		}
		if i > 0 && bytes.Compare(last, k) >= 0 {
			return fmt.Errorf("page %d: its keys are out of order", p.id)
		}
		last = k
		if err := fn(native.Uint32(e), k, v); err != nil {
			return err
		}
	}
	return nil
}

// subtreeOf reads the value of a bucket's entry.
func subtreeOf(name, v []byte) (subtree, error) {
	if len(v) < bucketEntry {
		return subtree{}, fmt.Errorf("bucket %s has no root", printable(name))
	}
	t := subtree{root: native.Uint64(v)}
	if t.root == 0 {
		if t.inline = v[bucketEntry:]; len(t.inline) < pageHeader {
			return subtree{}, fmt.Errorf("bucket %s has no page", printable(name))
		}
	}
	return t, nil
}

// visitor sees the pages and entries of a tree.
type visitor struct {
	page  func(page) error
	entry func(flags uint32, k, v []byte) error
}

// tree runs through the tree at page id; its keys have to lie in [from, to),
// where nil is no bound.
func (l *layout) tree(ctx context.Context, id uint64, from, to []byte, depth int, see visitor) error {
	if depth > maxDepth {
		return fmt.Errorf("page %d lies in a tree that is too high", id)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	p, err := l.page(id)
	if err != nil {
		return err
	}
	if see.page != nil {
		if err := see.page(p); err != nil {
			return err
		}
	}
	within := func(k []byte) error {
		if from != nil && bytes.Compare(k, from) < 0 || to != nil && bytes.Compare(k, to) >= 0 {
			return fmt.Errorf("page %d holds a key that belongs elsewhere", id)
		}
		return nil
	}
	switch p.flags {
	case pageLeaf:
		return p.leaf(func(flags uint32, k, v []byte) error {
			if err := within(k); err != nil {
				return err
			}
			return see.entry(flags, k, v)
		})
	case pageBranch:
		return l.branch(ctx, p, to, within, depth, see)
	}
	return fmt.Errorf("page %d is of kind %#x where a branch or a leaf is due", id, p.flags)
}

func (l *layout) branch(ctx context.Context, p page, to []byte, within func([]byte) error, depth int, see visitor) error {
	if err := p.entries(branchEntry); err != nil {
		return err
	}
	if p.count == 0 {
		return fmt.Errorf("page %d is a branch without entries", p.id)
	}
	key := func(i int) ([]byte, error) {
		base := pageHeader + i*branchEntry
		return p.part(base, native.Uint32(p.data[base:]), native.Uint32(p.data[base+4:]))
	}
	k, err := key(0)
	if err != nil {
		return err
	}
	for i := range p.count {
		if err := within(k); err != nil {
			return err
		}
		end := to
		var following []byte
		if i+1 < p.count {
			if following, err = key(i + 1); err != nil {
				return err
			}
			if bytes.Compare(k, following) >= 0 {
				return fmt.Errorf("page %d: its keys are out of order", p.id)
			}
			end = following
		}
		child := native.Uint64(p.data[pageHeader+i*branchEntry+8:])
		if err := l.tree(ctx, child, k, end, depth+1, see); err != nil {
			return err
		}
		k = following
	}
	return nil
}

// top calls fn with the buckets of the top level.
func (l *layout) top(fn func(name []byte, child subtree) error) error {
	return l.tree(context.Background(), l.root, nil, nil, 0, visitor{entry: func(flags uint32, k, v []byte) error {
		if flags&isBucket == 0 {
			return nil
		}
		child, err := subtreeOf(k, v)
		if err != nil {
			return err
		}
		return fn(k, child)
	}})
}

// walk calls fn with the keys and values of one bucket.
func (l *layout) walk(t subtree, fn func(k, v []byte) error) error {
	see := visitor{entry: func(_ uint32, k, v []byte) error { return fn(k, v) }}
	if t.inline != nil {
		return pageOf(t.inline).leaf(see.entry)
	}
	return l.tree(context.Background(), t.root, nil, nil, 0, see)
}

// verify reads the whole structure: all trees, the free list, and that each
// page in use belongs to exactly one of them.
func (l *layout) verify(ctx context.Context) error {
	used := make([]byte, l.pages) // what each page belongs to
	const (
		inTree = 1
		inFree = 2
	)
	claim := func(id, count uint64, as byte) error {
		for i := id; i < id+count; i++ {
			if i >= l.pages {
				return fmt.Errorf("page %d is referred to, beyond the %d in use", i, l.pages)
			}
			if used[i] != 0 {
				return fmt.Errorf("page %d is in use twice", i)
			}
			used[i] = as
		}
		return nil
	}
	if err := claim(0, 2, inTree); err != nil {
		return err
	}
	see := visitor{page: func(p page) error { return claim(p.id, p.overflow+1, inTree) }}
	see.entry = func(flags uint32, k, v []byte) error {
		if flags&isBucket == 0 {
			return nil
		}
		child, err := subtreeOf(k, v)
		if err != nil {
			return err
		}
		if child.inline != nil {
			return pageOf(child.inline).leaf(func(uint32, []byte, []byte) error { return nil })
		}
		inner := see
		inner.entry = func(flags uint32, k, _ []byte) error {
			if flags&isBucket != 0 {
				return fmt.Errorf("bucket %s lies in a bucket", printable(k))
			}
			return nil
		}
		return l.tree(ctx, child.root, nil, nil, 0, inner)
	}
	if err := l.tree(ctx, l.root, nil, nil, 0, see); err != nil {
		return err
	}

	p, err := l.page(l.freelist)
	if err != nil {
		return fmt.Errorf("the free list: %w", err)
	}
	if p.flags != pageFreelist {
		return fmt.Errorf("page %d is of kind %#x where the free list is due", p.id, p.flags)
	}
	if err := claim(p.id, p.overflow+1, inTree); err != nil {
		return fmt.Errorf("the free list: %w", err)
	}
	count, ids := uint64(p.count), p.data[pageHeader:]
	if count == 0xffff { // then the first entry holds it
		count, ids = native.Uint64(ids), ids[8:]
	}
	if count > uint64(len(ids))/8 {
		return fmt.Errorf("the free list: %d entries do not fit in it", count)
	}
	for i := range count {
		if err := claim(native.Uint64(ids[8*i:]), 1, inFree); err != nil {
			return fmt.Errorf("the free list: %w", err)
		}
	}
	for id, as := range used {
		if as == 0 {
			return fmt.Errorf("page %d belongs to nothing", id)
		}
	}
	return nil
}
