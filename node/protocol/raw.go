package protocol

import (
	"encoding/binary"
	"slices"

	"github.com/koi-net/koi-operator/node/rid"
)

// The Raw types are what a store keeps of a manifest and a bundle: the texts that
// go on the wire, not decoded, so that to serve them is to copy them. A RID and a
// hash are not escaped yet, contents are in normal form. The bytes are the store's:
// read alone, and valid for as long as it says.

// RawRID is a RID in its two parts.
type RawRID struct {
	Type      rid.Type
	Reference []byte
}

// RawManifest is a Manifest.
type RawManifest struct {
	RawRID
	// Timestamp is the text that Timestamp.String gives.
	Timestamp []byte
	// Digest is the hash in 32 bytes, where its text is lower-case hexadecimal
	// as usual; else it is nil, and Hash the text.
	Digest []byte
	Hash   []byte
}

// RawBundle is a Bundle.
type RawBundle struct {
	Manifest RawManifest
	Contents []byte
}

// RID returns the RID as a value of its own, "" for the zero RawRID.
func (r RawRID) RID() rid.RID {
	if r.Type == "" {
		return ""
	}
	return rid.RID(string(r.Type) + ":" + string(r.Reference))
}

// String returns the RID as text.
func (r RawRID) String() string { return string(r.RID()) }

// AppendRawRID appends a RID as a JSON string.
func AppendRawRID(dst []byte, r RawRID) []byte {
	dst = append(dst, '"')
	start := len(dst)
	dst = append(append(append(dst, r.Type...), ':'), r.Reference...)
	if !standsForItself(dst[start:]) {
		dst = appendEscaped(dst[:start], string(dst[start:]))
	}
	return append(dst, '"')
}

// AppendRawManifest is AppendManifest.
func AppendRawManifest(dst []byte, m *RawManifest) []byte {
	return appendRawRest(AppendRawRID(append(dst, `{"rid":`...), m.RawRID), m)
}

// AppendRawBundle is AppendBundle.
func AppendRawBundle(dst []byte, b *RawBundle) []byte {
	dst = AppendRawManifest(append(dst, `{"manifest":`...), &b.Manifest)
	return appendRawContents(dst, b.Contents)
}

// AppendSignedRawRID is AppendSignedRID.
func AppendSignedRawRID(dst []byte, r RawRID) []byte {
	if rewritten(r.Type) {
		return appendSignedRID(dst, r.RID())
	}
	return AppendRawRID(dst, r)
}

// AppendSignedRawManifest is AppendSignedManifest.
func AppendSignedRawManifest(dst []byte, m *RawManifest) []byte {
	return appendRawRest(AppendSignedRawRID(append(dst, `{"rid":`...), m.RawRID), m)
}

// AppendSignedRawBundle is AppendSignedBundle.
func AppendSignedRawBundle(dst []byte, b *RawBundle) []byte {
	dst = AppendSignedRawManifest(append(dst, `{"manifest":`...), &b.Manifest)
	return appendRawContents(dst, b.Contents)
}

// appendRawRest appends what follows the RID of a manifest.
func appendRawRest(dst []byte, m *RawManifest) []byte {
	dst = appendEscaped(append(dst, `,"timestamp":"`...), m.Timestamp)
	dst = append(dst, `","sha256_hash":"`...)
	if m.Digest != nil {
		dst = appendHexBytes(dst, m.Digest)
	} else {
		dst = appendEscaped(dst, m.Hash)
	}
	return append(dst, '"', '}')
}

func appendRawContents(dst, contents []byte) []byte {
	dst = append(append(dst, `,"contents":`...), contents...)
	return append(dst, '}')
}

// appendHexBytes appends data in lower-case hexadecimal, four bytes at a time: each
// half of a byte gets a byte of its own, and there becomes its digit.
func appendHexBytes(dst, data []byte) []byte {
	dst = slices.Grow(dst, 2*len(data))
	for ; len(data) >= 4; data = data[4:] {
		w := uint64(data[0]) | uint64(data[1])<<16 | uint64(data[2])<<32 | uint64(data[3])<<48
		w = w>>4&0x000f000f000f000f | w<<8&0x0f000f000f000f00
		// Above nine, six more carry into the next bit: there the letters begin.
		letters := (w + everyByte*6) >> 4 & everyByte
		w += everyByte*'0' + letters*('a'-'0'-10)
		dst = binary.LittleEndian.AppendUint64(dst, w)
	}
	for _, c := range data {
		dst = append(dst, hexDigits[c>>4], hexDigits[c&0xf])
	}
	return dst
}
