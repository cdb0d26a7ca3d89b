package bolt_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	bbolt "go.etcd.io/bbolt"

	"github.com/koi-net/koi-operator/node/store"
	"github.com/koi-net/koi-operator/node/store/bolt"
)

// backedUp returns a backup of the store at path, which nobody has open.
func backedUp(t testing.TB, path string) []byte {
	t.Helper()
	s, err := bolt.Open(bolt.Options{Path: path, ReadOnly: true})
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	defer closeStore(t, s)
	var buf bytes.Buffer
	if n, err := s.Backup(t.Context(), &buf); err != nil || n != int64(buf.Len()) {
		t.Fatalf("Backup: %d bytes of %d, %v", n, buf.Len(), err)
	}
	return buf.Bytes()
}

// stateOf returns what the store at path is and holds.
func stateOf(t testing.TB, path string) (store.Info, string) {
	t.Helper()
	s, err := bolt.Open(bolt.Options{Path: path, ReadOnly: true})
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	defer closeStore(t, s)
	if err := s.Check(t.Context()); err != nil {
		t.Errorf("Check: %v", err)
	}
	return s.Info(), fingerprint(t, s)
}

func sameState(t *testing.T, a, b string) {
	t.Helper()
	infoA, stateA := stateOf(t, a)
	infoB, stateB := stateOf(t, b)
	if infoA != infoB || stateA != stateB {
		t.Errorf("%s is %+v and holds %s, %s is %+v and holds %s", a, infoA, stateA, b, infoB, stateB)
	}
}

// A backup holds no trace of what was deleted before it.
func TestBackupHoldsNothingDeleted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "koi.db")
	s := open(t, path)
	marker := "a secret that was deleted"
	update(t, s, func(w store.Writer) error {
		return errors.Join(w.PutBundle(record(1, strings.Repeat(marker, 20_000))), w.PutBundle(record(2, "kept")))
	})
	update(t, s, func(w store.Writer) error { return w.DeleteBundle(note(1)) })
	for n := range 5 {
		update(t, s, func(w store.Writer) error { return w.PutBundle(record(3, strings.Repeat("x", n*5000))) })
	}
	closeStore(t, s)
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	backup := backedUp(t, path)
	if !bytes.Contains(file, []byte(marker)) {
		t.Error("the file itself holds no trace, so this test says nothing")
	}
	if bytes.Contains(backup, []byte(marker)) {
		t.Error("the backup holds a trace")
	}
}

