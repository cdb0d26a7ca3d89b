package pipeline

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

// What of the inbox is held in memory at most; the rest waits in the store.
const (
	windowRows  = 65_536
	windowBytes = 64 << 20
	pageRows    = 1_024
)

// row is an inbox row in memory.
type row struct {
	seq  uint64
	rid  rid.RID
	data []byte
	kind kind
}

// kind sorts rows by whom they may keep waiting.
type kind int

// Rows that may have to be fetched from a peer have workers of their own, so
// that peers that are slow to answer hold up nobody but each other.
const (
	complete kind = iota
	lacking
	kinds int = iota
)

// lane holds the waiting rows of one RID, in order. One row at a time is worked on.
type lane struct {
	rows     []row
	busy     bool
	attempts int

	// A parked lane waits for retryAt, or for the node it awaits to become known.
	parked  bool
	retryAt time.Time
	awaits  rid.RID
	index   int // in parking.byTime
}

// result is what a worker reports about a lane's first row.
type result struct {
	rid      rid.RID
	kind     kind
	retry    bool
	awaits   rid.RID       // the node whose introduction it waits for, if retry
	attempts int           // counted attempts of the row, if retry
	after    time.Duration // when to try again, if retry
	final    uint64        // a row of the final stage that was carried through with it, or 0
	newNode  bool          // a node became known
	fatal    error         // the store can be written no more
}

// dispatcher gives rows to workers: in order within a RID, side by side across
// RIDs. It belongs to the goroutine of Run.
type dispatcher struct {
	p       *Processor
	lanes   map[rid.RID]*lane
	parked  parking // those of lanes that wait to be tried again
	ready   [kinds][]rid.RID
	running [kinds]int
	skip    map[uint64]bool // final rows carried through before they were loaded
	cursor  uint64          // the last row loaded
	rows    int             // held in lanes
	bytes   int
	more    bool // the store may hold rows beyond cursor
	flushes []flush
	results chan result
}

// Run processes the inbox until ctx ends, then waits for the objects that are
// being worked on. Objects that still wait stay in the inbox for the next Run.
// It fails when the store can be read or written no more.
func (p *Processor) Run(ctx context.Context) error {
	d := &dispatcher{
		p: p, lanes: map[rid.RID]*lane{}, parked: parking{byNode: map[rid.RID]map[*lane]bool{}}, skip: map[uint64]bool{}, more: true,
		results: make(chan result, kinds*p.cfg.Workers),
	}
	defer close(p.stopped)
	defer d.drain()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // before drain: a failure must not wait for slow peers
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	if err := p.loadQuarantine(ctx); err != nil {
		return ignoreDone(ctx, err)
	}
	p.running.Store(true)
	defer p.running.Store(false)
	for {
		release, err := p.release(ctx)
		switch {
		case errors.Is(err, store.ErrFull):
			release = p.cfg.RetryCap // there may be room later
		case err != nil:
			return ignoreDone(ctx, err)
		}
		if flushes := p.takeFlushes(); len(flushes) > 0 {
			// What was accepted before a Flush is loaded before the inbox can be
			// found empty for it.
			d.flushes, d.more = append(d.flushes, flushes...), true
		}
		if err := d.load(ctx); err != nil {
			return ignoreDone(ctx, err)
		}
		d.start(ctx)
		d.tell()
		timer.Reset(min(release, d.parked.untilFirst(time.Now())))
		select {
		case <-ctx.Done():
			return nil
		case <-p.wake:
			d.more = true
		case r := <-d.results:
			d.finish(r)
			if r.fatal != nil {
				return r.fatal
			}
		case <-timer.C:
			d.resume(d.parked.due(time.Now()))
		}
	}
}

