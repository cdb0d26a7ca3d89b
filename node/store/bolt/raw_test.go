package bolt

import (
	"testing"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// What is read of an entry without decoding it is what decoding it gives.
func FuzzRawEntry(f *testing.F) {
	key, rec := sampleRecord()
	for _, sum := range []string{rec.Bundle.Manifest.SHA256Hash, "odd", ""} {
		rec.Bundle.Manifest.SHA256Hash = sum
		sealed := encodeIndexed(key, sampleEntry(rec))
		f.Add(sealed[1 : len(sealed)-4])
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, payload []byte) {
		const r = rid.RID("orn:example.note:1")
		raw, rawErr := rawEntryOf(payload)
		e, err := indexedOf(r, payload)
		if err != nil {
			return // a time that is none is not looked at
		}
		if rawErr != nil || raw.seq != e.seq || raw.size != e.size {
			t.Fatalf("%x: %+v, %v; want %+v", payload, raw, rawErr, e)
		}
		if string(raw.manifest.Timestamp) != e.manifest.Timestamp.String() {
			return // not as it is written here
		}
		raw.manifest.RawRID = protocol.RawRID{Type: r.Type(), Reference: []byte(r.Reference())}
		if got, want := protocol.AppendRawManifest(nil, &raw.manifest), protocol.AppendManifest(nil, e.manifest); string(got) != string(want) {
			t.Fatalf("%x: %s, want %s", payload, got, want)
		}
	})
}
