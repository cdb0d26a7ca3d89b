package bolt_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	bbolt "go.etcd.io/bbolt"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
	"github.com/koi-net/koi-operator/node/store/bolt"
)

// pageSize is that of files made here.
var pageSize = os.Getpagesize()

func open(t testing.TB, path string) store.Store {
	t.Helper()
	s, err := bolt.Open(bolt.Options{Path: path, NodeRID: self, Create: true})
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	return s
}

func closeStore(t testing.TB, s store.Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
}

func note(n int) rid.RID { return rid.RID(fmt.Sprintf("orn:example.note:%05d", n)) }

func record(n int, contents string) store.Record {
	return store.Record{
		Bundle: protocol.Bundle{
			Manifest: protocol.Manifest{RID: note(n), Timestamp: protocol.NewTimestamp(time.Unix(1_700_000_000, 0)), SHA256Hash: strings.Repeat("0f", 32)},
			Contents: []byte(contents),
		},
		Source: self,
	}
}

func update(t testing.TB, s store.Store, fn func(store.Writer) error) {
	t.Helper()
	if err := s.Update(t.Context(), fn); err != nil {
		t.Fatalf("Update: %v", err)
	}
}

// fillStore writes some of everything, in several commits, and removes some.
func fillStore(t testing.TB, s store.Store) {
	t.Helper()
	peers := []rid.RID{"orn:koi-net.node:a+1", "orn:koi-net.node:b+2"}
	for round := range 4 {
		update(t, s, func(w store.Writer) error {
			for n := range 40 {
				id := round*40 + n
				if err := w.PutBundle(record(id, fmt.Sprintf(`{"marker":"contents of %d","pad":"%s"}`, id, strings.Repeat("p", n*40)))); err != nil {
					return err
				}
				if _, err := w.AppendInbox(store.InboxRow{RID: note(id), Data: []byte("inbox data")}); err != nil {
					return err
				}
				if _, err := w.Enqueue(store.Outbox, peers, store.QueueRow{RID: note(n), Event: []byte("event")}, store.QueueLimits{Rows: 100}); err != nil {
					return err
				}
			}
			return errors.Join(
				w.PutDecision(store.Decision{Source: peers[0], Target: peers[1], Approved: true}),
				w.PutValue("value", []byte("text")),
				w.DeleteBundle(note(round*40+7)), w.DeleteInbox(uint64(round*40+3)),
				rememberAll(w, round*40, round*40+40),
			)
		})
	}
}

// replayKey names body n.
func replayKey(n int) [32]byte { return sha256.Sum256(fmt.Appendf(nil, "body %d", n)) }

// rememberAll notes the bodies from to to-1; a hundred are held.
func rememberAll(w store.Writer, from, to int) error {
	for n := from; n < to; n++ {
		if _, err := w.Remember(replayKey(n), time.Unix(1_700_000_000+int64(n), 0), store.ReplayBounds{Rows: 100}); err != nil {
			return err
		}
	}
	return nil
}

// made returns the bytes of a store with some of everything in it.
func made(t testing.TB) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "koi.db")
	s := open(t, path)
	fillStore(t, s)
	closeStore(t, s)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// refused opens path, wants one of the errors, and that nothing was touched.
func refused(t *testing.T, o bolt.Options, want ...error) {
	t.Helper()
	before := snapshot(t, filepath.Dir(o.Path))
	began := time.Now()
	s, err := bolt.Open(o)
	if err == nil {
		closeStore(t, s)
		t.Fatal("Open took it")
	}
	if !slices.ContainsFunc(want, func(w error) bool { return errors.Is(err, w) }) {
		t.Errorf("Open: %v, want one of %v", err, want)
	}
	if !strings.Contains(err.Error(), o.Path) || len(err.Error()) > 600 || strings.Contains(err.Error(), "\n") {
		t.Errorf("Open's error is no line that names the file: %v", err)
	}
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("Open took %v to refuse", took)
	}
	if after := snapshot(t, filepath.Dir(o.Path)); !slices.Equal(before, after) {
		t.Errorf("the directory was touched:\n%v\n%v", names(before), names(after))
	}
}

type file struct {
	name string
	mode os.FileMode
	time time.Time
	data string
}

func names(files []file) (all []string) {
	for _, f := range files {
		all = append(all, fmt.Sprintf("%s %v %v %d bytes", f.name, f.mode, f.time, len(f.data)))
	}
	return all
}

func snapshot(t *testing.T, dir string) []file {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []file
	for _, e := range entries {
		st, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		f := file{name: e.Name(), mode: st.Mode(), time: st.ModTime()}
		if st.Mode().IsRegular() {
			data, err := os.ReadFile(filepath.Join(dir, e.Name()))
			if err != nil {
				t.Fatal(err)
			}
			f.data = string(data)
		}
		all = append(all, f)
	}
	return all
}

