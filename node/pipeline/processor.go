package pipeline

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/koi-net/koi-operator/node/graph"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

// ErrBusy is returned when the inbox is at its bound: nothing was accepted,
// and the sender should come again later.
var ErrBusy = errors.New("inbox full")

// ErrStopped is returned to who waits for a Processor that stopped meanwhile:
// what was accepted is on disk and goes on at the next start.
var ErrStopped = errors.New("the processing has stopped; what was accepted goes on at the next start")

// Config is what a Processor is made of. Store, Graph, Self and Route are
// required.
type Config struct {
	Self     rid.RID
	Store    store.Store
	Graph    *graph.Graph
	Handlers []Handler
	// Fetcher gets what external objects lack; without one they end there.
	Fetcher Fetcher
	// Route says in which queue events for a node wait; ok is false for a node
	// that is not known.
	Route func(rid.RID) (q store.Queue, ok bool)
	// QueueLimits bound each peer's rows.
	QueueLimits store.QueueLimits
	// Replay bounds the memory of signed bodies that were accepted.
	Replay store.ReplayBounds
	// OnCommit, if set, is told of each committed object, in the order of its
	// RID, after the graph is updated. It must not block.
	OnCommit func(Commit)

	// OnDamaged, if set, is told of a cached bundle that cannot be read. It must not
	// block.
	OnDamaged func(rid.RID, error)

	// Workers is how many objects are processed side by side (default 64).
	Workers int
	// MaxInbox bounds the objects that wait (default 1,000,000).
	MaxInbox int
	// MaxAttempts bounds how often an object that fails with Retry is tried (default 10).
	MaxAttempts int
	// RetryBase and RetryCap bound the interval between attempts, which doubles
	// (defaults 50 ms and 10 s).
	RetryBase, RetryCap time.Duration

	Now     func() time.Time
	Logger  *slog.Logger
	Metrics prometheus.Registerer
}

// Commit tells what one object's transaction changed.
type Commit struct {
	Object *Object
	// Record is what was written, nil after a FORGET.
	Record *store.Record
	// Queued holds the peers that have new rows.
	Queued map[store.Queue][]rid.RID
}

// Outcome says how an object's way through the pipeline ended.
type Outcome struct {
	// Normalized is what it meant: New, Update, Forget; "" where it was stopped
	// before that was known.
	Normalized protocol.EventType
	// Manifest is the one now held for the RID, nil after a FORGET.
	Manifest *protocol.Manifest
	// Stopped is the reason a handler gave for ending it, "" if it was committed.
	Stopped string
	// Err is a handler's failure.
	Err error
}

// Processor owns the inbox and the handlers. Make one with New; call Run once.
type Processor struct {
	cfg     Config
	byPhase [phases][]Handler
	metrics *metrics
	log     *slog.Logger

	wake    chan struct{}         // capacity 1: the inbox has new rows
	running atomic.Bool           // Run is under way
	stopped chan struct{}         // closed when Run has returned
	failure atomic.Pointer[error] // of the store, until it takes something again

	mu      sync.Mutex
	waiters map[uint64]chan Outcome
	flushes []flush

	graphMu sync.Mutex // makes each change of the graph one step

	quarantine quarantine
	pending    *pending
}

// flush is somebody who waits for the inbox.
type flush struct {
	done chan struct{} // to be closed
	// rest: it is enough that nothing is worked on; objects may wait to be tried again.
	rest bool
}

