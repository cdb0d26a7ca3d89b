package hostile_test

import (
	"encoding/base64"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/koi-net/koi-operator/node/identity"
	"github.com/koi-net/koi-operator/node/nodetest/hostile"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

func keyed(t *testing.T, name string) identity.Identity {
	t.Helper()
	id, err := identity.Generate(name, false)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// check reads an envelope and says who is named as its sender, whether that
// sender's key signed it, and what it is of one that comes again.
func check(t *testing.T, body []byte, key string) (e protocol.Envelope[protocol.EventsPayload], replay [32]byte, verified error) {
	t.Helper()
	e, err := protocol.DecodeEnvelope[protocol.EventsPayload](body, protocol.DefaultLimits())
	if err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	_, verified = e.Verify(func(text []byte, signature string) error { return identity.Verify(key, text, signature) })
	if verified == nil {
		if replay, err = identity.ReplayKey(e.Signed, e.Signature); err != nil {
			t.Fatal(err)
		}
	}
	return e, replay, verified
}

func TestEnvelopesAreWrongInOneThing(t *testing.T) {
	alice, bob, node := keyed(t, "alice"), keyed(t, "bob"), keyed(t, "node")
	profile := protocol.NodeProfile{NodeType: protocol.Partial}
	introduction := hostile.Introduction(alice, profile, time.Now())
	seal := func(body []byte, err error) []byte {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return body
	}
	honest := seal(hostile.Seal(introduction, alice, node.RID))
	e, replay, err := check(t, honest, alice.PublicKeyText())
	if err != nil || e.Source != alice.RID || e.Target != node.RID {
		t.Fatalf("from %s to %s: %v", e.Source, e.Target, err)
	}
	p, err := protocol.ParseNodeProfile(e.Payload[0].Contents)
	if err != nil || p.PublicKey != alice.PublicKeyText() || e.Payload[0].RID != alice.RID {
		t.Errorf("introduced as %+v: %v", p, err)
	}

	for name, body := range map[string][]byte{
		"signed by another":   seal(hostile.SealAs(alice.RID, introduction, bob, node.RID)),
		"no base64":           seal(hostile.Resign(honest, "?")),
		"too short":           seal(hostile.Resign(honest, base64.StdEncoding.EncodeToString(make([]byte, 63)))),
		"empty":               seal(hostile.Resign(honest, "")),
		"of nothing":          seal(hostile.Resign(honest, base64.StdEncoding.EncodeToString(make([]byte, 64)))),
		"meant for another":   seal(hostile.Readdress(honest, bob.RID)),
		"another's signature": seal(hostile.Resign(honest, signatureOf(t, seal(hostile.Seal(introduction, alice, bob.RID))))),
	} {
		if _, _, err := check(t, body, alice.PublicKeyText()); !errors.Is(err, identity.ErrSignature) {
			t.Errorf("%s: %v, want %v", name, err, identity.ErrSignature)
		}
	}

	for name, body := range map[string][]byte{
		"as it is": slices.Clone(honest), "respelt": seal(hostile.Respell(honest)), "second signature": seal(hostile.Malleate(honest)),
	} {
		if name != "as it is" && string(body) == string(honest) {
			t.Errorf("%s: nothing is changed", name)
		}
		if _, again, err := check(t, body, alice.PublicKeyText()); err != nil || again != replay {
			t.Errorf("%s: %v, and a replay: %t", name, err, again == replay)
		}
	}
	if _, again, _ := check(t, seal(hostile.Seal(introduction, alice, node.RID)), alice.PublicKeyText()); again == replay {
		t.Error("what was sealed anew counts as a replay")
	}

	swapped := seal(hostile.SwapKey(alice.RID, bob, profile, time.Now(), node.RID))
	e, _, err = check(t, swapped, bob.PublicKeyText())
	if err != nil || e.Source != alice.RID {
		t.Fatalf("from %s: %v", e.Source, err)
	}
	p, err = protocol.ParseNodeProfile(e.Payload[0].Contents)
	if _, id, _ := rid.SplitNode(e.Source); err != nil || rid.KeyID(p.PublicKey) == id {
		t.Errorf("its key is the one of its RID: %v", err)
	}
}

func signatureOf(t *testing.T, body []byte) string {
	t.Helper()
	e, err := protocol.DecodeEnvelope[protocol.Payload](body, protocol.DefaultLimits())
	if err != nil {
		t.Fatal(err)
	}
	return e.Signature
}

func TestWhatIsNoEnvelopeIsNotChanged(t *testing.T) {
	for name, change := range map[string]func([]byte) ([]byte, error){
		"resign":   func(b []byte) ([]byte, error) { return hostile.Resign(b, "x") },
		"respell":  hostile.Respell,
		"malleate": hostile.Malleate,
	} {
		for _, body := range []string{"", "[]", `{"signature":7}`, `{"signature":"!"}`, `{"signature":""}`} {
			out, err := change([]byte(body))
			if name == "malleate" && err == nil {
				t.Errorf("%s of %q: %s", name, body, out)
			}
		}
	}
}

// What is to be left alone is of valid form, and wrong in what it says.
func TestEventsAreWrongInOneThing(t *testing.T) {
	now := time.Now()
	if e := hostile.WrongHash(note(1), now); protocol.VerifyHash(e.Contents, e.Manifest.SHA256Hash) == nil || e.Manifest.RID != e.RID {
		t.Errorf("%+v", e)
	}
	if e := hostile.OthersManifest(note(1), note(2), now); protocol.VerifyHash(e.Contents, e.Manifest.SHA256Hash) != nil || e.Manifest.RID == e.RID {
		t.Errorf("%+v", e)
	}
	e := hostile.SelfApproved("orn:koi-net.node:a+1", "orn:koi-net.node:b+2", now, noteType)
	if p, err := protocol.ParseEdgeProfile(e.Contents); err != nil || p.Validate() != nil || p.Status != protocol.Approved {
		t.Errorf("%+v, %v", p, err)
	}
	body := hostile.Events(hostile.Forget(note(1)), e, hostile.Impostor("orn:koi-net.node:a+1", "http://127.0.0.1:1/koi-net", now))
	if events, err := protocol.DecodeBroadcast(body, protocol.DefaultLimits()); err != nil || len(events) != 3 {
		t.Errorf("%d events, %v", len(events), err)
	}
	// The largest body that is allowed is allowed.
	if body := hostile.Oversize(99); len(body) != 100 {
		t.Errorf("%d bytes", len(body))
	} else if _, err := protocol.DecodeBroadcast(body, protocol.Limits{BodyBytes: 100}); err != nil {
		t.Error(err)
	} else if _, err := protocol.DecodeBroadcast(body, protocol.Limits{BodyBytes: 99}); !errors.Is(err, protocol.ErrTooLarge) {
		t.Error(err)
	}
	if events, err := protocol.DecodeBroadcast(hostile.TooMany(10), protocol.Limits{Events: 10}); err != nil || len(events) != 10 {
		t.Errorf("%d events, %v", len(events), err)
	}
}
