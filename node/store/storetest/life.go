package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

var decisionTests = []namedTest{
	{"a decision is kept, replaced, removed", testDecisions},
	{"pairs are ordered and apart", testDecisionPairs},
}

func testDecisions(e *env) {
	want := store.Decision{
		Source: peerA, Target: peerB, Approved: true, EdgeType: protocol.Poll,
		RIDTypes: []rid.Type{noteType, taskType}, Decided: when(1),
	}
	same := func(a, b store.Decision) bool {
		return a.Source == b.Source && a.Target == b.Target && a.Approved == b.Approved && a.EdgeType == b.EdgeType &&
			slices.Equal(a.RIDTypes, b.RIDTypes) && a.Decided.Equal(b.Decided)
	}
	look := func() {
		e.Helper()
		e.view(func(r store.Reader) error {
			if got, err := r.Decision(peerA, peerB); err != nil || !same(got, want) {
				e.Errorf("Decision: %+v, %v, want %+v", got, err, want)
			}
			if all, err := r.Decisions(); err != nil || len(all) != 1 || !same(all[0], want) {
				e.Errorf("Decisions: %+v, %v", all, err)
			}
			return nil
		})
	}
	e.update(func(w store.Writer) error { return w.PutDecision(want) })
	look()
	want = store.Decision{Source: peerA, Target: peerB, Decided: when(2)}
	e.update(func(w store.Writer) error { return w.PutDecision(want) })
	look()
	e.reopen()
	look()
	e.check()
	for range 2 {
		e.update(func(w store.Writer) error { return w.DeleteDecision(peerA, peerB) })
		e.view(func(r store.Reader) error {
			if _, err := r.Decision(peerA, peerB); !errors.Is(err, store.ErrNotFound) {
				e.Errorf("Decision after deleting it: %v", err)
			}
			return nil
		})
	}
}

func testDecisionPairs(e *env) {
	pairs := [][2]rid.RID{{"a:b", "c:d"}, {"a:bc", "e:d"}, {"a:b", "ce:d"}, {"c:d", "a:b"}, {peerA, peerA}}
	e.update(func(w store.Writer) error {
		for n, p := range pairs {
			if err := w.PutDecision(store.Decision{Source: p[0], Target: p[1], Decided: when(n)}); err != nil {
				return err
			}
		}
		return nil
	})
	e.view(func(r store.Reader) error {
		for n, p := range pairs {
			if d, err := r.Decision(p[0], p[1]); err != nil || !d.Decided.Equal(when(n)) {
				e.Errorf("Decision(%v): %+v, %v", p, d, err)
			}
		}
		if all, err := r.Decisions(); err != nil || len(all) != len(pairs) {
			e.Errorf("Decisions: %v, %v", all, err)
		}
		return nil
	})
	err := e.store().Update(e.Context(), func(w store.Writer) error {
		return w.PutDecision(store.Decision{Source: "nobody", Target: peerA})
	})
	if !errors.Is(err, rid.ErrInvalid) {
		e.Errorf("PutDecision with a bad source: %v", err)
	}
	e.check()
}

var lifeTests = []namedTest{
	{"the sentinel never changes", testInfo},
	{"size is told", testSize},
	{"everything survives reopening", testReopen},
	{"a closed store says so", testClosed},
	{"closing waits for what runs", testCloseWaits},
	{"closing while in use", testCloseInUse},
	{"a check runs beside writers", testCheckConcurrent},
	{"an ended context ends a check", testCheckContext},
}

func testInfo(e *env) {
	info := e.store().Info()
	if info.ID == "" || info.Format == 0 || info.Created.IsZero() || info.NodeRID.Type() != rid.NodeType {
		e.Errorf("Info: %+v", info)
	}
	e.putNotes(0, 3)
	if again := e.reopen().Info(); again.ID != info.ID || again.Format != info.Format || again.NodeRID != info.NodeRID || !again.Created.Equal(info.Created) {
		e.Errorf("Info was %+v, is %+v", info, again)
	}
	other := e.open(e.T, e.TempDir())
	defer other.Close()
	if other.Info().ID == info.ID {
		e.Error("two stores have one ID")
	}
}

func testSize(e *env) {
	before, err := e.store().Size()
	if err != nil || before <= 0 {
		e.Fatalf("Size: %d, %v", before, err)
	}
	e.update(func(w store.Writer) error { return w.PutBundle(record(e, note(1), strings.Repeat("x", 8<<20))) })
	after, err := e.store().Size()
	if err != nil || after < before+(4<<20) {
		e.Errorf("Size: %d, then %d, %v", before, after, err)
	}
}

func testReopen(e *env) {
	for round := range 3 {
		e.putNotes(round*100, round*100+100)
		e.enqueue(store.Outbox, round, fmt.Sprint(round), store.QueueLimits{}, peerA)
		e.appendInbox(2)
		e.reopen()
	}
	if types := e.types(); types[noteType] != 300 {
		e.Errorf("Types: %v", types)
	}
	e.wantEvents(store.Outbox, peerA, "0", "1", "2")
	if rows := e.inbox(0); len(rows) != 6 {
		e.Errorf("%d inbox rows", len(rows))
	}
	e.check()
}

