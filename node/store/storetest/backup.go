package storetest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/koi-net/koi-operator/node/store"
)

// Restore puts what Backup wrote into dir, which is empty, and opens it. The
// suite closes what it opens.
type Restore func(t *testing.T, backup io.Reader, dir string) store.Store

var backupTests = []namedTest{
	{"a backup holds everything", testBackupWhole},
	{"a backup of an empty store", testBackupEmpty},
	{"a backup taken while updates run", testBackupConcurrent},
	{"backups at once", testBackupsAtOnce},
	{"a slow writer holds nobody up", testBackupSlowWriter},
	{"an ended context ends the snapshot of a writer that hangs", testBackupHungWriter},
	{"an ended context starts no backup", testBackupEndedContext},
	{"a writer's error ends a backup", testBackupWriterError},
	{"a closed store has no backup", testBackupClosed},
}

// backup takes one into memory.
func (e *env) backup() []byte {
	e.Helper()
	var buf bytes.Buffer
	n, err := e.store().Backup(e.Context(), &buf)
	if err != nil {
		e.Fatalf("Backup: %v", err)
	}
	if n != int64(buf.Len()) || n == 0 {
		e.Errorf("Backup says it wrote %d bytes, and wrote %d", n, buf.Len())
	}
	return buf.Bytes()
}

// restored opens a backup, and wants it to be a whole store with the same sentinel.
func (e *env) restored(backup []byte) *env {
	e.Helper()
	r := &env{T: e.T, dir: e.TempDir(), open: e.open, restore: e.restore}
	r.s = e.restore(e.T, bytes.NewReader(backup), r.dir)
	e.Cleanup(func() {
		if err := r.s.Close(); err != nil {
			e.Errorf("Close: %v", err)
		}
	})
	is, was := r.s.Info(), e.store().Info()
	if is.ID != was.ID || is.Format != was.Format || is.NodeRID != was.NodeRID || !is.Created.Equal(was.Created) {
		e.Errorf("Info was %+v, is %+v in the backup", was, is)
	}
	r.check()
	return r
}

func testBackupWhole(e *env) {
	e.putNotes(0, 500)
	e.enqueue(store.Outbox, 1, "one", store.QueueLimits{}, peerA, peerB)
	e.enqueue(store.Outbox, 1, "two", store.QueueLimits{}, peerA)
	e.enqueue(store.PollQueue, 2, "three", store.QueueLimits{}, peerC)
	seqs := e.appendInbox(3)
	large := record(e, note(1000), strings.Repeat("x", 3<<20))
	e.update(func(w store.Writer) error {
		_, err := w.Remember(replayKey(1), when(1), store.ReplayBounds{})
		return errors.Join(err, w.PutBundle(large), w.DeleteBundle(note(3)), w.DeleteInbox(seqs[0]), w.PutValue("k", []byte("v")),
			w.PutDecision(store.Decision{Source: peerA, Target: peerB, Approved: true, Decided: when(1)}),
			w.SetResyncNeeded(store.Outbox, peerB, true))
	})
	r := e.restored(e.backup())
	if types := r.types(); types[noteType] != 500 {
		e.Errorf("Types: %v", types)
	}
	r.wantEvents(store.Outbox, peerA, "one", "two")
	r.wantEvents(store.Outbox, peerB, "one")
	r.wantEvents(store.PollQueue, peerC, "three")
	if !r.stats(store.Outbox, peerB).ResyncNeeded {
		e.Error("the resync mark is not in the backup")
	}
	if rows := r.inbox(0); len(rows) != 2 || rows[0].Seq != seqs[1] {
		e.Errorf("inbox rows: %v", rows)
	}
	r.view(func(tx store.Reader) error {
		if got, err := tx.Bundle(note(1000)); err != nil || !sameRecord(got, large) {
			e.Errorf("the large bundle: %v", err)
		}
		if _, err := tx.Bundle(note(3)); !errors.Is(err, store.ErrNotFound) {
			e.Errorf("the deleted bundle: %v", err)
		}
		if v, err := tx.Value("k"); err != nil || string(v) != "v" {
			e.Errorf("Value: %q, %v", v, err)
		}
		if yes, err := tx.Remembered(replayKey(1)); err != nil || !yes {
			e.Errorf("Remembered: %t, %v", yes, err)
		}
		_, err := tx.Decision(peerA, peerB)
		return err
	})
	// It is a store like any other: numbers go on, and changes are its own.
	if more := r.appendInbox(1); more[0] <= seqs[2] {
		e.Errorf("rows numbered %v, then %v", seqs, more)
	}
	r.putNotes(2000, 2001)
	r.reopen()
	r.check()
	e.view(func(tx store.Reader) error {
		if _, err := tx.Bundle(note(2000)); !errors.Is(err, store.ErrNotFound) {
			e.Errorf("a bundle put into the restored store: %v", err)
		}
		return nil
	})
}

