package bolt

import (
	"compress/gzip"
	"io"
	"os"
	"path/filepath"
	"testing"

	bbolt "go.etcd.io/bbolt"

	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

// An upgrade that was cut short goes on at the next opening.
func TestUpgradeGoesOn(t *testing.T) {
	f, err := os.Open(filepath.Join("testdata", "format1.db.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	for moves := range 5 { // of ten of the 39 bundles each
		path := filepath.Join(t.TempDir(), "koi.db")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		db, err := bbolt.Open(path, 0o600, nil)
		if err != nil {
			t.Fatal(err)
		}
		for n := range moves {
			err := db.Update(func(btx *bbolt.Tx) error {
				t := &tx{shared: newShared(btx, nil)}
				if n == 0 {
					for _, id := range bundleBuckets {
						if err := t.createBucket(id); err != nil {
							return err
						}
					}
				}
				_, err := t.move1(10)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		s, err := Open(Options{Path: path})
		if err != nil {
			t.Fatalf("after %d moves: %v", moves, err)
		}
		if err := s.Check(t.Context()); err != nil {
			t.Errorf("after %d moves: %v", moves, err)
		}
		n := 0
		err = s.View(t.Context(), func(r store.Reader) error {
			for _, err := range r.Records([]rid.Type{"orn:example.note", "https"}, "") {
				if err != nil {
					return err
				}
				n++
			}
			return nil
		})
		if err != nil || n != 39 {
			t.Errorf("after %d moves: %d bundles, %v", moves, n, err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}
