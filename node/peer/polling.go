package peer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/koi-net/koi-operator/node/rid"
)

// Defaults of PollingConfig.
const (
	DefaultPollInterval       = 5 * time.Second
	DefaultPollingConcurrency = 16
)

// drainRounds is how often a peer is polled in one turn while it has more; then
// other peers have theirs first.
const drainRounds = 100

// Poller asks a node for events; Client does.
type Poller interface {
	// Signs reports whether calls to t are signed.
	Signs(t Target) bool
	// Poll asks for at most limit events (0: all).
	Poll(ctx context.Context, t Target, limit int) (Received, error)
}

// PollingConfig says whom a partial node polls and who takes the events.
type PollingConfig struct {
	Client Poller
	// Targets returns the nodes to poll; it is asked at every turn.
	Targets func() []Target
	// Accept takes what an answer brought; nil means that it is durable. While it
	// fails it is given the same again, and the peer is not polled: a poll says
	// that the answer before it has arrived.
	Accept func(ctx context.Context, got Received) error
	// Interval is the time between two polls of a node (default
	// DefaultPollInterval).
	Interval time.Duration
	// Concurrency bounds the polls in flight (default DefaultPollingConcurrency).
	Concurrency int
	// Limit is the number of events asked for at once, 0 for all.
	Limit int
	// RetryCap is the longest back-off (default DefaultRetryCap); the first is
	// the interval.
	RetryCap time.Duration
	// Logger takes one line when a node becomes unreachable and one when it is
	// back; default: discarded.
	Logger *slog.Logger
	// Metrics takes the metrics; nil keeps them unregistered.
	Metrics prometheus.Registerer
}

// Polling is a partial node's loop over the nodes that keep events for it.
type Polling struct {
	PollingConfig
	metrics *pollingMetrics
	wake    chan struct{}
	places  chan struct{}
	workers sync.WaitGroup

	mu      sync.Mutex
	sources map[place]*source
	all     bool // the next turn polls everyone who is not in back-off
}

// place tells targets apart: a key that becomes known makes no other of one.
type place struct {
	rid rid.RID
	url string
}

// source is what is known about one target. Guarded by Polling.mu.
type source struct {
	busy     bool
	woken    bool // while busy: what waits may have come after the poll in flight
	failures int
	err      string
	due      time.Time
}

// NewPolling returns a Polling; Run starts it.
func NewPolling(c PollingConfig) (*Polling, error) {
	if c.Client == nil || c.Targets == nil || c.Accept == nil {
		return nil, errors.New("polling: client, targets and acceptor must be given")
	}
	if c.Interval <= 0 {
		c.Interval = DefaultPollInterval
	}
	if c.Concurrency <= 0 {
		c.Concurrency = DefaultPollingConcurrency
	}
	if c.RetryCap <= 0 {
		c.RetryCap = DefaultRetryCap
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	m, err := newPollingMetrics(c.Metrics)
	if err != nil {
		return nil, fmt.Errorf("polling: %w", err)
	}
	return &Polling{
		PollingConfig: c,
		metrics:       m,
		wake:          make(chan struct{}, 1),
		places:        make(chan struct{}, c.Concurrency),
		sources:       map[place]*source{},
	}, nil
}

// Run polls until ctx ends and returns when no poll is in flight any more.
func (p *Polling) Run(ctx context.Context) error {
	t := time.NewTicker(p.Interval)
	defer t.Stop()
	defer p.workers.Wait()
	for {
		p.turn(ctx, time.Now())
		select {
		case <-t.C:
		case <-p.wake:
		case <-ctx.Done():
			return nil
		}
	}
}

// Wake makes the next turn begin at once, for a node that has just introduced
// itself. It never blocks, and does not cut a back-off short.
func (p *Polling) Wake() {
	p.mu.Lock()
	p.all = true
	p.mu.Unlock()
	p.poke()
}

func (p *Polling) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Health returns why the last poll of a node failed, "" if it did not.
func (p *Polling) Health(r rid.RID) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	for at, s := range p.sources {
		if at.rid == r && s.err != "" {
			return s.err
		}
	}
	return ""
}

