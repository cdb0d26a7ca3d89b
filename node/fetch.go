package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/koi-net/koi-operator/node/contact"
	"github.com/koi-net/koi-operator/node/graph"
	"github.com/koi-net/koi-operator/node/peer"
	"github.com/koi-net/koi-operator/node/pipeline"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

// fetcher gets what an event lacks: from its source if that signed it, else
// from any provider of the type's state, one after the other.
type fetcher struct {
	graph  *graph.Graph
	client *peer.Client
	busy   *perPeer
}

const (
	// maxProviders bounds how many nodes are asked for one RID.
	maxProviders = 8
	// fetchesPerPeer bounds what one peer is asked for at once: a slow one with
	// many events must not keep the workers from others.
	fetchesPerPeer = 8
)

// perPeer counts what is under way with each peer.
type perPeer struct {
	mu    sync.Mutex
	count map[rid.RID]int
}

// enter takes a place, if there is one below most.
func (p *perPeer) enter(r rid.RID, most int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.count[r] >= most {
		return false
	}
	if p.count == nil {
		p.count = map[rid.RID]int{}
	}
	p.count[r]++
	return true
}

func (p *perPeer) leave(r rid.RID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.count[r]--; p.count[r] == 0 {
		delete(p.count, r)
	}
}

func (f fetcher) FetchManifest(ctx context.Context, r rid.RID, source pipeline.Source) (m protocol.Manifest, err error) {
	_, err = f.ask(r, source, func(t peer.Target) (bool, error) {
		ans, err := f.client.FetchManifests(ctx, t, nil, []rid.RID{r})
		if err != nil || len(ans.Manifests) == 0 {
			return false, err
		}
		m = ans.Manifests[0]
		return true, nil
	})
	return m, err
}

func (f fetcher) FetchBundle(ctx context.Context, r rid.RID, source pipeline.Source) (protocol.Bundle, error) {
	b, _, err := f.fetchBundle(ctx, r, source)
	return b, err
}

// fetchBundle also tells whose word the bundle is.
func (f fetcher) fetchBundle(ctx context.Context, r rid.RID, source pipeline.Source) (b protocol.Bundle, from pipeline.Source, err error) {
	t, err := f.ask(r, source, func(t peer.Target) (bool, error) {
		ans, err := f.client.FetchBundles(ctx, t, []rid.RID{r})
		if err != nil || len(ans.Bundles) == 0 {
			return false, err
		}
		b = ans.Bundles[0]
		return true, nil
	})
	if from = pipeline.Unsigned; f.client.Signs(t) {
		from = pipeline.Source(t.RID)
	}
	return b, from, err
}

// ask tries one node after the other until one has r, and returns that.
func (f fetcher) ask(r rid.RID, source pipeline.Source, try func(peer.Target) (found bool, err error)) (peer.Target, error) {
	var failures []error
	busy := false
	for _, p := range f.providers(r, source) {
		k, ok := f.graph.Node(p)
		if !ok || !k.Callable() {
			continue
		}
		if !f.busy.enter(p, fetchesPerPeer) {
			busy = true
			continue
		}
		t := contact.Target(k)
		found, err := try(t)
		f.busy.leave(p)
		if found {
			return t, nil
		}
		if err != nil {
			failures = append(failures, fmt.Errorf("%s: %w", p, err))
		}
	}
	if busy {
		return peer.Target{}, fmt.Errorf("%s: who may have it is busy: %w", r, pipeline.ErrLater)
	}
	if len(failures) == 0 {
		return peer.Target{}, fmt.Errorf("no provider has %s: %w", r, store.ErrNotFound)
	}
	return peer.Target{}, pipeline.Retry(errors.Join(failures...))
}

// providers are the nodes to ask for r, in order. What is wanted on the word of
// a node that signed comes from that node, or from one whose word counts as much.
func (f fetcher) providers(r rid.RID, source pipeline.Source) []rid.RID {
	if !source.External() || source == pipeline.Unsigned {
		return f.graph.SomeProviders(r.Type(), maxProviders, false)
	}
	signer := rid.RID(source)
	out := slices.DeleteFunc(f.graph.SomeProviders(r.Type(), maxProviders, true), func(p rid.RID) bool { return p == signer })
	out = slices.Insert(out, 0, signer)
	return out[:min(len(out), maxProviders)]
}
