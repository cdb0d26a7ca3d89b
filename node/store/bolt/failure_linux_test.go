package bolt_test

import (
	"errors"
	"os"
	"syscall"
	"testing"

	"github.com/koi-net/koi-operator/node/store"
	"github.com/koi-net/koi-operator/node/store/bolt"
)

// A write that fails, other than for want of room, ends all writing: nobody knows
// what is on the disk. Reading goes on, and what was acknowledged is there.
func TestFailedWrite(t *testing.T) {
	path := madeWhole(t)
	s := open(t, path)
	state := fingerprint(t, s)
	mend := breakFile(t, s, path)
	for round := range 3 {
		if round == 2 { // too late: what the failed one did is not known
			mend()
		}
		err := s.Update(t.Context(), func(w store.Writer) error { return w.PutValue("new", []byte("1")) })
		if err == nil || errors.Is(err, store.ErrFull) || errors.Is(err, store.ErrDamaged) {
			t.Errorf("Update: %v", err)
		}
	}
	if fingerprint(t, s) != state {
		t.Error("what can be read has changed")
	}
	if err := s.Check(t.Context()); err != nil {
		t.Errorf("Check: %v", err)
	}
	_ = s.Close()
	s = open(t, path)
	if fingerprint(t, s) != state {
		t.Error("after opening it again, what can be read has changed")
	}
	update(t, s, func(w store.Writer) error { return w.PutValue("new", []byte("1")) })
	closeStore(t, s)
	sound(t, path)
}

// breakFile has writes to the store's file fail from now on: what the store has
// open is made a file that can only be read. mend takes that back.
func breakFile(t *testing.T, s store.Store, path string) (mend func()) {
	t.Helper()
	fd := int(bolt.FileOf(s).Fd())
	replace := func(with *os.File) {
		t.Helper()
		if err := syscall.Dup3(int(with.Fd()), fd, syscall.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
		with.Close()
	}
	writable, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	readable, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	replace(readable)
	return func() { replace(writable) }
}
