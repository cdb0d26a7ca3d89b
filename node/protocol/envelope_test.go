package protocol

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/koi-net/koi-operator/node/identity"
	"github.com/koi-net/koi-operator/node/rid"
)

// decodeTyped decodes as the path's server or client does, which know what they
// expect.
func decodeTyped(kind PayloadType, body []byte) (Envelope[Payload], error) {
	switch kind {
	case TypeEvents:
		return anyPayload(DecodeEnvelope[EventsPayload](body, limits))
	case TypePoll:
		return anyPayload(DecodeEnvelope[PollRequest](body, limits))
	case TypeFetchRIDs:
		return anyPayload(DecodeEnvelope[FetchRIDs](body, limits))
	case TypeRIDs:
		return anyPayload(DecodeEnvelope[RIDsPayload](body, limits))
	case TypeFetchManifests:
		return anyPayload(DecodeEnvelope[FetchManifests](body, limits))
	case TypeManifests:
		return anyPayload(DecodeEnvelope[ManifestsAnswer](body, limits))
	case TypeFetchBundles:
		return anyPayload(DecodeEnvelope[FetchBundles](body, limits))
	case TypeBundles:
		return anyPayload(DecodeEnvelope[BundlesAnswer](body, limits))
	case TypeError:
		return anyPayload(DecodeEnvelope[ErrorResponse](body, limits))
	}
	return Envelope[Payload]{}, fmt.Errorf("unknown type %s", kind)
}

func anyPayload[P Payload](e Envelope[P], err error) (Envelope[Payload], error) {
	return Envelope[Payload]{Payload: e.Payload, Source: e.Source, Target: e.Target, Signature: e.Signature, Signed: e.Signed}, err
}

// verifies reports whether a key signed the envelope, in either style.
func verifies(e Envelope[Payload], text string) error {
	key, err := identity.ParsePublicKey(text)
	if err != nil {
		return err
	}
	_, err = e.Verify(key.Verify)
	return err
}

// What the reference signs for what it read, by pydantic 2.13 and 2.10, from the
// text as it came and from what FastAPI makes of it.
func TestPydanticVectors(t *testing.T) {
	type result struct {
		Signed       string
		FastAPI      string `json:"fastapi_response_text"`
		ServerStatus int    `json:"server_status"`
	}
	var file struct {
		Source string `json:"source_node"`
		Target string `json:"target_node"`
		Count  int
		Cases  []struct {
			result
			Name, Type string
			Payload    string `json:"payload_json"`
			Older      result `json:"pydantic_2_10_fastapi_0_115"`
		}
	}
	readJSON(t, "testdata/pydantic_json.json", &file)
	if len(file.Cases) != file.Count || file.Count < 88 {
		t.Fatalf("%d cases of %d", len(file.Cases), file.Count)
	}
	older := 0
	for _, c := range file.Cases {
		t.Run(c.Name, func(t *testing.T) {
			body := fmt.Sprintf(`{"payload":%s,"source_node":"%s","target_node":"%s","signature":"sig"}`, c.Payload, file.Source, file.Target)
			e, err := decodeTyped(PayloadType(c.Type), []byte(body))
			// A 500 of the reference is an exception over a bad RID.
			if wantError := c.ServerStatus != 200; (err != nil) != wantError || wantError != (c.Signed == "") {
				t.Fatalf("%v; the reference answered %d", err, c.ServerStatus)
			}
			if err != nil {
				var invalid *ValidationError
				if !errors.As(err, &invalid) {
					t.Fatalf("%v is no ValidationError", err)
				}
				return
			}
			wantOlder := c.Signed
			if c.Older.Signed != "" {
				wantOlder = c.Older.Signed
				older++
			}
			check := func(from string, e Envelope[Payload]) {
				if string(e.Signed) != c.Signed {
					t.Errorf("from the %s: signed is\n%s\nwant\n%s", from, e.Signed, c.Signed)
				}
				got := OlderFloats(e.Signed)
				if (got == nil) != (wantOlder == c.Signed) {
					t.Errorf("from the %s: in the older style %s, want %s", from, got, wantOlder)
				}
				if got != nil && string(got) != wantOlder {
					t.Errorf("from the %s: in the older style\n%s\nwant\n%s", from, got, wantOlder)
				}
				if e.Signature != "sig" || string(e.Source) != file.Source || string(e.Target) != file.Target {
					t.Errorf("from the %s: %s, %s, %s", from, e.Source, e.Target, e.Signature)
				}
			}
			check("request", e)
			for from, text := range map[string]string{"answer": c.FastAPI, "older answer": c.Older.FastAPI} {
				if text == "" {
					continue
				}
				e, err := decodeTyped(PayloadType(c.Type), []byte(text))
				if err != nil {
					t.Errorf("%s: %v", from, err)
					continue
				}
				check(from, e)
			}
			if c.Name == "type missing (defaulted)" {
				return
			}
			untyped, err := DecodeEnvelope[Payload]([]byte(body), limits)
			if err != nil || !reflect.DeepEqual(untyped, e) {
				t.Errorf("by the payload's own type: %+v, %v; want %+v", untyped, err, e)
			}
		})
	}
	if older < 5 {
		t.Errorf("only %d cases differ between the styles", older)
	}
}

type signedCase struct {
	Name, Verdict, Detail string
	Type                  PayloadType `json:"payload_type"`
	Text                  string      `json:"envelope_text"`
	Key                   string      `json:"verify_with_key"`
	Self                  rid.RID     `json:"my_rid"`
	Signed                string      `json:"signed_bytes"`
}