func TestDamagedFilesAreRefused(t *testing.T) {
	whole := made(t)
	random := make([]byte, 1<<20)
	rng := rand.New(rand.NewPCG(1, 1))
	for i := range random {
		random[i] = byte(rng.Uint32())
	}
	patched := func(at int, with ...byte) []byte {
		data := bytes.Clone(whole)
		copy(data[at:], with)
		return data
	}
	sentinel := bytes.Index(whole, []byte(`"nodeRID":"`+self))
	if sentinel < 0 {
		t.Fatal("there is no sentinel in the file")
	}
	used := int(max(binary.NativeEndian.Uint64(whole[16+40:]), binary.NativeEndian.Uint64(whole[pageSize+16+40:]))) * pageSize
	// In every copy of it: which one is in use depends on the commits.
	badSentinel := bytes.ReplaceAll(whole, []byte(`"nodeRID":"`+self), []byte(`"nodeRID":"`+strings.ToUpper(self)))
	for _, test := range []struct {
		name string
		data []byte
		want error
	}{
		{"empty", nil, store.ErrDamaged},
		{"one byte", []byte{0}, store.ErrForeign},
		{"text", []byte("hello\n"), store.ErrForeign},
		{"random bytes", random, store.ErrForeign},
		{"zeros", make([]byte, 64<<10), store.ErrForeign},
		{"both heads zeroed", patched(0, make([]byte, 2*pageSize)...), store.ErrForeign},
		{"both heads flipped", func() []byte {
			data := bytes.Clone(whole)
			data[16+50] ^= 0xff
			data[pageSize+16+50] ^= 0xff
			return data
		}(), store.ErrDamaged},
		{"cut to one page", whole[:pageSize], store.ErrDamaged},
		{"cut to two pages", whole[:2*pageSize], store.ErrDamaged},
		{"cut in half", whole[:used/2], store.ErrDamaged},
		{"cut by a byte", whole[:used-1], store.ErrDamaged},
		{"cut within a page", whole[:10*pageSize+100], store.ErrDamaged},
		{"the sentinel flipped", badSentinel, store.ErrDamaged},
		{"all but the heads zeroed", append(bytes.Clone(whole[:2*pageSize]), make([]byte, len(whole)-2*pageSize)...), store.ErrDamaged},
		{"moved by a page", append(make([]byte, pageSize), whole...), store.ErrDamaged},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "koi.db")
			if err := os.WriteFile(path, test.data, 0o600); err != nil {
				t.Fatal(err)
			}
			old := time.Now().Add(-time.Hour).Truncate(time.Second)
			if err := os.Chtimes(path, old, old); err != nil {
				t.Fatal(err)
			}
			for _, create := range []bool{false, true} {
				refused(t, bolt.Options{Path: path, NodeRID: self, Create: create}, test.want)
			}
		})
	}
}

// Each page zeroed in turn: what is in use is missed at once.
func TestZeroedPagesAreNoticed(t *testing.T) {
	whole := made(t)
	used, noticed := 0, 0
	for at := 2 * pageSize; at+pageSize <= len(whole); at += pageSize {
		if bytes.Equal(whole[at:at+pageSize], make([]byte, pageSize)) {
			continue
		}
		used++
		path := filepath.Join(t.TempDir(), "koi.db")
		data := bytes.Clone(whole)
		clear(data[at : at+pageSize])
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := bolt.Open(bolt.Options{Path: path, NodeRID: self})
		if err != nil {
			if !errors.Is(err, store.ErrDamaged) {
				t.Errorf("page %d: %v", at/pageSize, err)
			}
			noticed++
			continue
		}
		// It is a free page, or lies inside a large record, which Check reads.
		err = s.Check(t.Context())
		if err == nil {
			if bundles := readAll(s, t); bundles != 156 {
				t.Errorf("page %d is zero, and unnoticed but for %d of 156 bundles", at/pageSize, bundles)
			}
		} else if !errors.Is(err, store.ErrDamaged) {
			t.Errorf("page %d: Check: %v", at/pageSize, err)
		}
		closeStore(t, s)
	}
	if noticed < used/4 {
		t.Errorf("of %d pages %d were missed", used, noticed)
	}
}

