package hostile

import (
	"bytes"
	"crypto/elliptic"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"time"

	"github.com/koi-net/koi-operator/node/identity"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// The functions of this file make envelopes of the signed generation. A node
// that receives one answers 400 with the error code named, or, to one it had
// before, as it did at first and without effect.

// Seal returns an honest envelope, for contrast. Addressed to another target than
// the node it is sent to, it is answered invalid_target; by a sender that the
// node does not know, unknown_node; sent once more, it is a replay.
func Seal(p protocol.Payload, id identity.Identity, target rid.RID) ([]byte, error) {
	return protocol.EncodeEnvelope(p, id.RID, target, protocol.FloatsCurrent, id.Sign)
}

// SealAs returns an envelope in the name of source with another's signature:
// invalid_signature.
func SealAs(source rid.RID, p protocol.Payload, signer identity.Identity, target rid.RID) ([]byte, error) {
	return protocol.EncodeEnvelope(p, source, target, protocol.FloatsCurrent, signer.Sign)
}

// Introduction returns the events by which a node with a key introduces itself:
// the NEW of its own bundle.
func Introduction(id identity.Identity, profile protocol.NodeProfile, at time.Time) protocol.EventsPayload {
	profile.PublicKey = id.PublicKeyText()
	return protocol.EventsPayload{made(id.RID, at, profile.Contents())}
}

// SwapKey returns an envelope in which a node introduces itself with a key that
// is not the one of its RID, and signs with that: invalid_key.
func SwapKey(of rid.RID, other identity.Identity, profile protocol.NodeProfile, at time.Time, target rid.RID) ([]byte, error) {
	profile.PublicKey = other.PublicKeyText()
	return SealAs(of, protocol.EventsPayload{made(of, at, profile.Contents())}, other, target)
}

// Resign returns the envelope with another signature, which may be of any form:
// invalid_signature.
func Resign(envelope []byte, signature string) ([]byte, error) {
	return edit(envelope, func(fields map[string]json.RawMessage) (err error) {
		fields["signature"], err = json.Marshal(signature)
		return err
	})
}

// Readdress returns the envelope with another target under the old signature:
// invalid_signature.
func Readdress(envelope []byte, target rid.RID) ([]byte, error) {
	return edit(envelope, func(fields map[string]json.RawMessage) (err error) {
		fields["target_node"], err = json.Marshal(target)
		return err
	})
}

// Respell returns the envelope in another spelling, which says the same under the
// same signature: a replay.
func Respell(envelope []byte) ([]byte, error) {
	var out bytes.Buffer
	if err := json.Indent(&out, envelope, "", "\t"); err != nil {
		return nil, fmt.Errorf("respell an envelope: %w", err)
	}
	return out.Bytes(), nil
}

// Malleate returns the envelope with the second signature that anyone can make of
// the first, (r, -s), which is as valid: a replay.
func Malleate(envelope []byte) ([]byte, error) {
	return edit(envelope, func(fields map[string]json.RawMessage) error {
		var text string
		if err := json.Unmarshal(fields["signature"], &text); err != nil {
			return err
		}
		raw, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return err
		}
		if len(raw) != 64 {
			return errors.New("it is not signed")
		}
		s := new(big.Int).SetBytes(raw[32:])
		s.Sub(elliptic.P256().Params().N, s).FillBytes(raw[32:])
		fields["signature"], err = json.Marshal(base64.StdEncoding.EncodeToString(raw))
		return err
	})
}

// edit changes fields of an envelope and leaves the others to the byte.
func edit(envelope []byte, change func(map[string]json.RawMessage) error) ([]byte, error) {
	var fields map[string]json.RawMessage
	err := json.Unmarshal(envelope, &fields)
	if err == nil {
		err = change(fields)
	}
	if err != nil {
		return nil, fmt.Errorf("change an envelope: %w", err)
	}
	var out bytes.Buffer
	for i, name := range []string{"payload", "source_node", "target_node", "signature"} {
		out.WriteByte("{,,,"[i])
		fmt.Fprintf(&out, "%q:%s", name, fields[name])
	}
	out.WriteByte('}')
	return out.Bytes(), nil
}
