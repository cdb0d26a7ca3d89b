package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"strings"
	"testing"

	"github.com/koi-net/koi-operator/node/rid"
)

type signedVector struct {
	name, key, text, signature, verdict string
}

// signedVectors returns identities, and signatures of the reference where it is
// known what they cover.
func signedVectors(t testing.TB) (map[string]Identity, []signedVector) {
	t.Helper()
	data, err := os.ReadFile("testdata/signed_envelopes.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Keys []struct {
			Name string
			PEM  string  `json:"private_key_pkcs8_pem"`
			Text string  `json:"public_key_der_b64"`
			RID  rid.RID `json:"node_rid"`
		}
		Cases []struct {
			Name, Verdict string
			Text          string `json:"envelope_text"`
			Key           string `json:"verify_with_key"`
		}
	}
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	keys := map[string]Identity{}
	for _, k := range file.Keys {
		key, err := parseKey([]byte(k.PEM), nil)
		if err != nil {
			t.Fatal(err)
		}
		id := Identity{RID: k.RID, Key: key}
		if err := id.check(); err != nil || id.PublicKeyText() != k.Text {
			t.Fatalf("%s: %v, %s", k.Name, err, id.PublicKeyText())
		}
		keys[k.Name] = id
	}
	var vectors []signedVector
	for _, c := range file.Cases {
		var e struct{ Signature *string }
		if err := json.Unmarshal([]byte(c.Text), &e); err != nil {
			t.Fatal(err)
		}
		// Only bodies that are spelt as they were signed; the others are the
		// protocol package's.
		text, _, found := strings.Cut(c.Text, `,"signature":`)
		if found && e.Signature != nil && strings.HasPrefix(text, `{"payload":{"type":"`) {
			vectors = append(vectors, signedVector{c.Name, c.Key, text + "}", *e.Signature, c.Verdict})
		}
	}
	if len(keys) < 3 || len(vectors) < 15 {
		t.Fatalf("%d keys, %d vectors", len(keys), len(vectors))
	}
	return keys, vectors
}

func TestVerifyVectors(t *testing.T) {
	keys, vectors := signedVectors(t)
	valid, refused := 0, 0
	for _, v := range vectors {
		if v.name == "limit omitted (defaulted 0, verifies)" {
			continue
		}
		err := Verify(keys[v.key].PublicKeyText(), []byte(v.text), v.signature)
		switch v.verdict {
		case "valid", "invalid_target":
			valid++
			if err != nil {
				t.Errorf("%s: %v", v.name, err)
			}
		default:
			refused++
			if !errors.Is(err, ErrSignature) {
				t.Errorf("%s: %v, the reference said %s", v.name, err, v.verdict)
			}
		}
	}
	if valid < 8 || refused < 5 {
		t.Errorf("%d valid, %d refused", valid, refused)
	}
}

func TestSign(t *testing.T) {
	keys, _ := signedVectors(t)
	alice, bob := keys["alice"], keys["bob"]
	seen := map[string]bool{}
	for range 300 { // enough for an r or s that begins with a zero byte
		message := []byte(`{"payload":{}}`)
		signature, err := alice.Sign(message)
		if err != nil {
			t.Fatal(err)
		}
		if len(signature) != 88 || seen[signature] {
			t.Fatalf("signature %s", signature)
		}
		seen[signature] = true
		key, err := ParsePublicKey(alice.PublicKeyText())
		if err != nil {
			t.Fatal(err)
		}
		if err := key.Verify(message, signature); err != nil {
			t.Fatal(err)
		}
		if err := Verify(bob.PublicKeyText(), message, signature); !errors.Is(err, ErrSignature) {
			t.Fatalf("with another key: %v", err)
		}
		if err := key.Verify([]byte(`{"payload":{} }`), signature); !errors.Is(err, ErrSignature) {
			t.Fatalf("over another message: %v", err)
		}
	}
	if _, err := (Identity{RID: "orn:koi-net.node:a+b"}).Sign(nil); !errors.Is(err, ErrNoKey) {
		t.Errorf("without a key: %v", err)
	}
}

