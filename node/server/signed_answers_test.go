package server

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/koi-net/koi-operator/node/identity"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// signedText returns the text that the signature of an answer covers: the answer
// without it, which stands last.
func signedText(t testing.TB, body []byte) []byte {
	t.Helper()
	text, _, found := bytes.Cut(body, []byte(`,"signature":"`))
	if !found {
		t.Fatalf("answer %.300s is not signed", body)
	}
	return append(bytes.Clone(text), '}')
}

// What a peer polls is, byte for byte, the envelope that is made at once, in one
// part or many.
func TestSignedPollText(t *testing.T) {
	special := []protocol.Event{
		newEvent(t, "orn:test.note:1", `{"z":null,"a":[1.0,1e-7,-2.5e20,123456789012345678901234567890],"s":"<é\u2028>\n","e":"1e+16"}`),
		newEvent(t, "https://example.com/?#", `{"f":1e16}`),
		{RID: "http://example.com/ä?", EventType: protocol.Forget},
	}
	for _, style := range []protocol.FloatStyle{protocol.FloatsCurrent, protocol.FloatsOlder} {
		for _, many := range []int{0, 1500} {
			f := newSignedFixture(t)
			f.known.style = style
			events := slices.Clone(special)
			for i := range many {
				events = append(events, newEvent(t, rid.RID(fmt.Sprintf("orn:test.note:2%06d", i)), `{"f":1e16,"pad":"`+strings.Repeat("x", 200)+`"}`))
			}
			for _, e := range events {
				f.polls.events = append(f.polls.events, protocol.AppendEvent(nil, e))
			}
			w := do(f.handler(t), "POST", "/koi-net/events/poll", f.envelope(f.peer, protocol.PollRequest{}))
			want := protocol.SignedText(protocol.EventsPayload(events), f.self.RID, f.peer.RID, style)
			if got := signedText(t, w.Body.Bytes()); !bytes.Equal(got, want) {
				t.Errorf("style %d, %d more: answer\n%.600s\nwant the text\n%.600s", style, many, got, want)
			}
			if got := open[protocol.EventsPayload](f, w); len(got) != len(events) || got[2].RID != "http://example.com/ä" {
				t.Errorf("style %d, %d more: %d events", style, many, len(got))
			}
		}
	}
}

// A queued event that cannot be read is our fault: the peer is not told that its
// poll is wrong, and gets the others, now and not after a week of refusals.
func TestDamagedRowIsLeftOut(t *testing.T) {
	f := newSignedFixture(t)
	row := func(r rid.RID) []byte {
		return protocol.AppendEvent(nil, protocol.Event{RID: r, EventType: protocol.Forget})
	}
	bad := []byte(`{"rid":"orn:test.note:1"`)
	h := f.handler(t)
	for i, rows := range [][][]byte{{bad}, {bad, row("orn:test.note:2")}, {row("orn:test.note:2"), bad}, {bad, row("orn:test.note:2"), bad, bad, row("orn:test.note:3")}} {
		var want []rid.RID
		for _, r := range rows {
			if e, err := protocol.DecodeEvent(r); err == nil {
				want = append(want, e.RID)
			}
		}
		f.polls.events = rows
		var got []rid.RID
		for _, e := range open[protocol.EventsPayload](f, do(h, "POST", "/koi-net/events/poll", f.envelope(f.peer, protocol.PollRequest{}))) {
			got = append(got, e.RID)
		}
		if written, _ := f.polls.outcome(); !slices.Equal(got, want) || written != i+1 {
			t.Errorf("polled %v, want %v, %d leases written", got, want, written)
		}
	}
	if n := counted(t, f.registry)["koi_server_damaged_records_total"]; n != 6 || !strings.Contains(f.log.String(), string(f.peer.RID)) {
		t.Errorf("%v rows counted as damaged; log %s", n, f.log)
	}
}

// TestCapturedAnswers answers what nodes of the reference asked each other, from a
// store and a poll queue that hold what the reference's held: the answers must be
// the captured ones to the byte, but for their signatures, and for the order of
// lists of all there is, which means nothing.
func TestCapturedAnswers(t *testing.T) {
	compared := map[protocol.PayloadType]int{}
	for _, version := range []string{"v1.1.0", "v1.3.2", "v2", "v2-errors"} {
		exchanges := captures(t, version)
		known := capturedKeys(exchanges)
		for _, e := range exchanges {
			if e.Status != 200 || !protocol.IsEnvelope([]byte(e.Answer)) {
				continue
			}
			t.Run(version+"/"+e.Name, func(t *testing.T) {
				answer, err := protocol.DecodeEnvelope[protocol.Payload]([]byte(e.Answer), protocol.DefaultLimits())
				if err != nil {
					t.Fatal(err)
				}
				self := newIdentity(t, "self")
				key, err := identity.ParsePublicKey(self.PublicKeyText())
				if err != nil {
					t.Fatal(err)
				}
				self.RID = answer.Source // the reference's key is not to be had
				f := newFixture(t)
				f.Identity, f.Peers = self, &acquaintances{keys: known}
				f.hold(t, answer.Payload)

				status, body := e.send(t, f)
				if status != 200 {
					t.Fatalf("status %d: %s", status, body)
				}
				got, err := protocol.DecodeEnvelope[protocol.Payload](body, protocol.DefaultLimits())
				if err != nil {
					t.Fatal(err)
				}
				if _, err := got.Verify(key.Verify); err != nil {
					t.Errorf("its signature: %v", err)
				}
				text, want := signedText(t, body), signedText(t, []byte(e.Answer))
				if ordered(got.Payload) && ordered(answer.Payload) {
					text = protocol.SignedText(got.Payload, got.Source, got.Target, protocol.FloatsCurrent)
					want = protocol.SignedText(answer.Payload, answer.Source, answer.Target, protocol.FloatsCurrent)
				}
				if !bytes.Equal(text, want) {
					t.Errorf("answer\n%s\nthe reference's\n%s", text, want)
				}
				compared[answer.Payload.PayloadType()]++
			})
		}
	}
	for _, kind := range []protocol.PayloadType{protocol.TypeEvents, protocol.TypeRIDs, protocol.TypeManifests, protocol.TypeBundles} {
		if compared[kind] < 2 {
			t.Errorf("%d answers of type %s were compared", compared[kind], kind)
		}
	}
}

