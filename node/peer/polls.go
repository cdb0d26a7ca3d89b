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

	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

// Defaults of PollsConfig.
const (
	DefaultLeaseTimeout = 2 * time.Minute
	DefaultPollRows     = 10_000
	DefaultPollBytes    = 8 << 20
	DefaultQueueMaxAge  = 7 * 24 * time.Hour
)

const (
	// expireInterval is how often Polls.Run looks for queues nobody polls.
	expireInterval = time.Hour
	// expireRows bounds the rows dropped in one transaction.
	expireRows = 1000
)

// PollsConfig says what Polls hands out and within which bounds.
type PollsConfig struct {
	Store store.Store
	// Introduction returns our own NEW with our bundle, as protocol.AppendEvent
	// writes it, false while there is none. Peers with a key get it first, as they
	// could not verify our answers without it; nil means that they do not. It must
	// not block.
	Introduction func() (event []byte, ok bool)
	// Suits reports whether peer may be sent events about r; nil means all. Events
	// that do not suit are never offered, and go with those that are. It is asked
	// within a transaction of the store: it must not use that, and not block.
	Suits func(peer, r rid.RID) bool
	// LeaseTimeout is how long one answer may take to be written before its
	// events may be offered to another poll (default DefaultLeaseTimeout).
	LeaseTimeout time.Duration
	// Rows and Bytes bound one answer (defaults DefaultPollRows,
	// DefaultPollBytes). One larger event goes alone.
	Rows  int
	Bytes int
	// QueueMaxAge is how long an event waits for a peer that does not poll
	// (default DefaultQueueMaxAge).
	QueueMaxAge time.Duration
	// Clock tells the time; default time.Now.
	Clock func() time.Time
	// Logger takes what is dropped; default: discarded.
	Logger *slog.Logger
	// Metrics takes the metrics; nil keeps them unregistered.
	Metrics prometheus.Registerer
}

// Polls hands the rows of the poll queues to the peers that poll for them.
//
// A peer's rows leave the store when an answer with them was written and the
// peer polls again, which says that it has them. An answer that could not be
// written is offered again, and so is one where another program than the one that
// got it polls next (see Lease). While one answer to a peer is being written a
// second poll of the same peer gets nothing, so that the events of a RID never
// overtake each other; after LeaseTimeout it gets what the first one had.
//
// The first answer to a peer with a key begins with our introduction, and so does
// each further one until one was written: once in a process and for each of the
// 10,000 peers that polled last. It counts as one of the events of the answer, so
// where one is asked for, the first answer is the introduction alone.
type Polls struct {
	PollsConfig
	metrics *pollsMetrics

	mu         sync.Mutex
	leases     map[rid.RID]*pollLease  // at most one for each peer with rows or being answered
	introduced *lru[rid.RID, struct{}] // peers that were told who we are
}

// pollLease is what one poll is answered, or was: once written it stands for
// the rows that the peer's next poll confirms. In Polls.leases it is guarded by
// Polls.mu, except for what fill fills.
type pollLease struct {
	polls  *Polls
	peer   rid.RID
	events [][]byte

	seqs       []uint64
	introduces bool // the first of events is our introduction
	unsuitable int  // rows of seqs that are not in events
	program    string
	written    bool
	expires    time.Time
}

