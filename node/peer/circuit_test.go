package peer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

// circuits are Circuits whose time and chance are a test's.
type circuits struct {
	*Circuits
	t       *testing.T
	clock   time.Time
	share   float64 // of the longest pause
	told    []string
	metrics *prometheus.Registry
}

func newCircuits(t *testing.T) *circuits {
	t.Helper()
	c := &circuits{t: t, clock: time.Unix(1_800_000_000, 0), share: 1, metrics: prometheus.NewRegistry()}
	var err error
	c.Circuits, err = NewCircuits(CircuitsConfig{Failures: 3, RetryBase: time.Second, RetryCap: 30 * time.Second, Metrics: c.metrics})
	if err != nil {
		t.Fatal(err)
	}
	c.now = func() time.Time { return c.clock }
	c.random = func() float64 { return c.share }
	c.onChange(func(url string) { c.told = append(c.told, url) })
	return c
}

const place1 = "http://a.example/koi-net"

// Paths of calls.
const pathA, pathB = pathBroadcast, "/events/poll"

// begin makes a call, which has to be let through.
func (c *circuits) begin() *call {
	c.t.Helper()
	k, err := c.admit(context.Background(), place1, pathA, time.Minute)
	if err != nil {
		c.t.Fatalf("not let through: %v", err)
	}
	return k
}

// refused makes a call, which must not be let through, and returns until when.
func (c *circuits) refused() time.Duration {
	c.t.Helper()
	_, err := c.admit(context.Background(), place1, pathA, time.Minute)
	var open *CircuitError
	if !errors.As(err, &open) || !errors.Is(err, ErrCircuitOpen) || !errors.Is(err, errDown) {
		c.t.Fatalf("let through, or for another reason not: %v", err)
	}
	return open.Until.Sub(c.clock)
}

var errDown = errors.New("connection refused")

func (c *circuits) fails(times int) {
	c.t.Helper()
	for range times {
		c.begin().end(dead, errDown)
	}
}

func (c *circuits) until(want time.Duration) {
	c.t.Helper()
	if got := c.refused(); got != want {
		c.t.Errorf("open for %s, want %s", got, want)
	}
}

func (c *circuits) counts(open int, want string) {
	c.t.Helper()
	if got := c.countOpen(); got != open {
		c.t.Errorf("%d circuits are open, want %d", got, open)
	}
	want = "# HELP koi_peer_circuit_transitions_total Changes of peers' circuits, by what they became (open: calls fail at once; half_open: one is let through; closed).\n" +
		"# TYPE koi_peer_circuit_transitions_total counter\n" + want
	if err := testutil.GatherAndCompare(c.metrics, strings.NewReader(want), "koi_peer_circuit_transitions_total"); err != nil {
		c.t.Error(err)
	}
}

// TestCircuit walks through the states of one.
func TestCircuit(t *testing.T) {
	c := newCircuits(t)
	c.fails(2)
	c.begin().end(alive, nil)
	c.fails(2) // what was before the success counts no more
	late, canceled := c.begin(), c.begin()
	c.fails(1)
	c.until(4 * time.Second)
	late.end(dead, errDown)
	canceled.end(unknown, context.Canceled)
	c.until(4 * time.Second) // neither makes it longer
	if len(c.told) != 0 {
		t.Errorf("told of %v", c.told)
	}

	c.clock = c.clock.Add(4*time.Second - 1)
	c.until(1)
	c.clock = c.clock.Add(1)
	probe := c.begin()
	c.until(time.Minute) // by then the probe has ended
	c.clock = c.clock.Add(time.Second)
	probe.end(dead, errDown)
	c.until(8 * time.Second)
	c.counts(1, `koi_peer_circuit_transitions_total{to="half_open"} 1
koi_peer_circuit_transitions_total{to="open"} 2
`)
	if len(c.told) != 1 || c.told[0] != place1 {
		t.Errorf("told of %v", c.told)
	}

	c.clock = c.clock.Add(8 * time.Second)
	c.begin().end(unknown, context.Canceled)
	c.begin().end(dead, errDown) // so the next was the probe
	c.until(16 * time.Second)
	c.clock = c.clock.Add(16 * time.Second)
	c.fails(1)
	c.until(30 * time.Second)
	c.clock = c.clock.Add(30 * time.Second)
	c.fails(1)
	c.until(30 * time.Second)
	c.share = 0.5 // full jitter: any part of it
	c.clock = c.clock.Add(30 * time.Second)
	c.fails(1)
	c.until(15 * time.Second)

	c.clock = c.clock.Add(15 * time.Second)
	c.told = nil
	c.begin().end(alive, nil)
	c.counts(0, `koi_peer_circuit_transitions_total{to="closed"} 1
koi_peer_circuit_transitions_total{to="half_open"} 7
koi_peer_circuit_transitions_total{to="open"} 6
`)
	if len(c.told) != 1 {
		t.Errorf("told of %v", c.told)
	}
	for range 5 {
		c.begin()
	}
	c.fails(2)
	c.begin()
}

