package pipeline_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/koi-net/koi-operator/node/pipeline"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/store"
)

// A FORGET ends what is kept aside of its RID: that comes from the time before.
func TestForgetEndsWhatIsKeptAside(t *testing.T) {
	const stranger = "orn:koi-net.node:stranger+3"
	base := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		known  bool // an older version is held
		forget pipeline.Source
		lifted bool
	}{
		"unknown, by whom it came from": {false, pipeline.Source(other), true},
		"unknown, by another":           {false, stranger, false},
		"known":                         {true, pipeline.Source(other), true},
	} {
		t.Run(name, func(t *testing.T) {
			var ahead atomic.Int64
			handlers := []pipeline.Handler{
				quick(pipeline.PhaseRID, func(_ context.Context, _ *pipeline.Context, o *pipeline.Object) error {
					if o.EventType == protocol.Forget && o.Previous == nil {
						return pipeline.Stop("Unknown")
					}
					return nil
				}),
				quick(pipeline.PhaseManifest, func(_ context.Context, c *pipeline.Context, o *pipeline.Object) error {
					if at := o.Manifest.Timestamp.Time(); at.After(c.Now) {
						return pipeline.Quarantine("Early", at)
					}
					return nil
				}),
			}
			b := start(t, pipeline.Config{Handlers: handlers, Now: func() time.Time { return base.Add(time.Duration(ahead.Load())) }})
			b.flush() // it runs
			accept := func(from pipeline.Source, e protocol.Event) {
				t.Helper()
				if err := b.Accept(t.Context(), pipeline.Received{Source: from, Events: []protocol.Event{e}}); err != nil {
					t.Fatal(err)
				}
				b.flush()
			}
			if c.known {
				accept(pipeline.Source(other), event(t, doc(1), base, `{"a":0}`))
			}
			accept(pipeline.Source(other), event(t, doc(1), base.Add(time.Hour), `{"a":1}`))
			if got := b.Quarantined(); got != 1 {
				t.Fatalf("%d kept aside, want 1", got)
			}
			accept(c.forget, protocol.Event{RID: doc(1), EventType: protocol.Forget})
			want := 1
			if c.lifted {
				want = 0
			}
			if got := b.Quarantined(); got != want {
				t.Fatalf("%d kept aside after the FORGET, want %d", got, want)
			}
			// Its time comes; another run finds in the store what this one knows.
			b.stop()
			ahead.Store(int64(2 * time.Hour))
			again := start(t, pipeline.Config{Store: b.store, Handlers: handlers, Now: func() time.Time { return base.Add(2 * time.Hour) }})
			again.flush()
			again.flush() // what was released meanwhile
			err := again.store.View(t.Context(), func(tx store.Reader) error { _, err := tx.Bundle(doc(1)); return err })
			if there := err == nil; there == c.lifted {
				t.Errorf("held %v, lifted %v", there, c.lifted)
			}
		})
	}
}