func signedCases(t testing.TB) (keys map[string]string, cases []signedCase) {
	t.Helper()
	var file struct {
		Count int
		Keys  []struct {
			Name      string
			PublicKey string  `json:"public_key_der_b64"`
			RID       rid.RID `json:"node_rid"`
		}
		Cases []signedCase
	}
	readJSON(t, "testdata/signed_envelopes.json", &file)
	if len(file.Cases) != file.Count || file.Count < 25 {
		t.Fatalf("%d cases of %d", len(file.Cases), file.Count)
	}
	keys = map[string]string{}
	for _, k := range file.Keys {
		keys[k.Name] = k.PublicKey
		if !(NodeProfile{PublicKey: k.PublicKey}).KeyMatches(k.RID) {
			t.Errorf("the key of %s does not match", k.RID)
		}
	}
	return keys, file.Cases
}

func TestSignedEnvelopes(t *testing.T) {
	keys, cases := signedCases(t)
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			e, err := decodeTyped(c.Type, []byte(c.Text))
			verdict := "valid"
			switch {
			case err != nil:
				verdict = "unparseable"
			case verifies(e, keys[c.Key]) != nil:
				verdict = string(InvalidSignature)
			case e.Target != c.Self:
				verdict = string(InvalidTarget)
			}
			want := c.Verdict
			if want == "exception" { // the reference answers 500
				want = string(InvalidSignature)
			}
			if verdict != want {
				t.Fatalf("%s, want %s: %v", verdict, want, err)
			}
			if c.Signed != "" && string(e.Signed) != c.Signed {
				t.Errorf("signed is\n%s\nwant\n%s", e.Signed, c.Signed)
			}
		})
	}
}

type signedCapture struct {
	name, path, request, answer string
	status                      string
}

// signedCaptures returns what nodes of three versions of the reference said to
// each other, and hand-made requests with the answers of one.
func signedCaptures(t testing.TB, version string) []signedCapture {
	t.Helper()
	files, err := filepath.Glob("testdata/signed/" + version + "/*.json")
	if err != nil || len(files) < 13 {
		t.Fatalf("%s: %d captures, %v", version, len(files), err)
	}
	var all []signedCapture
	for _, file := range files {
		var c struct {
			Request  struct{ Line, Body string }
			Response struct{ Line, Body string }
			Path     string
			Body     string `json:"request_body"`
			Answer   string `json:"response_body"`
			Status   int
		}
		readJSON(t, file, &c)
		if c.Path == "" {
			c.Path, c.Body = strings.Fields(c.Request.Line)[1], c.Request.Body
			c.Answer = c.Response.Body
			if _, err := fmt.Sscan(strings.Fields(c.Response.Line)[1], &c.Status); err != nil {
				t.Fatal(err)
			}
		}
		all = append(all, signedCapture{
			name: filepath.Base(file), path: strings.TrimPrefix(c.Path, "/koi-net"),
			request: c.Body, answer: c.Answer, status: fmt.Sprint(c.Status),
		})
	}
	return all
}

var pathPayloads = map[string][2]PayloadType{
	"/events/broadcast": {TypeEvents, ""},
	"/events/poll":      {TypePoll, TypeEvents},
	"/rids/fetch":       {TypeFetchRIDs, TypeRIDs},
	"/manifests/fetch":  {TypeFetchManifests, TypeManifests},
	"/bundles/fetch":    {TypeFetchBundles, TypeBundles},
}

// Everything that nodes of the reference said to each other reads and verifies
// with the keys they introduced themselves with, and is written as they wrote it.
func TestSignedCaptures(t *testing.T) {
	for _, version := range []string{"v1.1.0", "v1.3.2", "v2"} {
		t.Run(version, func(t *testing.T) {
			keys := map[rid.RID]string{}
			var envelopes []Envelope[Payload]
			decode := func(c signedCapture, kind PayloadType, text string) {
				if !IsEnvelope([]byte(text)) {
					t.Errorf("%s: not taken for an envelope", c.name)
				}
				e, err := decodeTyped(kind, []byte(text))
				if err != nil {
					t.Errorf("%s: %v", c.name, err)
					return
				}
				want, _, found := strings.Cut(text, `,"signature":`)
				if !found || string(e.Signed) != want+"}" {
					t.Errorf("%s: signed is\n%s\nthe reference wrote\n%s", c.name, e.Signed, text)
				}
				got, err := EncodeEnvelope(e.Payload, e.Source, e.Target, FloatsCurrent, func([]byte) (string, error) { return e.Signature, nil })
				if err != nil || string(got) != text {
					t.Errorf("%s: written as\n%s, %v\nthe reference wrote\n%s", c.name, got, err, text)
				}
				if events, ok := e.Payload.(EventsPayload); ok {
					rows := make([][]byte, len(events))
					for i, event := range events {
						rows[i] = AppendEvent(nil, event)
					}
					got, err := EncodeEventsEnvelope(rows, e.Source, e.Target, FloatsCurrent, func([]byte) (string, error) { return e.Signature, nil })
					if err != nil || string(got) != text {
						t.Errorf("%s: from rows\n%s, %v\nthe reference wrote\n%s", c.name, got, err, text)
					}
					learnKeys(t, keys, events)
				}
				envelopes = append(envelopes, e)
			}
			for _, c := range signedCaptures(t, version) {
				kinds := pathPayloads[c.path]
				decode(c, kinds[0], c.request)
				switch {
				case c.status != "200":
					if _, err := DecodeErrorResponse([]byte(c.answer), limits); err != nil {
						t.Errorf("%s: %s, %v", c.name, c.answer, err)
					}
				case kinds[1] != "":
					decode(c, kinds[1], c.answer)
				case c.answer != "null":
					t.Errorf("%s: answered %s", c.name, c.answer)
				}
			}
			for _, e := range envelopes {
				if err := verifies(e, keys[e.Source]); err != nil {
					t.Errorf("%s: %v", e.Signed, err)
				}
				for other, key := range keys {
					if other != e.Source && verifies(e, key) == nil {
						t.Errorf("%s: verifies with the key of %s", e.Signed, other)
					}
				}
			}
			if len(keys) < 2 || len(envelopes) < 20 {
				t.Errorf("%d keys, %d envelopes", len(keys), len(envelopes))
			}
		})
	}
}

