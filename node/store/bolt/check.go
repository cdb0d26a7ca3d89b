package bolt

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	bbolt "go.etcd.io/bbolt"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

// Check implements store.Store. It works on one snapshot, beside readers and
// the writer; the pages the snapshot holds are not reused meanwhile, so the
// file may grow. It stops at the first fault.
func (s *Store) Check(ctx context.Context) error {
	return s.onSnapshot(ctx, func(t *tx, l *layout) error {
		if err := l.verify(ctx); err != nil {
			return layoutError(s.path, err)
		}
		c := newChecker(t, l, s.info)
		if err := c.run(); err != nil {
			return layoutError(s.path, err)
		}
		return nil
	})
}

// onSnapshot calls fn with a transaction and the pages it reads, which stay as
// they are for as long as that is open.
func (s *Store) onSnapshot(ctx context.Context, fn func(*tx, *layout) error) error {
	err := errSnapshotGone
	for try := 0; try < 10 && errors.Is(err, errSnapshotGone); try++ {
		err = s.View(ctx, func(r store.Reader) error {
			t := r.(*tx)
			l, err := s.layoutOf(t.btx)
			if err != nil {
				return err
			}
			return fn(t, l)
		})
	}
	return err
}

// errSnapshotGone: the head of the snapshot was overwritten by later commits
// before it was read.
var errSnapshotGone = errors.New("the store changes faster than its head can be read; try again")

// layoutOf finds the pages that a transaction reads.
func (s *Store) layoutOf(btx *bbolt.Tx) (*layout, error) {
	st, err := s.file.Stat()
	if err != nil {
		return nil, fmt.Errorf("read the store: %w", err)
	}
	heads, err := readHeads(s.file, st.Size())
	if err != nil {
		return nil, layoutError(s.path, err)
	}
	for _, l := range heads {
		if l.txid == uint64(btx.ID()) {
			return l, nil
		}
	}
	return nil, errSnapshotGone
}

// checker reads every record of one state, and holds what is derived from records
// against them. Records come through plain reads of pages, so that those behind a
// damaged page are seen too; what a record refers to is looked up through bbolt.
type checker struct {
	*tx
	layout *layout
	info   store.Info
	// bad is told of each fault; where it is nil, the first one ends the check.
	bad func(Fault)
	// torn are the buckets some of which cannot be read; "" is the list of them. What
	// is not found there, or is one too few, tells nothing.
	torn map[string]bool
	// hashes: contents are held against their manifests, too.
	hashes bool

	trees map[string]subtree
	seen  seen
}

// seen is what a checker counted.
type seen struct {
	bundles    int // that can be read whole
	mismatches int // own bundles whose contents are not those of their manifest
	inbox      int
	rows       int
}

func newChecker(t *tx, l *layout, info store.Info) *checker {
	return &checker{tx: t, layout: l, info: info, trees: make(map[string]subtree)}
}