// Damage is copied, and told of: the copy is whole, and says what was wrong.
func TestBackupOfDamage(t *testing.T) {
	path := madeWhole(t)
	for name, fn := range map[string]func(*bbolt.Tx) error{
		"a record": func(tx *bbolt.Tx) error {
			b := tx.Bucket([]byte("contents"))
			k, v := firstOf(b)
			v[len(v)/2] ^= 1
			return b.Put(k, v)
		},
		"a record within the list of buckets": func(tx *bbolt.Tx) error {
			b := tx.Bucket([]byte("counters"))
			k, v := firstOf(b)
			v[len(v)/2] ^= 1
			return b.Put(k, v)
		},
	} {
		file := damagedCopy(t, path, fn)
		s, err := bolt.Open(bolt.Options{Path: file, ReadOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		var buf bytes.Buffer
		n, err := s.Backup(t.Context(), &buf)
		closeStore(t, s)
		if !errors.Is(err, store.ErrDamaged) || n != int64(buf.Len()) {
			t.Errorf("%s: Backup: %d bytes of %d, %v", name, n, buf.Len(), err)
		}
		to := filepath.Join(t.TempDir(), "koi.db")
		if _, err := bolt.Restore(t.Context(), &buf, to, bolt.RestoreOptions{}); !errors.Is(err, store.ErrDamaged) {
			t.Errorf("%s: Restore: %v", name, err)
		}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	pages := pagesOf(t, data)
	for kind, ids := range pages {
		for _, id := range ids {
			file := filepath.Join(t.TempDir(), "koi.db")
			bad := bytes.Clone(data)
			clear(bad[id*pageSize : (id+1)*pageSize])
			if err := os.WriteFile(file, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			s, err := bolt.Open(bolt.Options{Path: file, VerifyBytes: -1})
			if err != nil { // a store that cannot be opened has no backup
				continue
			}
			var buf bytes.Buffer
			if _, err := s.Backup(t.Context(), &buf); !errors.Is(err, store.ErrDamaged) {
				t.Errorf("%s page %d: Backup: %v", kind, id, err)
			}
			closeStore(t, s)
		}
	}
}

// A file that loses its end while it is copied is an error, not the end of the process.
func TestBackupOfFileCutWhileOpen(t *testing.T) {
	path := madeWhole(t)
	s := open(t, path)
	if err := os.Truncate(path, int64(5*pageSize)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Backup(t.Context(), io.Discard); !errors.Is(err, store.ErrDamaged) {
		t.Errorf("Backup: %v", err)
	}
	_ = s.Close()
}

func TestRestore(t *testing.T) {
	path := madeWhole(t)
	backup := backedUp(t, path)
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"a backup":             backup,
		"a copy of the file":   raw,
		"with something after": append(bytes.Clone(backup), "and more"...),
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "made", "for", "it")
			to := filepath.Join(dir, "koi.db")
			done, err := bolt.Restore(t.Context(), bytes.NewReader(data), to, bolt.RestoreOptions{NodeRID: self})
			if err != nil {
				t.Fatalf("Restore: %v", err)
			}
			st, err := os.Stat(to)
			if err != nil || st.Mode().Perm() != 0o600 || st.Size() != done.Size || done.Replaced != "" {
				t.Errorf("restored: %+v; the file: %v, %v", done, st, err)
			}
			sameState(t, path, to)
			if info, _ := stateOf(t, to); info != done.Info {
				t.Errorf("Info: %+v, want %+v", done.Info, info)
			}
			if all := snapshot(t, dir); len(all) != 1 {
				t.Errorf("the directory holds %v", names(all))
			}
			s := open(t, to) // it is written to like any other
			update(t, s, func(w store.Writer) error { return w.PutBundle(record(1, `{}`)) })
			closeStore(t, s)
			sound(t, to)
		})
	}
}

// What is no whole, undamaged backup of this node gets nowhere.
func TestRestoreRefuses(t *testing.T) {
	path := madeWhole(t)
	backup := backedUp(t, path)
	flipped := bytes.Clone(backup)
	at := bytes.Index(flipped, []byte("large large"))
	flipped[at] ^= 1
	zeroed := bytes.Clone(backup)
	leaf := pagesOf(t, backup)["leaf"]
	clear(zeroed[leaf[len(leaf)/2]*pageSize:][:pageSize])
	contradicts, err := os.ReadFile(damagedCopy(t, path, func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte("inbox"))
		k, _ := firstOf(b)
		return b.Delete(k)
	}))
	if err != nil {
		t.Fatal(err)
	}
	bothHeads := bytes.Clone(backup)
	bothHeads[16+48] ^= 1
	bothHeads[pageSize+16+48] ^= 1
	for name, test := range map[string]struct {
		data []byte
		node string
		want error
	}{
		"nothing":              {nil, "", store.ErrDamaged},
		"text":                 {[]byte("not a backup\n"), "", store.ErrForeign},
		"zeros":                {make([]byte, 1<<20), "", store.ErrForeign},
		"cut to its heads":     {backup[:2*pageSize], "", store.ErrDamaged},
		"cut in half":          {backup[:len(backup)/2], "", store.ErrDamaged},
		"cut by a byte":        {backup[:len(backup)-1], "", store.ErrDamaged},
		"cut within a head":    {backup[:40], "", store.ErrDamaged},
		"a flipped byte":       {flipped, "", store.ErrDamaged},
		"a zeroed page":        {zeroed, "", store.ErrDamaged},
		"a row short":          {contradicts, "", store.ErrDamaged},
		"both heads flipped":   {bothHeads, "", store.ErrDamaged},
		"another node's":       {backup, "orn:koi-net.node:other+1", store.ErrForeign},
		"another, and damaged": {flipped, "orn:koi-net.node:other+1", store.ErrForeign},
	} {
		t.Run(name, func(t *testing.T) {
			o := bolt.RestoreOptions{}
			if test.node != "" {
				o.NodeRID = "orn:koi-net.node:other+1"
			}
			root := t.TempDir()
			to := filepath.Join(root, "sub", "koi.db")
			_, err := bolt.Restore(t.Context(), bytes.NewReader(test.data), to, o)
			if !errors.Is(err, test.want) || !strings.Contains(err.Error(), to) || strings.Contains(err.Error(), ".new-") || len(err.Error()) > 600 {
				t.Errorf("Restore: %v, want %v", err, test.want)
			}
			if all := snapshot(t, root); len(all) != 0 {
				t.Errorf("the directory holds %v", names(all))
			}
			// Nor does it take the place of what is there.
			there := filepath.Join(root, "koi.db")
			closeStore(t, open(t, there))
			before := snapshot(t, root)
			o.Replace = true
			if _, err := bolt.Restore(t.Context(), bytes.NewReader(test.data), there, o); !errors.Is(err, test.want) {
				t.Errorf("Restore over a store: %v, want %v", err, test.want)
			}
			if after := snapshot(t, root); !slices.Equal(before, after) {
				t.Errorf("the directory was touched:\n%v\n%v", names(before), names(after))
			}
		})
	}
}

