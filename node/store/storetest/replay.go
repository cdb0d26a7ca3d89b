package storetest

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/koi-net/koi-operator/node/store"
)

var replayTests = []namedTest{
	{"a key is seen once it was noted", testReplaySeen},
	{"what was noted survives reopening", testReplayReopen},
	{"the oldest leave at the bound in rows", testReplayRows},
	{"keys leave when they are older than the bound", testReplayAge},
	{"a key still held counts whatever its age", testReplayHeld},
	{"both bounds hold together", testReplayBoth},
	{"a lowered bound is reached little by little", testReplayLowered},
	{"all too old at once leave little by little", testReplayAllOld},
	{"keys leave in the order of noting", testReplayOrder},
	{"a zero time is now", testReplayTime},
	{"an error undoes noting and dropping", testReplayUndone},
	{"an update sees its own notes", testReplayOwnWrites},
	{"a view is a snapshot of it", testReplaySnapshot},
	{"of many that note one key one is the first", testReplayConcurrent},
	{"one that fails was not the first", testReplayConcurrentFailures},
	{"it is of no use after its transaction", testReplayOver},
}

// replayKey names body n.
func replayKey(n int) [32]byte { return sha256.Sum256(fmt.Appendf(nil, "body %d", n)) }

// remember notes body n at second n in an update of its own.
func (e *env) remember(n int, bounds store.ReplayBounds) bool {
	e.Helper()
	return e.rememberAt(n, when(n), bounds)
}

func (e *env) rememberAt(n int, at time.Time, bounds store.ReplayBounds) (seen bool) {
	e.Helper()
	e.update(func(w store.Writer) (err error) {
		seen, err = w.Remember(replayKey(n), at, bounds)
		return err
	})
	return seen
}

// rememberAll notes the bodies from to to-1 in one update, without a bound.
func (e *env) rememberAll(from, to int) {
	e.Helper()
	e.update(func(w store.Writer) error {
		for n := from; n < to; n++ {
			if seen, err := w.Remember(replayKey(n), when(n), store.ReplayBounds{}); seen || err != nil {
				return fmt.Errorf("body %d: seen %t, %w", n, seen, err)
			}
		}
		return nil
	})
}

// held lists which of the bodies from 0 to below-1 are remembered.
func held(e *env, r store.Reader, below int) []int {
	e.Helper()
	var all []int
	for n := range below {
		yes, err := r.Remembered(replayKey(n))
		if err != nil {
			e.Fatalf("Remembered: %v", err)
		}
		if yes {
			all = append(all, n)
		}
	}
	return all
}

// wantHeld wants exactly these of the bodies below below to be remembered, and
// no other.
func (e *env) wantHeld(below int, want ...int) {
	e.Helper()
	e.view(func(r store.Reader) error {
		if got := held(e, r, below); !slices.Equal(got, want) {
			e.Errorf("remembered: %v, want %v", got, want)
		}
		if n, err := r.ReplayLen(); n != len(want) || err != nil {
			e.Errorf("ReplayLen: %d, %v, want %d", n, err, len(want))
		}
		return nil
	})
}

// span lists from to to-1.
func span(from, to int) (all []int) {
	for n := from; n < to; n++ {
		all = append(all, n)
	}
	return all
}

func testReplaySeen(e *env) {
	e.wantHeld(5)
	for n := range 3 {
		if e.remember(n, store.ReplayBounds{}) {
			e.Errorf("body %d was seen before it came", n)
		}
	}
	for range 2 {
		for n := range 3 {
			if !e.remember(n, store.ReplayBounds{}) {
				e.Errorf("body %d came again and was not seen", n)
			}
		}
	}
	e.wantHeld(5, 0, 1, 2)
	e.check()
}

