package node

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/koi-net/koi-operator/node/pipeline"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

// Dereferencer makes the contents of RIDs that this node can resolve by itself:
// a page it fetches, a file it reads. It returns a JSON object, as text
// ([]byte or json.RawMessage) or as a value that marshals to one; an error that
// wraps store.ErrNotFound leaves the RID to the next one.
type Dereferencer func(ctx context.Context, r rid.RID) (contents any, err error)

// typedDereferencer is a Dereferencer for some RID types, none meaning all.
type typedDereferencer struct {
	types []rid.Type
	deref Dereferencer
}

// WithDeref adds a Dereferencer for RIDs of the given types (none: all), to be
// asked by Deref in the order added.
func WithDeref(d Dereferencer, types ...rid.Type) Option {
	return func(c *Config) {
		c.dereferencers = append(slices.Clip(c.dereferencers), typedDereferencer{types: types, deref: d})
	}
}

// DerefOption narrows where Deref looks.
type DerefOption int

// Values of DerefOption.
const (
	// SkipCache looks for the bundle anew, though it is in the cache.
	SkipCache DerefOption = iota + 1
	// SkipNetwork asks no other node.
	SkipNetwork
)

// Deref returns the bundle of r: from the cache, else from the dereferencers of
// its type, else from the nodes that provide the type's state. What was not in
// the cache is taken into it on the way: what a dereferencer made as this node's
// own knowledge, with an event to its subscribers, and what another node gave as
// knowledge of that node. The error wraps store.ErrNotFound where nobody has it.
// Run has to be under way.
func (n *Node) Deref(ctx context.Context, r rid.RID, options ...DerefOption) (protocol.Bundle, error) {
	if !slices.Contains(options, SkipCache) {
		b, err := n.Bundle(ctx, r)
		if !errors.Is(err, store.ErrNotFound) && !errors.Is(err, store.ErrDamaged) {
			return b, err
		}
	}
	for _, d := range n.cfg.dereferencers {
		if len(d.types) > 0 && !slices.Contains(d.types, r.Type()) {
			continue
		}
		contents, err := d.deref(ctx, r)
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return protocol.Bundle{}, fmt.Errorf("dereference %s: %w", r, err)
		}
		if _, err := n.Put(ctx, r, contents); err != nil {
			return protocol.Bundle{}, err
		}
		return n.Bundle(ctx, r)
	}
	if slices.Contains(options, SkipNetwork) {
		return protocol.Bundle{}, fmt.Errorf("dereference %s: %w", r, store.ErrNotFound)
	}
	b, source, err := n.fetcher().fetchBundle(ctx, r, pipeline.Internal)
	if err != nil {
		return protocol.Bundle{}, fmt.Errorf("dereference %s: %w", r, err)
	}
	return n.takeIn(ctx, pipeline.FromBundle(source, b))
}

// takeIn processes what another node gave and returns what the cache then holds.
func (n *Node) takeIn(ctx context.Context, o pipeline.Object) (protocol.Bundle, error) {
	out, err := n.processor.Do(ctx, o)
	if err == nil {
		err = out[0].Err
	}
	if err != nil {
		return protocol.Bundle{}, err
	}
	b, err := n.Bundle(ctx, o.RID)
	if errors.Is(err, store.ErrNotFound) {
		return b, fmt.Errorf("%s was refused (%s): %w", o.RID, out[0].Stopped, err)
	}
	return b, err
}