func TestRestoreReplaces(t *testing.T) {
	backup := backedUp(t, madeWhole(t))
	clock := func() time.Time { return time.Date(2026, 7, 8, 9, 10, 11, 0, time.UTC) }
	const stamp = ".replaced-20260708T091011Z"

	dir := t.TempDir()
	to := filepath.Join(dir, "koi.db")
	for n, former := range [][]byte{nil, []byte("garbage"), backup, backup[:len(backup)/2]} {
		if err := os.WriteFile(to, former, 0o600); err != nil {
			t.Fatal(err)
		}
		before := snapshot(t, dir)
		if _, err := bolt.Restore(t.Context(), bytes.NewReader(backup), to, bolt.RestoreOptions{}); !errors.Is(err, fs.ErrExist) {
			t.Errorf("%d: Restore without leave to replace: %v", n, err)
		}
		if after := snapshot(t, dir); !slices.Equal(before, after) {
			t.Errorf("%d: the directory was touched:\n%v\n%v", n, names(before), names(after))
		}
		done, err := bolt.Restore(t.Context(), bytes.NewReader(backup), to, bolt.RestoreOptions{Replace: true, Clock: clock})
		if err != nil {
			t.Fatalf("%d: Restore: %v", n, err)
		}
		want := to + stamp
		if n > 0 {
			want += "-" + string(rune('1'+n))
		}
		if done.Replaced != want {
			t.Errorf("%d: the former file is at %s, want %s", n, done.Replaced, want)
		}
		if data, err := os.ReadFile(done.Replaced); err != nil || !bytes.Equal(data, former) {
			t.Errorf("%d: what was moved aside has %d bytes, %v; it had %d", n, len(data), err, len(former))
		}
		sound(t, to)
	}
	if all := snapshot(t, dir); len(all) != 5 {
		t.Errorf("the directory holds %v", names(all))
	}

	t.Run("a link", func(t *testing.T) {
		dir := t.TempDir()
		target, link := filepath.Join(dir, "target.db"), filepath.Join(dir, "koi.db")
		closeStore(t, open(t, target))
		if err := os.Symlink(target, link); err != nil {
			t.Fatal(err)
		}
		if _, err := bolt.Restore(t.Context(), bytes.NewReader(backup), link, bolt.RestoreOptions{Replace: true}); err != nil {
			t.Fatalf("Restore: %v", err)
		}
		if st, err := os.Lstat(link); err != nil || st.Mode()&fs.ModeSymlink == 0 {
			t.Errorf("the link is %v, %v", st, err)
		}
		if r := sound(t, target); r.Bundles != 91 {
			t.Errorf("where it leads: %+v", r)
		}
	})
	t.Run("a link that leads nowhere", func(t *testing.T) {
		link := filepath.Join(t.TempDir(), "koi.db")
		if err := os.Symlink(filepath.Join(t.TempDir(), "none"), link); err != nil {
			t.Fatal(err)
		}
		if _, err := bolt.Restore(t.Context(), bytes.NewReader(backup), link, bolt.RestoreOptions{Replace: true}); !errors.Is(err, fs.ErrExist) {
			t.Errorf("Restore: %v", err)
		}
	})
	t.Run("a directory", func(t *testing.T) {
		dir := t.TempDir()
		if _, err := bolt.Restore(t.Context(), bytes.NewReader(backup), dir, bolt.RestoreOptions{Replace: true}); !errors.Is(err, store.ErrForeign) {
			t.Errorf("Restore: %v", err)
		}
	})
}

