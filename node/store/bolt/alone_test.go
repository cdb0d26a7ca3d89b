package bolt

import (
	"crypto/rand"
	"encoding/hex"
	"path/filepath"
	"testing"

	bbolt "go.etcd.io/bbolt"
)

// BenchmarkBoltAlone100 is what bbolt alone takes of 1 KiB values at random
// keys, 100 in each transaction: the limit of what a store on it can do.
func BenchmarkBoltAlone100(b *testing.B) {
	db, err := bbolt.Open(filepath.Join(b.TempDir(), "alone.db"), 0o600, nil)
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	name := []byte("bundles")
	if err := db.Update(func(tx *bbolt.Tx) error { _, err := tx.CreateBucket(name); return err }); err != nil {
		b.Fatal(err)
	}
	value := make([]byte, 1100)
	for b.Loop() {
		err := db.Update(func(tx *bbolt.Tx) error {
			bucket := tx.Bucket(name)
			for range 100 {
				var r [16]byte
				rand.Read(r[:])
				if err := bucket.Put([]byte("orn:example.note\x00"+hex.EncodeToString(r[:])), value); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N*100)/b.Elapsed().Seconds(), "events/s")
}