// readAll reads all there is and returns how many bundles could be read.
func readAll(s store.Store, t *testing.T) int {
	t.Helper()
	n := 0
	_ = s.View(t.Context(), func(r store.Reader) error {
		for range r.Records(nil, "") {
			n++
		}
		for range r.RIDs(nil, "") {
		}
		for range r.Inbox(0) {
		}
		for _, q := range []store.Queue{store.Outbox, store.PollQueue} {
			peers, _ := r.Queues(q)
			for peer := range peers {
				for range r.QueueRows(q, peer, 0) {
				}
			}
		}
		_, _ = r.Types()
		_, _ = r.Decisions()
		_, _ = r.Value("value")
		for range r.Values("") {
		}
		for n := range 160 {
			_, _ = r.Remembered(replayKey(n))
		}
		_, _ = r.ReplayLen()
		return nil
	})
	return n
}

// Bytes flipped at random, also in a file that is open already: whatever
// happens is an error, and never the end of the process.
func TestRandomDamageIsSurvived(t *testing.T) {
	whole := made(t)
	rng := rand.New(rand.NewPCG(5, 6))
	opened := 0
	for round := range 80 {
		path := filepath.Join(t.TempDir(), "koi.db")
		data := bytes.Clone(whole)
		for range 1 + rng.IntN(24) {
			data[2*pageSize+rng.IntN(len(data)-2*pageSize)] ^= byte(1 + rng.IntN(255))
		}
		live := round%2 == 1
		first := data
		if live {
			first = whole
		}
		if err := os.WriteFile(path, first, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := bolt.Open(bolt.Options{Path: path, NodeRID: self, VerifyBytes: -1})
		if err != nil {
			if !errors.Is(err, store.ErrDamaged) && !errors.Is(err, store.ErrForeign) {
				t.Errorf("round %d: Open: %v", round, err)
			}
			continue
		}
		opened++
		if live {
			overwrite(t, path, data)
		}
		if err := s.Check(t.Context()); err != nil && !errors.Is(err, store.ErrDamaged) {
			t.Errorf("round %d: Check: %v", round, err)
		}
		readAll(s, t)
		for n := range 5 {
			_ = s.Update(t.Context(), func(w store.Writer) error {
				if _, err := w.AppendInbox(store.InboxRow{RID: note(n)}); err != nil {
					return err
				}
				if _, err := w.Enqueue(store.Outbox, []rid.RID{"orn:koi-net.node:a+1"}, store.QueueRow{RID: note(n), Event: []byte("e")}, store.QueueLimits{Rows: 20}); err != nil {
					return err
				}
				return errors.Join(w.PutBundle(record(n*31, `{}`)), w.DeleteBundle(note(n*25)), rememberAll(w, 155+n, 165+n))
			})
		}
		_ = s.Close()
	}
	if opened < 40 {
		t.Errorf("%d stores could be opened, too few to say anything", opened)
	}
}

func overwrite(t *testing.T, path string, data []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(data, 0); err != nil {
		t.Fatal(err)
	}
}

// A file that loses its end while it is open is an error where it is missed.
func TestFileCutWhileOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "koi.db")
	s := open(t, path)
	fillStore(t, s)
	if err := os.Truncate(path, int64(4*pageSize)); err != nil {
		t.Fatal(err)
	}
	err := s.View(t.Context(), func(r store.Reader) error {
		for _, err := range r.Records(nil, "") {
			if err != nil {
				return err
			}
		}
		return nil
	})
	if !errors.Is(err, store.ErrDamaged) {
		t.Errorf("View: %v", err)
	}
	if err := s.Check(t.Context()); !errors.Is(err, store.ErrDamaged) {
		t.Errorf("Check: %v", err)
	}
	if err := s.Update(t.Context(), func(w store.Writer) error { return w.PutBundle(record(1, `{}`)) }); !errors.Is(err, store.ErrDamaged) {
		t.Errorf("Update: %v", err)
	}
	_ = s.Close()
}

func TestDamagedRecordIsNamed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "koi.db")
	data := made(t)
	marker := []byte(`"contents of 11"`)
	if !bytes.Contains(data, marker) {
		t.Fatal("there is no such record in the file")
	}
	data = bytes.ReplaceAll(data, marker, []byte(`"contents of 99"`))
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	s := open(t, path)
	defer closeStore(t, s)
	err := s.View(t.Context(), func(r store.Reader) error {
		for n := range 20 {
			_, err := r.Bundle(note(n))
			switch n {
			case 11:
				if !errors.Is(err, store.ErrDamaged) || !strings.Contains(err.Error(), string(note(11))) {
					t.Errorf("the damaged bundle: %v", err)
				}
			case 7:
				if !errors.Is(err, store.ErrNotFound) {
					t.Errorf("the deleted bundle: %v", err)
				}
			default:
				if err != nil {
					t.Errorf("bundle %d: %v", n, err)
				}
			}
		}
		n := 0
		var last error
		for _, err := range r.Records(nil, "") {
			n, last = n+1, err
		}
		if n != 11 || !errors.Is(last, store.ErrDamaged) {
			t.Errorf("Records yielded %d, the last with %v", n, last)
		}
		return nil
	})
	if err != nil {
		t.Errorf("View: %v", err)
	}
	if err := s.Check(t.Context()); !errors.Is(err, store.ErrDamaged) || !strings.Contains(err.Error(), string(note(11))) {
		t.Errorf("Check: %v", err)
	}
	// It can be replaced, and then all is well.
	update(t, s, func(w store.Writer) error { return w.PutBundle(record(11, `{"mended":true}`)) })
	if err := s.Check(t.Context()); err != nil {
		t.Errorf("Check after mending: %v", err)
	}
}

