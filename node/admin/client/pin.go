package client

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
)

// pinned returns a TLS configuration that trusts the certificates in text and
// nothing else: the server shows one of them, or one signed by one of them
// that may sign. Validity and the use for servers are checked, the name is not.
func pinned(text []byte) (*tls.Config, error) {
	roots := x509.NewCertPool()
	count := 0
	for rest := text; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("pinned certificate: a PEM block of type %q, want CERTIFICATE", block.Type)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("pinned certificate: %w", err)
		}
		roots.AddCert(cert)
		count++
	}
	if count == 0 {
		return nil, errors.New("pinned certificate: there is no PEM certificate in it")
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		// The usual verification insists on the server's name. It is replaced, not
		// dropped: VerifyConnection runs for every connection, resumed ones included.
		InsecureSkipVerify: true, //nolint:gosec // VerifyConnection verifies against the pinned certificate
		VerifyConnection: func(cs tls.ConnectionState) error {
			if len(cs.PeerCertificates) == 0 {
				return errors.New("the server showed no certificate")
			}
			others := x509.NewCertPool()
			for _, cert := range cs.PeerCertificates[1:] {
				others.AddCert(cert)
			}
			_, err := cs.PeerCertificates[0].Verify(x509.VerifyOptions{
				Roots:         roots,
				Intermediates: others,
				KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
			})
			if err != nil {
				return fmt.Errorf("the server's certificate is not the pinned one: %w", err)
			}
			return nil
		},
	}, nil
}