// learnKeys notes the keys of the nodes that events introduce.
func learnKeys(t testing.TB, keys map[rid.RID]string, events []Event) {
	for _, e := range events {
		if e.RID.Type() != rid.NodeType || e.EventType != New || e.Manifest == nil || e.Contents == nil {
			continue
		}
		if err := VerifyHash(e.Contents, e.Manifest.SHA256Hash); err != nil {
			t.Errorf("%s: %v", e.RID, err)
		}
		p, err := ParseNodeProfile(e.Contents)
		if err != nil {
			t.Errorf("%s: %v", e.RID, err)
		} else if p.KeyMatches(e.RID) {
			keys[e.RID] = p.PublicKey
		}
	}
}

// What a coordinator of the reference said to hand-made requests, most of them
// wrong, is what our own decoding and checks come to.
func TestSignedErrorCaptures(t *testing.T) {
	// What is the server's affair: methods, paths, content types.
	other := []string{
		"26_no_content_type.json", "27_text_plain.json", "30_trailing_slash.json",
		"31_get.json", "32_no_prefix.json", "33_unknown_path.json", "34_openapi.json",
	}
	all := signedCaptures(t, "v2-errors")
	keys := map[rid.RID]string{}
	for _, c := range all {
		if kinds := pathPayloads[c.path]; c.status == "200" && kinds[1] == TypeEvents {
			e, err := decodeTyped(TypeEvents, []byte(c.answer))
			if err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
			learnKeys(t, keys, e.Payload.(EventsPayload))
		}
	}
	var self rid.RID
	for r := range keys {
		self = r
	}
	if len(keys) != 1 {
		t.Fatalf("the coordinator is one of %v", slices.Collect(maps.Keys(keys)))
	}
	coordinator := keys[self]
	known := map[rid.RID]string{}
	seen := map[string]int{}
	for _, c := range all {
		kinds := pathPayloads[c.path]
		if slices.Contains(other, c.name) {
			continue
		}
		body := []byte(c.request)
		if c.name == "54_invalid_utf8.json" {
			body = []byte{0xff} // the capture shows it as an escape
		}
		status, code := "200", ErrorCode("")
		e, err := decodeTyped(kinds[0], body)
		if err != nil {
			status = "422"
		} else if code = judge(known, self, e); code != "" {
			status = "400"
		}
		want := c.status
		switch c.name {
		case "14_signature_not_base64.json", "15_signature_empty.json":
			want = "400" // the reference answers 500
		case "22_bad_rid.json", "25_source_bad_rid.json":
			want = "422" // likewise
		case "54_invalid_utf8.json":
			want = "422" // the reference has no details to give
		}
		seen[status+string(code)]++
		if status != want {
			t.Errorf("%s: %s %s %v, want %s", c.name, status, code, err, c.status)
			continue
		}
		switch c.status {
		case "400":
			theirs, err := DecodeErrorResponse([]byte(c.answer), limits)
			if c.name == "54_invalid_utf8.json" {
				continue
			}
			if err != nil || theirs.Code != code {
				t.Errorf("%s: %s, the reference said %s, %v", c.name, code, c.answer, err)
			}
			if got := string(EncodeErrorResponse(theirs)); got != c.answer {
				t.Errorf("%s: written as %s, the reference wrote %s", c.name, got, c.answer)
			}
		case "422":
			var ours *ValidationError
			var theirs struct{ Detail []Detail }
			if parseErr := json.Unmarshal([]byte(c.answer), &theirs); parseErr != nil || !errors.As(err, &ours) {
				t.Fatalf("%s: %v, %v", c.name, parseErr, err)
			}
			wantLoc, got := fmt.Sprint(theirs.Detail[0].Loc), fmt.Sprint(ours.Details[0].Loc)
			// The reference tells the branch of a union besides the place.
			if !strings.HasPrefix(strings.TrimSuffix(wantLoc, "]"), strings.TrimSuffix(got, "]")) {
				t.Errorf("%s: at %s, the reference said %s", c.name, got, wantLoc)
			}
			if want := theirs.Detail[0].Type; want != ours.Details[0].Type && want != "is_instance_of" {
				t.Errorf("%s: %s, the reference said %s", c.name, ours.Details[0].Type, want)
			}
		case "200":
			for _, event := range eventsOf(e) {
				if event.RID == e.Source && event.EventType == Forget && len(eventsOf(e)) == 1 {
					delete(known, e.Source)
				}
			}
			if kinds[1] == "" {
				continue
			}
			answer, err := decodeTyped(kinds[1], []byte(c.answer))
			if err != nil {
				t.Errorf("%s: answer: %v", c.name, err)
			} else if err := verifies(answer, coordinator); err != nil || answer.Source != self || answer.Target != e.Source {
				t.Errorf("%s: answer: %v, from %s to %s", c.name, err, answer.Source, answer.Target)
			}
		}
	}
	for _, outcome := range []string{"200", "422", "400unknown_node", "400invalid_key", "400invalid_signature", "400invalid_target"} {
		if seen[outcome] == 0 {
			t.Errorf("nothing came to %s", outcome)
		}
	}
}

