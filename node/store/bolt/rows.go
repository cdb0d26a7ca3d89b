package bolt

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"unicode/utf8"

	bbolt "go.etcd.io/bbolt"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

// Entries of the index are read some at a time: to guard against damage, and to
// ask whether anybody still waits, costs as much as some entries do. The first
// pages are short, for who wants a few entries alone.
const (
	firstPage = 8
	wholePage = 64
)

// entryRow is an entry of the index as it is kept. Its bytes are the
// transaction's, and stay for as long as that is open.
type entryRow struct {
	key []byte // nil: not even that can be read
	// manifest has no reference where the key names no RID, or none of the types
	// asked for; of a row that was not checked it has the RID alone.
	manifest protocol.RawManifest
	payload  []byte // of a row that was checked
	err      error  // what is wrong with it
}

// damage returns the row's error as its reader is to get it.
func (r *entryRow) damage() error {
	if r.manifest.Reference == nil {
		return damaged(bucketIndex.String(), r.key, r.err)
	}
	return damagedBundle(r.manifest.RID(), r.err)
}

// indexReader reads entries of one type, or of all, in the order of their keys.
type indexReader struct {
	*tx
	checked bool // records are held against their checksums
	cursor  *bbolt.Cursor
	prefix  []byte
	from    []byte // where to go on, if that is not behind the row before
	behind  bool   // and whether the row of that key itself is passed over
	seeking bool
	end     bool
	page    []entryRow
	// typ is the type of the keys that begin with typeKey, the last that was met.
	typ     rid.Type
	typeKey []byte
}

// read calls fn with each entry whose key begins with prefix, beginning after the
// key after (nil: from the first), until fn returns false; then more is false. fn
// may change the store: what is deleted ahead is not seen, and nothing is seen
// twice.
func (x *indexReader) read(prefix, after []byte, fn func(*entryRow) bool) (more bool, err error) {
	x.prefix, x.end = prefix, false
	x.seek(prefix, false)
	if after != nil && bytes.Compare(after, prefix) >= 0 {
		x.seek(after, true)
	}
	for size := firstPage; !x.end; size = min(2*size, wholePage) {
		if x.ctx != nil && x.ctx.Err() != nil {
			return false, x.ctx.Err()
		}
		failed := x.fill(size)
		changes := x.changes
		for i := range x.page {
			row := &x.page[i]
			if !fn(row) {
				return false, nil
			}
			if x.over {
				return false, errOver
			}
			if x.changes == changes {
				continue
			}
			// What was read ahead may be gone.
			if row.key == nil {
				return false, row.damage() // there is no place to go on from
			}
			x.end, failed = false, nil
			x.seek(row.key, true)
			break
		}
		if failed != nil {
			return false, failed
		}
	}
	return true, nil
}

func (x *indexReader) seek(key []byte, behind bool) { x.seeking, x.from, x.behind = true, key, behind }

// fill reads the next rows. Where reading fails for good, those before are in the
// page all the same.
func (x *indexReader) fill(most int) (err error) {
	var row *entryRow // that is being read
	x.page = x.page[:0]
	defer func() {
		switch r := recover(); {
		case r == nil:
		case row == nil:
			err = fmt.Errorf("%w: reading the index: %v", store.ErrDamaged, r)
		default:
			row.err = errBeyond
			if row.key != nil {
				_ = x.split(row)
			}
		}
	}()
	for len(x.page) < most {
		row = nil
		k, v := x.step()
		if k == nil {
			x.end = true
			return nil
		}
		if len(k) > bbolt.MaxKeySize {
			return fmt.Errorf("%w: a key of %d bytes", store.ErrDamaged, len(k))
		}
		x.page = x.page[:len(x.page)+1]
		row = &x.page[len(x.page)-1]
		*row = entryRow{}
		x.take(row, k, v)
		if bytes.HasPrefix(k, x.prefix) {
			if err := x.split(row); err != nil && row.err == nil {
				row.err = err
			}
		} else if row.err == nil || !x.checked {
			x.page = x.page[:len(x.page)-1]
			x.end = true
			return nil
		} // else it may be a damaged key in the midst of others: go on
	}
	return nil
}

