package bolt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

// Bundle implements store.Reader.
func (t *tx) Bundle(r rid.RID) (store.Record, error) {
	_, payload, err := t.lookup(r)
	if err != nil {
		return store.Record{}, err
	}
	return t.recordOf(r, payload)
}

// recordOf puts an entry of the index, unsealed, and its contents together.
func (t *tx) recordOf(r rid.RID, payload []byte) (store.Record, error) {
	e, err := indexedOf(r, payload)
	if err != nil {
		return store.Record{}, damagedBundle(r, err)
	}
	contents, err := t.contents(r, e.seq, e.size)
	if err != nil {
		return store.Record{}, err
	}
	rec := store.Record{Bundle: protocol.Bundle{Manifest: e.manifest}, Source: e.source, Stored: e.stored}
	if len(contents) > 0 {
		rec.Bundle.Contents = bytes.Clone(contents)
	}
	return rec, nil
}

// contents returns what lies under the number that an entry of the index gives,
// with the length it gives; it aliases the transaction's memory.
func (t *tx) contents(r rid.RID, seq, size uint64) ([]byte, error) {
	key := binary.BigEndian.AppendUint64(t.numberKey[:0], seq)
	v, err := t.find(bucketContents, key)
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
	case string(of) != string(r), uint64(len(contents)) != size:
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
	_, payload, err := t.lookup(r)
	if err != nil {
		return protocol.Manifest{}, err
	}
	e, err := indexedOf(r, payload)
	if err != nil {
		return protocol.Manifest{}, damagedBundle(r, err)
	}
	return e.manifest, nil
}

// RawBundle implements store.Reader.
func (t *tx) RawBundle(r rid.RID) (protocol.RawBundle, error) {
	e, err := t.rawEntry(r)
	if err != nil {
		return protocol.RawBundle{}, err
	}
	contents, err := t.contents(r, e.seq, e.size)
	if err != nil {
		return protocol.RawBundle{}, err
	}
	return protocol.RawBundle{Manifest: e.manifest, Contents: contents}, nil
}

// RawManifest implements store.Reader.
func (t *tx) RawManifest(r rid.RID) (protocol.RawManifest, error) {
	e, err := t.rawEntry(r)
	return e.manifest, err
}

func (t *tx) rawEntry(r rid.RID) (rawEntry, error) {
	typ, payload, err := t.lookup(r)
	if err != nil {
		return rawEntry{}, err
	}
	e, err := rawEntryOf(payload)
	if err != nil {
		return rawEntry{}, damagedBundle(r, err)
	}
	e.manifest.RawRID = protocol.RawRID{Type: typ, Reference: t.key[len(t.key)-(len(r)-len(typ)-1):]}
	return e, nil
}

// lookup finds the entry of r in the index and unseals it. Its key stays in t.key
// until the next call.
func (t *tx) lookup(r rid.RID) (typ rid.Type, payload []byte, err error) {
	key, typ, err := appendKey(t.key[:0], r)
	if err != nil {
		return "", nil, err
	}
	t.key = key
	v, err := t.find(bucketIndex, key)
	if err != nil {
		return "", nil, err
	}
	if v == nil {
		return "", nil, missingBundle(r)
	}
	if payload, err = unseal(key, v); err != nil {
		return "", nil, damagedBundle(r, err)
	}
	return typ, payload, nil
}

// missingBundle is the error for a RID that is not held. For each new RID it is
// made, and hardly ever read.
type missingBundle rid.RID

func (m missingBundle) Error() string {
	return fmt.Sprintf("bundle %s: %v", printable([]byte(m)), store.ErrNotFound)
}

func (missingBundle) Unwrap() error { return store.ErrNotFound }

// RIDs implements store.Reader.
func (t *tx) RIDs(types []rid.Type, after rid.RID) iter.Seq2[rid.RID, error] {
	return func(yield func(rid.RID, error) bool) {
		each(t, types, after, false, yield, func(row *entryRow) (rid.RID, error) {
			if row.err != nil {
				return "", row.damage()
			}
			return row.manifest.RID(), nil
		})
	}
}

// Records implements store.Reader.
func (t *tx) Records(types []rid.Type, after rid.RID) iter.Seq2[store.Record, error] {
	return func(yield func(store.Record, error) bool) {
		each(t, types, after, true, yield, func(row *entryRow) (store.Record, error) {
			if row.err != nil {
				return store.Record{}, row.damage()
			}
			return t.recordOf(row.manifest.RID(), row.payload)
		})
	}
}

// each yields what of makes of the entries, up to the first error.
func each[T any](t *tx, types []rid.Type, after rid.RID, checked bool, yield func(T, error) bool, of func(*entryRow) (T, error)) {
	var none T
	stopped := false
	var failed error
	err := t.readIndex(types, after, checked, func(row *entryRow) bool {
		var item T
		if item, failed = of(row); failed != nil {
			return false
		}
		stopped = !yield(item, nil)
		return !stopped
	})
	if failed != nil {
		err = failed
	}
	if err != nil && !stopped {
		yield(none, err)
	}
}

// RawManifests implements store.Reader.
func (t *tx) RawManifests(types []rid.Type, after rid.RID) iter.Seq2[*protocol.RawManifest, error] {
	return func(yield func(*protocol.RawManifest, error) bool) {
		stopped := false
		err := t.readIndex(types, after, true, func(row *entryRow) bool {
			if row.err != nil {
				stopped = !yield(&protocol.RawManifest{RawRID: row.manifest.RawRID}, row.damage())
			} else {
				stopped = !yield(&row.manifest, nil)
			}
			return !stopped
		})
		if err != nil && !stopped {
			yield(nil, err)
		}
	}
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
	t.freed = true
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
