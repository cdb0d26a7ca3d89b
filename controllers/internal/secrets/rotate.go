package secrets

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"maps"
	"time"
)

// Rotation is what decides about an admin Secret's token and certificate.
type Rotation struct {
	Now time.Time
	// Asked: a person asks for others.
	Asked bool
	// InUse: the node was seen to go by the Secret's token and certificate.
	InUse bool
}

// Next returns the data an admin Secret is to have, and why it is changed; nil
// where it stays as it is. New ones stand beside the previous ones, for a node
// takes up a changed Secret in its own time, until they were seen in use. The
// error is one of the randomness.
func (r Rotation) Next(data map[string][]byte) (next map[string][]byte, why string, err error) {
	cert, err := adminCert(data)
	switch {
	case err != nil:
		why = err.Error()
	case r.Asked:
		why = "it was asked for"
	case r.Now.Add(adminRenew).After(cert.NotAfter):
		why = "the certificate comes to its end"
	case rotating(data) && r.InUse:
		return settled(data), "the node has taken up the new ones", nil
	case !rotating(data) && r.Now.Sub(cert.NotBefore.Add(backdated)) > period(cert):
		why = "it is time"
	default:
		return nil, "", nil
	}
	next, err = Succeed(data, r.Now)
	return next, why, err
}

// Succeed makes a token and certificate that take the place of those in data,
// which stand beside them where they can be used. Where a rotation was under
// way, the previous ones stay: no others are known to have been in use.
func Succeed(data map[string][]byte, now time.Time) (map[string][]byte, error) {
	next, err := NewAdmin(now)
	if err != nil {
		return nil, err
	}
	for _, keys := range [][2]string{{KeyPreviousToken, KeyPreviousCert}, {KeyToken, KeyCert}} {
		if token, cert := data[keys[0]], data[keys[1]]; usable(token, cert) {
			next[KeyPreviousToken], next[KeyPreviousCert] = token, cert
			break
		}
	}
	return next, nil
}

// Previous returns the token and certificate (PEM) that the node may still go
// by, "" where no rotation is under way.
func Previous(data map[string][]byte) (token, cert string) {
	if !rotating(data) {
		return "", ""
	}
	return string(data[KeyPreviousToken]), string(data[KeyPreviousCert])
}

func rotating(data map[string][]byte) bool {
	return usable(data[KeyPreviousToken], data[KeyPreviousCert])
}

func usable(token, cert []byte) bool {
	_, err := parseCert(cert)
	return len(token) > 0 && err == nil
}

func settled(data map[string][]byte) map[string][]byte {
	out := maps.Clone(data)
	delete(out, KeyPreviousToken)
	delete(out, KeyPreviousCert)
	return out
}

// parseCert reads the first certificate of a PEM text.
func parseCert(text []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("not a PEM certificate")
	}
	return x509.ParseCertificate(block.Bytes)
}

// period is adminPeriod, moved by up to a tenth as the serial number falls.
func period(cert *x509.Certificate) time.Duration {
	const steps = 256
	step := cert.SerialNumber.Bit(0)
	for i := 1; i < 8; i++ {
		step |= cert.SerialNumber.Bit(i) << i
	}
	return adminPeriod*9/10 + adminPeriod/5*time.Duration(step)/steps
}
