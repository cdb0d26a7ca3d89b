package protocol

import "github.com/koi-net/koi-operator/node/rid"

// The functions below write what signed payloads list, item by item, for who
// writes an envelope while it is sent. Together with the members around them they
// make the text that EncodeEnvelope makes; contents must be in normal form.

// AppendSignedRID appends a RID as the signed generation writes it.
func AppendSignedRID(dst []byte, r rid.RID) []byte { return appendSignedRID(dst, r) }

// AppendSignedManifest appends a manifest as the signed generation writes it.
func AppendSignedManifest(dst []byte, m Manifest) []byte { return appendSignedManifest(dst, m, sent) }

// AppendSignedBundle appends a bundle as the signed generation writes it.
func AppendSignedBundle(dst []byte, b Bundle) []byte { return appendSignedBundle(dst, b, sent) }

// AppendSignedRow appends an event that AppendEvent wrote as the signed generation
// writes it. The error says that the row is none of those.
func AppendSignedRow(dst, row []byte) ([]byte, error) {
	e, err := decodeRow(row, true)
	if err != nil {
		return dst, err
	}
	return appendSignedEvent(dst, e, sent), nil
}
