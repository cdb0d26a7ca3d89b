package peer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

func newPolls(t *testing.T, c PollsConfig) *Polls {
	t.Helper()
	p, err := NewPolls(c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func lease(t *testing.T, p *Polls, limit int) (Lease, []string) {
	t.Helper()
	l, err := p.Lease(context.Background(), peerA, "", limit)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, raw := range l.Events() {
		e, err := protocol.DecodeEvent(raw)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, e.RID.Reference())
	}
	return l, got
}

// What one process of a peer was answered is offered to the next one: the first may
// have died before it took it in.
func TestLeaseOfAnotherProcess(t *testing.T) {
	s := newStore(t)
	p := newPolls(t, PollsConfig{Store: s})
	queue(t, s, store.PollQueue, peerA, "1", "2")
	poll := func(program string, want ...string) {
		t.Helper()
		l, err := p.Lease(context.Background(), peerA, program, 1)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, raw := range l.Events() {
			e, err := protocol.DecodeEvent(raw)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, e.RID.Reference())
		}
		expect(t, program, got, want...)
		l.Written()
		l.Release()
	}
	first, second := "koi-node/1 run/A", "koi-node/1 run/B"
	poll(first, "1")
	poll(second, "1")
	poll(second, "2")
	poll(second)
	queue(t, s, store.PollQueue, peerA, "3")
	long := strings.Repeat("x", 1<<20)
	poll(long, "3")
	p.mu.Lock()
	if n := len(p.leases[peerA].program); n > 256 {
		t.Errorf("%d bytes of a User-Agent are kept", n)
	}
	p.mu.Unlock()
	poll(long)
}

func expect(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: offered %v, want %v", what, got, want)
	}
}

// TestLease walks through the life of leases on one queue.
func TestLease(t *testing.T) {
	path := filepath.Join(t.TempDir(), "koi.db")
	s := openStore(t, path)
	now := time.Now()
	config := PollsConfig{Store: s, LeaseTimeout: time.Minute, Clock: func() time.Time { return now }}
	p := newPolls(t, config)
	queue(t, s, store.PollQueue, peerA, "1", "2", "3")
	queue(t, s, store.PollQueue, peerB, "other")

	l, got := lease(t, p, 2)
	expect(t, "limited", got, "1", "2")
	l.Release()
	if n := rows(t, s, store.PollQueue, peerA); n != 3 {
		t.Errorf("%d rows after an answer that was not written", n)
	}

	l, got = lease(t, p, 2)
	expect(t, "not written, again", got, "1", "2")
	_, got = lease(t, p, 2)
	expect(t, "while the first is being written", got)
	l.Written()
	l.Release()
	if n := rows(t, s, store.PollQueue, peerA); n != 3 {
		t.Errorf("%d rows before the peer polled again", n)
	}
	l, got = lease(t, p, 0)
	expect(t, "after a written answer", got, "3")
	if n := rows(t, s, store.PollQueue, peerA); n != 1 {
		t.Errorf("%d rows after the peer polled again", n)
	}

	// The answer hangs: after the timeout another poll gets the same, and the
	// late word of the first counts for nothing.
	now = now.Add(59 * time.Second)
	_, got = lease(t, p, 0)
	expect(t, "within the timeout", got)
	now = now.Add(2 * time.Second)
	again, got := lease(t, p, 0)
	expect(t, "after the timeout", got, "3")
	l.Written()
	l.Release()
	_, got = lease(t, p, 0)
	expect(t, "while the second is being written", got)
	again.Written()
	again.Release()

	// A restart forgets what was written: offered again, never lost.
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, path)
	config.Store = s
	p = newPolls(t, config)
	l, got = lease(t, p, 0)
	expect(t, "after a restart", got, "3")
	l.Written()
	l.Release()
	l, got = lease(t, p, 0)
	expect(t, "when all is taken", got)
	l.Written()
	l.Release()
	if len(p.leases) != 0 {
		t.Errorf("%d leases are left of empty queues", len(p.leases))
	}
	if a, b := rows(t, s, store.PollQueue, peerA), rows(t, s, store.PollQueue, peerB); a != 0 || b != 1 {
		t.Errorf("rows: %d and %d", a, b)
	}
}

func TestLeaseBounds(t *testing.T) {
	s := newStore(t)
	queue(t, s, store.PollQueue, peerA, refs(10)...)
	one := len(testEvent("orn:t:0000")) + 1
	for _, c := range []struct{ rows, bytes, limit, want int }{
		{4, 1 << 20, 0, 4}, {4, 1 << 20, 3, 3}, {4, 1 << 20, 9, 4}, {100, 3 * one, 0, 3}, {100, 1, 0, 1}, {100, 1 << 20, 0, 10},
	} {
		p := newPolls(t, PollsConfig{Store: s, Rows: c.rows, Bytes: c.bytes})
		l, got := lease(t, p, c.limit)
		l.Release()
		if len(got) != c.want {
			t.Errorf("%+v: %d events", c, len(got))
		}
	}
}

