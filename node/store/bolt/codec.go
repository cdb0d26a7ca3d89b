package bolt

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

// Every value is sealed: a version byte, the payload, and a CRC32C
// (little endian) over key, version and payload. The key is part of the sum, so
// that a value under a wrong key is found too.
const (
	recordVersion = 1
	sealOverhead  = 5
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var (
	errShort   = errors.New("it is too short")
	errSum     = errors.New("its checksum does not match")
	errVersion = errors.New("its record version is unknown")
	errBeyond  = errors.New("it reaches beyond the file")
	errFields  = errors.New("its fields do not add up")
)

// beginSeal starts a value; the payload is appended to it, then endSeal closes it.
func beginSeal(dst []byte) []byte { return append(dst, recordVersion) }

func endSeal(key, value []byte) []byte {
	return binary.LittleEndian.AppendUint32(value, checksum(key, value))
}

func checksum(key, value []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, value)
}

// unseal checks value and returns its payload, which aliases value. The length
// of a value may be damaged too, and lead out of the mapped file.
func unseal(key, value []byte) (payload []byte, err error) {
	defer func() {
		if recover() != nil {
			payload, err = nil, errBeyond
		}
	}()
	return unsealSummed(crc32.Checksum(key, castagnoli), value)
}

// damaged says which record is bad, and wraps store.ErrDamaged.
func damaged(bucket string, key []byte, cause error) error {
	return fmt.Errorf("%w: record %s of %s: %w", store.ErrDamaged, printable(key), bucket, cause)
}

// damagedBundle names the RID in place of the raw key.
func damagedBundle(r rid.RID, cause error) error {
	return fmt.Errorf("%w: the record of %s: %w", store.ErrDamaged, printable([]byte(r)), cause)
}

func printable(key []byte) string {
	const most = 160
	if len(key) > most {
		return fmt.Sprintf("%q…", key[:most])
	}
	return fmt.Sprintf("%q", key)
}

// bundleKey makes the key of a RID in the index: its type, a zero byte, its
// reference. Keys sort as (type, reference) do, and no type's prefix is the
// beginning of another's.
func bundleKey(r rid.RID) ([]byte, error) {
	key, _, err := appendKey(make([]byte, 0, len(r)+8), r)
	return key, err
}

// appendKey appends the key of a RID, and returns its type besides.
func appendKey(dst []byte, r rid.RID) ([]byte, rid.Type, error) {
	t := r.Type()
	if t == "" || len(r) == len(t)+1 {
		return nil, "", fmt.Errorf("%w %s", rid.ErrInvalid, printable([]byte(r)))
	}
	return append(appendPrefix(dst, t), r[len(t)+1:]...), t, nil
}

// typePrefix is what the keys of a type begin with.
func typePrefix(t rid.Type) []byte { return appendPrefix(make([]byte, 0, len(t)+1), t) }

// appendPrefix appends a type and the zero byte that ends it. The bytes 0 and 1,
// should a type hold them, are written as 1 1 and 1 2, which keeps the order.
func appendPrefix(dst []byte, t rid.Type) []byte {
	for i := range len(t) {
		if t[i] <= 1 {
			dst = append(dst, 1, t[i]+1)
		} else {
			dst = append(dst, t[i])
		}
	}
	return append(dst, 0)
}

// typePrefixes returns what the keys of some types begin with, in order; one
// empty prefix for no types, which are all.
func typePrefixes(types []rid.Type) [][]byte {
	if len(types) == 0 {
		return [][]byte{nil}
	}
	sorted := slices.Clone(types)
	slices.Sort(sorted)
	prefixes := make([][]byte, 0, len(sorted))
	for _, t := range slices.Compact(sorted) {
		prefixes = append(prefixes, typePrefix(t))
	}
	return prefixes
}

// ridOfKey is the inverse of bundleKey.
func ridOfKey(key []byte) (rid.RID, error) {
	t, reference, err := splitKey(key)
	if err != nil {
		return "", err
	}
	r := rid.RID(string(t) + ":" + string(reference))
	if len(r) > rid.MaxLength || !utf8.Valid(reference) {
		return "", errFields
	}
	return r, nil
}