// New checks cfg and returns a Processor. Handlers run in the given order
// within their phase.
func New(cfg Config) (*Processor, error) {
	switch {
	case cfg.Store == nil || cfg.Graph == nil || cfg.Route == nil:
		return nil, errors.New("pipeline: Store, Graph and Route are required")
	case cfg.Self == "":
		return nil, errors.New("pipeline: Self is required")
	}
	setDefault(&cfg.Workers, 64)
	setDefault(&cfg.MaxInbox, 1_000_000)
	setDefault(&cfg.MaxAttempts, 10)
	setDefault(&cfg.RetryBase, 50*time.Millisecond)
	setDefault(&cfg.RetryCap, 10*time.Second)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	p := &Processor{
		cfg:     cfg,
		log:     cfg.Logger,
		wake:    make(chan struct{}, 1),
		stopped: make(chan struct{}),
		waiters: map[uint64]chan Outcome{},
		pending: newPending(),
	}
	for _, h := range cfg.Handlers {
		if h.Func == nil || h.Phase < PhaseRID || h.Phase > PhaseFinal {
			return nil, fmt.Errorf("pipeline: handler %q has no function or an unknown phase", h.Name)
		}
		p.byPhase[h.Phase] = append(p.byPhase[h.Phase], h)
	}
	m, err := newMetrics(cfg.Metrics, p.quarantine.len)
	if err != nil {
		return nil, fmt.Errorf("pipeline: %w", err)
	}
	p.metrics = m
	err = cfg.Store.View(context.Background(), func(tx store.Reader) error {
		n, err := tx.InboxLen()
		p.pending.found(n)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("pipeline: read the inbox: %w", err)
	}
	return p, nil
}

func setDefault[T int | time.Duration](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}

// Received is the content of one body that another node sent.
type Received struct {
	// Source is the node that signed it, or Unsigned.
	Source Source
	// Replay names the signed body for good; nil for an unsigned one.
	Replay *[32]byte
	Events []protocol.Event
}

// Accept takes the events of one received body. When it returns nil they are
// on disk, all of them, and will be processed; otherwise none is. A signed body
// that was accepted before is left alone: it was recorded or held back, and
// sent again by somebody.
// The error is ErrBusy when the inbox is full, or the store's.
func (p *Processor) Accept(ctx context.Context, in Received) error {
	if len(in.Events) == 0 {
		return nil
	}
	objects := make([]Object, len(in.Events))
	for i, e := range in.Events {
		objects[i] = FromEvent(in.Source, e)
	}
	return p.submit(ctx, objects, nil, in.Replay)
}

// inHandler marks the context that handlers are called with.
type inHandler struct{}

// Submit takes objects of any source, all or none, and returns once they are
// on disk.
func (p *Processor) Submit(ctx context.Context, objects ...Object) error {
	return p.submit(ctx, objects, nil, nil)
}

// Do takes objects as Submit does, waits until all were processed and returns
// how each ended, in the given order. When ctx ends first the objects are
// still processed; when Run ends first the error is ErrStopped.
func (p *Processor) Do(ctx context.Context, objects ...Object) ([]Outcome, error) {
	ch := make([]chan Outcome, len(objects))
	for i := range ch {
		ch[i] = make(chan Outcome, 1)
	}
	if err := p.submit(ctx, objects, ch, nil); err != nil {
		return nil, err
	}
	out := make([]Outcome, len(objects))
	for i := range ch {
		select {
		case out[i] = <-ch[i]:
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for %s to be processed: %w", objects[i].RID, ctx.Err())
		case <-p.stopped:
			select {
			case out[i] = <-ch[i]: // it was done before the stop
			default:
				return nil, fmt.Errorf("waiting for %s to be processed: %w", objects[i].RID, ErrStopped)
			}
		}
	}
	return out, nil
}

func (p *Processor) submit(ctx context.Context, objects []Object, waiters []chan Outcome, replay *[32]byte) error {
	if len(objects) == 0 {
		return nil
	}
	if ctx.Value(inHandler{}) != nil {
		// It would wait for itself, or for a worker that does the same.
		return errors.New("a handler causes knowledge objects by its Context, not by the node")
	}
	for i := range objects {
		if objects[i].Source == "" {
			objects[i].Source = Internal
		}
		if _, err := rid.Parse(string(objects[i].RID)); err != nil {
			return fmt.Errorf("knowledge object %d: %w", i, err)
		}
	}
	s := p.submission(ctx, objects, waiters, replay)
	defer s.release()
	if err := p.update(ctx, s.write); err != nil {
		p.forgetWaiters(s.seqs)
		s.noted.undo()
		return fmt.Errorf("accept %d objects: %w", len(objects), err)
	}
	if s.seen {
		p.metrics.replayed.Inc()
		p.log.Debug("a body that was accepted before came again and is left alone", "source", objects[0].Source, "events", len(objects))
		return nil
	}
	p.metrics.accepted.Add(float64(len(objects)))
	s.finish()
	return nil
}

// Send queues an event for the given nodes, outside of any object's way.
// Nodes that are not known are left out.
func (p *Processor) Send(ctx context.Context, e protocol.Event, targets ...rid.RID) error {
	routes := p.route(targets)
	if len(routes) == 0 {
		return nil
	}
	event := routed{routes: routes, row: store.QueueRow{RID: e.RID, Event: protocol.AppendEvent(nil, e), Queued: p.cfg.Now()}}
	var lost drops
	err := p.update(ctx, func(tx store.Writer) error {
		lost = lost[:0]
		return lost.enqueue(tx, event, p.cfg.QueueLimits)
	})
	if err != nil {
		return fmt.Errorf("queue %s of %s: %w", e.EventType, e.RID, err)
	}
	p.tellDrops(lost)
	if p.cfg.OnCommit != nil {
		p.cfg.OnCommit(Commit{Queued: routes})
	}
	return nil
}

// Flush waits until everything accepted before it, and what followed from
// that, is processed: until the inbox has been empty once.
func (p *Processor) Flush(ctx context.Context) error { return p.await(ctx, false) }

// Settle waits until nothing is being processed, and what is left waits to be
// tried again: for a node that is about to stop.
func (p *Processor) Settle(ctx context.Context) error { return p.await(ctx, true) }

func (p *Processor) await(ctx context.Context, rest bool) error {
	f := flush{done: make(chan struct{}), rest: rest}
	p.mu.Lock()
	p.flushes = append(p.flushes, f)
	p.mu.Unlock()
	p.poke()
	select {
	case <-f.done:
		return nil
	case <-p.stopped:
		return fmt.Errorf("waiting for the inbox to empty: %w", ErrStopped)
	case <-ctx.Done():
		return fmt.Errorf("waiting for the inbox to empty: %w", ctx.Err())
	}
}

func (p *Processor) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// takeFlushes returns who began to wait since the last call.
func (p *Processor) takeFlushes() []flush {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := p.flushes
	p.flushes = nil
	return out
}

func (p *Processor) addWaiters(seqs []uint64, waiters []chan Outcome) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, s := range seqs {
		p.waiters[s] = waiters[i]
	}
}

