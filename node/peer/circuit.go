package peer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// ErrCircuitOpen is wrapped by the errors of calls that were not made, because the
// last ones to the same base URL failed; see Circuits. The error is a *CircuitError.
var ErrCircuitOpen = errors.New("circuit open")

// CircuitError says why a call was not made. It wraps ErrCircuitOpen and the last
// failure.
type CircuitError struct {
	// Failures in a row led to it.
	Failures int
	// Until is when a call is let through again at the latest.
	Until time.Time
	// Last is the last failure.
	Last error
}

func (e *CircuitError) Error() string {
	return fmt.Sprintf("%s after %d failures in a row, the last of them: %s", ErrCircuitOpen, e.Failures, e.Last)
}

// Unwrap returns ErrCircuitOpen and the last failure.
func (e *CircuitError) Unwrap() []error { return []error{ErrCircuitOpen, e.Last} }

// DefaultCircuitFailures is after how many failures in a row a circuit opens.
const DefaultCircuitFailures = 3

// circuitMemory is how long a circuit is remembered that nobody asks for.
const circuitMemory = time.Hour

// circuitTurn is how long after the end of a back-off the path of the last probe
// leaves the next one to others that were refused meanwhile. They ask about once a
// second.
const circuitTurn = 2 * time.Second

// CircuitsConfig says when circuits open, and for how long.
type CircuitsConfig struct {
	// Failures in a row open a circuit (default DefaultCircuitFailures).
	Failures int
	// RetryBase and RetryCap bound the back-off of an open circuit (defaults
	// DefaultRetryBase, DefaultRetryCap): a random part (full jitter) of RetryBase,
	// doubled with each failure but the first up to RetryCap.
	RetryBase time.Duration
	RetryCap  time.Duration
	// Logger takes one line when a circuit opens and one when it closes again;
	// default: discarded.
	Logger *slog.Logger
	// Metrics takes the metrics; nil keeps them unregistered.
	Metrics prometheus.Registerer
}

// Circuits is what is known of the peers' health: one view for all calls to them,
// by base URL, as that is what is called. Where calls in a row fail for want of an
// answer, the circuit opens and calls fail at once, so that a dead or hanging peer
// costs nobody's time. After a back-off one call is let through, as a probe; the
// others go on failing while it runs. It closes the circuit, or begins a longer
// back-off.
//
//   - A failure is what the network or the clock says: no connection, no whole
//     answer in time. So are 502, 503 and 504, the words of a gateway for a peer
//     that is not there, and of a peer that wants to be left alone. Any other answer
//     shows that the peer is alive, and closes the circuit.
//   - A call that its caller gave up, or that was not made (a forbidden address),
//     counts for nothing.
//   - Probes go round: where calls to another path were refused since one to a path
//     failed, the next probe is theirs if they come within circuitTurn. A peer that
//     answers polls but hangs at broadcasts is polled.
//   - What fails besides the probe while the circuit is open does not lengthen the
//     back-off, and what succeeds closes the circuit.
//   - Calls of a context of Insist are always made.
//
// At most 10,000 base URLs that failed are remembered, each for an hour after it
// was last asked for; those unused for longest go first. Circuits is safe for
// concurrent use.
type Circuits struct {
	CircuitsConfig
	metrics *circuitMetrics
	random  func() float64
	now     func() time.Time

	mu    sync.Mutex
	peers *lru[string, circuit]
	watch []func(url string)
}

// circuit is one base URL whose last call failed.
type circuit struct {
	failures int // in a row, those beside a probe not counted once it is open
	open     bool
	until    time.Time // of the back-off, while open
	probe    *call     // the call that was let through
	probed   time.Time // when that ends at the latest
	path     string    // of the last probe
	others   bool      // calls to other paths were refused since that began
	failed   time.Time // when the last failure was
	used     time.Time // when it was last asked for
	last     error
}

// retryAt is when the next call to path may be let through at the latest; zero where
// the circuit is closed.
func (c *circuit) retryAt(path string) time.Time {
	switch {
	case c == nil || !c.open:
		return time.Time{}
	case c.probe != nil:
		return c.probed
	case c.others && c.path == path:
		return c.until.Add(circuitTurn)
	}
	return c.until
}

// NewCircuits returns Circuits that are all closed. The error is about metrics.
func NewCircuits(c CircuitsConfig) (*Circuits, error) {
	if c.Failures <= 0 {
		c.Failures = DefaultCircuitFailures
	}
	if c.RetryBase <= 0 {
		c.RetryBase = DefaultRetryBase
	}
	if c.RetryCap <= 0 {
		c.RetryCap = DefaultRetryCap
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Circuits{CircuitsConfig: c, random: random, now: time.Now, peers: newLRU[string, circuit]()}
	m, err := newCircuitMetrics(c.Metrics, s.countOpen)
	if err != nil {
		return nil, fmt.Errorf("circuits: %w", err)
	}
	s.metrics = m
	return s, nil
}

// insisted marks the context of a call that is made whatever was before.
type insisted struct{}

// Insist returns a context whose calls are made even where the circuit is open: for
// what a person asked for, and for first contacts, which have a back-off of their
// own. They close the circuit like any others, and lengthen no back-off.
func Insist(ctx context.Context) context.Context { return context.WithValue(ctx, insisted{}, true) }

// circuitKey makes one of the ways to write a base URL.
func circuitKey(url string) string { return strings.TrimRight(url, "/") }

// RetryAt returns when a call to a path of url is let through again at the latest;
// the zero time where calls are made.
func (s *Circuits) RetryAt(url, path string) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.peers.get(circuitKey(url)).retryAt(path)
}

