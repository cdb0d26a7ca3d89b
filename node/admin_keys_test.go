package node_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/koi-net/koi-operator/node"
	"github.com/koi-net/koi-operator/node/admin/client"
	"github.com/koi-net/koi-operator/node/nodetest"
)

// adminKeys makes the content of an admin Secret, by the names of its files.
func adminKeys(t *testing.T, token string) map[string]string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]string{
		"token":   token,
		"tls.crt": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})),
		"tls.key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})),
	}
}

// A running node takes up another token and certificate, as one whose Secret
// was replaced: calls with either go through, and a watch does not end.
func TestAdminKeysAreReplacedWhileItRuns(t *testing.T) {
	dir := t.TempDir()
	mount := func(files map[string]string) {
		for name, text := range files {
			path := filepath.Join(dir, name)
			if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(path+".new", path); err != nil {
				t.Fatal(err)
			}
		}
	}
	before, after := adminKeys(t, "one"), adminKeys(t, "two")
	mount(before)
	n := nodetest.NewFleet(t).Start("n", func(c *node.Config) {
		c.AdminTokenFile = filepath.Join(dir, "token")
		c.AdminTLSCertFile, c.AdminTLSKeyFile = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	})
	dial := func(o client.Options) *client.Client {
		o.URL = "https://" + n.AdminAddr().String()
		c, err := client.New(o)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.CloseIdleConnections)
		return c
	}
	old := dial(client.Options{Token: "one", CACert: []byte(before["tls.crt"])})
	both := dial(client.Options{Token: "two", CACert: []byte(after["tls.crt"]), PreviousToken: "one", PreviousCACert: []byte(before["tls.crt"])})
	fresh := dial(client.Options{Token: "two", CACert: []byte(after["tls.crt"])})

	ctx, cancel := context.WithCancel(t.Context())
	changes, ended := make(chan client.Change, 10), make(chan error, 1)
	go func() {
		ended <- old.Watch(ctx, "", func(c client.Change) error { changes <- c; return nil })
	}()
	<-changes // it stands
	if _, err := both.Status(t.Context()); err != nil || both.Current() {
		t.Errorf("before the change: %v, current %t", err, both.Current())
	}
	if _, err := fresh.Status(t.Context()); err == nil {
		t.Error("the new token is taken before the node has it")
	}
	mount(after)
	nodetest.Eventually(t, "the node goes by its new files", func() (bool, string) {
		if _, err := both.Status(t.Context()); err != nil {
			t.Errorf("a gap: %v", err)
		}
		_, err := fresh.Status(t.Context())
		return err == nil && both.Current(), "it does not"
	})
	n.Put("orn:example.note:1", `{"text":"hello"}`)
	for c := range changes {
		if c.RID == "orn:example.note:1" {
			break
		}
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the watch ended: %v", err)
	}
}