// NewPolls returns the poll queues of a store.
func NewPolls(c PollsConfig) (*Polls, error) {
	if c.Store == nil {
		return nil, errors.New("polls: no store given")
	}
	if c.LeaseTimeout <= 0 {
		c.LeaseTimeout = DefaultLeaseTimeout
	}
	if c.Rows <= 0 {
		c.Rows = DefaultPollRows
	}
	if c.Bytes <= 0 {
		c.Bytes = DefaultPollBytes
	}
	if c.QueueMaxAge <= 0 {
		c.QueueMaxAge = DefaultQueueMaxAge
	}
	if c.Suits == nil {
		c.Suits = func(rid.RID, rid.RID) bool { return true }
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	m, err := newPollsMetrics(c.Metrics)
	if err != nil {
		return nil, fmt.Errorf("polls: %w", err)
	}
	return &Polls{PollsConfig: c, metrics: m, leases: map[rid.RID]*pollLease{}, introduced: newLRU[rid.RID, struct{}]()}, nil
}

// Lease is what a poll is answered; it is the Lease of node/server.
type Lease = interface {
	Events() [][]byte
	Written()
	Release()
}

// Lease takes up to limit events (0: as many as fit one answer) that wait for
// peer. What the peer's last written answer held is removed first, durably.
//
// program is what the peer calls itself in its User-Agent. Nodes of this program name
// their process there: the next poll of another process does not say that the
// events are taken in, as the one that got them may have died before. They are
// offered again.
func (p *Polls) Lease(ctx context.Context, peer rid.RID, program string, limit int) (Lease, error) {
	now := p.Clock()
	l := &pollLease{polls: p, peer: peer, program: clip(program), expires: now.Add(p.LeaseTimeout)}
	p.mu.Lock()
	last := p.leases[peer]
	if last != nil && !last.written && now.Before(last.expires) {
		p.mu.Unlock()
		return &pollLease{polls: p, peer: peer}, nil
	}
	p.leases[peer] = l
	known := p.introduced.get(peer) != nil
	p.mu.Unlock()

	if !known && p.Introduction != nil && rid.IsKeyed(peer) {
		if own, ok := p.Introduction(); ok {
			l.introduces = true
			l.events = append(l.events, own)
		}
	}
	if err := p.fill(ctx, l, last, limit, now); err != nil {
		// What the last answer held still waits for its confirmation.
		p.replace(l, last)
		return nil, err
	}
	if len(l.seqs) == 0 && !l.introduces {
		p.replace(l, nil)
	}
	p.metrics.offered.Add(float64(len(l.seqs) - l.unsuitable))
	return l, nil
}

// clip bounds what is remembered of a User-Agent.
func clip(program string) string { return strings.Clone(program[:min(len(program), 256)]) }

// Reintroduce makes the next answer to peer begin with our introduction again: for
// a peer that introduced itself anew, and may have lost what it knew of us.
func (p *Polls) Reintroduce(peer rid.RID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.introduced.delete(peer)
}

// fill removes what is confirmed or too old and reads what l is to offer.
func (p *Polls) fill(ctx context.Context, l, last *pollLease, limit int, now time.Time) error {
	if last != nil && last.written && last.program == l.program {
		err := p.Store.Update(ctx, func(w store.Writer) error {
			return w.DeleteQueueRows(store.PollQueue, l.peer, last.seqs...)
		})
		if err != nil {
			return fmt.Errorf("taking confirmed events off the poll queue: %w", err)
		}
		p.metrics.confirmed.Add(float64(len(last.seqs) - last.unsuitable))
		p.metrics.unsuitable.Add(float64(last.unsuitable))
	}
	before := now.Add(-p.QueueMaxAge)
	stale, err := p.read(ctx, l, limit, before)
	if stale {
		if _, err := p.expire(ctx, l.peer, before); err != nil {
			return err
		}
		_, err = p.read(ctx, l, limit, before)
	}
	return err
}

// read takes into l what it is to offer. Where the oldest row was queued before the
// given time it takes nothing, and says so.
func (p *Polls) read(ctx context.Context, l *pollLease, limit int, before time.Time) (stale bool, err error) {
	most := p.Rows
	if limit > 0 {
		most = min(most, limit)
	}
	err = p.Store.View(ctx, func(rd store.Reader) error {
		size := 0
		for _, own := range l.events {
			size += len(own) + 1
		}
		for row, err := range rd.QueueRows(store.PollQueue, l.peer, 0) {
			if err != nil {
				return err
			}
			if len(l.seqs) == 0 && row.Queued.Before(before) {
				stale = true
				return nil
			}
			if len(l.events) >= most || len(l.seqs) == p.Rows {
				return nil
			}
			if !p.Suits(l.peer, row.RID) {
				l.unsuitable++
				l.seqs = append(l.seqs, row.Seq)
				continue
			}
			size += len(row.Event) + 1
			if len(l.events) > 0 && size > p.Bytes {
				return nil
			}
			l.seqs = append(l.seqs, row.Seq)
			l.events = append(l.events, row.Event)
		}
		return nil
	})
	if err != nil {
		return false, fmt.Errorf("reading the poll queue: %w", err)
	}
	return stale, nil
}

// replace puts another lease in l's place if l still is its peer's.
func (p *Polls) replace(l, other *pollLease) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.leases[l.peer] != l {
		return
	}
	if other == nil || !other.written || len(other.seqs) == 0 {
		delete(p.leases, l.peer)
		return
	}
	p.leases[l.peer] = other
}