// turn starts a poll of every target that is due, and forgets targets that are
// no more.
func (p *Polling) turn(ctx context.Context, now time.Time) {
	targets := p.Targets()
	p.mu.Lock()
	defer p.mu.Unlock()
	all := p.all
	p.all = false
	current := make(map[place]struct{}, len(targets))
	for _, t := range targets {
		at := place{t.RID, t.URL}
		current[at] = struct{}{}
		s := p.sources[at]
		if s == nil {
			s = &source{}
			p.sources[at] = s
		}
		s.woken = s.woken || s.busy && all
		if s.busy || ctx.Err() != nil || s.due.After(now) && (!all || s.failures > 0) {
			continue
		}
		s.busy = true
		// Turns come at every interval, give or take; this one is not to be
		// repeated because another target asked for a turn in between.
		s.due = now.Add(p.Interval / 2)
		p.workers.Go(func() { p.visit(ctx, t, s) })
	}
	for at, s := range p.sources {
		if _, ok := current[at]; !ok && !s.busy {
			delete(p.sources, at)
		}
	}
}

// visit polls one target until it has no more.
func (p *Polling) visit(ctx context.Context, t Target, s *source) {
	select {
	case p.places <- struct{}{}:
	case <-ctx.Done():
		p.done(ctx, t, s, false, nil)
		return
	}
	more, err := p.drain(ctx, t)
	<-p.places
	p.done(ctx, t, s, more, err)
}

func (p *Polling) drain(ctx context.Context, t Target) (more bool, err error) {
	for range drainRounds {
		got, err := p.Client.Poll(ctx, t, p.Limit)
		p.metrics.polls.WithLabelValues(outcome(err), generation(p.Client.Signs(t))).Inc()
		if err != nil {
			return false, err
		}
		if len(got.Events) == 0 {
			return false, nil
		}
		p.metrics.events.Add(float64(len(got.Events)))
		if err := p.accept(ctx, t, got); err != nil {
			return false, err
		}
	}
	return true, nil
}

// accept hands events over until they are taken: the peer will not offer them
// again.
func (p *Polling) accept(ctx context.Context, t Target, got Received) error {
	for failures := 1; ; failures++ {
		err := p.Accept(ctx, got)
		if err == nil {
			return nil
		}
		if failures == 1 {
			p.Logger.Warn("could not take in polled events; trying again", "peer", t.RID, "url", t.URL, "events", len(got.Events), "error", err)
		}
		select {
		case <-time.After(backoff(failures, DefaultRetryBase, p.RetryCap, random)):
		case <-ctx.Done():
			return fmt.Errorf("taking in %d polled events: %w", len(got.Events), err)
		}
	}
}

func (p *Polling) done(ctx context.Context, t Target, s *source, more bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s.busy = false
	switch {
	case ctx.Err() != nil:
	case err != nil:
		p.failed(t, s, err)
	default:
		if s.failures > 0 {
			p.Logger.Info("polling a node again", "peer", t.RID, "url", t.URL, "failures", s.failures)
		}
		s.failures, s.err = 0, ""
		if more || s.woken {
			s.due = time.Time{}
			p.poke()
		}
	}
	s.woken = false
}

// failed puts a target into back-off. A poll that was not made because the circuit
// is open tells nothing new and costs nothing: the next turn may ask again.
func (p *Polling) failed(t Target, s *source, err error) {
	shut := errors.Is(err, ErrCircuitOpen)
	if !shut || s.failures == 0 {
		s.failures++
		s.err = err.Error()
		if s.failures == 1 {
			p.Logger.Warn("could not poll a node; trying again with growing pauses", "peer", t.RID, "url", t.URL, "error", err)
		}
	}
	wait := p.Interval / 2
	if !shut {
		wait = backoff(s.failures, p.Interval, p.RetryCap, random)
	}
	s.due = time.Now().Add(wait)
}
