package storetest

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

var transactionTests = []namedTest{
	{"an error undoes everything", testRollback},
	{"an error of one leaves its neighbours", testRollbackOne},
	{"a function that only reads may fail", testReadOnlyFailure},
	{"a panic undoes and is an error", testPanic},
	{"a function that ends its goroutine undoes and is an error", testGoexit},
	{"an update sees itself", testReadOwnWrites},
	{"an update that returned is seen by every later view", testReadAfterUpdate},
	{"a view is a snapshot", testSnapshot},
	{"what a view gave stays valid", testValidAfterView},
	{"a reader or writer is of no use afterwards", testOver},
	{"a waiting update obeys its context", testCancelWaiting},
	{"an ended context starts nothing", testEndedContext},
	{"an iterator of a view obeys its context", testCancelIterator},
	{"updates from many goroutines all arrive", testConcurrentUpdates},
	{"failures among many hurt no other", testConcurrentFailures},
}

func testRollback(e *env) {
	e.putNotes(0, 1)
	err := e.store().Update(e.Context(), func(w store.Writer) error {
		steps := []error{
			w.PutBundle(record(e, note(1), `{}`)),
			w.DeleteBundle(note(0)),
			w.PutValue("k", []byte("v")),
			w.PutDecision(store.Decision{Source: peerA, Target: peerB}),
			w.SetResyncNeeded(store.Outbox, peerA, true),
		}
		_, inErr := w.AppendInbox(store.InboxRow{RID: note(1), Data: []byte("x")})
		_, qErr := w.Enqueue(store.PollQueue, []rid.RID{peerA}, store.QueueRow{RID: note(1), Event: []byte("e")}, store.QueueLimits{})
		if err := errors.Join(append(steps, inErr, qErr)...); err != nil {
			e.Errorf("a step failed: %v", err)
		}
		return fmt.Errorf("wrapped: %w", errTest)
	})
	if !errors.Is(err, errTest) {
		e.Fatalf("Update returned %v, want the function's error", err)
	}
	look := func() {
		e.Helper()
		e.view(func(r store.Reader) error {
			if got := rids(e, r, nil, ""); fmt.Sprint(got) != fmt.Sprint([]rid.RID{note(0)}) {
				e.Errorf("bundles after a rollback: %v", got)
			}
			if n, err := r.InboxLen(); n != 0 || err != nil {
				e.Errorf("inbox after a rollback: %d rows, %v", n, err)
			}
			for _, q := range []store.Queue{store.Outbox, store.PollQueue} {
				if peers, err := r.Queues(q); len(peers) != 0 || err != nil {
					e.Errorf("%s after a rollback: %v, %v", q, peers, err)
				}
			}
			if _, err := r.Value("k"); !errors.Is(err, store.ErrNotFound) {
				e.Errorf("value after a rollback: %v", err)
			}
			if d, err := r.Decisions(); len(d) != 0 || err != nil {
				e.Errorf("decisions after a rollback: %v, %v", d, err)
			}
			return nil
		})
		e.types()
		e.check()
	}
	look()
	e.reopen()
	look()
}

func testRollbackOne(e *env) {
	e.store()
	var wg sync.WaitGroup
	// The first one holds the writer up until the others wait behind it.
	var behind atomic.Int32
	for n := range 8 {
		wg.Go(func() {
			behind.Add(1)
			err := e.store().Update(e.Context(), func(w store.Writer) error {
				for range 1000 {
					if behind.Load() == 8 {
						break
					}
					runtime.Gosched()
				}
				if err := w.PutBundle(record(e, note(n), `{}`)); err != nil {
					return err
				}
				if n == 3 {
					return errTest
				}
				return nil
			})
			if n == 3 && !errors.Is(err, errTest) || n != 3 && err != nil {
				e.Errorf("update %d: %v", n, err)
			}
		})
	}
	wg.Wait()
	e.view(func(r store.Reader) error {
		if got := rids(e, r, nil, ""); len(got) != 7 {
			e.Errorf("bundles: %v, want all but the third", got)
		}
		if _, err := r.Bundle(note(3)); !errors.Is(err, store.ErrNotFound) {
			e.Errorf("the failed one: %v", err)
		}
		return nil
	})
	e.check()
}

