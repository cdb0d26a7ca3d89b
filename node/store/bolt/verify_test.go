package bolt_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	bbolt "go.etcd.io/bbolt"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
	"github.com/koi-net/koi-operator/node/store/bolt"
)

// verified verifies the file, and wants nothing to be touched.
func verified(t *testing.T, path string, o bolt.VerifyOptions) bolt.Report {
	t.Helper()
	before := snapshot(t, filepath.Dir(path))
	r, err := bolt.Verify(t.Context(), path, o)
	if err != nil {
		t.Fatalf("Verify: %v", err)
	}
	if after := snapshot(t, filepath.Dir(path)); !slices.Equal(before, after) {
		t.Errorf("the directory was touched:\n%v\n%v", names(before), names(after))
	}
	if (len(r.Faults) == 0) != (r.Err() == nil) || r.Err() != nil && !errors.Is(r.Err(), store.ErrDamaged) {
		t.Errorf("%d faults, and Err says %v", len(r.Faults), r.Err())
	}
	for _, f := range r.Faults {
		if f.Cause == nil || strings.Contains(f.String(), "\n") || len(f.String()) > 600 {
			t.Errorf("a fault that is no line: %s", f)
		}
	}
	return r
}

// sound is verified where nothing is wrong.
func sound(t *testing.T, path string) bolt.Report {
	t.Helper()
	r := verified(t, path, bolt.VerifyOptions{})
	for _, f := range r.Faults {
		t.Errorf("a fault where there is none: %s", f)
	}
	return r
}

// genuine is a bundle whose hash is right, in one of the three styles.
func genuine(n, style int) store.Record {
	rec := record(n, `{"a":"é","b":[1,2.5],"n":`+fmt.Sprint(n)+`}`)
	text := []string{
		string(rec.Bundle.Contents),
		`{"a":"\u00e9","b":[1,2.5],"n":` + fmt.Sprint(n) + `}`,
		`{"a": "\u00e9", "b": [1, 2.5], "n": ` + fmt.Sprint(n) + `}`,
	}[style%3]
	rec.Bundle.Manifest.SHA256Hash = fmt.Sprintf("%x", sha256.Sum256([]byte(text)))
	rec.Source = "orn:koi-net.node:peer+1"
	return rec
}

// everything fills a store as fillStore does, with bundles whose hashes are right.
func everything(t testing.TB, s store.Store) {
	t.Helper()
	fillStore(t, s)
	update(t, s, func(w store.Writer) error {
		for n := range 160 {
			if err := w.DeleteBundle(note(n)); err != nil {
				return err
			}
		}
		for n := range 90 {
			if err := w.PutBundle(genuine(n, n)); err != nil {
				return err
			}
		}
		return w.PutBundle(large())
	})
}

// large is a bundle over many pages.
func large() store.Record {
	rec := record(200, `{"large":"`+strings.Repeat("large ", 20_000)+`"}`)
	rec.Bundle.Manifest.SHA256Hash = fmt.Sprintf("%x", sha256.Sum256(rec.Bundle.Contents))
	return rec
}

// madeWhole returns the path of a store filled by everything.
func madeWhole(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "koi.db")
	s := open(t, path)
	everything(t, s)
	closeStore(t, s)
	return path
}

func TestVerify(t *testing.T) {
	path := madeWhole(t)
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	r := sound(t, path)
	s := open(t, path)
	if r.Info != s.Info() {
		t.Errorf("Info is %+v, want %+v", r.Info, s.Info())
	}
	closeStore(t, s)
	if r.Bundles != 91 || r.InboxRows != 156 || r.QueueRows == 0 || r.Size != st.Size() || r.Heads != 2 || r.OwnMismatches != 0 {
		t.Errorf("the report: %+v", r)
	}
	if r.Free <= 0 || r.Free >= r.Size {
		t.Errorf("%d of %d bytes are free", r.Free, r.Size)
	}
	if _, err := bolt.Verify(t.Context(), path, bolt.VerifyOptions{NodeRID: self}); err != nil {
		t.Errorf("Verify for its node: %v", err)
	}
}

