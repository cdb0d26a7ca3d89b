package peer

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

// Defaults of DeliveryConfig.
const (
	DefaultBatchRows   = 100
	DefaultBatchBytes  = 1 << 20
	DefaultConcurrency = 64
)

// dropBurst is how many events in a row a peer may refuse for good before each
// further one counts as a failure: a peer that refuses everything is not worth
// being asked as fast as it answers.
const dropBurst = 16

// maxUnsuitable bounds the unsuitable rows taken off the outbox at once.
const maxUnsuitable = 1000

// removals, times the concurrency, bounds the peers whose delivered rows are being
// taken off the outbox at once: they share commits, and hold up no request.
const removals = 16

// Broadcaster sends a batch of events; Client does.
type Broadcaster interface {
	// Signs reports whether calls to t are signed.
	Signs(t Target) bool
	// Broadcast sends events; with the same once, and the same events, it is the
	// same request, byte for byte.
	Broadcast(ctx context.Context, t Target, events [][]byte, once *Once) error
}

// DeliveryConfig says what a Delivery delivers, whereto, and within which bounds.
type DeliveryConfig struct {
	Store     store.Store
	Client    Broadcaster
	Directory Directory
	// Suits reports whether peer may be sent events about r; nil means all. Events
	// that do not suit are taken off the outbox without being sent. It is asked
	// within a transaction of the store: it must not use that, and not block.
	Suits func(peer, r rid.RID) bool
	// BatchRows and BatchBytes bound the events of one request (defaults
	// DefaultBatchRows, DefaultBatchBytes). One larger event goes alone.
	BatchRows  int
	BatchBytes int
	// Concurrency bounds the requests in flight, one for each peer (default
	// DefaultConcurrency). Peers that failed last time share a quarter of it.
	Concurrency int
	// RetryBase and RetryCap are the first and the longest back-off (defaults
	// DefaultRetryBase, DefaultRetryCap) from a peer that answers, and will not take
	// events; or whose circuit is not open yet.
	RetryBase time.Duration
	RetryCap  time.Duration
	// Circuits are the Client's: while a peer's is open its rows wait for its end,
	// and are sent when a call is let through again. Default: those of Client, if it
	// is a *Client.
	Circuits *Circuits
	// Dropped, if set, is told of every event that its peer refuses for good.
	// It must not block.
	Dropped func(row store.QueueRow, reason error)
	// Logger takes one line when a peer becomes unreachable and one when it is
	// back; default: discarded.
	Logger *slog.Logger
	// Metrics takes the delivery's metrics; nil keeps them unregistered.
	Metrics prometheus.Registerer
}

// Delivery pushes the rows of the outbox to their peers. It looks at a peer's
// rows when it starts, when it is notified, and when a back-off ends; it never
// scans. Run must be running for anything to be delivered.
type Delivery struct {
	DeliveryConfig
	metrics *deliveryMetrics
	random  func() float64

	mu      sync.Mutex
	peers   map[rid.RID]*outlet
	healthy []*outlet // ready for a request, first come first served
	failing []*outlet // the same, for peers whose last request failed
	waiting waitHeap  // in back-off, the first to end on top
	// shut are those of waiting whose circuit is open, by the circuit's key.
	shut     map[string]map[*outlet]struct{}
	running  int // requests in flight
	slow     int // of them, to peers that failed last time
	removing int // peers whose rows are being taken off the outbox
	started  bool
	stopped  bool
	wake     chan struct{} // tells Run to look at waiting again
	changed  chan struct{} // closed and replaced when a peer comes to rest
	workers  sync.WaitGroup

	newsMu sync.Mutex
	news   map[string]struct{} // keys of circuits that changed since Run last looked, which it does at once
}

// outletState is what a peer's outlet is doing.
type outletState int

const (
	idle    outletState = iota
	ready               // in one of the ready lists
	sending             // a request is in flight, or its rows are being removed
	backing             // in waiting
	parked              // has rows, but nobody knows where the peer is
)