// failingStore fails to write, or to read.
type failingStore struct {
	store.Store
	update, view error
}

func (f *failingStore) Update(ctx context.Context, fn func(store.Writer) error) error {
	if f.update != nil {
		return f.update
	}
	return f.Store.Update(ctx, fn)
}

func (f *failingStore) View(ctx context.Context, fn func(store.Reader) error) error {
	if f.view != nil {
		return f.view
	}
	return f.Store.View(ctx, fn)
}

// TestLeaseSurvivesStoreFaults: a poll that fails loses neither the events nor
// the word that they were written.
func TestLeaseSurvivesStoreFaults(t *testing.T) {
	f := &failingStore{Store: newStore(t)}
	p := newPolls(t, PollsConfig{Store: f})
	queue(t, f, store.PollQueue, peerA, "1", "2")
	l, _ := lease(t, p, 1)
	l.Written()
	l.Release()
	f.update = store.ErrFull
	if _, err := p.Lease(context.Background(), peerA, "", 0); !errors.Is(err, store.ErrFull) {
		t.Errorf("full store: %v", err)
	}
	f.update, f.view = nil, store.ErrClosed
	if _, err := p.Lease(context.Background(), peerA, "", 0); !errors.Is(err, store.ErrClosed) {
		t.Errorf("closed store: %v", err)
	}
	f.view = nil
	l, got := lease(t, p, 0)
	expect(t, "after the faults", got, "2")
	l.Release()
}

func TestQueuesNobodyPollsEnd(t *testing.T) {
	s := newStore(t)
	now := time.Now()
	p := newPolls(t, PollsConfig{Store: s, QueueMaxAge: time.Hour, Clock: func() time.Time { return now }})
	queueAt(t, s, store.PollQueue, peerA, now.Add(-61*time.Minute), refs(expireRows+5)...)
	queueAt(t, s, store.PollQueue, peerA, now.Add(-59*time.Minute), "young")
	queueAt(t, s, store.PollQueue, peerB, now.Add(-59*time.Minute), "1", "2")
	n, err := p.Expire(context.Background())
	if err != nil || n != expireRows+5 {
		t.Errorf("dropped %d: %v", n, err)
	}
	resync := func(peer rid.RID) bool {
		var stats store.QueueStats
		if err := s.View(context.Background(), func(r store.Reader) (err error) {
			stats, err = r.QueueStats(store.PollQueue, peer)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return stats.ResyncNeeded
	}
	if a, b := rows(t, s, store.PollQueue, peerA), rows(t, s, store.PollQueue, peerB); a != 1 || b != 2 {
		t.Errorf("rows left: %d and %d", a, b)
	}
	if !resync(peerA) || resync(peerB) {
		t.Errorf("resync needed: %t and %t", resync(peerA), resync(peerB))
	}
	now = now.Add(2 * time.Minute)
	l, got := lease(t, p, 0) // a poll that comes too late
	expect(t, "too late", got)
	l.Release()

	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	eventually(t, "Run dropped the rest", func() bool { return rows(t, s, store.PollQueue, peerB) == 0 })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestPollOverHTTP drains a queue through the server and the client: every
// event once, in order.
func TestPollOverHTTP(t *testing.T) {
	s := newStore(t)
	all := refs(57)
	queue(t, s, store.PollQueue, "orn:koi-net.node:self+1", all...)
	h := serveQueue(t, newPolls(t, PollsConfig{Store: s, Rows: 10}))
	c := localClient(t, ClientConfig{})
	var got []string
	for round := 0; ; round++ {
		polled, err := c.Poll(context.Background(), Target{URL: h.URL + "/koi-net"}, 0)
		if err != nil || round > 10 {
			t.Fatalf("round %d: %v", round, err)
		}
		if len(polled.Events) == 0 {
			break
		}
		for _, e := range polled.Events {
			got = append(got, e.RID.Reference())
		}
	}
	if !slices.Equal(got, all) {
		t.Errorf("got %v", got)
	}
	if n := rows(t, s, store.PollQueue, "orn:koi-net.node:self+1"); n != 0 {
		t.Errorf("%d rows are left", n)
	}
}

// TestLargeBundleOverHTTP: contents at the limit come through, in both generations.
func TestLargeBundleOverHTTP(t *testing.T) {
	b := testBundle(t, "orn:t:large", fmt.Sprintf(`{"x":%q}`, bytes.Repeat([]byte("x"), protocol.DefaultLimits().ContentsBytes-8)))
	p, c := newTestPeer(t), newCaller(t, nil)
	p.bundles["orn:t:large"] = b
	p.knows(c.id)
	for _, target := range []Target{p.target(), {URL: p.URL + "/koi-net"}} {
		answer, err := c.FetchBundles(context.Background(), target, []rid.RID{"orn:t:large"})
		if err != nil || len(answer.Bundles) != 1 || !bytes.Equal(answer.Bundles[0].Contents, b.Contents) {
			t.Errorf("%d bundles: %v", len(answer.Bundles), err)
		}
	}
}