func TestCircuitOfOthers(t *testing.T) {
	c := newCircuits(t)
	c.fails(3)
	if _, err := c.admit(context.Background(), place1+"//", pathA, time.Minute); err == nil {
		t.Error("a slash at the end makes another peer")
	}
	if _, err := c.admit(context.Background(), "http://b.example/koi-net", pathA, time.Minute); err != nil {
		t.Errorf("another peer: %v", err)
	}
	if at := c.RetryAt("http://b.example/koi-net", pathA); !at.IsZero() {
		t.Errorf("another peer: %s", at)
	}
}

// TestCircuitInsist: such calls are made, and do not lengthen the back-off.
func TestCircuitInsist(t *testing.T) {
	c := newCircuits(t)
	c.fails(3)
	insist := Insist(context.Background())
	for _, l := range []life{dead, unknown, dead} {
		k, err := c.admit(insist, place1, pathA, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		k.end(l, errDown)
		c.until(4 * time.Second)
	}
	k, _ := c.admit(insist, place1, pathA, time.Minute)
	k.end(alive, nil)
	c.begin()
}

// TestCircuitRevived: the peer has shown itself.
func TestCircuitRevived(t *testing.T) {
	c := newCircuits(t)
	c.Revive(place1)
	c.Heard(place1)
	c.fails(3)
	c.Heard(place1)
	c.until(time.Second)
	c.Heard(place1)
	if len(c.told) != 1 {
		t.Errorf("told of %v", c.told)
	}
	c.clock = c.clock.Add(time.Second)
	c.fails(1)
	c.until(8 * time.Second)
	c.clock = c.clock.Add(5 * time.Second)
	c.Heard(place1)
	probe := c.begin()
	c.Revive(place1) // there is one under way
	c.until(time.Minute)
	probe.end(dead, errDown)
	c.until(16 * time.Second)
	c.Revive(place1)
	c.fails(1)
	c.until(30 * time.Second)
}

// Where calls to one path take every probe, those to others come to their turn.
func TestCircuitProbesGoRound(t *testing.T) {
	c := newCircuits(t)
	to := func(path string) (*call, bool) {
		k, err := c.admit(context.Background(), place1, path, time.Minute)
		return k, err == nil
	}
	probe := func(path string) {
		t.Helper()
		k, ok := to(path)
		if !ok {
			t.Fatalf("%s is not let through", path)
		}
		k.end(dead, errDown)
	}
	for range 3 {
		probe(pathA)
	}
	until := func(path string) time.Duration { return c.RetryAt(place1, path).Sub(c.clock) }
	c.clock = c.clock.Add(until(pathA))
	probe(pathA)
	// Nobody else asks: it goes on.
	c.clock = c.clock.Add(until(pathA))
	probe(pathA)
	if _, ok := to(pathB); ok {
		t.Fatal("let through during the back-off")
	}
	if a, b := until(pathA), until(pathB); a != b+circuitTurn {
		t.Errorf("again in %s, others in %s", a, b)
	}
	c.clock = c.clock.Add(until(pathB))
	if _, ok := to(pathA); ok {
		t.Fatal("let through before its turn")
	}
	probe(pathB)
	// The other way round, and others do not come.
	if _, ok := to(pathA); ok {
		t.Fatal("let through during the back-off")
	}
	c.clock = c.clock.Add(until(pathB))
	probe(pathB)
	// A person need not wait for a turn.
	if _, ok := to(pathA); ok {
		t.Fatal("let through during the back-off")
	}
	c.Revive(place1)
	probe(pathB)
}

func TestCircuitRetryAfter(t *testing.T) {
	for after, want := range map[time.Duration]time.Duration{
		0: 4 * time.Second, 3 * time.Second: 4 * time.Second, 20 * time.Second: 20 * time.Second, time.Hour: 30 * time.Second,
	} {
		c := newCircuits(t)
		for range 3 {
			c.begin().end(dead, fmt.Errorf("%w: %w", errDown, &StatusError{Code: 503, RetryAfter: after, Body: make([]byte, maxErrorBytes)}))
		}
		_, err := c.admit(context.Background(), place1, pathA, time.Minute)
		var open *CircuitError
		var status *StatusError
		if !errors.As(err, &open) || open.Until.Sub(c.clock) != want || !errors.As(err, &status) || status.Code != 503 {
			t.Fatalf("Retry-After %s: %v", after, err)
		}
		if len(status.Body) > 0 {
			t.Error("the peer's text is kept")
		}
	}
}

// TestCircuitsAreBounded: by number, and by age.
func TestCircuitsAreBounded(t *testing.T) {
	c := newCircuits(t)
	c.peers.most = 10
	for i := range 30 {
		for range 3 {
			k, err := c.admit(context.Background(), fmt.Sprint("http://", i), pathA, time.Minute)
			if err != nil {
				t.Fatal(err)
			}
			k.end(dead, errDown)
		}
	}
	if n := c.countOpen(); n != 10 {
		t.Errorf("%d are open", n)
	}
	c.clock = c.clock.Add(circuitMemory / 2)
	if _, err := c.admit(context.Background(), "http://29", pathA, time.Minute); err != nil { // a probe that does not end
		t.Fatal(err)
	}
	c.clock = c.clock.Add(circuitMemory/2 + time.Second)
	if n := c.countOpen(); n != 1 {
		t.Errorf("%d are open after an hour", n)
	}
	// A probe of a circuit that is forgotten is a call like others.
	probe := c.begin()
	c.peers.delete(place1)
	probe.end(dead, errDown)
	c.begin().end(alive, nil)
}

func TestCircuitsConcurrently(t *testing.T) {
	c, err := NewCircuits(CircuitsConfig{RetryBase: time.Nanosecond, RetryCap: time.Nanosecond})
	if err != nil {
		t.Fatal(err)
	}
	c.onChange(func(string) {})
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 2000 {
				url := fmt.Sprint(i % 7)
				k, err := c.admit(context.Background(), url, pathA, time.Minute)
				if err == nil {
					k.end(life((i+g)%3), errDown)
				}
				c.RetryAt(url, pathA)
				c.Heard(url)
				if i%100 == 0 {
					c.Revive(url)
					c.countOpen()
				}
			}
		})
	}
	wg.Wait()
}

