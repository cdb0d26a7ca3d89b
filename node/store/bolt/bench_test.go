package bolt_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

var kilobyte = fmt.Sprintf(`{"text":"%s"}`, strings.Repeat("x", 1000))

// One transaction of a hundred 1 KiB bundles, each with an outbox row.
func BenchmarkUpdate100(b *testing.B) {
	s := open(b, filepath.Join(b.TempDir(), "koi.db"))
	defer closeStore(b, s)
	peers := []rid.RID{"orn:koi-net.node:a+1"}
	n := 0
	for b.Loop() {
		update(b, s, func(w store.Writer) error {
			for i := range 100 {
				id := (n*100 + i) * 7919 % 100_000
				if err := w.PutBundle(record(id, kilobyte)); err != nil {
					return err
				}
				if _, err := w.Enqueue(store.Outbox, peers, store.QueueRow{RID: note(id), Event: []byte(kilobyte)}, store.QueueLimits{Rows: 10_000}); err != nil {
					return err
				}
			}
			return nil
		})
		n++
	}
	b.ReportMetric(float64(b.N*100)/b.Elapsed().Seconds(), "events/s")
}

// One bundle an update, from sixteen goroutines at once.
func BenchmarkGroupCommit16(b *testing.B) {
	s := open(b, filepath.Join(b.TempDir(), "koi.db"))
	defer closeStore(b, s)
	b.SetParallelism(8) // of two processors
	b.RunParallel(func(pb *testing.PB) {
		for n := 0; pb.Next(); n++ {
			if err := s.Update(b.Context(), func(w store.Writer) error { return w.PutBundle(record(n%100_000, kilobyte)) }); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "updates/s")
}

// One event for a thousand peers.
func BenchmarkFanOut1000(b *testing.B) {
	s := open(b, filepath.Join(b.TempDir(), "koi.db"))
	defer closeStore(b, s)
	peers := make([]rid.RID, 1000)
	for n := range peers {
		peers[n] = rid.RID(fmt.Sprintf("orn:koi-net.node:peer+%064d", n))
	}
	n := 0
	for b.Loop() {
		update(b, s, func(w store.Writer) error {
			_, err := w.Enqueue(store.Outbox, peers, store.QueueRow{RID: note(n % 1000), Event: []byte(kilobyte)}, store.QueueLimits{Rows: 100})
			return err
		})
		n++
	}
}

// The replay memory at its bound, so that each key noted drives one out: a
// hundred in a transaction, one alone, and the question for one that is held. A
// million is what a node holds by default; with -short there are fewer.
func BenchmarkReplay(b *testing.B) {
	s := open(b, filepath.Join(b.TempDir(), "koi.db"))
	defer closeStore(b, s)
	held := 1_000_000
	if testing.Short() {
		held = 50_000
	}
	bounds := store.ReplayBounds{Rows: held, Age: 365 * 24 * time.Hour}
	n := 0
	note := func(b *testing.B, count int) {
		b.Helper()
		update(b, s, func(w store.Writer) error {
			for i := range count {
				if seen, err := w.Remember(replayKey(n+i), time.Unix(1_700_000_000+int64(n+i)/1000, 0), bounds); err != nil || seen {
					return fmt.Errorf("body %d: seen %t, %w", n+i, seen, err)
				}
			}
			return nil
		})
		n += count
	}
	for n < held {
		note(b, 10_000)
	}
	size, err := s.Size()
	if err != nil {
		b.Fatal(err)
	}
	b.Run("Remember100", func(b *testing.B) {
		for b.Loop() {
			note(b, 100)
		}
		b.ReportMetric(float64(b.N*100)/b.Elapsed().Seconds(), "keys/s")
		b.ReportMetric(float64(size)/float64(held), "bytes/key")
	})
	b.Run("Remember1", func(b *testing.B) {
		for b.Loop() {
			note(b, 1)
		}
	})
	b.Run("Remembered", func(b *testing.B) {
		at := 0
		for b.Loop() {
			err := s.View(b.Context(), func(r store.Reader) error {
				yes, err := r.Remembered(replayKey(n - 1 - at%held))
				if err == nil && !yes {
					b.Errorf("body %d is not remembered", n-1-at%held)
				}
				return err
			})
			if err != nil {
				b.Fatal(err)
			}
			at += 7919
		}
	})
	b.Run("Check", func(b *testing.B) {
		for b.Loop() {
			if err := s.Check(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// What a store of ten thousand holds, read in each of the ways there are.
func BenchmarkRead10000(b *testing.B) {
	s := open(b, filepath.Join(b.TempDir(), "koi.db"))
	defer closeStore(b, s)
	update(b, s, func(w store.Writer) error {
		for n := range 10_000 {
			if err := w.PutBundle(record(n, kilobyte)); err != nil {
				return err
			}
		}
		return nil
	})
	all := make([]rid.RID, 10_000)
	for n := range all {
		all[n] = note(n)
	}
	b.Run("RIDs", func(b *testing.B) {
		for b.Loop() {
			read(b, s, func(r store.Reader) (n int, err error) {
				for _, err := range r.RIDs(nil, "") {
					if err != nil {
						return n, err
					}
					n++
				}
				return n, nil
			})
		}
	})
	b.Run("Records", func(b *testing.B) {
		for b.Loop() {
			read(b, s, func(r store.Reader) (n int, err error) {
				for _, err := range r.Records(nil, "") {
					if err != nil {
						return n, err
					}
					n++
				}
				return n, nil
			})
		}
	})
	b.Run("Manifest", func(b *testing.B) {
		for b.Loop() {
			read(b, s, func(r store.Reader) (n int, err error) {
				for _, id := range all {
					if _, err := r.Manifest(id); err != nil {
						return n, err
					}
					n++
				}
				return n, nil
			})
		}
	})
	b.Run("RawManifests", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			read(b, s, func(r store.Reader) (n int, err error) {
				for _, err := range r.RawManifests(nil, "") {
					if err != nil {
						return n, err
					}
					n++
				}
				return n, nil
			})
		}
	})
	// As a server writes them: copied, nothing else.
	var wire []byte
	b.Run("RawManifests as JSON", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			wire = wire[:0]
			read(b, s, func(r store.Reader) (n int, err error) {
				for m, err := range r.RawManifests(nil, "") {
					if err != nil {
						return n, err
					}
					wire = protocol.AppendRawManifest(wire, m)
					n++
				}
				return n, nil
			})
		}
	})
	b.Run("RawManifest", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			read(b, s, func(r store.Reader) (n int, err error) {
				for _, id := range all {
					if _, err := r.RawManifest(id); err != nil {
						return n, err
					}
					n++
				}
				return n, nil
			})
		}
	})
	b.Run("RawBundle", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			read(b, s, func(r store.Reader) (n int, err error) {
				for _, id := range all {
					if _, err := r.RawBundle(id); err != nil {
						return n, err
					}
					n++
				}
				return n, nil
			})
		}
	})
}

func read(b *testing.B, s store.Store, fn func(store.Reader) (int, error)) {
	b.Helper()
	err := s.View(b.Context(), func(r store.Reader) error {
		n, err := fn(r)
		if err == nil && n != 10_000 {
			b.Errorf("%d of 10,000 were read", n)
		}
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
}