// The two halves of the replay memory, and its counter, are held against each other.
func TestReplayDamageIsNoticed(t *testing.T) {
	short := func(n int) []byte { key := replayKey(n); return key[:16] }
	row := func(seq int) []byte { return binary.BigEndian.AppendUint64(nil, uint64(seq)) }
	sealed := func(key, payload []byte) []byte { return bolt.SealForTest(key, payload) }
	noted := func(seq, n int) []byte { return sealed(row(seq), append(bytes.Clone(short(n)), 2)) }
	number := func(key []byte, n int) []byte { return sealed(key, binary.AppendUvarint(nil, uint64(n))) }
	counter := []byte("replay")

	for _, test := range []struct {
		name string
		do   func(keys, rows, counters *bbolt.Bucket) error
		// Whether a note that has to drop the first key meets it.
		met bool
	}{
		{"a key is missing", func(keys, _, _ *bbolt.Bucket) error { return keys.Delete(short(0)) }, true},
		{"a later key is missing", func(keys, _, _ *bbolt.Bucket) error { return keys.Delete(short(5)) }, false},
		{"a row is missing", func(_, rows, _ *bbolt.Bucket) error { return rows.Delete(row(6)) }, false},
		{"all rows are missing", func(_, rows, _ *bbolt.Bucket) error {
			for seq := range 10 {
				if err := rows.Delete(row(seq + 1)); err != nil {
					return err
				}
			}
			return nil
		}, true},
		{"a row too many", func(_, rows, _ *bbolt.Bucket) error { return rows.Put(row(99), noted(99, 5)) }, false},
		{"a key has another's row", func(keys, _, _ *bbolt.Bucket) error { return keys.Put(short(0), number(short(0), 2)) }, true},
		{"a key has no number", func(keys, _, _ *bbolt.Bucket) error { return keys.Put(short(0), number(short(0), 0)) }, true},
		{"a row has another's key", func(_, rows, _ *bbolt.Bucket) error { return rows.Put(row(1), noted(1, 1)) }, true},
		{"a row is cut", func(_, rows, _ *bbolt.Bucket) error { return rows.Put(row(1), sealed(row(1), short(0))) }, true},
		{"a row is flipped", func(_, rows, _ *bbolt.Bucket) error {
			v := noted(1, 0)
			v[3] ^= 1
			return rows.Put(row(1), v)
		}, true},
		{"a key is flipped", func(keys, _, _ *bbolt.Bucket) error {
			v := number(short(0), 1)
			v[1] ^= 2
			return keys.Put(short(0), v)
		}, true},
		{"the counter is too high", func(_, _, counters *bbolt.Bucket) error { return counters.Put(counter, number(counter, 11)) }, false},
		{"the counter is too low", func(_, _, counters *bbolt.Bucket) error { return counters.Put(counter, number(counter, 9)) }, false},
		{"the counter is flipped", func(_, _, counters *bbolt.Bucket) error {
			return counters.Put(counter, append(number(counter, 10), 1))
		}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "koi.db")
			s := open(t, path)
			update(t, s, func(w store.Writer) error { return rememberAll(w, 0, 10) })
			if err := s.Check(t.Context()); err != nil {
				t.Errorf("Check before: %v", err)
			}
			closeStore(t, s)
			alter(t, path, func(tx *bbolt.Tx) error {
				return test.do(tx.Bucket([]byte("replay")), tx.Bucket([]byte("noted")), tx.Bucket([]byte("counters")))
			})
			s = open(t, path)
			defer closeStore(t, s)
			if err := s.Check(t.Context()); !errors.Is(err, store.ErrDamaged) {
				t.Errorf("Check: %v", err)
			}
			// What is not sure is not dropped, and what is not noted not accepted.
			before := held(t, s)
			err := s.Update(t.Context(), func(w store.Writer) error {
				_, err := w.Remember(replayKey(10), time.Unix(1_700_000_100, 0), store.ReplayBounds{Rows: 10})
				return err
			})
			if test.met != errors.Is(err, store.ErrDamaged) {
				t.Errorf("Remember: %v", err)
			}
			after := held(t, s)
			if err != nil && !slices.Equal(before, after) || err == nil && !slices.Contains(after, 10) {
				t.Errorf("held: %v, then %v", before, after)
			}
		})
	}
}