// A store that a node has open is not replaced under it, and a node that waits for
// one that is replaced gets the new one.
func TestRestoreAndNodes(t *testing.T) {
	backup := backedUp(t, madeWhole(t))
	to := filepath.Join(t.TempDir(), "koi.db")
	s := open(t, to)
	o := bolt.RestoreOptions{Replace: true, Timeout: 50 * time.Millisecond}
	before := snapshot(t, filepath.Dir(to))
	if _, err := bolt.Restore(t.Context(), bytes.NewReader(backup), to, o); !errors.Is(err, store.ErrLocked) {
		t.Errorf("Restore under a node: %v", err)
	}
	if after := snapshot(t, filepath.Dir(to)); !slices.Equal(before, after) {
		t.Errorf("the directory was touched:\n%v\n%v", names(before), names(after))
	}
	closeStore(t, s)

	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		_, err := bolt.Restore(t.Context(), r, to, o)
		done <- err
	}()
	if _, err := w.Write(backup[:1]); err != nil { // Restore has the lock now
		t.Fatal(err)
	}
	opened := make(chan error, 1)
	var node store.Store
	go func() {
		var err error
		node, err = bolt.Open(bolt.Options{Path: to, NodeRID: self, Create: true, Timeout: 10 * time.Second})
		opened <- err
	}()
	if _, err := w.Write(backup[1:]); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if err := errors.Join(<-done, <-opened); err != nil {
		t.Fatalf("Restore, and Open: %v", err)
	}
	if n := readAll(node, t); n != 91 {
		t.Errorf("the node that waited sees %d bundles", n)
	}
	update(t, node, func(w store.Writer) error { return w.PutValue("after", []byte("1")) })
	closeStore(t, node)
	s = open(t, to)
	defer closeStore(t, s)
	err := s.View(t.Context(), func(r store.Reader) error { _, err := r.Value("after"); return err })
	if err != nil {
		t.Errorf("what the node wrote is elsewhere: %v", err)
	}
}

// Of several restores at once into an empty place, one is the restore.
func TestRestoresAtOnce(t *testing.T) {
	backup := backedUp(t, madeWhole(t))
	to := filepath.Join(t.TempDir(), "koi.db")
	var wg sync.WaitGroup
	var mu sync.Mutex
	won := 0
	for range 6 {
		wg.Go(func() {
			_, err := bolt.Restore(t.Context(), bytes.NewReader(backup), to, bolt.RestoreOptions{})
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				won++
			case !errors.Is(err, fs.ErrExist):
				t.Errorf("Restore: %v", err)
			}
		})
	}
	wg.Wait()
	if won != 1 {
		t.Errorf("%d restores took place", won)
	}
	sound(t, to)
	if all := snapshot(t, filepath.Dir(to)); len(all) != 1 {
		t.Errorf("the directory holds %v", names(all))
	}
}