func testReplayReopen(e *env) {
	const all = 2000
	bounds := store.ReplayBounds{Rows: 1500}
	for round := range 4 {
		e.update(func(w store.Writer) error {
			for n := round * all / 4; n < (round+1)*all/4; n++ {
				if seen, err := w.Remember(replayKey(n), when(n), bounds); seen || err != nil {
					return fmt.Errorf("body %d: seen %t, %w", n, seen, err)
				}
			}
			return nil
		})
		e.reopen()
	}
	e.wantHeld(all, span(all-1500, all)...)
	e.check()
	// The order of noting goes on where it was.
	if e.remember(all, store.ReplayBounds{Rows: 1500}) || !e.remember(all-1500+1, bounds) {
		e.Error("after reopening a new body is seen, or an old one is not")
	}
	e.wantHeld(all+1, span(all-1500+1, all+1)...)
	e.check()
}

func testReplayRows(e *env) {
	bounds := store.ReplayBounds{Rows: 3}
	for n := range 10 {
		e.remember(n, bounds)
		e.wantHeld(12, span(max(0, n-2), n+1)...)
	}
	// Being seen again moves nothing.
	if !e.remember(7, bounds) {
		e.Error("body 7 is not seen")
	}
	e.remember(10, bounds)
	e.wantHeld(12, 8, 9, 10)
	// What has left is new.
	if e.remember(7, bounds) {
		e.Error("body 7 is seen after it has left")
	}
	e.wantHeld(12, 7, 9, 10)
	e.reopen()
	e.remember(11, store.ReplayBounds{Rows: 1})
	e.wantHeld(12, 11)
	e.check()
}

func testReplayAge(e *env) {
	bounds := store.ReplayBounds{Age: 10 * time.Second}
	for n := range 5 {
		e.remember(n, bounds)
	}
	e.remember(10, bounds) // body 0 is as old as the bound, not older
	e.wantHeld(40, 0, 1, 2, 3, 4, 10)
	// To the second; an engine may keep no finer times.
	e.rememberAt(11, when(12), bounds)
	e.wantHeld(40, append(span(2, 5), 10, 11)...)
	e.reopen()
	e.rememberAt(12, when(16), bounds)
	e.wantHeld(40, 10, 11, 12)
	e.remember(39, bounds)
	e.wantHeld(40, 39)
	e.check()
}

func testReplayHeld(e *env) {
	bounds := store.ReplayBounds{Age: 10 * time.Second}
	e.remember(0, bounds)
	e.remember(1, bounds)
	if !e.rememberAt(0, when(1000), bounds) {
		e.Error("a key that is held is not seen")
	}
	e.wantHeld(3, 0, 1) // and nothing has changed
	e.rememberAt(2, when(1000), bounds)
	e.wantHeld(3, 2)
}

func testReplayBoth(e *env) {
	for n := range 6 {
		e.remember(n, store.ReplayBounds{})
	}
	e.wantHeld(9, span(0, 6)...)
	e.rememberAt(6, when(8), store.ReplayBounds{Rows: 5, Age: 5 * time.Second}) // age takes 0 to 2
	e.wantHeld(9, 3, 4, 5, 6)
	e.rememberAt(7, when(8), store.ReplayBounds{Rows: 3, Age: time.Hour}) // rows take 3 and 4
	e.wantHeld(9, 5, 6, 7)
	e.rememberAt(8, when(9_999), store.ReplayBounds{Rows: -1, Age: -1}) // no bound
	e.wantHeld(9, 5, 6, 7, 8)
	e.check()
}

// shrinks notes the bodies from first on, one by one, and wants held(i) keys
// after the i-th, until only the last of them are left; and that is to be so then.
func (e *env) shrinks(first, left int, bounds store.ReplayBounds, at func(n int) time.Time, held func(i int) int) {
	e.Helper()
	for i := 1; ; i++ {
		last := first + i
		e.rememberAt(last-1, at(last-1), bounds)
		var got int
		e.view(func(r store.Reader) (err error) {
			got, err = r.ReplayLen()
			return err
		})
		if got != held(i) {
			e.Fatalf("%d keys are held after %d calls, want %d", got, i, held(i))
		}
		if i == 5 {
			e.reopen()
		}
		if got == left {
			e.wantHeld(last, span(last-left, last)...)
			e.check()
			return
		}
	}
}