func eventsOf(e Envelope[Payload]) EventsPayload {
	events, _ := e.Payload.(EventsPayload)
	return events
}

// judge checks an envelope in the protocol's order.
func judge(known map[rid.RID]string, self rid.RID, e Envelope[Payload]) ErrorCode {
	key, ok := known[e.Source]
	for _, event := range eventsOf(e) {
		if !ok && event.RID == e.Source && event.EventType == New && event.Manifest != nil && event.Contents != nil {
			p, err := ParseNodeProfile(event.Contents)
			if err != nil || !p.KeyMatches(e.Source) {
				return InvalidKey
			}
			key, ok = p.PublicKey, true
		}
	}
	switch {
	case !ok:
		return UnknownNode
	case verifies(e, key) != nil:
		return InvalidSignature
	case e.Target != self:
		return InvalidTarget
	}
	known[e.Source] = key
	return ""
}

const (
	alice rid.RID = "orn:koi-net.node:alice+a"
	bob   rid.RID = "orn:koi-net.node:bob+b"
)

func noSignature([]byte) (string, error) { return "s", nil }

func envelopeOf(payload string) []byte {
	return fmt.Appendf(nil, `{"payload":%s,"source_node":"%s","target_node":"%s","signature":"s"}`, payload, alice, bob)
}

// Payloads of every kind: their text, and what they are read as.
func TestEnvelopeRoundTrip(t *testing.T) {
	at, err := ParseTimestamp("2026-01-01T02:00:00.5+02:00")
	if err != nil {
		t.Fatal(err)
	}
	m := Manifest{RID: "https://example.com/ü", Timestamp: at, SHA256Hash: "x"}
	const manifest = `{"rid":"https://example.com/ü","timestamp":"2026-01-01T02:00:00.500000+02:00","sha256_hash":"x"}`
	for want, p := range map[string]Payload{
		`{"type":"events_payload","events":[]}`: EventsPayload{},
		`{"type":"events_payload","events":[{"rid":"orn:a.b:c","event_type":"FORGET"},{"rid":"https://example.com/ü","event_type":"NEW","manifest":` + manifest + `,"contents":{"a":null,"n":1e+16,"s":"1e+16"}}]}`: EventsPayload{
			{RID: "orn:a.b:c", EventType: Forget},
			{RID: m.RID, EventType: New, Manifest: &m, Contents: json.RawMessage(`{"a":null,"n":1e+16,"s":"1e+16"}`)},
		},
		`{"type":"poll_events","limit":7}`:                                                      PollRequest{RID: alice, Limit: 7},
		`{"type":"fetch_rids","rid_types":["orn:a.b","https"]}`:                                 FetchRIDs{RIDTypes: []rid.Type{"orn:a.b", "https"}},
		`{"type":"rids_payload","rids":["orn:a.b:c"]}`:                                          RIDsPayload{"orn:a.b:c"},
		`{"type":"fetch_manifests","rid_types":[],"rids":["orn:a.b:c"]}`:                        FetchManifests{RIDTypes: []rid.Type{}, RIDs: []rid.RID{"orn:a.b:c"}},
		`{"type":"manifests_payload","manifests":[` + manifest + `],"not_found":["orn:a.b:c"]}`: ManifestsAnswer{Manifests: []Manifest{m}, NotFound: []rid.RID{"orn:a.b:c"}},
		`{"type":"fetch_bundles","rids":["orn:a.b:c"]}`:                                         FetchBundles{RIDs: []rid.RID{"orn:a.b:c"}},
		`{"type":"bundles_payload","bundles":[{"manifest":` + manifest + `,"contents":{}}],"not_found":[],"deferred":["orn:a.b:c"]}`: BundlesAnswer{
			Bundles: []Bundle{{Manifest: m, Contents: json.RawMessage(`{}`)}}, NotFound: []rid.RID{}, Deferred: []rid.RID{"orn:a.b:c"},
		},
		`{"type":"error_response","error":"invalid_key"}`: ErrorResponse{Code: InvalidKey},
	} {
		body, err := EncodeEnvelope(p, alice, bob, FloatsCurrent, noSignature)
		if err != nil || string(body) != string(envelopeOf(want)) {
			t.Errorf("%T: written as\n%s, %v\nwant\n%s", p, body, err, envelopeOf(want))
			continue
		}
		e, err := decodeTyped(p.PayloadType(), body)
		if err != nil || !reflect.DeepEqual(e.Payload, p) || e.Source != alice || e.Target != bob {
			t.Errorf("%s: read as %+v, %v; want %+v", body, e, err, p)
		}
		if want := SignedText(p, alice, bob, FloatsCurrent); !bytes.Equal(e.Signed, want) {
			t.Errorf("%s: signed is %s, want %s", body, e.Signed, want)
		}
		older, err := EncodeEnvelope(p, alice, bob, FloatsOlder, func(text []byte) (string, error) {
			if !bytes.Equal(text, SignedText(p, alice, bob, FloatsOlder)) {
				t.Errorf("%s is to be signed in the older style", text)
			}
			return "s", nil
		})
		if want := strings.Replace(string(body), `"n":1e+16`, `"n":1e16`, 1); err != nil || string(older) != want {
			t.Errorf("in the older style %s, %v; want %s", older, err, want)
		}
	}
}

