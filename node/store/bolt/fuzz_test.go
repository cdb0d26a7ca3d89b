package bolt

import (
	"bufio"
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/koi-net/koi-operator/node/store"
)

// smallStore returns the bytes of a store with a little of everything.
func smallStore(f *testing.F) []byte {
	f.Helper()
	path := filepath.Join(f.TempDir(), "koi.db")
	s, err := Open(Options{Path: path, NodeRID: "orn:koi-net.node:self+0000", Create: true})
	if err != nil {
		f.Fatal(err)
	}
	err = s.Update(f.Context(), func(w store.Writer) error {
		for n := range 200 {
			if err := w.PutValue(string(rune('a'+n)), bytes.Repeat([]byte("value"), n)); err != nil {
				return err
			}
		}
		return w.PutValue("large", make([]byte, 3*os.Getpagesize()))
	})
	if err := errors.Join(err, s.Close()); err != nil {
		f.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	return data
}

// An audit that goes on behind faults ends, finds what one that stops finds, and
// nothing in a sound file.
func FuzzAudit(f *testing.F) {
	whole := smallStore(f)
	page := os.Getpagesize()
	f.Add(uint32(0), []byte{})
	for at := 2 * page; at < min(len(whole), 12*page); at += page {
		for _, off := range []int{0, 8, 10, 12, 16, 20, 24, 28, 32} {
			f.Add(uint32(at+off), []byte{0xff, 0xff, 0xff, 0xff})
			f.Add(uint32(at+off), []byte{0, 0, 0, 0})
			f.Add(uint32(at+off), []byte{3, 0, 0, 0})
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
		first := l.verify(t.Context())
		faults := 0
		a := &audit{layout: l, bad: func(_ string, err error) {
			if faults++; err == nil {
				t.Error("a fault without an error")
			}
		}}
		if err := a.run(t.Context()); err != nil {
			t.Errorf("it ended with %v", err)
		}
		if (first == nil) != (faults == 0) {
			t.Errorf("%d faults, the first is said to be: %v", faults, first)
		}
		if err := l.verifyTop(t.Context(), 100); err != nil && first == nil {
			t.Errorf("the top is refused, the whole is not: %v", err)
		}
		b := backup{shot: &snapshot{l: l}}
		b.heads()
		for next := uint64(2); next < l.pages; {
			b.buf = b.buf[:0]
			after, err := b.page(next)
			if err != nil || after <= next {
				t.Fatalf("page %d is followed by %d, %v", next, after, err)
			}
			next = after
		}
		if bytes.Equal(data, whole) && (first != nil || b.damage != nil) {
			t.Errorf("the whole file is refused: %v, %v", first, b.damage)
		}
	})
}

// Whatever Restore is given, its size is one that its head speaks of.
func FuzzBackupSize(f *testing.F) {
	whole := smallStore(f)
	f.Add(whole[:os.Getpagesize()+100])
	f.Add(whole[:100])
	f.Add([]byte{})
	f.Add([]byte("text"))
	f.Fuzz(func(t *testing.T, data []byte) {
		size, err := backupSize(bufio.NewReaderSize(bytes.NewReader(data), 2*maxPage))
		if (err == nil) != (size > 0) && err != nil {
			t.Errorf("%d bytes, %v", size, err)
		}
		if err != nil && !errors.Is(err, store.ErrDamaged) && !errors.Is(err, store.ErrForeign) {
			t.Errorf("%v", err)
		}
	})
}
