package bolt

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	bbolt "go.etcd.io/bbolt"

	"github.com/koi-net/koi-operator/node/store"
)

// bucket names a top-level bucket.
type bucket int

const (
	bucketSentinel bucket = iota
	bucketIndex
	bucketContents
	bucketTypes
	bucketInbox
	bucketPeers
	bucketRows
	bucketLatest
	bucketSuperseded
	bucketBodies
	bucketRefs
	bucketDecisions
	bucketValues
	bucketCounters
	bucketReplay
	bucketNoted
	bucketCount
)

var bucketNames = [bucketCount]string{
	"koi", "index", "contents", "types", "inbox", "peers", "rows", "latest",
	"superseded", "bodies", "refs", "decisions", "values", "counters",
	"replay", "noted",
}

// Buckets that came later, in groups: see tx.missing.
var (
	replayBuckets = []bucket{bucketReplay, bucketNoted}
	bundleBuckets = []bucket{bucketIndex, bucketContents}
)

func (b bucket) String() string { return bucketNames[b] }

// appended buckets take keys that only grow, so their pages are left fuller.
func (b bucket) appended() bool {
	return b == bucketContents || b == bucketInbox || b == bucketBodies || b == bucketRefs || b == bucketNoted
}

// errOver: a Reader or Writer was used after its transaction.
var errOver = errors.New("the transaction is over: a Reader or Writer is valid only inside the function it was given to")

// shared is what all functions of one bbolt transaction share.
type shared struct {
	btx     *bbolt.Tx
	clock   func() time.Time
	buckets [bucketCount]*bbolt.Bucket
	cursors [bucketCount]*bbolt.Cursor // of find, which moves them
	// changes counts writes; an iterator looks at it to find its place again.
	changes uint64
	// failed is the first write that failed. It fails every function that took
	// part, whatever they return: some of a change may have been made.
	failed error
	// written estimates the bytes the transaction adds to the file.
	written int64
	// room is how many bytes may be added; negative: no bound. spare is how many
	// may be by what makes room.
	room, spare int64
	// adds is whether anything was added that is not in the service of deletions.
	adds bool

	// What many functions of one transaction change is collected here and
	// written by flush: figures by peers key, counts by type, the lengths of
	// the inbox and of the replay memory.
	peers  map[string]*peerState
	stale  map[string]struct{} // keys of peers to write
	counts map[string]uint64
	typed  map[string]struct{} // keys of counts to write
	inbox  *uint64
	replay *uint64
}

// tx is the Reader, or the Writer, of one function.
type tx struct {
	*shared
	ctx   context.Context // ends iterators early; nil in an update
	over  bool
	freed bool // it deleted a bundle
	// Scratch of lookup and of contents.
	key       []byte
	numberKey [8]byte
}

func newShared(btx *bbolt.Tx, clock func() time.Time) *shared {
	return &shared{btx: btx, clock: clock, room: -1, spare: -1}
}

// guard turns a panic of bbolt over damaged pages, memory faults included,
// into store.ErrDamaged. Deferred around calls into bbolt only, never around
// functions of callers.
func guard(err *error, doing string) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("%w: %s: %v", store.ErrDamaged, doing, r)
	}
}

// guardWrite is guard for a change: one that panicked may be half made.
func (t *tx) guardWrite(err *error, id bucket) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("%w: writing %s: %v", store.ErrDamaged, id, r)
		t.failed = *err
	}
}

// faultsPanic makes memory faults (a mapped file that lost its end, an offset
// out of a damaged page) panics instead of the end of the process, for this
// goroutine, until the function it returns is called.
func faultsPanic() func() {
	old := debug.SetPanicOnFault(true)
	return func() { debug.SetPanicOnFault(old) }
}

func (t *tx) bucket(id bucket) (b *bbolt.Bucket, err error) {
	if t.over {
		return nil, errOver
	}
	if b := t.buckets[id]; b != nil {
		return b, nil
	}
	defer guard(&err, "finding a bucket")
	b = t.btx.Bucket([]byte(bucketNames[id]))
	if b == nil {
		return nil, fmt.Errorf("%w: bucket %s is missing", store.ErrDamaged, id)
	}
	if id.appended() {
		b.FillPercent = 0.95
	}
	t.buckets[id] = b
	return b, nil
}

// get returns the value of key, or nil. It aliases the transaction's memory.
func (t *tx) get(id bucket, key []byte) (v []byte, err error) {
	defer guard(&err, "reading a record")
	b, err := t.bucket(id)
	if err != nil {
		return nil, err
	}
	return b.Get(key), nil
}

func (t *tx) put(id bucket, key, value []byte) (err error) {
	defer t.guardWrite(&err, id)
	b, err := t.bucket(id)
	if err != nil {
		return err
	}
	t.changes++
	t.written += int64(len(key) + len(value) + 16)
	if err := b.Put(key, value); err != nil {
		t.failed = fmt.Errorf("write record %s of %s: %w", printable(key), id, err)
	}
	return t.failed
}

func (t *tx) delete(id bucket, key []byte) (err error) {
	defer t.guardWrite(&err, id)
	b, err := t.bucket(id)
	if err != nil {
		return err
	}
	t.changes++
	if err := b.Delete(key); err != nil {
		t.failed = fmt.Errorf("delete record %s of %s: %w", printable(key), id, err)
	}
	return t.failed
}