func TestVerifyWhatCannotBe(t *testing.T) {
	path := madeWhole(t)
	dir := filepath.Dir(path)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := bolt.Verify(ended, path, bolt.VerifyOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended context: %v", err)
	}
	if _, err := bolt.Verify(t.Context(), path, bolt.VerifyOptions{NodeRID: "orn:koi-net.node:other+1"}); !errors.Is(err, store.ErrForeign) {
		t.Errorf("another's: %v", err)
	}
	if _, err := bolt.Verify(t.Context(), filepath.Join(dir, "none"), bolt.VerifyOptions{}); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a missing one: %v", err)
	}
	for name, data := range map[string][]byte{"text": []byte("text"), "zeros": make([]byte, 1<<16)} {
		file := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := bolt.Verify(t.Context(), file, bolt.VerifyOptions{}); !errors.Is(err, store.ErrForeign) {
			t.Errorf("%s: %v", name, err)
		}
	}
	s := open(t, path)
	if _, err := bolt.Verify(t.Context(), path, bolt.VerifyOptions{Timeout: 50 * time.Millisecond}); !errors.Is(err, store.ErrLocked) {
		t.Errorf("one that is in use: %v", err)
	}
	closeStore(t, s)
}

// Contents are held against their manifests as they were when they were accepted.
func TestVerifyHashes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "koi.db")
	s := open(t, path)
	update(t, s, func(w store.Writer) error {
		for n := range 6 {
			if err := w.PutBundle(genuine(n, n)); err != nil {
				return err
			}
		}
		wrong := genuine(6, 0)
		wrong.Bundle.Contents = []byte(`{"a":"e"}`)
		own := record(7, `{"what":"a handler of the node's own said"}`)
		empty := genuine(8, 0)
		empty.Bundle.Contents = nil
		return errors.Join(w.PutBundle(wrong), w.PutBundle(own), w.PutBundle(empty))
	})
	closeStore(t, s)
	r := verified(t, path, bolt.VerifyOptions{})
	if r.Bundles != 9 || r.OwnMismatches != 1 || len(r.Faults) != 2 {
		t.Fatalf("the report: %+v", r)
	}
	if f := r.Faults[0]; f.RID != note(6) || f.Bucket != "index" || !errors.Is(f.Cause, protocol.ErrHashMismatch) {
		t.Errorf("the fault: %s", f)
	}
	if f := r.Faults[1]; f.RID != note(8) {
		t.Errorf("the fault: %s", f)
	}
	text, err := json.Marshal(r)
	var back struct {
		Faults []struct {
			RID   string
			Cause string
		}
	}
	if err := errors.Join(err, json.Unmarshal(text, &back)); err != nil || len(back.Faults) != 2 || back.Faults[0].RID != string(note(6)) || !strings.Contains(back.Faults[0].Cause, "hash") {
		t.Errorf("as JSON it is %s, %v", text, err)
	}
	if r := verified(t, path, bolt.VerifyOptions{SkipHashes: true}); len(r.Faults) != 0 || r.OwnMismatches != 0 {
		t.Errorf("without hashes: %+v", r)
	}
}

var storeBuckets = []string{
	"koi", "index", "contents", "types", "inbox", "peers", "rows", "latest", "superseded", "bodies", "refs",
	"decisions", "values", "counters", "replay", "noted",
}

// firstOf returns the first record of a bucket.
func firstOf(b *bbolt.Bucket) (k, v []byte) {
	k, v = b.Cursor().First()
	return bytes.Clone(k), bytes.Clone(v)
}

// damagedCopy is a copy of the store at path with something done to it behind its back.
func damagedCopy(t *testing.T, path string, fn func(*bbolt.Tx) error) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "koi.db")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	alter(t, file, fn)
	return file
}