// run returns the first fault, or an error that keeps it from going on.
func (c *checker) run() error {
	err := c.layout.top(c.context(), c.past(), func(name []byte, child subtree) error {
		c.trees[string(name)] = child
		return nil
	})
	if err != nil {
		return err
	}
	if err := c.present(); err != nil {
		return err
	}
	for _, step := range []func() error{c.sentinel, c.bundles, c.inboxRows, c.queues, c.decisions, c.values, c.replay} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// context is that of the transaction; there is one in every view.
func (c *checker) context() context.Context { return c.ctx }

// past goes on behind damaged pages, which the structure's audit tells of, unless
// the first fault ends the check.
func (c *checker) past() func(error) {
	if c.bad == nil {
		return nil
	}
	return func(error) {}
}

// fail tells of a fault; the error it returns ends the check.
func (c *checker) fail(f Fault) error {
	if c.bad == nil {
		return f.err()
	}
	c.bad(f)
	return nil
}

// sound reports whether all of the buckets can be relied on to be complete.
func (c *checker) sound(names ...string) bool {
	if c.torn[""] {
		return false
	}
	for _, name := range names {
		if c.torn[name] {
			return false
		}
	}
	return true
}

// present sees that all buckets are there, but those that came later than the store.
func (c *checker) present() error {
	if !c.sound() {
		return nil
	}
	if err := c.allBuckets(); err != nil {
		return c.fail(Fault{Cause: err})
	}
	return nil
}

func (c *checker) allBuckets() (err error) {
	defer guard(&err, "reading the list of buckets")
	_, err = c.missing(c.info.Format)
	return err
}

// about is a record's fault, and the RID the record is about, if that is known.
type about struct {
	rid rid.RID
	error
}

func (a about) Unwrap() error { return a.error }

// each calls fn with all records of a bucket. Its errors are the records' faults.
func (c *checker) each(name string, fn func(k, v []byte) error) error {
	t, there := c.trees[name]
	if !there {
		return nil
	}
	return c.layout.walk(c.context(), t, c.past(), func(k, v []byte) error {
		err := fn(k, v)
		if err == nil {
			return nil
		}
		f := Fault{Bucket: name, Key: printable(k), Cause: err}
		var a about
		if errors.As(err, &a) {
			f.RID, f.Cause = a.rid, a.error
		}
		return c.fail(f)
	})
}

// sequence sees that a bucket goes on numbering behind the last number given.
func (c *checker) sequence(id bucket, last uint64) error {
	t, there := c.trees[id.String()]
	if !there || t.sequence >= last {
		return nil
	}
	return c.fail(Fault{Bucket: id.String(), Cause: fmt.Errorf("it numbers on from %d, and holds number %d", t.sequence, last)})
}

// same compares what is noted with what is there.
func (c *checker) same(id bucket, key string, noted, there uint64) error {
	if noted == there {
		return nil
	}
	return c.fail(Fault{Bucket: id.String(), Key: key, Cause: fmt.Errorf("it says %d, there are %d", noted, there)})
}

func (c *checker) sentinel() error {
	return c.each(bucketSentinel.String(), func(k, v []byte) error {
		_, err := unseal(k, v)
		return err
	})
}

func (c *checker) bundles() error {
	types := make(map[rid.Type]uint64)
	entries := 0
	err := c.each(bucketIndex.String(), func(k, v []byte) error {
		entries++
		r, err := ridOfKey(k)
		if err != nil {
			return err
		}
		types[r.Type()]++
		return c.bundle(r, k, v)
	})
	if err == nil {
		err = c.allContents(entries)
	}
	if err == nil && c.info.Format == 1 {
		err = c.bundles1(types)
	}
	if err != nil {
		return err
	}
	return c.types(types)
}

// allContents checks that contents are those of the entries. Each entry has contents
// that name its RID, so where there are as many of one as of the other, all belong
// to an entry. Where there are more, those that do not are looked for.
func (c *checker) allContents(entries int) error {
	contents, last := 0, uint64(0)
	err := c.each(bucketContents.String(), func(k, v []byte) error {
		contents++
		if len(k) != 8 {
			return errFields
		}
		last = max(last, binary.BigEndian.Uint64(k))
		_, _, err := decodeContents(k, v)
		return err
	})
	if err == nil {
		err = c.sequence(bucketContents, last)
	}
	if err != nil || contents <= entries || !c.sound(bucketIndex.String()) {
		return err
	}
	return c.each(bucketContents.String(), c.contentsOf)
}

// bundle checks an entry of the index and the contents it speaks of.
func (c *checker) bundle(r rid.RID, k, v []byte) error {
	e, err := decodeIndexed(r, k, v)
	if err != nil {
		return about{r, err}
	}
	if !c.sound(bucketContents.String()) {
		return nil
	}
	key := seqKey(e.seq)
	value, err := c.get(bucketContents, key)
	if err != nil {
		return about{r, err}
	}
	if value == nil {
		return about{r, errMissing}
	}
	of, contents, err := decodeContents(key, value)
	switch {
	case err != nil:
		return about{r, err}
	case string(of) != string(r), uint64(len(contents)) != e.size:
		return about{r, errOther}
	}
	c.seen.bundles++
	return c.hash(store.Record{Bundle: protocol.Bundle{Manifest: e.manifest, Contents: contents}, Source: e.source})
}

// hash holds contents against their manifest, as they were on acceptance.
// Knowledge of the node's own is what its own programs say it is, and is not held
// against anything when it is accepted: where it does not match it is counted.
func (c *checker) hash(rec store.Record) error {
	if !c.hashes {
		return nil
	}
	m := rec.Bundle.Manifest
	err := protocol.VerifyHash(rec.Bundle.Contents, m.SHA256Hash)
	if err == nil {
		return nil
	}
	if rec.Source == string(c.info.NodeRID) {
		c.seen.mismatches++
		return nil
	}
	return about{m.RID, err}
}

// contentsOf sees that the entry of their RID speaks of the contents under k.
func (c *checker) contentsOf(k, v []byte) error {
	of, _, err := decodeContents(k, v)
	if err != nil {
		return nil // which has been told of
	}
	r := rid.RID(of)
	key, err := bundleKey(r)
	if err != nil {
		return err
	}
	value, err := c.get(bucketIndex, key)
	if err != nil {
		return about{r, err}
	}
	if value == nil {
		return about{r, errors.New("it belongs to no bundle")}
	}
	// An entry that cannot be read has been told of.
	if e, err := decodeIndexed(r, key, value); err == nil && string(seqKey(e.seq)) != string(k) {
		return about{r, errors.New("its bundle has other contents")}
	}
	return nil
}

// bundles1 checks the bundles that are kept as format 1 keeps them.
func (c *checker) bundles1(types map[rid.Type]uint64) error {
	whole, manifests := 0, 0
	err := c.each(bundles1, func(k, v []byte) error {
		whole++
		r, err := ridOfKey(k)
		if err != nil {
			return err
		}
		types[r.Type()]++
		rec, err := decodeRecord1(r, k, v)
		if err != nil {
			return about{r, err}
		}
		c.seen.bundles++
		return c.hash(rec)
	})
	if err == nil {
		err = c.each(manifests1, func(k, v []byte) error {
			manifests++
			_, err := unseal(k, v)
			return err
		})
	}
	if err == nil && whole != manifests && c.sound(bundles1, manifests1) {
		err = c.fail(Fault{Bucket: manifests1, Cause: fmt.Errorf("there are %d for %d bundles", manifests, whole)})
	}
	return err
}

func (c *checker) types(there map[rid.Type]uint64) error {
	name := bucketTypes.String()
	noted := make(map[rid.Type]uint64)
	err := c.each(name, func(k, v []byte) error {
		n, err := decodeCount(k, v)
		if err != nil {
			delete(there, rid.Type(k)) // nothing to compare with
			return err
		}
		noted[rid.Type(k)] = n
		return nil
	})
	if err != nil || !c.sound(name, bucketIndex.String(), bundles1) {
		return err
	}
	for typ := range noted {
		there[typ] += 0
	}
	for typ, n := range there {
		if err := c.same(bucketTypes, printable([]byte(typ)), noted[typ], n); err != nil {
			return err
		}
	}
	return nil
}

func (c *checker) inboxRows() error {
	var n, last uint64
	err := c.each(bucketInbox.String(), func(k, v []byte) error {
		n++
		row, err := decodeInbox(k, v)
		if err != nil {
			return err
		}
		c.seen.inbox++
		last = max(last, row.Seq)
		return nil
	})
	if err == nil {
		err = c.sequence(bucketInbox, last)
	}
	if err != nil {
		return err
	}
	return c.counter(keyInbox, bucketInbox, n)
}

// counter compares the length noted of a bucket with what is in it.
func (c *checker) counter(key []byte, of bucket, there uint64) error {
	if !c.sound(bucketCounters.String(), of.String()) {
		return nil
	}
	if _, known := c.trees[bucketCounters.String()]; !known {
		return nil
	}
	noted, err := c.count(bucketCounters, key)
	if err != nil {
		return c.fail(Fault{Bucket: bucketCounters.String(), Key: printable(key), Cause: err})
	}
	return c.same(bucketCounters, printable(key), noted, there)
}

// laneCheck is what one peer's rows in one queue come to.
type laneCheck struct {
	key                         []byte
	noted                       peerState
	rows, bytes, waiting, marks uint64
	unsure                      bool // a row could not be read
}

func (c *checker) queues() error {
	lanes, err := c.lanes()
	if err != nil {
		return err
	}
	rows := uint64(0)
	err = c.each(bucketRows.String(), func(k, v []byte) error {
		rows++
		return c.row(lanes, k, v)
	})
	if err == nil {
		err = c.each(bucketSuperseded.String(), func(k, _ []byte) error {
			if _, err := seqOf(k); err != nil {
				return err
			}
			if l := lanes[lane(k[:len(lane{})])]; l != nil {
				l.marks++
				return nil
			}
			return c.strayRow()
		})
	}
	if err == nil {
		err = c.each(bucketLatest.String(), c.latestRow)
	}
	if err == nil {
		err = c.bodies(rows)
	}
	if err != nil || !c.sound(bucketPeers.String(), bucketRows.String(), bucketSuperseded.String()) {
		return err
	}
	for _, l := range lanes {
		if err := c.figures(l); err != nil {
			return err
		}
	}
	return nil
}

func (c *checker) lanes() (map[lane]*laneCheck, error) {
	lanes := make(map[lane]*laneCheck)
	last := uint64(0)
	err := c.each(bucketPeers.String(), func(k, v []byte) error {
		p, err := decodePeer(k, v)
		if err != nil {
			return err
		}
		if len(k) < 2 || rid.RID(k[1:]).Type() == "" {
			return errFields
		}
		l := laneOf(k[0], p.id)
		if lanes[l] != nil {
			return errors.New("its rows are another's, too")
		}
		lanes[l] = &laneCheck{key: k, noted: p}
		last = max(last, p.id)
		return nil
	})
	if err == nil {
		err = c.sequence(bucketPeers, last)
	}
	return lanes, err
}

// strayRow is the fault of a row whose peer is not known, where all peers are.
func (c *checker) strayRow() error {
	if !c.sound(bucketPeers.String()) {
		return nil
	}
	return errors.New("it belongs to no peer")
}

// row checks a queue's row, its event, and whether it is the latest of its RID or
// superseded.
func (c *checker) row(lanes map[lane]*laneCheck, k, v []byte) error {
	seq, err := seqOf(k)
	if err != nil {
		return err
	}
	l := lanes[lane(k[:len(lane{})])]
	if l == nil {
		return c.strayRow()
	}
	l.rows++
	r, err := decodeRow(k, v)
	if err != nil {
		l.unsure = true
		return err
	}
	c.seen.rows++
	l.bytes += uint64(r.size)
	if err := c.standing(l, k, seq, r); err != nil {
		return err
	}
	return c.event(seq, r)
}

// standing sees that a row is the latest of its RID, or marked as superseded.
func (c *checker) standing(l *laneCheck, k []byte, seq uint64, r row) error {
	if !c.sound(bucketLatest.String(), bucketSuperseded.String()) {
		return nil
	}
	latest, err := c.count(bucketLatest, lane(k[:len(lane{})]).latest(r.rid))
	if err != nil {
		l.unsure = true
		return err
	}
	if latest == seq {
		return nil
	}
	mark, err := c.get(bucketSuperseded, k)
	if err != nil {
		l.unsure = true
		return err
	}
	if mark == nil {
		return errors.New("it is neither the latest of its RID nor superseded")
	}
	l.waiting++
	return nil
}

// event sees that the event of a row is there and is the one the row speaks of.
func (c *checker) event(seq uint64, r row) error {
	if !c.sound(bucketBodies.String()) {
		return nil
	}
	key := seqKey(seq)
	body, err := c.get(bucketBodies, key)
	if err != nil {
		return err
	}
	if body == nil {
		return errors.New("its event is missing")
	}
	of, _, event, err := decodeItem(key, body)
	if err == nil && (r.size != len(event) || r.rid != digestOf(of)) {
		return about{of, errors.New("its event is another")}
	}
	return nil // an event that cannot be read is told of by itself
}

// latestRow sees that what is noted as the newest row for a RID is one.
func (c *checker) latestRow(k, v []byte) error {
	seq, err := decodeCount(k, v)
	if err != nil {
		return err
	}
	if len(k) != len(lane{})+len(digest{}) {
		return errFields
	}
	if !c.sound(bucketRows.String()) {
		return nil
	}
	key := lane(k[:len(lane{})]).row(seq)
	value, err := c.get(bucketRows, key)
	if err != nil {
		return err
	}
	if value == nil {
		return errors.New("there is no row to it")
	}
	// A row that cannot be read has been told of.
	if r, err := decodeRow(key, value); err == nil && string(r.rid[:]) != string(k[len(lane{}):]) {
		return errors.New("its row is one for another RID")
	}
	return nil
}

// figures compares what is noted of a peer with its rows.
func (c *checker) figures(l *laneCheck) error {
	fault := func(id bucket, err error) error {
		return c.fail(Fault{Bucket: id.String(), Key: printable(l.key), Cause: err})
	}
	if l.rows != l.noted.rows || l.bytes != l.noted.bytes && !l.unsure {
		return fault(bucketPeers, fmt.Errorf("it says %d rows of %d bytes, there are %d of %d", l.noted.rows, l.noted.bytes, l.rows, l.bytes))
	}
	if l.marks != l.waiting && !l.unsure && c.sound(bucketLatest.String()) {
		return fault(bucketSuperseded, fmt.Errorf("%d marks, %d superseded rows", l.marks, l.waiting))
	}
	return nil
}

// bodies sees that events are referred to as often as their counts say.
func (c *checker) bodies(rows uint64) error {
	var refs, last uint64
	unsure := false
	err := c.each(bucketBodies.String(), func(k, v []byte) error {
		of, _, _, err := decodeItem(k, v)
		if err == nil && len(k) != 8 {
			err = errFields
		}
		if err != nil {
			unsure = true
			return err
		}
		last = max(last, binary.BigEndian.Uint64(k))
		if !c.sound(bucketRefs.String()) {
			return nil
		}
		n, err := c.count(bucketRefs, k)
		switch {
		case err != nil:
			unsure = true
			return about{of, err}
		case n == 0:
			return about{of, errors.New("no row refers to it")}
		}
		refs += n
		return nil
	})
	if err == nil {
		err = c.each(bucketRefs.String(), func(k, v []byte) error {
			_, err := decodeCount(k, v)
			return err
		})
	}
	if err == nil {
		err = c.sequence(bucketBodies, last)
	}
	if err == nil && refs != rows && !unsure && c.sound(bucketRows.String(), bucketBodies.String(), bucketRefs.String()) {
		err = c.fail(Fault{Bucket: bucketRefs.String(), Cause: fmt.Errorf("they count %d references, there are %d rows", refs, rows)})
	}
	return err
}

func (c *checker) decisions() error {
	return c.each(bucketDecisions.String(), func(k, v []byte) error {
		d, err := decodeDecision(k, v)
		if err != nil {
			return err
		}
		key := append(binary.AppendUvarint(nil, uint64(len(d.Source))), string(d.Source)+string(d.Target)...)
		if string(key) != string(k) {
			return errFields
		}
		return nil
	})
}

func (c *checker) values() error {
	for _, id := range []bucket{bucketValues, bucketCounters} {
		err := c.each(id.String(), func(k, v []byte) error {
			_, err := unseal(k, v)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// replay sees that keys and their rows in the order of noting are one to one:
// each key's row names it, so rows are as many as keys only where each has its own.
func (c *checker) replay() error {
	var keys, rows, last uint64
	err := c.each(bucketReplay.String(), func(k, v []byte) error {
		keys++
		return c.replayKey(k, v)
	})
	if err == nil {
		err = c.each(bucketNoted.String(), func(k, v []byte) error {
			rows++
			if len(k) != 8 {
				return errFields
			}
			last = max(last, binary.BigEndian.Uint64(k))
			_, err := decodeNoted(k, v)
			return err
		})
	}
	if err == nil {
		err = c.sequence(bucketNoted, last)
	}
	if err == nil && rows != keys && c.sound(bucketReplay.String(), bucketNoted.String()) {
		err = c.fail(Fault{Bucket: bucketNoted.String(), Cause: fmt.Errorf("there are %d rows for %d keys of accepted bodies", rows, keys)})
	}
	if err != nil {
		return err
	}
	return c.counter(keyReplay, bucketReplay, keys)
}

func (c *checker) replayKey(k, v []byte) error {
	seq, err := decodeCount(k, v)
	if err != nil {
		return err
	}
	if !c.sound(bucketNoted.String()) {
		return nil
	}
	row := seqKey(seq)
	value, err := c.get(bucketNoted, row)
	if err != nil {
		return err
	}
	if value == nil {
		return errors.New("there is no row to it")
	}
	// A row that cannot be read is told of by itself.
	if n, err := decodeNoted(row, value); err == nil && string(n.key[:]) != string(k) {
		return errors.New("its row is that of another")
	}
	return nil
}