func testReplayLowered(e *env) {
	e.rememberAll(0, 200)
	e.shrinks(200, 40, store.ReplayBounds{Rows: 40}, when, func(i int) int {
		return max(40, 200-i*(store.MaxReplayDrops-1))
	})
}

func testReplayAllOld(e *env) {
	e.rememberAll(0, 100)
	later := func(int) time.Time { return when(100_000) }
	calls := (100 + store.MaxReplayDrops - 1) / store.MaxReplayDrops // then only theirs are left
	e.shrinks(100, calls, store.ReplayBounds{Age: time.Minute}, later, func(i int) int {
		return i + max(0, 100-i*store.MaxReplayDrops)
	})
}

func testReplayOrder(e *env) {
	bounds := store.ReplayBounds{Rows: 4, Age: 10 * time.Second}
	e.rememberAt(0, when(100), bounds) // the clock runs ahead
	e.rememberAt(1, when(50), bounds)  // and is set
	e.rememberAt(2, when(70), bounds)
	e.wantHeld(7, 0, 1, 2)
	e.rememberAt(3, when(105), bounds)
	e.rememberAt(4, when(106), bounds) // five are too many
	e.wantHeld(7, 3, 4)                // and behind the first the next two are old
	e.rememberAt(5, when(20), bounds)
	e.rememberAt(6, when(116), bounds) // 3 is older than ten seconds, 4 is not
	e.wantHeld(7, 4, 5, 6)
	e.check()
}

func testReplayTime(e *env) {
	bounds := store.ReplayBounds{Age: 24 * time.Hour}
	e.rememberAt(0, time.Time{}, bounds)
	e.rememberAt(1, time.Now(), bounds)
	e.wantHeld(2, 0, 1)
}

func testReplayUndone(e *env) {
	bounds := store.ReplayBounds{Rows: 4}
	for n := range 4 {
		e.remember(n, bounds)
	}
	look := func() {
		e.Helper()
		e.wantHeld(9, 0, 1, 2, 3)
		e.check()
	}
	for range 2 {
		err := e.store().Update(e.Context(), func(w store.Writer) error {
			for n := 4; n < 7; n++ {
				if seen, err := w.Remember(replayKey(n), when(n), bounds); seen || err != nil {
					e.Errorf("body %d: seen %t, %v", n, seen, err)
				}
			}
			if got := held(e, w, 9); !slices.Equal(got, []int{3, 4, 5, 6}) {
				e.Errorf("remembered before the end: %v", got)
			}
			return errTest
		})
		if !errors.Is(err, errTest) {
			e.Errorf("Update: %v", err)
		}
		look()
	}
	e.reopen()
	look()
	if e.remember(4, bounds) {
		e.Error("a body whose acceptance was undone is seen")
	}
	e.wantHeld(9, 1, 2, 3, 4)
}

func testReplayOwnWrites(e *env) {
	e.update(func(w store.Writer) error {
		for n := range 3 {
			for _, want := range []bool{false, true, true} {
				if yes, err := w.Remembered(replayKey(n)); yes != want || err != nil {
					e.Errorf("Remembered: %t, %v, want %t", yes, err, want)
				}
				if seen, err := w.Remember(replayKey(n), when(n), store.ReplayBounds{Rows: 2}); seen != want || err != nil {
					e.Errorf("Remember: %t, %v, want %t", seen, err, want)
				}
				if got, err := w.ReplayLen(); got != min(n+1, 2) || err != nil {
					e.Errorf("ReplayLen: %d, %v", got, err)
				}
			}
		}
		return nil
	})
	e.wantHeld(3, 1, 2)
	e.check()
}

