package bolt_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

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

// The RIDs, then the whole records, of a store of ten thousand.
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
				for n := range 10_000 {
					if _, err := r.Manifest(note(n)); err != nil {
						return n, err
					}
				}
				return 10_000, nil
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
