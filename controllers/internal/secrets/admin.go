package secrets

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"time"
)

// Keys of the admin Secret.
const (
	KeyToken = "token"
	KeyCert  = "tls.crt"
	KeyKey   = "tls.key"
	// KeyPreviousToken and KeyPreviousCert are there while a rotation is under way:
	// what the node may still go by.
	KeyPreviousToken = "previous-token"
	KeyPreviousCert  = "previous-tls.crt"
)

// ServerName is the name every node's admin certificate carries. The operator
// pins the certificate itself, so the name tells nodes apart no further.
const ServerName = "koi-node-admin"

const (
	// adminLife is long beside adminPeriod: an operator may be away for most of a
	// year and still reach the nodes when it is back.
	adminLife = 365 * 24 * time.Hour
	// adminPeriod is how long a token and certificate are used, give or take a
	// tenth, so that nodes made together do not rotate together.
	adminPeriod = 30 * 24 * time.Hour
	// adminRenew is how long before its end a certificate is replaced in any case.
	adminRenew = 30 * 24 * time.Hour
	// backdated is how long before its making a certificate begins, for clocks
	// that are behind.
	backdated = time.Hour
)

// ErrAdmin is wrapped by errors of CheckAdmin.
var ErrAdmin = errors.New("admin Secret")

// NewAdmin makes the data of an admin Secret: a random token and a self-signed
// certificate for ServerName and the loopback address.
func NewAdmin(now time.Time) (map[string][]byte, error) {
	token := make([]byte, 32)
	if _, err := rand.Read(token); err != nil {
		return nil, fmt.Errorf("make a token: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("make a serial number: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: ServerName},
		DNSNames:              []string{ServerName, "localhost"},
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
		NotBefore:             now.Add(-backdated),
		NotAfter:              now.Add(adminLife),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make a certificate: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode a key: %w", err)
	}
	return map[string][]byte{
		KeyToken: []byte(base64.RawURLEncoding.EncodeToString(token)),
		KeyCert:  pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}),
		KeyKey:   pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
	}, nil
}

// CheckAdmin tells whether an admin Secret can be used, its certificate's end
// aside. The error wraps ErrAdmin.
func CheckAdmin(data map[string][]byte) error {
	_, err := adminCert(data)
	return err
}

// adminCert is the certificate of an admin Secret that is complete.
func adminCert(data map[string][]byte) (*x509.Certificate, error) {
	for _, k := range []string{KeyToken, KeyCert, KeyKey} {
		if len(data[k]) == 0 {
			return nil, fmt.Errorf("%w: key %q is missing", ErrAdmin, k)
		}
	}
	cert, err := parseCert(data[KeyCert])
	if err != nil {
		return nil, fmt.Errorf("%w: key %q: %w", ErrAdmin, KeyCert, err)
	}
	if err := cert.VerifyHostname(ServerName); err != nil {
		return nil, fmt.Errorf("%w: key %q: %w", ErrAdmin, KeyCert, err)
	}
	if _, err := tls.X509KeyPair(data[KeyCert], data[KeyKey]); err != nil {
		// Not the parser's words: they could carry bytes of the key.
		return nil, fmt.Errorf("%w: key %q is not the key of the certificate", ErrAdmin, KeyKey)
	}
	return cert, nil
}
