package store

import (
	"context"
	"errors"
	"io"
	"iter"
	"time"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// Errors callers decide on. Engines wrap them with the file and the detail.
var (
	// ErrNotFound: there is no such bundle, decision or value.
	ErrNotFound = errors.New("not found")
	// ErrDamaged: the store, or one record of it, fails its checks. It is left untouched.
	ErrDamaged = errors.New("store damaged")
	// ErrForeign: the file is no store of ours, of an unknown format, or of another node.
	ErrForeign = errors.New("store belongs to something else")
	// ErrLocked: another process has the store open.
	ErrLocked = errors.New("store locked by another process")
	// ErrFull: there is no room left for additions; reads and deletions work.
	ErrFull = errors.New("store full")
	// ErrClosed: the store was closed.
	ErrClosed = errors.New("store closed")
	// ErrReadOnly: the store was opened for reading alone.
	ErrReadOnly = errors.New("store open for reading alone")
)

// Info is the store's sentinel: written when the store is made and checked at
// every open. Nothing of it changes but the format, which an engine may raise.
type Info struct {
	ID      string    `json:"id"`      // random; another ID is another store
	Format  int       `json:"format"`  // layout version
	NodeRID rid.RID   `json:"nodeRID"` // whose store this is
	Created time.Time `json:"created"`
}

// Store is a node's durable memory. All methods are safe for concurrent use.
//
// A function given to View or Update must not wait for another transaction of
// the same store, or the two may wait for each other. It is to be short: a
// snapshot keeps the room of what was deleted after it.
type Store interface {
	// Info returns the sentinel.
	Info() Info
	// View runs fn on a consistent snapshot. What fn gets from the Reader is
	// valid after View returns (it is copied).
	View(ctx context.Context, fn func(Reader) error) error
	// Update runs fn in a read-write transaction and returns once its effects
	// are on disk. An error of fn undoes all its effects and is returned.
	// Several updates may share one commit, so fn may run more than once: it
	// must depend on nothing but its Writer, and reset what it reports outside.
	// A fn that has begun is not interrupted by ctx; a waiting one is. A panic of
	// fn is returned as an error.
	Update(ctx context.Context, fn func(Writer) error) error
	// Size returns the bytes the store takes on disk.
	Size() (int64, error)
	// Check verifies structure, every record and what is derived from them, on
	// one snapshot, and returns the first fault as ErrDamaged; it may take long.
	Check(ctx context.Context) error
	// Backup writes a copy of the whole store to w, as it is on one snapshot: all
	// that was committed before Backup was called, nothing of what comes later. It
	// returns the bytes written. It runs beside readers and the writer and holds up
	// neither, however slow w is; but a snapshot keeps the room of what is deleted
	// after it, so the store may grow until Backup ends. An end of ctx ends the
	// snapshot at once, and Backup as soon as w returns. Records are checked as
	// they are copied: damage is copied as it is, to the end, and its first fault
	// then returned as ErrDamaged. A copy that came with any error is no backup.
	Backup(ctx context.Context, w io.Writer) (int64, error)
	// Close waits for running transactions and closes the store. Whatever comes
	// later, and updates that still wait, get ErrClosed. Closing again is no error.
	Close() error
}

// Record is a stored bundle and where it came from.
type Record struct {
	Bundle protocol.Bundle
	// Source is the node that provided the bundle: our own RID for own
	// knowledge, "unsigned" for a body without a verified sender.
	Source string
	// Stored is when this version was written here; zero when it is put means now.
	Stored time.Time
}

// InboxRow is an accepted knowledge object that waits for its processing.
type InboxRow struct {
	Seq uint64
	// RID orders the inbox: rows of one RID are processed in Seq order.
	RID rid.RID
	// Data is the object as the pipeline encoded it; the store does not look into it.
	Data []byte
	// Accepted is when the row was written; zero when it is appended means now.
	Accepted time.Time
	// Frees says, when the row is appended, that its object is to delete a bundle:
	// an engine may take it, if it is small, where it has no room for others.
	Frees bool
}

// Queue names the two ways events leave a node.
type Queue string

// The outbox is pushed to full nodes; the poll queue waits for partial nodes.
const (
	Outbox    Queue = "outbox"
	PollQueue Queue = "poll"
)

// QueueRow is one event for one peer.
type QueueRow struct {
	Seq    uint64
	Peer   rid.RID
	RID    rid.RID
	Event  []byte    // the event in the wire's compact form (protocol.AppendEvent)
	Queued time.Time // zero when it is enqueued means now
}

// QueueStats describe the rows of one peer in one queue.
type QueueStats struct {
	Rows   int
	Bytes  int64
	Oldest time.Time // zero when there are no rows
	// ResyncNeeded: rows were dropped at a bound since the peer last took in
	// our whole state; see Writer.SetResyncNeeded.
	ResyncNeeded bool
}

// QueueLimits bound the rows of one peer in one queue. Zero means no bound.
type QueueLimits struct {
	Rows  int
	Bytes int64
}

// Drops counts the rows that one peer lost at a bound, by reason.
type Drops struct {
	// Superseded rows: a newer one for the same RID was enqueued since, so the
	// peer misses nothing for good.
	Superseded int
	// Oldest rows, dropped because no superseded one was left.
	Oldest int
	// TooLarge events: beyond the bound in bytes all by themselves.
	TooLarge int
	// Marked: the peer was marked ResyncNeeded for it, and was not before.
	Marked bool
}

// Decision is a person's standing word on the edge from Source to Target.
type Decision struct {
	Source   rid.RID           `json:"source"`
	Target   rid.RID           `json:"target"`
	Approved bool              `json:"approved"` // false: a standing refusal
	EdgeType protocol.EdgeKind `json:"edgeType,omitempty"`
	RIDTypes []rid.Type        `json:"ridTypes,omitempty"`
	Decided  time.Time         `json:"decided"`
}

// ReplayBounds bound the replay memory: how many keys it holds, and how long it
// holds one. Zero, or less, means no bound.
type ReplayBounds struct {
	Rows int
	Age  time.Duration
}

// MaxReplayDrops is the most keys one Writer.Remember drops.
const MaxReplayDrops = 8

// Value is a small named value.
type Value struct {
	Key   string
	Value []byte
}

// Reader reads one consistent state. Its methods are valid inside View or
// Update only. Iterators yield an error at most once, as their last element;
// those of a View end early with the error of its context. A malformed RID is
// an error that wraps rid.ErrInvalid.
type Reader interface {
	// Bundle returns the record of r, ErrNotFound, or ErrDamaged for a record
	// whose checksum fails.
	Bundle(r rid.RID) (Record, error)
	// Manifest is Bundle without the contents, cheaper.
	Manifest(r rid.RID) (protocol.Manifest, error)
	// RawBundle is Bundle as it is kept, for who serves it: nothing is decoded, and
	// nothing copied. The bytes are not to be changed, and valid until the next
	// call of a method of this Reader.
	RawBundle(r rid.RID) (protocol.RawBundle, error)
	// RawManifest is RawBundle without the contents, cheaper.
	RawManifest(r rid.RID) (protocol.RawManifest, error)
	// RIDs yields the RIDs of the given types (none: all types) in the order of
	// type, then RID, beginning after the RID after ("" from the first). No record
	// is read for it: one that is damaged is among them.
	RIDs(types []rid.Type, after rid.RID) iter.Seq2[rid.RID, error]
	// Records yields whole records in the order of RIDs.
	Records(types []rid.Type, after rid.RID) iter.Seq2[Record, error]
	// RawManifests yields manifests in the order of RIDs, each as RawManifest
	// returns it and valid until the next. An error with nil is the end. An error
	// beside a manifest, ErrDamaged, is of that one record: there is nothing but its
	// RID, or not even that where it cannot be told, and the others follow.
	RawManifests(types []rid.Type, after rid.RID) iter.Seq2[*protocol.RawManifest, error]
	// Types returns the number of bundles of each type, kept up incrementally.
	Types() (map[rid.Type]int, error)

	// Inbox yields inbox rows in Seq order beginning after seq.
	Inbox(after uint64) iter.Seq2[InboxRow, error]
	// InboxLen returns the number of inbox rows, without a scan.
	InboxLen() (int, error)

	// QueueRows yields a peer's rows in Seq order beginning after seq.
	QueueRows(q Queue, peer rid.RID, after uint64) iter.Seq2[QueueRow, error]
	// Queues returns the peers that have rows or a resync mark in q.
	Queues(q Queue) (map[rid.RID]QueueStats, error)
	// QueueStats returns the figures for one peer, without a scan.
	QueueStats(q Queue, peer rid.RID) (QueueStats, error)

	// Decision returns the standing decision for the pair or ErrNotFound.
	Decision(source, target rid.RID) (Decision, error)
	// Decisions returns all standing decisions.
	Decisions() ([]Decision, error)

	// Remembered reports whether key was noted and is still held; see
	// Writer.Remember.
	Remembered(key [32]byte) (bool, error)
	// ReplayLen returns the number of keys held in the replay memory, without a
	// scan.
	ReplayLen() (int, error)

	// Value returns a small named value (a counter, a marker) or ErrNotFound.
	Value(key string) ([]byte, error)
	// Values yields the named values whose keys begin with prefix ("": all), in
	// the order of their keys.
	Values(prefix string) iter.Seq2[Value, error]
}

// Writer reads and changes the state of one transaction, its own changes
// included. An iterator bears changes made while it runs: it yields nothing
// twice and nothing that is gone when it gets there.
type Writer interface {
	Reader

	// PutBundle writes or replaces a record and its index entry.
	PutBundle(Record) error
	// DeleteBundle removes a record; it is no error if there is none.
	DeleteBundle(rid.RID) error

	// AppendInbox adds rows in order and returns their Seq numbers, which only
	// ever grow, restarts included. The Seq of the rows given is ignored.
	AppendInbox(rows ...InboxRow) ([]uint64, error)
	// DeleteInbox removes rows; a missing one is no error.
	DeleteInbox(seqs ...uint64) error

	// Enqueue adds one event for each peer in q and keeps each peer within
	// limits: where a row would exceed them, rows that a newer one for the same
	// RID supersedes are dropped first, then the oldest, and the peer is marked
	// ResyncNeeded if anything not superseded was lost. An event larger than
	// limits.Bytes is itself what is dropped. The event's bytes are stored once.
	// Seq and Peer of row are ignored. It returns what was dropped for each peer
	// that lost any.
	Enqueue(q Queue, peers []rid.RID, row QueueRow, limits QueueLimits) (dropped map[rid.RID]Drops, err error)
	// DeleteQueueRows removes rows of one peer; a missing one is no error.
	DeleteQueueRows(q Queue, peer rid.RID, seqs ...uint64) error
	// DropQueue removes all rows and marks of a peer in q.
	DropQueue(q Queue, peer rid.RID) error
	// SetResyncNeeded sets or clears the peer's mark.
	SetResyncNeeded(q Queue, peer rid.RID, needed bool) error

	// Remember notes in the replay memory that the body named by key was accepted
	// at the given time (zero means now), and reports whether it had been noted
	// before; then nothing changes. It belongs in the transaction that accepts
	// the body, and is undone with it. key is a digest by a cryptographic hash:
	// an engine may let its first 16 bytes stand for it.
	//
	// What is older than bounds.Age, as seen from at, leaves first, then the
	// oldest beyond bounds.Rows; the key just noted stays. Keys leave in the order
	// they were noted, so one that was noted under a clock that ran ahead keeps
	// those behind it until it is old itself or the bound in rows is reached. One
	// call drops at most MaxReplayDrops keys, and as many while more are due: the
	// memory comes down to a bound that was lowered over the calls that follow. A
	// key that is still held counts as noted whatever its age: to hold one too
	// long leaves a replay without effect, to let it go early would not. An engine
	// may keep times to the second, and hold a key up to a second longer for it.
	Remember(key [32]byte, at time.Time, bounds ReplayBounds) (seen bool, err error)

	// PutDecision writes a standing decision, replacing the pair's former one.
	PutDecision(Decision) error
	// DeleteDecision removes the pair's decision; it is no error if there is none.
	DeleteDecision(source, target rid.RID) error

	// PutValue writes a small named value; nil removes it.
	PutValue(key string, value []byte) error
}