func testBackupEmpty(e *env) {
	r := e.restored(e.backup())
	if types := r.types(); len(types) != 0 {
		e.Errorf("Types: %v", types)
	}
	r.putNotes(0, 1)
	r.check()
}

// counted writes bundle n of a worker, and the count of its bundles beside it.
func counted(e *env, worker, n int) func(store.Writer) error {
	return func(w store.Writer) error {
		return errors.Join(
			w.PutBundle(record(e, note(worker*10_000+n), fmt.Sprintf(`{"n":%d,"pad":"%s"}`, n, strings.Repeat("p", n%3000)))),
			w.PutValue(fmt.Sprintf("count/%d", worker), binary.AppendUvarint(nil, uint64(n+1))),
			w.DeleteBundle(note(worker*10_000+n-40)),
		)
	}
}

func testBackupConcurrent(e *env) {
	const workers = 4
	s := e.store()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var acked [workers]atomic.Int64
	for worker := range workers {
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				if err := s.Update(e.Context(), counted(e, worker, n)); err != nil {
					e.Errorf("Update: %v", err)
					return
				}
				acked[worker].Store(int64(n + 1))
			}
		})
	}
	for round := range 5 {
		e.until("every worker has written more", func() bool {
			for worker := range acked {
				if acked[worker].Load() < int64(20*round+20) {
					return false
				}
			}
			return true
		})
		var before [workers]int64
		for worker := range acked {
			before[worker] = acked[worker].Load()
		}
		backup := e.backup()
		r := e.restored(backup)
		r.view(func(tx store.Reader) error {
			for worker := range workers {
				v, err := tx.Value(fmt.Sprintf("count/%d", worker))
				if err != nil {
					return err
				}
				count, _ := binary.Uvarint(v)
				if int64(count) < before[worker] {
					e.Errorf("round %d: %d updates of worker %d in the backup, %d were acknowledged before", round, count, worker, before[worker])
				}
				for n := max(0, int(count)-40); n < int(count); n++ {
					if _, err := tx.Bundle(note(worker*10_000 + n)); err != nil {
						e.Errorf("round %d: bundle %d of worker %d, which wrote %d: %v", round, n, worker, count, err)
					}
				}
				if _, err := tx.Bundle(note(worker*10_000 + int(count))); !errors.Is(err, store.ErrNotFound) {
					e.Errorf("round %d: half an update of worker %d: %v", round, worker, err)
				}
			}
			return nil
		})
	}
	close(stop)
	wg.Wait()
	e.check()
}

func testBackupsAtOnce(e *env) {
	e.putNotes(0, 300)
	var wg sync.WaitGroup
	backups := make([][]byte, 4)
	for i := range backups {
		wg.Go(func() {
			var buf bytes.Buffer
			if _, err := e.store().Backup(e.Context(), &buf); err != nil {
				e.Errorf("Backup: %v", err)
			}
			backups[i] = buf.Bytes()
		})
	}
	wg.Wait()
	for _, b := range backups {
		if types := e.restored(b).types(); types[noteType] != 300 {
			e.Errorf("Types: %v", types)
		}
	}
}

