package admin

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/koi-net/koi-operator/node/admin/client"
)

// keyDir is a directory of a token and certificate, replaced as a mounted
// Secret is.
type keyDir struct {
	t     *testing.T
	files KeyFiles
}

func newKeyDir(t *testing.T) keyDir {
	dir := t.TempDir()
	d := keyDir{t, KeyFiles{Token: filepath.Join(dir, "token"), Cert: filepath.Join(dir, "tls.crt"), Key: filepath.Join(dir, "tls.key")}}
	return d
}

func (d keyDir) write(path string, text []byte) {
	d.t.Helper()
	if err := os.WriteFile(path, text, 0o600); err != nil {
		d.t.Fatal(err)
	}
}

// renew writes a token and a new certificate, and returns the certificate.
func (d keyDir) renew(token string) []byte {
	d.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		d.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		d.t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		d.t.Fatal(err)
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	d.write(d.files.Token, []byte(token+"\n"))
	d.write(d.files.Cert, cert)
	d.write(d.files.Key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
	return cert
}

// ticking is a clock to be set.
type ticking struct{ now time.Time }

func (c *ticking) Now() time.Time          { return c.now }
func (c *ticking) forward(d time.Duration) { c.now = c.now.Add(d) }

func TestKeysTakeUpWhatTheirFilesHold(t *testing.T) {
	d := newKeyDir(t)
	d.renew("one")
	clock := &ticking{noon}
	k, err := OpenKeys(d.files, clock.Now, nil)
	if err != nil {
		t.Fatal(err)
	}
	allowed := func(when string, want ...string) {
		t.Helper()
		var got []string
		for _, token := range []string{"", "one", "two", "three"} {
			if k.Allows(token) {
				got = append(got, token)
			}
		}
		if strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("%s: it takes %q, want %q", when, got, want)
		}
	}
	first, _ := k.Certificate(nil)
	allowed("at first", "one")
	d.renew("two")
	allowed("within a second of the last look", "one")
	clock.forward(keysAge)
	allowed("after the change", "one", "two")
	if second, _ := k.Certificate(nil); bytes.Equal(second.Certificate[0], first.Certificate[0]) {
		t.Error("the certificate is the old one")
	}
	clock.forward(Grace - 2*time.Second)
	allowed("within the grace", "one", "two")
	d.renew("three")
	clock.forward(time.Second)
	allowed("after another change", "two", "three")
	clock.forward(Grace)
	allowed("after the grace", "three")
	clock.forward(-time.Hour) // somebody sets the clock back
	d.renew("one")
	allowed("after the clock went back", "one", "three")
}