func testReadOnlyFailure(e *env) {
	e.putNotes(0, 3)
	err := e.store().Update(e.Context(), func(w store.Writer) error {
		_, err := w.Bundle(note(99))
		return err
	})
	if !errors.Is(err, store.ErrNotFound) {
		e.Errorf("Update returned %v", err)
	}
	e.check()
}

func testPanic(e *env) {
	err := e.store().Update(e.Context(), func(w store.Writer) error {
		if err := w.PutBundle(record(e, note(1), `{}`)); err != nil {
			return err
		}
		panic("as the test wants it")
	})
	if err == nil || !strings.Contains(err.Error(), "as the test wants it") {
		e.Errorf("Update returned %v, want the panic", err)
	}
	e.putNotes(2, 3) // the writer lives
	e.view(func(r store.Reader) error {
		if _, err := r.Bundle(note(1)); !errors.Is(err, store.ErrNotFound) {
			e.Errorf("the bundle of the panicked update: %v", err)
		}
		return nil
	})
}

func testGoexit(e *env) {
	e.store()
	var wg sync.WaitGroup
	for n := range 6 {
		wg.Go(func() {
			err := e.store().Update(e.Context(), func(w store.Writer) error {
				if err := w.PutBundle(record(e, note(n), `{}`)); err != nil {
					return err
				}
				if n%2 == 1 {
					runtime.Goexit()
				}
				return nil
			})
			if (n%2 == 1) != (err != nil) {
				e.Errorf("update %d: %v", n, err)
			}
		})
	}
	wg.Wait()
	e.view(func(r store.Reader) error {
		if got := rids(e, r, nil, ""); len(got) != 3 {
			e.Errorf("bundles: %v, want three", got)
		}
		return nil
	})
	e.check()
}

func testReadOwnWrites(e *env) {
	e.putNotes(0, 2)
	e.update(func(w store.Writer) error {
		if err := errors.Join(w.PutBundle(record(e, note(5), `{"a":1}`)), w.DeleteBundle(note(0)), w.PutValue("v", []byte("1"))); err != nil {
			return err
		}
		if rec, err := w.Bundle(note(5)); err != nil || string(rec.Bundle.Contents) != `{"a":1}` {
			e.Errorf("Bundle of an own write: %v, %v", rec, err)
		}
		if _, err := w.Manifest(note(0)); !errors.Is(err, store.ErrNotFound) {
			e.Errorf("Manifest of an own deletion: %v", err)
		}
		if got := rids(e, w, nil, ""); fmt.Sprint(got) != fmt.Sprint([]rid.RID{note(1), note(5)}) {
			e.Errorf("RIDs: %v", got)
		}
		if types, err := w.Types(); err != nil || types[noteType] != 2 {
			e.Errorf("Types: %v, %v", types, err)
		}
		seqs, err := w.AppendInbox(store.InboxRow{RID: note(1)}, store.InboxRow{RID: note(2)})
		if err != nil {
			return err
		}
		if err := w.DeleteInbox(seqs[0]); err != nil {
			return err
		}
		if n, err := w.InboxLen(); n != 1 || err != nil {
			e.Errorf("InboxLen: %d, %v", n, err)
		}
		if _, err := w.Enqueue(store.Outbox, []rid.RID{peerA, peerB}, store.QueueRow{RID: note(1), Event: []byte("abc")}, store.QueueLimits{}); err != nil {
			return err
		}
		if s, err := w.QueueStats(store.Outbox, peerA); err != nil || s.Rows != 1 || s.Bytes != 3 {
			e.Errorf("QueueStats: %+v, %v", s, err)
		}
		if all, err := w.Queues(store.Outbox); err != nil || len(all) != 2 || all[peerB].Rows != 1 {
			e.Errorf("Queues: %+v, %v", all, err)
		}
		if got := rowSeqs(e, w, store.Outbox, peerA); len(got) != 1 {
			e.Errorf("QueueRows: %v", got)
		}
		return nil
	})
	e.check()
}

func testReadAfterUpdate(e *env) {
	for n := range 20 {
		e.putNotes(n, n+1)
		e.view(func(r store.Reader) error {
			_, err := r.Bundle(note(n))
			return err
		})
	}
}