// counter is a peer that does what it is told and counts who comes.
type counter struct {
	*httptest.Server
	mu     sync.Mutex
	came   int
	answer http.HandlerFunc
}

func newCounter(t *testing.T, answer http.HandlerFunc) *counter {
	t.Helper()
	c := &counter{answer: answer}
	c.Server = httptest.NewServer(c)
	t.Cleanup(c.Close)
	return c
}

func (c *counter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	c.came++
	answer := c.answer
	c.mu.Unlock()
	answer(w, r)
}

func (c *counter) calls() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.came
}

func (c *counter) does(answer http.HandlerFunc) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answer = answer
}

func status(code int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(code)
		_, _ = io.WriteString(w, body)
	}
}

// longCircuits stay open once they are.
func longCircuits(t *testing.T) *Circuits {
	t.Helper()
	c, err := NewCircuits(CircuitsConfig{RetryBase: time.Hour, RetryCap: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	c.random = func() float64 { return 1 }
	return c
}

// TestClientCircuit: what opens the circuit for all calls, and what shows that a
// peer is alive.
func TestClientCircuit(t *testing.T) {
	hangUp := func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			_ = conn.(*net.TCPConn).SetLinger(0)
			_ = conn.Close()
		}
	}
	hang := func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	}
	half := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			w.WriteHeader(code)
			_, _ = io.WriteString(w, `{"rids":[`)
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}
	}
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		opens  bool
	}{
		"takes":               {status(200, `{"rids":[]}`), false},
		"not found":           {status(404, ""), false},
		"refuses":             {status(422, ""), false},
		"overwhelmed by many": {status(429, ""), false},
		"moved":               {status(307, ""), false},
		"fault":               {status(500, ""), false},
		"store full":          {status(507, ""), false},
		"nonsense":            {status(200, "<html>"), false},
		"too large":           {status(200, `{"rids":[`+strings.Repeat(`"orn:a:1",`, 1000)+`"orn:a:1"]}`), false},
		"bad gateway":         {status(502, ""), true},
		"unavailable":         {status(503, ""), true},
		"gateway timeout":     {status(504, ""), true},
		"hangs up":            {hangUp, true},
		"hangs":               {hang, true},
		"half an answer":      {half(200), true},
		"half a refusal":      {half(404), true},
	} {
		t.Run(name, func(t *testing.T) {
			p := newCounter(t, c.answer)
			cl := localClient(t, ClientConfig{Circuits: longCircuits(t), AnswerBytes: 5000, Timeout: 30 * time.Second})
			if c.opens {
				cl.timeout = 200 * time.Millisecond
			}
			to := Target{RID: peerA, URL: p.URL + "/koi-net/"}
			for i := range 3 {
				if _, err := cl.FetchRIDs(context.Background(), to, nil); errors.Is(err, ErrCircuitOpen) {
					t.Fatalf("call %d: %v", i, err)
				}
			}
			before := p.calls()
			_, polled := cl.Poll(context.Background(), Target{RID: peerB, URL: p.URL + "/koi-net"}, 0)
			sent := cl.Broadcast(context.Background(), to, [][]byte{testEvent("orn:t:1")}, nil)
			for call, err := range map[string]error{"poll": polled, "broadcast": sent} {
				if open := errors.Is(err, ErrCircuitOpen); open != c.opens {
					t.Errorf("%s: %v", call, err)
				}
				if c.opens && (outcome(err) != "circuit_open" || judge(err) != retry) {
					t.Errorf("%s: %s, %v", call, outcome(err), judge(err))
				}
			}
			if made := p.calls() > before; made == c.opens {
				t.Errorf("%d calls were made, then %d", before, p.calls())
			}
			p.does(status(200, "null"))
			cl.timeout = 30 * time.Second
			if err := cl.Broadcast(Insist(context.Background()), to, nil, nil); err != nil {
				t.Errorf("insisting: %v", err)
			}
			if err := cl.Broadcast(context.Background(), to, nil, nil); err != nil {
				t.Errorf("after a success: %v", err)
			}
		})
	}
}

