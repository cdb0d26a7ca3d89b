package bolt

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	berrors "go.etcd.io/bbolt/errors"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

func sampleRecord() ([]byte, store.Record) {
	r := rid.RID("orn:example.note:1")
	key, _ := bundleKey(r)
	return key, store.Record{
		Bundle: protocol.Bundle{
			Manifest: protocol.Manifest{
				RID:        r,
				Timestamp:  protocol.NewTimestamp(time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)),
				SHA256Hash: strings.Repeat("0123456789abcdef", 4),
			},
			Contents: []byte(`{"text":"hello"}`),
		},
		Source: "orn:koi-net.node:a+1",
		Stored: time.Date(2026, 1, 2, 3, 4, 5, 678901234, time.UTC),
	}
}

// Every single flipped bit of a record, and every lost byte, is noticed.
func TestRecordDamageIsNoticed(t *testing.T) {
	key, rec := sampleRecord()
	r := rec.Bundle.Manifest.RID
	number := seqKey(7)
	entry := encodeIndexed(key, sampleEntry(rec))
	contents := encodeContents(number, r, rec.Bundle.Contents)
	if got, err := decodeIndexed(r, key, entry); err != nil || !sameEntries(got, sampleEntry(rec)) {
		t.Fatalf("decodeIndexed = %+v, %v", got, err)
	}
	if of, got, err := decodeContents(number, contents); err != nil || string(of) != string(r) || string(got) != string(rec.Bundle.Contents) {
		t.Fatalf("decodeContents = %q, %q, %v", of, got, err)
	}
	for name, c := range map[string]struct {
		key, value []byte
		decode     func(key, value []byte) error
	}{
		"entry":    {key, entry, func(key, value []byte) error { _, err := decodeIndexed(r, key, value); return err }},
		"contents": {number, contents, func(key, value []byte) error { _, _, err := decodeContents(key, value); return err }},
	} {
		for i := range len(c.value) * 8 {
			bad := bytes.Clone(c.value)
			bad[i/8] ^= 1 << (i % 8)
			if c.decode(c.key, bad) == nil {
				t.Fatalf("%s: bit %d flipped, nothing noticed", name, i)
			}
		}
		for n := range c.value {
			if c.decode(c.key, c.value[:n]) == nil {
				t.Fatalf("%s: cut to %d bytes, nothing noticed", name, n)
			}
		}
		if err := c.decode(append(bytes.Clone(c.key), 1), c.value); !errors.Is(err, errSum) {
			t.Errorf("%s under another key: %v", name, err)
		}
		newer := bytes.Clone(c.value)
		newer[0] = recordVersion + 1
		if err := c.decode(c.key, endSeal(c.key, newer[:len(newer)-4])); !errors.Is(err, errVersion) {
			t.Errorf("%s of a later version: %v", name, err)
		}
	}
}

func sampleEntry(rec store.Record) indexed {
	return indexed{manifest: rec.Bundle.Manifest, source: rec.Source, stored: rec.Stored, seq: 7, size: uint64(len(rec.Bundle.Contents))}
}

func sameEntries(a, b indexed) bool {
	return a.manifest.RID == b.manifest.RID && a.manifest.SHA256Hash == b.manifest.SHA256Hash &&
		a.manifest.Timestamp.String() == b.manifest.Timestamp.String() &&
		a.source == b.source && a.stored.Equal(b.stored) && a.seq == b.seq && a.size == b.size
}

func TestTimesAreKept(t *testing.T) {
	for _, want := range []time.Time{
		{}, time.Unix(0, 0), time.Unix(-1, 999_999_999), time.Now(),
		time.Date(9999, 12, 31, 23, 59, 59, 999_999_999, time.FixedZone("x", -3600)),
	} {
		d := decoder{rest: appendTime(nil, want)}
		if got := d.time(); !got.Equal(want) || got.IsZero() != want.IsZero() || d.end() != nil {
			t.Errorf("%v became %v (%v)", want, got, d.end())
		}
	}
}