func TestRestoreContext(t *testing.T) {
	backup := backedUp(t, madeWhole(t))
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	go func() {
		_, _ = w.Write(backup[:2*len(backup)/3])
		cancel()
		_, err := w.Write(backup[2*len(backup)/3:])
		w.CloseWithError(err)
	}()
	_, err := bolt.Restore(ctx, r, filepath.Join(dir, "koi.db"), bolt.RestoreOptions{})
	r.Close()
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Restore: %v", err)
	}
	if all := snapshot(t, dir); len(all) != 0 {
		t.Errorf("the directory holds %v", names(all))
	}
	_, err = bolt.Restore(t.Context(), io.MultiReader(bytes.NewReader(backup[:len(backup)/2]), failingReader{}), filepath.Join(dir, "koi.db"), bolt.RestoreOptions{})
	if !errors.Is(err, errUnreadable) {
		t.Errorf("Restore from a reader that fails: %v", err)
	}
	if all := snapshot(t, dir); len(all) != 0 {
		t.Errorf("the directory holds %v", names(all))
	}
}

var errUnreadable = errors.New("as the test wants it")

type failingReader struct{}

func (failingReader) Read([]byte) (int, error) { return 0, errUnreadable }

func TestRestoreFile(t *testing.T) {
	path := madeWhole(t)
	to := filepath.Join(t.TempDir(), "koi.db")
	if _, err := bolt.RestoreFile(t.Context(), path, to, bolt.RestoreOptions{NodeRID: self}); err != nil {
		t.Fatalf("RestoreFile: %v", err)
	}
	sameState(t, path, to)
	if _, err := bolt.RestoreFile(t.Context(), filepath.Join(t.TempDir(), "none"), to, bolt.RestoreOptions{}); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("from a missing file: %v", err)
	}
	before := snapshot(t, filepath.Dir(path))
	if _, err := bolt.RestoreFile(t.Context(), path, path, bolt.RestoreOptions{Replace: true}); err == nil {
		t.Error("a file was restored from itself")
	}
	if after := snapshot(t, filepath.Dir(path)); !slices.Equal(before, after) {
		t.Errorf("the directory was touched:\n%v\n%v", names(before), names(after))
	}
	s := open(t, path)
	defer closeStore(t, s)
	_, err := bolt.RestoreFile(t.Context(), path, filepath.Join(t.TempDir(), "koi.db"), bolt.RestoreOptions{Timeout: 50 * time.Millisecond})
	if !errors.Is(err, store.ErrLocked) {
		t.Errorf("from a store that is in use: %v", err)
	}
}