// Revive lets a call to url through at once, as a probe, because the peer has shown
// that it is there, or a person asks for it.
func (s *Circuits) Revive(url string) { s.advance(url, 0) }

// Heard is Revive for what peers can cause as often as they like: the next probe
// comes no sooner than RetryBase after the last failure.
func (s *Circuits) Heard(url string) { s.advance(url, s.RetryBase) }

// advance moves the next probe to the given time after the last failure, if it was
// to come later.
func (s *Circuits) advance(url string, after time.Duration) {
	key := circuitKey(url)
	s.mu.Lock()
	e := s.peers.get(key)
	sooner := false
	if e != nil && e.open && e.probe == nil {
		if at := e.failed.Add(after); at.Before(e.until) {
			e.until, sooner = at, true
		}
		if after == 0 && e.others {
			e.others, sooner = false, true
		}
	}
	s.mu.Unlock()
	if sooner {
		s.tell(key)
	}
}

// onChange has fn called, without a lock held, whenever what RetryAt returns for a
// URL may have become sooner or ended. fn must not block.
func (s *Circuits) onChange(fn func(url string)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watch = append(s.watch, fn)
}

func (s *Circuits) tell(key string) {
	s.mu.Lock()
	watch := s.watch
	s.mu.Unlock()
	for _, fn := range watch {
		fn(key)
	}
}

// call is one call that was let through. end has to be called, once.
type call struct {
	s   *Circuits
	key string
}

// admit lets a call to a path of url through, which will end within the given time,
// or returns a *CircuitError.
func (s *Circuits) admit(ctx context.Context, url, path string, within time.Duration) (*call, error) {
	k := &call{s: s, key: circuitKey(url)}
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.peers.get(k.key)
	if e == nil {
		return k, nil
	}
	now := s.now()
	e.used = now
	if !e.open || ctx.Value(insisted{}) != nil {
		return k, nil
	}
	if at := e.retryAt(path); e.probe != nil || now.Before(at) {
		e.others = e.others || e.path != "" && e.path != path
		return nil, &CircuitError{Failures: e.failures, Until: at, Last: e.last}
	}
	e.probe, e.probed, e.path, e.others = k, now.Add(within), path, false
	s.metrics.transitions.WithLabelValues("half_open").Inc()
	return k, nil
}

// verdicts on a peer's life, by how a call to it ended.
type life int

const (
	unknown life = iota // it ended for a reason that is not the peer's
	alive
	dead
)

// end notes how the call ended; err is why where the peer is taken for dead.
func (k *call) end(l life, err error) {
	switch l {
	case alive:
		k.s.close(k)
	case dead:
		k.s.fail(k, err)
	default:
		k.s.abandon(k)
	}
}

func (s *Circuits) close(k *call) {
	s.mu.Lock()
	e := s.peers.get(k.key)
	if e == nil {
		s.mu.Unlock()
		return
	}
	was := *e
	s.peers.delete(k.key)
	s.mu.Unlock()
	if !was.open {
		return
	}
	s.metrics.transitions.WithLabelValues("closed").Inc()
	s.Logger.Info("a peer answers again: calls to it are made", "url", k.key, "failures", was.failures)
	s.tell(k.key)
}

func (s *Circuits) fail(k *call, err error) {
	s.mu.Lock()
	now := s.now()
	s.forget(now)
	e := s.peers.put(k.key)
	e.used = now
	if e.open && e.probe != k {
		s.mu.Unlock()
		return // it counts no more: what was begun before must not wear out the back-off
	}
	e.failures++
	e.failed, e.last = now, short(err)
	before := e.open
	if e.open = e.failures >= s.Failures; e.open {
		e.probe = nil
		e.until = now.Add(s.pause(e.failures, err))
		s.metrics.transitions.WithLabelValues("open").Inc()
	}
	failures, opened := e.failures, e.open && !before
	s.mu.Unlock()
	if opened {
		s.Logger.Warn("a peer does not answer: calls to it fail at once until one does", "url", k.key, "failures", failures, "error", err)
	}
	if before {
		s.tell(k.key) // who waits for the end of the probe
	}
}

// pause is the back-off after a number of failures, the last of which is err.
func (s *Circuits) pause(failures int, err error) time.Duration {
	wait := time.Duration(s.random() * float64(ceiling(failures, s.RetryBase, s.RetryCap)))
	var status *StatusError
	if errors.As(err, &status) {
		wait = max(wait, min(status.RetryAfter, s.RetryCap))
	}
	return wait
}

// abandon gives the probe's place to the next call.
func (s *Circuits) abandon(k *call) {
	s.mu.Lock()
	e := s.peers.get(k.key)
	probe := e != nil && e.probe == k
	if probe {
		e.probe = nil
	}
	s.mu.Unlock()
	if probe {
		s.tell(k.key)
	}
}

// forget drops what nobody asked for in circuitMemory; mu is held.
func (s *Circuits) forget(now time.Time) {
	for {
		key, e := s.peers.oldest()
		if e == nil || e.probe != nil || now.Sub(e.used) < circuitMemory {
			return
		}
		s.peers.delete(key)
	}
}

// countOpen returns the number of circuits that are not closed.
func (s *Circuits) countOpen() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget(s.now())
	n := 0
	for _, e := range s.peers.all {
		if e.open {
			n++
		}
	}
	return n
}

// short keeps of an error what a message shows of it: a peer's answer may be long.
func short(err error) error {
	var status *StatusError
	if errors.As(err, &status) {
		return &StatusError{Code: status.Code, RetryAfter: status.RetryAfter}
	}
	return err
}
