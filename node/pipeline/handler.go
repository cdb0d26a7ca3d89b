package pipeline

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	"github.com/koi-net/koi-operator/node/graph"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

// Phase is one of the five steps at which handlers see a knowledge object.
type Phase int

// The phases, in order. A FORGET has no Manifest phase. The cache action lies
// between Bundle and Network, and what the object causes is sent between
// Network and Final.
const (
	PhaseRID Phase = iota
	PhaseManifest
	PhaseBundle
	PhaseNetwork
	PhaseFinal
	phases int = iota
)

// String returns the phase's name as KOI-net writes it.
func (p Phase) String() string {
	switch p {
	case PhaseRID:
		return "RID"
	case PhaseManifest:
		return "Manifest"
	case PhaseBundle:
		return "Bundle"
	case PhaseNetwork:
		return "Network"
	case PhaseFinal:
		return "Final"
	}
	return fmt.Sprintf("Phase(%d)", int(p))
}

// Origin filters objects by where they came from.
type Origin int

// Origins. The zero value lets every object through.
const (
	AnyOrigin Origin = iota
	InternalOnly
	ExternalOnly
)

// Handler is called in its phase for the objects its filters let through, in
// the order in which handlers were given.
type Handler struct {
	// Name appears in logs and metrics.
	Name  string
	Phase Phase
	// RIDTypes limits the handler to these types; none means all.
	RIDTypes []rid.Type
	// EventTypes limits it to these event types: before the Manifest phase has
	// passed the type as given, afterwards the normalized one. None means all.
	EventTypes []protocol.EventType
	Origin     Origin
	// Quick says that Func never waits: it does no I/O of its own and reads what
	// its Context gives it. An object all of whose handlers are quick, and that
	// lacks nothing, is carried through in the transaction that accepts it, and
	// who sent it waits for that; other objects wait in the inbox meanwhile.
	Quick bool
	Func  HandlerFunc
}

// HandlerFunc looks at an object and may change it. It returns nil to pass it
// on, Stop to end its way, Retry to be called again later, or any other error,
// which ends the object's way and is logged and counted as a failure.
// It must not keep the Context or the Object, and causes further objects by the
// Context alone: what it handed to the node itself would wait for it to end.
type HandlerFunc func(ctx context.Context, c *Context, o *Object) error

func (h *Handler) matches(o *Object) bool {
	if !h.concerns(o.RID.Type(), o.Source.External()) {
		return false
	}
	if len(h.EventTypes) > 0 {
		t := o.EventType
		if o.Normalized != "" {
			t = o.Normalized
		}
		return slices.Contains(h.EventTypes, t)
	}
	return true
}

// concerns reports whether objects of a type and origin may be let through.
func (h *Handler) concerns(t rid.Type, external bool) bool {
	if h.Origin == InternalOnly && external || h.Origin == ExternalOnly && !external {
		return false
	}
	return len(h.RIDTypes) == 0 || slices.Contains(h.RIDTypes, t)
}

// StopError ends an object's way through the pipeline, for a reason that is no
// failure: nothing is written, nothing is sent.
type StopError struct {
	// Reason is a short stable word for metrics and logs.
	Reason string
	until  time.Time // when to begin anew; zero for never
}

// Error returns the reason.
func (e *StopError) Error() string { return "stopped: " + e.Reason }

// Stop returns a StopError. Reasons are few and stable: they label a metric.
func Stop(reason string) error { return &StopError{Reason: reason} }

// ErrRetry marks a failure that may pass: the object waits, with those of the
// same RID behind it, and is tried again from its first phase, at growing
// intervals, a bounded number of times.
var ErrRetry = errors.New("to be tried again")

// Retry wraps err so that the object is tried again.
func Retry(err error) error { return fmt.Errorf("%w: %w", ErrRetry, err) }

// ErrLater marks an object that cannot be dealt with for now through no fault of
// its own, as where a peer is asked for as much as it may be asked for at once.
// It waits its turn: no attempt is counted.
var ErrLater = errors.New("to be dealt with later")

