package admin

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/koi-net/koi-operator/node/admin/client"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// Errors a Backend wraps to choose the answer's status. store.ErrNotFound is
// answered 404, store.ErrFull 507, store.ErrClosed 503; others, store.ErrDamaged
// with a code of its own among them, 500.
var (
	// ErrInvalid: the request cannot be meant; 400.
	ErrInvalid = errors.New("invalid request")
	// ErrConflict: the request does not fit the present state; 409.
	ErrConflict = errors.New("conflict")
	// ErrUnavailable: it may work later, for instance when a peer answers; 503.
	ErrUnavailable = errors.New("unavailable")
)

// ItemError says which item of a Put failed, so that the answer can name its
// line. What was accepted says the result.
type ItemError struct {
	Index int // in the slice given to Put, from 0
	Err   error
}

// Error names the item by its place.
func (e *ItemError) Error() string { return fmt.Sprintf("item %d: %v", e.Index, e.Err) }

// Unwrap returns the item's own error.
func (e *ItemError) Unwrap() error { return e.Err }

// Backend is what the API needs of a node. RIDs, RID types and edge kinds it is
// given are well-formed; everything else is its own to check.
type Backend interface {
	// Status describes the node. It fails only where the store cannot be read.
	Status(ctx context.Context) (client.Status, error)
	// Ready returns the readiness checks in order, without waiting for anything.
	Ready() []client.Check

	// Nodes returns the known nodes, the node itself included.
	Nodes(ctx context.Context) ([]client.Node, error)
	// Introduce makes a node known and shakes hands with it.
	Introduce(ctx context.Context, in client.Introduction) (client.Node, error)

	// Edges returns the known edges; own limits them to those in which the node
	// is an end.
	Edges(ctx context.Context, own bool) (client.EdgeList, error)
	// Propose has the node, as target, propose an edge to a source.
	Propose(ctx context.Context, p client.Proposal) (client.Edge, error)
	// SetPolicy makes a standing decision and returns it as it was stored.
	SetPolicy(ctx context.Context, p client.Policy) (client.Policy, error)
	// DeletePolicy removes a standing decision; store.ErrNotFound if there is none.
	DeletePolicy(ctx context.Context, source, target rid.RID) error
	// ForgetEdge forgets the edge of the pair; store.ErrNotFound if there is none.
	ForgetEdge(ctx context.Context, source, target rid.RID) error

	// RIDs returns a page of at most limit RIDs of the given types (none: all)
	// after a RID ("": from the first).
	RIDs(ctx context.Context, types []rid.Type, after rid.RID, limit int) (client.RIDList, error)
	// Bundle returns a bundle of the cache or store.ErrNotFound.
	Bundle(ctx context.Context, r rid.RID) (protocol.Bundle, error)
	// Put makes bundles of the items and gives them out as the node's own
	// knowledge. It returns once they are on disk. Beside an error the result
	// counts what was accepted all the same; *ItemError names the item that failed.
	Put(ctx context.Context, items []client.PutItem) (client.PutResult, error)
	// Forget forgets a RID; store.ErrNotFound if it is not known.
	Forget(ctx context.Context, r rid.RID) error

	// Resync contacts interests again, asks the other end of every edge, and
	// catches up with the providers' state. It returns once that is under way.
	Resync(ctx context.Context) error
	// Leave announces FORGET of the node to all neighbours, best effort and
	// within ctx; it is the last call before a node is deleted.
	Leave(ctx context.Context) error
	// Backup writes a copy of the node's store to w, as store.Store's Backup does.
	Backup(ctx context.Context, w io.Writer) error
}