// gate is a writer that waits before its first byte.
type gate struct {
	bytes.Buffer
	began, open chan struct{}
	once        sync.Once
}

func newGate() *gate { return &gate{began: make(chan struct{}), open: make(chan struct{})} }

func (g *gate) Write(p []byte) (int, error) {
	g.once.Do(func() { close(g.began) })
	<-g.open
	return g.Buffer.Write(p)
}

type backupResult struct {
	n   int64
	err error
}

// backupTo takes a backup in the background.
func (e *env) backupTo(ctx context.Context, w io.Writer) <-chan backupResult {
	s, done := e.store(), make(chan backupResult, 1)
	go func() {
		n, err := s.Backup(ctx, w)
		done <- backupResult{n, err}
	}()
	return done
}

func testBackupSlowWriter(e *env) {
	e.putNotes(0, 100)
	g := newGate()
	done := e.backupTo(e.Context(), g)
	<-g.began
	for n := range 100 { // neither updates nor views wait for it
		e.update(func(w store.Writer) error {
			return errors.Join(w.DeleteBundle(note(n)), w.PutBundle(record(e, note(1000+n), strings.Repeat("y", 10_000))))
		})
		e.types()
	}
	close(g.open)
	if r := <-done; r.err != nil || r.n != int64(g.Len()) {
		e.Fatalf("Backup: %d bytes of %d, %v", r.n, g.Len(), r.err)
	}
	r := e.restored(g.Bytes())
	r.view(func(tx store.Reader) error {
		if got := rids(r, tx, nil, ""); len(got) != 100 || got[0] != note(0) || got[99] != note(99) {
			e.Errorf("the backup holds %d bundles, the first %v", len(got), got[:min(1, len(got))])
		}
		return nil
	})
}

func testBackupHungWriter(e *env) {
	e.putNotes(0, 100)
	g := newGate()
	ctx, cancel := context.WithCancel(e.Context())
	done := e.backupTo(ctx, g)
	<-g.began
	cancel()
	// The writer still hangs, and the store can be closed, which waits for snapshots.
	if err := e.store().Close(); err != nil {
		e.Errorf("Close: %v", err)
	}
	select {
	case r := <-done:
		e.Errorf("Backup returned while its writer was at work: %v", r.err)
	default:
	}
	close(g.open)
	if r := <-done; !errors.Is(r.err, context.Canceled) || r.n != int64(g.Len()) {
		e.Errorf("Backup: %d bytes of %d, %v", r.n, g.Len(), r.err)
	}
	e.s = nil
	e.check()
}

func testBackupEndedContext(e *env) {
	e.putNotes(0, 10)
	var buf bytes.Buffer
	if n, err := e.store().Backup(ended(), &buf); !errors.Is(err, context.Canceled) || n != 0 || buf.Len() != 0 {
		e.Errorf("Backup: %d bytes, %v", n, err)
	}
}

// limited takes some bytes and then fails.
type limited struct{ left int }

func (l *limited) Write(p []byte) (int, error) {
	n := min(l.left, len(p))
	l.left -= n
	if n < len(p) {
		return n, errTest
	}
	return n, nil
}

func testBackupWriterError(e *env) {
	e.update(func(w store.Writer) error { return w.PutBundle(record(e, note(1), strings.Repeat("x", 2<<20))) })
	for _, most := range []int{0, 1, 5000, 700_000} {
		n, err := e.store().Backup(e.Context(), &limited{most})
		if !errors.Is(err, errTest) || n != int64(most) {
			e.Errorf("Backup to a writer of %d bytes: %d, %v", most, n, err)
		}
	}
	e.putNotes(2, 3)
	e.restored(e.backup())
}

func testBackupClosed(e *env) {
	s := e.store()
	if err := s.Close(); err != nil {
		e.Fatalf("Close: %v", err)
	}
	var buf bytes.Buffer
	if n, err := s.Backup(e.Context(), &buf); !errors.Is(err, store.ErrClosed) || n != 0 {
		e.Errorf("Backup: %d bytes, %v", n, err)
	}
}