func testSnapshot(e *env) {
	e.putNotes(0, 10)
	e.view(func(r store.Reader) error {
		before := rids(e, r, nil, "")
		done := make(chan error, 1)
		go func() {
			done <- e.store().Update(e.Context(), func(w store.Writer) error {
				return errors.Join(w.PutBundle(record(e, note(3), `{"new":true}`)), w.DeleteBundle(note(4)), w.PutBundle(record(e, note(50), `{}`)))
			})
		}()
		if err := <-done; err != nil {
			return err
		}
		if after := rids(e, r, nil, ""); fmt.Sprint(after) != fmt.Sprint(before) {
			e.Errorf("RIDs changed inside a view: %v, then %v", before, after)
		}
		if rec, err := r.Bundle(note(3)); err != nil || string(rec.Bundle.Contents) != `{"n":3}` {
			e.Errorf("Bundle changed inside a view: %s, %v", rec.Bundle.Contents, err)
		}
		if _, err := r.Bundle(note(4)); err != nil {
			e.Errorf("Bundle vanished inside a view: %v", err)
		}
		return nil
	})
}

func testValidAfterView(e *env) {
	e.putNotes(0, 100)
	e.update(func(w store.Writer) error {
		_, err := w.Enqueue(store.Outbox, []rid.RID{peerA}, store.QueueRow{RID: note(1), Event: []byte("event")}, store.QueueLimits{})
		if err != nil {
			return err
		}
		_, err = w.AppendInbox(store.InboxRow{RID: note(1), Data: []byte("data")})
		return errors.Join(err, w.PutValue("v", []byte("value")))
	})
	var kept []store.Record
	var rows []store.QueueRow
	var inbox []store.InboxRow
	var value []byte
	e.view(func(r store.Reader) (err error) {
		for rec, err := range r.Records(nil, "") {
			if err != nil {
				return err
			}
			kept = append(kept, rec)
		}
		for row, err := range r.QueueRows(store.Outbox, peerA, 0) {
			if err != nil {
				return err
			}
			rows = append(rows, row)
		}
		for row, err := range r.Inbox(0) {
			if err != nil {
				return err
			}
			inbox = append(inbox, row)
		}
		value, err = r.Value("v")
		return err
	})
	for n := range 100 { // write over what they may alias
		e.update(func(w store.Writer) error {
			return errors.Join(w.DeleteBundle(note(n)), w.PutBundle(record(e, note(n+1000), strings.Repeat("x", 500))))
		})
	}
	for n, rec := range kept {
		if want := record(e, note(n), fmt.Sprintf(`{"n":%d}`, n)); !sameRecord(rec, want) {
			e.Fatalf("record %d became %+v", n, rec)
		}
	}
	if string(rows[0].Event) != "event" || string(inbox[0].Data) != "data" || string(value) != "value" {
		e.Errorf("became %q, %q, %q", rows[0].Event, inbox[0].Data, value)
	}
	value[0] = 'V' // and it is the caller's to change
	e.view(func(r store.Reader) error {
		if again, err := r.Value("v"); err != nil || string(again) != "value" {
			e.Errorf("Value: %q, %v", again, err)
		}
		return nil
	})
}

func testOver(e *env) {
	e.putNotes(0, 1)
	var r store.Reader
	var w store.Writer
	e.view(func(got store.Reader) error { r = got; return nil })
	e.update(func(got store.Writer) error { w = got; return nil })
	if _, err := r.Bundle(note(0)); err == nil {
		e.Error("a Reader still reads after its view")
	}
	if err := w.PutBundle(record(e, note(1), `{}`)); err == nil {
		e.Error("a Writer still writes after its update")
	}
	for _, err := range w.RIDs(nil, "") {
		if err == nil {
			e.Error("a Writer still lists after its update")
		}
	}
	e.check()
}

func testCancelWaiting(e *env) {
	s := e.store()
	began, release := make(chan struct{}), make(chan struct{})
	first := make(chan error, 1)
	var once sync.Once
	go func() {
		first <- s.Update(context.Background(), func(w store.Writer) error {
			once.Do(func() { close(began) })
			<-release
			return w.PutValue("first", []byte("1"))
		})
	}()
	<-began
	ctx, cancel := context.WithCancel(context.Background())
	second := make(chan error, 1)
	go func() {
		second <- s.Update(ctx, func(w store.Writer) error { return w.PutValue("second", []byte("1")) })
	}()
	cancel()
	if err := <-second; !errors.Is(err, context.Canceled) {
		e.Errorf("the waiting update returned %v", err)
	}
	close(release)
	if err := <-first; err != nil {
		e.Errorf("the running update returned %v", err)
	}
	e.view(func(r store.Reader) error {
		if _, err := r.Value("first"); err != nil {
			e.Errorf("the running one: %v", err)
		}
		if _, err := r.Value("second"); !errors.Is(err, store.ErrNotFound) {
			e.Errorf("the cancelled one: %v", err)
		}
		return nil
	})
}

