package bolt

import (
	"bytes"
	"fmt"
	"iter"
	"slices"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

// Bundle implements store.Reader.
func (t *tx) Bundle(r rid.RID) (store.Record, error) {
	key, v, err := t.lookup(bucketBundles, r)
	if err != nil {
		return store.Record{}, err
	}
	rec, err := decodeRecord(r, key, v)
	if err != nil {
		return store.Record{}, damagedBundle(r, err)
	}
	return rec, nil
}

// Manifest implements store.Reader.
func (t *tx) Manifest(r rid.RID) (protocol.Manifest, error) {
	key, v, err := t.lookup(bucketManifests, r)
	if err != nil {
		return protocol.Manifest{}, err
	}
	m, err := decodeManifest(r, key, v)
	if err != nil {
		return protocol.Manifest{}, damagedBundle(r, err)
	}
	return m, nil
}

func (t *tx) lookup(id bucket, r rid.RID) (key, v []byte, err error) {
	if key, err = bundleKey(r); err != nil {
		return nil, nil, err
	}
	if v, err = t.get(id, key); err != nil {
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
		err := t.scanTypes(bucketManifests, types, after, func(r rid.RID, _, _ []byte) (bool, error) {
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
		err := t.scanTypes(bucketBundles, types, after, func(r rid.RID, k, v []byte) (bool, error) {
			rec, err := decodeRecord(r, k, v)
			if err != nil {
				return false, damagedBundle(r, err)
			}
			stopped = !yield(rec, nil)
			return !stopped, nil
		})
		if err != nil && !stopped {
			yield(store.Record{}, err)
		}
	}
}

// scanTypes runs through the keys of the types, in order, after the RID after.
func (t *tx) scanTypes(id bucket, types []rid.Type, after rid.RID, fn func(r rid.RID, k, v []byte) (bool, error)) error {
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
		err := t.scan(id, prefix, from, func(k, v []byte) bool {
			r, err := ridOfKey(k)
			if err != nil {
				failed = damaged(bucketNames[id], k, err)
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

// PutBundle implements store.Writer.
func (t *tx) PutBundle(rec store.Record) error {
	r := rec.Bundle.Manifest.RID
	key, err := bundleKey(r)
	if err != nil {
		return err
	}
	if rec.Stored.IsZero() {
		rec.Stored = t.clock()
	}
	value := encodeRecord(key, rec)
	if err := t.needRoom(len(value) + 2*len(key)); err != nil {
		return err
	}
	known, err := t.get(bucketManifests, key)
	if err != nil {
		return err
	}
	if known == nil {
		if err := t.countType(r.Type(), 1); err != nil {
			return err
		}
	}
	if err := t.put(bucketManifests, key, encodeManifest(key, rec.Bundle.Manifest)); err != nil {
		return err
	}
	return t.put(bucketBundles, key, value)
}

// DeleteBundle implements store.Writer.
func (t *tx) DeleteBundle(r rid.RID) error {
	key, err := bundleKey(r)
	if err != nil {
		return err
	}
	known, err := t.get(bucketManifests, key)
	if err != nil {
		return err
	}
	if known == nil {
		return nil
	}
	if err := t.countType(r.Type(), -1); err != nil {
		return err
	}
	if err := t.delete(bucketManifests, key); err != nil {
		return err
	}
	return t.delete(bucketBundles, key)
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
