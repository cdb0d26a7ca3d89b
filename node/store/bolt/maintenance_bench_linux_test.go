package bolt_test

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
	"github.com/koi-net/koi-operator/node/store/bolt"
)

// filled makes a store of small bundles in one directory, by 10,000 a commit, and
// closes it.
func filled(b *testing.B, bundles int) (path string, size int64) {
	b.Helper()
	path = filepath.Join(b.TempDir(), "koi.db")
	s := open(b, path)
	for from := 0; from < bundles; from += 10_000 {
		update(b, s, func(w store.Writer) error {
			for n := from; n < min(from+10_000, bundles); n++ {
				rec := record(0, `{"text":"a small bundle, as sensors send them","value":12345}`)
				rec.Bundle.Manifest.RID = rid.RID(fmt.Sprintf("orn:example.note:%08x", uint32(n)*2654435761)) // in no order
				sum, err := protocol.Hash(rec.Bundle.Contents)
				if err != nil {
					return err
				}
				rec.Bundle.Manifest.SHA256Hash = sum
				rec.Source = "orn:koi-net.node:peer+1"
				if err := w.PutBundle(rec); err != nil {
					return err
				}
			}
			return nil
		})
	}
	size, err := s.Size()
	if err != nil {
		b.Fatal(err)
	}
	closeStore(b, s)
	return path, size
}

// count is how many bundles the benchmarks of whole stores take.
func count() int {
	if testing.Short() {
		return 20_000
	}
	return 1_000_000
}

// forget has the kernel forget what it read of a file.
func forget(b *testing.B, path string) {
	b.Helper()
	f, err := os.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	const dontNeed = 4
	if _, _, errno := syscall.Syscall6(syscall.SYS_FADVISE64, f.Fd(), 0, 0, dontNeed, 0, 0); errno != 0 {
		b.Fatal(errno)
	}
}

// Opening a store of a million bundles, with the file in memory and not.
func BenchmarkOpen1M(b *testing.B) {
	path, size := filled(b, count())
	for _, cold := range []bool{false, true} {
		name := "warm"
		if cold {
			name = "cold"
		}
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if cold {
					b.StopTimer()
					forget(b, path)
					b.StartTimer()
				}
				s, err := bolt.Open(bolt.Options{Path: path, NodeRID: self})
				if err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				closeStore(b, s)
				b.StartTimer()
			}
			b.ReportMetric(float64(size)/(1<<20), "MiB")
		})
	}
}

// A backup of a million bundles, and what verifies one.
func BenchmarkBackup(b *testing.B) {
	path, size := filled(b, count())
	s := open(b, path)
	defer closeStore(b, s)
	b.SetBytes(size)
	for b.Loop() {
		if _, err := s.Backup(b.Context(), io.Discard); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerify(b *testing.B) {
	path, size := filled(b, count())
	for _, skip := range []bool{false, true} {
		name := "hashes"
		if skip {
			name = "checksums"
		}
		b.Run(name, func(b *testing.B) {
			b.SetBytes(size)
			for b.Loop() {
				r, err := bolt.Verify(b.Context(), path, bolt.VerifyOptions{SkipHashes: skip})
				if err != nil || r.Err() != nil || r.Bundles != count() {
					b.Fatalf("%+v, %v", r, err)
				}
			}
		})
	}
}

func BenchmarkCompact(b *testing.B) {
	path, size := filled(b, count())
	dir := b.TempDir()
	b.SetBytes(size)
	for n := 0; b.Loop(); n++ {
		to := filepath.Join(dir, fmt.Sprint(n))
		if _, _, err := bolt.Compact(b.Context(), path, to); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := os.Remove(to); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

func BenchmarkRestore(b *testing.B) {
	path, size := filled(b, count())
	dir := b.TempDir()
	b.SetBytes(size)
	for n := 0; b.Loop(); n++ {
		to := filepath.Join(dir, fmt.Sprint(n))
		if _, err := bolt.RestoreFile(b.Context(), path, to, bolt.RestoreOptions{}); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := os.Remove(to); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
