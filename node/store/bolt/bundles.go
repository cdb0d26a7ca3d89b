package bolt

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

// Bundle implements store.Reader.
func (t *tx) Bundle(r rid.RID) (store.Record, error) {
	key, v, err := t.lookup(r)
	if err != nil {
		return store.Record{}, err
	}
	return t.record(r, key, v)
}

// record puts an entry of the index and its contents together.
func (t *tx) record(r rid.RID, key, value []byte) (store.Record, error) {
	e, err := decodeIndexed(r, key, value)
	if err != nil {
		return store.Record{}, damagedBundle(r, err)
	}
	contents, err := t.contents(r, e)
	if err != nil {
		return store.Record{}, err
	}
	rec := store.Record{Bundle: protocol.Bundle{Manifest: e.manifest}, Source: e.source, Stored: e.stored}
	if len(contents) > 0 {
		rec.Bundle.Contents = bytes.Clone(contents)
	}
	return rec, nil
}

// contents returns what an entry of the index speaks of; it aliases the
// transaction's memory.
func (t *tx) contents(r rid.RID, e indexed) ([]byte, error) {
	key := seqKey(e.seq)
	v, err := t.get(bucketContents, key)
	if err != nil {
		return nil, err
	}
	if v == nil {
		return nil, damagedBundle(r, errMissing)
	}
	of, contents, err := decodeContents(key, v)
	switch {
	case err != nil:
		return nil, damagedBundle(r, err)
	case string(of) != string(r), uint64(len(contents)) != e.size:
		return nil, damagedBundle(r, errOther)
	}
	return contents, nil
}

var (
	errMissing = errors.New("its contents are missing")
	errOther   = errors.New("its contents are another's")
)

// Manifest implements store.Reader.
func (t *tx) Manifest(r rid.RID) (protocol.Manifest, error) {
	key, v, err := t.lookup(r)
	if err != nil {
		return protocol.Manifest{}, err
	}
	e, err := decodeIndexed(r, key, v)
	if err != nil {
		return protocol.Manifest{}, damagedBundle(r, err)
	}
	return e.manifest, nil
}

// lookup finds the entry of r in the index.
func (t *tx) lookup(r rid.RID) (key, v []byte, err error) {
	if key, err = bundleKey(r); err != nil {
		return nil, nil, err
	}
	if v, err = t.get(bucketIndex, key); err != nil {
		return nil, nil, err
	}
	if v == nil {
		return nil, nil, fmt.Errorf("bundle %s: %w", printable([]byte(r)), store.ErrNotFound)
	}
	return key, v, nil
}

// RIDs implements store.Reader.
func (t *tx) RIDs(types []rid.Type, after rid.RID) iter.Seq2[rid.RID, error] {
	return func(yield func(rid.RID, error) bool) {
		stopped := false
		err := t.scanTypes(types, after, func(r rid.RID, _, _ []byte) (bool, error) {
			stopped = !yield(r, nil)
			return !stopped, nil
		})
		if err != nil && !stopped {
			yield("", err)
		}
	}
}

// Records implements store.Reader.
func (t *tx) Records(types []rid.Type, after rid.RID) iter.Seq2[store.Record, error] {
	return func(yield func(store.Record, error) bool) {
		stopped := false
		err := t.scanTypes(types, after, func(r rid.RID, k, v []byte) (bool, error) {
			rec, err := t.record(r, k, v)
			if err != nil {
				return false, err
			}
			stopped = !yield(rec, nil)
			return !stopped, nil
		})
		if err != nil && !stopped {
			yield(store.Record{}, err)
		}
	}
}

// scanTypes runs through the index of the types, in order, after the RID after.
func (t *tx) scanTypes(types []rid.Type, after rid.RID, fn func(r rid.RID, k, v []byte) (bool, error)) error {
	var afterKey []byte
	if after != "" {
		var err error
		if afterKey, err = bundleKey(after); err != nil {
			return fmt.Errorf("begin after: %w", err)
		}
	}
	prefixes := [][]byte{nil}
	if len(types) > 0 {
		sorted := slices.Clone(types)
		slices.Sort(sorted)
		prefixes = prefixes[:0]
		for _, typ := range slices.Compact(sorted) {
			prefixes = append(prefixes, typePrefix(typ))
		}
	}
	for _, prefix := range prefixes {
		from := afterKey
		if from != nil && !bytes.HasPrefix(from, prefix) {
			if bytes.Compare(from, prefix) > 0 {
				continue // the whole type lies before
			}
			from = nil
		}
		var failed error
		stopped := false
		err := t.scan(bucketIndex, prefix, from, func(k, v []byte) bool {
			r, err := ridOfKey(k)
			if err != nil {
				failed = damaged("index", k, err)
				return false
			}
			more, err := fn(r, k, v)
			failed, stopped = err, !more
			return more
		})
		if failed != nil {
			return failed
		}
		if err != nil || stopped {
			return err
		}
	}
	return nil
}

