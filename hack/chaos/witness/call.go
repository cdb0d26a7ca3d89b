package witness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// StatusError is an answer that was no success.
type StatusError struct {
	Code int
	Text string
}

func (e *StatusError) Error() string { return fmt.Sprintf("answered %d %s", e.Code, e.Text) }

// Meet asks a node who it is, introduces the witness to it as a newcomer, and waits
// until it knows the witness.
func (w *Witness) Meet(ctx context.Context, url string) (Node, error) {
	n, err := w.Ask(ctx, url)
	if err != nil {
		return Node{}, err
	}
	w.know(n)
	own, err := w.Bundle()
	if err != nil {
		return Node{}, err
	}
	if err := w.Broadcast(ctx, n, protocol.Event{RID: w.id.RID, EventType: protocol.Forget}, newEvent(own)); err != nil {
		return Node{}, fmt.Errorf("introduce %s to %s: %w", w.cfg.Name, url, err)
	}
	for {
		err := w.Broadcast(ctx, n)
		if !unknown(err) || ctx.Err() != nil {
			return n, err
		}
	}
}

// Ask asks a node of ours who it is.
func (w *Witness) Ask(ctx context.Context, url string) (Node, error) {
	text, err := w.do(ctx, http.MethodGet, url, nil)
	if err != nil {
		return Node{}, fmt.Errorf("ask %s who it is: %w", url, err)
	}
	b, err := protocol.DecodeBundle(text, protocol.DefaultLimits())
	if err != nil {
		return Node{}, fmt.Errorf("ask %s who it is: %w", url, err)
	}
	p, err := protocol.ParseNodeProfile(b.Contents)
	if err != nil {
		return Node{}, fmt.Errorf("ask %s who it is: %w", url, err)
	}
	return Node{URL: url, RID: b.Manifest.RID, Key: p.PublicKey}, nil
}

// Propose proposes to a node that it give the witness events of the types. The
// answer comes as an event; see Status.
func (w *Witness) Propose(ctx context.Context, n Node, types ...rid.Type) error {
	p := protocol.EdgeProfile{Source: n.RID, Target: w.id.RID, EdgeType: protocol.Webhook, Status: protocol.Proposed, RIDTypes: types}
	if w.cfg.Kind == protocol.Partial {
		p.EdgeType = protocol.Poll
	}
	b, err := protocol.NewBundle(rid.NewEdge(n.RID, w.id.RID), protocol.NewTimestamp(time.Now()), p.Contents())
	if err != nil {
		return err
	}
	return w.Broadcast(ctx, n, newEvent(b))
}

func newEvent(b protocol.Bundle) protocol.Event {
	return protocol.Event{RID: b.Manifest.RID, EventType: protocol.New, Manifest: &b.Manifest, Contents: b.Contents}
}

// Broadcast sends events to a node.
func (w *Witness) Broadcast(ctx context.Context, n Node, events ...protocol.Event) error {
	body, err := w.Body(n, events...)
	if err != nil {
		return err
	}
	return w.Send(ctx, n, body)
}

// Body is a broadcast of events to a node, which may be sent more than once.
func (w *Witness) Body(n Node, events ...protocol.Event) ([]byte, error) {
	if !w.cfg.Unsigned {
		return protocol.EncodeEnvelope(protocol.EventsPayload(events), w.id.RID, n.RID, protocol.FloatsCurrent, w.id.Sign)
	}
	rows := make([][]byte, len(events))
	for i, e := range events {
		rows[i] = protocol.AppendEvent(nil, e)
	}
	return protocol.EncodeBroadcast(rows), nil
}

// unknown reports whether a node answered that it does not know the witness: its
// introduction was accepted and is not processed yet.
func unknown(err error) bool {
	var status *StatusError
	return errors.As(err, &status) && status.Code == http.StatusBadRequest && strings.Contains(status.Text, string(protocol.UnknownNode))
}

// Send broadcasts a body. nil means that the node acknowledged it; its answer was
// read whole. A *StatusError means that it did not take it; after any other error
// nobody knows.
func (w *Witness) Send(ctx context.Context, n Node, body []byte) error {
	_, err := w.do(ctx, http.MethodPost, n.URL+"/events/broadcast", body)
	return err
}

// Poll asks a node for events, all that it has, and writes them down.
func (w *Witness) Poll(ctx context.Context, n Node) (events int, err error) {
	request := protocol.PollRequest{RID: w.id.RID}
	got, err := call(ctx, w, n, "/events/poll", request, func() []byte { return protocol.EncodePoll(request) },
		func(b []byte) (protocol.EventsPayload, error) {
			events, err := protocol.DecodeEvents(b, protocol.DefaultLimits())
			return events, err
		})
	if err != nil {
		return 0, err
	}
	if len(got) > 0 {
		w.offered(got, Well)
	}
	return len(got), nil
}

// Manifests asks a node for the manifests of RIDs, or of all of the types.
func (w *Witness) Manifests(ctx context.Context, n Node, types []rid.Type, rids []rid.RID) ([]protocol.Manifest, error) {
	request := protocol.FetchManifests{RIDTypes: types, RIDs: rids}
	got, err := call(ctx, w, n, "/manifests/fetch", request, func() []byte { return protocol.EncodeFetchManifests(request) },
		func(b []byte) (protocol.ManifestsAnswer, error) {
			return protocol.DecodeManifests(b, protocol.DefaultLimits())
		})
	return got.Manifests, err
}

// Bundles asks a node for bundles.
func (w *Witness) Bundles(ctx context.Context, n Node, rids []rid.RID) ([]protocol.Bundle, error) {
	request := protocol.FetchBundles{RIDs: rids}
	got, err := call(ctx, w, n, "/bundles/fetch", request, func() []byte { return protocol.EncodeFetchBundles(request) },
		func(b []byte) (protocol.BundlesAnswer, error) {
			return protocol.DecodeBundles(b, protocol.DefaultLimits())
		})
	return got.Bundles, err
}

// call makes a call of the witness's generation and reads the answer.
func call[P protocol.Payload](ctx context.Context, w *Witness, n Node, path string, request protocol.Payload, plain func() []byte, read func([]byte) (P, error)) (P, error) {
	var none P
	var body []byte
	var err error
	if w.cfg.Unsigned {
		body = plain()
	} else if body, err = protocol.EncodeEnvelope(request, w.id.RID, n.RID, protocol.FloatsCurrent, w.id.Sign); err != nil {
		return none, err
	}
	text, err := w.do(ctx, http.MethodPost, n.URL+path, body)
	if err != nil {
		return none, err
	}
	if w.cfg.Unsigned {
		return read(text)
	}
	e, err := protocol.DecodeEnvelope[P](text, protocol.DefaultLimits())
	if err == nil {
		err = verify(w, e)
	}
	if err != nil {
		err = fmt.Errorf("the answer to %s: %w", path, err)
		w.fault("%v", err)
		return none, err
	}
	return e.Payload, nil
}

func (w *Witness) do(ctx context.Context, method, url string, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, Calling)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := w.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, maxBody))
	if err != nil {
		return nil, fmt.Errorf("the answer of %s: %w", url, err)
	}
	if res.StatusCode != http.StatusOK {
		return nil, &StatusError{Code: res.StatusCode, Text: string(text[:min(len(text), 300)])}
	}
	return text, nil
}
