package node

import (
	"context"
	"errors"
	"fmt"

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
}

// maxProviders bounds how many nodes are asked for one RID.
const maxProviders = 8

func (f fetcher) FetchManifest(ctx context.Context, r rid.RID, source pipeline.Source) (m protocol.Manifest, err error) {
	err = f.ask(r, source, func(url string) (bool, error) {
		ans, err := f.client.FetchManifests(ctx, url, nil, []rid.RID{r})
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
	from = pipeline.Unsigned
	err = f.ask(r, source, func(url string) (bool, error) {
		ans, err := f.client.FetchBundles(ctx, url, []rid.RID{r})
		if err != nil || len(ans.Bundles) == 0 {
			return false, err
		}
		b = ans.Bundles[0]
		return true, nil
	})
	return b, from, err
}

// ask tries one node after the other until one has r.
func (f fetcher) ask(r rid.RID, source pipeline.Source, try func(url string) (found bool, err error)) error {
	var failures []error
	for _, p := range f.providers(r, source) {
		k, ok := f.graph.Node(p)
		if !ok || k.Profile.BaseURL == "" {
			continue
		}
		found, err := try(k.Profile.BaseURL)
		if found {
			return nil
		}
		if err != nil {
			failures = append(failures, fmt.Errorf("%s: %w", p, err))
		}
	}
	if len(failures) == 0 {
		return fmt.Errorf("no provider has %s: %w", r, store.ErrNotFound)
	}
	return pipeline.Retry(errors.Join(failures...))
}

func (f fetcher) providers(r rid.RID, source pipeline.Source) []rid.RID {
	var out []rid.RID
	if source.External() && source != pipeline.Unsigned {
		out = append(out, rid.RID(source))
	}
	out = append(out, f.graph.Providers(r.Type())...)
	return out[:min(len(out), maxProviders)]
}
