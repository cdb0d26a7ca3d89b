package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/koi-net/koi-operator/node/store"
)

const (
	// probeInterval is how often a full store is asked whether there is room again.
	probeInterval = 5 * time.Second
	// probeBytes is what has to fit for that: room for one more body of some events,
	// or the next one would find the store full again.
	probeBytes = 256 << 10
	// probeKey names the value that is written and removed again.
	probeKey = "room-probe"
)

// room is a store that knows whether there is room in it. Deletions work in a
// full store, so that a write went well says nothing: while it is full it is
// tried, now and then, and seen by the readiness checks.
type room struct {
	store.Store
	log  *slog.Logger
	full prometheus.Gauge
	wake chan struct{} // capacity 1: an update found no room

	mu  sync.Mutex
	why error // why the store is full, nil while it is not
}

func watchRoom(st store.Store, log *slog.Logger, metrics prometheus.Registerer) (*room, error) {
	r := &room{
		Store: st, log: log, wake: make(chan struct{}, 1),
		full: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "koi_node_store_full", Help: "1 while the store refuses additions because it, or its volume, is full."}),
	}
	if err := metrics.Register(r.full); err != nil {
		return nil, fmt.Errorf("metrics of the store: %w", err)
	}
	return r, nil
}

// Update is the store's; it notices where that found no room.
func (r *room) Update(ctx context.Context, fn func(store.Writer) error) error {
	err := r.Store.Update(ctx, fn)
	if errors.Is(err, store.ErrFull) {
		select {
		case r.wake <- struct{}{}:
		default:
		}
	}
	return err
}

// Full returns why nothing can be added to the store, nil while it can.
func (r *room) Full() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.why
}

// Run keeps Full true until ctx ends.
func (r *room) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.wake:
		}
		// One body too large for what room there is does not make the store full.
		for r.probe(ctx) {
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(probeInterval):
			}
		}
	}
}

// probe writes something and takes it back, and reports whether the store is full.
func (r *room) probe(ctx context.Context) bool {
	err := r.Store.Update(ctx, func(w store.Writer) error { return w.PutValue(probeKey, make([]byte, probeBytes)) })
	if err == nil {
		// Nothing of it is to be left, whoever stops meanwhile.
		err = r.Store.Update(context.WithoutCancel(ctx), func(w store.Writer) error { return w.PutValue(probeKey, nil) })
	}
	if ctx.Err() != nil {
		return true
	}
	var why error
	if errors.Is(err, store.ErrFull) {
		why = err
	}
	r.mu.Lock()
	was := r.why
	r.why = why
	r.mu.Unlock()
	switch {
	case was == nil && why != nil:
		r.full.Set(1)
		r.log.Error("the store is full: additions are refused, reads and deletions go on", "error", why)
	case was != nil && why == nil:
		r.full.Set(0)
		r.log.Info("there is room in the store again")
	}
	return why != nil
}
