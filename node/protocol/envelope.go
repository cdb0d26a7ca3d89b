package protocol

import (
	"fmt"
	"slices"

	"github.com/koi-net/koi-operator/node/rid"
)

// maxSignature bounds the text of a signature, whose right length is 88.
const maxSignature = 1024

// Envelope is a message of the signed generation that was received. Nothing in
// it is to be believed before its signature is verified, with the key that
// Source was made from; see Verify.
type Envelope[P Payload] struct {
	Payload   P
	Source    rid.RID // the node that is said to have signed it
	Target    rid.RID // the node it is meant for
	Signature string  // base64 of r and s, 32 bytes each; unchecked
	// Signed is the text that the signature covers, made from what was read and
	// so the same however the body was spelt.
	Signed []byte
}

// Verify has verify, a public key's, check the signature over Signed in either
// style of floats. FloatsOlder tells that the sender signs in that style, and so
// verifies in it; FloatsCurrent tells nothing where no float differs. The error
// is that of verify over Signed.
func (e Envelope[P]) Verify(verify func(text []byte, signature string) error) (FloatStyle, error) {
	err := verify(e.Signed, e.Signature)
	if err == nil {
		return FloatsCurrent, nil
	}
	if older := OlderFloats(e.Signed); older != nil && verify(older, e.Signature) == nil {
		return FloatsOlder, nil
	}
	return FloatsCurrent, err
}

// DecodeEnvelope reads an envelope with a payload of type P: a call's request,
// or its answer. P may be Payload itself, for any of them; else, as in the
// reference, a payload may leave out its type. A poll's RID is the envelope's
// source. RIDs come out in canonical form, contents in normal form.
//
// The error is ErrTooLarge or a *ValidationError.
func DecodeEnvelope[P Payload](body []byte, l Limits) (Envelope[P], error) {
	return DecodeEnvelopeInto[P](nil, body, l)
}

// DecodeEnvelopeInto is DecodeEnvelope for who has memory to spare: Signed is
// appended to scratch, which is to be empty, and so is valid only until scratch is
// used for something else. Nothing else of the envelope is.
func DecodeEnvelopeInto[P Payload](scratch, body []byte, l Limits) (Envelope[P], error) {
	var none P
	kind := PayloadType("")
	if p, ok := any(none).(Payload); ok {
		kind = p.PayloadType()
	}
	e, err := decodeEnvelope(scratch, body, l, kind)
	if err != nil {
		return Envelope[P]{}, err
	}
	payload, ok := e.Payload.(P)
	if !ok {
		return Envelope[P]{}, fmt.Errorf("no payload of type %T can be received", none)
	}
	return Envelope[P]{Payload: payload, Source: e.Source, Target: e.Target, Signature: e.Signature, Signed: e.Signed}, nil
}

func decodeEnvelope(scratch, body []byte, l Limits, kind PayloadType) (Envelope[Payload], error) {
	var e Envelope[Payload]
	var limit string
	err := decode(body, l, func(d *decoder) error {
		d.canonical = true
		const (
			fieldPayload uint = 1 << iota
			fieldSource
			fieldTarget
			fieldSignature
		)
		seen, err := d.fields(func(key []byte) (_ uint, err error) {
			switch string(key) {
			case "payload":
				e.Payload, limit, err = d.payload(kind)
				return fieldPayload, err
			case "source_node":
				return fieldSource, d.nodeRID(&e.Source)
			case "target_node":
				return fieldTarget, d.nodeRID(&e.Target)
			case "signature":
				return fieldSignature, d.signature(&e.Signature)
			}
			return 0, nil
		})
		if err != nil {
			return err
		}
		for i, name := range [...]string{"payload", "source_node", "target_node", "signature"} {
			if seen&(1<<i) == 0 {
				d.missing(name)
			}
		}
		return nil
	})
	if err != nil {
		return Envelope[Payload]{}, err
	}
	fields := e.Payload.appendFields
	if poll, ok := e.Payload.(PollRequest); ok {
		poll.RID = e.Source
		e.Payload = poll
		fields = func(dst []byte, _ form) []byte {
			return append(append(dst, `,"limit":`...), limit...)
		}
	}
	e.Signed = signedText(slices.Grow(scratch, len(body)), e.Payload.PayloadType(), fields, e.Source, e.Target, received)
	return e, nil
}

func (d *decoder) signature(to *string) error {
	text, ok, err := d.string()
	if !ok {
		return err
	}
	if len(text) > maxSignature {
		d.note("string_too_long", fmt.Sprintf("a signature has at most %d characters", maxSignature), nil)
		return nil
	}
	*to = string(text)
	return nil
}

// EncodeEnvelope returns the body of an envelope. sign is given the text to
// sign, SignedText, and returns the signature; its error is returned as it is.
func EncodeEnvelope(p Payload, source, target rid.RID, style FloatStyle, sign func(text []byte) (string, error)) ([]byte, error) {
	return seal(SignedText(p, source, target, style), sign)
}

// EncodeEventsEnvelope is EncodeEnvelope for events that AppendEvent wrote, with
// contents in normal form, which are copied as they are. The error may also be
// that of a row that it did not write.
func EncodeEventsEnvelope(rows [][]byte, source, target rid.RID, style FloatStyle, sign func(text []byte) (string, error)) ([]byte, error) {
	size := 1024 // for what stands around the events, the signature included
	for _, row := range rows {
		size += len(row) + 1
	}
	dst := append(make([]byte, 0, size), `{"payload":{"type":"events_payload","events":[`...)
	for i, row := range rows {
		if i > 0 {
			dst = append(dst, ',')
		}
		var err error
		if dst, err = AppendSignedRow(dst, row); err != nil {
			return nil, fmt.Errorf("event %d of an envelope: %w", i, err)
		}
	}
	dst = AppendString(append(dst, `]},"source_node":`...), string(source))
	dst = AppendString(append(dst, `,"target_node":`...), string(target))
	return seal(restyle(append(dst, '}'), style), sign)
}

// seal puts the signature in, last.
func seal(text []byte, sign func([]byte) (string, error)) ([]byte, error) {
	signature, err := sign(text)
	if err != nil {
		return nil, err
	}
	text = append(text[:len(text)-1], `,"signature":`...)
	return append(AppendString(text, signature), '}'), nil
}

// IsEnvelope reports whether a body is of the signed generation, by the first of
// its fields that either generation knows; the rest is not looked at. A body
// that is neither is none.
func IsEnvelope(body []byte) bool {
	s := scanner{src: body}
	if s.peek() != '{' {
		return false
	}
	for more := s.open('}'); more; {
		sp, err := s.key()
		if err != nil {
			return false
		}
		switch string(s.bytes(sp)) {
		case "payload", "source_node", "target_node", "signature":
			return true
		case "events", "rid", "limit", "rid_types", "rids":
			return false
		}
		if err := s.skip(maxDepth, maxDepth); err != nil {
			return false
		}
		if more, err = s.next('}'); err != nil {
			return false
		}
	}
	return false
}