func TestCompact(t *testing.T) {
	path := madeWhole(t)
	s := open(t, path)
	update(t, s, func(w store.Writer) error { return w.PutBundle(record(300, strings.Repeat("x", 3<<20))) })
	update(t, s, func(w store.Writer) error { return w.DeleteBundle(note(300)) })
	closeStore(t, s)
	for name, source := range map[string]string{
		"a store":              path,
		"an empty store":       func() string { p := filepath.Join(t.TempDir(), "koi.db"); closeStore(t, open(t, p)); return p }(),
		"of format 1":          earlier(t),
		"no replay memory yet": damagedCopy(t, path, makeOlder),
	} {
		t.Run(name, func(t *testing.T) {
			sourceBefore := snapshot(t, filepath.Dir(source))
			dir := t.TempDir()
			to := filepath.Join(dir, "compact.db")
			before, after, err := bolt.Compact(t.Context(), source, to)
			if err != nil {
				t.Fatalf("Compact: %v", err)
			}
			if sourceAfter := snapshot(t, filepath.Dir(source)); !slices.Equal(sourceBefore, sourceAfter) {
				t.Errorf("the source was touched:\n%v\n%v", names(sourceBefore), names(sourceAfter))
			}
			was, is := sound(t, source), sound(t, to)
			if before != was.Size || after != is.Size || name == "a store" && after > before-(3<<20) {
				t.Errorf("from %d to %d bytes; the files have %d and %d", before, after, was.Size, is.Size)
			}
			if is.Free > is.Size/3 {
				t.Errorf("%d of %d bytes are free", is.Free, is.Size)
			}
			was.Size, was.Free, is.Size, is.Free = 0, 0, 0, 0
			if was.Info != is.Info || was.Bundles != is.Bundles || was.InboxRows != is.InboxRows || was.QueueRows != is.QueueRows {
				t.Errorf("it was %+v, is %+v", was, is)
			}
			if all := snapshot(t, dir); len(all) != 1 {
				t.Errorf("the directory holds %v", names(all))
			}
			a, b := open(t, source), open(t, to) // which brings both up to date
			defer closeStore(t, a)
			defer closeStore(t, b)
			if fingerprint(t, a) != fingerprint(t, b) {
				t.Error("they do not hold the same")
			}
			for _, s := range []store.Store{a, b} {
				update(t, s, func(w store.Writer) error {
					seqs, err := w.AppendInbox(store.InboxRow{RID: note(1), Data: []byte("next"), Accepted: time.Unix(1, 0)})
					if err == nil && name == "a store" && seqs[0] != 161 {
						t.Errorf("the next row has number %d", seqs[0])
					}
					return errors.Join(err, w.PutBundle(large()))
				})
				if err := s.Check(t.Context()); err != nil {
					t.Errorf("Check after writing: %v", err)
				}
			}
		})
	}
}

func TestCompactRefuses(t *testing.T) {
	path := madeWhole(t)
	dir := t.TempDir()
	to := filepath.Join(dir, "sub", "compact.db")
	refuse := func(name, from string, want error) {
		t.Helper()
		before := snapshot(t, filepath.Dir(from))
		if _, _, err := bolt.Compact(t.Context(), from, to); !errors.Is(err, want) || strings.Contains(err.Error(), ".new-") {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
		if after := snapshot(t, filepath.Dir(from)); !slices.Equal(before, after) {
			t.Errorf("%s: the source was touched:\n%v\n%v", name, names(before), names(after))
		}
		if all := snapshot(t, dir); len(all) != 0 {
			t.Errorf("%s: the directory holds %v", name, names(all))
		}
	}
	refuse("a missing one", filepath.Join(t.TempDir(), "none"), store.ErrNotFound)
	refuse("a damaged record", damagedCopy(t, path, func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte("bodies"))
		k, v := firstOf(b)
		v[len(v)/2] ^= 1
		return b.Put(k, v)
	}), store.ErrDamaged)
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	refuse("text", text, store.ErrForeign)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	branch := pagesOf(t, data)["branch"][0]
	clear(data[branch*pageSize:][:pageSize])
	zeroed := filepath.Join(t.TempDir(), "zeroed.db")
	if err := os.WriteFile(zeroed, data, 0o600); err != nil {
		t.Fatal(err)
	}
	refuse("a zeroed page", zeroed, store.ErrDamaged)
	s := open(t, path)
	if _, _, err := bolt.Compact(t.Context(), path, to); !errors.Is(err, store.ErrLocked) {
		t.Errorf("one that is in use: %v", err)
	}
	closeStore(t, s)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := bolt.Compact(ended, path, to); !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended context: %v", err)
	}
	if _, _, err := bolt.Compact(t.Context(), path, path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("onto itself: %v", err)
	}
	if all := snapshot(t, dir); len(all) != 0 {
		t.Errorf("the directory holds %v", names(all))
	}
}