func (t *tx) createBucket(id bucket) (err error) {
	defer t.guardWrite(&err, id)
	t.changes++
	if _, err := t.btx.CreateBucket([]byte(bucketNames[id])); err != nil {
		t.failed = fmt.Errorf("make bucket %s: %w", id, err)
	}
	return t.failed
}

func (t *tx) nextSequence(id bucket) (n uint64, err error) {
	defer t.guardWrite(&err, id)
	b, err := t.bucket(id)
	if err != nil {
		return 0, err
	}
	t.changes++
	return b.NextSequence()
}

// count reads a sealed number; a missing one is zero.
func (t *tx) count(id bucket, key []byte) (uint64, error) {
	v, err := t.get(id, key)
	if err != nil || v == nil {
		return 0, err
	}
	n, err := decodeCount(key, v)
	if err != nil {
		return 0, damaged(bucketNames[id], key, err)
	}
	return n, nil
}

// needRoom refuses additions once the file nears its bound, while there still
// are pages for deletions: every change of a B+tree needs some before it frees any.
func (t *tx) needRoom(n int) error {
	t.adds = true
	return t.within(n, t.room)
}

// needSpare is needRoom for small additions in the service of deletions, which are
// to be possible where nothing else is: the row of a FORGET that waits, its events
// for others. They may take half of what is kept for deletions.
func (t *tx) needSpare(n int) error { return t.within(n, t.spare) }

func (t *tx) within(n int, room int64) error {
	if room < 0 || 2*(t.written+int64(n)) <= room {
		return nil
	}
	return fmt.Errorf("%w: no room for additions is left within the store's bound or on its volume; enlarge either, or delete something", store.ErrFull)
}

// smallAddition bounds what may take from what is kept for deletions.
const smallAddition = 1 << 10

// scan calls fn with each key that has prefix, in order, beginning after the
// key after (nil: from the first), until fn returns false. The key is fn's until
// it returns, the value aliases the transaction's memory. fn may change the
// store: scan finds its place again, so that what is deleted ahead is not seen
// and nothing is seen twice.
func (t *tx) scan(id bucket, prefix, after []byte, fn func(k, v []byte) bool) error {
	b, err := t.bucket(id)
	if err != nil {
		return err
	}
	start := prefix
	if after != nil && bytes.Compare(after, prefix) >= 0 {
		start = after
	}
	c := cursor{Cursor: b.Cursor()}
	err = c.seek(start)
	if err == nil && after != nil && bytes.Equal(c.k, after) {
		err = c.next()
	}
	for n := 1; ; n++ {
		if err != nil || c.k == nil || !bytes.HasPrefix(c.k, prefix) {
			return err
		}
		if t.ctx != nil && n%256 == 0 && t.ctx.Err() != nil {
			return t.ctx.Err()
		}
		changes := t.changes
		if !fn(c.k, c.v) {
			return nil
		}
		if t.over {
			return errOver
		}
		if t.changes == changes {
			err = c.next()
			continue
		}
		place := c.k
		c = cursor{Cursor: b.Cursor()}
		if err = c.seek(place); err == nil && bytes.Equal(c.k, place) {
			err = c.next()
		}
	}
}

// cursor is bbolt's, with its panics turned into errors and its keys copied:
// a damaged length may lead out of the mapped file.
type cursor struct {
	*bbolt.Cursor
	buf  []byte
	k, v []byte // k is nil at the end, and valid until the next step
}

func (c *cursor) seek(key []byte) (err error) {
	defer guard(&err, "seeking")
	var k, v []byte
	if len(key) == 0 {
		k, v = c.First()
	} else {
		k, v = c.Seek(key)
	}
	return c.at(k, v)
}

func (c *cursor) next() (err error) {
	defer guard(&err, "reading on")
	k, v := c.Next()
	return c.at(k, v)
}

func (c *cursor) at(k, v []byte) error {
	c.k, c.v = nil, v
	if len(k) > bbolt.MaxKeySize {
		return fmt.Errorf("%w: a key of %d bytes", store.ErrDamaged, len(k))
	}
	if k != nil {
		c.buf = append(c.buf[:0], k...)
		c.k = c.buf
	}
	return nil
}

func seqKey(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// flush writes what was collected. It is called before a commit and before a
// scan of what it writes.
func (t *tx) flush() error {
	for key := range t.stale {
		p := t.peers[key]
		var err error
		if p.rows == 0 && !p.resync {
			err = t.delete(bucketPeers, []byte(key))
			delete(t.peers, key)
		} else {
			err = t.put(bucketPeers, []byte(key), encodePeer([]byte(key), *p))
		}
		if err != nil {
			return err
		}
		delete(t.stale, key)
	}
	for key := range t.typed {
		var err error
		if n := t.counts[key]; n == 0 {
			err = t.delete(bucketTypes, []byte(key))
		} else {
			err = t.put(bucketTypes, []byte(key), encodeCount([]byte(key), n))
		}
		if err != nil {
			return err
		}
		delete(t.typed, key)
	}
	for _, length := range []struct {
		key []byte
		n   *uint64
	}{{keyInbox, t.inbox}, {keyReplay, t.replay}} {
		if length.n == nil {
			continue
		}
		if err := t.put(bucketCounters, length.key, encodeCount(length.key, *length.n)); err != nil {
			return err
		}
	}
	return nil
}
