package peer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

// serveQueue serves poll queues in both generations.
func serveQueue(t *testing.T, polls *Polls) *testPeer {
	t.Helper()
	p := newTestPeer(t)
	p.polls = polls
	return p
}

// pollerFunc is a Poller.
type pollerFunc func(ctx context.Context, base string, limit int) ([]protocol.Event, error)

func (f pollerFunc) Poll(ctx context.Context, t Target, limit int) (Received, error) {
	events, err := f(ctx, t.URL, limit)
	return Received{Events: events}, err
}

func (pollerFunc) Signs(Target) bool { return false }

// sink collects what polling brings in.
type sink struct {
	mu   sync.Mutex
	err  error
	got  []string
	fail int
}

func (s *sink) accept(_ context.Context, got Received) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		s.fail++
		return s.err
	}
	for _, e := range got.Events {
		s.got = append(s.got, strings.TrimSpace(string(got.Source)+" "+e.RID.Reference()))
	}
	return nil
}

func (s *sink) set(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

func (s *sink) has() (got []string, failed int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.got), s.fail
}

func runPolling(t *testing.T, c PollingConfig) *Polling {
	t.Helper()
	p, err := NewPolling(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return p
}

// TestPollingDrains: all that waits comes in one turn, in order, and events
// that are not taken in at first are not lost.
func TestPollingDrains(t *testing.T) {
	s := newStore(t)
	const self = "orn:koi-net.node:self+1"
	all := refs(95)
	queue(t, s, store.PollQueue, self, all...)
	h := serveQueue(t, newPolls(t, PollsConfig{Store: s, Rows: 10}))
	in := &sink{err: errors.New("inbox full")}
	runPolling(t, PollingConfig{
		Client:   localClient(t, ClientConfig{}),
		Targets:  func() []Target { return []Target{{RID: peerA, URL: h.URL + "/koi-net"}} },
		Accept:   in.accept,
		Interval: time.Hour, // one turn must do
		RetryCap: 5 * time.Millisecond,
	})
	eventually(t, "refused a few times", func() bool { _, n := in.has(); return n > 2 })
	if n := rows(t, s, store.PollQueue, self); n != len(all) {
		t.Errorf("%d rows are left before anything was taken in", n)
	}
	in.set(nil)
	eventually(t, "drained", func() bool { return rows(t, s, store.PollQueue, self) == 0 })
	got, _ := in.has()
	if len(got) != len(all) || got[0] != "0000" || got[94] != "0094" || !slices.IsSorted(got) {
		t.Errorf("got %v", got)
	}
}

// TestPollingTargetsDoNotDelayEachOther: one hangs, one fails, one answers.
func TestPollingTargetsDoNotDelayEachOther(t *testing.T) {
	var mu sync.Mutex
	calls := map[string]int{}
	count := func(base string) int {
		mu.Lock()
		defer mu.Unlock()
		return calls[base]
	}
	targets := []Target{
		{RID: "orn:koi-net.node:hang+1", URL: "hang"}, {RID: "orn:koi-net.node:fail+1", URL: "fail"}, {RID: "orn:koi-net.node:good+1", URL: "good"},
	}
	fail := errors.New("connection refused")
	p := runPolling(t, PollingConfig{
		Client: pollerFunc(func(ctx context.Context, base string, _ int) ([]protocol.Event, error) {
			mu.Lock()
			calls[base]++
			err := fail
			mu.Unlock()
			switch base {
			case "hang":
				<-ctx.Done()
				return nil, ctx.Err()
			case "fail":
				return nil, err
			}
			return nil, nil
		}),
		Targets:  func() []Target { mu.Lock(); defer mu.Unlock(); return slices.Clone(targets) },
		Accept:   (&sink{}).accept,
		Interval: 2 * time.Millisecond,
		RetryCap: 8 * time.Millisecond,
	})
	eventually(t, "the good one is polled on", func() bool { return count("good") > 20 })
	eventually(t, "the failing one is tried on", func() bool { return count("fail") > 3 })
	if n := count("hang"); n != 1 {
		t.Errorf("the hanging one is polled %d times at once", n)
	}
	if p.Health("orn:koi-net.node:fail+1") == "" || p.Health("orn:koi-net.node:good+1") != "" {
		t.Errorf("health: %q and %q", p.Health("orn:koi-net.node:fail+1"), p.Health("orn:koi-net.node:good+1"))
	}
	mu.Lock()
	fail = nil
	mu.Unlock()
	eventually(t, "recovered", func() bool { return p.Health("orn:koi-net.node:fail+1") == "" })

	mu.Lock()
	targets = targets[:2]
	mu.Unlock()
	eventually(t, "a target that is no more is forgotten", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.sources) == 2
	})
}

