package hostile

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// The functions of this file make events whose form is valid and which a node
// must not take, each for one reason. A body with such an event is answered 200,
// and the other events in it are taken.

// Honest returns the NEW event of a bundle, for contrast; contents are the text
// of a JSON object.
func Honest(r rid.RID, at time.Time, contents string) (protocol.Event, error) {
	b, err := protocol.NewBundle(r, protocol.NewTimestamp(at), []byte(contents))
	if err != nil {
		return protocol.Event{}, fmt.Errorf("event of %s: %w", r, err)
	}
	return newEvent(b), nil
}

func newEvent(b protocol.Bundle) protocol.Event {
	return protocol.Event{RID: b.Manifest.RID, EventType: protocol.New, Manifest: &b.Manifest, Contents: b.Contents}
}

// made is Honest for contents of our own.
func made(r rid.RID, at time.Time, contents []byte) protocol.Event {
	sum, _ := protocol.Hash(contents) // of a JSON object, which has one
	return newEvent(protocol.Bundle{
		Manifest: protocol.Manifest{RID: r, Timestamp: protocol.NewTimestamp(at), SHA256Hash: sum}, Contents: contents,
	})
}

// WrongHash returns a NEW whose contents are not those its manifest describes.
func WrongHash(r rid.RID, at time.Time) protocol.Event {
	e := made(r, at, []byte(`{"true":1}`))
	e.Contents = []byte(`{"false":1}`)
	return e
}

// OthersManifest returns a NEW of r with the manifest of another RID.
func OthersManifest(r, other rid.RID, at time.Time) protocol.Event {
	e := made(other, at, []byte(`{"whose":1}`))
	e.RID = r
	return e
}

// Future returns a NEW that is stamped at, a time the node's clock is far from:
// taken, it would freeze its RID until then.
func Future(r rid.RID, at time.Time) protocol.Event {
	return made(r, at, []byte(`{"from":"the future"}`))
}

// Forget returns a FORGET: of the receiver itself, say, or of what the sender
// never provided.
func Forget(r rid.RID) protocol.Event {
	return protocol.Event{RID: r, EventType: protocol.Forget}
}

// SelfApproved returns an edge that its target approved by itself, which its
// source alone may: a subscription nobody granted.
func SelfApproved(source, target rid.RID, at time.Time, types ...rid.Type) protocol.Event {
	return made(rid.NewEdge(source, target), at, protocol.EdgeProfile{
		Source: source, Target: target, EdgeType: protocol.Webhook, Status: protocol.Approved, RIDTypes: types,
	}.Contents())
}

// Proposal returns the edge as it is honestly proposed.
func Proposal(source, target rid.RID, at time.Time, types ...rid.Type) protocol.Event {
	return made(rid.NewEdge(source, target), at, protocol.EdgeProfile{
		Source: source, Target: target, EdgeType: protocol.Webhook, Status: protocol.Proposed, RIDTypes: types,
	}.Contents())
}

// Impostor returns the profile of a node that claims another one's base URL, and
// so what is meant for that.
func Impostor(node rid.RID, baseURL string, at time.Time) protocol.Event {
	return made(node, at, protocol.NodeProfile{BaseURL: baseURL, NodeType: protocol.Full}.Contents())
}

// Events returns the body of an unsigned broadcast, or of an answer to a poll.
func Events(events ...protocol.Event) []byte {
	rows := make([][]byte, len(events))
	for i, e := range events {
		rows[i] = protocol.AppendEvent(nil, e)
	}
	return protocol.EncodeBroadcast(rows)
}

// Body is the body of a broadcast that has to be refused as a whole.
type Body struct {
	Name   string
	Bytes  []byte
	Status int // of the answer: 413 or 422
}

// Bodies returns bodies that a node with these limits refuses. Those of 422 begin
// with a good event, honest, of which no trace may be left.
func Bodies(l protocol.Limits, honest protocol.Event) []Body {
	good := string(protocol.AppendEvent(nil, honest))
	event := func(fields string) []byte { return []byte(`{"events":[` + good + `,{` + fields + `}]}`) }
	with := func(contents string) []byte {
		return event(`"rid":"orn:hostile.note:2","event_type":"NEW","contents":` + contents)
	}
	const invalid, large = 422, 413
	return []Body{
		{"oversize", Oversize(l.BodyBytes), large},
		{"empty", nil, invalid},
		{"not JSON", []byte("events=none"), invalid},
		{"cut short", []byte(`{"events":[` + good), invalid},
		{"trailing text", []byte(`{"events":[` + good + `]}{"events":[]}`), invalid},
		{"no object", []byte(`[` + good + `]`), invalid},
		{"no events", []byte(`{"event":[` + good + `]}`), invalid},
		{"events of another kind", []byte(`{"events":{"0":` + good + `}}`), invalid},
		{"duplicate keys, the last one wrong", []byte(`{"events":[` + good + `],"events":7}`), invalid},
		{"deep contents", with(strings.Repeat(`{"a":`, l.Depth+1) + "1" + strings.Repeat("}", l.Depth+1)), invalid},
		{"deep field nobody knows", event(`"rid":"orn:hostile.note:2","event_type":"NEW","x":` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000)), invalid},
		{"large contents", with(`{"a":"` + strings.Repeat("x", l.ContentsBytes) + `"}`), invalid},
		{"contents that are no object", with(`[1]`), invalid},
		{"invalid UTF-8", with("{\"a\":\"\xff\xfe\"}"), invalid},
		{"half a surrogate pair", with(`{"a":"\ud800"}`), invalid},
		{"no RID", event(`"event_type":"NEW"`), invalid},
		{"RID of no form", event(`"rid":"note two","event_type":"NEW"`), invalid},
		{"RID too long", event(`"rid":"orn:hostile.note:` + strings.Repeat("x", rid.MaxLength) + `","event_type":"NEW"`), invalid},
		{"event type nobody knows", event(`"rid":"orn:hostile.note:2","event_type":"DELETE"`), invalid},
		{"manifest without a hash", event(`"rid":"orn:hostile.note:2","event_type":"NEW","manifest":{"rid":"orn:hostile.note:2","timestamp":"2026-01-01T00:00:00Z"}`), invalid},
		{"timestamp of no time", event(`"rid":"orn:hostile.note:2","event_type":"NEW","manifest":{"rid":"orn:hostile.note:2","timestamp":"soon","sha256_hash":""}`), invalid},
		{"too many events", append(append([]byte(`{"events":[`+good+`,`), TooMany(l.Events)[len(`{"events":[`):]...), '\n'), invalid},
	}
}

// Oversize returns a broadcast without events that is a byte larger than limit.
func Oversize(limit int64) []byte {
	body := make([]byte, limit+1)
	for i := range body {
		body[i] = ' '
	}
	copy(body, `{"events":[`)
	copy(body[limit-1:], `]}`)
	return body
}

// TooMany returns a broadcast of n bare events.
func TooMany(n int) []byte {
	body := []byte(`{"events":[`)
	for i := range n {
		if i > 0 {
			body = append(body, ',')
		}
		body = append(body, `{"rid":"orn:hostile.note:`...)
		body = strconv.AppendInt(body, int64(i), 10)
		body = append(body, `","event_type":"NEW"}`...)
	}
	return append(body, "]}"...)
}