// Types implements store.Reader.
func (t *tx) Types() (map[rid.Type]int, error) {
	types := make(map[rid.Type]int)
	var failed error
	err := t.scan(bucketTypes, nil, nil, func(k, v []byte) bool {
		n, err := decodeCount(k, v)
		if err != nil {
			failed = damaged("types", k, err)
			return false
		}
		types[rid.Type(k)] = int(n)
		return true
	})
	if failed != nil {
		err = failed
	}
	if err != nil {
		return nil, err
	}
	for key, n := range t.counts { // changed in this transaction
		if n == 0 {
			delete(types, rid.Type(key))
		} else {
			types[rid.Type(key)] = int(n)
		}
	}
	return types, nil
}

// PutBundle implements store.Writer. The contents of a RID keep their number, and
// so their place, for as long as it is held.
func (t *tx) PutBundle(rec store.Record) error {
	r := rec.Bundle.Manifest.RID
	key, err := bundleKey(r)
	if err != nil {
		return err
	}
	if rec.Stored.IsZero() {
		rec.Stored = t.clock()
	}
	if err := t.needRoom(len(rec.Bundle.Contents) + len(rec.Source) + 3*len(key) + 128); err != nil {
		return err
	}
	seq, known, err := t.number(r, key)
	if err != nil {
		return err
	}
	if !known {
		if err := t.countType(r.Type(), 1); err != nil {
			return err
		}
	}
	return t.putRecord(r, key, rec, seq)
}

// putRecord writes a record with its contents under seq, or a new number for 0.
func (t *tx) putRecord(r rid.RID, key []byte, rec store.Record, seq uint64) (err error) {
	if seq == 0 {
		if seq, err = t.nextSequence(bucketContents); err != nil {
			return err
		}
	}
	n := seqKey(seq)
	if err := t.put(bucketContents, n, encodeContents(n, r, rec.Bundle.Contents)); err != nil {
		return err
	}
	return t.put(bucketIndex, key, encodeIndexed(key, indexed{
		manifest: rec.Bundle.Manifest, source: rec.Source, stored: rec.Stored,
		seq: seq, size: uint64(len(rec.Bundle.Contents)),
	}))
}

// number returns under which number the contents of r lie, 0 if there are none.
// known: the index has an entry of r.
func (t *tx) number(r rid.RID, key []byte) (seq uint64, known bool, err error) {
	v, err := t.get(bucketIndex, key)
	if err != nil || v == nil {
		return 0, false, err
	}
	if e, err := decodeIndexed(r, key, v); err == nil {
		return e.seq, true, nil
	}
	// The entry is damaged, and is about to be replaced: its contents must not
	// be left behind.
	var failed error
	err = t.scan(bucketContents, nil, nil, func(k, v []byte) bool {
		if of, _, err := decodeContents(k, v); err == nil && string(of) == string(r) {
			seq, failed = seqOf(k)
			return false
		}
		return true
	})
	if failed != nil {
		err = failed
	}
	return seq, true, err
}

// DeleteBundle implements store.Writer.
func (t *tx) DeleteBundle(r rid.RID) error {
	key, err := bundleKey(r)
	if err != nil {
		return err
	}
	seq, known, err := t.number(r, key)
	if err != nil || !known {
		return err
	}
	if err := t.countType(r.Type(), -1); err != nil {
		return err
	}
	if err := t.delete(bucketIndex, key); err != nil || seq == 0 {
		return err
	}
	return t.delete(bucketContents, seqKey(seq))
}

func (t *tx) countType(typ rid.Type, by int) error {
	key := string(typ)
	n, known := t.counts[key]
	if !known {
		var err error
		if n, err = t.count(bucketTypes, []byte(key)); err != nil {
			return err
		}
	}
	if by < 0 && n == 0 {
		return damaged("types", []byte(key), errFields)
	}
	if t.counts == nil {
		t.counts = make(map[string]uint64)
		t.typed = make(map[string]struct{})
	}
	t.counts[key] = n + uint64(by)
	t.typed[key] = struct{}{}
	return nil
}
