package load

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"iter"
	"time"

	"github.com/koi-net/koi-operator/node/identity"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// NoteType is the RID type of what loads are made of.
const NoteType rid.Type = "orn:bench.note"

// ContentsBytes is the size of a note's contents.
const ContentsBytes = 1024

// Note makes a bundle of NoteType under a fresh random RID, with contents of
// ContentsBytes that hold random text.
func Note() (protocol.Bundle, error) {
	return note(rid.RID(string(NoteType) + ":" + randomHex(16)))
}

// Notes yields n notes in the order of their RIDs, which are as long as those of
// Note and begin with their number.
func Notes(n int) iter.Seq2[protocol.Bundle, error] {
	return func(yield func(protocol.Bundle, error) bool) {
		for i := range n {
			b, err := note(rid.RID(fmt.Sprintf("%s:%08x%s", NoteType, i, randomHex(12))))
			if !yield(b, err) || err != nil {
				return
			}
		}
	}
}

func note(r rid.RID) (protocol.Bundle, error) {
	const frame = len(`{"text":""}`)
	b, err := protocol.NewBundle(r, protocol.NewTimestamp(time.Now()), []byte(`{"text":"`+randomHex((ContentsBytes - frame + 1) / 2)[:ContentsBytes-frame]+`"}`))
	if err != nil {
		return protocol.Bundle{}, fmt.Errorf("make a note: %w", err)
	}
	return b, nil
}

// randomHex returns 2n random digits.
func randomHex(n int) string {
	random := make([]byte, n)
	_, _ = rand.Read(random) // never fails
	return hex.EncodeToString(random)
}

// NewEvent returns the row of an event that tells of a new bundle.
func NewEvent(b protocol.Bundle) []byte {
	return protocol.AppendEvent(nil, protocol.Event{RID: b.Manifest.RID, EventType: protocol.New, Manifest: &b.Manifest, Contents: b.Contents})
}

// Speaker writes the bodies of one node's calls to another: in envelopes where it
// has a key, else of the unsigned generation.
type Speaker struct {
	// Self is who speaks.
	Self identity.Identity
	// To is the node that is spoken to.
	To rid.RID
}

// Broadcast returns the body of a broadcast of the rows of events.
func (s Speaker) Broadcast(rows [][]byte) ([]byte, error) {
	if s.Self.Unsigned() {
		return protocol.EncodeBroadcast(rows), nil
	}
	return protocol.EncodeEventsEnvelope(rows, s.Self.RID, s.To, protocol.FloatsCurrent, s.Self.Sign)
}

// FetchRIDs returns the body of a request for the RIDs of types.
func (s Speaker) FetchRIDs(types ...rid.Type) ([]byte, error) {
	request := protocol.FetchRIDs{RIDTypes: types}
	if s.Self.Unsigned() {
		return protocol.EncodeFetchRIDs(request), nil
	}
	return s.envelope(request)
}

// FetchManifests returns the body of a request for all manifests of types.
func (s Speaker) FetchManifests(types ...rid.Type) ([]byte, error) {
	request := protocol.FetchManifests{RIDTypes: types}
	if s.Self.Unsigned() {
		return protocol.EncodeFetchManifests(request), nil
	}
	return s.envelope(request)
}

// FetchBundles returns the body of a request for bundles.
func (s Speaker) FetchBundles(rids []rid.RID) ([]byte, error) {
	request := protocol.FetchBundles{RIDs: rids}
	if s.Self.Unsigned() {
		return protocol.EncodeFetchBundles(request), nil
	}
	return s.envelope(request)
}

func (s Speaker) envelope(p protocol.Payload) ([]byte, error) {
	return protocol.EncodeEnvelope(p, s.Self.RID, s.To, protocol.FloatsCurrent, s.Self.Sign)
}

// Broadcasts makes the bodies of requests, each with a number of new notes.
func (s Speaker) Broadcasts(requests, events int) ([][]byte, error) {
	bodies, rows := make([][]byte, requests), make([][]byte, events)
	for i := range bodies {
		for j := range rows {
			b, err := Note()
			if err != nil {
				return nil, err
			}
			rows[j] = NewEvent(b)
		}
		var err error
		if bodies[i], err = s.Broadcast(rows); err != nil {
			return nil, fmt.Errorf("make a broadcast: %w", err)
		}
	}
	return bodies, nil
}

// RIDs reads the answer to a request for RIDs, of either generation; the
// signature is not looked at.
func (s Speaker) RIDs(answer []byte) ([]rid.RID, error) {
	limits := protocol.DefaultLimits()
	limits.BodyBytes, limits.RIDs = 1<<30, 1<<30
	if s.Self.Unsigned() {
		return protocol.DecodeRIDs(answer, limits)
	}
	e, err := protocol.DecodeEnvelope[protocol.RIDsPayload](answer, limits)
	return e.Payload, err
}
