package pipeline

import (
	"encoding/json"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

// Source says where a knowledge object came from: Internal, Unsigned, or the
// RID of the node that signed the body it came in.
type Source string

// Sources that are no node.
const (
	// Internal objects arise in this node.
	Internal Source = "internal"
	// Unsigned objects came in a body without a verified sender.
	Unsigned Source = "unsigned"
)

// External reports whether the object came from another node.
func (s Source) External() bool { return s != Internal }

// Object is a knowledge object: what is known of one RID while it passes
// through the pipeline. Handlers change it in place.
type Object struct {
	RID rid.RID
	// EventType is the event as it was given; "" for a bare RID, manifest or bundle.
	EventType protocol.EventType
	// Manifest and Contents are nil until given or fetched.
	Manifest *protocol.Manifest
	Contents json.RawMessage
	Source   Source

	// Normalized is what the object means to this node: New, Update or Forget
	// once the Manifest phase has passed.
	Normalized protocol.EventType
	// Previous is the bundle held before, nil if there is none; set from the
	// RID phase on.
	Previous *store.Record
	// Targets are the nodes the event goes to; set in the Network phase.
	Targets []rid.RID
	// Quiet keeps an internal change from being sent to anybody.
	Quiet bool
}

// Bundle returns the object's manifest and contents as a bundle; ok is false
// while either is missing.
func (o *Object) Bundle() (b protocol.Bundle, ok bool) {
	if o.Manifest == nil || o.Contents == nil {
		return protocol.Bundle{}, false
	}
	return protocol.Bundle{Manifest: *o.Manifest, Contents: o.Contents}, true
}

// Event returns the object as the event this node sends on.
func (o *Object) Event() protocol.Event {
	e := protocol.Event{RID: o.RID, EventType: o.Normalized}
	if o.Normalized != protocol.Forget {
		e.Manifest, e.Contents = o.Manifest, o.Contents
	}
	return e
}

// FromEvent makes the object of a received or intended event.
func FromEvent(s Source, e protocol.Event) Object {
	return Object{RID: e.RID, EventType: e.EventType, Manifest: e.Manifest, Contents: e.Contents, Source: s}
}

// FromBundle makes an internal or received object of a bundle.
func FromBundle(s Source, b protocol.Bundle) Object {
	m := b.Manifest
	return Object{RID: m.RID, Manifest: &m, Contents: b.Contents, Source: s}
}