func TestVerifyRefuses(t *testing.T) {
	keys, _ := signedVectors(t)
	text := keys["alice"].PublicKeyText()
	message := []byte("message")
	signature, err := keys["alice"].Sign(message)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := base64.StdEncoding.DecodeString(signature)
	if err != nil {
		t.Fatal(err)
	}
	encode := base64.StdEncoding.EncodeToString
	order := elliptic.P256().Params().N.FillBytes(make([]byte, 32))
	for name, bad := range map[string]string{
		"empty":         "",
		"not base64":    "!" + signature[1:],
		"url alphabet":  base64.URLEncoding.EncodeToString([]byte(strings.Repeat("\xff", 64))),
		"unpadded":      strings.TrimRight(signature, "="),
		"short":         encode(raw[:63]),
		"long":          encode(append(raw[:64:64], 0)),
		"very long":     strings.Repeat("A", 1<<20),
		"zeros":         encode(make([]byte, 64)),
		"r is zero":     encode(append(make([]byte, 32), raw[32:]...)),
		"s is zero":     encode(append(raw[:32:32], make([]byte, 32)...)),
		"r is n":        encode(append(order[:32:32], raw[32:]...)),
		"s is n":        encode(append(raw[:32:32], order...)),
		"r and s swap":  encode(append(raw[32:64:64], raw[:32]...)),
		"all bits":      encode([]byte(strings.Repeat("\xff", 64))),
		"another":       encode(append(raw[:63:63], raw[63]^1)),
		"in a sentence": "signature: " + signature,
	} {
		if err := Verify(text, message, bad); !errors.Is(err, ErrSignature) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := Verify(text, message, signature[:20]+"\r\n"+signature[20:]+"\n"); err != nil {
		t.Errorf("with line breaks: %v", err)
	}
	if err := (PublicKey{}).Verify(message, signature); !errors.Is(err, ErrPublicKey) {
		t.Errorf("without a key: %v", err)
	}
}

func TestParsePublicKeyRefuses(t *testing.T) {
	marshal := func(key any) []byte {
		der, err := x509.MarshalPKIXPublicKey(key)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	other, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	keys, _ := signedVectors(t)
	good, err := base64.StdEncoding.DecodeString(keys["alice"].PublicKeyText())
	if err != nil {
		t.Fatal(err)
	}
	offCurve := append(good[:len(good)-1:len(good)-1], good[len(good)-1]^1)
	encode := base64.StdEncoding.EncodeToString
	for name, bad := range map[string]string{
		"empty":           "",
		"not base64":      "-----",
		"not DER":         encode([]byte("hello")),
		"more behind it":  encode(append(good[:len(good):len(good)], 0)),
		"P-384":           encode(marshal(&other.PublicKey)),
		"RSA":             encode(marshal(&foreign.PublicKey)),
		"off the curve":   encode(offCurve),
		"PEM":             string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: good})),
		"far too long":    strings.Repeat("A", 1<<20),
		"a key cut short": encode(good[:60]),
	} {
		if _, err := ParsePublicKey(bad); !errors.Is(err, ErrPublicKey) {
			t.Errorf("%s: %v", name, err)
		}
		if err := Verify(bad, nil, "x"); !errors.Is(err, ErrPublicKey) {
			t.Errorf("%s: Verify: %v", name, err)
		}
	}
}