// noticed wants both verifications to find a fault of the buckets named.
func noticed(t *testing.T, file string, buckets ...string) {
	t.Helper()
	r := verified(t, file, bolt.VerifyOptions{})
	if len(r.Faults) == 0 {
		t.Fatal("Verify found nothing")
	}
	if !slices.ContainsFunc(r.Faults, func(f bolt.Fault) bool { return slices.Contains(buckets, f.Bucket) }) {
		t.Errorf("Verify found %v, want a fault of %v", r.Faults, buckets)
	}
	s, err := bolt.Open(bolt.Options{Path: file})
	if err == nil {
		err = s.Check(t.Context())
		closeStore(t, s)
	}
	if !errors.Is(err, store.ErrDamaged) {
		t.Errorf("Open, then Check: %v", err)
	}
}

// A byte flipped in a record of any bucket is found, and named.
func TestFlippedRecordsAreFound(t *testing.T) {
	path := madeWhole(t)
	for _, name := range storeBuckets {
		if name == "superseded" {
			continue // its records have no values
		}
		for _, at := range []string{"first", "middle", "sum"} {
			t.Run(name+"/"+at, func(t *testing.T) {
				file := damagedCopy(t, path, func(tx *bbolt.Tx) error {
					b := tx.Bucket([]byte(name))
					k, v := firstOf(b)
					switch at {
					case "first":
						v[0] ^= 0x40
					case "middle":
						v[len(v)/2] ^= 1
					case "sum":
						v[len(v)-1] ^= 0x80
					}
					return b.Put(k, v)
				})
				noticed(t, file, name)
			})
		}
	}
}

// What is derived is held against what it is derived from. Each of these stores is
// whole to the last checksum, and wrong.
func TestContradictionsAreFound(t *testing.T) {
	path := madeWhole(t)
	remove := func(name string) func(*bbolt.Tx) error {
		return func(tx *bbolt.Tx) error {
			b := tx.Bucket([]byte(name))
			k, _ := firstOf(b)
			return b.Delete(k)
		}
	}
	// twice puts the first record of a bucket under another key, too, sealed for it.
	twice := func(name string, key func([]byte) []byte) func(*bbolt.Tx) error {
		return func(tx *bbolt.Tx) error {
			b := tx.Bucket([]byte(name))
			k, v := firstOf(b)
			k = key(k)
			if len(v) > 0 {
				v = bolt.SealForTest(k, v[1:len(v)-4])
			}
			return b.Put(k, v)
		}
	}
	last := func(k []byte) []byte { k[len(k)-1] ^= 0x55; return k }
	farSeq := func(k []byte) []byte {
		return append(bytes.Clone(k[:len(k)-8]), binary.BigEndian.AppendUint64(nil, 1<<40)...)
	}
	number := func(name string, to uint64) func(*bbolt.Tx) error {
		return func(tx *bbolt.Tx) error {
			b := tx.Bucket([]byte(name))
			k, _ := firstOf(b)
			return b.Put(k, bolt.SealForTest(k, binary.AppendUvarint(nil, to)))
		}
	}
	sequence := func(name string) func(*bbolt.Tx) error {
		return func(tx *bbolt.Tx) error { return tx.Bucket([]byte(name)).SetSequence(1) }
	}
	for name, test := range map[string]struct {
		do   func(*bbolt.Tx) error
		want []string
	}{
		"an entry is missing":                 {remove("index"), []string{"contents", "types"}},
		"contents are missing":                {remove("contents"), []string{"index"}},
		"contents of no bundle":               {twice("contents", farSeq), []string{"contents"}},
		"an entry too many":                   {twice("index", last), []string{"index"}},
		"an entry under a key that is none":   {twice("index", func([]byte) []byte { return []byte("x") }), []string{"index"}},
		"a type's count":                      {number("types", 99), []string{"types"}},
		"a type's count is missing":           {remove("types"), []string{"types"}},
		"a count of a type that is not there": {twice("types", func([]byte) []byte { return []byte("orn:no.such") }), []string{"types"}},
		"an inbox row is missing":             {remove("inbox"), []string{"counters"}},
		"a counter":                           {number("counters", 3), []string{"counters"}},
		"a counter is missing":                {remove("counters"), []string{"counters"}},
		"a peer is missing":                   {remove("peers"), []string{"rows", "superseded"}},
		"a peer with another's rows":          {twice("peers", func(k []byte) []byte { return append(k, 'x') }), []string{"peers"}},
		"a row is missing":                    {remove("rows"), []string{"peers", "latest", "refs"}},
		"a row too many":                      {twice("rows", farSeq), []string{"rows"}},
		"a newest row is not noted":           {remove("latest"), []string{"rows"}},
		"a row that is none is the newest":    {number("latest", 1<<40), []string{"latest"}},
		"a mark is missing":                   {remove("superseded"), []string{"rows", "superseded"}},
		"a mark too many":                     {twice("superseded", farSeq), []string{"superseded"}},
		"an event is missing":                 {remove("bodies"), []string{"rows", "refs"}},
		"an event too many":                   {twice("bodies", farSeq), []string{"bodies"}},
		"a count of references":               {number("refs", 77), []string{"refs"}},
		"a count of references is missing":    {remove("refs"), []string{"bodies"}},
		"a decision under another's key":      {twice("decisions", last), []string{"decisions"}},
		"a key is missing":                    {remove("replay"), []string{"noted", "counters"}},
		"a key's row is missing":              {remove("noted"), []string{"replay"}},
		"contents are numbered again":         {sequence("contents"), []string{"contents"}},
		"inbox rows are numbered again":       {sequence("inbox"), []string{"inbox"}},
		"events are numbered again":           {sequence("bodies"), []string{"bodies"}},
		"peers are numbered again":            {sequence("peers"), []string{"peers"}},
		"keys' rows are numbered again":       {sequence("noted"), []string{"noted"}},
		"a bucket is missing":                 {func(tx *bbolt.Tx) error { return tx.DeleteBucket([]byte("inbox")) }, []string{""}},
		"a bucket in a bucket": {func(tx *bbolt.Tx) error {
			_, err := tx.Bucket([]byte("values")).CreateBucket([]byte("inner"))
			return err
		}, []string{"values"}},
	} {
		t.Run(name, func(t *testing.T) { noticed(t, damagedCopy(t, path, test.do), test.want...) })
	}
}