func (p *Processor) forgetWaiters(seqs []uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range seqs {
		delete(p.waiters, s)
	}
}

func (p *Processor) tell(seq uint64, out Outcome) {
	p.mu.Lock()
	ch := p.waiters[seq]
	delete(p.waiters, seq)
	p.mu.Unlock()
	if ch != nil {
		ch <- out // has room for its one outcome
	}
}

// route sorts targets by queue, once each, and leaves out what is not known.
func (p *Processor) route(targets []rid.RID) map[store.Queue][]rid.RID {
	routes := map[store.Queue][]rid.RID{}
	seen := make(map[rid.RID]bool, len(targets))
	for _, t := range targets {
		if t == p.cfg.Self || seen[t] {
			continue
		}
		seen[t] = true
		q, ok := p.cfg.Route(t)
		if !ok {
			p.log.Debug("event not sent: the node is not known", "node", t)
			continue
		}
		routes[q] = append(routes[q], t)
	}
	return routes
}

// drops are the rows that a transaction dropped at a queue's bound.
type drops []dropped

type dropped struct {
	queue store.Queue
	peer  rid.RID
	store.Drops
}

// enqueue queues an event for its receivers, and adds to d what that drove out.
func (d *drops) enqueue(tx store.Writer, e routed, limits store.QueueLimits) error {
	for q, peers := range e.routes {
		lost, err := tx.Enqueue(q, peers, e.row, limits)
		if err != nil {
			return err
		}
		for peer, n := range lost {
			*d = append(*d, dropped{q, peer, n})
		}
	}
	return nil
}

// tellDrops counts and logs what was dropped. It is called once the transaction is
// committed: until then it may be undone.
func (p *Processor) tellDrops(all drops) {
	for _, d := range all {
		p.metrics.drops(d.queue, d.Drops)
		if d.Marked { // once until the mark is cleared: the metric counts the rest
			p.log.Warn("events dropped: the peer's queue is at its bound, and the peer misses some until it takes in our whole state", "peer", d.peer, "queue", d.queue, "oldest", d.Oldest, "tooLarge", d.TooLarge)
		}
	}
}