// held lists which of the first bodies are remembered; -1 stands for an error.
func held(t *testing.T, s store.Store) (all []int) {
	t.Helper()
	err := s.View(t.Context(), func(r store.Reader) error {
		for n := range 12 {
			yes, err := r.Remembered(replayKey(n))
			switch {
			case errors.Is(err, store.ErrDamaged):
				all = append(all, -1)
			case err != nil:
				return err
			case yes:
				all = append(all, n)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatalf("View: %v", err)
	}
	return all
}

// alter changes a closed store behind its back.
func alter(t *testing.T, path string, fn func(*bbolt.Tx) error) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(db.Update(fn), db.Close()); err != nil {
		t.Fatal(err)
	}
}

// makeOlder makes a store what it would be had it been made before there was a
// replay memory.
func makeOlder(tx *bbolt.Tx) error {
	return errors.Join(tx.DeleteBucket([]byte("replay")), tx.DeleteBucket([]byte("noted")), tx.Bucket([]byte("counters")).Delete([]byte("replay")))
}

func TestOlderStore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "koi.db")
	s := open(t, path)
	fillStore(t, s)
	info := s.Info()
	closeStore(t, s)
	alter(t, path, makeOlder)
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	// Who may not have it leaves it as it is.
	refused(t, bolt.Options{Path: path, NodeRID: "orn:koi-net.node:other+1", Create: true}, store.ErrForeign)

	var log bytes.Buffer
	for round := range 3 {
		s, err := bolt.Open(bolt.Options{Path: path, NodeRID: self, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatalf("Open: %v", err)
		}
		if s.Info() != info {
			t.Errorf("Info was %+v, is %+v", info, s.Info())
		}
		if got := readAll(s, t); got != 156 {
			t.Errorf("%d bundles, want 156", got)
		}
		if round == 0 {
			if got := held(t, s); len(got) != 0 {
				t.Errorf("an older store remembers %v", got)
			}
			// Not even a full volume keeps it from being opened.
			if size, err := s.Size(); err != nil || size != before.Size() {
				t.Errorf("the file has %d bytes, %v; it had %d", size, err, before.Size())
			}
		}
		if err := s.Check(t.Context()); err != nil {
			t.Errorf("Check: %v", err)
		}
		update(t, s, func(w store.Writer) error { return rememberAll(w, round*2, round*2+2) })
		if got := held(t, s); len(got) != 2*round+2 {
			t.Errorf("round %d: held: %v", round, got)
		}
		if err := s.Check(t.Context()); err != nil {
			t.Errorf("Check: %v", err)
		}
		closeStore(t, s)
	}
	if n := strings.Count(log.String(), "up to date"); n != 1 {
		t.Errorf("the log tells %d times of a store brought up to date: %s", n, log.String())
	}
}

// An older store lacks the whole of the replay memory; a damaged one a part.
func TestLostReplayMemoryIsNoticed(t *testing.T) {
	drop := func(name string) func(*bbolt.Tx) error {
		return func(tx *bbolt.Tx) error { return tx.DeleteBucket([]byte(name)) }
	}
	for name, fn := range map[string]func(*bbolt.Tx) error{
		"the keys":            drop("replay"),
		"the rows":            drop("noted"),
		"all but its counter": func(tx *bbolt.Tx) error { return errors.Join(drop("replay")(tx), drop("noted")(tx)) },
		"and another bucket":  func(tx *bbolt.Tx) error { return errors.Join(makeOlder(tx), drop("inbox")(tx)) },
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "koi.db")
			s := open(t, path)
			update(t, s, func(w store.Writer) error { return rememberAll(w, 0, 3) })
			closeStore(t, s)
			alter(t, path, fn)
			refused(t, bolt.Options{Path: path, NodeRID: self, Create: true}, store.ErrDamaged)
		})
	}
}