// Verify goes on behind each fault, and lists them up to a bound.
func TestVerifyFindsAll(t *testing.T) {
	path := madeWhole(t)
	flipped := []string{"decisions", "inbox", "noted", "types", "values"}
	file := damagedCopy(t, path, func(tx *bbolt.Tx) error {
		for _, name := range flipped {
			b := tx.Bucket([]byte(name))
			k, v := firstOf(b)
			v[0] ^= 1
			if err := b.Put(k, v); err != nil {
				return err
			}
		}
		index := tx.Bucket([]byte("index"))
		c := index.Cursor()
		for k, v := c.First(); k != nil; k, v = c.Next() {
			v = bytes.Clone(v)
			v[len(v)/2] ^= 4
			if err := index.Put(bytes.Clone(k), v); err != nil {
				return err
			}
		}
		return nil
	})
	r := verified(t, file, bolt.VerifyOptions{MaxFaults: 1000})
	found := make(map[string]int)
	about := make(map[rid.RID]bool)
	for _, f := range r.Faults {
		found[f.Bucket]++
		if f.Bucket == "index" {
			about[f.RID] = true
		}
	}
	for _, name := range flipped {
		if found[name] == 0 {
			t.Errorf("nothing of %s was found: %v", name, found)
		}
	}
	if len(about) != 91 || !about[note(17)] || r.Bundles != 0 || r.MoreFaults != 0 {
		t.Errorf("of 91 damaged bundles %d were found, %d called sound", len(about), r.Bundles)
	}
	if !strings.Contains(r.Err().Error(), fmt.Sprint(len(r.Faults))) {
		t.Errorf("Err does not count %d faults: %v", len(r.Faults), r.Err())
	}
	few := verified(t, file, bolt.VerifyOptions{MaxFaults: 3})
	if len(few.Faults) != 3 || few.MoreFaults != len(r.Faults)-3 {
		t.Errorf("%d faults and %d more, want 3 of %d", len(few.Faults), few.MoreFaults, len(r.Faults))
	}
	if usual := verified(t, file, bolt.VerifyOptions{}); len(usual.Faults)+usual.MoreFaults != len(r.Faults) || len(usual.Faults) > bolt.DefaultMaxFaults {
		t.Errorf("%d faults and %d more, want %d", len(usual.Faults), usual.MoreFaults, len(r.Faults))
	}
}