// ordered puts a list of all there is in one order, and reports whether p is one.
func ordered(p protocol.Payload) bool {
	switch p := p.(type) {
	case protocol.RIDsPayload:
		slices.Sort(p)
		return true
	case protocol.ManifestsAnswer:
		slices.SortFunc(p.Manifests, func(a, b protocol.Manifest) int { return strings.Compare(string(a.RID), string(b.RID)) })
		return true
	}
	return false
}

// hold puts into the store and the poll queue what an answer tells of.
func (f *fixture) hold(t testing.TB, answer protocol.Payload) {
	t.Helper()
	switch a := answer.(type) {
	case protocol.EventsPayload:
		for _, e := range a {
			f.polls.events = append(f.polls.events, protocol.AppendEvent(nil, e))
		}
	case protocol.RIDsPayload:
		for _, r := range a {
			f.put(t, bundle(t, r, `{}`))
		}
	case protocol.ManifestsAnswer:
		for _, m := range a.Manifests {
			f.put(t, protocol.Bundle{Manifest: m, Contents: json.RawMessage(`{}`)})
		}
	case protocol.BundlesAnswer:
		f.put(t, a.Bundles...)
	default:
		t.Fatalf("an answer of type %T", answer)
	}
}

// capturedKeys returns the keys that nodes introduced themselves with.
func capturedKeys(exchanges []exchange) map[rid.RID]string {
	keys := map[rid.RID]string{}
	for _, e := range exchanges {
		for _, body := range []string{e.Body, e.Answer} {
			envelope, err := protocol.DecodeEnvelope[protocol.EventsPayload]([]byte(body), protocol.DefaultLimits())
			if err != nil {
				continue // it carries something else
			}
			for _, event := range envelope.Payload {
				if event.RID.Type() != rid.NodeType || len(event.Contents) == 0 {
					continue
				}
				if p, err := protocol.ParseNodeProfile(event.Contents); err == nil && p.KeyMatches(event.RID) {
					keys[event.RID] = p.PublicKey
				}
			}
		}
	}
	return keys
}

// FuzzEnvelopes sends bodies of any kind to a server that knows the nodes of the
// captures. What it answers as believed was signed by one of them.
func FuzzEnvelopes(f *testing.F) {
	paths := []string{"/events/broadcast", "/events/poll", "/rids/fetch", "/manifests/fetch", "/bundles/fetch"}
	known := map[rid.RID]string{}
	var coordinator rid.RID
	for _, version := range []string{"v1.1.0", "v1.3.2", "v2-errors", "v2"} {
		exchanges := captures(f, version)
		for r, key := range capturedKeys(exchanges) {
			known[r] = key
			if strings.Contains(string(r), ":coordinator+") {
				coordinator = r
			}
		}
		for _, e := range exchanges {
			if i := slices.Index(paths, strings.TrimPrefix(e.Path, "/koi-net")); i >= 0 {
				f.Add(i, e.Body)
			}
		}
	}
	own := newIdentity(f, "self")
	key, err := identity.ParsePublicKey(own.PublicKeyText())
	if err != nil {
		f.Fatal(err)
	}
	own.RID = coordinator
	inbox, polls := &acceptor{}, &poller{}
	h, err := New(Config{Store: emptyStore{}, Inbox: inbox, Polls: polls, Identity: own, Peers: discard(known), DenyUnsigned: true,
		Self: func() (protocol.Bundle, bool) { return protocol.Bundle{}, false }})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, call int, body string) {
		path := paths[uint(call)%5]
		inbox.events = nil
		r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(body))
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		decodeJSON(t, w.Body.Bytes())
		if w.Code != 200 {
			if w.Code < 400 || w.Code >= 500 || len(inbox.events) > 0 {
				t.Fatalf("status %d, %d events: %s", w.Code, len(inbox.events), w.Body)
			}
			return
		}
		asked, err := protocol.DecodeEnvelope[protocol.Payload]([]byte(body), protocol.DefaultLimits())
		if err != nil {
			// A payload may leave out its type, which the path tells.
			if !strings.Contains(err.Error(), "type") {
				t.Fatalf("answered %s: %v", w.Body, err)
			}
			return
		}
		theirs, err := identity.ParsePublicKey(known[asked.Source])
		if err != nil {
			// Whom it did not know introduced itself with a key of its own.
			if path != "/events/broadcast" {
				t.Fatalf("an unknown node is answered %s", w.Body)
			}
			return
		}
		if _, err := asked.Verify(theirs.Verify); err != nil || asked.Target != own.RID || asked.Source == own.RID {
			t.Fatalf("believed from %s to %s: %v", asked.Source, asked.Target, err)
		}
		if path == "/events/broadcast" {
			return
		}
		answer, err := protocol.DecodeEnvelope[protocol.Payload](w.Body.Bytes(), protocol.DefaultLimits())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := answer.Verify(key.Verify); err != nil || answer.Source != own.RID || answer.Target != asked.Source {
			t.Fatalf("answered from %s to %s: %v", answer.Source, answer.Target, err)
		}
	})
}