// Events are the leased events in the wire's compact form, oldest first.
func (l *pollLease) Events() [][]byte { return l.events }

// Written says that the whole answer went out: with the peer's next poll its
// events are the peer's.
func (l *pollLease) Written() {
	l.polls.mu.Lock()
	defer l.polls.mu.Unlock()
	if l.polls.leases[l.peer] == l {
		l.written = true
		l.events = nil // only the numbers are needed from here on
		if l.introduces {
			l.polls.introduced.put(l.peer)
		}
	}
}

// Release ends the lease; without Written its events are offered again.
func (l *pollLease) Release() { l.polls.replace(l, l) }

// Run drops, once an hour, what waited longer than QueueMaxAge for a peer that
// does not poll, and marks the peer as in need of a resync. It returns when
// ctx ends.
func (p *Polls) Run(ctx context.Context) error {
	t := time.NewTicker(expireInterval)
	defer t.Stop()
	for {
		if n, err := p.Expire(ctx); err != nil && ctx.Err() == nil {
			p.Logger.Error("could not drop events nobody polls for", "dropped", n, "error", err)
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// Expire drops what is too old in all poll queues and returns the number of
// rows dropped. Run does it once an hour.
func (p *Polls) Expire(ctx context.Context) (dropped int, err error) {
	before := p.Clock().Add(-p.QueueMaxAge)
	var queues map[rid.RID]store.QueueStats
	err = p.Store.View(ctx, func(rd store.Reader) (err error) {
		queues, err = rd.Queues(store.PollQueue)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("looking at the poll queues: %w", err)
	}
	for peer, q := range queues {
		if q.Rows == 0 || !q.Oldest.Before(before) {
			continue
		}
		n, err := p.expire(ctx, peer, before)
		dropped += n
		if err != nil {
			return dropped, err
		}
	}
	return dropped, nil
}

// expire drops a peer's rows that were queued before the given time.
func (p *Polls) expire(ctx context.Context, peer rid.RID, before time.Time) (dropped int, err error) {
	for {
		var old []uint64
		err := p.Store.View(ctx, func(rd store.Reader) error {
			q, err := rd.QueueStats(store.PollQueue, peer)
			if err != nil || q.Rows == 0 || !q.Oldest.Before(before) {
				return err
			}
			for row, err := range rd.QueueRows(store.PollQueue, peer, 0) {
				if err != nil {
					return err
				}
				if !row.Queued.Before(before) || len(old) == expireRows {
					return nil
				}
				old = append(old, row.Seq)
			}
			return nil
		})
		if err == nil && len(old) > 0 {
			err = p.Store.Update(ctx, func(w store.Writer) error {
				if err := w.DeleteQueueRows(store.PollQueue, peer, old...); err != nil {
					return err
				}
				return w.SetResyncNeeded(store.PollQueue, peer, true)
			})
		}
		if err != nil {
			return dropped, fmt.Errorf("dropping events that %s did not poll for: %w", peer, err)
		}
		if len(old) == 0 {
			if dropped > 0 {
				p.metrics.expired.Add(float64(dropped))
				p.Logger.Warn("dropped events that a peer did not poll for in time", "peer", peer, "events", dropped)
			}
			return dropped, nil
		}
		dropped += len(old)
	}
}
