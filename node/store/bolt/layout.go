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
	at       int64 // where its head lies
	head     []byte
	root     uint64 // page of the top bucket
	freelist uint64
	pages    uint64 // high-water mark: pages from here on are not in use
	txid     uint64
	heads    int // how many of the file's two are valid
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
	newest := newestOf(heads)
	if want := int64(newest.pages) * newest.pageSize; size < want {
		return nil, fmt.Errorf("it is truncated: %d bytes of at least %d", size, want)
	}
	newest.heads = len(heads)
	return newest, nil
}

func newestOf(heads []*layout) *layout {
	newest := heads[0]
	for _, h := range heads {
		if h.txid > newest.txid {
			newest = h
		}
	}
	return newest
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
		at:       at,
		head:     buf,
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
		if anyHead(f) {
			return fmt.Errorf("%w: %s: %w; %s", store.ErrDamaged, path, cause, remedy)
		}
	}
	return fmt.Errorf("%w: %s is not a store, or its beginning was overwritten; name another path, or %s", store.ErrForeign, path, remedy)
}

// anyHead reports whether one of the heads was a head of bbolt once.
func anyHead(f io.ReaderAt) bool {
	var buf [4]byte
	for _, at := range []int64{0, int64(os.Getpagesize())} {
		if _, err := f.ReadAt(buf[:], at+pageHeader); err == nil && native.Uint32(buf[:]) == layoutMagic {
			return true
		}
	}
	return false
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

// pageFault is what is wrong with a page, or with what leads to it: of a walk that
// goes on behind faults it is what it goes on behind.
type pageFault struct{ error }

func (f *pageFault) Unwrap() error { return f.error }

func faultf(format string, args ...any) error { return &pageFault{fmt.Errorf(format, args...)} }

// subtree is a bucket: a tree at a page, or one inline page.
type subtree struct {
	root     uint64
	sequence uint64
	inline   []byte
}

// page is one page with its overflow, its head checked.
type page struct {
	id       uint64
	flags    uint16
	count    int
	overflow uint64
	data     []byte // from the page's head on
}

// page reads one page. How far it reaches is held against its entries before it
// is read: a damaged length must not cost the memory it speaks of.
func (l *layout) page(id uint64) (page, error) {
	if id < 2 || id >= l.pages {
		return page{}, faultf("page %d is referred to, beyond the %d in use", id, l.pages)
	}
	data := make([]byte, l.pageSize)
	if err := l.read(data, id); err != nil {
		return page{}, err
	}
	p := pageOf(data)
	if p.id != id {
		return page{}, faultf("page %d says it is page %d", id, p.id)
	}
	if p.overflow >= l.pages-id {
		return page{}, faultf("page %d reaches beyond the %d pages in use", id, l.pages)
	}
	if p.overflow == 0 {
		return p, nil
	}
	if err := l.extent(&p); err != nil {
		return page{}, err
	}
	p.data = make([]byte, int64(p.overflow+1)*l.pageSize)
	if err := l.read(p.data, id); err != nil {
		return page{}, err
	}
	return p, nil
}

func (l *layout) read(data []byte, id uint64) error {
	_, err := l.f.ReadAt(data, int64(id)*l.pageSize)
	if err != nil {
		return &pageFault{fmt.Errorf("page %d cannot be read: %w", id, err)}
	}
	return nil
}

// extent sees that a page is as long as its entries need, and no longer.
func (l *layout) extent(p *page) error {
	table, need := p.count*leafEntry, int64(pageHeader)
	switch p.flags {
	case pageLeaf, pageBranch:
	case pageFreelist:
		// The list shrinks by the pages it takes itself once its length is fixed.
		n := int64(p.count)
		if n == manyFree {
			n = int64(native.Uint64(p.data[pageHeader:])) + 1
		}
		if n < 0 || n > int64(l.pages)+1 {
			return faultf("page %d: a free list of %d entries", p.id, n)
		}
		return l.reaches(p, need+8*(n+int64(p.overflow)+1))
	default:
		return faultf("page %d is of unknown kind %#x", p.id, p.flags)
	}
	data := p.data
	if pageHeader+table > len(data) {
		pages := (pageHeader + table + int(l.pageSize) - 1) / int(l.pageSize)
		if uint64(pages) > p.overflow+1 {
			return faultf("page %d: %d entries do not fit in it", p.id, p.count)
		}
		data = make([]byte, pages*int(l.pageSize))
		if err := l.read(data, p.id); err != nil {
			return err
		}
	}
	need += int64(table)
	for i := range p.count {
		e := data[pageHeader+i*leafEntry:]
		if p.flags == pageLeaf {
			need += int64(native.Uint32(e[8:])) + int64(native.Uint32(e[12:]))
		} else {
			need += int64(native.Uint32(e[4:]))
		}
	}
	return l.reaches(p, need)
}

func (l *layout) reaches(p *page, need int64) error {
	if pages := need/l.pageSize + 1; int64(p.overflow)+1 > pages {
		return faultf("page %d takes %d pages, its entries need %d", p.id, p.overflow+1, pages)
	}
	return nil
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
	return nil, faultf("page %d: an entry reaches beyond the page", p.id)
}

func (p page) entries(size int) error {
	if pageHeader+p.count*size > len(p.data) {
		return faultf("page %d: %d entries do not fit in it", p.id, p.count)
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
			return faultf("page %d: an entry reaches beyond the page", p.id)
		}
		v, err := p.part(base, pos+ksize, vsize)
		if err != nil {
			return err
		}
		if i > 0 && bytes.Compare(last, k) >= 0 {
			return faultf("page %d: its keys are out of order", p.id)
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
		return subtree{}, faultf("bucket %s has no root", printable(name))
	}
	t := subtree{root: native.Uint64(v), sequence: native.Uint64(v[8:])}
	if t.root == 0 {
		if t.inline = v[bucketEntry:]; len(t.inline) < pageHeader {
			return subtree{}, faultf("bucket %s has no page", printable(name))
		}
	}
	return t, nil
}

// visitor sees the pages and entries of a tree. What it returns ends the walk.
type visitor struct {
	page  func(page) error
	entry func(flags uint32, k, v []byte) error
	// bad is told of what is wrong with a page; the walk goes on behind it and all
	// below it. Without it the first fault ends the walk.
	bad func(error)
}

// tree runs through the tree at page id; its keys have to lie in [from, to),
// where nil is no bound.
func (l *layout) tree(ctx context.Context, id uint64, from, to []byte, depth int, see visitor) error {
	return see.past(l.visit(ctx, id, from, to, depth, see))
}

// past keeps a fault that the walk goes on behind.
func (see visitor) past(err error) error {
	var fault *pageFault
	if see.bad == nil || !errors.As(err, &fault) {
		return err
	}
	see.bad(err)
	return nil
}

func (l *layout) visit(ctx context.Context, id uint64, from, to []byte, depth int, see visitor) error {
	return l.node(ctx, id, from, to, depth, see, func(child uint64, from, to []byte) error {
		return l.tree(ctx, child, from, to, depth+1, see)
	})
}

// node looks at one page of a tree, and calls below with each it leads to.
func (l *layout) node(ctx context.Context, id uint64, from, to []byte, depth int, see visitor, below func(child uint64, from, to []byte) error) error {
	if depth > maxDepth {
		return faultf("page %d lies in a tree that is too high", id)
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
			return faultf("page %d holds a key that belongs elsewhere", id)
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
		return p.branch(to, within, below)
	}
	return faultf("page %d is of kind %#x where a branch or a leaf is due", id, p.flags)
}

// branch calls fn with the pages that a branch page leads to, and the keys that
// bound what lies there.
func (p page) branch(to []byte, within func([]byte) error, fn func(child uint64, from, to []byte) error) error {
	if err := p.entries(branchEntry); err != nil {
		return err
	}
	if p.count == 0 {
		return faultf("page %d is a branch without entries", p.id)
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
				return faultf("page %d: its keys are out of order", p.id)
			}
			end = following
		}
		child := native.Uint64(p.data[pageHeader+i*branchEntry+8:])
		if err := fn(child, k, end); err != nil {
			return err
		}
		k = following
	}
	return nil
}

