package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/koi-net/koi-operator/node/rid"
)

// Errors callers decide on. The errors that wrap them name the file and the remedy.
var (
	// ErrNotFound: the directory holds no file of an identity.
	ErrNotFound = errors.New("no identity")
	// ErrDamaged: a file is missing, unreadable as what it should be, or cannot
	// be decrypted. Nothing was changed.
	ErrDamaged = errors.New("identity damaged")
	// ErrMismatch: the files contradict each other or what was asked for.
	ErrMismatch = errors.New("identity mismatch")
)

// Identity is who a node is. It never changes while the node lives.
type Identity struct {
	// RID is the node's RID: <name>+<hash of the public key>, or <name>+<UUID>
	// for an unsigned node.
	RID rid.RID
	// Key is the P-256 key pair; nil for an unsigned node.
	Key *ecdsa.PrivateKey
}

// Generate makes a new identity: with a key pair, or for the unsigned
// generation with a random UUID.
func Generate(name string, unsigned bool) (Identity, error) {
	if unsigned {
		id, err := uuid.NewRandom()
		if err != nil {
			return Identity{}, fmt.Errorf("making a node id: %w", err)
		}
		r, err := newRID(name, id.String())
		return Identity{RID: r}, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Identity{}, fmt.Errorf("making a key pair: %w", err)
	}
	text, err := publicKeyText(key)
	if err != nil {
		return Identity{}, err
	}
	r, err := newRID(name, rid.KeyID(text))
	if err != nil {
		return Identity{}, err
	}
	return Identity{RID: r, Key: key}, nil
}

func newRID(name, id string) (rid.RID, error) {
	r, err := rid.NewNode(name, id)
	if err != nil {
		return "", fmt.Errorf("node name %q cannot be used: %w", name, err)
	}
	return r, nil
}

// Name returns the <name> of the node's RID.
func (id Identity) Name() string {
	name, _, _ := rid.SplitNode(id.RID) // a RID of an Identity is a node's
	return name
}

// Unsigned reports whether the identity has no key pair.
func (id Identity) Unsigned() bool { return id.Key == nil }

// PublicKeyText returns the public key as node profiles carry it, the base64 of
// its DER SubjectPublicKeyInfo; "" for an unsigned node.
func (id Identity) PublicKeyText() string {
	if id.Key == nil {
		return ""
	}
	text, _ := publicKeyText(id.Key) // a P-256 key always encodes
	return text
}

func publicKeyText(key *ecdsa.PrivateKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return "", fmt.Errorf("encoding the public key: %w", err)
	}
	return base64.StdEncoding.EncodeToString(der), nil
}

// check holds the parts of an identity against each other.
func (id Identity) check() error {
	_, nodeID, err := rid.SplitNode(id.RID)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if id.Key == nil {
		if isKeyID(nodeID) {
			return fmt.Errorf("%w: the RID %s was made from a key pair, but there is no %s; restore that file", ErrDamaged, id.RID, KeyFile)
		}
		return nil
	}
	if id.Key.Curve != elliptic.P256() {
		return fmt.Errorf("%w: the key is on curve %s, KOI-net uses P-256", ErrDamaged, id.Key.Curve.Params().Name)
	}
	if own := rid.KeyID(id.PublicKeyText()); own != nodeID {
		return fmt.Errorf("%w: the RID is %s, but the key belongs to a RID that ends in +%s; restore the %s or %s that belongs to the other", ErrMismatch, id.RID, own, RIDFile, KeyFile)
	}
	return nil
}

// isKeyID reports whether a node id is a key's hash rather than a UUID.
func isKeyID(id string) bool {
	b, err := hex.DecodeString(id)
	return err == nil && len(b) == 32
}
