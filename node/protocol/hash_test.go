package protocol

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
)

func readJSON(t testing.TB, path string, to any) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, to); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

type hashCase struct {
	Name string
	Text string `json:"contents_json"`
	JCS  hashOf `json:"jcs_rid_lib_3_2_16"`
	Py4  hashOf `json:"rid_lib_3_2_4"`
	Py0  hashOf `json:"rid_lib_3_2_0"`
}

type hashOf struct{ Canonical, SHA256, Error string }

func hashCases(t testing.TB) []hashCase {
	var file struct {
		Count int
		Cases []hashCase
	}
	readJSON(t, "testdata/manifest_hash.json", &file)
	if len(file.Cases) == 0 || len(file.Cases) != file.Count {
		t.Fatalf("%d cases, want %d", len(file.Cases), file.Count)
	}
	return file.Cases
}

func TestHashVectors(t *testing.T) {
	for _, c := range hashCases(t) {
		t.Run(c.Name, func(t *testing.T) {
			for _, g := range []struct {
				style *style
				want  hashOf
			}{{jcsStyle, c.JCS}, {pythonStyle, c.Py4}, {pythonSpacedStyle, c.Py0}} {
				tp := tape{scanner: scanner{src: []byte(c.Text)}}
				if err := tp.whole(); err != nil {
					t.Fatal(err)
				}
				got, err := tp.write(nil, g.style)
				if g.want.Error != "" {
					if !errors.Is(err, errNotFinite) {
						t.Errorf("wrote %s, %v; the reference says %s", got, err, g.want.Error)
					}
					continue
				}
				if err != nil || string(got) != g.want.Canonical {
					t.Errorf("wrote %s, %v\nwant  %s", got, err, g.want.Canonical)
				}
				if err := VerifyHash([]byte(c.Text), g.want.SHA256); err != nil {
					t.Error(err)
				}
			}
			sum, err := Hash([]byte(c.Text))
			if c.JCS.Error != "" {
				if err == nil {
					t.Errorf("hash %s, want an error: %s", sum, c.JCS.Error)
				}
				return
			}
			if err != nil || sum != c.JCS.SHA256 {
				t.Errorf("hash %s, %v; want %s", sum, err, c.JCS.SHA256)
			}
			normal, err := Normalize([]byte(c.Text), 256)
			if err != nil {
				t.Fatal(err)
			}
			if err := VerifyHash(normal, c.Py4.SHA256); err != nil {
				t.Errorf("the normal form %.200s changed the hash: %v", normal, err)
			}
			if err := VerifyHash(normal, c.Py0.SHA256); err != nil {
				t.Errorf("the normal form %.200s changed the hash: %v", normal, err)
			}
		})
	}
}

func TestVerifyHashRefuses(t *testing.T) {
	sum, err := Hash([]byte(`{"a":1}`))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ contents, sum string }{
		"other contents": {`{"a":2}`, sum},
		"empty":          {`{"a":1}`, ""},
		"short":          {`{"a":1}`, sum[:63]},
		"long":           {`{"a":1}`, sum + "0"},
		"no hexadecimal": {`{"a":1}`, "x" + sum[1:]},
		"zeros":          {`{"a":1}`, strings.Repeat("0", 64)},
	} {
		if err := VerifyHash([]byte(c.contents), c.sum); !errors.Is(err, ErrHashMismatch) {
			t.Errorf("%s: %v, want ErrHashMismatch", name, err)
		}
	}
	var syntax *SyntaxError
	if err := VerifyHash([]byte(`{"a":`), sum); !errors.As(err, &syntax) || errors.Is(err, ErrHashMismatch) {
		t.Errorf("broken JSON: %v, want a SyntaxError", err)
	}
}

func TestKeyOrder(t *testing.T) {
	// The order of RFC 8785, section 3.2.3, and the border between the Basic
	// Multilingual Plane and what lies beyond.
	keys := []string{"", "\r", "1", "A", "a", "aa", "\u0080", "ö", "€", "\ud7ff", "𝄞", "😀", "😁", "\U0010ffff", "\ue000", "\ufb00", "\ufb33", "\uffff"}
	for i, a := range keys {
		for j, b := range keys {
			got := compareUTF16([]byte(a), []byte(b))
			if (i < j && got >= 0) || (i == j && got != 0) || (i > j && got <= 0) {
				t.Errorf("compareUTF16(%q, %q) = %d", a, b, got)
			}
		}
	}
}