// top calls fn with the buckets of the top level; bad is that of a visitor.
func (l *layout) top(ctx context.Context, bad func(error), fn func(name []byte, child subtree) error) error {
	see := visitor{bad: bad}
	see.entry = func(flags uint32, k, v []byte) error {
		if flags&isBucket == 0 {
			return see.past(faultf("%s lies among the buckets", printable(k)))
		}
		child, err := subtreeOf(k, v)
		if err != nil {
			return see.past(err)
		}
		return fn(k, child)
	}
	return l.tree(ctx, l.root, nil, nil, 0, see)
}

// walk calls fn with the keys and values of one bucket; bad is that of a visitor.
func (l *layout) walk(ctx context.Context, t subtree, bad func(error), fn func(k, v []byte) error) error {
	see := visitor{bad: bad, entry: func(_ uint32, k, v []byte) error { return fn(k, v) }}
	if t.inline != nil {
		return see.past(pageOf(t.inline).leaf(see.entry))
	}
	return l.tree(ctx, t.root, nil, nil, 0, see)
}

// What a page belongs to.
const (
	inTree = 1
	inFree = 2
)

// audit reads the whole structure: all trees, the free list, and that each page
// in use belongs to exactly one of them.
type audit struct {
	*layout
	used []byte // what each page belongs to
	free uint64 // pages the free list holds
	// bad is told of each fault, with the bucket it lies in, "" for none; where it
	// is nil the first one ends the audit.
	bad    func(bucket string, err error)
	faults int
	// torn are the buckets some of which was not seen; "" is the list of them.
	torn map[string]bool
}

// verify returns the first fault of the structure, or the error of ctx.
func (l *layout) verify(ctx context.Context) error {
	return (&audit{layout: l}).run(ctx)
}

