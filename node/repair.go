package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/koi-net/koi-operator/node/pipeline"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/scrub"
	"github.com/koi-net/koi-operator/node/store"
)

// Bounds of what is known to be damaged. What exceeds them is counted by the scrub
// alone, and found again by its next round.
const (
	maxDamaged = 1000
	// asideBytes bounds the contents that are kept of one bad bundle.
	asideBytes = 1 << 20
	// refetchEvery is how often providers are asked again for what they did not have.
	refetchEvery = time.Hour
)

const damagedPrefix = "damaged/"

// aside is what is kept, under damagedPrefix and its RID, of a bundle that turned
// out bad, until it is there again.
type aside struct {
	Reason   string             `json:"reason"`
	Error    string             `json:"error"`
	Found    time.Time          `json:"found"`
	Source   string             `json:"source,omitempty"` // who provided it, where that can be told
	Manifest *protocol.Manifest `json:"manifest,omitempty"`
	Contents string             `json:"contents,omitempty"` // as they are, up to asideBytes
}

// repairs sees to bundles that turned out bad: they are served to nobody, and
// fetched again from who provided them or provides their type. A record that
// fails its checksum stays where it is until another takes its place; one whose
// contents are not those of its manifest is set aside. This node's own knowledge
// cannot be had from anybody: it is reported until it is put again.
type repairs struct {
	n     *Node
	gauge prometheus.GaugeFunc
	wake  chan struct{} // capacity 1
	// suspects are what somebody came upon; the scrub finds what does not fit.
	suspects chan scrub.Fault

	mu  sync.Mutex
	bad map[rid.RID]string // source of each, "" where it is not known
}

func newRepairs(n *Node) (*repairs, error) {
	r := &repairs{n: n, wake: make(chan struct{}, 1), suspects: make(chan scrub.Fault, 64), bad: map[rid.RID]string{}}
	r.gauge = prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "koi_node_bundles_damaged", Help: "Bundles found damaged and not yet had again."},
		func() float64 { return float64(r.count()) })
	if err := n.metrics.Register(r.gauge); err != nil {
		return nil, fmt.Errorf("metrics of damaged bundles: %w", err)
	}
	err := n.store.View(context.Background(), func(tx store.Reader) error {
		for v, err := range tx.Values(damagedPrefix) {
			if err != nil {
				return err
			}
			var a aside
			if err := json.Unmarshal(v.Value, &a); err != nil {
				n.log.Error("a note of a damaged bundle cannot be read", "key", v.Key, "error", err)
			}
			r.bad[rid.RID(strings.TrimPrefix(v.Key, damagedPrefix))] = a.Source
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read what is known to be damaged: %w", err)
	}
	return r, nil
}

func (r *repairs) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.bad)
}

