package load

import (
	"fmt"
	"iter"
	"time"

	"github.com/koi-net/koi-operator/node/identity"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// PartialNode returns the bundle of a partial node that provides nothing.
func PartialNode(id identity.Identity) (protocol.Bundle, error) {
	return profile(id, protocol.NodeProfile{NodeType: protocol.Partial})
}

// FullNode returns the bundle of a full node that provides nothing.
func FullNode(id identity.Identity, baseURL string) (protocol.Bundle, error) {
	return profile(id, protocol.NodeProfile{NodeType: protocol.Full, BaseURL: baseURL})
}

func profile(id identity.Identity, p protocol.NodeProfile) (protocol.Bundle, error) {
	p.PublicKey = id.PublicKeyText()
	p.Provides = protocol.Provides{Event: []rid.Type{}, State: []rid.Type{}}
	return bundle(id.RID, p.Contents())
}

// Edge returns the bundle of an edge.
func Edge(p protocol.EdgeProfile) (protocol.Bundle, error) {
	return bundle(rid.NewEdge(p.Source, p.Target), p.Contents())
}

func bundle(r rid.RID, contents []byte) (protocol.Bundle, error) {
	b, err := protocol.NewBundle(r, protocol.NewTimestamp(time.Now()), contents)
	if err != nil {
		return protocol.Bundle{}, fmt.Errorf("make the bundle of %s: %w", r, err)
	}
	return b, nil
}

// Star is the net around a node: it gives events of some types to a number of
// others, along approved edges.
type Star struct {
	Center rid.RID
	Size   int
	// Signed others have keys.
	Signed bool
	Types  []rid.Type
	// BaseURL makes the others full nodes at that URL, each with a path of its own;
	// else they are partial ones.
	BaseURL string
}

// Bundles yields the profiles of the others, each followed by its edge.
func (s Star) Bundles() iter.Seq2[protocol.Bundle, error] {
	return func(yield func(protocol.Bundle, error) bool) {
		for n := range s.Size {
			node, edge, err := s.ray(n)
			if !yield(node, err) || err != nil || !yield(edge, nil) {
				return
			}
		}
	}
}

// ray makes one of the others and its edge.
func (s Star) ray(n int) (node, edge protocol.Bundle, err error) {
	id, err := identity.Generate(fmt.Sprintf("neighbour-%d", n), !s.Signed)
	if err != nil {
		return node, edge, err
	}
	kind := protocol.Poll
	if s.BaseURL == "" {
		node, err = PartialNode(id)
	} else {
		kind = protocol.Webhook
		node, err = FullNode(id, fmt.Sprintf("%s/%d", s.BaseURL, n))
	}
	if err != nil {
		return node, edge, err
	}
	edge, err = Edge(protocol.EdgeProfile{Source: s.Center, Target: id.RID, EdgeType: kind, Status: protocol.Approved, RIDTypes: s.Types})
	return node, edge, err
}
