package scrub

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
	"github.com/koi-net/koi-operator/node/store/bolt"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func note(n int) rid.RID { return rid.RID(fmt.Sprintf("orn:example.note:%05d", n)) }

// filled is a store of n bundles; those of wrong have the hash of other contents.
func filled(t *testing.T, n int, wrong ...int) store.Store {
	t.Helper()
	st, err := bolt.Open(bolt.Options{Path: filepath.Join(t.TempDir(), "s.db"), NodeRID: "orn:koi-net.node:a+1", Create: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	err = st.Update(t.Context(), func(tx store.Writer) error {
		for i := range n {
			b, err := protocol.NewBundle(note(i), protocol.NewTimestamp(time.Unix(1, 0)), fmt.Appendf(nil, `{"n":%d}`, i))
			if err != nil {
				return err
			}
			if slices.Contains(wrong, i) {
				b.Contents = []byte(`{"n":"another"}`)
			}
			if err := tx.PutBundle(store.Record{Bundle: b, Source: "orn:koi-net.node:b+2"}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// clock is a Scrubber's time: waiting moves it, and ends the run at a given time.
type clock struct {
	now, end time.Time
	waited   []time.Duration
}

var errOver = errors.New("over")

func (c *clock) wait(_ context.Context, d time.Duration) error {
	c.waited = append(c.waited, d)
	if c.now = c.now.Add(d); c.now.After(c.end) {
		return errOver
	}
	return nil
}

func (c *clock) scrubber(t *testing.T, st store.Store, report func(Fault)) *Scrubber {
	t.Helper()
	s, err := New(Config{Store: st, Report: func(_ context.Context, f Fault) { report(f) }, Now: func() time.Time { return c.now }})
	if err != nil {
		t.Fatal(err)
	}
	s.wait = c.wait
	return s
}

func TestRounds(t *testing.T) {
	st := filled(t, 1200, 3, 700, 1199)
	start := time.Unix(1_000_000, 0)
	c := &clock{now: start, end: start.Add(60 * time.Hour)}
	found := map[rid.RID][]time.Duration{}
	s := c.scrubber(t, st, func(f Fault) {
		if f.Reason != HashMismatch || f.Record == nil || f.Err == nil {
			t.Errorf("fault %+v", f)
		}
		found[f.RID] = append(found[f.RID], c.now.Sub(start))
	})
	if err := s.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{3, 700, 1199} {
		at := found[note(n)]
		if len(at) != 3 { // at the start, after a day, after another
			t.Fatalf("%d was found %v", n, at)
		}
		for i := 1; i < len(at); i++ {
			if d := at[i] - at[i-1]; d < 20*time.Hour || d > 28*time.Hour {
				t.Errorf("%d was found %v: rounds are a day", n, at)
			}
		}
	}
	if len(found) != 3 {
		t.Errorf("found %v", found)
	}
	// A round takes its time.
	if d := found[note(1199)][0]; d < time.Hour || d > 13*time.Hour {
		t.Errorf("the last of 1200 was read after %s", d)
	}
}

// A restart goes on where the round was, and does not begin the next one early.
func TestPlaceIsKept(t *testing.T) {
	st := filled(t, 3*pageRows)
	start := time.Unix(1_000_000, 0)
	c := &clock{now: start, end: start.Add(5 * time.Hour)} // within the second pause of some
	if err := c.scrubber(t, st, func(f Fault) { t.Errorf("%+v", f) }).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := c.scrubber(t, st, func(Fault) {})
	at := s.place(t.Context())
	if at.After != note(2*pageRows-1) && at.After != note(pageRows-1) || !at.Began.Equal(start) || !at.Ended.IsZero() {
		t.Fatalf("the place is %+v", at)
	}
	c.end = start.Add(23 * time.Hour)
	if err := s.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if at = s.place(t.Context()); at.After != "" || !at.Began.Equal(start.Add(DefaultInterval)) {
		t.Fatalf("after the round the place is %+v", at)
	}
	// When that was is known after a restart, too.
	if at.Ended.Before(start.Add(5*time.Hour)) || at.Ended.After(c.end) {
		t.Errorf("the round ended at %s", at.Ended)
	}
	again := c.scrubber(t, st, func(Fault) {})
	if err := again.Run(t.Context()); err != nil || testutil.ToFloat64(again.last) != float64(at.Ended.Unix()) {
		t.Errorf("a restart says that a round ended at %v, %v", testutil.ToFloat64(again.last), err)
	}
	// What was kept by a clock that ran ahead counts for nothing.
	c.now = start.Add(-10 * 24 * time.Hour)
	if at = s.place(t.Context()); !at.Began.Equal(c.now) {
		t.Errorf("the place is %+v", at)
	}
}

// The rate bounds the reading, where the interval would ask for more.
func TestRate(t *testing.T) {
	c := &clock{}
	s := c.scrubber(t, filled(t, 1), func(Fault) {})
	s.cfg.Interval = time.Second
	for rate, want := range map[int64]time.Duration{DefaultRate: 250 * time.Millisecond, 1 << 20: 4 * time.Second, 1: pageBytes * time.Second} {
		s.cfg.Rate = rate
		if got := s.pause(page{rows: 10, bytes: pageBytes, total: 1000}); got != want {
			t.Errorf("%d bytes at %d a second take %s, want %s", pageBytes, rate, got, want)
		}
	}
}

// failing is a store whose pages cannot be read from some RID on.
type failing struct {
	store.Store
	from rid.RID
	err  error
}

func (f failing) View(ctx context.Context, fn func(store.Reader) error) error {
	return f.Store.View(ctx, func(tx store.Reader) error { return fn(failingReader{tx, f}) })
}

type failingReader struct {
	store.Reader
	f failing
}

func (r failingReader) RIDs(types []rid.Type, after rid.RID) iter.Seq2[rid.RID, error] {
	return func(yield func(rid.RID, error) bool) {
		for id, err := range r.Reader.RIDs(types, after) {
			if err == nil && id >= r.f.from {
				yield("", r.f.err)
				return
			}
			if !yield(id, err) {
				return
			}
		}
	}
}

// What cannot be read ends no node: it is counted, and what can be read is.
func TestWhatCannotBeReadIsCounted(t *testing.T) {
	for _, tt := range []struct {
		err    error
		counts float64
	}{{fmt.Errorf("%w: page 7", store.ErrDamaged), 3}, {errors.New("too many open files"), 0}} {
		start := time.Unix(1_000_000, 0)
		c := &clock{now: start, end: start.Add(60 * time.Hour)}
		found := 0
		s := c.scrubber(t, failing{filled(t, 100, 3, 50), note(40), tt.err}, func(Fault) { found++ })
		if err := s.Run(t.Context()); err != nil {
			t.Error(err)
		}
		if got := testutil.ToFloat64(s.faults.WithLabelValues(Structure)); got != tt.counts {
			t.Errorf("%v was counted %v times in three rounds", tt.err, got)
		}
		if found != 3 { // the third bundle, each time
			t.Errorf("%v: %d faults were reported", tt.err, found)
		}
		if last := testutil.ToFloat64(s.last); last != 0 {
			t.Errorf("%v: a round ended at %v", tt.err, last)
		}
	}
}

func TestRunEnds(t *testing.T) {
	s, err := New(Config{Store: filled(t, 1), Report: func(context.Context, Fault) {}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("it does not end")
	}
}

func TestCheck(t *testing.T) {
	b, err := protocol.NewBundle(note(1), protocol.NewTimestamp(time.Unix(1, 0)), []byte(`{"a":1.0}`))
	if err != nil {
		t.Fatal(err)
	}
	good := store.Record{Bundle: b}
	bad := good
	bad.Bundle.Contents = []byte(`{"a":2}`)
	own := bad
	own.Source = "orn:koi-net.node:a+1"
	for _, c := range []struct {
		name   string
		rec    store.Record
		err    error
		reason string
	}{
		{"good", good, nil, ""},
		{"other contents of one's own", own, nil, ""},
		{"damaged one of one's own", own, store.ErrDamaged, Damaged},
		{"other contents", bad, nil, HashMismatch},
		{"damaged", store.Record{}, fmt.Errorf("x: %w", store.ErrDamaged), Damaged},
		{"another error", store.Record{}, store.ErrClosed, ""},
	} {
		f := Check("orn:koi-net.node:a+1", note(1), c.rec, c.err)
		if f == nil && c.reason != "" || f != nil && f.Reason != c.reason {
			t.Errorf("%s: %+v", c.name, f)
		}
	}
}