func TestReplayKey(t *testing.T) {
	keys, _ := signedVectors(t)
	alice := keys["alice"]
	message := []byte("message")
	sign := func() string {
		signature, err := alice.Sign(message)
		if err != nil {
			t.Fatal(err)
		}
		return signature
	}
	first := sign()
	want, err := ReplayKey(message, first)
	if err != nil {
		t.Fatal(err)
	}
	// The second signature that anyone can make of one verifies too.
	raw, err := base64.StdEncoding.DecodeString(first)
	if err != nil {
		t.Fatal(err)
	}
	s := new(big.Int).SetBytes(raw[32:])
	s.Sub(elliptic.P256().Params().N, s).FillBytes(raw[32:])
	mirrored := base64.StdEncoding.EncodeToString(raw)
	if err := Verify(alice.PublicKeyText(), message, mirrored); err != nil || mirrored == first {
		t.Fatalf("%s: %v", mirrored, err)
	}
	for name, signature := range map[string]string{"itself": first, "mirrored": mirrored, "with a line break": first[:10] + "\n" + first[10:]} {
		if got, err := ReplayKey(message, signature); err != nil || got != want {
			t.Errorf("%s: %x, %v; want %x", name, got, err, want)
		}
	}
	if got, err := ReplayKey(message, sign()); err != nil || got == want {
		t.Errorf("signed anew: %x, %v", got, err)
	}
	if got, err := ReplayKey([]byte("other"), first); err != nil || got == want {
		t.Errorf("another message: %x, %v", got, err)
	}
	if _, err := ReplayKey(message, "x"); !errors.Is(err, ErrSignature) {
		t.Errorf("%v", err)
	}
}

// Where the hash of a message is at hand, the outcome is the same.
func TestDigests(t *testing.T) {
	keys, _ := signedVectors(t)
	alice := keys["alice"]
	key, err := ParsePublicKey(alice.PublicKeyText())
	if err != nil {
		t.Fatal(err)
	}
	message := []byte("message")
	digest, other := sha256.Sum256(message), sha256.Sum256([]byte("other"))
	signature, err := alice.SignDigest(digest)
	if err != nil {
		t.Fatal(err)
	}
	if err := key.Verify(message, signature); err != nil {
		t.Errorf("signed by the digest: %v", err)
	}
	if err := key.VerifyDigest(digest, signature); err != nil {
		t.Errorf("verified by the digest: %v", err)
	}
	for what, err := range map[string]error{
		"another digest": key.VerifyDigest(other, signature), "no base64": key.VerifyDigest(digest, "?"),
	} {
		if !errors.Is(err, ErrSignature) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := (PublicKey{}).VerifyDigest(digest, signature); !errors.Is(err, ErrPublicKey) {
		t.Errorf("without a key: %v", err)
	}
	want, err := ReplayKey(message, signature)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ReplayKeyOfDigest(digest, signature); err != nil || got != want {
		t.Errorf("%x, %v; want %x", got, err, want)
	}
	if got, err := ReplayKeyOfDigest(other, signature); err != nil || got == want {
		t.Errorf("another digest: %x, %v", got, err)
	}
	if _, err := ReplayKeyOfDigest(digest, "x"); !errors.Is(err, ErrSignature) {
		t.Errorf("%v", err)
	}
	if _, err := (Identity{RID: alice.RID}).SignDigest(digest); !errors.Is(err, ErrNoKey) {
		t.Errorf("without a key: %v", err)
	}
}

func FuzzVerify(f *testing.F) {
	keys, vectors := signedVectors(f)
	for _, v := range vectors {
		f.Add(keys[v.key].PublicKeyText(), []byte(v.text), v.signature)
	}
	f.Fuzz(func(t *testing.T, key string, message []byte, signature string) {
		err := Verify(key, message, signature)
		if err != nil {
			if !errors.Is(err, ErrPublicKey) && !errors.Is(err, ErrSignature) {
				t.Fatalf("%v", err)
			}
			return
		}
		if _, err := ReplayKey(message, signature); err != nil {
			t.Fatal(err)
		}
		if Verify(key, append(message[:len(message):len(message)], ' '), signature) == nil {
			t.Fatal("another message verifies as well")
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	keys, vectors := signedVectors(b)
	key, err := ParsePublicKey(keys[vectors[0].key].PublicKeyText())
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := key.Verify([]byte(vectors[0].text), vectors[0].signature); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSign(b *testing.B) {
	keys, vectors := signedVectors(b)
	for b.Loop() {
		if _, err := keys["alice"].Sign([]byte(vectors[0].text)); err != nil {
			b.Fatal(err)
		}
	}
}
