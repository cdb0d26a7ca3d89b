package server

import (
	"strings"
	"testing"

	"github.com/koi-net/koi-operator/node/identity"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// TestOpenAPILiveSigned makes every call in the signed form to a server.
func TestOpenAPILiveSigned(t *testing.T) {
	f := newSignedFixture(t)
	bundles := knowledge(t, f.fixture)
	a := newAudit(t, f.fixture)
	var rids []rid.RID
	events := protocol.EventsPayload{{RID: "orn:test.doc:2", EventType: protocol.Forget}}
	for _, b := range bundles {
		rids = append(rids, b.Manifest.RID)
		events = append(events, protocol.Event{RID: b.Manifest.RID, EventType: protocol.New, Manifest: &b.Manifest, Contents: b.Contents})
	}
	newcomer := newIdentity(t, "newcomer")
	introduction := protocol.EventsPayload{{RID: newcomer.RID, EventType: protocol.Forget}, newEvent(t, newcomer.RID, profileOf(newcomer))}

	for _, x := range []struct {
		path string
		call protocol.Payload
	}{
		{"/events/broadcast", events},
		{"/events/broadcast", protocol.EventsPayload{}},
		{"/events/poll", protocol.PollRequest{Limit: 7}},
		{"/rids/fetch", protocol.FetchRIDs{}},
		{"/rids/fetch", protocol.FetchRIDs{RIDTypes: []rid.Type{"https", "orn:nothing"}}},
		{"/manifests/fetch", protocol.FetchManifests{}},
		{"/manifests/fetch", protocol.FetchManifests{RIDs: append(rids, "orn:test.doc:none")}},
		{"/bundles/fetch", protocol.FetchBundles{}},
		{"/bundles/fetch", protocol.FetchBundles{RIDs: append(rids, "orn:test.doc:none")}},
	} {
		body := f.envelope(f.peer, x.call)
		a.expect(t, 200, "POST", x.path, body)
		a.expect(t, 200, "POST", x.path, body) // a replay
		for status, bad := range map[int]string{
			422: strings.Replace(body, `"payload":{"type":"`, `"payload":{"type":"x`, 1),
			400: strings.Replace(body, `"signature":"`, `"signature":"AA`, 1),
		} {
			a.expect(t, status, "POST", x.path, bad)
		}
		a.expect(t, 400, "POST", x.path, f.envelope(newcomer, x.call))
		a.expect(t, 400, "POST", x.path, f.envelope(f.peer, x.call, newcomer.RID))
		a.expect(t, 400, "POST", x.path, f.envelope(identity.Identity{RID: f.peer.RID, Key: newcomer.Key}, x.call))
	}
	a.expect(t, 200, "POST", "/events/broadcast", f.envelope(newcomer, introduction))
	a.expect(t, 400, "POST", "/events/broadcast", f.envelope(identity.Identity{RID: newcomer.RID, Key: f.peer.Key}, introduction))
	a.expect(t, 400, "POST", "/events/poll", string(protocol.EncodePoll(protocol.PollRequest{RID: f.peer.RID})))

	f.polls.err = ErrBusy
	a.expect(t, 503, "POST", "/events/poll", f.envelope(f.peer, protocol.PollRequest{}))
}

// TestOpenAPITellsGenerations: what a node takes is in its document, and so is
// what it answers to the rest.
func TestOpenAPITellsGenerations(t *testing.T) {
	unsigned := map[string]string{
		"/events/broadcast": `{"events":[]}`,
		"/events/poll":      `{"rid":"orn:koi-net.node:reader+1"}`,
		"/rids/fetch":       `{}`,
		"/manifests/fetch":  `{}`,
		"/bundles/fetch":    `{"rids":[]}`,
	}
	signed := map[string]protocol.Payload{
		"/events/broadcast": protocol.EventsPayload{},
		"/events/poll":      protocol.PollRequest{},
		"/rids/fetch":       protocol.FetchRIDs{},
		"/manifests/fetch":  protocol.FetchManifests{},
		"/bundles/fetch":    protocol.FetchBundles{},
	}
	for _, x := range []struct {
		name             string
		change           func(*Config)
		unsigned, signed int
		told             string
	}{
		{"both", func(*Config) {}, 200, 200, "This node takes both."},
		{"signed alone", func(c *Config) { c.DenyUnsigned = true }, 403, 200, "This node takes signed calls alone"},
		{"no key", func(c *Config) { c.Identity.Key = nil }, 200, 400, "This node has no key"},
	} {
		t.Run(x.name, func(t *testing.T) {
			f := newSignedFixture(t)
			x.change(&f.Config)
			a := newAudit(t, f.fixture)
			if text := a.doc["info"].(map[string]any)["description"].(string); !strings.Contains(text, x.told) {
				t.Errorf("the document does not say: %s", x.told)
			}
			for path := range documentedCalls {
				a.expect(t, x.unsigned, "POST", path, unsigned[path])
				a.expect(t, x.signed, "POST", path, f.envelope(f.peer, signed[path]))
			}
		})
	}
}