// outlet is what a Delivery knows about one peer. It exists while there are
// rows to deliver, or a failure to report.
type outlet struct {
	peer     rid.RID
	state    outletState
	dirty    bool // notified since the rows were read
	kicked   bool // kicked during the request in flight
	failures int  // in a row
	drops    int  // events refused in a row
	err      string
	failed   time.Time // when the last request failed
	until    time.Time // of the back-off
	index    int       // in waiting
	circuit  string    // the key in Delivery.shut, "" where it is not there
	slow     bool      // counted in Delivery.slow
	next     attempt
}

// attempt is what the next request to a peer is to be.
type attempt struct {
	// most rows: halved where the peer refuses a batch, until the event it
	// refuses is found, and doubled again after success.
	most int
	// A batch that failed may have been taken in all the same: it is sent again
	// as it was, up to the row last, so that the peer can tell the replay. once is
	// nil where the batch is a new one.
	once *Once
	last uint64
}

// NewDelivery returns a Delivery; Run starts it.
func NewDelivery(c DeliveryConfig) (*Delivery, error) {
	if c.Store == nil || c.Client == nil || c.Directory == nil {
		return nil, errors.New("delivery: store, client and directory must be given")
	}
	if c.BatchRows <= 0 {
		c.BatchRows = DefaultBatchRows
	}
	if c.BatchBytes <= 0 {
		c.BatchBytes = DefaultBatchBytes
	}
	if c.Concurrency <= 0 {
		c.Concurrency = DefaultConcurrency
	}
	if c.RetryBase <= 0 {
		c.RetryBase = DefaultRetryBase
	}
	if c.RetryCap <= 0 {
		c.RetryCap = DefaultRetryCap
	}
	if c.Suits == nil {
		c.Suits = func(rid.RID, rid.RID) bool { return true }
	}
	if c.Dropped == nil {
		c.Dropped = func(store.QueueRow, error) {}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if client, ok := c.Client.(*Client); ok && c.Circuits == nil {
		c.Circuits = client.circuits
	}
	if c.Circuits == nil {
		c.Circuits, _ = NewCircuits(CircuitsConfig{}) // nothing is registered, so nothing fails
	}
	m, err := newDeliveryMetrics(c.Metrics)
	if err != nil {
		return nil, fmt.Errorf("delivery: %w", err)
	}
	d := &Delivery{
		DeliveryConfig: c,
		metrics:        m,
		random:         random,
		peers:          map[rid.RID]*outlet{},
		shut:           map[string]map[*outlet]struct{}{},
		news:           map[string]struct{}{},
		wake:           make(chan struct{}, 1),
		changed:        make(chan struct{}),
	}
	c.Circuits.onChange(d.circuitChanged)
	return d, nil
}

// Run delivers until ctx ends and returns when no request is in flight any
// more. It fails if the store cannot say what is to be delivered. It may run
// once.
func (d *Delivery) Run(ctx context.Context) error {
	var queues map[rid.RID]store.QueueStats
	err := d.Store.View(ctx, func(rd store.Reader) (err error) {
		queues, err = rd.Queues(store.Outbox)
		return err
	})
	if err != nil {
		return fmt.Errorf("looking for undelivered events: %w", err)
	}
	d.mu.Lock()
	if d.started {
		d.mu.Unlock()
		return errors.New("delivery: it ran before")
	}
	d.started = true
	d.settle()
	for peer, q := range queues {
		if q.Rows > 0 {
			d.notify(peer)
		}
	}
	d.mu.Unlock()

	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		d.mu.Lock()
		next := d.step(ctx, time.Now())
		d.mu.Unlock()
		timer.Reset(next)
		select {
		case <-d.wake:
		case <-timer.C:
		case <-ctx.Done():
			d.mu.Lock()
			d.stopped = true
			d.settle()
			d.mu.Unlock()
			d.workers.Wait()
			return nil
		}
	}
}

// Notify says that there are new rows for peer, or news of where it is. It
// never blocks, and does not cut a back-off short; see Kick.
func (d *Delivery) Notify(peer rid.RID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.notify(peer)
}