func TestKeysKeepWhatTheyHave(t *testing.T) {
	d := newKeyDir(t)
	cert := d.renew("one")
	clock := &ticking{noon}
	var log bytes.Buffer
	k, err := OpenKeys(d.files, clock.Now, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	good, _ := k.Certificate(nil)
	for name, spoil := range map[string]func(){
		"no token":          func() { d.write(d.files.Token, nil) },
		"token gone":        func() { _ = os.Remove(d.files.Token) },
		"certificate gone":  func() { _ = os.Remove(d.files.Cert) },
		"no certificate":    func() { d.write(d.files.Cert, []byte("secret")) },
		"another key's":     func() { d.renew("one"); d.write(d.files.Cert, cert) },
		"huge token":        func() { d.write(d.files.Token, bytes.Repeat([]byte("x"), 1<<20)) },
		"unprintable token": func() { d.write(d.files.Token, []byte("one\x00")) },
	} {
		t.Run(name, func(t *testing.T) {
			log.Reset()
			spoil()
			for range 3 {
				clock.forward(time.Minute)
				if !k.Allows("one") || k.Allows("") || k.Allows("secret") {
					t.Error("the token is not the one that was good")
				}
			}
			if have, err := k.Certificate(nil); err != nil || !bytes.Equal(have.Certificate[0], good.Certificate[0]) {
				t.Errorf("the certificate is not the one that was good: %v", err)
			}
			if n := strings.Count(log.String(), "level=ERROR"); n != 1 || strings.Contains(log.String(), "secret") {
				t.Errorf("%d complaints: %s", n, log.String())
			}
			d.renew("one")
			clock.forward(time.Minute)
			k.Allows("one")
			good, _ = k.Certificate(nil)
		})
	}
}

func TestOpenKeysRefuses(t *testing.T) {
	d := newKeyDir(t)
	if _, err := OpenKeys(d.files, nil, nil); err == nil || !strings.Contains(err.Error(), d.files.Token) {
		t.Errorf("no files: %v", err)
	}
	d.renew("one")
	d.write(d.files.Key, nil)
	if _, err := OpenKeys(d.files, nil, nil); err == nil || !strings.Contains(err.Error(), d.files.Key) {
		t.Errorf("no key: %v", err)
	}
	if k, err := OpenKeys(KeyFiles{}, nil, nil); err != nil || k == nil {
		t.Errorf("no files at all: %v", err)
	}
}

// A client that has been told of the new token and certificate beforehand is
// served all the way, and knows when it needs the previous ones no more.
func TestRenewalWithoutAGap(t *testing.T) {
	d := newKeyDir(t)
	before := d.renew("one")
	clock := &ticking{noon}
	k, err := OpenKeys(d.files, clock.Now, nil)
	if err != nil {
		t.Fatal(err)
	}
	feed := NewFeed("s1", 16, nil)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := HTTPServer(New(Config{Backend: newFake(), Feed: feed, Keys: k}), slog.New(slog.DiscardHandler))
	srv.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS13, GetCertificate: k.Certificate}
	served := make(chan error, 1)
	go func() { served <- srv.ServeTLS(ln, "", "") }()
	t.Cleanup(func() {
		feed.Close()
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
		<-served
	})
	address := "https://" + ln.Addr().String()
	dial := func(o client.Options) *client.Client {
		o.URL = address
		c, err := client.New(o)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.CloseIdleConnections)
		return c
	}
	next := newKeyDir(t)
	after := next.renew("two")
	old := dial(client.Options{Token: "one", CACert: before})
	c := dial(client.Options{Token: "two", CACert: after, PreviousToken: "one", PreviousCACert: before})
	if c.Current() {
		t.Error("it is current before anybody was asked")
	}
	for range 2 {
		if _, err := c.Introduce(t.Context(), client.Introduction{URL: "http://x"}); err != nil || c.Current() {
			t.Errorf("before the change: %v, current %t", err, c.Current())
		}
	}
	if _, err := old.Status(t.Context()); err != nil || !old.Current() {
		t.Errorf("who knows of no change: %v, current %t", err, old.Current())
	}
	for from, to := range map[string]string{next.files.Token: d.files.Token, next.files.Cert: d.files.Cert, next.files.Key: d.files.Key} {
		text, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		d.write(to, text)
	}
	clock.forward(time.Second)
	if _, err := old.Status(t.Context()); err != nil {
		t.Errorf("who knows of no change, within the grace: %v", err)
	}
	for range 2 {
		if _, err := c.Status(t.Context()); err != nil || !c.Current() {
			t.Errorf("after the change: %v, current %t", err, c.Current())
		}
	}
	clock.forward(2 * Grace)
	if _, err := old.Status(t.Context()); err == nil {
		t.Error("the token before is taken for good")
	}
	if _, err := dial(client.Options{Token: "two", CACert: after}).Status(t.Context()); err != nil {
		t.Errorf("with the new ones alone: %v", err)
	}
	wrong := dial(client.Options{Token: "x", PreviousToken: "y", CACert: after, PreviousCACert: before})
	if _, err := wrong.Status(t.Context()); err == nil || wrong.Current() {
		t.Errorf("neither token is right: %v", err)
	}
	if _, err := client.New(client.Options{URL: address, PreviousCACert: before}); err == nil {
		t.Error("a previous certificate without a present one")
	}
}
