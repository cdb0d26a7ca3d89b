package bolt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	berrors "go.etcd.io/bbolt/errors"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

// Format 1 kept a bundle whole under its RID's key, and its manifest a second
// time in an index. Such a store is brought over when it is opened: in small
// transactions, each of which moves some bundles, so that it may be killed at
// any time and goes on at the next opening.
const (
	bundles1   = "bundles"
	manifests1 = "manifests"

	// moveRows and moveBytes bound one of the transactions.
	moveRows  = 500
	moveBytes = 4 << 20
)

// decodeRecord1 reads a bundle of format 1: manifest, source, time, contents.
func decodeRecord1(r rid.RID, key, value []byte) (store.Record, error) {
	payload, err := unseal(key, value)
	if err != nil {
		return store.Record{}, err
	}
	d := decoder{rest: payload}
	var rec store.Record
	if rec.Bundle.Manifest, err = d.manifest(r); err != nil {
		return store.Record{}, err
	}
	rec.Source = d.text()
	rec.Stored = d.time()
	if d.bad {
		return store.Record{}, errFields
	}
	rec.Bundle.Contents = d.copyRest()
	return rec, nil
}

// decodeManifest1 reads a manifest out of the index of format 1.
func decodeManifest1(r rid.RID, key, value []byte) (protocol.Manifest, error) {
	payload, err := unseal(key, value)
	if err != nil {
		return protocol.Manifest{}, err
	}
	d := decoder{rest: payload}
	m, err := d.manifest(r)
	if err != nil {
		return protocol.Manifest{}, err
	}
	return m, d.end()
}

// upgrade brings a store of format 1 over to this one.
func (s *Store) upgrade(ctx context.Context) error {
	for {
		left := false
		err := s.Update(ctx, func(w store.Writer) (err error) {
			left, err = w.(*tx).move1(moveRows)
			return err
		})
		if err != nil {
			return fmt.Errorf("bring the store %s over to format %d: %w", s.path, Format, err)
		}
		if !left {
			break
		}
	}
	info := s.info
	info.Format = Format
	err := s.Update(ctx, func(w store.Writer) error { return w.(*tx).finish1(info) })
	if err != nil {
		return fmt.Errorf("bring the store %s over to format %d: %w", s.path, Format, err)
	}
	s.info = info
	s.options.Logger.Info("store brought over to another format", "path", s.path, "store", s.info.ID, "format", Format)
	return nil
}

// move1 moves the first bundles, up to rows, and reports whether there were any.
func (t *tx) move1(rows int) (moved bool, err error) {
	defer t.guardWrite(&err, bucketIndex)
	whole, manifests := t.btx.Bucket([]byte(bundles1)), t.btx.Bucket([]byte(manifests1))
	var keys [][]byte
	size := 0
	c := whole.Cursor()
	for k, v := c.First(); k != nil && len(keys) < rows && size < moveBytes; k, v = c.Next() {
		key := append([]byte(nil), k...)
		if err := t.move(key, v, manifests.Get(k)); err != nil {
			return false, err
		}
		keys = append(keys, key)
		size += len(v)
	}
	for _, k := range keys {
		if err := errors.Join(whole.Delete(k), manifests.Delete(k)); err != nil {
			return false, err
		}
	}
	return len(keys) > 0, nil
}

// move writes one bundle anew. Of one that is damaged the manifest is kept, and
// its contents are missed wherever they are read.
func (t *tx) move(key, value, manifest []byte) error {
	r, err := ridOfKey(key)
	if err != nil {
		return damaged(bundles1, key, err)
	}
	rec, err := decodeRecord1(r, key, value)
	if err == nil {
		return t.putRecord(r, key, rec, 0)
	}
	m, err := decodeManifest1(r, key, manifest)
	if err != nil {
		return t.countType(r.Type(), -1)
	}
	return t.put(bucketIndex, key, encodeIndexed(key, indexed{manifest: m}))
}

// finish1 ends the upgrade.
func (t *tx) finish1(info store.Info) (err error) {
	defer t.guardWrite(&err, bucketSentinel)
	data, err := json.Marshal(info)
	if err != nil {
		return err
	}
	for _, name := range []string{bundles1, manifests1} {
		if err := t.btx.DeleteBucket([]byte(name)); err != nil && !errors.Is(err, berrors.ErrBucketNotFound) {
			return err
		}
	}
	return t.put(bucketSentinel, keyInfo, encodeBytes(keyInfo, data))
}