// take checks a record and sets the row's parts but the RID. It panics where a
// damaged length leads out of the mapped file; the key is set once all of it is
// known to be there.
func (x *indexReader) take(row *entryRow, k, v []byte) {
	if !x.checked {
		// The last byte first: a text ends in none that begins a character.
		if k[len(k)-1] >= 0xc0 || !utf8.Valid(k) {
			row.err = errFields
		}
		row.key = k
		return
	}
	sum := crc32.Checksum(k, castagnoli)
	row.key = k
	if row.payload, row.err = unsealSummed(sum, v); row.err != nil {
		return
	}
	d := decoder{rest: row.payload}
	if d.rawManifest(&row.manifest); d.bad {
		row.manifest, row.err = protocol.RawManifest{}, errFields
	}
}

// step moves the cursor to the next key. It panics over damaged pages.
func (x *indexReader) step() (k, v []byte) {
	if !x.seeking {
		return x.cursor.Next()
	}
	x.seeking = false
	if len(x.from) == 0 {
		return x.cursor.First()
	}
	k, v = x.cursor.Seek(x.from)
	if x.behind && bytes.Equal(k, x.from) {
		return x.cursor.Next()
	}
	return k, v
}

// split sets a row's RID. Most keys are of the type before.
func (x *indexReader) split(row *entryRow) error {
	k, n := row.key, len(x.typeKey)
	if n == 0 || len(k) <= n || !bytes.HasPrefix(k, x.typeKey) {
		typ, reference, err := splitKey(k)
		if err != nil {
			return err
		}
		n = len(k) - len(reference)
		x.typ, x.typeKey = typ, k[:n]
	}
	if len(x.typ)+1+len(k)-n > rid.MaxLength {
		return errFields
	}
	row.manifest.RawRID = protocol.RawRID{Type: x.typ, Reference: k[n:]}
	return nil
}

// readIndex calls fn with the entries of the types (none: all) in the order of
// type, then RID, beginning after the RID after, until fn returns false. checked
// rows come unsealed, or with what is wrong with them; of others only the key was
// looked at.
func (t *tx) readIndex(types []rid.Type, after rid.RID, checked bool, fn func(*entryRow) bool) error {
	var afterKey []byte
	if after != "" {
		var err error
		if afterKey, err = bundleKey(after); err != nil {
			return fmt.Errorf("begin after: %w", err)
		}
	}
	b, err := t.bucket(bucketIndex)
	if err != nil {
		return err
	}
	x := indexReader{tx: t, checked: checked, cursor: b.Cursor(), page: make([]entryRow, 0, wholePage)}
	for _, prefix := range typePrefixes(types) {
		from := afterKey
		if from != nil && !bytes.HasPrefix(from, prefix) {
			if bytes.Compare(from, prefix) > 0 {
				continue // the whole type lies before
			}
			from = nil
		}
		if more, err := x.read(prefix, from, fn); err != nil || !more {
			return err
		}
	}
	return nil
}

// find returns the value of key, or nil. It aliases the transaction's memory.
func (t *tx) find(id bucket, key []byte) (v []byte, err error) {
	defer guard(&err, "reading a record")
	b, err := t.bucket(id)
	if err != nil {
		return nil, err
	}
	c := t.cursors[id]
	if c == nil {
		c = b.Cursor()
		t.cursors[id] = c
	}
	k, v := c.Seek(key)
	if !bytes.Equal(k, key) {
		return nil, nil
	}
	return v, nil
}

// unsealSummed checks a value of a key with that sum and returns its payload, which
// aliases it. It panics where a damaged length leads out of the mapped file.
func unsealSummed(keySum uint32, value []byte) (payload []byte, err error) {
	if len(value) < sealOverhead {
		return nil, errShort
	}
	body, sum := value[:len(value)-4], value[len(value)-4:]
	if crc32.Update(keySum, castagnoli, body) != binary.LittleEndian.Uint32(sum) {
		return nil, errSum
	}
	if body[0] != recordVersion {
		return nil, errVersion
	}
	return body[1:], nil
}
