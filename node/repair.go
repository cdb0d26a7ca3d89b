package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/koi-net/koi-operator/node/admin/client"
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
// cannot be had from anybody: it is reported until it is put again or forgotten.
type repairs struct {
	n     *Node
	gauge prometheus.GaugeFunc
	wake  chan struct{} // capacity 1
	// suspects are what somebody came upon; the scrub finds what does not fit.
	suspects chan scrub.Fault

	mu  sync.Mutex
	bad map[rid.RID]aside // without manifest and contents
}

func newRepairs(n *Node) (*repairs, error) {
	r := &repairs{n: n, wake: make(chan struct{}, 1), suspects: make(chan scrub.Fault, 64), bad: map[rid.RID]aside{}}
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
			r.bad[rid.RID(strings.TrimPrefix(v.Key, damagedPrefix))] = a.known()
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read what is known to be damaged: %w", err)
	}
	return r, nil
}

// known is what is kept of it in memory.
func (a aside) known() aside {
	a.Manifest, a.Contents = nil, ""
	return a
}

func (r *repairs) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.bad)
}

// list shows the first of the damaged bundles, by RID.
func (r *repairs) list(most int) []client.DamagedBundle {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]client.DamagedBundle, 0, len(r.bad))
	for id, a := range r.bad {
		out = append(out, client.DamagedBundle{
			RID: id, Reason: a.Reason, Message: a.Error, Found: a.Found, Source: a.Source, Own: r.own(id, a.Source),
		})
	}
	slices.SortFunc(out, func(a, b client.DamagedBundle) int { return strings.Compare(string(a.RID), string(b.RID)) })
	return out[:min(len(out), most)]
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
	err := r.setAside(ctx, f, &a)
	if errors.Is(err, store.ErrFull) {
		// A full store takes no note, and is not to serve it for that.
		err = r.setAside(ctx, f, nil)
	}
	switch {
	case errors.Is(err, errMended), ctx.Err() != nil:
		return
	case err != nil:
		r.n.log.Error("a damaged bundle cannot be set aside", "rid", f.RID, "reason", f.Reason, "error", err)
		return
	}
	r.mu.Lock()
	r.bad[f.RID] = a.known()
	r.mu.Unlock()
	todo := "it is fetched again"
	if r.own(f.RID, a.Source) {
		todo = "it is this node's own: put it again, or forget it"
	}
	r.n.log.Error("a bundle is damaged and not served; "+todo, "rid", f.RID, "reason", f.Reason, "source", a.Source, "error", f.Err)
	r.poke()
}

// setAside takes a bundle with wrong contents out of the cache and, where a is
// given, leaves a note of what turned out bad.
func (r *repairs) setAside(ctx context.Context, f scrub.Fault, a *aside) error {
	var note []byte
	if a != nil {
		var err error
		if note, err = json.Marshal(a); err != nil {
			return err
		}
	}
	return r.n.store.Update(ctx, func(tx store.Writer) error {
		if f.Record != nil {
			// Something else may have taken its place meanwhile.
			rec, err := tx.Bundle(f.RID)
			if still := r.check(f.RID, rec, err); still == nil {
				return errMended
			}
			if err := tx.DeleteBundle(f.RID); err != nil {
				return err
			}
		}
		if note == nil {
			return nil
		}
		return tx.PutValue(damagedPrefix+string(f.RID), note)
	})
}

var errMended = errors.New("it is whole by now")

func (r *repairs) check(id rid.RID, rec store.Record, err error) *scrub.Fault {
	return scrub.Check(r.n.identity.RID, id, rec, err)
}

// seen takes up what somebody came upon in reading id. It never waits.
func (r *repairs) seen(id rid.RID, err error) {
	if err == nil {
		return
	}
	if f := r.check(id, store.Record{}, err); f != nil {
		select {
		case r.suspects <- *f:
		default:
		}
	}
}

// mended notes that a bundle was written or forgotten.
func (r *repairs) mended(id rid.RID) {
	if r.isBad(id) {
		r.poke()
	}
}

func (r *repairs) isBad(id rid.RID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, bad := r.bad[id]
	return bad
}

