package admin

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"iter"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/koi-net/koi-operator/node/admin/client"
)

// DefaultFeedCapacity is how many changes a Feed keeps for watchers that come
// back or lag.
const DefaultFeedCapacity = 4096

// chunk bounds what a subscriber copies out of the ring at once.
const chunk = 128

// Feed keeps the latest changes of a node and hands them to any number of
// subscribers. Subscribers share one ring: a slow one costs nothing, and once
// the ring has overtaken it, it gets a reset and goes on from the present.
//
// Tokens are of one Feed: after a restart, which may have missed nothing or
// everything, an old token leads to a reset.
type Feed struct {
	prefix string // of every token
	clock  func() time.Time

	mu      sync.Mutex
	ring    []client.Change
	last    uint64        // sequence number of the latest change, 0 before the first
	changed chan struct{} // closed and replaced by Publish
	closed  bool
	done    chan struct{} // closed by Close
}

// NewFeed makes a Feed for the store of the given ID that keeps capacity
// changes (0: DefaultFeedCapacity). clock tells the time (nil: time.Now).
func NewFeed(storeID string, capacity int, clock func() time.Time) *Feed {
	if capacity <= 0 {
		capacity = DefaultFeedCapacity
	}
	if clock == nil {
		clock = time.Now
	}
	var run [6]byte
	_, _ = rand.Read(run[:]) // crypto/rand.Read never fails
	return &Feed{
		prefix:  storeID + "." + hex.EncodeToString(run[:]) + ".",
		clock:   clock,
		ring:    make([]client.Change, capacity),
		changed: make(chan struct{}),
		done:    make(chan struct{}),
	}
}

// Publish adds a change, filling in its token and time. It never waits.
func (f *Feed) Publish(c client.Change) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return
	}
	f.last++
	c.Token, c.Time = f.token(f.last), f.clock().UTC()
	f.ring[f.last%uint64(len(f.ring))] = c
	close(f.changed)
	f.changed = make(chan struct{})
}

// Close ends all subscriptions, present and future, and a backup that is being
// sent. Call it before an http.Server's Shutdown, which otherwise waits for them.
func (f *Feed) Close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.closed {
		f.closed = true
		close(f.changed)
		close(f.done)
	}
}

// Token returns the token of the latest change.
func (f *Feed) Token() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.token(f.last)
}

// Subscribe yields the changes after the token since, until ctx ends or the
// Feed is closed. Without since it begins with a heartbeat that carries the
// current token. Where the token is unknown, or the subscriber fell too far
// behind, it yields a reset with the current token and goes on from there: who
// lists after the reset misses nothing.
func (f *Feed) Subscribe(ctx context.Context, since string) iter.Seq[client.Change] {
	return f.subscribe(ctx, since, 0)
}

// subscribe is Subscribe with a heartbeat wherever nothing was yielded for the
// given interval (0: never).
func (f *Feed) subscribe(ctx context.Context, since string, heartbeat time.Duration) iter.Seq[client.Change] {
	return func(yield func(client.Change) bool) {
		var tick <-chan time.Time
		var timer *time.Timer
		if heartbeat > 0 {
			timer = time.NewTimer(heartbeat)
			defer timer.Stop()
			tick = timer.C
		}
		at, first := f.start(since)
		if !yieldAll(yield, first) {
			return
		}
		buf := make([]client.Change, 0, chunk)
		for ctx.Err() == nil {
			var wait <-chan struct{}
			buf, at, wait = f.after(at, buf[:0])
			if len(buf) == 0 {
				if wait == nil {
					return
				}
				select {
				case <-ctx.Done():
					return
				case <-wait:
					continue
				case <-tick:
					buf = append(buf, f.mark(client.ChangeHeartbeat, at))
				}
			}
			if !yieldAll(yield, buf) {
				return
			}
			if timer != nil {
				timer.Reset(heartbeat)
			}
		}
	}
}

func yieldAll(yield func(client.Change) bool, changes []client.Change) bool {
	for _, c := range changes {
		if !yield(c) {
			return false
		}
	}
	return true
}

// start returns the position a subscription begins after and what it says first.
func (f *Feed) start(since string) (at uint64, first []client.Change) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if since == "" {
		return f.last, []client.Change{f.markLocked(client.ChangeHeartbeat, f.last)}
	}
	digits, ours := strings.CutPrefix(since, f.prefix)
	at, err := strconv.ParseUint(digits, 10, 64)
	if !ours || err != nil || at > f.last || f.last-at > uint64(len(f.ring)) {
		return f.last, []client.Change{f.markLocked(client.ChangeReset, f.last)}
	}
	return at, nil
}

// after appends to buf the changes that follow at, at most chunk. Where there
// are none, wait is closed when there may be; it is nil when the feed is closed.
func (f *Feed) after(at uint64, buf []client.Change) (_ []client.Change, next uint64, wait <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return buf, at, nil
	}
	if f.last-at > uint64(len(f.ring)) {
		return append(buf, f.markLocked(client.ChangeReset, f.last)), f.last, f.changed
	}
	for at < f.last && len(buf) < chunk {
		at++
		buf = append(buf, f.ring[at%uint64(len(f.ring))])
	}
	return buf, at, f.changed
}

func (f *Feed) mark(kind client.ChangeKind, at uint64) client.Change {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.markLocked(kind, at)
}

func (f *Feed) markLocked(kind client.ChangeKind, at uint64) client.Change {
	return client.Change{Kind: kind, Token: f.token(at), Time: f.clock().UTC()}
}

func (f *Feed) token(seq uint64) string { return f.prefix + strconv.FormatUint(seq, 10) }