func TestForeignFilesAreRefused(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "koi.db")

	t.Run("bbolt file of another program", func(t *testing.T) {
		for _, noFreelist := range []bool{false, true} {
			path := filepath.Join(t.TempDir(), "other.db")
			db, err := bbolt.Open(path, 0o600, &bbolt.Options{NoFreelistSync: noFreelist})
			if err != nil {
				t.Fatal(err)
			}
			err = db.Update(func(tx *bbolt.Tx) error {
				_, err := tx.CreateBucket([]byte("theirs"))
				return err
			})
			if err := errors.Join(err, db.Close()); err != nil {
				t.Fatal(err)
			}
			refused(t, bolt.Options{Path: path, NodeRID: self, Create: true}, store.ErrForeign)
		}
	})
	t.Run("another node's", func(t *testing.T) {
		s := open(t, path)
		closeStore(t, s)
		refused(t, bolt.Options{Path: path, NodeRID: "orn:koi-net.node:other+1", Create: true}, store.ErrForeign)
		s, err := bolt.Open(bolt.Options{Path: path}) // whoever does not say is not refused
		if err != nil {
			t.Fatal(err)
		}
		if s.Info().NodeRID != self {
			t.Errorf("Info: %+v", s.Info())
		}
		closeStore(t, s)
	})
	t.Run("a directory", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "koi.db")
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
		refused(t, bolt.Options{Path: path, NodeRID: self, Create: true}, store.ErrForeign)
	})
	t.Run("a later format", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "koi.db")
		closeStore(t, open(t, path))
		db, err := bbolt.Open(path, 0o600, nil)
		if err != nil {
			t.Fatal(err)
		}
		err = db.Update(func(tx *bbolt.Tx) error {
			info := `{"id":"x","format":3,"nodeRID":"` + self + `","created":"2026-01-01T00:00:00Z"}`
			return tx.Bucket([]byte("koi")).Put([]byte("info"), bolt.SealForTest([]byte("info"), []byte(info)))
		})
		if err := errors.Join(err, db.Close()); err != nil {
			t.Fatal(err)
		}
		refused(t, bolt.Options{Path: path, NodeRID: self, Create: true}, store.ErrForeign)
	})
	t.Run("a bucket short", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "koi.db")
		closeStore(t, open(t, path))
		db, err := bbolt.Open(path, 0o600, nil)
		if err != nil {
			t.Fatal(err)
		}
		err = db.Update(func(tx *bbolt.Tx) error { return tx.DeleteBucket([]byte("inbox")) })
		if err := errors.Join(err, db.Close()); err != nil {
			t.Fatal(err)
		}
		refused(t, bolt.Options{Path: path, NodeRID: self, Create: true}, store.ErrDamaged)
	})
}

func TestMissingStore(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "not", "yet")
	path := filepath.Join(dir, "koi.db")
	if _, err := bolt.Open(bolt.Options{Path: path, NodeRID: self}); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Open: %v", err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory was made: %v", err)
	}
	now := time.Date(2026, 5, 6, 7, 8, 9, 0, time.UTC)
	var log bytes.Buffer
	s, err := bolt.Open(bolt.Options{
		Path: path, NodeRID: self, Create: true, Clock: func() time.Time { return now },
		Logger: slog.New(slog.NewTextHandler(&log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	if info := s.Info(); !info.Created.Equal(now) || info.NodeRID != self || info.Format != bolt.Format || info.ID == "" {
		t.Errorf("Info: %+v", info)
	}
	if !strings.Contains(log.String(), s.Info().ID) {
		t.Errorf("the log does not tell of the new store: %q", log.String())
	}
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the file's mode is %v, %v", st.Mode(), err)
	}
	if all := snapshot(t, dir); len(all) != 1 {
		t.Errorf("the directory holds %v", names(all))
	}
	closeStore(t, s)
}

func TestOptionsAreChecked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "koi.db")
	for _, o := range []bolt.Options{
		{NodeRID: self, Create: true},
		{Path: path, Create: true},
		{Path: path, NodeRID: "orn:example.note:1", Create: true},
		{Path: path, NodeRID: self, Create: true, MaxSize: 1000},
	} {
		if _, err := bolt.Open(o); err == nil {
			t.Errorf("Open took %+v", o)
		}
	}
	if all := snapshot(t, filepath.Dir(path)); len(all) != 0 {
		t.Errorf("the directory holds %v", names(all))
	}
}

// What a crash in the middle of the making left does no harm and goes.
func TestUnfinishedCreation(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "koi.db")
	for name, data := range map[string][]byte{"koi.db.new-1": nil, "koi.db.new-2": []byte("half"), "other.new-3": []byte("not ours")} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	closeStore(t, open(t, path))
	var left []string
	for _, f := range snapshot(t, dir) {
		left = append(left, f.name)
	}
	if !slices.Equal(left, []string{"koi.db", "other.new-3"}) {
		t.Errorf("the directory holds %v", left)
	}
}

func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "koi.db")
	s := open(t, path)
	began := time.Now()
	refused(t, bolt.Options{Path: path, NodeRID: self, Create: true, Timeout: 200 * time.Millisecond}, store.ErrLocked)
	if took := time.Since(began); took < 100*time.Millisecond {
		t.Errorf("it did not wait for the lock: %v", took)
	}
	update(t, s, func(w store.Writer) error { return w.PutBundle(record(1, `{}`)) })

	// One that waits gets it when it is given up.
	waiting := make(chan error, 1)
	go func() {
		second, err := bolt.Open(bolt.Options{Path: path, NodeRID: self, Timeout: 10 * time.Second})
		if err == nil {
			err = second.Close()
		}
		waiting <- err
	}()
	closeStore(t, s)
	if err := <-waiting; err != nil {
		t.Errorf("the one that waited: %v", err)
	}
}