func (r *repairs) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
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
			r.found(ctx, f) // which wakes it where that is news
			continue
		case <-r.wake:
		case <-timer.C:
		}
		if err := r.sweep(ctx); err != nil && ctx.Err() == nil {
			r.n.log.Error("what is damaged cannot be looked at", "error", err)
		}
		for id, source := range r.due(asked) {
			asked[id] = time.Now()
			if err := r.refetch(ctx, id, source); err != nil && ctx.Err() == nil {
				r.n.log.Warn("a damaged bundle cannot be fetched again for now", "rid", id, "error", err)
			}
		}
		next := 24 * time.Hour
		if r.count() > 0 {
			next = refetchEvery
		}
		timer.Reset(next)
	}
}

// due are the bundles to be fetched again, with who provided them.
func (r *repairs) due(asked map[rid.RID]time.Time) map[rid.RID]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make(map[rid.RID]string, len(r.bad))
	for id, a := range r.bad {
		if time.Since(asked[id]) >= refetchEvery && !r.own(id, a.Source) {
			out[id] = a.Source
		}
	}
	for id := range asked {
		if _, bad := r.bad[id]; !bad {
			delete(asked, id)
		}
	}
	return out
}

// sweep drops the notes of what is whole again.
func (r *repairs) sweep(ctx context.Context) error {
	r.mu.Lock()
	known := make([]rid.RID, 0, len(r.bad))
	for id := range r.bad {
		known = append(known, id)
	}
	r.mu.Unlock()
	var whole []rid.RID
	err := r.n.store.View(ctx, func(tx store.Reader) error {
		for _, id := range known {
			rec, err := tx.Bundle(id)
			if err == nil && r.check(id, rec, nil) == nil {
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

// own reports whether a bundle is this node's own knowledge, which nobody else can
// have. Where it cannot be told who provided it, that is knowledge of a type that
// the node gives out and has subscribed to from nobody.
func (r *repairs) own(id rid.RID, source string) bool {
	self, t := r.n.identity.RID, id.Type()
	switch {
	case source != "":
		return source == string(self)
	case t == rid.NodeType, t == rid.EdgeType:
		return false
	}
	p := r.n.Profile().Provides
	if !slices.Contains(p.Event, t) && !slices.Contains(p.State, t) {
		return false
	}
	return len(r.n.graph.SomeProviders(t, 1, true)) == 0
}

// refetch has a bundle fetched as if its source had just spoken of it.
func (r *repairs) refetch(ctx context.Context, id rid.RID, source string) error {
	if id == r.n.identity.RID {
		return r.n.publishSelf(ctx) // which says it anew
	}
	if source == "" {
		source = string(r.whoHas(id))
	}
	return r.n.processor.Submit(ctx, pipeline.Object{RID: id, EventType: protocol.Update, Source: pipeline.Source(source)})
}

// whoHas is who may have a bundle, where it cannot be told who provided it.
func (r *repairs) whoHas(id rid.RID) pipeline.Source {
	switch id.Type() {
	case rid.NodeType:
		return pipeline.Source(id) // it speaks for itself
	case rid.EdgeType:
		if e, ok := r.n.graph.EdgeByRID(id); ok {
			if e.Profile.Source == r.n.identity.RID {
				return pipeline.Source(e.Profile.Target)
			}
			return pipeline.Source(e.Profile.Source)
		}
	}
	if some := r.n.graph.SomeProviders(id.Type(), 1, true); len(some) > 0 {
		return pipeline.Source(some[0])
	}
	return pipeline.Unsigned
}

// forget drops a bundle that is damaged, or was set aside for it, and the search
// for it. It reports whether there was anything to drop; a bundle that is whole is
// left alone.
func (r *repairs) forget(ctx context.Context, id rid.RID) (done bool, err error) {
	bad := r.isBad(id)
	err = r.n.store.Update(ctx, func(tx store.Writer) error {
		done = false
		_, err := tx.Bundle(id)
		switch {
		case errors.Is(err, store.ErrDamaged):
			if err := tx.DeleteBundle(id); err != nil {
				return err
			}
		case errors.Is(err, store.ErrNotFound) && bad:
		case errors.Is(err, store.ErrNotFound):
			return nil
		default:
			return err
		}
		done = true
		return tx.PutValue(damagedPrefix+string(id), nil)
	})
	if err != nil || !done {
		return false, err
	}
	r.mu.Lock()
	delete(r.bad, id)
	r.mu.Unlock()
	r.n.log.Info("a damaged bundle was forgotten", "rid", id)
	return true, nil
}
