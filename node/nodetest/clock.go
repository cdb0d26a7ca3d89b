package nodetest

import (
	"sync"
	"time"

	"github.com/koi-net/koi-operator/node"
)

// Clock is a clock for the nodes of a test, safe for concurrent use; give it to
// nodes with Option. From the time it is made with it runs like the real one,
// until Stop; Advance and Set move it.
//
// By it a node tells: the timestamps of its manifests; how far ahead others' may
// be stamped; when a bundle was stored and an event queued, hence how long events
// wait for a peer that does not poll; when the answer to a poll that was never
// finished may be given to another; when a peer is due to be asked again whether
// it knows our edges, a proposal to be repeated, a refusal to be forgotten; the
// times of the admin API.
//
// Waits are real: pauses before a handler, a delivery or a poll is tried again,
// the polling interval, the bounds of requests, answers and the shutdown. A node
// that waits for something due by the Clock does so in real time as well, and
// may notice an Advance as late as that: have it look again by something that
// happens, an event of the peer or a resync of the admin API. Nodes of a net need
// a clock that runs: while it stands still they repeat nothing.
type Clock struct {
	mu      sync.Mutex
	at      time.Time
	since   time.Time // when it was at at, by the real clock
	stopped bool
}

// NewClock returns a Clock that runs, beginning at the given time.
func NewClock(at time.Time) *Clock { return &Clock{at: at, since: time.Now()} }

// Option makes a node tell the time by c.
func (c *Clock) Option() node.Option { return func(cfg *node.Config) { cfg.Clock = c.Now } }

// Now returns the time.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now()
}

func (c *Clock) now() time.Time {
	if c.stopped {
		return c.at
	}
	return c.at.Add(time.Since(c.since))
}

// Set moves the clock to a time, which may be in its past.
func (c *Clock) Set(at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at, c.since = at, time.Now()
}

// Advance moves the clock by d and returns what it shows then.
func (c *Clock) Advance(d time.Duration) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at, c.since = c.now().Add(d), time.Now()
	return c.at
}

// Stop makes the clock stand still, where Advance and Set move it: a test that
// wants to know timestamps beforehand stops the clock, then sets it.
func (c *Clock) Stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at, c.stopped = c.now(), true
}

// Run makes a clock that stands still run on.
func (c *Clock) Run() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at, c.since, c.stopped = c.now(), time.Now(), false
}