// Two nodes that start on one empty directory make one store.
func TestFirstStartsAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "koi.db")
	var wg sync.WaitGroup
	var mu sync.Mutex
	var stores []store.Store
	for range 8 {
		wg.Go(func() {
			s, err := bolt.Open(bolt.Options{Path: path, NodeRID: self, Create: true, Timeout: 300 * time.Millisecond})
			switch {
			case err == nil:
				mu.Lock()
				stores = append(stores, s)
				mu.Unlock()
			case !errors.Is(err, store.ErrLocked):
				t.Errorf("Open: %v", err)
			}
		})
	}
	wg.Wait()
	if len(stores) != 1 {
		t.Fatalf("%d stores are open", len(stores))
	}
	update(t, stores[0], func(w store.Writer) error { return w.PutBundle(record(1, `{}`)) })
	id := stores[0].Info().ID
	closeStore(t, stores[0])
	s := open(t, path)
	defer closeStore(t, s)
	if s.Info().ID != id {
		t.Errorf("the store is %s, it was %s", s.Info().ID, id)
	}
	if all := snapshot(t, filepath.Dir(path)); len(all) != 1 {
		t.Errorf("the directory holds %v", names(all))
	}
}

func TestMaxSize(t *testing.T) {
	path := filepath.Join(t.TempDir(), "koi.db")
	const limit = 10 << 20
	o := bolt.Options{Path: path, NodeRID: self, Create: true, MaxSize: limit}
	s, err := bolt.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { closeStore(t, s) }()
	large := strings.Repeat("x", 100_000)
	put := func(n int) error {
		return s.Update(t.Context(), func(w store.Writer) error { return w.PutBundle(record(n, large)) })
	}
	within := func() {
		t.Helper()
		if size, err := s.Size(); err != nil || size > limit {
			t.Errorf("Size: %d, %v", size, err)
		}
	}
	n := 0
	for ; ; n++ {
		if err = put(n); err != nil {
			break
		}
		if n > 200 {
			t.Fatal("it never is full")
		}
	}
	if !errors.Is(err, store.ErrFull) || n < 40 {
		t.Fatalf("after %d records: %v", n, err)
	}
	within()
	enqueue := func(w store.Writer) error {
		_, err := w.Enqueue(store.Outbox, []rid.RID{"orn:koi-net.node:a+1"}, store.QueueRow{RID: note(1), Event: []byte(large)}, store.QueueLimits{})
		return err
	}
	appendInbox := func(w store.Writer) error {
		_, err := w.AppendInbox(store.InboxRow{RID: note(1), Data: []byte(large)})
		return err
	}
	remember := func(w store.Writer) error { // keys are small: many are what there is no room for
		for n := range 100_000 {
			if _, err := w.Remember(replayKey(n), time.Unix(1, 0), store.ReplayBounds{}); err != nil {
				return err
			}
		}
		return errors.New("all were noted")
	}
	for name, fn := range map[string]func(store.Writer) error{"Enqueue": enqueue, "AppendInbox": appendInbox, "Remember": remember} {
		// A piece that is too small for one thing may do for another.
		var err error
		for i := 0; err == nil && i < 50; i++ {
			err = s.Update(t.Context(), fn)
		}
		if !errors.Is(err, store.ErrFull) {
			t.Errorf("%s in a full store: %v", name, err)
		}
	}
	if err := s.Check(t.Context()); err != nil {
		t.Errorf("Check of a full store: %v", err)
	}
	// What is to make room finds some where nothing else does: its row in the inbox,
	// its note in the replay memory, its events. So it is without an end, as long as
	// what it needs leaves again.
	few := strings.Repeat("x", 1000)
	small := func(frees bool) func(store.Writer) error {
		return func(w store.Writer) error {
			_, err := w.AppendInbox(store.InboxRow{RID: note(1), Data: []byte(few), Frees: frees})
			return err
		}
	}
	full := func(fn func(store.Writer) error) (n int) {
		t.Helper()
		for ; n < 5000; n++ {
			if err := s.Update(t.Context(), fn); err != nil {
				if !errors.Is(err, store.ErrFull) {
					t.Fatal(err)
				}
				return n
			}
		}
		t.Fatal("it never is full")
		return n
	}
	full(small(false))
	if n := full(small(true)); n < 50 {
		t.Errorf("%d rows that make room found some", n)
	}
	if err := s.Update(t.Context(), func(w store.Writer) error {
		_, err := w.AppendInbox(store.InboxRow{RID: note(1), Data: []byte(large), Frees: true})
		return err
	}); !errors.Is(err, store.ErrFull) {
		t.Errorf("a large row that makes room: %v", err)
	}
	if err := s.Update(t.Context(), func(w store.Writer) error { return w.DeleteBundle(note(n - 1)) }); err != nil {
		t.Errorf("deleting where even the reserve is used: %v", err)
	}
	if err := s.Update(t.Context(), func(w store.Writer) error {
		seqs := []uint64{}
		for row, err := range w.Inbox(0) {
			if err != nil {
				return err
			}
			seqs = append(seqs, row.Seq)
		}
		return w.DeleteInbox(seqs...)
	}); err != nil {
		t.Fatal(err)
	}
	full(small(false)) // what was freed is taken again
	forgets := func(w store.Writer) error {
		if err := w.DeleteBundle(note(n - 2)); err != nil {
			return err
		}
		_, err := w.Enqueue(store.Outbox, []rid.RID{"orn:koi-net.node:a+1"}, store.QueueRow{RID: note(n - 2), Event: []byte(few)}, store.QueueLimits{})
		return err
	}
	if err := s.Update(t.Context(), forgets); err != nil {
		t.Errorf("a FORGET in a full store: %v", err)
	}
	within()
	// One that does not fit fails alone, whoever it shares a commit with.
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			if i == 8 {
				huge := record(1000, strings.Repeat(large, limit/len(large)))
				err := s.Update(t.Context(), func(w store.Writer) error { return w.PutBundle(huge) })
				if !errors.Is(err, store.ErrFull) {
					t.Errorf("the large one: %v", err)
				}
				return
			}
			if err := s.Update(t.Context(), func(w store.Writer) error { return w.DeleteBundle(note(i)) }); err != nil {
				t.Errorf("deleting in a full store: %v", err)
			}
		})
	}
	wg.Wait()
	if err := put(0); err != nil {
		t.Errorf("after deletions: %v", err)
	}
	within()

	closeStore(t, s)
	if s, err = bolt.Open(o); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if err := s.Update(t.Context(), func(w store.Writer) error { return w.DeleteBundle(note(i)) }); err != nil {
			t.Fatalf("deleting after reopening: %v", err)
		}
	}
	for i := range 40 {
		if err := put(i); err != nil {
			t.Fatalf("filling again, record %d: %v", i, err)
		}
	}
	within()
	if err := s.Check(t.Context()); err != nil {
		t.Errorf("Check: %v", err)
	}
}

