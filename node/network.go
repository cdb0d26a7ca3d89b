package node

import (
	"context"
	"errors"
	"fmt"

	"github.com/koi-net/koi-operator/node/contact"
	"github.com/koi-net/koi-operator/node/graph"
	"github.com/koi-net/koi-operator/node/peer"
	"github.com/koi-net/koi-operator/node/pipeline"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// ErrUnknownPeer is wrapped where a node is not known, or not where it can be
// called: it is partial, or only others have spoken of it.
var ErrUnknownPeer = errors.New("this node cannot be called")

// View is what can be asked of a node's view of the network.
type View interface {
	// Node returns the node r.
	Node(r rid.RID) (graph.Node, bool)
	// Nodes returns all nodes, this one included.
	Nodes() []graph.Node
	// Edge returns the edge from source to target.
	Edge(source, target rid.RID) (graph.Edge, bool)
	// EdgeByRID returns the edge known under r, of either generation.
	EdgeByRID(r rid.RID) (graph.Edge, bool)
	// Edges returns all edges.
	Edges() []graph.Edge
	// EdgesOf returns the edges that begin or end at a node.
	EdgesOf(r rid.RID) []graph.Edge
	// Neighbors returns the nodes at the other end of our own edges by
	// direction, status and allowed RID type.
	Neighbors(q graph.Query) []rid.RID
	// Subscribers returns who gets our events of a type.
	Subscribers(t rid.Type) []rid.RID
	// Providers returns the full nodes that provide the state of a type.
	Providers(t rid.Type) []rid.RID
}

// Graph returns this node's view of the network, which follows the cache.
func (n *Node) Graph() View { return n.graph }

// Push sends an event to nodes, whatever their edges, by webhook or poll queue
// as they take them. It returns once the event is on disk; nodes that are not
// known are left out.
func (n *Node) Push(ctx context.Context, e protocol.Event, to ...rid.RID) error {
	return n.processor.Send(ctx, e, to...)
}

// Settle waits until every webhook that was queued has been answered, or has
// failed and waits to be tried again.
func (n *Node) Settle(ctx context.Context) error { return n.delivery.Settle(ctx) }

// PollNeighbors polls once each node that we share an edge with, or the first
// contact while there is none, and takes in what waits for this node. A partial
// node does so by itself, every PollInterval.
func (n *Node) PollNeighbors(ctx context.Context) error {
	var errs []error
	for _, t := range n.pollTargets() {
		got, err := n.client.Poll(ctx, t, 0)
		if err == nil {
			err = n.accept(ctx, got)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("poll %s: %w", t.URL, err))
		}
	}
	return errors.Join(errs...)
}

// accept takes in what a poll brought.
func (n *Node) accept(ctx context.Context, got peer.Received) error {
	return n.processor.Accept(ctx, pipeline.Received{Source: sourceOf(got.Source), Replay: got.Replay, Events: got.Events})
}

// FetchBundle asks the nodes that provide the state of r's type for r, and
// leaves the cache as it is; see Deref. The error wraps store.ErrNotFound where
// nobody has it.
func (n *Node) FetchBundle(ctx context.Context, r rid.RID) (protocol.Bundle, error) {
	return n.fetcher().FetchBundle(ctx, r, pipeline.Internal)
}

// FetchManifest is FetchBundle for the manifest alone.
func (n *Node) FetchManifest(ctx context.Context, r rid.RID) (protocol.Manifest, error) {
	return n.fetcher().FetchManifest(ctx, r, pipeline.Internal)
}

// Peer makes the calls of the protocol to one other node, signed where both
// have keys. What comes back is not taken in; see Handle.
type Peer struct {
	client *peer.Client
	target peer.Target
}

// Peer returns the known full node r, or an error that wraps ErrUnknownPeer.
func (n *Node) Peer(r rid.RID) (Peer, error) {
	k, ok := n.graph.Node(r)
	switch {
	case !ok:
		return Peer{}, fmt.Errorf("%w: %s is not known", ErrUnknownPeer, r)
	case !k.Verified:
		return Peer{}, fmt.Errorf("%w: %s has not confirmed yet what others say of it", ErrUnknownPeer, r)
	case !k.Callable():
		return Peer{}, fmt.Errorf("%w: %s is a partial node", ErrUnknownPeer, r)
	}
	return Peer{client: n.client, target: contact.Target(k)}, nil
}

// Broadcast sends events at once and once; see Node.Push for what must arrive.
func (p Peer) Broadcast(ctx context.Context, events ...protocol.Event) error {
	rows := make([][]byte, len(events))
	for i, e := range events {
		rows[i] = protocol.AppendEvent(nil, e)
	}
	return p.client.Broadcast(ctx, p.target, rows, nil)
}

// Poll takes up to limit events (0: all) that wait for this node.
func (p Peer) Poll(ctx context.Context, limit int) ([]protocol.Event, error) {
	got, err := p.client.Poll(ctx, p.target, limit)
	return got.Events, err
}

// FetchRIDs asks which RIDs of the types (none: all) the node has.
func (p Peer) FetchRIDs(ctx context.Context, types ...rid.Type) ([]rid.RID, error) {
	return p.client.FetchRIDs(ctx, p.target, types)
}

// FetchManifests asks for the manifests of rids or, if there are none, of all
// RIDs of the types (none: all).
func (p Peer) FetchManifests(ctx context.Context, types []rid.Type, rids []rid.RID) (protocol.ManifestsAnswer, error) {
	return p.client.FetchManifests(ctx, p.target, types, rids)
}

// FetchBundles asks for the bundles of rids.
func (p Peer) FetchBundles(ctx context.Context, rids ...rid.RID) (protocol.BundlesAnswer, error) {
	return p.client.FetchBundles(ctx, p.target, rids)
}