// TestPollingWake: a turn begins at once, but never for those in back-off.
func TestPollingWake(t *testing.T) {
	var mu sync.Mutex
	calls := map[string]int{}
	p := runPolling(t, PollingConfig{
		Client: pollerFunc(func(_ context.Context, base string, _ int) ([]protocol.Event, error) {
			mu.Lock()
			defer mu.Unlock()
			calls[base]++
			if base == "fail" {
				return nil, errors.New("no")
			}
			return nil, nil
		}),
		Targets:  func() []Target { return []Target{{RID: peerA, URL: "good"}, {RID: peerB, URL: "fail"}} },
		Accept:   (&sink{}).accept,
		Interval: time.Hour,
		RetryCap: time.Hour,
	})
	eventually(t, "polled and failed", func() bool { return p.Health(peerB) != "" })
	for i := range 3 {
		p.Wake()
		eventually(t, "polled again", func() bool { mu.Lock(); defer mu.Unlock(); return calls["good"] >= 2+i })
	}
	mu.Lock()
	defer mu.Unlock()
	if calls["fail"] != 1 {
		t.Errorf("the one in back-off was polled %d times", calls["fail"])
	}
}

// TestPollingEndlessPeer: a peer that always has more does not keep others out
// of the only place.
func TestPollingEndlessPeer(t *testing.T) {
	var mu sync.Mutex
	calls := map[string]int{}
	runPolling(t, PollingConfig{
		Client: pollerFunc(func(ctx context.Context, base string, _ int) ([]protocol.Event, error) {
			mu.Lock()
			calls[base]++
			n := calls[base]
			mu.Unlock()
			if base == "endless" {
				return []protocol.Event{{RID: rid.RID(fmt.Sprintf("orn:t:%d", n)), EventType: protocol.New}}, ctx.Err()
			}
			return nil, nil
		}),
		Targets:     func() []Target { return []Target{{RID: peerA, URL: "endless"}, {RID: peerB, URL: "good"}} },
		Accept:      func(context.Context, Received) error { return nil },
		Interval:    time.Millisecond,
		Concurrency: 1,
	})
	eventually(t, "both are polled on", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return calls["good"] > 5 && calls["endless"] > 2*drainRounds
	})
}

// TestPollingWakeDuringAPoll: what a poll in flight may have come too early for is
// asked for again.
func TestPollingWakeDuringAPoll(t *testing.T) {
	asked, release := make(chan struct{}, 10), make(chan struct{})
	p := runPolling(t, PollingConfig{
		Client: pollerFunc(func(ctx context.Context, _ string, _ int) ([]protocol.Event, error) {
			asked <- struct{}{}
			select {
			case <-release:
			case <-ctx.Done():
			}
			return nil, nil
		}),
		Targets:  func() []Target { return []Target{{RID: peerA, URL: "a"}} },
		Accept:   (&sink{}).accept,
		Interval: time.Hour,
	})
	<-asked
	p.Wake()
	eventually(t, "the wake is noticed", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return !p.all
	})
	close(release)
	select {
	case <-asked:
	case <-time.After(10 * time.Second):
		t.Error("the target is not polled again")
	}
}

// TestPollingFollowsTheCircuit: polls that are not made are no failures of the peer,
// and the first one after the circuit closed is made at the next turn.
func TestPollingFollowsTheCircuit(t *testing.T) {
	var mu sync.Mutex
	calls, open := 0, true
	p := runPolling(t, PollingConfig{
		Client: pollerFunc(func(context.Context, string, int) ([]protocol.Event, error) {
			mu.Lock()
			defer mu.Unlock()
			calls++
			if open {
				return nil, &CircuitError{Failures: 3, Until: time.Now().Add(time.Hour), Last: errDown}
			}
			return nil, nil
		}),
		Targets:  func() []Target { return []Target{{RID: peerA, URL: "shut"}} },
		Accept:   (&sink{}).accept,
		Interval: time.Millisecond,
		RetryCap: time.Hour,
	})
	eventually(t, "looked at again and again", func() bool { mu.Lock(); defer mu.Unlock(); return calls > 20 })
	if h := p.Health(peerA); !strings.Contains(h, errDown.Error()) {
		t.Errorf("health: %q", h)
	}
	mu.Lock()
	open = false
	mu.Unlock()
	eventually(t, "healthy again", func() bool { return p.Health(peerA) == "" })
}
