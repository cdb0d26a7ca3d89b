package transfer

import (
	"slices"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// unsigned is the Record.Source of what no verified sender stands behind.
const unsigned = "unsigned"

// provenance decides whose word the bundles of a cache are: the library keeps no
// record of where it has them from. It goes by what the node gives out and what
// it has subscribed to.
//
//   - The node's own bundle and the edges it is an end of are its own.
//   - A type it subscribes to by an approved edge is that provider's, who may
//     change it, as may every other provider it has such an edge with.
//   - Any other type it gives out is its own: nobody else may change that.
//   - The rest is nobody's: whoever is known may change it.
//
// Of another node with a key, only its own signature is believed. There is none
// in a cache, and in the library everybody may change everybody's base URL. So
// such a node is taken over as heard from others, and asked for its own word
// before anything is sent to it; except the first contact, where the user's own
// configuration says that it is to be found there.
type provenance struct {
	self         rid.RID
	provides     map[rid.Type]bool
	own, foreign []rid.Type // said by the user, against the rules
	providers    map[rid.Type]rid.RID
	contact      rid.RID
	contactURL   string
}

func newProvenance(p Plan, own, foreign []rid.Type) *provenance {
	v := &provenance{
		self: p.RID, provides: map[rid.Type]bool{}, own: own, foreign: foreign, providers: map[rid.Type]rid.RID{},
		contact: p.FirstContactRID, contactURL: p.contactSaid,
	}
	for _, t := range slices.Concat(p.Profile.Provides.Event, p.Profile.Provides.State) {
		v.provides[t] = true
	}
	return v
}

// learn takes note of an edge in the cache.
func (v *provenance) learn(e protocol.EdgeProfile) {
	if e.Target != v.self || e.Status != protocol.Approved {
		return
	}
	for _, t := range e.RIDTypes {
		// Any of several providers will do: the edges speak for the others. One
		// with a key keeps unsigned words out.
		if was, ok := v.providers[t]; !ok || better(e.Source, was) {
			v.providers[t] = e.Source
		}
	}
}

func better(a, b rid.RID) bool {
	if rid.IsKeyed(a) != rid.IsKeyed(b) {
		return rid.IsKeyed(a)
	}
	return a < b
}

// source returns the Record.Source of a bundle.
func (v *provenance) source(b protocol.Bundle) string {
	switch r := b.Manifest.RID; {
	case r == v.self:
		return string(v.self)
	case r.Type() == rid.NodeType:
		if v.isContact(b) {
			return string(r)
		}
	case r.Type() == rid.EdgeType:
		if e, err := protocol.ParseEdgeProfile(b.Contents); err == nil && (e.Source == v.self || e.Target == v.self) {
			return string(v.self)
		}
	case v.owns(r.Type()):
		return string(v.self)
	}
	return v.provider(b.Manifest.RID.Type())
}

// owns reports whether bundles of a type are the node's own knowledge. Those of
// nodes and edges are judged one by one.
func (v *provenance) owns(t rid.Type) bool {
	if t == rid.NodeType || t == rid.EdgeType || slices.Contains(v.foreign, t) {
		return false
	}
	_, subscribed := v.providers[t]
	return slices.Contains(v.own, t) || v.provides[t] && !subscribed
}

// provider returns who gives the node a type. A node without a key hears nothing
// signed, and of a provider without one there is no signed word.
func (v *provenance) provider(t rid.Type) string {
	if p, ok := v.providers[t]; ok && rid.IsKeyed(v.self) && rid.IsKeyed(p) {
		return string(p)
	}
	return unsigned
}

func (v *provenance) isContact(b protocol.Bundle) bool {
	if b.Manifest.RID != v.contact || v.contactURL == "" || !rid.IsKeyed(v.contact) || !rid.IsKeyed(v.self) {
		return false
	}
	p, err := protocol.ParseNodeProfile(b.Contents)
	return err == nil && sameURL(p.BaseURL, v.contactURL)
}
