package observe

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/koi-net/koi-operator/node/admin/client"
)

// follower follows one node at one endpoint.
type follower struct {
	observer *Observer
	key      types.NamespacedName
	endpoint Endpoint
	admin    Admin
	poke     chan struct{}
	cancel   context.CancelFunc // set when it runs; guarded by observer.mu

	snapshot *Snapshot // guarded by observer.mu
	told     bool      // of its first look: the follower before may have ended before it could tell
	// noticed is when the first change since the last look was told of; nil for none.
	noticed atomic.Pointer[time.Time]
}

// stop ends the follower; observer.mu is held.
func (f *follower) stop() {
	if f.cancel != nil {
		f.cancel()
	}
}

func (f *follower) wake() {
	now := f.observer.clock()
	f.noticed.CompareAndSwap(nil, &now)
	select {
	case f.poke <- struct{}{}:
	default: // a look is due already
	}
}

// run looks at the node, then again whenever the node's watch says so, and in
// any case before the interval is over, with time left to try again where an answer
// is lost.
func (f *follower) run(ctx context.Context) {
	defer f.admin.CloseIdleConnections()
	var watch sync.WaitGroup
	defer watch.Wait()
	watch.Go(func() { f.watch(ctx) })

	const minPause = 250 * time.Millisecond
	pause := minPause
	for {
		wait := f.observer.interval * time.Duration(58+rand.IntN(9)) / 100
		began := time.Now()
		err := f.look(ctx)
		wait = max(0, wait-time.Since(began)) // a word is as old as its question
		if err != nil {
			wait = min(wait, pause/2+rand.N(pause/2+1))
			pause = min(2*pause, 10*time.Second)
		} else {
			pause = minPause
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		case <-f.poke:
			timer.Stop()
			if !sleep(ctx, settle) {
				return
			}
		}
	}
}

// watch wakes the follower on changes that matter to the controllers.
func (f *follower) watch(ctx context.Context) {
	first := true
	take := func(c client.Change) error {
		switch c.Kind {
		case client.ChangeNode, client.ChangeEdge, client.ChangePolicy, client.ChangeStatus, client.ChangeReset:
			f.wake()
		default:
			if first { // what happened between the first look and the watch
				f.wake()
			}
		}
		first = false
		return nil
	}
	// It returns when ctx ends; what it meets on the way, look reports.
	_ = f.admin.Follow(ctx, "", take, client.FollowOptions{
		MaxBackoff: 10 * time.Second,
		OnError: func(error) error {
			f.wake()
			return nil
		},
	})
}

// look asks the node and keeps the answer, or keeps the last one with the error.
func (f *follower) look(ctx context.Context) error {
	f.observer.mu.Lock()
	old := f.snapshot
	f.observer.mu.Unlock()

	noticed := f.noticed.Swap(nil)
	next, err := f.ask(ctx)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		next = &Snapshot{Err: err}
		if old != nil {
			*next = *old
			next.Err = err
		}
	} else {
		next.Changed = changed(old, next, noticed)
	}
	if !f.observer.keep(f, next) {
		return nil
	}
	switch {
	case err != nil && (old == nil || old.Err == nil):
		f.observer.log.Info("node does not answer", "koinode", f.key, "error", err.Error())
	case err == nil && old != nil && old.Err != nil:
		f.observer.log.Info("node answers again", "koinode", f.key)
	}
	if !f.told || old == nil || (old.Err == nil) != (err == nil) || old.digest != next.digest {
		f.told = true
		f.observer.announce(ctx, f.key)
	}
	return err
}

// changed is when it was noticed that next says something else than old did.
func changed(old, next *Snapshot, noticed *time.Time) time.Time {
	switch {
	case old != nil && old.digest == next.digest:
		return old.Changed
	case noticed != nil:
		return *noticed
	}
	return next.At
}

func (f *follower) ask(ctx context.Context) (*Snapshot, error) {
	// Silence is to be told of before the last word is too old.
	ctx, cancel := context.WithTimeout(ctx, min(requestTimeout, f.observer.interval/4))
	defer cancel()
	at := f.observer.clock()
	status, err := f.admin.Status(ctx)
	if err != nil {
		return nil, err
	}
	edges, err := f.admin.Edges(ctx, true)
	if err != nil {
		return nil, err
	}
	nodes, err := f.admin.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	return newSnapshot(status, edges, nodes, at), nil
}

// sleep waits and tells whether ctx still stands.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