// A signature verifies in the style it was made in, and that style is told, also
// where the body has the floats in a third one.
func TestVerifyStyles(t *testing.T) {
	sender, err := identity.Generate("sender", false)
	if err != nil {
		t.Fatal(err)
	}
	key, err := identity.ParsePublicKey(sender.PublicKeyText())
	if err != nil {
		t.Fatal(err)
	}
	p := EventsPayload{{RID: "orn:a.b:c", EventType: New, Contents: json.RawMessage(`{"a":1e+16,"b":0.00001,"c":2.0}`)}}
	for _, style := range []FloatStyle{FloatsCurrent, FloatsOlder} {
		body, err := EncodeEnvelope(p, sender.RID, bob, style, sender.Sign)
		if err != nil {
			t.Fatal(err)
		}
		python := strings.NewReplacer(`"b":0.00001`, `"b":1e-05`, `"a":1e+16`, `"a":10E15`, `"a":1e16`, `"a":10E15`).Replace(string(body))
		if !strings.Contains(python, `{"a":10E15,"b":1e-05,`) {
			t.Fatalf("%s", python)
		}
		for _, text := range []string{string(body), python} {
			e, err := DecodeEnvelope[EventsPayload]([]byte(text), limits)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := e.Verify(key.Verify); err != nil || got != style {
				t.Errorf("%s: style %d, %v; want %d", text, got, err, style)
			}
			e.Target = alice
			e.Signed = SignedText(e.Payload, e.Source, e.Target, FloatsCurrent)
			if _, err := e.Verify(key.Verify); !errors.Is(err, identity.ErrSignature) {
				t.Errorf("to another: %v", err)
			}
		}
	}
}

func TestEncodeEnvelopeFails(t *testing.T) {
	want := errors.New("no key")
	fail := func([]byte) (string, error) { return "", want }
	if body, err := EncodeEnvelope(PollRequest{}, alice, bob, FloatsCurrent, fail); body != nil || !errors.Is(err, want) {
		t.Errorf("%s, %v", body, err)
	}
	if body, err := EncodeEventsEnvelope(nil, alice, bob, FloatsCurrent, fail); body != nil || !errors.Is(err, want) {
		t.Errorf("%s, %v", body, err)
	}
	for _, row := range []string{``, `{}`, `{"rid":"orn:a.b:c","event_type":"NEW"`, `[]`} {
		if body, err := EncodeEventsEnvelope([][]byte{[]byte(row)}, alice, bob, FloatsCurrent, noSignature); err == nil {
			t.Errorf("the row %q is taken: %s", row, body)
		}
	}
}

// A peer that holds a naive time cannot be stopped by ours, but its signature
// over one verifies.
func TestNaiveTime(t *testing.T) {
	const manifest = `{"rid":"orn:a.b:c","timestamp":"2026-01-01T00:00:00.5","sha256_hash":"x"}`
	e, err := DecodeEnvelope[ManifestsAnswer](envelopeOf(`{"manifests":[`+manifest+`]}`), limits)
	if err != nil {
		t.Fatal(err)
	}
	if want := `"timestamp":"2026-01-01T00:00:00.500000",`; !strings.Contains(string(e.Signed), want) {
		t.Errorf("signed is %s", e.Signed)
	}
	if got := SignedText(e.Payload, alice, bob, FloatsCurrent); !strings.Contains(string(got), `"2026-01-01T00:00:00.500000Z"`) {
		t.Errorf("passed on as %s", got)
	}
}

// A limit's text is signed as the reference prints it.
func TestSignedLimit(t *testing.T) {
	for in, want := range map[string]string{
		`0`: "0", `25`: "25", `-1`: "-1", `-0`: "0", `2.0`: "2", `-0.0`: "0", `"7"`: "7", `" +007.00 "`: "7", `"-07"`: "-7", `"-0"`: "0",
		`true`: "1", `false`: "0", `1e18`: "1000000000000000000", `123456789012345678901234567890`: "123456789012345678901234567890",
		`-123456789012345678901234567890`: "-123456789012345678901234567890",
	} {
		e, err := DecodeEnvelope[PollRequest](envelopeOf(`{"limit":`+in+`}`), limits)
		if err != nil || !strings.HasPrefix(string(e.Signed), `{"payload":{"type":"poll_events","limit":`+want+`},`) || e.Payload.RID != alice || e.Payload.Limit < 0 {
			t.Errorf("%s: %+v %s, %v", in, e.Payload, e.Signed, err)
		}
	}
	for _, in := range []string{`1.5`, `1e30`, `9.3e18`, `null`, `"x"`, `"--7"`, `"+-7"`, `[]`, `NaN`} {
		if e, err := DecodeEnvelope[PollRequest](envelopeOf(`{"limit":`+in+`}`), limits); err == nil {
			t.Errorf("%s is taken: %s", in, e.Signed)
		}
	}
}

