package subject

import (
	"context"
	"iter"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// Node is one node under measurement. Its methods are called one after another.
type Node interface {
	// Seed writes bundles into the cache of a node that does not run, as knowledge
	// of source. It may be called several times before Start.
	Seed(ctx context.Context, source rid.RID, bundles iter.Seq2[protocol.Bundle, error]) error
	// Start runs the node and waits until it answers.
	Start(ctx context.Context) error
	// Stop ends the node, if it runs, and waits for it.
	Stop()
	// RID is known once the node was prepared; URL, PID once it runs.
	RID() rid.RID
	URL() string
	PID() int
	// Cached returns the number of bundles in the cache, at a cost that does not
	// disturb.
	Cached(ctx context.Context) (int, error)
	// WaitCached waits until that number is there.
	WaitCached(ctx context.Context, bundles int) error
	// WaitFor waits until a bundle is in the cache.
	WaitFor(ctx context.Context, r rid.RID) error
	// StoreBytes returns the space that the node's data take on disk.
	StoreBytes() (int64, error)
}
