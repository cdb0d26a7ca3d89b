package pipeline

import (
	"context"
	"fmt"
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
}

// lane holds the waiting rows of one RID, in order. One row at a time is worked on.
type lane struct {
	rows     []row
	busy     bool
	parked   bool // waits for retryAt, or for a node to become known
	attempts int
	retryAt  time.Time
}

// result is what a worker reports about a lane's first row.
type result struct {
	rid      rid.RID
	retry    bool
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
	parked  map[rid.RID]*lane // those of lanes that wait to be tried again
	ready   []rid.RID
	skip    map[uint64]bool // final rows carried through before they were loaded
	cursor  uint64          // the last row loaded
	rows    int             // held in lanes
	bytes   int
	more    bool // the store may hold rows beyond cursor
	running int
	results chan result
}

// Run processes the inbox until ctx ends, then waits for the objects that are
// being worked on. Objects that still wait stay in the inbox for the next Run.
// It fails when the store can be read or written no more.
func (p *Processor) Run(ctx context.Context) error {
	d := &dispatcher{
		p: p, lanes: map[rid.RID]*lane{}, parked: map[rid.RID]*lane{}, skip: map[uint64]bool{}, more: true,
		results: make(chan result, p.cfg.Workers),
	}
	defer d.drain()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		if err := d.load(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		d.start(ctx)
		if d.rows == 0 && !d.more {
			p.foundIdle()
		}
		timer.Reset(d.untilRetry())
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
			d.unpark(func(l *lane) bool { return !l.retryAt.After(time.Now()) })
		}
	}
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
				d.add(row{seq: r.Seq, rid: r.RID, data: r.Data})
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
		d.ready = append(d.ready, r.rid)
	}
}

func (d *dispatcher) start(ctx context.Context) {
	for len(d.ready) > 0 && d.running < d.p.cfg.Workers {
		r := d.ready[0]
		d.ready = d.ready[1:]
		l := d.lanes[r]
		l.busy = true
		d.running++
		first, attempts := l.rows[0], l.attempts
		go func() { d.results <- d.p.work(ctx, first, attempts) }()
	}
}

func (d *dispatcher) finish(r result) {
	d.running--
	if r.newNode {
		// What waited for an introduction may go on at once.
		d.unpark(func(*lane) bool { return true })
	}
	l := d.lanes[r.rid]
	l.busy = false
	if r.retry {
		l.attempts = r.attempts
		l.parked, l.retryAt = true, time.Now().Add(r.after)
		d.parked[r.rid] = l
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
	d.ready = append(d.ready, r.rid)
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

func (d *dispatcher) unpark(which func(*lane) bool) {
	for r, l := range d.parked {
		if which(l) {
			l.parked = false
			delete(d.parked, r)
			d.ready = append(d.ready, r)
		}
	}
}

func (d *dispatcher) untilRetry() time.Duration {
	next := time.Hour
	for _, l := range d.parked {
		next = min(next, time.Until(l.retryAt))
	}
	return max(next, 0)
}

// drain waits for the workers; what they report no longer matters.
func (d *dispatcher) drain() {
	for ; d.running > 0; d.running-- {
		<-d.results
	}
}