// Envelopes of the wrong shape, where they are wrong and how.
func TestDecodeEnvelopeRefuses(t *testing.T) {
	const ends = `"source_node":"orn:koi-net.node:a+b","target_node":"orn:koi-net.node:c+d"`
	for body, want := range map[string]string{
		``:                            "missing [body]",
		`null`:                        "missing [body]",
		`[]`:                          "model_attributes_type [body]",
		`{}`:                          "missing [body payload]; missing [body source_node]; missing [body target_node]; missing [body signature]",
		`{"payload":{},` + ends + `}`: "missing [body signature]",
		`{"payload":{},` + ends + `,"signature":null}`:                                "string_type [body signature]",
		`{"payload":null,` + ends + `,"signature":""}`:                                "model_attributes_type [body payload]",
		`{"payload":{"type":null},` + ends + `,"signature":""}`:                       "literal_error [body payload type]",
		`{"payload":{"type":"fetch_rids"},` + ends + `,"signature":""}`:               "literal_error [body payload type]",
		`{"payload":{"limit":[]},` + ends + `,"signature":""}`:                        "int_type [body payload limit]",
		`{"payload":{},"source_node":"orn:a:b","target_node":"x:y","signature":""}`:   "value_error [body source_node]; value_error [body target_node]",
		`{"payload":{},` + ends + `,"signature":"` + strings.Repeat("A", 1025) + `"}`: "string_too_long [body signature]",
		`{"payload":{`: "json_invalid [body 12]",
		`{"payload":{},` + ends + `,"signature":""}]`: "json_invalid",
	} {
		_, err := DecodeEnvelope[PollRequest]([]byte(body), limits)
		if got := details(err); !strings.HasPrefix(got, want) || strings.Count(got, ";") != strings.Count(want, ";") {
			t.Errorf("%s: %s, want %s", body, got, want)
		}
	}
	for payload, want := range map[string]string{
		`{}`:             "missing [body payload type]",
		`{"events":[]}`:  "missing [body payload type]",
		`{"type":"x"}`:   "literal_error [body payload type]",
		`{"type":["x"]}`: "literal_error [body payload type]",
		`[]`:             "model_attributes_type [body payload]",
		`{"type":"x",}`:  "json_invalid [body 23]",
		`{"type":"poll_events","type":"fetch_rids","rid_types":0}`: "literal_error [body payload type]; list_type [body payload rid_types]",
		`{"type":"events_payload"}`:                                "missing [body payload events]",
		`{"type":"rids_payload"}`:                                  "missing [body payload rids]",
		`{"type":"fetch_bundles"}`:                                 "missing [body payload rids]",
		`{"type":"manifests_payload"}`:                             "missing [body payload manifests]",
		`{"type":"bundles_payload","manifests":[]}`:                "missing [body payload bundles]",
		`{"type":"error_response"}`:                                "missing [body payload error]",
		`{"type":"error_response","error":"other"}`:                "enum [body payload error]",
		`{"type":"fetch_bundles","rids":["https://[::1/"]}`:        "value_error [body payload rids 0]",
		`{"type":"fetch_bundles","rids":["https:#"]}`:              "value_error [body payload rids 0]",
	} {
		_, err := DecodeEnvelope[Payload](envelopeOf(payload), limits)
		want = strings.Replace(want, "literal_error [body payload type]; ", "", 1)
		if got := details(err); got != want {
			t.Errorf("%s: %s, want %s", payload, got, want)
		}
	}
}

// details lists the problems that an error tells of.
func details(err error) string {
	var invalid *ValidationError
	if !errors.As(err, &invalid) {
		return fmt.Sprint(err)
	}
	var all []string
	for _, d := range invalid.Details {
		all = append(all, fmt.Sprint(d.Type, " ", d.Loc))
	}
	return strings.Join(all, "; ")
}

// Of a member that comes twice the last counts, as in the reference.
func TestEnvelopeRepeatedMembers(t *testing.T) {
	body := `{"payload":{"type":"fetch_rids"},"payload":{"type":"fetch_bundles","limit":1,"limit":[],"type":"poll_events","limit":3},` +
		`"source_node":1,"source_node":"` + string(alice) + `","target_node":"` + string(bob) + `","signature":{},"signature":"s"}`
	for _, decode := range []func() (Envelope[Payload], error){
		func() (Envelope[Payload], error) { return decodeTyped(TypePoll, []byte(body)) },
		func() (Envelope[Payload], error) { return DecodeEnvelope[Payload]([]byte(body), limits) },
	} {
		e, err := decode()
		want := PollRequest{RID: alice, Limit: 3}
		if err != nil || e.Payload != Payload(want) || e.Signature != "s" {
			t.Errorf("%+v, %v", e, err)
		}
	}
}