// AwaitNode is Retry for an object that waits for a node to be introduced: it is
// tried again as soon as that node becomes known, too.
func AwaitNode(node rid.RID, err error) error { return &awaitError{node: node, err: Retry(err)} }

type awaitError struct {
	node rid.RID
	err  error
}

func (e *awaitError) Error() string { return e.err.Error() }
func (e *awaitError) Unwrap() error { return e.err }

// call runs the handler. A panic in it ends the object's way like any other
// failure: the object would be there again after a crash, and crash the next run.
func (h *Handler) call(ctx context.Context, c *Context, o *Object) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %v\n%s", v, debug.Stack())
		}
	}()
	return h.Func(context.WithValue(ctx, inHandler{}, true), c, o)
}

// Fetcher gets what an external object lacks from other nodes.
type Fetcher interface {
	// FetchManifest asks for the manifest of r. The error wraps ErrRetry where
	// asking again may help, store.ErrNotFound where nobody has it.
	FetchManifest(ctx context.Context, r rid.RID, source Source) (protocol.Manifest, error)
	// FetchBundle asks for the bundle of r; errors as above.
	FetchBundle(ctx context.Context, r rid.RID, source Source) (protocol.Bundle, error)
}

// Context is what a handler may use and cause. What it causes commits with the
// object's own effects, or not at all.
type Context struct {
	// Self is this node's RID.
	Self rid.RID
	// Graph is this node's view of the network.
	Graph *graph.Graph
	// Now is the time of the processing.
	Now time.Time

	store     store.Store
	followUps []Object
	sends     []send
}

type send struct {
	targets []rid.RID
	event   protocol.Event
}

// Handle adds a knowledge object that follows from this one. An Object without
// a Source is internal.
func (c *Context) Handle(o Object) {
	if o.Source == "" {
		o.Source = Internal
	}
	c.followUps = append(c.followUps, o)
}

// Put adds the publication of contents as this node's knowledge under r, as
// Handle does. Contents are a JSON object, as text ([]byte or json.RawMessage) or
// as a value that marshals to one.
func (c *Context) Put(r rid.RID, contents any) error {
	text, err := Text(contents)
	if err != nil {
		return fmt.Errorf("contents of %s: %w", r, err)
	}
	c.Handle(Object{RID: r, Contents: text})
	return nil
}

// Forget adds the FORGET of r, as Handle does. What is not held stays so.
func (c *Context) Forget(r rid.RID) { c.Handle(Object{RID: r, EventType: protocol.Forget}) }

// Text returns contents given as JSON text or as a value as JSON text.
func Text(contents any) (json.RawMessage, error) {
	switch v := contents.(type) {
	case []byte:
		return v, nil
	case json.RawMessage:
		return v, nil
	}
	return json.Marshal(contents)
}

// Send adds an outgoing event for the given nodes. It is queued before the
// events of later objects; nodes that are not known are left out.
func (c *Context) Send(e protocol.Event, targets ...rid.RID) {
	c.sends = append(c.sends, send{targets: targets, event: e})
}

// Bundle reads the cache: the record of r, or store.ErrNotFound.
func (c *Context) Bundle(ctx context.Context, r rid.RID) (rec store.Record, err error) {
	err = c.store.View(ctx, func(tx store.Reader) error {
		rec, err = tx.Bundle(r)
		return err
	})
	return rec, err
}

// Decision reads the standing decision for a pair, or store.ErrNotFound.
func (c *Context) Decision(ctx context.Context, source, target rid.RID) (d store.Decision, err error) {
	err = c.store.View(ctx, func(tx store.Reader) error {
		d, err = tx.Decision(source, target)
		return err
	})
	return d, err
}

// NextTime returns the timestamp for a change we make to what was stamped
// previous: now, or a microsecond after previous where our clock is behind.
func NextTime(now time.Time, previous *protocol.Manifest) protocol.Timestamp {
	t := now.Truncate(time.Microsecond)
	if previous != nil {
		if least := previous.Timestamp.Time().Add(time.Microsecond); t.Before(least) {
			t = least
		}
	}
	return protocol.NewTimestamp(t.UTC())
}
