package protocol

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/koi-net/koi-operator/node/rid"
)

// The items, with what stands around them, are the text that is made at once.
func TestSignedItems(t *testing.T) {
	at, err := ParseTimestamp("2026-01-01T02:00:00.5+02:00")
	if err != nil {
		t.Fatal(err)
	}
	var (
		rids      []rid.RID
		manifests []Manifest
		bundles   []Bundle
		events    []Event
	)
	contents := []string{`{"z":null,"f":1e+16,"s":"<é\u2028>"}`, `{}`, `{"a":{"b":[1.0,-2.5e+20]},"a+":"1e+16"}`}
	for i, r := range []rid.RID{"orn:a.b:c", "https://example.com/?#", "orn:vector:http://example.com/ü?"} {
		m := Manifest{RID: r, Timestamp: at, SHA256Hash: "x\u2028"}
		normal, err := Normalize([]byte(contents[i]), maxDepth)
		if err != nil {
			t.Fatal(err)
		}
		rids, manifests = append(rids, r), append(manifests, m)
		bundles = append(bundles, Bundle{Manifest: m, Contents: normal})
		events = append(events, Event{RID: r, EventType: New, Manifest: &m, Contents: normal}, Event{RID: r, EventType: Forget})
	}
	list := func(n int, item func(dst []byte, i int) []byte) string {
		dst := []byte{'['}
		for i := range n {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = item(dst, i)
		}
		return string(append(dst, ']'))
	}
	listedRIDs := list(len(rids), func(dst []byte, i int) []byte { return AppendSignedRID(dst, rids[i]) })
	for want, p := range map[string]Payload{
		`{"type":"rids_payload","rids":` + listedRIDs + `}`: RIDsPayload(rids),
		`{"type":"manifests_payload","manifests":` + list(len(manifests), func(dst []byte, i int) []byte {
			return AppendSignedManifest(dst, manifests[i])
		}) + `,"not_found":` + listedRIDs + `}`: ManifestsAnswer{Manifests: manifests, NotFound: rids},
		`{"type":"bundles_payload","bundles":` + list(len(bundles), func(dst []byte, i int) []byte {
			return AppendSignedBundle(dst, bundles[i])
		}) + `,"not_found":[],"deferred":[]}`: BundlesAnswer{Bundles: bundles},
		`{"type":"events_payload","events":` + list(len(events), func(dst []byte, i int) []byte {
			dst, err := AppendSignedRow(dst, AppendEvent(nil, events[i]))
			if err != nil {
				t.Error(err)
			}
			return dst
		}) + `}`: EventsPayload(events),
	} {
		for _, style := range []FloatStyle{FloatsCurrent, FloatsOlder} {
			whole := fmt.Sprintf(`{"payload":%s,"source_node":"%s","target_node":"%s"}`, want, alice, bob)
			if got := SignedText(p, alice, bob, style); string(got) != string(restyle([]byte(whole), style)) {
				t.Errorf("style %d: item by item\n%s\nat once\n%s", style, whole, got)
			}
		}
	}
	if !strings.Contains(listedRIDs, `"https://example.com/","orn:vector:http://example.com/ü"`) {
		t.Errorf("RIDs are not canonical: %s", listedRIDs)
	}
}

// What a peer signed with a naive time, or with members of its own, is not passed on
// with them: a naive time would stop a reference node.
func TestSignedItemsAreOurOwn(t *testing.T) {
	e, err := DecodeEnvelope[ManifestsAnswer](envelopeOf(`{"manifests":[{"rid":"orn:a.b:c","timestamp":"2026-01-01T00:00:00.5","sha256_hash":"x","more":1}]}`), limits)
	if err != nil || !bytes.Contains(e.Signed, []byte(`.500000","sha256_hash":"x","more":1}`)) {
		t.Fatalf("signed is %s, %v", e.Signed, err)
	}
	m := e.Payload.Manifests[0]
	const want = `{"rid":"orn:a.b:c","timestamp":"2026-01-01T00:00:00.500000Z","sha256_hash":"x"}`
	row, err := AppendSignedRow(nil, AppendEvent(nil, Event{RID: m.RID, EventType: New, Manifest: &m}))
	if err != nil {
		t.Fatal(err)
	}
	for got, want := range map[string]string{
		string(AppendSignedManifest(nil, m)):                                                  want,
		string(AppendSignedBundle(nil, Bundle{Manifest: m, Contents: json.RawMessage(`{}`)})): `{"manifest":` + want + `,"contents":{}}`,
		string(row): `{"rid":"orn:a.b:c","event_type":"NEW","manifest":` + want + `}`,
	} {
		if got != want {
			t.Errorf("written as %s, want %s", got, want)
		}
	}
}

// A row is what AppendEvent wrote, or an error that leaves what was written alone.
func FuzzAppendSignedRow(f *testing.F) {
	for _, row := range []string{"", "{}", "[]", `{"rid":"orn:a.b:c","event_type":"NEW"`, `{"rid":"orn:a.b:c","event_type":"NEW","contents":{"a":1e16}}`} {
		f.Add([]byte(row))
	}
	for _, version := range []string{"v1.1.0", "v1.3.2", "v2", "v2-errors"} {
		for _, c := range signedCaptures(f, version) {
			for _, text := range []string{c.request, c.answer} {
				e, err := DecodeEnvelope[EventsPayload]([]byte(text), limits)
				if err != nil {
					continue // it carries something else
				}
				for _, event := range e.Payload {
					f.Add(AppendEvent(nil, event))
				}
			}
		}
	}
	f.Fuzz(func(t *testing.T, row []byte) {
		const before = `{"events":[`
		got, err := AppendSignedRow([]byte(before), row)
		rest, kept := bytes.CutPrefix(got, []byte(before))
		event, decodeErr := DecodeEvent(row)
		if (err != nil) != (decodeErr != nil) || !kept || err != nil && len(rest) > 0 {
			t.Fatalf("%q: %q, %v; read as an event: %v", row, got, err, decodeErr)
		}
		if err != nil {
			return
		}
		if !json.Valid(rest) {
			t.Fatalf("%q: written as %q", row, rest)
		}
		// Rows of our own, whose contents are in normal form, are what is sent.
		own := AppendEvent(nil, event)
		again, err := AppendSignedRow(nil, own)
		if want := appendSignedEvent(nil, event, sent); err != nil || !bytes.Equal(again, want) {
			t.Fatalf("%q: written as %q, %v; want %q", own, again, err, want)
		}
	})
}