// A member given twice in an object given twice takes back its own problems
// alone.
func TestRepeatedMembersNested(t *testing.T) {
	for body, want := range map[string]string{
		`{"events":[{"rid":1,"event_type":"NEW"}],"events":[{"rid":1,"rid":"orn:a.b:c","event_type":"NEW"}]}`:                               "<nil>",
		`{"x":0,"events":[{"rid":1,"event_type":"NEW"}],"events":[{"rid":1,"rid":"orn:a.b:c","event_type":"bad"}]}`:                         "enum [body events 0 event_type]",
		`{"events":[{"rid":1,"event_type":1}],"events":[{"rid":1,"rid":"orn:a.b:c","event_type":"bad","rid":2,"rid":3,"rid":"orn:a.b:c"}]}`: "enum [body events 0 event_type]",
		`{"events":[{"rid":1,"event_type":"NEW"}],"events":[{"rid":"orn:a.b:c","rid":1,"event_type":"NEW"}]}`:                               "string_type [body events 0 rid]",
	} {
		_, err := DecodeBroadcast([]byte(body), limits)
		if got := details(err); got != want {
			t.Errorf("%s: %s, want %s", body, got, want)
		}
	}
}

func TestEnvelopeLimits(t *testing.T) {
	l := Limits{BodyBytes: 1000, Events: 1, Depth: 4, ContentsBytes: 20, RIDs: 1, RIDTypes: 1}
	const event = `{"rid":"orn:a.b:c","event_type":"NEW","contents":%s}`
	for payload, want := range map[string]string{
		`{"type":"events_payload","events":[` + fmt.Sprintf(event, `{"a":[[1]]}`) + `]}`:                  "<nil>",
		`{"type":"events_payload","events":[` + fmt.Sprintf(event, `{"a":[[[[1]]]]}`) + `]}`:              "json_invalid",
		`{"type":"events_payload","events":[` + fmt.Sprintf(event, `{"a":"01234567890123456789"}`) + `]}`: "too_long",
		`{"type":"events_payload","events":[{"rid":"orn:a.b:c","event_type":"NEW"},{}]}`:                  "too_long",
		`{"type":"fetch_bundles","rids":["orn:a.b:c","orn:a.b:d"]}`:                                       "too_long",
		`{"type":"fetch_rids","rid_types":["orn:a.b","orn:a.c"]}`:                                         "too_long",
		`{"type":"fetch_rids","x":[[[[[]]]]]}`:                                                            "json_invalid",
	} {
		_, err := DecodeEnvelope[Payload](envelopeOf(payload), l)
		if got := details(err); !strings.HasPrefix(got, want) {
			t.Errorf("%s: %s, want %s", payload, got, want)
		}
	}
	if _, err := DecodeEnvelope[Payload](bytes.Repeat([]byte(" "), 1001), l); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a large body: %v", err)
	}
	if _, err := DecodeErrorResponse(bytes.Repeat([]byte(" "), 1001), l); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a large answer: %v", err)
	}
}

func TestIsEnvelope(t *testing.T) {
	for body, want := range map[string]bool{
		`{"payload":`:                              true,
		` { "signature" : 1`:                       true,
		`{"x":{"events":[]},"source_node":1}`:      true,
		`{"pay\u006coad":{}}`:                      true,
		`{"target_node":1}`:                        true,
		`{"events":[],"payload":{},"signature":0}`: false,
		`{"rid":"","limit":0}`:                     false,
		`{"rid_types":[]}`:                         false,
		`{"rids":[]}`:                              false,
		`{"limit":0}`:                              false,
		`{"x":1}`:                                  false,
		`{"x":1,}`:                                 false,
		`{"x":`:                                    false,
		`{"x" 1}`:                                  false,
		`{}`:                                       false,
		`[]`:                                       false,
		`null`:                                     false,
		``:                                         false,
	} {
		if got := IsEnvelope([]byte(body)); got != want {
			t.Errorf("%s: %v", body, got)
		}
	}
}

func TestErrorResponse(t *testing.T) {
	for _, code := range []ErrorCode{UnknownNode, InvalidKey, InvalidSignature, InvalidTarget} {
		want := ErrorResponse{Code: code}
		got, err := DecodeErrorResponse(EncodeErrorResponse(want), limits)
		if err != nil || got != want || !strings.Contains(got.Error(), string(code)+": ") {
			t.Errorf("%s: %+v %s, %v", code, got, got, err)
		}
	}
	if got, err := DecodeErrorResponse([]byte(`{"error":"unknown_node"}`), limits); err != nil || got.Code != UnknownNode {
		t.Errorf("%+v, %v", got, err)
	}
	for _, body := range []string{`{"detail":"Not Found"}`, `{"type":"x","error":"unknown_node"}`, `{"type":"error_response","error":"x"}`, `Internal Server Error`, `null`, ``} {
		if got, err := DecodeErrorResponse([]byte(body), limits); err == nil {
			t.Errorf("%s is taken: %+v", body, got)
		}
	}
}

func TestOlderFloats(t *testing.T) {
	for in, want := range map[string]string{
		`{}`:                           "",
		`{"a":"1e+16"}`:                "",
		`{"+":1e-7,"b":"\"+\\"}`:       "",
		`[1e+16]`:                      `[1e16]`,
		`1e+16`:                        `1e16`,
		`[1e+16,"+\\\"+",-1.5e+300]`:   `[1e16,"+\\\"+",-1.5e300]`,
		`{"a\\":1e+20,"b+":[1e+21,1]}`: `{"a\\":1e20,"b+":[1e21,1]}`,
		`"`:                            "",
		`"\`:                           "",
		`"\"`:                          "",
	} {
		in := []byte(in)
		before := string(in)
		if got := OlderFloats(in); string(got) != want || (got == nil) != (want == "") || string(in) != before {
			t.Errorf("%s: %s, want %s", before, got, want)
		}
	}
}

