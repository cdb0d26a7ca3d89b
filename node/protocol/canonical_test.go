package protocol

import (
	"errors"
	"strings"
	"testing"

	"github.com/koi-net/koi-operator/node/rid"
)

// The expectations are what rid-lib's RID.from_string and str make of a text.
func TestCanonicalRID(t *testing.T) {
	for in, want := range map[rid.RID]rid.RID{
		"orn:a.b:c":                           "orn:a.b:c",
		"orn:koi-net.node:a+b":                "orn:koi-net.node:a+b",
		"urn:x:https://a?":                    "urn:x:https://a?",
		"h:x?":                                "h:x?",
		"httpx:x?":                            "httpx:x?",
		"HTTP:x?":                             "HTTP:x?",
		"https://example.com/#":               "https://example.com/",
		"https://EXAMPLE.com/%7Efoo?":         "https://EXAMPLE.com/%7Efoo",
		"https://example.com/a/b?q=1#frag":    "https://example.com/a/b?q=1#frag",
		"https://example.com?x=1&y=2":         "https://example.com?x=1&y=2",
		"http://a/?#":                         "http://a/",
		"http://a/?#?":                        "http://a/#?",
		"http://a/x?y?":                       "http://a/x?y?",
		"http://a/x#y#":                       "http://a/x#y#",
		"http:///x":                           "http:/x",
		"http:example":                        "http:example",
		"http: //a/b c ":                      "http://a/b c ",
		"http://a/\tb\n\r":                    "http://a/b",
		"https:ftp://a/":                      "https://a/",
		"http://[::1]:8000/x":                 "http://[::1]:8000/x",
		"http://u@[fe80::1%eth0]":             "http://u@[fe80::1%eth0]",
		"http://[v1.a]":                       "http://[v1.a]",
		"http://ü.example/ü":                  "http://ü.example/ü",
		"orn:vector:https://a?":               "orn:vector:https://a",
		"orn:vector:orn:a.b:c?":               "orn:vector:orn:a.b:c?",
		"orn:normalized.text:http://a#":       "orn:normalized.text:http://a",
		"orn:vector:orn:normalized.text:x:y?": "orn:vector:orn:normalized.text:x:y?",
		"orn:hackmd.note:a/b":                 "orn:hackmd.note:a/b",
		"orn:hackmd.note:/b":                  "orn:hackmd.note:b",
	} {
		got, err := CanonicalRID(in)
		if err != nil || got != want {
			t.Errorf("%q: %q, %v; want %q", in, got, err, want)
			continue
		}
		if again, err := CanonicalRID(got); err != nil || again != got {
			t.Errorf("%q: %q, then %q, %v", in, got, again, err)
		}
	}
	for _, in := range []rid.RID{
		"https:#", "http://", "http:?",
		"https:a:b:c",           // another RID each time it is read
		"http:////a",            // likewise, in some versions
		"http://[::1/x",         // what follows is refused by urlsplit
		"http://::1]/x",         //
		"http://[1.2.3.4]/",     //
		"http://[x]/",           //
		"http://[v1]/",          //
		"http://a[::1]/",        //
		"http://[::1]a/",        //
		"http://[::1]@a/",       //
		"http://a\u2100b/",      //
		"http://a\uff0fb/",      //
		"orn:vector:nocolon",    //
		"orn:vector:http://[x]", //
	} {
		if got, err := CanonicalRID(in); !errors.Is(err, rid.ErrInvalid) || got != "" {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
	long := rid.RID(strings.Repeat(vectorPrefix, rid.MaxLength/len(vectorPrefix)-1) + "x:y")
	if got, err := CanonicalRID(long); err != nil || got != long {
		t.Errorf("%d vectors: %v", len(long)/len(vectorPrefix), err)
	}
}

func FuzzCanonicalRID(f *testing.F) {
	for _, seed := range []string{"https://example.com/#", "http:////a?", "orn:vector:https:a:b?", "http://u@[::1]:80/\t#", "orn:hackmd.note://"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := rid.Parse(text)
		if err != nil {
			return
		}
		canonical, err := CanonicalRID(r)
		if err != nil {
			if !errors.Is(err, rid.ErrInvalid) {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		if _, err := rid.Parse(string(canonical)); err != nil || canonical.Type() != r.Type() {
			t.Fatalf("%q: %q, %v", text, canonical, err)
		}
		if again, err := CanonicalRID(canonical); err != nil || again != canonical {
			t.Fatalf("%q: %q, then %q, %v", text, canonical, again, err)
		}
	})
}

// A RID that came unsigned, or was put in here, is named to signed peers in the
// form in which they verify, and that is how what they say of it reads.
func TestEnvelopesHoldCanonicalRIDs(t *testing.T) {
	const long, short = "https://example.com/?#", "https://example.com/"
	m := Manifest{RID: long, SHA256Hash: "x"}
	for _, p := range []Payload{
		EventsPayload{{RID: long, EventType: New, Manifest: &m}},
		RIDsPayload{long},
		FetchManifests{RIDs: []rid.RID{long}},
		ManifestsAnswer{Manifests: []Manifest{m}, NotFound: []rid.RID{long}},
		FetchBundles{RIDs: []rid.RID{long}},
		BundlesAnswer{Bundles: []Bundle{{Manifest: m, Contents: []byte("{}")}}, NotFound: []rid.RID{long}, Deferred: []rid.RID{long}},
	} {
		text := SignedText(p, alice, bob, FloatsCurrent)
		if strings.Contains(string(text), long) || !strings.Contains(string(text), `"`+short+`"`) {
			t.Errorf("%s", text)
		}
		// As a peer might write it.
		body := strings.ReplaceAll(string(envelopeOf(payloadText(t, text))), `"`+short+`"`, `"`+long+`"`)
		e, err := decodeTyped(p.PayloadType(), []byte(body))
		if err != nil || string(e.Signed) != string(text) {
			t.Errorf("%s: signed is %s, %v", body, e.Signed, err)
		}
	}
	row := AppendEvent(nil, Event{RID: long, EventType: New, Manifest: &m})
	body, err := EncodeEventsEnvelope([][]byte{row}, alice, bob, FloatsCurrent, noSignature)
	if err != nil || strings.Count(string(body), `"`+short+`"`) != 2 {
		t.Errorf("from a row: %s, %v", body, err)
	}
}

// payloadText cuts the payload out of a signed text.
func payloadText(t *testing.T, text []byte) string {
	t.Helper()
	payload, _, found := strings.Cut(strings.TrimPrefix(string(text), `{"payload":`), `,"source_node":`)
	if !found {
		t.Fatalf("no payload in %s", text)
	}
	return payload
}
