package protocol

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/koi-net/koi-operator/node/rid"
)

// rawOf is what a store gives of a bundle.
func rawOf(b Bundle) RawBundle {
	m := b.Manifest
	raw := RawBundle{Contents: b.Contents, Manifest: RawManifest{
		RawRID:    RawRID{Type: m.RID.Type(), Reference: []byte(m.RID.Reference())},
		Timestamp: []byte(m.Timestamp.String()),
	}}
	if digest, err := hex.DecodeString(m.SHA256Hash); err == nil && len(digest) == 32 && hex.EncodeToString(digest) == m.SHA256Hash {
		raw.Manifest.Digest = digest
	} else {
		raw.Manifest.Hash = []byte(m.SHA256Hash)
	}
	return raw
}

func checkRaw(t *testing.T, b Bundle) {
	t.Helper()
	raw, m := rawOf(b), b.Manifest
	if got := raw.Manifest.RID(); got != m.RID {
		t.Errorf("RID of %q: %q", m.RID, got)
	}
	before := []byte("before")
	for name, c := range map[string]struct{ got, want []byte }{
		"RID":             {AppendRawRID(before, raw.Manifest.RawRID), AppendString(before, string(m.RID))},
		"manifest":        {AppendRawManifest(before, &raw.Manifest), AppendManifest(before, m)},
		"bundle":          {AppendRawBundle(before, &raw), AppendBundle(before, b)},
		"signed RID":      {AppendSignedRawRID(before, raw.Manifest.RawRID), AppendSignedRID(before, m.RID)},
		"signed manifest": {AppendSignedRawManifest(before, &raw.Manifest), AppendSignedManifest(before, m)},
		"signed bundle":   {AppendSignedRawBundle(before, &raw), AppendSignedBundle(before, b)},
	} {
		if !bytes.Equal(c.got, c.want) {
			t.Errorf("%s of %q: %q, want %q", name, m.RID, c.got, c.want)
		}
	}
}

// What is served raw is, byte for byte, what is written from values.
func TestRawForms(t *testing.T) {
	digest := strings.Repeat("0123456789abcdef", 4)
	var times []Timestamp
	for _, s := range []string{"2026-01-01T00:00:00Z", "2026-01-01T02:00:00.000001+02:00", "0001-01-01T00:00:00-23:59", "2026-01-01T00:00:00"} {
		at, err := ParseTimestamp(s)
		if err != nil {
			t.Fatal(err)
		}
		times = append(times, at)
	}
	for i, r := range []rid.RID{
		"orn:example.note:1", "urn:isbn:0:1:2", "orn:n\x00s:r\x1fef", `orn:a"b\:c"d\`, "orn:\u00fc:\u00e9\u2028\U0001f600", "a:\n\t\x7f<>&",
		"https://example.org/a?b#c", "https://example.com/?#", "http: \thttp://x/", "http://[broken", "orn:vector:http://example.com/?", "orn:vector:orn:a:b",
		"orn:normalized.text:https://example.com/#", "orn:hackmd.note:/x", "orn:hackmd.notes:/x", "httpsx://a/?", "orn:koi-net.node:name+" + rid.RID(digest),
	} {
		for _, sum := range []string{digest, strings.ToUpper(digest), "", `odd "hash" ` + "\n", digest[:62]} {
			checkRaw(t, Bundle{Manifest: Manifest{RID: r, Timestamp: times[i%len(times)], SHA256Hash: sum}, Contents: []byte(`{"a":"b"}`)})
		}
	}
}

func FuzzRawForms(f *testing.F) {
	f.Add("orn:example.note:1", "2026-01-01T00:00:00Z", strings.Repeat("0f", 32))
	f.Add("https://example.com/?#", "2026-01-01T02:00:00.5+02:00", "odd")
	f.Add("orn:vector:http://\u00fc/?", "1", "\x00\xff")
	f.Fuzz(func(t *testing.T, r, at, sum string) {
		parsed, err := rid.Parse(r)
		if err != nil {
			return
		}
		when, err := ParseTimestamp(at)
		if err != nil {
			return
		}
		checkRaw(t, Bundle{Manifest: Manifest{RID: parsed, Timestamp: when, SHA256Hash: sum}, Contents: []byte(`{}`)})
	})
}

func TestHexBytes(t *testing.T) {
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	for from := range all {
		for _, length := range []int{0, 1, 3, 4, 5, 32} {
			data := all[from:min(from+length, len(all))]
			if got, want := string(appendHexBytes([]byte("x"), data)), "x"+hex.EncodeToString(data); got != want {
				t.Fatalf("%s, want %s", got, want)
			}
		}
	}
}

func BenchmarkAppendRawManifest(b *testing.B) {
	raw := rawOf(Bundle{Manifest: Manifest{RID: "orn:example.note:9e3779b9-7f4a-7c15-8bf5-8a3c15f4a7c1", SHA256Hash: strings.Repeat("0123456789abcdef", 4)}})
	var dst []byte
	b.ReportAllocs()
	for b.Loop() {
		dst = AppendRawManifest(dst[:0], &raw.Manifest)
	}
}
