package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"

	"github.com/koi-net/koi-operator/node/admin/client"
	"github.com/koi-net/koi-operator/node/handlers"
	"github.com/koi-net/koi-operator/node/pipeline"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

// ErrNotFound is wrapped where a bundle is not held, or nobody has it.
var ErrNotFound = store.ErrNotFound

// Put publishes contents as this node's knowledge under r and returns the
// manifest that is held then: subscribers get a NEW or an UPDATE, or nothing
// where the contents are the ones held. Contents are a JSON object, as text
// ([]byte or json.RawMessage) or as a value that marshals to one. Nodes and edges
// are not put: they follow from the node's settings and negotiation. The error
// wraps a *pipeline.StopError where a handler stopped it. Run has to be under way.
func (n *Node) Put(ctx context.Context, r rid.RID, contents any) (protocol.Manifest, error) {
	switch r.Type() {
	case rid.NodeType, rid.EdgeType:
		return protocol.Manifest{}, fmt.Errorf("put %s: nodes and edges are not put", r)
	}
	text, err := n.contents(r, contents)
	if err != nil {
		return protocol.Manifest{}, err
	}
	if held, ok := n.unchanged(ctx, r, text); ok {
		return held, nil // without a write
	}
	out, err := n.Handle(ctx, pipeline.Object{RID: r, Contents: text})
	if err == nil {
		err = out[0].Err
	}
	switch {
	case err != nil:
	case out[0].Stopped == handlers.ReasonUnchanged, out[0].Stopped == "" && out[0].Manifest != nil:
		return *out[0].Manifest, nil
	case out[0].Stopped == "":
		err = errors.New("a handler turned it into a FORGET")
	default:
		err = pipeline.Stop(out[0].Stopped)
	}
	return protocol.Manifest{}, fmt.Errorf("put %s: %w", r, err)
}

// unchanged returns the manifest of our own bundle of r if it has these contents.
func (n *Node) unchanged(ctx context.Context, r rid.RID, contents []byte) (m protocol.Manifest, ok bool) {
	err := n.store.View(ctx, func(tx store.Reader) error {
		rec, err := tx.Bundle(r)
		m, ok = rec.Bundle.Manifest, rec.Source == string(n.identity.RID) && bytes.Equal(rec.Bundle.Contents, contents)
		return err
	})
	return m, err == nil && ok
}

// contents makes contents for r of a value, within the limits.
func (n *Node) contents(r rid.RID, value any) (json.RawMessage, error) {
	if _, err := rid.Parse(string(r)); err != nil {
		return nil, fmt.Errorf("put: %w", err)
	}
	text, err := pipeline.Text(value)
	if err != nil {
		return nil, fmt.Errorf("contents of %s: %w", r, err)
	}
	return normalContents(r, text, n.cfg.Limits)
}

// errNotObject: contents that are valid JSON, but no object.
var errNotObject = errors.New("they have to be a JSON object")

// normalContents checks a text as contents and returns its normal form.
func normalContents(r rid.RID, text []byte, l protocol.Limits) (json.RawMessage, error) {
	if len(text) > l.ContentsBytes {
		return nil, fmt.Errorf("contents of %s: %d bytes, the limit is %d", r, len(text), l.ContentsBytes)
	}
	normal, err := protocol.Normalize(text, l.Depth)
	if err == nil && (len(normal) == 0 || normal[0] != '{') {
		err = errNotObject
	}
	if err != nil {
		return nil, fmt.Errorf("contents of %s: %w", r, err)
	}
	return normal, nil
}

// Forget removes r and tells its subscribers. The error wraps ErrNotFound where it
// is not held, a *pipeline.StopError where a handler stopped it. Run has to be
// under way.
func (n *Node) Forget(ctx context.Context, r rid.RID) error {
	if r == n.identity.RID {
		return fmt.Errorf("forget %s: a node does not forget itself", r)
	}
	out, err := n.Handle(ctx, pipeline.Object{RID: r, EventType: protocol.Forget})
	if err == nil {
		err = out[0].Err
	}
	switch {
	case err != nil:
	case out[0].Stopped == handlers.ReasonUnknownForgotten:
		var done bool
		if done, err = n.forgetDamaged(ctx, r); done {
			return nil
		}
		if err == nil {
			err = ErrNotFound
		}
	case out[0].Stopped != "":
		err = pipeline.Stop(out[0].Stopped)
	default:
		return nil
	}
	return fmt.Errorf("forget %s: %w", r, err)
}