// ignoreDone is nil for a failure that is due to the stop that ctx asked for.
func ignoreDone(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// load reads further rows while there is room for them.
func (d *dispatcher) load(ctx context.Context) error {
	for d.more && d.rows < windowRows && d.bytes < windowBytes {
		n := 0
		err := d.p.cfg.Store.View(ctx, func(tx store.Reader) error {
			for r, err := range tx.Inbox(d.cursor) {
				if err != nil {
					return err
				}
				n++
				d.add(row{seq: r.Seq, rid: r.RID, data: r.Data, kind: kindOf(r.Data)})
				if n == pageRows {
					break
				}
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("read the inbox: %w", err)
		}
		d.more = n == pageRows
	}
	return nil
}

func (d *dispatcher) add(r row) {
	d.cursor = r.seq
	d.p.pending.read(r.rid)
	if d.skip[r.seq] {
		delete(d.skip, r.seq)
		return
	}
	l := d.lanes[r.rid]
	if l == nil {
		l = &lane{}
		d.lanes[r.rid] = l
	}
	l.rows = append(l.rows, r)
	d.rows++
	d.bytes += len(r.data)
	if len(l.rows) == 1 && !l.busy && !l.parked {
		d.enqueue(l)
	}
}

// enqueue has the first row of a lane worked on as soon as a worker is free.
func (d *dispatcher) enqueue(l *lane) {
	first := l.rows[0]
	d.ready[first.kind] = append(d.ready[first.kind], first.rid)
}

func (d *dispatcher) start(ctx context.Context) {
	for k := range d.ready {
		for len(d.ready[k]) > 0 && d.running[k] < d.p.cfg.Workers {
			r := d.ready[k][0]
			d.ready[k] = d.ready[k][1:]
			l := d.lanes[r]
			l.busy = true
			d.running[k]++
			first, attempts := l.rows[0], l.attempts
			go func() {
				res := d.p.work(ctx, first, attempts)
				res.kind = first.kind
				d.results <- res
			}()
		}
	}
}

func (d *dispatcher) finish(r result) {
	d.running[r.kind]--
	if r.newNode {
		// What waited for this introduction may go on at once.
		d.resume(d.parked.awaiting(r.rid))
	}
	l := d.lanes[r.rid]
	l.busy = false
	if r.retry {
		l.attempts = r.attempts
		d.parked.add(l, time.Now().Add(r.after), r.awaits)
		return
	}
	d.remove(l, 0)
	l.attempts = 0
	if r.final != 0 {
		d.carried(l, r.final)
	}
	if len(l.rows) == 0 {
		delete(d.lanes, r.rid)
		return
	}
	d.enqueue(l)
}

// carried forgets the final row that the worker carried through itself.
func (d *dispatcher) carried(l *lane, seq uint64) {
	if seq > d.cursor {
		d.skip[seq] = true
		d.more = true
		return
	}
	for i := range l.rows {
		if l.rows[i].seq == seq {
			d.remove(l, i)
			return
		}
	}
}

func (d *dispatcher) remove(l *lane, i int) {
	d.rows--
	d.bytes -= len(l.rows[i].data)
	if i == 0 {
		l.rows = l.rows[1:]
		return
	}
	l.rows = append(l.rows[:i], l.rows[i+1:]...)
}

func (d *dispatcher) resume(lanes []*lane) {
	for _, l := range lanes {
		d.enqueue(l)
	}
}

// tell ends the waiting of those whose time has come.
func (d *dispatcher) tell() {
	if d.more && d.rows < windowRows {
		return
	}
	resting := true
	for k := range d.ready {
		resting = resting && len(d.ready[k]) == 0 && d.running[k] == 0
	}
	empty := d.rows == 0 && !d.more
	d.flushes = slices.DeleteFunc(d.flushes, func(f flush) bool {
		if empty || f.rest && resting {
			close(f.done)
			return true
		}
		return false
	})
}

// drain waits for the workers; what they report no longer matters.
func (d *dispatcher) drain() {
	for _, running := range d.running {
		for range running {
			<-d.results // of either kind
		}
	}
}
