package node

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/koi-net/koi-operator/node/edge"
	"github.com/koi-net/koi-operator/node/graph"
	"github.com/koi-net/koi-operator/node/handlers"
	"github.com/koi-net/koi-operator/node/pipeline"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

// reconsiderRows bounds the edges changed in one transaction at start.
const reconsiderRows = 1_000

// reconsidered returns what brings the edge of a pair in line with what is decided
// now: the FORGET of one that cannot be had any longer, the approval of one that
// waited, or nil.
func (n *Node) reconsidered(ctx context.Context, source, target rid.RID) (*pipeline.Object, error) {
	e, ok := n.graph.Edge(source, target)
	if !ok {
		return nil, nil
	}
	in := edge.Negotiation{
		Self: n.identity.RID, Provides: handlers.Provided(n.Profile()), Policy: n.cfg.EdgeApproval, Current: &e.Profile,
	}
	if k, ok := n.graph.Node(target); ok && k.Believed() {
		in.Known, in.TargetKind = true, k.Profile.NodeType
	}
	err := n.store.View(ctx, func(tx store.Reader) error {
		d, err := tx.Decision(source, target)
		if err == nil {
			in.Decision = &edge.Decision{Approved: d.Approved, EdgeType: d.EdgeType, RIDTypes: d.RIDTypes}
		}
		return err
	})
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, fmt.Errorf("read the decision on %s to %s: %w", source, target, err)
	}
	switch out := edge.Reconsider(in); out.Action {
	case edge.Refuse:
		return &pipeline.Object{RID: e.RID, EventType: protocol.Forget}, nil
	case edge.Approve:
		return &pipeline.Object{RID: e.RID, EventType: protocol.Update, Contents: out.Profile.Contents()}, nil
	}
	return nil, nil
}

// reconsiderEdges holds the edges of which this node is the source against the
// configuration it was started with: one whose types it provides no more is
// withdrawn, as a proposal of it would be refused, and one that waits is approved
// where nobody is to be asked any longer. What people decided goes before that. An
// edge that was refused is not held: its target proposes it again, in its own time.
//
// It is called before anybody can be heard, so that no decision comes in between,
// and accepts what is to be done without waiting for it.
func (n *Node) reconsiderEdges(ctx context.Context) error {
	var changed []pipeline.Object
	for _, target := range n.graph.Neighbors(graph.Query{Direction: graph.Out}) {
		o, err := n.reconsidered(ctx, n.identity.RID, target)
		if err != nil {
			return err
		}
		if o != nil {
			n.log.Info("an edge is no longer what the configuration makes of it", "edge", o.RID, "target", target, "event", o.EventType)
			changed = append(changed, *o)
		}
	}
	for chunk := range slices.Chunk(changed, reconsiderRows) {
		err := n.processor.Submit(ctx, chunk...)
		if errors.Is(err, store.ErrFull) || errors.Is(err, pipeline.ErrBusy) {
			n.log.Error("edges could not be brought in line with the configuration; the next start tries again", "error", err)
			return nil
		}
		if err != nil {
			return fmt.Errorf("bring edges in line with the configuration: %w", err)
		}
	}
	return nil
}