// A key is old only when it is older than the bound to the nanosecond.
func TestNotedTimes(t *testing.T) {
	for _, at := range []time.Time{
		time.Unix(1_700_000_000, 0), time.Unix(1_700_000_000, 1), time.Unix(1_700_000_000, 999_999_999),
		time.Unix(0, 0), time.Unix(-5, 500), {}, time.Date(9999, 12, 31, 23, 59, 59, 1, time.FixedZone("x", 3600)),
	} {
		n, err := decodeNoted(seqKey(3), encodeNoted(seqKey(3), notedAt(digestOf("a:b"), at)))
		if err != nil || n.key != digestOf("a:b") {
			t.Errorf("%v: %+v, %v", at, n, err)
		}
		if n.before(at) || n.before(at.Add(-time.Hour)) {
			t.Errorf("%v is before itself", at)
		}
		if !n.before(at.Add(time.Second)) {
			t.Errorf("%v is not before the second after it", at)
		}
	}
}

func TestKeysSortAsRIDsDo(t *testing.T) {
	var all []rid.RID
	for _, typ := range []string{"a", "a\x00", "a\x00\x00", "a\x01", "a\x01\x01", "a\x02", "aa", "a ", "orn:a", "orn:a\x00b", "ü"} {
		for _, ref := range []string{"\x00", "\x01", "\xf4\x8f\xbf\xbf", "a", "a:b", "aa"} {
			all = append(all, rid.RID(typ+":"+ref))
		}
	}
	key := func(r rid.RID) []byte {
		k, err := bundleKey(r)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	for _, x := range all {
		if got, err := ridOfKey(key(x)); err != nil || got != x {
			t.Errorf("%q became %q, %v", x, got, err)
		}
		for _, y := range all {
			want := strings.Compare(string(x.Type()), string(y.Type()))
			if want == 0 {
				want = strings.Compare(string(x), string(y))
			}
			if got := bytes.Compare(key(x), key(y)); got != want {
				t.Errorf("%q and %q compare as %d, their keys as %d", x, y, want, got)
			}
			if under := bytes.HasPrefix(key(y), typePrefix(x.Type())); under != (x.Type() == y.Type()) {
				t.Errorf("%q lies under type %q: %t", y, x.Type(), under)
			}
		}
	}
	for _, bad := range []string{"", "a", "a\x00", "\x00a", "a\x01\x00b", "a\x01\x03\x00b", "orn\x00a", "a:b\x00c", "\xff\x00a"} {
		if got, err := ridOfKey([]byte(bad)); err == nil {
			t.Errorf("key %q became %q", bad, got)
		}
	}
}

func TestErrorsAreMapped(t *testing.T) {
	disk := &fs.PathError{Op: "write", Path: "koi.db", Err: syscall.ENOSPC}
	for _, test := range []struct {
		err  error
		want error
	}{
		{disk, store.ErrFull},
		{disk, syscall.ENOSPC},
		{fmt.Errorf("file resize error: %s", disk), store.ErrFull}, // as bbolt passes it on
		{&fs.PathError{Op: "write", Err: syscall.EDQUOT}, store.ErrFull},
		{berrors.ErrMaxSizeReached, store.ErrFull},
		{berrors.ErrDatabaseNotOpen, store.ErrClosed},
		{syscall.EIO, syscall.EIO},
	} {
		if got := mapError("koi.db", test.err); !errors.Is(got, test.want) {
			t.Errorf("mapError(%v) = %v, want %v", test.err, got, test.want)
		}
	}
	if got := mapError("koi.db", syscall.EIO); errors.Is(got, store.ErrFull) {
		t.Errorf("an input/output error is %v", got)
	}
}

// Whatever a value holds, decoding it ends in a value or an error; and what was
// decoded is encoded to what decodes to the same.
func FuzzDecode(f *testing.F) {
	key, rec := sampleRecord()
	f.Add(key, encodeIndexed(key, sampleEntry(rec))[1:])
	f.Add(seqKey(7), encodeContents(seqKey(7), rec.Bundle.Manifest.RID, rec.Bundle.Contents)[1:])
	rec.Bundle.Manifest.SHA256Hash = "odd"
	f.Add(key, encodeIndexed(key, sampleEntry(rec))[1:])
	f.Add(seqKey(7), encodeItem(seqKey(7), "a:b", time.Now(), []byte("data"))[1:])
	f.Add(seqKey(7), encodeCount(seqKey(7), 300)[1:])
	f.Add(seqKey(7), encodeRow(seqKey(7), row{size: 70_000, rid: digestOf("a:b")})[1:])
	f.Add([]byte("oa:b"), encodePeer([]byte("oa:b"), peerState{id: 1, rows: 2, bytes: 3, resync: true})[1:])
	f.Add(seqKey(7), encodeNoted(seqKey(7), notedAt(digestOf("a:b"), time.Now()))[1:])
	f.Add([]byte{}, []byte{})
	f.Fuzz(func(t *testing.T, key, payload []byte) {
		const r = rid.RID("orn:example.note:1")
		for _, value := range [][]byte{payload, endSeal(key, append(beginSeal(nil), payload...))} {
			if e, err := decodeIndexed(r, key, value); err == nil {
				again, err := decodeIndexed(r, key, encodeIndexed(key, e))
				if err != nil || !sameEntries(again, e) {
					t.Errorf("%+v became %+v, %v", e, again, err)
				}
			}
			if of, contents, err := decodeContents(key, value); err == nil {
				of2, again, err := decodeContents(key, encodeContents(key, rid.RID(of), contents))
				if err != nil || !bytes.Equal(of2, of) || !bytes.Equal(again, contents) {
					t.Errorf("contents %q of %q became %q of %q, %v", contents, of, again, of2, err)
				}
			}
			// Format 1: whatever it is, it ends.
			if rec, err := decodeRecord1(r, key, value); err == nil && rec.Bundle.Manifest.RID != r {
				t.Errorf("record of %s", rec.Bundle.Manifest.RID)
			}
			_, _ = decodeManifest1(r, key, value)
			if r, at, data, err := decodeItem(key, value); err == nil {
				r2, at2, data2, err := decodeItem(key, encodeItem(key, r, at, data))
				if err != nil || r2 != r || !at2.Equal(at) || !bytes.Equal(data2, data) {
					t.Errorf("item %q %v %q: %v", r, at, data, err)
				}
			}
			if p, err := decodePeer(key, value); err == nil {
				if again, err := decodePeer(key, encodePeer(key, p)); err != nil || again != p {
					t.Errorf("%+v became %+v, %v", p, again, err)
				}
			}
			if x, err := decodeRow(key, value); err == nil && x.size >= 0 {
				if again, err := decodeRow(key, encodeRow(key, x)); err != nil || again != x {
					t.Errorf("%+v became %+v, %v", x, again, err)
				}
			}
			if n, err := decodeNoted(key, value); err == nil {
				if again, err := decodeNoted(key, encodeNoted(key, n)); err != nil || again != n {
					t.Errorf("%+v became %+v, %v", n, again, err)
				}
			}
			_, _ = decodeCount(key, value)
			_, _ = decodeInfo("koi.db", value)
			_, _ = decodeDecision(key, value)
			_, _ = decodeInbox(key, value)
		}
		if got, err := ridOfKey(key); err == nil {
			if again, err := bundleKey(got); err != nil || !bytes.Equal(again, key) {
				t.Errorf("key %q is of %q, whose key is %q, %v", key, got, again, err)
			}
		}
	})
}

// Whatever a file holds, looking at it ends, without touching what is not there.
func FuzzLayout(f *testing.F) {
	path := filepath.Join(f.TempDir(), "koi.db")
	info := store.Info{ID: "x", Format: Format, NodeRID: "orn:koi-net.node:a+1"}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		f.Fatal(err)
	}
	if err := fill(path, info, time.Second); err != nil {
		f.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	page := os.Getpagesize()
	f.Add(uint32(0), []byte{})
	for at := 2 * page; at < min(len(whole), 8*page); at += page {
		for _, off := range []int{0, 8, 10, 12, 16, 20, 24, 28, 32} {
			f.Add(uint32(at+off), []byte{0xff, 0xff, 0xff, 0xff})
			f.Add(uint32(at+off), []byte{0, 0, 0, 0})
		}
	}
	f.Fuzz(func(t *testing.T, at uint32, patch []byte) {
		data := bytes.Clone(whole)
		if int(at) < len(data) {
			copy(data[at:], patch)
		}
		l, err := readLayout(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			return
		}
		var names []string
		topErr := l.top(t.Context(), nil, func(name []byte, child subtree) error {
			names = append(names, string(name))
			return l.walk(t.Context(), child, nil, func(k, v []byte) error { return nil })
		})
		if err := l.verify(t.Context()); err == nil && topErr == nil && bytes.Equal(data, whole) {
			if want := slices.Sorted(slices.Values(bucketNames[:])); !slices.Equal(names, want) {
				t.Errorf("buckets %v, want %v", names, want)
			}
		} else if bytes.Equal(data, whole) {
			t.Errorf("the whole file is refused: %v, %v", topErr, err)
		}
	})
}