// found takes up a bad bundle.
func (r *repairs) found(ctx context.Context, f scrub.Fault) {
	a := aside{Reason: f.Reason, Error: f.Err.Error(), Found: r.n.Now().UTC()}
	if f.Record != nil {
		a.Source, a.Manifest = f.Record.Source, &f.Record.Bundle.Manifest
		a.Contents = string(f.Record.Bundle.Contents[:min(len(f.Record.Bundle.Contents), asideBytes)])
	}
	r.mu.Lock()
	_, known := r.bad[f.RID]
	full := len(r.bad) >= maxDamaged
	r.mu.Unlock()
	if known && f.Record == nil || !known && full {
		return
	}
	note, err := json.Marshal(a)
	if err == nil {
		err = r.n.store.Update(ctx, func(tx store.Writer) error {
			if f.Record != nil {
				// Something else may have taken its place meanwhile.
				rec, err := tx.Bundle(f.RID)
				if still := scrub.Check(f.RID, rec, err); still == nil {
					return errMended
				}
				if err := tx.DeleteBundle(f.RID); err != nil {
					return err
				}
			}
			return tx.PutValue(damagedPrefix+string(f.RID), note)
		})
	}
	switch {
	case errors.Is(err, errMended), ctx.Err() != nil:
		return
	case err != nil:
		r.n.log.Error("a damaged bundle cannot be noted", "rid", f.RID, "reason", f.Reason, "error", err)
		return
	}
	r.n.log.Error("a bundle is damaged: it is not served, and fetched again", "rid", f.RID, "reason", f.Reason, "source", a.Source, "error", f.Err)
	r.mu.Lock()
	r.bad[f.RID] = a.Source
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

var errMended = errors.New("it is whole by now")

// seen takes up what somebody came upon in reading id. It never waits.
func (r *repairs) seen(id rid.RID, err error) {
	if f := scrub.Check(id, store.Record{}, err); err != nil && f != nil {
		select {
		case r.suspects <- *f:
		default:
		}
	}
}

// mended notes that a bundle was written or forgotten.
func (r *repairs) mended(id rid.RID) {
	r.mu.Lock()
	_, bad := r.bad[id]
	r.mu.Unlock()
	if bad {
		select {
		case r.wake <- struct{}{}:
		default:
		}
	}
}

// Run fetches again what is damaged, until ctx ends.
func (r *repairs) Run(ctx context.Context) error {
	asked := map[rid.RID]time.Time{}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case f := <-r.suspects:
			r.found(ctx, f)
		case <-r.wake:
		case <-timer.C:
		}
		if err := r.sweep(ctx); err != nil && ctx.Err() == nil {
			r.n.log.Error("what is damaged cannot be looked at", "error", err)
		}
		r.mu.Lock()
		todo := make(map[rid.RID]string, len(r.bad))
		for id, source := range r.bad {
			if time.Since(asked[id]) >= refetchEvery {
				todo[id] = source
			}
		}
		for id := range asked {
			if _, bad := r.bad[id]; !bad {
				delete(asked, id)
			}
		}
		next := time.Hour * 24
		if len(r.bad) > 0 {
			next = refetchEvery
		}
		r.mu.Unlock()
		for id, source := range todo {
			asked[id] = time.Now()
			if err := r.refetch(ctx, id, source); err != nil && ctx.Err() == nil {
				r.n.log.Warn("a damaged bundle cannot be fetched again for now", "rid", id, "error", err)
			}
		}
		timer.Reset(next)
	}
}

// sweep drops the notes of what is whole again, or not held any more on somebody's word.
func (r *repairs) sweep(ctx context.Context) error {
	var whole []rid.RID
	r.mu.Lock()
	known := make([]rid.RID, 0, len(r.bad))
	for id := range r.bad {
		known = append(known, id)
	}
	r.mu.Unlock()
	err := r.n.store.View(ctx, func(tx store.Reader) error {
		for _, id := range known {
			rec, err := tx.Bundle(id)
			if err == nil && scrub.Check(id, rec, nil) == nil {
				whole = append(whole, id)
			}
		}
		return nil
	})
	if err != nil || len(whole) == 0 {
		return err
	}
	err = r.n.store.Update(ctx, func(tx store.Writer) error {
		for _, id := range whole {
			if err := tx.PutValue(damagedPrefix+string(id), nil); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, id := range whole {
		delete(r.bad, id)
		r.n.log.Info("a damaged bundle is whole again", "rid", id)
	}
	return nil
}

// refetch has a bundle fetched as if its source had just spoken of it.
func (r *repairs) refetch(ctx context.Context, id rid.RID, source string) error {
	self := r.n.identity.RID
	switch {
	case id == self || source == string(self):
		return errors.New("it is this node's own knowledge: put it again")
	case source == "" && id.Type() == rid.NodeType:
		source = string(id) // it speaks for itself
	case source == "":
		source = string(pipeline.Unsigned)
		if some := r.n.graph.SomeProviders(id.Type(), 1, true); len(some) > 0 {
			source = string(some[0])
		}
	}
	return r.n.processor.Submit(ctx, pipeline.Object{RID: id, EventType: protocol.Update, Source: pipeline.Source(source)})
}