// Kick is Notify for a peer that has just shown that it is there, or that a person
// wants to be called: a back-off ends at once, and a call is let through an open
// circuit.
func (d *Delivery) Kick(peer rid.RID) {
	if t, known := d.Directory.Target(peer); known {
		d.Circuits.Revive(t.URL)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.notify(peer)
	switch o := d.peers[peer]; o.state {
	case backing:
		d.resume(o)
	case sending:
		o.kicked = true
	}
}

// Heard says that a verified message came from peer, which so is there. A back-off,
// or that of an open circuit, ends RetryBase after the last failure, if it was to
// end later: who sends many messages and cannot be called is not called for each.
// It is cheap, and does nothing for a peer that no rows wait for.
func (d *Delivery) Heard(peer rid.RID) {
	if t, known := d.Directory.Target(peer); known {
		d.Circuits.Heard(t.URL)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	o := d.peers[peer]
	if o == nil || o.state != backing || o.circuit != "" {
		return
	}
	if at := o.failed.Add(d.RetryBase); at.Before(o.until) {
		o.until = at
		heap.Fix(&d.waiting, o.index)
		d.poke()
	}
}

// circuitChanged has Run look at the peers that wait for a circuit. It may be called
// with d.mu held.
func (d *Delivery) circuitChanged(key string) {
	d.newsMu.Lock()
	d.news[key] = struct{}{}
	d.newsMu.Unlock()
	d.poke()
}

// Health returns why the last request to peer failed, "" if it did not.
func (d *Delivery) Health(peer rid.RID) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if o := d.peers[peer]; o != nil {
		return o.err
	}
	return ""
}

// Settle waits until every peer has its rows, is in back-off or cannot be
// found: for a node that is about to leave. It returns ctx's error if that
// does not come to pass in time.
func (d *Delivery) Settle(ctx context.Context) error {
	for {
		d.mu.Lock()
		rest := d.started && d.running == 0 && d.removing == 0 && len(d.healthy)+len(d.failing) == 0 || d.stopped
		changed := d.changed
		d.mu.Unlock()
		if rest {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// The methods below are called with d.mu held.

func (d *Delivery) notify(peer rid.RID) {
	o := d.peers[peer]
	if o == nil {
		o = &outlet{peer: peer, next: attempt{most: d.BatchRows}}
		d.peers[peer] = o
	}
	o.dirty = true
	if o.state == idle || o.state == parked {
		d.enqueue(o)
	}
}

func (d *Delivery) enqueue(o *outlet) {
	o.state = ready
	if o.failures > 0 {
		d.failing = append(d.failing, o)
	} else {
		d.healthy = append(d.healthy, o)
	}
	d.poke()
}

// resume ends a back-off.
func (d *Delivery) resume(o *outlet) {
	heap.Remove(&d.waiting, o.index)
	d.unshut(o)
	d.enqueue(o)
}

func (d *Delivery) unshut(o *outlet) {
	if o.circuit == "" {
		return
	}
	delete(d.shut[o.circuit], o)
	if len(d.shut[o.circuit]) == 0 {
		delete(d.shut, o.circuit)
	}
	o.circuit = ""
}

func (d *Delivery) poke() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

func (d *Delivery) settle() {
	close(d.changed)
	d.changed = make(chan struct{})
}

// step starts what can be started and returns the time to the next back-off's end.
func (d *Delivery) step(ctx context.Context, now time.Time) time.Duration {
	d.takeNews()
	for len(d.waiting) > 0 && !d.waiting[0].until.After(now) {
		d.resume(d.waiting[0])
	}
	for d.running < d.Concurrency && d.removing < removals*d.Concurrency && ctx.Err() == nil {
		var o *outlet
		switch {
		// Peers that hang would take all places if they could, each for as
		// long as a request may last.
		case len(d.failing) > 0 && d.slow < max(1, d.Concurrency/4):
			o, d.failing = d.failing[0], d.failing[1:]
			o.slow = true
			d.slow++
		case len(d.healthy) > 0:
			o, d.healthy = d.healthy[0], d.healthy[1:]
		}
		if o == nil {
			break
		}
		o.state, o.dirty, o.kicked = sending, false, false
		d.running++
		next := o.next
		d.workers.Go(func() { d.send(ctx, o, next) })
	}
	if len(d.waiting) == 0 {
		return time.Hour
	}
	return max(0, d.waiting[0].until.Sub(now))
}

// takeNews moves the ends of back-offs to where the circuits' are now.
func (d *Delivery) takeNews() {
	d.newsMu.Lock()
	defer d.newsMu.Unlock()
	for key := range d.news {
		delete(d.news, key)
		if len(d.shut[key]) == 0 {
			continue
		}
		at := d.Circuits.RetryAt(key, pathBroadcast) // zero, and so over, where it is closed
		for o := range d.shut[key] {
			o.until = at
			heap.Fix(&d.waiting, o.index)
		}
	}
}

// send makes one request to a peer and decides what comes next. It runs
// without d.mu.
func (d *Delivery) send(ctx context.Context, o *outlet, now attempt) {
	t, known := d.Directory.Target(o.peer)
	var b batch
	var err error
	if known {
		b, err = d.batch(ctx, o.peer, now)
	}
	if now.once == nil {
		now.once = new(Once)
	}
	var delivered, split bool
	var drop error // why the only row of the batch will never be taken
	pushed := err == nil && len(b.rows) > 0
	if pushed {
		err = d.push(ctx, t, b.rows, now.once)
		switch v := judge(err); {
		case v == taken:
			delivered = true
		case v == refused && len(b.rows) == 1:
			drop = err
		case v == refused:
			split = true
		}
	}
	d.mu.Lock()
	d.answered(o)
	d.mu.Unlock()
	if delivered || drop != nil || !pushed && len(b.unsuitable) > 0 {
		if e := d.remove(ctx, o.peer, b); e != nil {
			// The rows will go out again: at least once, never not at all.
			err, delivered, drop = e, false, nil
		}
	}
	switch {
	case drop != nil:
		d.metrics.dropped.WithLabelValues("refused").Inc()
		d.Logger.Warn("a peer refuses an event; it is dropped", "peer", o.peer, "rid", b.rows[0].RID, "error", drop)
		d.Dropped(b.rows[0], drop)
	case delivered:
		d.metrics.delivered.Add(float64(len(b.rows)))
	}

	d.mu.Lock()
	defer d.mu.Unlock()
	d.removing--
	defer d.poke()
	defer d.settle()
	switch {
	case known && err == nil, drop != nil, split:
		o.next.once, o.next.last = nil, 0 // what comes next is another batch
	case pushed:
		o.next.once, o.next.last = now.once, b.rows[len(b.rows)-1].Seq
	}
	switch {
	case ctx.Err() != nil:
		o.state = idle // stopping: the rows stay for the next start
	case !known:
		o.state, o.failures, o.err = parked, 0, "its base URL is not known"
		if o.dirty {
			d.enqueue(o)
		}
	case split:
		o.next.most = max(1, len(b.rows)/2)
		d.enqueue(o)
	case drop != nil:
		o.drops++
		if o.drops > dropBurst {
			d.fail(o, t, drop)
		} else {
			d.enqueue(o)
		}
	case err != nil:
		d.fail(o, t, err)
	default:
		if delivered {
			d.recovered(o)
		}
		if b.more || o.dirty {
			d.enqueue(o)
		} else {
			o.state = idle
			delete(d.peers, o.peer)
		}
	}
}

// answered frees the place of a request before its rows are removed: other peers
// need not wait for the disk.
func (d *Delivery) answered(o *outlet) {
	d.running--
	d.removing++
	if o.slow {
		o.slow = false
		d.slow--
	}
	d.poke()
}

// fail puts a peer into back-off: its circuit's, if that is open, or one of its own.
func (d *Delivery) fail(o *outlet, t Target, err error) {
	now := time.Now()
	if shut := errors.Is(err, ErrCircuitOpen); !shut || o.failures == 0 {
		// A call that was not made tells nothing new.
		o.failures++
		o.failed, o.err = now, err.Error()
		if o.failures == 1 && !o.kicked {
			d.Logger.Warn("could not deliver to a peer; trying again with growing pauses", "peer", o.peer, "error", err)
		}
	}
	if o.kicked {
		d.Circuits.Revive(t.URL)
		d.enqueue(o)
		return
	}
	at := d.Circuits.RetryAt(t.URL, pathBroadcast)
	switch {
	case !at.IsZero():
		o.circuit = circuitKey(t.URL)
		if d.shut[o.circuit] == nil {
			d.shut[o.circuit] = map[*outlet]struct{}{}
		}
		d.shut[o.circuit][o] = struct{}{}
	case errors.Is(err, ErrCircuitOpen):
		d.enqueue(o) // it has closed meanwhile
		return
	default:
		wait := backoff(o.failures, d.RetryBase, d.RetryCap, d.random)
		var status *StatusError
		if errors.As(err, &status) {
			wait = max(wait, min(status.RetryAfter, d.RetryCap))
		}
		at = now.Add(wait)
	}
	o.state, o.until = backing, at
	heap.Push(&d.waiting, o)
}

func (d *Delivery) recovered(o *outlet) {
	if o.failures > 0 {
		d.Logger.Info("delivering to a peer again", "peer", o.peer, "failures", o.failures)
	}
	o.failures, o.drops, o.err = 0, 0, ""
	o.next.most = min(d.BatchRows, 2*o.next.most)
}

// The methods below do not touch what d.mu guards.

// batch is what one request is made of.
type batch struct {
	rows       []store.QueueRow
	unsuitable []uint64 // Seq of rows in between that the peer is not to be sent
	more       bool     // rows are left behind it
}

// batch reads the first rows for a peer, within the bounds of one request: those
// of the batch that failed, if one did.
func (d *Delivery) batch(ctx context.Context, peer rid.RID, now attempt) (b batch, err error) {
	err = d.Store.View(ctx, func(rd store.Reader) error {
		size := 0
		for row, err := range rd.QueueRows(store.Outbox, peer, 0) {
			if err != nil {
				return err
			}
			if now.last > 0 && row.Seq > now.last || len(b.unsuitable) == maxUnsuitable {
				b.more = true
				return nil
			}
			if !d.Suits(peer, row.RID) {
				b.unsuitable = append(b.unsuitable, row.Seq)
				continue
			}
			size += len(row.Event) + 1
			if len(b.rows) == now.most || len(b.rows) > 0 && size > d.BatchBytes {
				b.more = true
				return nil
			}
			b.rows = append(b.rows, row)
		}
		return nil
	})
	if err != nil {
		return batch{}, fmt.Errorf("reading the outbox: %w", err)
	}
	return b, nil
}

func (d *Delivery) push(ctx context.Context, t Target, rows []store.QueueRow, once *Once) error {
	events := make([][]byte, len(rows))
	for i, r := range rows {
		events[i] = r.Event
	}
	began := time.Now()
	err := d.Client.Broadcast(ctx, t, events, once)
	d.metrics.attempts.WithLabelValues(outcome(err), generation(d.Client.Signs(t))).Inc()
	d.metrics.duration.Observe(time.Since(began).Seconds())
	return err
}

func (d *Delivery) remove(ctx context.Context, peer rid.RID, b batch) error {
	seqs := slices.Clone(b.unsuitable)
	for _, r := range b.rows {
		seqs = append(seqs, r.Seq)
	}
	// The peer has them whether or not this node is stopping.
	err := d.Store.Update(context.WithoutCancel(ctx), func(w store.Writer) error {
		return w.DeleteQueueRows(store.Outbox, peer, seqs...)
	})
	if err != nil {
		return fmt.Errorf("taking delivered events off the outbox: %w", err)
	}
	if n := len(b.unsuitable); n > 0 {
		d.metrics.dropped.WithLabelValues("unsuitable").Add(float64(n))
		d.Logger.Debug("left out events that would not suit a peer", "peer", peer, "events", n)
	}
	return nil
}

// waitHeap orders outlets by the end of their back-off.
type waitHeap []*outlet

func (h waitHeap) Len() int           { return len(h) }
func (h waitHeap) Less(i, j int) bool { return h[i].until.Before(h[j].until) }
func (h waitHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *waitHeap) Push(x any) {
	o := x.(*outlet)
	o.index = len(*h)
	*h = append(*h, o)
}

func (h *waitHeap) Pop() any {
	old := *h
	o := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return o
}