// verifyTop is verify for a file too large to be read at once: it looks at the
// pages nearest the roots, at most n, and at the free list.
func (l *layout) verifyTop(ctx context.Context, n int) error {
	type step struct {
		id       uint64
		from, to []byte
		depth    int
	}
	a := &audit{layout: l, used: make([]byte, l.pages)}
	see := a.visitor("")
	queue := []step{{id: l.root}}
	see.entry = func(flags uint32, k, v []byte) error {
		if flags&isBucket == 0 {
			return nil
		}
		child, err := subtreeOf(k, v)
		if err == nil && child.inline == nil {
			queue = append(queue, step{id: child.root})
		}
		return err
	}
	for ; len(queue) > 0 && n > 0; n-- {
		next := queue[0]
		queue = queue[1:]
		err := l.node(ctx, next.id, next.from, next.to, next.depth, see, func(child uint64, from, to []byte) error {
			if len(queue) < n {
				queue = append(queue, step{child, from, to, next.depth + 1})
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return a.freelistPages()
}

func (a *audit) run(ctx context.Context) error {
	a.used = make([]byte, a.pages)
	if err := a.past("", a.claim(0, 2, inTree)); err != nil {
		return err
	}
	if err := a.trees(ctx); err != nil {
		return err
	}
	if err := a.past("", a.freelistPages()); err != nil {
		return err
	}
	if a.faults > 0 {
		return nil // what lies below a fault was not seen
	}
	return a.past("", a.orphans())
}

// past passes a fault on to bad, where there is one.
func (a *audit) past(bucket string, err error) error {
	var fault *pageFault
	if a.bad == nil || !errors.As(err, &fault) {
		return err
	}
	a.faults++
	a.bad(bucket, err)
	return nil
}

// pastTree is past for what is wrong with a bucket's tree.
func (a *audit) pastTree(bucket string, err error) error {
	before := a.faults
	if err := a.past(bucket, err); err != nil || a.faults == before {
		return err
	}
	if a.torn == nil {
		a.torn = make(map[string]bool)
	}
	a.torn[bucket] = true
	return nil
}

// visitor claims the pages of a bucket's tree.
func (a *audit) visitor(bucket string) visitor {
	see := visitor{page: func(p page) error { return a.claim(p.id, p.overflow+1, inTree) }}
	see.entry = func(flags uint32, k, _ []byte) error {
		if flags&isBucket != 0 {
			return faultf("bucket %s lies in a bucket", printable(k))
		}
		return nil
	}
	if a.bad != nil {
		see.bad = func(err error) { _ = a.pastTree(bucket, err) }
	}
	return see
}

func (a *audit) trees(ctx context.Context) error {
	top := a.visitor("")
	top.entry = func(flags uint32, k, v []byte) error {
		if flags&isBucket == 0 {
			return a.pastTree("", faultf("%s lies among the buckets", printable(k)))
		}
		see := a.visitor(string(k))
		child, err := subtreeOf(k, v)
		if err != nil {
			return a.pastTree(string(k), err)
		}
		if child.inline != nil {
			return see.past(pageOf(child.inline).leaf(see.entry))
		}
		return a.tree(ctx, child.root, nil, nil, 0, see)
	}
	return a.tree(ctx, a.root, nil, nil, 0, top)
}

func (a *audit) claim(id, count uint64, as byte) error {
	for i := id; i < id+count; i++ {
		if i >= a.pages {
			return faultf("page %d is referred to, beyond the %d in use", i, a.pages)
		}
		if a.used[i] != 0 {
			return faultf("page %d is in use twice", i)
		}
		a.used[i] = as
	}
	return nil
}

func (a *audit) freelistPages() error {
	p, err := a.page(a.freelist)
	if err != nil {
		return fmt.Errorf("the free list: %w", err)
	}
	ids, err := p.freeIDs()
	if err != nil {
		return err
	}
	if err := a.claim(p.id, p.overflow+1, inTree); err != nil {
		return fmt.Errorf("the free list: %w", err)
	}
	for ; len(ids) > 0; ids = ids[8:] {
		if err := a.claim(native.Uint64(ids), 1, inFree); err != nil {
			return fmt.Errorf("the free list: %w", err)
		}
		a.free++
	}
	return nil
}

// manyFree as the count of a free list: the first entry holds the count.
const manyFree = 0xffff

// freeIDs returns the numbers of free pages, eight bytes each.
func (p page) freeIDs() ([]byte, error) {
	if p.flags != pageFreelist {
		return nil, faultf("page %d is of kind %#x where the free list is due", p.id, p.flags)
	}
	count, ids := uint64(p.count), p.data[pageHeader:]
	if count == manyFree {
		count, ids = native.Uint64(ids), ids[8:]
	}
	if count > uint64(len(ids))/8 {
		return nil, faultf("the free list: %d entries do not fit in it", count)
	}
	return ids[:8*count], nil
}

func (a *audit) orphans() error {
	first, n := 0, 0
	for id, as := range a.used {
		if as == 0 {
			if n == 0 {
				first = id
			}
			n++
		}
	}
	if n > 0 {
		return faultf("%d pages belong to nothing, the first is page %d", n, first)
	}
	return nil
}
