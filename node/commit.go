package node

import (
	"github.com/koi-net/koi-operator/node/admin/client"
	"github.com/koi-net/koi-operator/node/graph"
	"github.com/koi-net/koi-operator/node/pipeline"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

// committed tells the other parts what a transaction changed.
func (n *Node) committed(c pipeline.Commit) {
	for _, peer := range c.Queued[store.Outbox] {
		n.delivery.Notify(peer)
	}
	if c.Object == nil {
		return
	}
	o := c.Object
	n.repairs.mended(o.RID)
	change := client.Change{Kind: client.ChangeBundle, Event: o.Normalized, RID: o.RID}
	switch o.RID.Type() {
	case rid.NodeType:
		change.Kind = client.ChangeNode
		n.nodeCommitted(o)
	case rid.EdgeType:
		change.Kind = client.ChangeEdge
		change.Edge = n.edgeCommitted(o)
	}
	n.feed.Publish(change)
}

func (n *Node) nodeCommitted(o *pipeline.Object) {
	switch {
	case o.RID == n.identity.RID:
		if b, ok := o.Bundle(); ok {
			n.setIntroduction(b)
		}
		return
	case o.Normalized == protocol.Forget:
		n.contact.Forgotten(o.RID)
		return
	}
	if o.EventType == protocol.New && pipeline.Source(o.RID) == o.Source {
		// Whoever introduces itself may have lost its store, and us with it.
		n.polls.Reintroduce(o.RID)
	}
	if o.EventType == protocol.New && o.Source.External() {
		n.contact.Introduced(o.RID)
	}
	// It has just been heard of: where it is may be new, and what waits for it may go.
	n.delivery.Kick(o.RID)
	n.contact.Poke(o.RID)
}

// edgeCommitted follows our own edges and returns how the admin API shows one.
func (n *Node) edgeCommitted(o *pipeline.Object) *client.Edge {
	self := n.identity.RID
	contents := o.Contents
	if o.Normalized == protocol.Forget {
		if o.Previous == nil {
			return nil
		}
		contents = o.Previous.Bundle.Contents
	}
	p, err := protocol.ParseEdgeProfile(contents)
	if err != nil {
		return nil
	}
	if p.Target == self {
		switch {
		case o.Normalized == protocol.Forget && o.Source.External():
			n.contact.Rest(o.RID, p, p.Status == protocol.Proposed)
		case o.Normalized != protocol.Forget && p.Status == protocol.Approved:
			n.contact.Accepted(p.Source)
		}
		n.contact.Poke(p.Source)
	} else if p.Source == self {
		n.contact.Poke(p.Target)
	}
	if o.Normalized == protocol.Forget {
		return nil
	}
	e := edgeView(graph.Edge{RID: o.RID, Profile: p, Timestamp: o.Manifest.Timestamp}, nil)
	return &e
}
