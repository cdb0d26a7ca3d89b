package bolt

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
	"time"

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
	if len(value) < sealOverhead {
		return nil, errShort
	}
	body, sum := value[:len(value)-4], value[len(value)-4:]
	if checksum(key, body) != binary.LittleEndian.Uint32(sum) {
		return nil, errSum
	}
	if body[0] != recordVersion {
		return nil, errVersion
	}
	return body[1:], nil
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

// bundleKey makes the key of a RID in bundles and manifests: its type, a zero
// byte, its reference. Keys sort as (type, reference) do, and no type's prefix
// is the beginning of another's.
func bundleKey(r rid.RID) ([]byte, error) {
	t := r.Type()
	if t == "" || len(r) == len(t)+1 {
		return nil, fmt.Errorf("%w %s", rid.ErrInvalid, printable([]byte(r)))
	}
	return append(typePrefix(t), r[len(t)+1:]...), nil
}

// typePrefix writes a type and the zero byte that ends it. The bytes 0 and 1,
// should a type hold them, are written as 1 1 and 1 2, which keeps the order.
func typePrefix(t rid.Type) []byte {
	dst := make([]byte, 0, len(t)+1)
	for i := range len(t) {
		if t[i] <= 1 {
			dst = append(dst, 1, t[i]+1)
		} else {
			dst = append(dst, t[i])
		}
	}
	return append(dst, 0)
}

// ridOfKey is the inverse of bundleKey.
func ridOfKey(key []byte) (rid.RID, error) {
	end := bytes.IndexByte(key, 0)
	if end < 0 || end == len(key)-1 {
		return "", errFields
	}
	typ, ref := key[:end], key[end+1:]
	var b strings.Builder
	b.Grow(len(key))
	for {
		i := bytes.IndexByte(typ, 1)
		if i < 0 {
			break
		}
		if i+1 == len(typ) || typ[i+1] < 1 || typ[i+1] > 2 {
			return "", errFields
		}
		b.Write(typ[:i])
		b.WriteByte(typ[i+1] - 1)
		typ = typ[i+2:]
	}
	b.Write(typ)
	size := b.Len()
	b.WriteByte(':')
	b.Write(ref)
	r := rid.RID(b.String())
	if size == 0 || len(r.Type()) != size {
		return "", errFields
	}
	return r, nil
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

func (d *decoder) manifest(r rid.RID) (protocol.Manifest, error) {
	when := d.text()
	var sum string
	switch d.byte() {
	case hashRaw:
		sum = hex.EncodeToString(d.take(32))
	case hashText:
		sum = d.text()
	default:
		d.bad = true
	}
	if d.bad {
		return protocol.Manifest{}, errFields
	}
	t, err := protocol.ParseTimestamp(when)
	if err != nil {
		return protocol.Manifest{}, fmt.Errorf("its timestamp: %w", err)
	}
	return protocol.Manifest{RID: r, Timestamp: t, SHA256Hash: sum}, nil
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
	var e indexed
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
