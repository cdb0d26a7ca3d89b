package bolt_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	bbolt "go.etcd.io/bbolt"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
	"github.com/koi-net/koi-operator/node/store/bolt"
)

// served is what raw reads make of the store that fillStore filled.
type served struct {
	manifests []rid.RID // yielded without an error, in order
	damaged   []rid.RID // yielded with one; "" where it has no RID
	end       error     // of the list
	bundles   int       // that could be read one by one
}

// serve reads all there is as a server does, and holds what comes without an error
// against what was written.
func serve(t *testing.T, s store.Store, types ...rid.Type) (all served) {
	t.Helper()
	want := make(map[rid.RID]protocol.Bundle)
	for n := range 160 {
		want[note(n)] = record(n, "").Bundle
	}
	err := s.View(t.Context(), func(r store.Reader) error {
		for m, err := range r.RawManifests(types, "") {
			switch {
			case m == nil:
				all.end = err
			case err != nil:
				if !errors.Is(err, store.ErrDamaged) {
					t.Errorf("%s: %v", m, err)
				}
				all.damaged = append(all.damaged, m.RID())
			default:
				id := m.RID()
				if b, ok := want[id]; !ok || string(protocol.AppendRawManifest(nil, m)) != string(protocol.AppendManifest(nil, b.Manifest)) {
					t.Errorf("%q is said to be kept", protocol.AppendRawManifest(nil, m))
				}
				all.manifests = append(all.manifests, id)
			}
		}
		for id, b := range want {
			m, err := r.RawManifest(id)
			if err == nil && string(protocol.AppendRawManifest(nil, &m)) != string(protocol.AppendManifest(nil, b.Manifest)) {
				t.Errorf("%q is said to be kept of %s", protocol.AppendRawManifest(nil, &m), id)
			}
			if got, err := r.RawBundle(id); err == nil {
				all.bundles++
				if !bytes.HasPrefix(got.Contents, []byte(`{"marker":"contents of `)) || !bytes.HasSuffix(got.Contents, []byte(`"}`)) {
					t.Errorf("%s has contents %.60q", id, got.Contents)
				}
			} else if !errors.Is(err, store.ErrDamaged) && !errors.Is(err, store.ErrNotFound) {
				t.Errorf("%s: %v", id, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Errorf("View: %v", err)
	}
	return all
}

const kept = 160 - 4 // bundles that fillStore leaves

func openUnverified(t *testing.T, data []byte) store.Store {
	t.Helper()
	path := filepath.Join(t.TempDir(), "koi.db")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := bolt.Open(bolt.Options{Path: path, NodeRID: self, VerifyBytes: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// A record that is damaged is told by its RID, and keeps none of the others back.
func TestRawReadsNameDamage(t *testing.T) {
	whole := made(t)
	if all := serve(t, openUnverified(t, whole)); len(all.manifests) != kept || len(all.damaged) != 0 || all.end != nil || all.bundles != kept {
		t.Fatalf("of a sound store: %+v", all)
	}
	key := []byte("orn:example.note\x00" + "00100")
	entry := leafEntryOf(t, whole, key)
	for name, c := range map[string]struct {
		change func(data []byte)
		named  rid.RID
	}{
		"a byte of the value":           {func(data []byte) { data[entry.value+9] ^= 1 }, note(100)},
		"a byte of the key":             {func(data []byte) { data[entry.key+len(key)-1] ^= 1 }, note(101)},
		"the zero of the key":           {func(data []byte) { data[entry.key+len("orn:example.note")] = 'x' }, ""},
		"the type in the key":           {func(data []byte) { data[entry.key] ^= 1 }, ""},
		"a value beyond the file":       {func(data []byte) { binary.NativeEndian.PutUint32(data[entry.head+12:], 0x7fff0000) }, note(100)},
		"a value that is too short":     {func(data []byte) { binary.NativeEndian.PutUint32(data[entry.head+12:], 3) }, note(100)},
		"key and value beyond the file": {func(data []byte) { binary.NativeEndian.PutUint32(data[entry.head+4:], 0x7ffe0000) }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			data := bytes.Clone(whole)
			c.change(data)
			s := openUnverified(t, data)
			for _, types := range [][]rid.Type{nil, {"orn:example.note"}} {
				all := serve(t, s, types...)
				if !slices.Equal(all.damaged, []rid.RID{c.named}) || len(all.manifests) != kept-1 || all.end != nil {
					t.Errorf("of types %q: damaged %q, %d manifests, %v", types, all.damaged, len(all.manifests), all.end)
				}
				if slices.Contains(all.manifests, note(100)) {
					t.Errorf("of types %q: the damaged one is among those that are not", types)
				}
			}
		})
	}
	t.Run("the key's length", func(t *testing.T) {
		data := bytes.Clone(whole)
		binary.NativeEndian.PutUint32(data[entry.head+8:], 1<<20)
		all := serve(t, openUnverified(t, data))
		if all.end == nil || !errors.Is(all.end, store.ErrDamaged) || len(all.manifests) == 0 {
			t.Errorf("%d manifests, then %v", len(all.manifests), all.end)
		}
	})
	t.Run("an empty key", func(t *testing.T) {
		data := bytes.Clone(whole)
		binary.NativeEndian.PutUint32(data[entry.head+8:], 0)
		if all := serve(t, openUnverified(t, data)); len(all.damaged) != 1 || len(all.manifests) != kept-1 || all.end != nil {
			t.Errorf("damaged %q, %d manifests, %v", all.damaged, len(all.manifests), all.end)
		}
	})
}

// leafEntry is where the parts of an entry of a leaf page lie in a file.
type leafEntry struct{ head, key, value int }

// leafEntryOf finds the last written entry of a key in the file.
func leafEntryOf(t *testing.T, data, key []byte) leafEntry {
	t.Helper()
	pages := newestIndex(t, data)
	for at := 0; ; at++ {
		i := bytes.Index(data[at:], key)
		if i < 0 {
			t.Fatalf("there is no entry of %q", key)
		}
		at += i
		page := at / pageSize * pageSize
		if !pages[page/pageSize] {
			continue
		}
		for head := page + 16; head+16 <= at; head += 16 {
			pos, size := binary.NativeEndian.Uint32(data[head+4:]), binary.NativeEndian.Uint32(data[head+8:])
			if head+int(pos) == at && int(size) == len(key) {
				return leafEntry{head, at, at + len(key)}
			}
		}
	}
}

// newestIndex returns the leaf pages that are in use by the index.
func newestIndex(t *testing.T, data []byte) map[int]bool {
	t.Helper()
	path := filepath.Join(t.TempDir(), "copy.db")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	used := make(map[int]bool)
	err = db.View(func(tx *bbolt.Tx) error {
		var walk func(id int)
		walk = func(id int) {
			page := data[id*pageSize:]
			if flags := binary.NativeEndian.Uint16(page[8:]); flags == 0x02 {
				used[id] = true
				return
			}
			for i := range int(binary.NativeEndian.Uint16(page[10:])) {
				walk(int(binary.NativeEndian.Uint64(page[16+16*i+8:])))
			}
		}
		walk(int(tx.Bucket([]byte("index")).Root()))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return used
}

// Bytes flipped at random, also in a file that is open already: what comes without
// an error is what was written, and there is no end but an error.
func TestRawReadsBearRandomDamage(t *testing.T) {
	whole := made(t)
	rng := rand.New(rand.NewPCG(7, 8))
	var pages []int
	for page := range newestIndex(t, whole) {
		pages = append(pages, page)
	}
	slices.Sort(pages)
	for round := range 120 {
		path := filepath.Join(t.TempDir(), "koi.db")
		data := bytes.Clone(whole)
		for range 1 + rng.IntN(8) {
			page := 2 + rng.IntN(len(data)/pageSize-2)
			if round%2 == 0 {
				page = pages[rng.IntN(len(pages))]
			}
			at := rng.IntN(pageSize)
			if round%3 == 0 {
				at = rng.IntN(16 + 16*20) // the page's head and the lengths in it
			}
			data[page*pageSize+at] ^= byte(1 + rng.IntN(255))
		}
		if err := os.WriteFile(path, whole, 0o600); err != nil {
			t.Fatal(err)
		}
		s := open(t, path)
		overwrite(t, path, data)
		serve(t, s)
		_ = s.Update(t.Context(), func(w store.Writer) error {
			n := 0
			for range w.RawManifests(nil, "") {
				if n++; n%50 == 0 {
					_ = w.PutBundle(record(n, fmt.Sprintf(`{"marker":"contents of %d"}`, n)))
				}
			}
			return errors.New("undone")
		})
		_ = s.Close()
	}
}

// A file that loses its end while it is open ends the list with an error.
func TestRawReadsOfACutFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "koi.db")
	s := open(t, path)
	fillStore(t, s)
	if err := os.Truncate(path, int64(4*pageSize)); err != nil {
		t.Fatal(err)
	}
	all := serve(t, s)
	if all.bundles == kept || len(all.manifests) == kept || len(all.damaged) == 0 && !errors.Is(all.end, store.ErrDamaged) {
		t.Errorf("%d manifests, damaged %q, %v, %d bundles", len(all.manifests), all.damaged, all.end, all.bundles)
	}
	_ = s.Close()
}
