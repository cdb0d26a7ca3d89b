package bolt_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
	"github.com/koi-net/koi-operator/node/store/bolt"
)

// notRun skips a test that needs what is not here; where everything has to be
// here, it fails.
func notRun(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("NOT RUN: "+format, args...)
	}
	t.Skipf("NOT RUN: "+format, args...)
}

// A volume is a small file system of its own.
type volume struct {
	dir string
	// grow doubles it.
	grow func(t *testing.T)
}

func run(t *testing.T, name string, args ...string) error {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

func mounted(t *testing.T, args ...string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		notRun(t, "mounting a small volume needs root")
	}
	dir := t.TempDir()
	if err := run(t, "mount", append(args, dir)...); err != nil {
		notRun(t, "no small volume can be mounted: %v", err)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	return dir
}

func tmpfs(t *testing.T, size int) volume {
	t.Helper()
	dir := mounted(t, "-t", "tmpfs", "-o", fmt.Sprintf("size=%dm", size), "tmpfs")
	return volume{dir: dir, grow: func(t *testing.T) {
		t.Helper()
		if err := run(t, "mount", "-o", fmt.Sprintf("remount,size=%dm", 2*size), dir); err != nil {
			t.Fatal(err)
		}
	}}
}

// ext4 makes a volume half of which is taken: to resize one that is mounted takes
// more rights than to mount it.
func ext4(t *testing.T, size int) volume {
	t.Helper()
	image := filepath.Join(memoryDir(t), "image")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, int64(2*size)<<20); err != nil {
		t.Fatal(err)
	}
	if err := run(t, "mkfs.ext4", "-q", "-F", "-m", "0", image); err != nil {
		notRun(t, "no ext4 can be made: %v", err)
	}
	dir := mounted(t, "-o", "loop", image)
	taken := filepath.Join(dir, "taken")
	if err := os.WriteFile(taken, make([]byte, size<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	return volume{dir: dir, grow: func(t *testing.T) {
		t.Helper()
		if err := os.Remove(taken); err != nil {
			t.Fatal(err)
		}
	}}
}

var volumes = []struct {
	name string
	make func(*testing.T, int) volume
}{{"tmpfs", tmpfs}, {"ext4", ext4}}

// onFullVolumes runs a test on each kind of volume, 12 MiB large: with a store
// that asks how much room is left, and with one that meets the end as it writes.
func onFullVolumes(t *testing.T, fn func(t *testing.T, v volume, o bolt.Options, asks bool)) {
	for _, kind := range volumes {
		for _, asks := range []bool{true, false} {
			name := kind.name + "/asks"
			if !asks {
				name = kind.name + "/meets it"
			}
			t.Run(name, func(t *testing.T) {
				v := kind.make(t, 12)
				// MaxSize lies beyond the volume.
				o := bolt.Options{Path: filepath.Join(v.dir, "koi.db"), NodeRID: self, Create: true, MaxSize: 64 << 20}
				if !asks {
					o = bolt.WithVolume(o, nil)
				}
				fn(t, v, o, asks)
			})
		}
	}
}

func openWith(t testing.TB, o bolt.Options) store.Store {
	t.Helper()
	s, err := bolt.Open(o)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	return s
}

const fullContents = 60_000

// put writes bundle n, larger than a page.
func put(t testing.TB, s store.Store, n int) error {
	return s.Update(t.Context(), func(w store.Writer) error {
		if _, err := w.AppendInbox(store.InboxRow{RID: note(n), Data: []byte("waits")}); err != nil {
			return err
		}
		return w.PutBundle(record(n, fmt.Sprintf(`{"n":%d,"pad":"%s"}`, n, strings.Repeat("x", fullContents))))
	})
}

func drop(t testing.TB, s store.Store, n int) error {
	return s.Update(t.Context(), func(w store.Writer) error { return w.DeleteBundle(note(n)) })
}

// fillUp puts bundles from the number from on until the store is full, and returns
// the number of the first that did not fit.
func fillUp(t *testing.T, s store.Store, from int) int {
	t.Helper()
	for n := from; ; n++ {
		err := put(t, s, n)
		if errors.Is(err, store.ErrFull) {
			t.Logf("bundle %d: %v", n, err)
			return n
		}
		if err != nil {
			t.Fatalf("bundle %d: %v", n, err)
		}
		if n > from+5000 {
			t.Fatal("it never is full")
		}
	}
}

// holdsExactly wants bundles from to to-1, whole, and a store that passes its check.
func holdsExactly(t *testing.T, s store.Store, from, to int) {
	t.Helper()
	if err := s.Check(t.Context()); err != nil {
		t.Errorf("Check: %v", err)
	}
	var got []rid.RID
	err := s.View(t.Context(), func(r store.Reader) error {
		for rec, err := range r.Records(nil, "") {
			if err != nil {
				return err
			}
			got = append(got, rec.Bundle.Manifest.RID)
		}
		return nil
	})
	if err != nil || len(got) != to-from || len(got) > 0 && (got[0] != note(from) || got[len(got)-1] != note(to-1)) {
		t.Errorf("it holds %d bundles (%v), want those from %d to %d", len(got), err, from, to-1)
	}
}

// A volume that fills up refuses additions and nothing else, and takes them again
// when something was deleted or the volume has grown.
func TestFullDisk(t *testing.T) {
	onFullVolumes(t, func(t *testing.T, v volume, o bolt.Options, _ bool) {
		s := openWith(t, o)
		defer func() { closeStore(t, s) }()
		end := fillUp(t, s, 0)
		if end < 60 {
			t.Errorf("only %d bundles fit", end)
		}
		holdsExactly(t, s, 0, end)
		for n := range 20 {
			if err := put(t, s, end+n); !errors.Is(err, store.ErrFull) {
				t.Fatalf("an addition to a full store: %v", err)
			}
		}
		holdsExactly(t, s, 0, end)

		// One after another: each deletion finds room, and makes some.
		for n := range 20 {
			if err := drop(t, s, n); err != nil {
				t.Fatalf("deletion %d from a full store: %v", n, err)
			}
		}
		holdsExactly(t, s, 20, end)
		more := fillUp(t, s, end)
		if more < end+5 {
			t.Errorf("where 20 bundles were deleted, %d had room", more-end)
		}
		holdsExactly(t, s, 20, more)

		closeStore(t, s)
		s = openWith(t, o)
		holdsExactly(t, s, 20, more)
		v.grow(t)
		last := fillUp(t, s, more)
		if last < more+60 {
			t.Errorf("where the volume grew by 12 MiB, %d bundles had room", last-more)
		}
		holdsExactly(t, s, 20, last)
		for n := 20; n < last; n++ {
			if err := drop(t, s, n); err != nil {
				t.Fatalf("deletion %d: %v", n, err)
			}
		}
		holdsExactly(t, s, 0, 0)
	})
}

// Others may take the room that is kept for deletions. Then nothing can be written
// for a while, nothing breaks, and what follows works without a restart.
func TestFullDiskByOthers(t *testing.T) {
	onFullVolumes(t, func(t *testing.T, v volume, o bolt.Options, asks bool) {
		s := openWith(t, o)
		defer func() { closeStore(t, s) }()
		first, end := 0, 60
		for n := range end {
			if err := put(t, s, n); err != nil {
				t.Fatal(err)
			}
		}
		for round := range 4 {
			ballast := filepath.Join(v.dir, "ballast")
			fillVolume(t, ballast)
			var wg sync.WaitGroup
			var mu sync.Mutex
			failed := 0
			for n := range 8 {
				wg.Go(func() {
					err := put(t, s, 1000+n)
					if err == nil && !asks { // there are free pages in the file, too
						err = drop(t, s, 1000+n)
					}
					if !errors.Is(err, store.ErrFull) && (err != nil || asks) {
						t.Errorf("round %d: an addition: %v", round, err)
					}
					if err := s.Check(t.Context()); err != nil {
						t.Errorf("round %d: Check: %v", round, err)
					}
				})
			}
			for n := first; n < first+8; n++ {
				wg.Go(func() {
					err := drop(t, s, n)
					if errors.Is(err, store.ErrFull) {
						mu.Lock()
						failed++
						mu.Unlock()
					} else if err != nil {
						t.Errorf("round %d: a deletion: %v", round, err)
					}
				})
			}
			wg.Wait()
			t.Logf("round %d: %d of 8 deletions found no room", round, failed)
			if round%2 == 1 { // a node that starts in that state
				closeStore(t, s)
				s = openWith(t, o)
			}
			if err := os.Remove(ballast); err != nil {
				t.Fatal(err)
			}
			for n := range 8 {
				if err := errors.Join(drop(t, s, first+n), drop(t, s, 1000+n)); err != nil {
					t.Fatalf("round %d: a deletion afterwards: %v", round, err)
				}
			}
			if err := put(t, s, end); err != nil {
				t.Fatalf("round %d: an addition afterwards: %v", round, err)
			}
			first, end = first+8, end+1
			holdsExactly(t, s, first, end)
		}
	})
}

// fillVolume writes a file until nothing more fits, not a byte.
func fillVolume(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, size := range []int{1 << 20, 4096, 1} {
		for buf := make([]byte, size); ; {
			if _, err := f.Write(buf); err != nil {
				break
			}
		}
	}
	_ = f.Sync() // which may find out that there was less room
}

// What makes files leaves nothing behind where there is no room for them.
func TestFullDiskLeavesNothing(t *testing.T) {
	for _, kind := range volumes {
		t.Run(kind.name, func(t *testing.T) {
			v := kind.make(t, 12)
			source := filepath.Join(memoryDir(t), "koi.db")
			s := open(t, source)
			for n := range 140 {
				if err := put(t, s, n); err != nil {
					t.Fatal(err)
				}
			}
			size, err := s.Size()
			if err != nil || size < 8<<20 {
				t.Fatalf("the store has %d bytes, %v", size, err)
			}
			reserved := filepath.Join(v.dir, "reserved")
			if err := os.WriteFile(reserved, make([]byte, 6<<20), 0o600); err != nil {
				t.Fatal(err)
			}
			to := filepath.Join(v.dir, "sub", "koi.db")
			emptyBut := func(what string, err error) {
				t.Helper()
				if !errors.Is(err, store.ErrFull) {
					t.Errorf("%s: %v", what, err)
				}
				if _, err := os.Stat(filepath.Dir(to)); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("%s left its directory: %v", what, err)
				}
			}
			r, w := io.Pipe()
			go func() {
				_, err := s.Backup(t.Context(), w)
				w.CloseWithError(err)
			}()
			_, err = bolt.Restore(t.Context(), r, to, bolt.RestoreOptions{})
			r.CloseWithError(errors.New("no more is wanted"))
			emptyBut("Restore", err)
			closeStore(t, s)
			_, err = bolt.RestoreFile(t.Context(), source, to, bolt.RestoreOptions{})
			emptyBut("RestoreFile", err)
			_, _, err = bolt.Compact(t.Context(), source, to)
			emptyBut("Compact", err)

			fillVolume(t, filepath.Join(v.dir, "ballast"))
			_, err = bolt.Open(bolt.Options{Path: filepath.Join(v.dir, "koi.db"), NodeRID: self, Create: true})
			if !errors.Is(err, store.ErrFull) {
				t.Errorf("a new store on a full volume: %v", err)
			}
			entries, err := os.ReadDir(v.dir)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				if strings.HasPrefix(e.Name(), "koi.db") {
					t.Errorf("%s is left", e.Name())
				}
			}
		})
	}
}