// TestCallersDoNotOpenCircuits: neither by giving up, nor by calling where they must not.
func TestCallersDoNotOpenCircuits(t *testing.T) {
	hang := make(chan struct{})
	p := newCounter(t, func(http.ResponseWriter, *http.Request) { <-hang })
	t.Cleanup(func() { close(hang) })
	cl := localClient(t, ClientConfig{Circuits: longCircuits(t)})
	to := Target{RID: peerA, URL: p.URL}
	for i := range 4 {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { _, err := cl.FetchRIDs(ctx, to, nil); done <- err }()
		eventually(t, "called", func() bool { return p.calls() == i+1 })
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
	for range 4 {
		if _, err := cl.FetchRIDs(context.Background(), Target{URL: "http://169.254.169.254/"}, nil); !errors.Is(err, ErrForbiddenAddress) {
			t.Error(err)
		}
	}
	if n := cl.circuits.countOpen(); n != 0 {
		t.Errorf("%d circuits are open", n)
	}
}

// broken opens the circuit of a URL by calls that have nothing to do with delivery.
func broken(t *testing.T, c *Circuits, url string) {
	t.Helper()
	for range DefaultCircuitFailures {
		k, err := c.admit(context.Background(), url, pathA, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		k.end(dead, errDown)
	}
}

// TestDeliveryAndFetchesShareACircuit: what a fetch finds out counts for deliveries,
// which wait no longer than the circuit is open.
func TestDeliveryAndFetchesShareACircuit(t *testing.T) {
	for name, end := range map[string]func(*Client, *Delivery, Target){
		"a call that is answered": func(c *Client, _ *Delivery, to Target) {
			if _, err := c.FetchRIDs(Insist(context.Background()), to, nil); err != nil {
				t.Error(err)
			}
		},
		"the peer shows itself":  func(_ *Client, d *Delivery, _ Target) { d.Kick(peerA) },
		"a message of the peer":  func(_ *Client, d *Delivery, _ Target) { d.Heard(peerA) },
		"the end of the backoff": func(c *Client, _ *Delivery, to Target) { c.circuits.Revive(to.URL) },
	} {
		t.Run(name, func(t *testing.T) {
			s, dir, p, c := newStore(t), &directory{}, newCounter(t, status(200, `{"rids":[]}`)), longCircuits(t)
			cl := localClient(t, ClientConfig{Circuits: c})
			to := Target{RID: peerA, URL: p.URL + "/koi-net"}
			dir.set(peerA, to.URL)
			broken(t, c, to.URL)
			c.RetryBase = time.Nanosecond // for Heard; the pause is an hour already
			queue(t, s, store.Outbox, peerA, "1")
			d, _ := start(t, DeliveryConfig{Store: s, Directory: dir, Client: cl, Circuits: c, RetryBase: time.Hour, RetryCap: time.Hour})
			eventually(t, "it waits", func() bool { return strings.Contains(d.Health(peerA), errDown.Error()) })
			if err := d.Settle(context.Background()); err != nil {
				t.Fatal(err)
			}
			if n := p.calls(); n != 0 {
				t.Errorf("%d calls to a peer whose circuit is open", n)
			}
			end(cl, d, to)
			eventually(t, "delivered", func() bool { return rows(t, s, store.Outbox, peerA) == 0 })
			eventually(t, "healthy again", func() bool { return d.Health(peerA) == "" })
			d.mu.Lock()
			defer d.mu.Unlock()
			if len(d.shut) != 0 || len(d.waiting) != 0 {
				t.Errorf("%d peers still wait, %d for a circuit", len(d.waiting), len(d.shut))
			}
		})
	}
}

// TestDeliveryProbes: the delivery opens the circuit itself, waits for it alone, and
// is the probe that closes it.
func TestDeliveryProbes(t *testing.T) {
	s, dir, p, c := newStore(t), &directory{}, newCounter(t, status(503, "")), newCircuits(t)
	var mu sync.Mutex
	clock := time.Now()
	c.now = func() time.Time { mu.Lock(); defer mu.Unlock(); return clock }
	c.onChange(func(string) {})
	cl := localClient(t, ClientConfig{Circuits: c.Circuits})
	dir.set(peerA, p.URL)
	queue(t, s, store.Outbox, peerA, "1")
	c.RetryBase, c.RetryCap = time.Hour, time.Hour
	d, _ := start(t, DeliveryConfig{Store: s, Directory: dir, Client: cl, Circuits: c.Circuits})
	eventually(t, "the circuit opens", func() bool { return !c.RetryAt(p.URL, pathA).IsZero() })
	if err := d.Settle(context.Background()); err != nil {
		t.Fatal(err)
	}
	if n := p.calls(); n != 3 {
		t.Errorf("%d calls", n)
	}
	d.mu.Lock()
	at := d.waiting[0].until
	d.mu.Unlock()
	if want := c.RetryAt(p.URL, pathA); !at.Equal(want) {
		t.Errorf("it waits until %s, the circuit until %s", at, want)
	}
	// Fetches that fail meanwhile, and those that insist, move nothing.
	for range 5 {
		_, _ = cl.FetchRIDs(context.Background(), Target{URL: p.URL}, nil)
		_, _ = cl.FetchRIDs(Insist(context.Background()), Target{URL: p.URL}, nil)
	}
	if want := c.RetryAt(p.URL, pathA); !at.Equal(want) {
		t.Errorf("the circuit is open until %s, it was %s", want, at)
	}
	p.does(status(200, "null"))
	d.mu.Lock()
	d.waiting[0].until = time.Now() // as though an hour had passed
	d.mu.Unlock()
	mu.Lock()
	clock = clock.Add(time.Hour)
	mu.Unlock()
	d.poke()
	eventually(t, "delivered", func() bool { return rows(t, s, store.Outbox, peerA) == 0 })
	if at := c.RetryAt(p.URL, pathA); !at.IsZero() {
		t.Errorf("the circuit is open until %s", at)
	}
}

// TestCircuitOfAnOddURL: however a base URL is written, delivery and client mean the
// same circuit.
func TestCircuitOfAnOddURL(t *testing.T) {
	s, dir, p, c := newStore(t), &directory{}, newCounter(t, status(200, "null")), longCircuits(t)
	odd := strings.Replace(p.URL, "http", "HTTP", 1) + "/k\u00f6i/"
	dir.set(peerA, odd)
	broken(t, c, odd)
	queue(t, s, store.Outbox, peerA, "1")
	d, _ := start(t, DeliveryConfig{Store: s, Directory: dir, Client: localClient(t, ClientConfig{Circuits: c})})
	eventually(t, "it waits", func() bool { return d.Health(peerA) != "" })
	if err := d.Settle(context.Background()); err != nil {
		t.Fatal(err)
	}
	d.mu.Lock()
	left := len(d.waiting)
	d.mu.Unlock()
	if left != 1 || p.calls() != 0 {
		t.Errorf("%d peers wait, %d calls were made", left, p.calls())
	}
	d.Kick(peerA)
	eventually(t, "delivered", func() bool { return rows(t, s, store.Outbox, peerA) == 0 })
}

// TestPlacesAreFreeWhileRowsAreRemoved: the disk is slow, and holds up no request.
func TestPlacesAreFreeWhileRowsAreRemoved(t *testing.T) {
	slow := &stallingStore{Store: newStore(t), stall: make(chan struct{})}
	dir := &directory{}
	var mu sync.Mutex
	var called []string
	b := broadcasterFunc(func(_ context.Context, base string, _ [][]byte) error {
		mu.Lock()
		defer mu.Unlock()
		called = append(called, base)
		return nil
	})
	for i := range 2*removals + 2 {
		p := rid.RID(fmt.Sprintf("orn:koi-net.node:p%d+1", i))
		dir.set(p, fmt.Sprint(i))
		queue(t, slow.Store, store.Outbox, p, "1")
	}
	d, _ := start(t, DeliveryConfig{Store: slow, Directory: dir, Client: b, Concurrency: 1})
	count := func() int { mu.Lock(); defer mu.Unlock(); return len(called) }
	eventually(t, "as many as may be are served", func() bool { return count() == removals })
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := d.Settle(ctx); err == nil {
		t.Error("settled with rows to remove")
	}
	if n := count(); n != removals {
		t.Errorf("%d requests, whose rows are all to be removed still", n)
	}
	close(slow.stall)
	if err := d.Settle(context.Background()); err != nil {
		t.Error(err)
	}
	if n := count(); n != 2*removals+2 {
		t.Errorf("%d requests", n)
	}
}

// stallingStore takes no change before stall is closed.
type stallingStore struct {
	store.Store
	stall chan struct{}
}

func (s *stallingStore) Update(ctx context.Context, fn func(store.Writer) error) error {
	<-s.stall
	return s.Store.Update(ctx, fn)
}