// What is canonical is seen to be, at least where it is of an ordinary kind.
func TestIsJCS(t *testing.T) {
	for text, want := range map[string]bool{
		`{}`:      true,
		`{"a":1}`: true,
		`{"a":[],"b":[1,-2,0.5,1e+21,1e-7,123456789012345],"c":{"":{},"é":null}}`: true,
		`{"text":"a\nb \"c\" \\ é😀` + "\u2028\x7f" + `","z":[true,false]}`:        true,
		`"text"`:                       true,
		`{"a":9007199254740992}`:       true,
		`{"a":9007199254740993}`:       false, // it is rounded
		`{"a":-0}`:                     false,
		`{"a":1.0}`:                    false,
		`{"a":1e21}`:                   false,
		`{"a":1e400}`:                  false,
		`{"a":NaN}`:                    false,
		`{"b":1,"a":2}`:                false,
		`{"a":1,"a":2}`:                false,
		`{"a": 1}`:                     false,
		`{"a":1} `:                     false,
		`{"a":1}x`:                     false,
		`{"a":"\/"}`:                   false,
		`{"a":"\u0041"}`:               false,
		`{"` + "\ufb33" + `":1,"😀":2}`: false, // bytes and UTF-16 sort otherwise
		`{"a":1,}`:                     false,
		`[1,2`:                         false,
		`{"a"`:                         false,
		`{"a":`:                        false,
		``:                             false,
		strings.Repeat("[", maxDepth+1) + strings.Repeat("]", maxDepth+1): false,
	} {
		if got := isJCS([]byte(text)); got != want {
			t.Errorf("isJCS(%.80s) = %t", text, got)
		}
	}
	for _, c := range hashCases(t) {
		if c.JCS.Error == "" && isJCS([]byte(c.Text)) != (c.Text == c.JCS.Canonical) {
			t.Logf("%s: %s takes the long way", c.Name, c.Text)
			if isJCS([]byte(c.Text)) {
				t.Errorf("%s: %s is taken for canonical", c.Name, c.Text)
			}
		}
	}
}

func FuzzHash(f *testing.F) {
	for _, c := range hashCases(f) {
		if len(c.Text) < 300 {
			f.Add([]byte(c.Text))
		}
	}
	for _, version := range []string{"v1.1.0", "v1.3.2", "v2", "v2-errors"} {
		for _, c := range signedCaptures(f, version) {
			e, err := DecodeEnvelope[EventsPayload]([]byte(c.request), limits)
			if err != nil {
				continue // it carries something else
			}
			for _, event := range e.Payload {
				f.Add([]byte(event.Contents))
			}
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		sum, err := Hash(data)
		if err != nil {
			return
		}
		if err := VerifyHash(data, sum); err != nil {
			t.Fatalf("%q: %v", data, err)
		}
		normal, err := Normalize(data, maxDepth)
		if err != nil {
			t.Fatalf("%q: hashes, but has no normal form: %v", data, err)
		}
		if again, err := Hash(normal); err != nil || again != sum {
			t.Fatalf("%q: the normal form %q hashes to %s, %v; the text to %s", data, normal, again, err, sum)
		}
		// The canonical form is canonical.
		tp := tape{scanner: scanner{src: data}}
		if err := tp.whole(); err != nil {
			t.Fatal(err)
		}
		canonical, err := tp.write(nil, jcsStyle)
		if err != nil || !json.Valid(canonical) {
			t.Fatalf("%q: canonical form %q, %v", data, canonical, err)
		}
		if digest := sha256.Sum256(canonical); hex.EncodeToString(digest[:]) != sum {
			t.Fatalf("%q: hashes to %s, the canonical form %q to %x", data, sum, canonical, digest)
		}
		if isJCS(data) && !bytes.Equal(data, canonical) {
			t.Fatalf("%q is taken for canonical, which is %q", data, canonical)
		}
		if again, err := Hash(canonical); err != nil || again != sum {
			t.Fatalf("%q: the canonical form %q hashes to %s, %v; the text to %s", data, canonical, again, err, sum)
		}
	})
}

func BenchmarkHash(b *testing.B) {
	contents, err := Normalize(kilobyte(1), 256)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(contents)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Hash(contents); err != nil {
			b.Fatal(err)
		}
	}
}

// Contents whose normal form is their canonical one, as of one string alone, and
// such as have to be written anew.
func BenchmarkVerifyHash(b *testing.B) {
	for name, text := range map[string][]byte{"canonical": []byte(`{"text":"` + strings.Repeat("x", 1000) + `"}`), "other": kilobyte(1)} {
		contents, err := Normalize(text, 256)
		if err != nil {
			b.Fatal(err)
		}
		sum, err := Hash(contents)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(contents)))
			b.ReportAllocs()
			for b.Loop() {
				if err := VerifyHash(contents, sum); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
