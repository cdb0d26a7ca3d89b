package client

import (
	"encoding/json"
	"time"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// BasePath is the path below which the admin API lives.
const BasePath = "/admin/v1"

// HeartbeatHeader is sent with the answer to a watch: the interval in seconds
// (a decimal fraction is allowed) in which at least one line is written.
const HeartbeatHeader = "Koi-Heartbeat-Seconds"

// DefaultHeartbeat is the interval of a watch that names none.
const DefaultHeartbeat = 15 * time.Second

// Trailers of the answer to GET /admin/v1/backup, which is a file of the store. It
// is whole where the first two are there and right: its length in bytes, and its
// SHA-256 in hex. The third has an ErrorDetail instead, for who sends TE: trailers;
// for others the answer breaks off.
const (
	BackupBytesTrailer = "Koi-Backup-Bytes"
	BackupSumTrailer   = "Koi-Backup-Sha256"
	BackupErrorTrailer = "Koi-Backup-Error"
)

// Bounds of one page of RIDs.
const (
	DefaultPage = 1_000
	MaxPage     = 10_000
)

// Status answers GET /admin/v1/status: who the node is and how it fares.
type Status struct {
	Version   string            `json:"version"` // of the koi-node binary
	RID       rid.RID           `json:"rid"`
	NodeType  protocol.NodeKind `json:"nodeType"`
	BaseURL   string            `json:"baseURL,omitempty"`
	PublicKey string            `json:"publicKey,omitempty"` // base64 DER, none for unsigned nodes
	// ConfigHash is the value of --config-hash, set by who manages the node, so
	// that it can tell which configuration is running.
	ConfigHash string    `json:"configHash,omitempty"`
	StoreID    string    `json:"storeID"`
	Started    time.Time `json:"started"`
	Ready      bool      `json:"ready"`
	Checks     []Check   `json:"checks"` // what Ready is made of, in order

	Provides     protocol.Provides `json:"provides"`
	Interests    []string          `json:"interests"`
	Coordinator  bool              `json:"coordinator"`
	EdgeApproval string            `json:"edgeApproval"` // Automatic | Manual
	FirstContact *FirstContact     `json:"firstContact,omitempty"`
	Edges        EdgeCounts        `json:"edges"`
	Bundles      int               `json:"bundles"`
	Inbox        int               `json:"inbox"` // accepted, not yet processed
	// Quarantined objects are stamped in the future and wait for their time.
	Quarantined int `json:"quarantined,omitempty"`
	// Damaged bundles were found bad, and not yet had again from anybody. The first
	// MaxDamagedListed of them are listed, in the order of their RIDs.
	Damaged        int             `json:"damaged,omitempty"`
	DamagedBundles []DamagedBundle `json:"damagedBundles,omitempty"`
	Queues         []QueueStatus   `json:"queues,omitempty"`
	StoreBytes     int64           `json:"storeBytes"`
}

// MaxDamagedListed is how many damaged bundles a Status lists.
const MaxDamagedListed = 20

// DamagedBundle is a bundle that the node does not serve, as it turned out bad.
type DamagedBundle struct {
	RID rid.RID `json:"rid"`
	// Reason is damaged, where the record cannot be read, or hash-mismatch, where
	// the contents are not those of the manifest.
	Reason  string    `json:"reason"`
	Message string    `json:"message"`
	Found   time.Time `json:"found"`
	// Source is who provided it, where that can be told.
	Source string `json:"source,omitempty"`
	// Own knowledge of the node can be had from nobody else: it is to be put again,
	// or forgotten. What is not own is fetched again.
	Own bool `json:"own,omitempty"`
}

// Check is one readiness condition of the node.
type Check struct {
	Name    string `json:"name"` // store | identity | listener
	OK      bool   `json:"ok"`
	Message string `json:"message,omitempty"` // what is wrong and what to do
}

// FirstContact says how the node stands with its first contact.
type FirstContact struct {
	URL     string  `json:"url,omitempty"`
	RID     rid.RID `json:"rid,omitempty"` // as configured, or as learned
	Reached bool    `json:"reached"`       // it answered since the node started
	Message string  `json:"message,omitempty"`
}

// EdgeCounts counts the edges in which the node is an end.
type EdgeCounts struct {
	Approved int `json:"approved"`
	Proposed int `json:"proposed"`
}

// QueueStatus describes what waits for one peer.
type QueueStatus struct {
	Peer         rid.RID `json:"peer"`
	Kind         string  `json:"kind"` // outbox | poll
	Rows         int     `json:"rows"`
	Bytes        int64   `json:"bytes"`
	ResyncNeeded bool    `json:"resyncNeeded,omitempty"`
	LastError    string  `json:"lastError,omitempty"`
}

// Node is a node known to this node.
type Node struct {
	RID     rid.RID              `json:"rid"`
	Self    bool                 `json:"self,omitempty"`
	Profile protocol.NodeProfile `json:"profile"`
	// Verified: the profile is held, for a keyed node under its own signature.
	Verified  bool               `json:"verified"`
	Timestamp protocol.Timestamp `json:"timestamp"`
	// LastError is the outcome of the last failed request to it, empty after a success.
	LastError string `json:"lastError,omitempty"`
}

// NodeList answers GET /admin/v1/nodes.
type NodeList struct {
	Nodes []Node `json:"nodes"`
}

// Introduction is the body of POST /admin/v1/nodes: make a node known and
// shake hands with it, by its base URL, or by RID, base URL and, for a keyed
// node, public key.
type Introduction struct {
	URL       string  `json:"url"`
	RID       rid.RID `json:"rid,omitempty"`
	PublicKey string  `json:"publicKey,omitempty"`
}

// Edge is an edge known to this node.
type Edge struct {
	RID       rid.RID             `json:"rid"`
	Source    rid.RID             `json:"source"` // provides
	Target    rid.RID             `json:"target"` // subscribes
	EdgeType  protocol.EdgeKind   `json:"edgeType"`
	Status    protocol.EdgeStatus `json:"status"`
	RIDTypes  []rid.Type          `json:"ridTypes"`
	Timestamp protocol.Timestamp  `json:"timestamp"`
	// Decision is the standing decision held here for the pair, if any.
	Decision *Policy `json:"decision,omitempty"`
	// Refused: our own proposal was answered by FORGET.
	Refused bool `json:"refused,omitempty"`
}

// EdgeList answers GET /admin/v1/edges. Query parameters: own=true limits it
// to edges in which the node is an end.
type EdgeList struct {
	Edges []Edge `json:"edges"`
	// Refusals are the standing refusals for pairs that have no edge.
	Refusals []Policy `json:"refusals,omitempty"`
}

// Proposal is the body of POST /admin/v1/edges: this node, as target, proposes
// an edge to source. An empty EdgeType means webhook for a full node, poll for
// a partial one.
type Proposal struct {
	Source   rid.RID           `json:"source"`
	EdgeType protocol.EdgeKind `json:"edgeType,omitempty"`
	RIDTypes []rid.Type        `json:"ridTypes"`
	// SourceURL lets a node that does not know source yet reach it.
	SourceURL string `json:"sourceURL,omitempty"`
	// SourcePublicKey belongs to SourceURL where source is keyed.
	SourcePublicKey string `json:"sourcePublicKey,omitempty"`
}

// Verdicts of a standing decision.
const (
	Approve = "Approved"
	Reject  = "Rejected"
)

// Policy is a standing decision for an ordered pair of nodes: the body of
// PUT /admin/v1/policy/{source}/{target}. Approval reaches up to RIDTypes and
// to EdgeType and is never widened; an approval without RIDTypes or EdgeType
// takes them from the proposal that is there now and is refused (409) if none is.
type Policy struct {
	Source   rid.RID           `json:"source"`
	Target   rid.RID           `json:"target"`
	Verdict  string            `json:"verdict"` // Approved | Rejected
	EdgeType protocol.EdgeKind `json:"edgeType,omitempty"`
	RIDTypes []rid.Type        `json:"ridTypes,omitempty"`
	Decided  time.Time         `json:"decided,omitzero"`
}

// RIDList answers GET /admin/v1/rids. Query parameters: type (repeatable),
// after (the last RID of the page before), limit (default 1000, at most 10000).
type RIDList struct {
	RIDs []rid.RID `json:"rids"`
	// Next is set when there is more: pass it as after.
	Next rid.RID `json:"next,omitempty"`
}

// Put is the body of PUT /admin/v1/bundles/{rid}.
type Put struct {
	Contents json.RawMessage `json:"contents"` // one JSON object
}

// PutItem is one line of POST /admin/v1/bundles (NDJSON, application/x-ndjson):
// many bundles in one request.
type PutItem struct {
	RID      rid.RID         `json:"rid"`
	Contents json.RawMessage `json:"contents"`
}

// PutResult answers both forms of put.
type PutResult struct {
	// Manifest is the stored manifest (single put).
	Manifest *protocol.Manifest `json:"manifest,omitempty"`
	Accepted int                `json:"accepted"`
	// Unchanged counts bundles whose contents were there already.
	Unchanged int `json:"unchanged"`
}

// ChangeKind says what a Change is about.
type ChangeKind string

// Kinds of change. A heartbeat carries nothing but a token.
const (
	ChangeBundle    ChangeKind = "bundle" // Event, RID
	ChangeNode      ChangeKind = "node"   // Event, RID
	ChangeEdge      ChangeKind = "edge"   // Event, RID, Edge (nil on FORGET)
	ChangePolicy    ChangeKind = "policy" // a standing decision was made or removed
	ChangeStatus    ChangeKind = "status" // readiness or first contact changed
	ChangeHeartbeat ChangeKind = "heartbeat"
	// ChangeReset: the token given is too old or of another store; list anew.
	ChangeReset ChangeKind = "reset"
)

// Change is one line of GET /admin/v1/watch (NDJSON). Query parameter since is
// the token of the last change seen; without it the watch begins now, and its
// first line is a heartbeat with the current token.
type Change struct {
	Token string             `json:"token"`
	Kind  ChangeKind         `json:"kind"`
	Event protocol.EventType `json:"event,omitempty"`
	RID   rid.RID            `json:"rid,omitempty"`
	Edge  *Edge              `json:"edge,omitempty"`
	Time  time.Time          `json:"time"`
}

// ErrorBody is the body of every answer with a status of 400 or above.
type ErrorBody struct {
	Error ErrorDetail `json:"error"`
	// Result is what was accepted before the line that failed (POST bundles).
	Result *PutResult `json:"result,omitempty"`
}

// Values of ErrorDetail.Code.
const (
	CodeBadRequest   = "badRequest"
	CodeUnauthorized = "unauthorized"
	CodeForbidden    = "forbidden"
	CodeNotFound     = "notFound"
	CodeNoRoute      = "noRoute" // there is no such path or method in this API
	CodeConflict     = "conflict"
	CodeTooLarge     = "tooLarge"
	CodeStoreFull    = "storeFull"
	CodeStoreDamaged = "storeDamaged"
	CodeUnavailable  = "unavailable"
	CodeInternal     = "internal"
)

// ErrorDetail says what was wrong, where, and what to do.
type ErrorDetail struct {
	// Code is stable; see the Code constants.
	Code    string `json:"code"`
	Message string `json:"message"`
	// Line is the line that failed, counted from 1 (POST bundles).
	Line int `json:"line,omitempty"`
}