// A bound on a batch splits what waits; nothing is lost by it.
func TestBatchBounds(t *testing.T) {
	for _, o := range []bolt.Options{{BatchUpdates: 1}, {BatchUpdates: 3}, {BatchBytes: 1}} {
		o.Path, o.NodeRID, o.Create = filepath.Join(t.TempDir(), "koi.db"), self, true
		s, err := bolt.Open(o)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for n := range 40 {
			wg.Go(func() {
				err := s.Update(t.Context(), func(w store.Writer) error {
					if n%4 == 3 {
						_, err := w.Value("none")
						return err
					}
					return w.PutBundle(record(n, `{}`))
				})
				if (n%4 == 3) != errors.Is(err, store.ErrNotFound) {
					t.Errorf("update %d: %v", n, err)
				}
			})
		}
		wg.Wait()
		if n := readAll(s, t); n != 30 {
			t.Errorf("%d bundles, want 30", n)
		}
		closeStore(t, s)
	}
}

// Updates that wait while a commit syncs share the next one.
func TestGroupCommit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "koi.db")
	s := open(t, path)
	const updates = 64
	began, release := make(chan struct{}), make(chan struct{})
	var once, wg = sync.Once{}, sync.WaitGroup{}
	wg.Go(func() {
		update(t, s, func(w store.Writer) error {
			once.Do(func() { close(began) })
			<-release
			return w.PutValue("first", []byte("1"))
		})
	})
	<-began
	started := make(chan struct{}, updates)
	for n := range updates {
		wg.Go(func() {
			started <- struct{}{}
			update(t, s, func(w store.Writer) error { return w.PutBundle(record(n, `{}`)) })
		})
	}
	for range updates {
		<-started
	}
	close(release)
	wg.Wait()
	closeStore(t, s)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// The transaction numbers in the heads tell how many commits there were.
	txid := max(binary.NativeEndian.Uint64(data[16+48:]), binary.NativeEndian.Uint64(data[pageSize+16+48:]))
	if txid > updates/2 {
		t.Errorf("%d updates took %d commits", updates, txid)
	}
}