func FuzzDecodeEnvelope(f *testing.F) {
	for _, version := range []string{"v1.1.0", "v1.3.2", "v2", "v2-errors"} {
		for _, c := range signedCaptures(f, version) {
			f.Add([]byte(c.request))
			f.Add([]byte(c.answer))
		}
	}
	_, cases := signedCases(f)
	for _, c := range cases {
		f.Add([]byte(c.Text))
	}
	f.Add(envelopeOf(`{"type":"manifests_payload","manifests":[{"b":{"c":null,"d":1e16},"rid":"orn:a.b:c","timestamp":"2026-01-01T00:00:00Z","sha256_hash":"00","b":null,"@context":"x"}]}`))
	f.Add(envelopeOf(`{"type":"fetch_bundles","rids":["https:a:b#","orn:vector:http://x?"]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		decoders := []PayloadType{""}
		for _, kinds := range pathPayloads {
			decoders = append(decoders, kinds[0])
		}
		for _, kind := range append(decoders, TypeRIDs, TypeManifests, TypeBundles, TypeError) {
			decode := func(body []byte) (Envelope[Payload], error) {
				if kind == "" {
					return DecodeEnvelope[Payload](body, limits)
				}
				return decodeTyped(kind, body)
			}
			e, err := decode(body)
			if err != nil {
				var invalid *ValidationError
				if !errors.As(err, &invalid) || len(invalid.Details) == 0 || len(invalid.Details) > maxDetails {
					t.Fatalf("%s %q: %v", kind, body, err)
				}
				if out, err := json.Marshal(invalid); err != nil || !json.Valid(out) {
					t.Fatalf("%s %q: the error marshals to %s, %v", kind, body, out, err)
				}
				continue
			}
			if !json.Valid(e.Signed) {
				t.Fatalf("%s %q: signed is %s", kind, body, e.Signed)
			}
			sign := func([]byte) (string, error) { return e.Signature, nil }
			// What the sender signed reads as what the sender sent.
			sealed, err := seal(slices.Clone(e.Signed), sign)
			if err != nil {
				t.Fatal(err)
			}
			again, err := decode(sealed)
			if err != nil || !reflect.DeepEqual(again, e) {
				t.Fatalf("%s %q: %+v, signed and read again %+v, %v", kind, body, e, again, err)
			}
			for _, style := range []FloatStyle{FloatsCurrent, FloatsOlder} {
				ours, err := EncodeEnvelope(e.Payload, e.Source, e.Target, style, sign)
				if err != nil {
					t.Fatal(err)
				}
				if again, err = decode(ours); err != nil {
					t.Fatalf("%s %q: written as %q: %v", kind, body, ours, err)
				}
				if want := SignedText(e.Payload, e.Source, e.Target, FloatsCurrent); !bytes.Equal(again.Signed, want) {
					t.Fatalf("%s %q: written as %q, read as %q", kind, body, want, again.Signed)
				}
				twice, err := EncodeEnvelope(again.Payload, e.Source, e.Target, style, sign)
				if err != nil || !bytes.Equal(twice, ours) {
					t.Fatalf("%s %q: written as %q, then as %q, %v", kind, body, ours, twice, err)
				}
			}
			if events, ok := e.Payload.(EventsPayload); ok {
				rows := make([][]byte, len(events))
				for i, event := range events {
					rows[i] = AppendEvent(nil, event)
				}
				want, _ := EncodeEnvelope(e.Payload, e.Source, e.Target, FloatsCurrent, sign)
				got, err := EncodeEventsEnvelope(rows, e.Source, e.Target, FloatsCurrent, sign)
				if err != nil || !bytes.Equal(got, want) {
					t.Fatalf("%q: from rows %q, want %q, %v", body, got, want, err)
				}
			}
		}
	})
}

// benchmarkEnvelope is a broadcast of 100 events of 1 KiB, signed.
func benchmarkEnvelope(b *testing.B) (rows [][]byte, key string, sender identity.Identity, body []byte) {
	b.Helper()
	for i := range 100 {
		contents, err := Normalize(kilobyte(i), 256)
		if err != nil {
			b.Fatal(err)
		}
		sum, err := Hash(contents)
		if err != nil {
			b.Fatal(err)
		}
		r := rid.RID(fmt.Sprintf("orn:git.commit:%040d", i))
		rows = append(rows, AppendEvent(nil, Event{RID: r, EventType: New, Manifest: &Manifest{RID: r, SHA256Hash: sum}, Contents: contents}))
	}
	sender, err := identity.Generate("sender", false)
	if err != nil {
		b.Fatal(err)
	}
	body, err = EncodeEventsEnvelope(rows, sender.RID, bob, FloatsCurrent, sender.Sign)
	if err != nil {
		b.Fatal(err)
	}
	return rows, sender.PublicKeyText(), sender, body
}

func BenchmarkDecodeEnvelope(b *testing.B) {
	_, text, _, body := benchmarkEnvelope(b)
	key, err := identity.ParsePublicKey(text)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		e, err := DecodeEnvelope[EventsPayload](body, limits)
		if err != nil {
			b.Fatal(err)
		}
		if err := key.Verify(e.Signed, e.Signature); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEncodeEventsEnvelope(b *testing.B) {
	rows, _, sender, body := benchmarkEnvelope(b)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := EncodeEventsEnvelope(rows, sender.RID, bob, FloatsCurrent, sender.Sign); err != nil {
			b.Fatal(err)
		}
	}
}