func testReplaySnapshot(e *env) {
	e.remember(0, store.ReplayBounds{})
	e.view(func(r store.Reader) error {
		done := make(chan error, 1)
		go func() {
			done <- e.store().Update(e.Context(), func(w store.Writer) error {
				_, err := w.Remember(replayKey(1), when(1), store.ReplayBounds{Rows: 1})
				return err
			})
		}()
		if err := <-done; err != nil {
			return err
		}
		if got := held(e, r, 2); !slices.Equal(got, []int{0}) {
			e.Errorf("remembered inside an older view: %v", got)
		}
		if n, err := r.ReplayLen(); n != 1 || err != nil {
			e.Errorf("ReplayLen: %d, %v", n, err)
		}
		return nil
	})
	e.wantHeld(2, 1)
}

func testReplayConcurrent(e *env) {
	s := e.store()
	const workers, bodies = 16, 12
	var firsts [bodies]atomic.Int32
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for n := range bodies {
				var seen bool
				err := s.Update(e.Context(), func(w store.Writer) (err error) {
					if seen, err = w.Remember(replayKey(n), when(n), store.ReplayBounds{Rows: bodies}); err != nil || seen {
						return err
					}
					_, err = w.AppendInbox(store.InboxRow{RID: note(n)})
					return err
				})
				if err != nil {
					e.Errorf("Update: %v", err)
				} else if !seen {
					firsts[n].Add(1)
				}
			}
		})
	}
	wg.Wait()
	for n := range firsts {
		if got := firsts[n].Load(); got != 1 {
			e.Errorf("body %d was new to %d updates", n, got)
		}
	}
	e.wantHeld(bodies+1, span(0, bodies)...)
	if rows := e.inbox(0); len(rows) != bodies {
		e.Errorf("%d bodies were accepted, want %d", len(rows), bodies)
	}
	e.check()
	e.reopen()
	e.wantHeld(bodies+1, span(0, bodies)...)
}

func testReplayConcurrentFailures(e *env) {
	s := e.store()
	const rounds, workers = 10, 8
	for n := range rounds {
		var wg sync.WaitGroup
		var behind, firsts atomic.Int32
		for worker := range workers {
			wg.Go(func() {
				behind.Add(1)
				var seen bool
				err := s.Update(e.Context(), func(w store.Writer) (err error) {
					// The first one holds the writer up until the others wait behind it.
					for range 1000 {
						if behind.Load() == workers {
							break
						}
						runtime.Gosched()
					}
					if seen, err = w.Remember(replayKey(n), when(n), store.ReplayBounds{}); err != nil {
						return err
					}
					if worker%2 == 0 {
						return errTest
					}
					return nil
				})
				switch {
				case worker%2 == 0 && !errors.Is(err, errTest), worker%2 == 1 && err != nil:
					e.Errorf("update %d: %v", worker, err)
				case err == nil && !seen:
					firsts.Add(1)
				}
			})
		}
		wg.Wait()
		if got := firsts.Load(); got != 1 {
			e.Errorf("body %d was new to %d updates that did not fail", n, got)
		}
	}
	e.wantHeld(rounds+1, span(0, rounds)...)
	e.check()
}

func testReplayOver(e *env) {
	e.remember(0, store.ReplayBounds{})
	var r store.Reader
	var w store.Writer
	e.view(func(got store.Reader) error { r = got; return nil })
	e.update(func(got store.Writer) error { w = got; return nil })
	for _, reader := range []store.Reader{r, w} {
		if _, err := reader.Remembered(replayKey(0)); err == nil {
			e.Error("Remembered still answers after its transaction")
		}
		if _, err := reader.ReplayLen(); err == nil {
			e.Error("ReplayLen still answers after its transaction")
		}
	}
	if _, err := w.Remember(replayKey(1), when(1), store.ReplayBounds{}); err == nil {
		e.Error("a Writer still remembers after its update")
	}
	e.wantHeld(2, 0)
}
