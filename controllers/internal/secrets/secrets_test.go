package secrets

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/koi-net/koi-operator/node/rid"
)

func TestIdentityRoundTrip(t *testing.T) {
	for _, unsigned := range []bool{false, true} {
		id, data, err := NewIdentity("sensor", unsigned)
		if err != nil {
			t.Fatal(err)
		}
		back, err := ReadIdentity(data, unsigned)
		if err != nil || back != id {
			t.Errorf("unsigned %t: made %+v, read %+v, %v", unsigned, id, back, err)
		}
		name, suffix, err := rid.SplitNode(id.RID)
		if err != nil || name != "sensor" {
			t.Errorf("RID %s: %v", id.RID, err)
		}
		if unsigned != (id.PublicKey == "") || !unsigned && rid.KeyID(id.PublicKey) != suffix {
			t.Errorf("unsigned %t: %+v", unsigned, id)
		}
		other, _, err := NewIdentity("sensor", unsigned)
		if err != nil || other.RID == id.RID {
			t.Errorf("the same identity twice: %v", err)
		}
	}
}

func TestReadIdentityRefuses(t *testing.T) {
	_, good, err := NewIdentity("a", false)
	if err != nil {
		t.Fatal(err)
	}
	_, foreign, err := NewIdentity("a", false)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(p384)
	if err != nil {
		t.Fatal(err)
	}
	with := func(key string, value []byte) map[string][]byte {
		out := map[string][]byte{KeyRID: good[KeyRID], KeyPrivate: good[KeyPrivate]}
		out[key] = value
		return out
	}
	for _, tt := range []struct {
		name string
		data map[string][]byte
		want string
	}{
		{"nothing", nil, `"rid" is missing`},
		{"empty RID", with(KeyRID, []byte(" \n")), `"rid" is missing`},
		{"no RID", with(KeyRID, []byte("hello")), `key "rid"`},
		{"no node's RID", with(KeyRID, []byte("orn:a.b:c")), `key "rid"`},
		{"no key", with(KeyPrivate, nil), `"priv_key.pem" is missing`},
		{"no PEM", with(KeyPrivate, []byte("key")), "not PEM"},
		{"no key in the PEM", with(KeyPrivate, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")})), "not a PKCS#8"},
		{"another curve", with(KeyPrivate, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), "not a P-256"},
		{"another's key", with(KeyPrivate, foreign[KeyPrivate]), "is not the key of"},
		{"no password", with(KeyPrivate, pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte("x")})), `"password" is missing`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ReadIdentity(tt.data, false)
			if !errors.Is(err, ErrIdentity) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
	encrypted := with(KeyPrivate, pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte("x")}))
	encrypted[KeyPassword] = []byte("secret")
	if id, err := ReadIdentity(encrypted, false); err != nil || id.PublicKey != "" || string(id.RID) != string(good[KeyRID]) {
		t.Errorf("encrypted: %+v, %v", id, err)
	}
	if _, err := ReadIdentity(with(KeyRID, append(bytes.Clone(good[KeyRID]), '\n')), false); err != nil {
		t.Errorf("a line end after the RID: %v", err)
	}
}

func TestAdmin(t *testing.T) {
	now := time.Now()
	data, err := NewAdmin(now)
	if err != nil {
		t.Fatal(err)
	}
	if err := CheckAdmin(data); err != nil {
		t.Error(err)
	}
	if len(data[KeyToken]) < 43 {
		t.Errorf("a token of %d characters", len(data[KeyToken]))
	}
	if _, err := tls.X509KeyPair(data[KeyCert], data[KeyKey]); err != nil {
		t.Error(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(data[KeyCert])
	block, _ := pem.Decode(data[KeyCert])
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{ServerName, "127.0.0.1", "localhost"} {
		if _, err := cert.Verify(x509.VerifyOptions{DNSName: name, Roots: pool}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	other, err := NewAdmin(now)
	if err != nil || bytes.Equal(other[KeyToken], data[KeyToken]) {
		t.Errorf("the same token twice: %v", err)
	}
}

func TestCheckAdminRefuses(t *testing.T) {
	good, other := admin(t, start), admin(t, start)
	for name, data := range map[string]map[string][]byte{
		"nothing":        nil,
		"no token":       with(good, KeyToken, nil),
		"no key":         with(good, KeyKey, nil),
		"another's key":  with(good, KeyKey, other[KeyKey]),
		"no certificate": with(good, KeyCert, []byte("x")),
		"no X.509":       with(good, KeyCert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")})),
		"a key instead":  with(good, KeyCert, good[KeyKey]),
	} {
		if err := CheckAdmin(data); !errors.Is(err, ErrAdmin) || strings.Contains(err.Error(), string(good[KeyToken])) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func FuzzReadIdentity(f *testing.F) {
	_, data, err := NewIdentity("a", false)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data[KeyRID], data[KeyPrivate], []byte(nil), false)
	f.Add([]byte("orn:koi-net.node:a+b"), []byte(nil), []byte(nil), true)
	f.Fuzz(func(t *testing.T, r, key, password []byte, unsigned bool) {
		id, err := ReadIdentity(map[string][]byte{KeyRID: r, KeyPrivate: key, KeyPassword: password}, unsigned)
		if err != nil {
			if !errors.Is(err, ErrIdentity) {
				t.Errorf("%v", err)
			}
			return
		}
		if _, _, err := rid.SplitNode(id.RID); err != nil {
			t.Errorf("took %q: %v", id.RID, err)
		}
	})
}