// A store that is only read is not touched, in any circumstances.
func TestReadOnly(t *testing.T) {
	path := madeWhole(t)
	dir := filepath.Dir(path)
	// What another open would tidy away, and rights that allow no writing.
	if err := os.WriteFile(path+".new-1", []byte("half"), 0o400); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chmod(path, 0o400), os.Chmod(dir, 0o500)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(dir, 0o700) })
	before := snapshot(t, dir)
	o := bolt.Options{Path: path, NodeRID: self, ReadOnly: true}
	var readers []store.Store
	for range 3 { // beside each other
		readers = append(readers, openWith(t, o))
	}
	for _, s := range readers {
		if n := readAll(s, t); n != 91 {
			t.Errorf("%d bundles", n)
		}
		if err := s.Check(t.Context()); err != nil {
			t.Errorf("Check: %v", err)
		}
		ran := false
		err := s.Update(t.Context(), func(store.Writer) error { ran = true; return nil })
		if !errors.Is(err, store.ErrReadOnly) || ran {
			t.Errorf("Update: %v, ran: %t", err, ran)
		}
		if _, err := s.Backup(t.Context(), io.Discard); err != nil {
			t.Errorf("Backup: %v", err)
		}
		if size, err := s.Size(); err != nil || size == 0 {
			t.Errorf("Size: %d, %v", size, err)
		}
	}
	// A node cannot have it meanwhile.
	if _, err := bolt.Open(bolt.Options{Path: path, NodeRID: self, Timeout: 20 * time.Millisecond}); !errors.Is(err, store.ErrLocked) && !errors.Is(err, fs.ErrPermission) {
		t.Errorf("Open for writing: %v", err)
	}
	for _, s := range readers {
		closeStore(t, s)
		closeStore(t, s)
		if err := s.Update(t.Context(), func(store.Writer) error { return nil }); !errors.Is(err, store.ErrClosed) {
			t.Errorf("Update of a closed one: %v", err)
		}
		if err := s.View(t.Context(), func(store.Reader) error { return nil }); !errors.Is(err, store.ErrClosed) {
			t.Errorf("View of a closed one: %v", err)
		}
	}
	if after := snapshot(t, dir); !slices.Equal(before, after) {
		t.Errorf("the directory was touched:\n%v\n%v", names(before), names(after))
	}
}

func TestReadOnlyRefuses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "koi.db")
	if _, err := bolt.Open(bolt.Options{Path: path, NodeRID: self, ReadOnly: true, Create: true}); err == nil {
		t.Error("Open took a store that is only read and made")
	}
	if _, err := bolt.Open(bolt.Options{Path: path, NodeRID: self, ReadOnly: true}); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a missing one: %v", err)
	}
	for name, file := range map[string]string{"format 1": earlier(t), "no replay memory": damagedCopy(t, madeWhole(t), makeOlder)} {
		t.Run(name, func(t *testing.T) {
			refused(t, bolt.Options{Path: file, ReadOnly: true}, store.ErrReadOnly)
			closeStore(t, openWith(t, bolt.Options{Path: file}))
			closeStore(t, openWith(t, bolt.Options{Path: file, ReadOnly: true}))
		})
	}
	s := open(t, path)
	if _, err := bolt.Open(bolt.Options{Path: path, ReadOnly: true, Timeout: 20 * time.Millisecond}); !errors.Is(err, store.ErrLocked) {
		t.Errorf("one that a node has open: %v", err)
	}
	closeStore(t, s)
	refused(t, bolt.Options{Path: path, ReadOnly: true, NodeRID: "orn:koi-net.node:other+1"}, store.ErrForeign)
}

// What a killed process left may be in memory alone: it is brought to the disk
// before anything is written, and changes nothing.
func TestOpenSettlesWhatItFinds(t *testing.T) {
	path := madeWhole(t)
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-time.Hour).Truncate(time.Second)
	if err := os.Chtimes(path, old, old); err != nil {
		t.Fatal(err)
	}
	closeStore(t, open(t, path))
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if !st.ModTime().After(old) {
		t.Error("nothing was written")
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the file is another: %v", err)
	}
}