// pagesOf tells what the pages of a store's newest state are, by page number.
func pagesOf(t *testing.T, data []byte) map[string][]int {
	t.Helper()
	kinds := map[uint16]string{1: "branch", 2: "leaf", 16: "free list"}
	found := make(map[string][]int)
	file := filepath.Join(t.TempDir(), "koi.db")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	db, err := bbolt.Open(file, 0o600, &bbolt.Options{ReadOnly: true, PreLoadFreelist: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	err = db.View(func(tx *bbolt.Tx) error {
		for id := 2; ; id++ {
			p, err := tx.Page(id)
			if err != nil || p == nil {
				return err
			}
			if p.Type == "free" {
				continue
			}
			kind := kinds[binary.NativeEndian.Uint16(data[id*pageSize+8:])]
			found[kind] = append(found[kind], id)
			for range p.OverflowCount {
				id++
				found["overflow"] = append(found["overflow"], id)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// Every page that is in use, zeroed or overwritten: each is missed, by Verify that
// goes on and by a start that then checks, and what lies elsewhere is found sound.
func TestDamagedPagesOfEachKind(t *testing.T) {
	data, err := os.ReadFile(madeWhole(t))
	if err != nil {
		t.Fatal(err)
	}
	pages := pagesOf(t, data)
	for _, kind := range []string{"leaf", "branch", "free list", "overflow"} {
		if len(pages[kind]) == 0 {
			t.Fatalf("there is no %s page: %v", kind, pages)
		}
		for _, id := range pages[kind] {
			for how, with := range map[string]byte{"zeroed": 0, "overwritten": 0xa5} {
				file := filepath.Join(t.TempDir(), "koi.db")
				bad := bytes.Clone(data)
				copy(bad[id*pageSize:], bytes.Repeat([]byte{with}, pageSize))
				if err := os.WriteFile(file, bad, 0o600); err != nil {
					t.Fatal(err)
				}
				r := verified(t, file, bolt.VerifyOptions{})
				if len(r.Faults) == 0 {
					t.Errorf("%s page %d %s: Verify found nothing", kind, id, how)
				}
				s, err := bolt.Open(bolt.Options{Path: file, VerifyBytes: -1})
				if err == nil {
					err = s.Check(t.Context())
					closeStore(t, s)
				}
				if !errors.Is(err, store.ErrDamaged) {
					t.Errorf("%s page %d %s: Open, then Check: %v", kind, id, how, err)
				}
			}
		}
	}
}

// A free list that names a page in use would have it overwritten; one that leaves a
// page out loses it.
func TestFreeListIsHeldAgainstPages(t *testing.T) {
	whole, err := os.ReadFile(madeWhole(t))
	if err != nil {
		t.Fatal(err)
	}
	pages := pagesOf(t, whole)
	list := pages["free list"][0] * pageSize
	count := binary.NativeEndian.Uint16(whole[list+10:])
	if count < 3 {
		t.Fatalf("there are %d free pages", count)
	}
	also := func(page int) func([]byte) {
		return func(data []byte) {
			binary.NativeEndian.PutUint16(data[list+10:], count+1)
			binary.NativeEndian.PutUint64(data[list+16+8*int(count):], uint64(page))
		}
	}
	for name, fn := range map[string]func(data []byte){
		"names a page in use":      also(pages["leaf"][0]),
		"names a page twice":       also(int(binary.NativeEndian.Uint64(whole[list+16:]))),
		"names itself":             also(list / pageSize),
		"names a page beyond":      also(1 << 40),
		"leaves one out":           func(data []byte) { binary.NativeEndian.PutUint16(data[list+10:], count-1) },
		"holds more than fits":     func(data []byte) { binary.NativeEndian.PutUint16(data[list+10:], 0xfffe) },
		"reaches beyond the file":  func(data []byte) { binary.NativeEndian.PutUint32(data[list+12:], 1<<30) },
		"reaches into other pages": func(data []byte) { binary.NativeEndian.PutUint32(data[list+12:], 5) },
	} {
		t.Run(name, func(t *testing.T) {
			data := bytes.Clone(whole)
			fn(data)
			file := filepath.Join(t.TempDir(), "koi.db")
			if err := os.WriteFile(file, data, 0o600); err != nil {
				t.Fatal(err)
			}
			refused(t, bolt.Options{Path: file}, store.ErrDamaged)
			if r := verified(t, file, bolt.VerifyOptions{}); len(r.Faults) == 0 || r.Bundles != 91 {
				t.Errorf("the report: %+v", r)
			}
		})
	}
}

// With one of the heads gone the store goes on from the other, says so, and has both
// again with the next commit. A head that was the newest takes one commit with it:
// from outside this cannot be told from a crash during that commit.
func TestOneHeadGone(t *testing.T) {
	path := madeWhole(t)
	s := open(t, path)
	update(t, s, func(w store.Writer) error { return w.PutValue("newest", []byte("1")) })
	closeStore(t, s)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	txid := func(page int) uint64 { return binary.NativeEndian.Uint64(whole[page*pageSize+16+48:]) }
	for page := range 2 {
		for how, with := range map[string][]byte{"zeroed": make([]byte, pageSize), "flipped": {1, 2, 3, 4, 5, 6, 7, 8}} {
			data := bytes.Clone(whole)
			copy(data[page*pageSize+map[string]int{"flipped": 40}[how]:], with)
			file := filepath.Join(t.TempDir(), "koi.db")
			if err := os.WriteFile(file, data, 0o600); err != nil {
				t.Fatal(err)
			}
			if r := sound(t, file); r.Heads != 1 {
				t.Errorf("head %d %s: %d heads", page, how, r.Heads)
			}
			var log bytes.Buffer
			s, err := bolt.Open(bolt.Options{Path: file, NodeRID: self, Logger: textLogger(&log)})
			if err != nil {
				t.Fatalf("head %d %s: %v", page, how, err)
			}
			if !strings.Contains(log.String(), "heads") {
				t.Errorf("head %d %s: the log does not tell: %q", page, how, log.String())
			}
			newest := txid(page) > txid(1-page)
			err = s.View(t.Context(), func(r store.Reader) error { _, err := r.Value("newest"); return err })
			if newest != errors.Is(err, store.ErrNotFound) || !newest && err != nil {
				t.Errorf("head %d %s, the newest: %t: %v", page, how, newest, err)
			}
			update(t, s, func(w store.Writer) error { return w.PutValue("next", []byte("1")) })
			closeStore(t, s)
			if r := sound(t, file); r.Heads != 2 {
				t.Errorf("head %d %s: %d heads after a commit", page, how, r.Heads)
			}
		}
	}
}

// Structure so damaged that nothing can be read is a fault like any other.
func TestVerifyWhatCannotBeRead(t *testing.T) {
	whole, err := os.ReadFile(madeWhole(t))
	if err != nil {
		t.Fatal(err)
	}
	used := int(max(binary.NativeEndian.Uint64(whole[16+40:]), binary.NativeEndian.Uint64(whole[pageSize+16+40:]))) * pageSize
	for name, data := range map[string][]byte{
		"empty":             {},
		"cut to one page":   whole[:pageSize],
		"cut to two pages":  whole[:2*pageSize],
		"cut in half":       whole[:used/2],
		"cut within a page": whole[:9*pageSize+10],
		"both heads flipped": func() []byte {
			data := bytes.Clone(whole)
			data[16+50] ^= 1
			data[pageSize+16+50] ^= 1
			return data
		}(),
		"all but the heads zeroed": append(bytes.Clone(whole[:2*pageSize]), make([]byte, len(whole)-2*pageSize)...),
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "koi.db")
			if err := os.WriteFile(file, data, 0o600); err != nil {
				t.Fatal(err)
			}
			if r := verified(t, file, bolt.VerifyOptions{}); len(r.Faults) == 0 || r.Bundles != 0 || r.Size != int64(len(data)) {
				t.Errorf("the report: %+v", r)
			}
		})
	}
}

// Random damage: Verify ends with a report, whatever it meets, and calls nothing
// sound that cannot be read.
func TestVerifyRandomDamage(t *testing.T) {
	whole, err := os.ReadFile(madeWhole(t))
	if err != nil {
		t.Fatal(err)
	}
	rng := newRand(11)
	for round := range 60 {
		data := bytes.Clone(whole)
		for range 1 + rng.IntN(40) {
			data[2*pageSize+rng.IntN(len(data)-2*pageSize)] ^= byte(1 + rng.IntN(255))
		}
		file := filepath.Join(t.TempDir(), "koi.db")
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := bolt.Verify(t.Context(), file, bolt.VerifyOptions{})
		if err != nil && !errors.Is(err, store.ErrForeign) {
			t.Errorf("round %d: %v", round, err)
		}
		if err != nil || len(r.Faults) > 0 {
			continue
		}
		// What was hit is in no use.
		s, err := bolt.Open(bolt.Options{Path: file})
		if err != nil {
			t.Fatalf("round %d: nothing is wrong with it, and: %v", round, err)
		}
		if err := s.Check(t.Context()); err != nil {
			t.Errorf("round %d: Verify found nothing, Check: %v", round, err)
		}
		if n := readAll(s, t); n != 91 {
			t.Errorf("round %d: Verify found nothing, and %d of 91 bundles can be read", round, n)
		}
		closeStore(t, s)
	}
}

// earlier writes a store of format 1.
func earlier(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "koi.db")
	if err := os.WriteFile(path, format1(t), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Stores of earlier versions are verified as they are.
func TestVerifyEarlierStores(t *testing.T) {
	t.Run("format 1", func(t *testing.T) {
		path := earlier(t)
		r := sound(t, path)
		if r.Info.Format != 1 || r.Bundles != 39 {
			t.Errorf("the report: %+v", r)
		}
		for _, name := range []string{"bundles", "manifests", "types"} {
			file := damagedCopy(t, path, func(tx *bbolt.Tx) error {
				b := tx.Bucket([]byte(name))
				k, v := firstOf(b)
				v[len(v)/2] ^= 1
				return b.Put(k, v)
			})
			r := verified(t, file, bolt.VerifyOptions{})
			if !slices.ContainsFunc(r.Faults, func(f bolt.Fault) bool { return f.Bucket == name }) {
				t.Errorf("a flipped record of %s: %v", name, r.Faults)
			}
		}
		file := damagedCopy(t, path, func(tx *bbolt.Tx) error {
			b := tx.Bucket([]byte("bundles"))
			k, _ := firstOf(b)
			return b.Delete(k)
		})
		if r := verified(t, file, bolt.VerifyOptions{}); len(r.Faults) < 2 {
			t.Errorf("a missing bundle: %v", r.Faults)
		}
	})
	t.Run("no replay memory", func(t *testing.T) {
		file := damagedCopy(t, madeWhole(t), makeOlder)
		if r := sound(t, file); r.Bundles != 91 {
			t.Errorf("the report: %+v", r)
		}
	})
}

// The list of buckets in this file is that of the package.
func TestStoreBuckets(t *testing.T) {
	path := filepath.Join(t.TempDir(), "koi.db")
	closeStore(t, open(t, path))
	found := make(map[string]bool)
	alter(t, path, func(tx *bbolt.Tx) error {
		return tx.ForEach(func(name []byte, _ *bbolt.Bucket) error { found[string(name)] = true; return nil })
	})
	if got, want := slices.Sorted(maps.Keys(found)), slices.Sorted(slices.Values(storeBuckets)); !slices.Equal(got, want) {
		t.Errorf("a store has the buckets %v, the tests know %v", got, want)
	}
}

func textLogger(w io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }

func newRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, seed)) }
