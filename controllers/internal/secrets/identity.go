package secrets

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"github.com/google/uuid"

	"github.com/koi-net/koi-operator/node/rid"
)

// Keys of the identity Secret, which are the names of the files in a node's
// identity directory.
const (
	KeyRID      = "rid"
	KeyPrivate  = "priv_key.pem"
	KeyPassword = "password"
)

// ErrIdentity is wrapped by every error about what an identity Secret holds.
var ErrIdentity = errors.New("identity")

// Identity is who a node is.
type Identity struct {
	RID rid.RID
	// PublicKey is the base64 of the DER SubjectPublicKeyInfo; "" for an unsigned
	// node, and where the key is encrypted (the node reports it then).
	PublicKey string
}

// NewIdentity makes an identity and the data of the Secret that keeps it: a
// P-256 key pair and the RID derived from it, or, unsigned, a RID with a UUID.
func NewIdentity(name string, unsigned bool) (Identity, map[string][]byte, error) {
	if unsigned {
		r, err := rid.NewNode(name, uuid.NewString())
		if err != nil {
			return Identity{}, nil, fmt.Errorf("make an identity: %w", err)
		}
		return Identity{RID: r}, map[string][]byte{KeyRID: []byte(r)}, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Identity{}, nil, fmt.Errorf("make a key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return Identity{}, nil, fmt.Errorf("encode a key: %w", err)
	}
	public, err := publicKeyText(key)
	if err != nil {
		return Identity{}, nil, err
	}
	r, err := rid.NewNode(name, rid.KeyID(public))
	if err != nil {
		return Identity{}, nil, fmt.Errorf("make an identity: %w", err)
	}
	return Identity{RID: r, PublicKey: public}, map[string][]byte{
		KeyRID:     []byte(r),
		KeyPrivate: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
	}, nil
}

// ReadIdentity reads the data of an identity Secret and checks that it is one:
// the RID is a node's, and the key, where it can be read, is the RID's.
// The error wraps ErrIdentity and says which key of the Secret is wrong.
func ReadIdentity(data map[string][]byte, unsigned bool) (Identity, error) {
	text := strings.TrimSpace(string(data[KeyRID]))
	if text == "" {
		return Identity{}, fmt.Errorf("%w: the key %q is missing or empty", ErrIdentity, KeyRID)
	}
	r, err := rid.Parse(text)
	if err != nil {
		return Identity{}, fmt.Errorf("%w: key %q: %w", ErrIdentity, KeyRID, err)
	}
	_, id, err := rid.SplitNode(r)
	if err != nil {
		return Identity{}, fmt.Errorf("%w: key %q: %w", ErrIdentity, KeyRID, err)
	}
	if unsigned {
		return Identity{RID: r}, nil
	}
	if len(data[KeyPrivate]) == 0 {
		return Identity{}, fmt.Errorf("%w: the key %q is missing, and the node is Signed", ErrIdentity, KeyPrivate)
	}
	block, _ := pem.Decode(data[KeyPrivate])
	if block == nil {
		return Identity{}, fmt.Errorf("%w: key %q is not PEM", ErrIdentity, KeyPrivate)
	}
	if block.Type == "ENCRYPTED PRIVATE KEY" {
		if len(data[KeyPassword]) == 0 {
			return Identity{}, fmt.Errorf("%w: key %q is encrypted and %q is missing", ErrIdentity, KeyPrivate, KeyPassword)
		}
		return Identity{RID: r}, nil
	}
	public, err := publicKeyOf(block.Bytes)
	if err != nil {
		return Identity{}, fmt.Errorf("%w: key %q: %w", ErrIdentity, KeyPrivate, err)
	}
	if rid.KeyID(public) != id {
		return Identity{}, fmt.Errorf("%w: %q is not the key of %s", ErrIdentity, KeyPrivate, r)
	}
	return Identity{RID: r, PublicKey: public}, nil
}

func publicKeyOf(der []byte) (string, error) {
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		// Not the parser's words: they could carry bytes of the key.
		return "", errors.New("not a PKCS#8 private key")
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		return "", errors.New("not a P-256 key")
	}
	return publicKeyText(key)
}

func publicKeyText(key *ecdsa.PrivateKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return "", fmt.Errorf("encode a public key: %w", err)
	}
	return base64.StdEncoding.EncodeToString(der), nil
}