// forgetDamaged forgets a bundle that cannot be read, and tells its subscribers.
// It reports whether there was one. Nodes and edges come back by themselves.
func (n *Node) forgetDamaged(ctx context.Context, r rid.RID) (bool, error) {
	if t := r.Type(); t == rid.NodeType || t == rid.EdgeType {
		return false, nil
	}
	done, err := n.repairs.forget(ctx, r)
	if err != nil || !done {
		return false, err
	}
	n.feed.Publish(client.Change{Kind: client.ChangeBundle, Event: protocol.Forget, RID: r})
	return true, n.Push(ctx, protocol.Event{RID: r, EventType: protocol.Forget}, n.graph.Subscribers(r.Type())...)
}

// Bundle reads the cache: the bundle of r, or an error that wraps
// store.ErrNotFound.
func (n *Node) Bundle(ctx context.Context, r rid.RID) (b protocol.Bundle, err error) {
	err = n.store.View(ctx, func(tx store.Reader) error {
		rec, err := tx.Bundle(r)
		b = rec.Bundle
		return err
	})
	n.repairs.seen(r, err)
	return b, err
}

// Has reports whether the cache holds r.
func (n *Node) Has(ctx context.Context, r rid.RID) (bool, error) {
	err := n.store.View(ctx, func(tx store.Reader) error {
		_, err := tx.Manifest(r)
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// ridsPage is how many RIDs are read in one transaction.
const ridsPage = 1000

// RIDs yields the RIDs in the cache of the given types (none: all), in the order
// of type, then RID. It holds no transaction while the caller works, so that
// what changes meanwhile may or may not be seen. An error is its last element.
func (n *Node) RIDs(ctx context.Context, types ...rid.Type) iter.Seq2[rid.RID, error] {
	return func(yield func(rid.RID, error) bool) {
		var after rid.RID
		for {
			var page []rid.RID
			err := n.store.View(ctx, func(tx store.Reader) error {
				page = page[:0]
				for r, err := range tx.RIDs(types, after) {
					if err != nil {
						return err
					}
					if page = append(page, r); len(page) == ridsPage {
						break
					}
				}
				return nil
			})
			if err != nil {
				yield("", fmt.Errorf("list the cache: %w", err))
				return
			}
			for _, r := range page {
				if !yield(r, nil) {
					return
				}
			}
			if len(page) < ridsPage {
				return
			}
			after = page[len(page)-1]
		}
	}
}

// Write puts bundles of this node's own into the cache and tells nobody. A
// bundle that is not newer than the one held is passed over; one whose contents
// are no JSON object or not those of its hash is refused, and the others with it.
// Run has to be under way.
func (n *Node) Write(ctx context.Context, bundles ...protocol.Bundle) error {
	objects := make([]pipeline.Object, len(bundles))
	for i, b := range bundles {
		contents, err := normalContents(b.Manifest.RID, b.Contents, n.cfg.Limits)
		if err == nil {
			err = protocol.VerifyHash(contents, b.Manifest.SHA256Hash)
		}
		if err != nil {
			return fmt.Errorf("write %s: %w", b.Manifest.RID, err)
		}
		b.Contents = contents
		objects[i] = pipeline.FromBundle(pipeline.Internal, b)
		objects[i].Quiet = true
	}
	return n.quietly(ctx, objects)
}

// Drop removes bundles from the cache and tells nobody; what is not held is
// passed over. Other nodes' knowledge comes back with their next event or
// resync. Run has to be under way.
func (n *Node) Drop(ctx context.Context, rids ...rid.RID) error {
	objects := make([]pipeline.Object, len(rids))
	for i, r := range rids {
		if r == n.identity.RID {
			return fmt.Errorf("drop %s: a node does not forget itself", r)
		}
		objects[i] = pipeline.Object{RID: r, EventType: protocol.Forget, Quiet: true}
	}
	return n.quietly(ctx, objects)
}

func (n *Node) quietly(ctx context.Context, objects []pipeline.Object) error {
	out, err := n.Handle(ctx, objects...)
	if err != nil {
		return err
	}
	errs := make([]error, 0, len(out))
	for i, o := range out {
		err := o.Err
		if o.Stopped == handlers.ReasonUnknownForgotten && n.repairs.isBad(objects[i].RID) {
			_, err = n.repairs.forget(ctx, objects[i].RID)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", objects[i].RID, err))
		}
	}
	return errors.Join(errs...)
}
