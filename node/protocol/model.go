package protocol

import (
	"encoding/json"

	"github.com/koi-net/koi-operator/node/rid"
)

// EventType says what an event signals about its RID.
type EventType string

// The event types of KOI-net. Events are signals, not commands.
const (
	New    EventType = "NEW"
	Update EventType = "UPDATE"
	Forget EventType = "FORGET"
)

// NodeKind is a node's type on the wire.
type NodeKind string

// A full node serves the five calls; a partial node only polls.
const (
	Full    NodeKind = "FULL"
	Partial NodeKind = "PARTIAL"
)

// EdgeKind is how an edge's events travel from source to target.
type EdgeKind string

// Webhook edges push to the target; poll edges wait in the source until the
// target asks.
const (
	Webhook EdgeKind = "WEBHOOK"
	Poll    EdgeKind = "POLL"
)

// EdgeStatus is where an edge stands in its negotiation.
type EdgeStatus string

// An edge is proposed by its target and approved by its source alone.
const (
	Proposed EdgeStatus = "PROPOSED"
	Approved EdgeStatus = "APPROVED"
)

// Manifest describes a bundle's contents without holding them.
type Manifest struct {
	RID        rid.RID   `json:"rid"`
	Timestamp  Timestamp `json:"timestamp"`
	SHA256Hash string    `json:"sha256_hash"`

	// extra are the further members of a manifest in an envelope, in normal form,
	// each after a comma: from rid-lib 3.3 on they are part of what is signed. They
	// are kept for the verification alone, and not passed on.
	extra string
}

// Bundle is a manifest with its contents, one JSON object in normal form.
type Bundle struct {
	Manifest Manifest        `json:"manifest"`
	Contents json.RawMessage `json:"contents"`
}

// Event signals that a RID is new, changed or to be forgotten. Manifest and
// Contents may be missing: the receiver fetches what it needs.
type Event struct {
	RID       rid.RID         `json:"rid"`
	EventType EventType       `json:"event_type"`
	Manifest  *Manifest       `json:"manifest,omitempty"`
	Contents  json.RawMessage `json:"contents,omitempty"`
}

// Provides lists the RID types a node gives out events and state of.
type Provides struct {
	Event []rid.Type `json:"event"`
	State []rid.Type `json:"state"`
}

// NodeProfile is the contents of a node bundle.
type NodeProfile struct {
	BaseURL   string   `json:"base_url,omitempty"`
	NodeType  NodeKind `json:"node_type"`
	Provides  Provides `json:"provides"`
	PublicKey string   `json:"public_key,omitempty"`
}

// EdgeProfile is the contents of an edge bundle: source provides, target
// subscribes.
type EdgeProfile struct {
	Source   rid.RID    `json:"source"`
	Target   rid.RID    `json:"target"`
	EdgeType EdgeKind   `json:"edge_type"`
	Status   EdgeStatus `json:"status"`
	RIDTypes []rid.Type `json:"rid_types"`
}