// splitKey returns the type of a key, and its reference, which it aliases and
// does not look at.
func splitKey(key []byte) (t rid.Type, reference []byte, err error) {
	end := bytes.IndexByte(key, 0)
	if end < 0 || end == len(key)-1 {
		return "", nil, errFields
	}
	typ, reference := key[:end], key[end+1:]
	if bytes.IndexByte(typ, 1) >= 0 {
		if typ, err = unescapeType(typ); err != nil {
			return "", nil, err
		}
	}
	if t, err = rid.ParseType(string(typ)); err != nil {
		return "", nil, errFields
	}
	return t, reference, nil
}

// unescapeType takes back what appendPrefix does to the bytes 0 and 1.
func unescapeType(escaped []byte) ([]byte, error) {
	t := make([]byte, 0, len(escaped))
	for i := 0; i < len(escaped); i++ {
		c := escaped[i]
		if c == 1 {
			if i++; i == len(escaped) || escaped[i] < 1 || escaped[i] > 2 {
				return nil, errFields
			}
			c = escaped[i] - 1
		}
		t = append(t, c)
	}
	return t, nil
}

// The parts of payloads. Lengths and counts are uvarints.

func appendText(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

// appendTime keeps any time to the nanosecond, the zero time included.
func appendTime(dst []byte, t time.Time) []byte {
	return binary.AppendUvarint(binary.AppendVarint(dst, t.Unix()), uint64(t.Nanosecond()))
}

// decoder takes parts off a payload; after the first fault it yields zeros.
type decoder struct {
	rest []byte
	bad  bool
}

func (d *decoder) uvarint() uint64 {
	if len(d.rest) > 0 && d.rest[0] < 0x80 { // most are of one byte
		n := d.rest[0]
		d.rest = d.rest[1:]
		return uint64(n)
	}
	n, size := binary.Uvarint(d.rest)
	if size <= 0 {
		d.rest, d.bad = nil, true
		return 0
	}
	d.rest = d.rest[size:]
	return n
}

func (d *decoder) varint() int64 {
	n, size := binary.Varint(d.rest)
	if size <= 0 {
		d.rest, d.bad = nil, true
		return 0
	}
	d.rest = d.rest[size:]
	return n
}

func (d *decoder) take(n uint64) []byte {
	if n > uint64(len(d.rest)) {
		d.rest, d.bad = nil, true
		return nil
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}

func (d *decoder) text() string { return string(d.take(d.uvarint())) }

func (d *decoder) byte() byte {
	b := d.take(1)
	if len(b) == 0 {
		return 0
	}
	return b[0]
}

func (d *decoder) time() time.Time {
	sec, nsec := d.varint(), d.uvarint()
	if nsec >= uint64(time.Second) {
		d.bad = true
		return time.Time{}
	}
	return time.Unix(sec, int64(nsec)).UTC()
}

// end reports whether the payload was read to its end without a fault.
func (d *decoder) end() error {
	if d.bad || len(d.rest) != 0 {
		return errFields
	}
	return nil
}

// copyRest takes what is left, copied; nil where nothing is.
func (d *decoder) copyRest() []byte {
	b := bytes.Clone(d.rest)
	if len(b) == 0 {
		b = nil
	}
	d.rest = nil
	return b
}

// A manifest is its timestamp in wire form and its hash: 32 raw bytes where it
// is the usual lower-case hex (1), else text (0). The RID is in the key.
const (
	hashText = 0
	hashRaw  = 1
)

func appendManifest(dst []byte, m protocol.Manifest) []byte {
	dst = appendText(dst, m.Timestamp.String())
	if raw, err := hex.DecodeString(m.SHA256Hash); err == nil && len(raw) == 32 && hex.EncodeToString(raw) == m.SHA256Hash {
		return append(append(dst, hashRaw), raw...)
	}
	return appendText(append(dst, hashText), m.SHA256Hash)
}

// rawManifest takes a manifest as it is kept; its RID is not among it.
func (d *decoder) rawManifest(m *protocol.RawManifest) {
	m.Timestamp = d.take(d.uvarint())
	switch d.byte() {
	case hashRaw:
		m.Digest = d.take(32)
	case hashText:
		m.Hash = d.take(d.uvarint())
	default:
		d.bad = true
	}
}

func (d *decoder) manifest(r rid.RID) (protocol.Manifest, error) {
	var raw protocol.RawManifest
	d.rawManifest(&raw)
	if d.bad {
		return protocol.Manifest{}, errFields
	}
	m := protocol.Manifest{RID: r}
	if err := m.Timestamp.UnmarshalText(raw.Timestamp); err != nil {
		return protocol.Manifest{}, fmt.Errorf("its timestamp: %w", err)
	}
	if raw.Digest != nil {
		m.SHA256Hash = hex.EncodeToString(raw.Digest)
	} else {
		m.SHA256Hash = string(raw.Hash)
	}
	return m, nil
}

// A bundle is two records. Its entry in the index, under the RID's key, holds all
// but the contents; those lie under a number of their own. RIDs come in any
// order, numbers only grow: so that new contents fill page after page, and what
// is written at random places is small.

// indexed is an entry of the index.
type indexed struct {
	manifest protocol.Manifest
	source   string
	stored   time.Time
	seq      uint64 // the number of the contents
	size     uint64 // their length
}

func encodeIndexed(key []byte, e indexed) []byte {
	v := beginSeal(make([]byte, 0, sealOverhead+len(e.source)+len(e.manifest.SHA256Hash)+96))
	v = appendManifest(v, e.manifest)
	v = appendText(v, e.source)
	v = appendTime(v, e.stored)
	v = binary.AppendUvarint(v, e.seq)
	v = binary.AppendUvarint(v, e.size)
	return endSeal(key, v)
}

func decodeIndexed(r rid.RID, key, value []byte) (indexed, error) {
	payload, err := unseal(key, value)
	if err != nil {
		return indexed{}, err
	}
	return indexedOf(r, payload)
}

// indexedOf reads an entry that was unsealed.
func indexedOf(r rid.RID, payload []byte) (e indexed, err error) {
	d := decoder{rest: payload}
	if e.manifest, err = d.manifest(r); err != nil {
		return indexed{}, err
	}
	e.source = d.text()
	e.stored = d.time()
	e.seq = d.uvarint()
	e.size = d.uvarint()
	return e, d.end()
}

// rawEntry is an entry as it is kept, or what of it is needed to serve a bundle.
type rawEntry struct {
	manifest  protocol.RawManifest // without its RID
	seq, size uint64
}

// rawEntryOf reads an entry that was unsealed, and aliases it.
func rawEntryOf(payload []byte) (e rawEntry, err error) {
	d := decoder{rest: payload}
	d.rawManifest(&e.manifest)
	d.take(d.uvarint()) // the source
	d.varint()          // when it was stored: seconds
	d.uvarint()         // and nanoseconds
	e.seq = d.uvarint()
	e.size = d.uvarint()
	return e, d.end()
}

// encodeContents seals a bundle's contents, with the RID they belong to.
func encodeContents(key []byte, r rid.RID, contents []byte) []byte {
	v := beginSeal(make([]byte, 0, sealOverhead+len(r)+len(contents)+4))
	v = appendText(v, string(r))
	return endSeal(key, append(v, contents...))
}

// decodeContents is the inverse of encodeContents; what it returns aliases value.
func decodeContents(key, value []byte) (r, contents []byte, err error) {
	payload, err := unseal(key, value)
	if err != nil {
		return nil, nil, err
	}
	d := decoder{rest: payload}
	r = d.take(d.uvarint())
	if d.bad {
		return nil, nil, errFields
	}
	return r, d.rest, nil
}

// encodeItem seals a RID, a time and bytes: an inbox row, or an event's body.
func encodeItem(key []byte, r rid.RID, t time.Time, data []byte) []byte {
	v := beginSeal(make([]byte, 0, sealOverhead+len(r)+len(data)+20))
	v = appendText(v, string(r))
	v = appendTime(v, t)
	return endSeal(key, append(v, data...))
}

func decodeItem(key, value []byte) (r rid.RID, t time.Time, data []byte, err error) {
	payload, err := unseal(key, value)
	if err != nil {
		return "", time.Time{}, nil, err
	}
	d := decoder{rest: payload}
	r, t = rid.RID(d.text()), d.time()
	if d.bad {
		return "", time.Time{}, nil, errFields
	}
	return r, t, d.copyRest(), nil
}

// encodeCount seals one number.
func encodeCount(key []byte, n uint64) []byte {
	return endSeal(key, binary.AppendUvarint(beginSeal(make([]byte, 0, sealOverhead+10)), n))
}

func decodeCount(key, value []byte) (uint64, error) {
	payload, err := unseal(key, value)
	if err != nil {
		return 0, err
	}
	d := decoder{rest: payload}
	n := d.uvarint()
	return n, d.end()
}

// A digest stands for a RID in keys: the first 16 bytes of its SHA-256. Peers
// choose RIDs, so it has to resist collisions: one would let a row count as
// superseded that is not.
type digest [16]byte

// row is what a queue keeps for one peer and one event.
type row struct {
	size int // bytes of the event
	rid  digest
}

func encodeRow(key []byte, r row) []byte {
	v := binary.AppendUvarint(beginSeal(make([]byte, 0, 32)), uint64(r.size))
	return endSeal(key, append(v, r.rid[:]...))
}

func decodeRow(key, value []byte) (row, error) {
	payload, err := unseal(key, value)
	if err != nil {
		return row{}, err
	}
	d := decoder{rest: payload}
	r := row{size: int(d.uvarint())}
	copy(r.rid[:], d.take(uint64(len(r.rid))))
	return r, d.end()
}

// noted is a key of the replay memory and when it was noted. There may be a
// million of them, so the time is in whole seconds, rounded up: a key is never
// old before its time.
type noted struct {
	key digest
	at  int64 // Unix time, seconds
}

func notedAt(key digest, at time.Time) noted {
	n := noted{key: key, at: at.Unix()}
	if at.Nanosecond() > 0 {
		n.at++
	}
	return n
}

func (n noted) before(t time.Time) bool { return time.Unix(n.at, 0).Before(t) }

func encodeNoted(key []byte, n noted) []byte {
	v := append(beginSeal(make([]byte, 0, sealOverhead+len(n.key)+binary.MaxVarintLen64)), n.key[:]...)
	return endSeal(key, binary.AppendVarint(v, n.at))
}

func decodeNoted(key, value []byte) (noted, error) {
	payload, err := unseal(key, value)
	if err != nil {
		return noted{}, err
	}
	d := decoder{rest: payload}
	var n noted
	copy(n.key[:], d.take(uint64(len(n.key))))
	n.at = d.varint()
	return n, d.end()
}

// peerState are the figures of one peer in one queue.
type peerState struct {
	id     uint64 // stands for the peer in keys; never given twice
	rows   uint64
	bytes  uint64
	resync bool
}

func encodePeer(key []byte, p peerState) []byte {
	v := binary.AppendUvarint(beginSeal(make([]byte, 0, 48)), p.id)
	v = binary.AppendUvarint(v, p.rows)
	v = binary.AppendUvarint(v, p.bytes)
	if p.resync {
		v = append(v, 1)
	} else {
		v = append(v, 0)
	}
	return endSeal(key, v)
}

func decodePeer(key, value []byte) (peerState, error) {
	payload, err := unseal(key, value)
	if err != nil {
		return peerState{}, err
	}
	d := decoder{rest: payload}
	p := peerState{id: d.uvarint(), rows: d.uvarint(), bytes: d.uvarint()}
	switch d.byte() {
	case 0:
	case 1:
		p.resync = true
	default:
		d.bad = true
	}
	return p, d.end()
}

// encodeBytes seals bytes as they are.
func encodeBytes(key, data []byte) []byte {
	v := beginSeal(make([]byte, 0, sealOverhead+len(data)))
	return endSeal(key, append(v, data...))
}
