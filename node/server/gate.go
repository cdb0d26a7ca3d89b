package server

import (
	"context"
	"sync/atomic"
	"time"
)

// gate bounds the requests served at once. A request that finds it full waits
// a moment in a bounded backlog and is refused then.
type gate struct {
	slots   chan struct{}
	backlog chan struct{}
	wait    time.Duration
}

func newGate(concurrency int, wait time.Duration) *gate {
	return &gate{
		slots:   make(chan struct{}, concurrency),
		backlog: make(chan struct{}, max(1, concurrency/2)),
		wait:    wait,
	}
}

// enter takes a slot; leave must follow if it returns true.
func (g *gate) enter(ctx context.Context) bool {
	select {
	case g.slots <- struct{}{}:
		return true
	default:
	}
	select {
	case g.backlog <- struct{}{}:
	default:
		return false
	}
	defer func() { <-g.backlog }()
	t := time.NewTimer(g.wait)
	defer t.Stop()
	select {
	case g.slots <- struct{}{}:
		return true
	case <-t.C:
		return false
	case <-ctx.Done():
		return false
	}
}

func (g *gate) leave() { <-g.slots }

// budget bounds the bytes held by all request bodies together. It never waits:
// requests that wait for each other's bytes while holding some could wait for
// ever.
type budget struct {
	limit int64
	used  atomic.Int64
}

func (b *budget) take(n int64) bool {
	if b.used.Add(n) <= b.limit {
		return true
	}
	b.used.Add(-n)
	return false
}

func (b *budget) give(n int64) { b.used.Add(-n) }
