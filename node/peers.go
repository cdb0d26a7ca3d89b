package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/koi-net/koi-operator/node/peer"
	"github.com/koi-net/koi-operator/node/pipeline"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/server"
	"github.com/koi-net/koi-operator/node/store"
)

// peers is what the server knows of other nodes.
type peers struct{ n *Node }

var _ server.Peers = peers{}

// PublicKey returns the key in a node's profile. Who told us of it does not
// matter: a node's RID is made from its key.
func (p peers) PublicKey(r rid.RID) (key string, known bool) {
	k, ok := p.n.graph.Node(r)
	return k.Profile.PublicKey, ok
}

// FloatStyle returns how a node writes floats.
func (p peers) FloatStyle(r rid.RID) protocol.FloatStyle { return p.n.traits.FloatStyle(r) }

// Learn notes what a verified envelope showed of its sender, and that it is there.
func (p peers) Learn(r rid.RID, style protocol.FloatStyle, userAgent string) {
	p.n.traits.Learn(r, style, userAgent)
	p.n.delivery.Heard(r)
}

// Suits reports whether asker may be shown r.
func (p peers) Suits(asker, r rid.RID) bool { return p.n.suits(asker, r) }

// suits keeps nodes without a key from signed nodes of the reference: one such
// profile ends the process of a koi-net 2.x node for good. Nodes of our kind
// take them, and who talks to a node without a key is none of those others.
func (n *Node) suits(asker, r rid.RID) bool {
	return r.Type() != rid.NodeType || rid.IsKeyed(r) || !pipeline.Keyed(n.identity.RID, asker) || n.traits.Kin(asker)
}

// sourceOf is the source of what a verified sender sent, or nobody verified.
func sourceOf(r rid.RID) pipeline.Source {
	if r == "" {
		return pipeline.Unsigned
	}
	return pipeline.Source(r)
}

// product names the program to peers.
func (n *Node) product() string {
	if n.cfg.Version == "" {
		return peer.Product
	}
	return peer.Product + "/" + n.cfg.Version
}

// setIntroduction makes the own bundle what signed peers are told first. Those
// who know an older one are told again.
func (n *Node) setIntroduction(b protocol.Bundle) {
	event := protocol.AppendEvent(nil, protocol.Event{
		RID: b.Manifest.RID, EventType: protocol.New, Manifest: &b.Manifest, Contents: b.Contents,
	})
	if old := n.own.Swap(&event); old != nil && string(*old) != string(event) {
		n.traits.Reintroduce()
	}
}

// introduction is our own NEW, once it is cached.
func (n *Node) introduction() ([]byte, bool) {
	if event := n.own.Load(); event != nil {
		return *event, true
	}
	return nil, false
}

// traitsPause is the least time between two writes of what was learned of peers.
const traitsPause = time.Second

// traitsValue is where what was learned of peers is kept.
const traitsValue = "peer-traits"

func (n *Node) loadTraits(ctx context.Context) error {
	var data []byte
	err := n.store.View(ctx, func(tx store.Reader) (err error) {
		data, err = tx.Value(traitsValue)
		return err
	})
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil
	case err != nil:
		return fmt.Errorf("read what was learned of peers: %w", err)
	}
	if err := n.traits.Restore(data); err != nil {
		n.log.Warn("what was learned of peers cannot be read and is learned anew", "error", err)
	}
	return nil
}

// keepTraits writes what is learned of peers, until ctx ends. It is convenience:
// what is lost is learned again.
func (n *Node) keepTraits(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-n.traits.Changed():
		}
		// A peer may change what it seems to be with every request.
		select {
		case <-ctx.Done():
		case <-time.After(traitsPause):
		}
		data := n.traits.Snapshot()
		err := n.store.Update(context.WithoutCancel(ctx), func(tx store.Writer) error { return tx.PutValue(traitsValue, data) })
		if err != nil && ctx.Err() == nil {
			n.log.Warn("what was learned of peers could not be written", "error", err)
		}
	}
}
