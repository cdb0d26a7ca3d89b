package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
)

// Errors of Sign, ParsePublicKey and Verify.
var (
	// ErrNoKey: an unsigned node was asked to sign.
	ErrNoKey = errors.New("the identity has no key pair")
	// ErrPublicKey: a public key's text is no P-256 key. Towards a peer this is
	// an invalid_key.
	ErrPublicKey = errors.New("invalid public key")
	// ErrSignature: a signature is malformed, or not that of the message and
	// key. Towards a peer this is an invalid_signature.
	ErrSignature = errors.New("invalid signature")
)

// The lengths of a signature's halves, and of the longest public key text taken;
// the right one has 124 characters.
const (
	halfSignature = 32
	maxPublicKey  = 1024
)

// Sign returns the signature of message as envelopes carry it: the base64 of r
// and s, 32 bytes each, of ECDSA on P-256 with SHA-256. Two signatures of one
// message differ. The error is ErrNoKey, or that of the system's random source.
func (id Identity) Sign(message []byte) (string, error) {
	return id.SignDigest(sha256.Sum256(message))
}

// SignDigest is Sign for a message of which only the SHA-256 is at hand, as where
// it was sent while it was made.
func (id Identity) SignDigest(digest [sha256.Size]byte) (string, error) {
	if id.Key == nil {
		return "", fmt.Errorf("%w: %s is a node of the unsigned generation", ErrNoKey, id.RID)
	}
	r, s, err := ecdsa.Sign(rand.Reader, id.Key, digest[:])
	if err != nil {
		return "", fmt.Errorf("signing as %s: %w", id.RID, err)
	}
	var raw [2 * halfSignature]byte
	r.FillBytes(raw[:halfSignature])
	s.FillBytes(raw[halfSignature:])
	return base64.StdEncoding.EncodeToString(raw[:]), nil
}

// PublicKey is a peer's key, ready to verify with.
type PublicKey struct {
	key *ecdsa.PublicKey
}

// ParsePublicKey reads a public key as node profiles carry it, the base64 of its
// DER SubjectPublicKeyInfo. Whether it belongs to a node's RID is not its
// business. The error wraps ErrPublicKey.
func ParsePublicKey(text string) (PublicKey, error) {
	if len(text) > maxPublicKey {
		return PublicKey{}, fmt.Errorf("%w: it has %d characters, at most %d are taken", ErrPublicKey, len(text), maxPublicKey)
	}
	der, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return PublicKey{}, fmt.Errorf("%w: it is not base64: %w", ErrPublicKey, err)
	}
	parsed, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return PublicKey{}, fmt.Errorf("%w: it is no DER SubjectPublicKeyInfo: %w", ErrPublicKey, err)
	}
	key, ok := parsed.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return PublicKey{}, fmt.Errorf("%w: it is another kind of key than P-256", ErrPublicKey)
	}
	return PublicKey{key: key}, nil
}

// Verify reports, as an ErrSignature, where signature is not one of message by
// the key. Line breaks in the text are passed over, as the reference does.
func (k PublicKey) Verify(message []byte, signature string) error {
	return k.VerifyDigest(sha256.Sum256(message), signature)
}

// VerifyDigest is Verify for a message whose SHA-256 is at hand.
func (k PublicKey) VerifyDigest(digest [sha256.Size]byte, signature string) error {
	raw, err := parseSignature(signature)
	if err != nil {
		return err
	}
	if k.key == nil {
		return fmt.Errorf("%w: there is no key", ErrPublicKey)
	}
	r := new(big.Int).SetBytes(raw[:halfSignature])
	s := new(big.Int).SetBytes(raw[halfSignature:])
	if !ecdsa.Verify(k.key, digest[:], r, s) {
		return fmt.Errorf("%w: it is not that of this message and key", ErrSignature)
	}
	return nil
}

// Verify is ParsePublicKey and PublicKey.Verify in one.
func Verify(publicKeyText string, message []byte, signature string) error {
	key, err := ParsePublicKey(publicKeyText)
	if err != nil {
		return err
	}
	return key.Verify(message, signature)
}

// ReplayKey names a signed message for good: it is the same for the same
// signing however the message was spelt on the wire, also for the second
// signature (r, -s) that anyone can make of one, and another for a message
// signed anew. message must be the signed text in normal form, and signature one
// that was verified; the error wraps ErrSignature.
func ReplayKey(message []byte, signature string) ([sha256.Size]byte, error) {
	return ReplayKeyOfDigest(sha256.Sum256(message), signature)
}

// ReplayKeyOfDigest is ReplayKey for a message whose SHA-256 is at hand.
func ReplayKeyOfDigest(digest [sha256.Size]byte, signature string) ([sha256.Size]byte, error) {
	raw, err := parseSignature(signature)
	if err != nil {
		return [sha256.Size]byte{}, err
	}
	return sha256.Sum256(append(raw[:halfSignature:halfSignature], digest[:]...)), nil
}

func parseSignature(text string) (raw [2 * halfSignature]byte, err error) {
	// Four characters make three bytes; what is far too long is not decoded.
	if len(text) > 4*len(raw) {
		return raw, fmt.Errorf("%w: it has %d characters, 88 were expected", ErrSignature, len(text))
	}
	b, err := base64.StdEncoding.DecodeString(text)
	switch {
	case err != nil:
		return raw, fmt.Errorf("%w: it is not base64: %w", ErrSignature, err)
	case len(b) != len(raw):
		return raw, fmt.Errorf("%w: it has %d bytes, r and s have %d", ErrSignature, len(b), len(raw))
	}
	copy(raw[:], b)
	return raw, nil
}