func testClosed(e *env) {
	s := e.store()
	for range 2 {
		if err := s.Close(); err != nil {
			e.Errorf("Close: %v", err)
		}
	}
	if err := s.Update(e.Context(), func(store.Writer) error { return nil }); !errors.Is(err, store.ErrClosed) {
		e.Errorf("Update: %v", err)
	}
	if err := s.View(e.Context(), func(store.Reader) error { return nil }); !errors.Is(err, store.ErrClosed) {
		e.Errorf("View: %v", err)
	}
	if err := s.Check(e.Context()); !errors.Is(err, store.ErrClosed) {
		e.Errorf("Check: %v", err)
	}
}

func testCloseWaits(e *env) {
	e.putNotes(0, 10)
	s := e.store()
	began := make(chan struct{}, 2)
	release := make(chan struct{})
	results := make(chan error, 2)
	var once sync.Once
	go func() {
		results <- s.Update(context.Background(), func(w store.Writer) error {
			once.Do(func() { began <- struct{}{} })
			<-release
			return w.PutValue("done", []byte("1"))
		})
	}()
	go func() {
		results <- s.View(context.Background(), func(r store.Reader) error {
			began <- struct{}{}
			<-release
			_, err := r.Bundle(note(1))
			return err
		})
	}()
	<-began
	<-began
	var closed atomic.Bool
	done := make(chan error, 1)
	go func() {
		err := s.Close()
		closed.Store(true)
		done <- err
	}()
	// Closing has begun when new work is refused.
	e.until("new updates are refused", func() bool {
		ctx, cancel := context.WithCancel(context.Background())
		go cancel()
		return errors.Is(s.Update(ctx, func(store.Writer) error { return nil }), store.ErrClosed)
	})
	if closed.Load() {
		e.Error("Close returned while a view and an update ran")
	}
	close(release)
	for range 2 {
		if err := <-results; err != nil {
			e.Errorf("what ran returned %v", err)
		}
	}
	if err := <-done; err != nil {
		e.Errorf("Close: %v", err)
	}
	e.s = nil
	e.view(func(r store.Reader) error {
		_, err := r.Value("done")
		return err
	})
}

func testCloseInUse(e *env) {
	s := e.store()
	var wg sync.WaitGroup
	var acked [8]atomic.Int64
	for worker := range acked {
		wg.Go(func() {
			for n := 0; ; n++ {
				err := s.Update(context.Background(), func(w store.Writer) error {
					return w.PutBundle(record(e, note(worker*100_000+n), `{}`))
				})
				if errors.Is(err, store.ErrClosed) {
					return
				}
				if err != nil {
					e.Errorf("Update: %v", err)
					return
				}
				acked[worker].Add(1)
			}
		})
		wg.Go(func() {
			for {
				err := s.View(context.Background(), func(r store.Reader) error {
					for _, err := range r.Records(nil, "") {
						if err != nil {
							return err
						}
					}
					return nil
				})
				if errors.Is(err, store.ErrClosed) {
					return
				}
				if err != nil {
					e.Errorf("View: %v", err)
					return
				}
			}
		})
	}
	e.until("every worker has written", func() bool {
		for n := range acked {
			if acked[n].Load() < 3 {
				return false
			}
		}
		return true
	})
	if err := s.Close(); err != nil {
		e.Errorf("Close: %v", err)
	}
	wg.Wait()
	e.s = nil
	e.view(func(r store.Reader) error {
		for worker := range acked {
			for n := range int(acked[worker].Load()) {
				if _, err := r.Manifest(note(worker*100_000 + n)); err != nil {
					e.Errorf("acknowledged, then: %v", err)
				}
			}
		}
		return nil
	})
	e.check()
}

func testCheckConcurrent(e *env) {
	s := e.store()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			err := s.Update(e.Context(), func(w store.Writer) error {
				if n%3 == 2 {
					return w.DeleteBundle(note((n - 2) % 500))
				}
				_, err := w.Enqueue(store.Outbox, []rid.RID{peerA, peerB}, store.QueueRow{RID: note(n % 50), Event: []byte("event")}, store.QueueLimits{Rows: 100})
				_, replayErr := w.Remember(replayKey(n), when(n), store.ReplayBounds{Rows: 50})
				return errors.Join(err, replayErr, w.PutBundle(record(e, note(n%500), strings.Repeat("z", n%5000))))
			})
			if err != nil {
				e.Errorf("Update: %v", err)
				return
			}
		}
	})
	for range 20 {
		if err := s.Check(e.Context()); err != nil {
			e.Errorf("Check: %v", err)
		}
	}
	close(stop)
	wg.Wait()
	e.check()
}

func testCheckContext(e *env) {
	e.putNotes(0, 10)
	if err := e.store().Check(ended()); !errors.Is(err, context.Canceled) {
		e.Errorf("Check: %v", err)
	}
}