func testEndedContext(e *env) {
	s := e.store()
	err := s.Update(ended(), func(store.Writer) error { e.Error("an update ran"); return nil })
	if !errors.Is(err, context.Canceled) {
		e.Errorf("Update returned %v", err)
	}
	err = s.View(ended(), func(store.Reader) error { e.Error("a view ran"); return nil })
	if !errors.Is(err, context.Canceled) {
		e.Errorf("View returned %v", err)
	}
}

func testCancelIterator(e *env) {
	e.putNotes(0, 2000)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	seen := 0
	err := e.store().View(ctx, func(r store.Reader) error {
		for _, err := range r.RIDs(nil, "") {
			if err != nil {
				return err
			}
			seen++
			cancel()
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) || seen >= 2000 {
		e.Errorf("View returned %v after %d RIDs", err, seen)
	}
}

func testConcurrentUpdates(e *env) {
	s := e.store()
	const workers, each = 16, 25
	var wg sync.WaitGroup
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for last := 0; ; {
				select {
				case <-stop:
					return
				default:
				}
				err := s.View(e.Context(), func(r store.Reader) error {
					n := len(rids(e, r, nil, ""))
					types, err := r.Types()
					if err != nil || types[noteType] != n || n < last {
						e.Errorf("a view saw %d RIDs, counted %v, after %d: %v", n, types, last, err)
					}
					last = n
					return nil
				})
				if err != nil {
					e.Errorf("View: %v", err)
					return
				}
			}
		})
	}
	for worker := range workers {
		wg.Go(func() {
			for n := range each {
				err := s.Update(e.Context(), func(w store.Writer) error {
					if err := w.PutBundle(record(e, note(worker*each+n), `{}`)); err != nil {
						return err
					}
					_, err := w.AppendInbox(store.InboxRow{RID: note(n), Data: []byte{byte(worker)}})
					return err
				})
				if err != nil {
					e.Errorf("Update: %v", err)
				}
			}
		})
	}
	wg.Wait()
	close(stop)
	readers.Wait()
	if types := e.types(); types[noteType] != workers*each {
		e.Errorf("Types: %v", types)
	}
	e.reopen()
	e.view(func(r store.Reader) error {
		if n, err := r.InboxLen(); n != workers*each || err != nil {
			e.Errorf("InboxLen: %d, %v", n, err)
		}
		return nil
	})
	e.types()
	e.check()
}

func testConcurrentFailures(e *env) {
	s := e.store()
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			for n := range 20 {
				id := worker*20 + n
				err := s.Update(e.Context(), func(w store.Writer) error {
					if err := w.PutBundle(record(e, note(id), `{}`)); err != nil {
						return err
					}
					if _, err := w.AppendInbox(store.InboxRow{RID: note(id)}); err != nil {
						return err
					}
					if _, err := w.Enqueue(store.Outbox, []rid.RID{peerA, peerB}, store.QueueRow{RID: note(id), Event: []byte("e")}, store.QueueLimits{}); err != nil {
						return err
					}
					if id%3 == 0 {
						return errTest
					}
					return nil
				})
				if (id%3 == 0) != errors.Is(err, errTest) || id%3 != 0 && err != nil {
					e.Errorf("update %d: %v", id, err)
				}
			}
		})
	}
	wg.Wait()
	const good = 160 - 54
	e.view(func(r store.Reader) error {
		if n, err := r.InboxLen(); n != good || err != nil {
			e.Errorf("InboxLen: %d, %v, want %d", n, err, good)
		}
		for _, got := range rids(e, r, nil, "") {
			var id int
			if _, err := fmt.Sscanf(got.Reference(), "%d", &id); err != nil || id%3 == 0 {
				e.Errorf("%s is there (%v)", got, err)
			}
		}
		return nil
	})
	if types := e.types(); types[noteType] != good {
		e.Errorf("Types: %v, want %d", types, good)
	}
	if s := e.stats(store.Outbox, peerB); s.Rows != good || s.Bytes != good {
		e.Errorf("QueueStats: %+v, want %d", s, good)
	}
	e.check()
}
