package client_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/koi-net/koi-operator/node/admin/client"
)

// pair is a certificate with its key.
type pair struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func (p pair) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.cert.Raw})
}

// issue makes a certificate, signed by the given one or by itself.
func issue(t *testing.T, by *pair, change func(*x509.Certificate)) pair {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: "koi-node admin"},
		DNSNames:     []string{"somewhere.else.invalid"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		KeyUsage:     x509.KeyUsageDigitalSignature,

		BasicConstraintsValid: true,
	}
	if change != nil {
		change(template)
	}
	parent, signer := template, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return pair{cert, key}
}

func authority(c *x509.Certificate) {
	c.IsCA, c.KeyUsage, c.ExtKeyUsage = true, x509.KeyUsageCertSign, nil
}

func TestPinnedCertificate(t *testing.T) {
	own := issue(t, nil, nil)
	ca := issue(t, nil, authority)
	signed := issue(t, &ca, nil)
	for _, tt := range []struct {
		name   string
		server pair
		pin    []byte
		ok     bool
	}{
		{"the certificate itself", own, own.pem(), true},
		{"one of two, while it is being replaced", own, append(issue(t, nil, nil).pem(), own.pem()...), true},
		{"its authority", signed, ca.pem(), true},
		{"the leaf of an authority", signed, signed.pem(), true},
		{"another certificate of the same name", issue(t, nil, nil), own.pem(), false},
		{"another authority of the same name", signed, issue(t, nil, authority).pem(), false},
		{"signed by a pinned certificate that may not sign", issue(t, &own, nil), own.pem(), false},
		{"expired", issue(t, nil, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), nil, false},
		{"not for servers", issue(t, nil, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }), nil, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			asked := false
			srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked = true
				io.WriteString(w, `{"version":"v1"}`)
			}))
			srv.Config.ErrorLog = discard()
			srv.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{tt.server.cert.Raw}, PrivateKey: tt.server.key}}}
			srv.StartTLS()
			defer srv.Close()
			pin := tt.pin
			if pin == nil {
				pin = tt.server.pem()
			}
			c, err := client.New(client.Options{URL: srv.URL, Token: "s3cret", CACert: pin})
			if err != nil {
				t.Fatal(err)
			}
			defer c.CloseIdleConnections()
			for range 2 { // the second may come to use a resumed session
				st, err := c.Status(t.Context())
				if (err == nil) != tt.ok || asked != tt.ok || tt.ok && st.Version != "v1" {
					t.Errorf("Status = %+v, %v; the server was asked: %v; want %v", st, err, asked, tt.ok)
				}
				c.CloseIdleConnections()
			}
			unpinned, err := client.New(client.Options{URL: srv.URL})
			if err != nil {
				t.Fatal(err)
			}
			defer unpinned.CloseIdleConnections()
			if _, err := unpinned.Status(t.Context()); err == nil {
				t.Error("without a pin the system's roots decide, and they do not know it")
			}
		})
	}
}

func TestPinOverATunnel(t *testing.T) {
	own := issue(t, nil, nil)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, `{}`) }))
	srv.Config.ErrorLog = discard()
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{own.cert.Raw}, PrivateKey: own.key}}}
	srv.StartTLS()
	defer srv.Close()
	tunnel := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", srv.Listener.Addr().String())
	}}
	for _, tt := range []struct {
		pin []byte
		ok  bool
	}{{own.pem(), true}, {issue(t, nil, nil).pem(), false}} {
		c, err := client.New(client.Options{URL: "https://pod.invalid:8081", Token: "x", CACert: tt.pin, HTTPClient: &http.Client{Transport: tunnel}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Status(t.Context()); (err == nil) != tt.ok {
			t.Errorf("Status: %v, want ok %v", err, tt.ok)
		}
		c.CloseIdleConnections()
	}
	if tunnel.TLSClientConfig != nil && tunnel.TLSClientConfig.InsecureSkipVerify {
		t.Error("the given transport was changed")
	}
}

type otherTransport struct{}

func (otherTransport) RoundTrip(*http.Request) (*http.Response, error) { return nil, errors.New("no") }

func TestNewRefuses(t *testing.T) {
	good := issue(t, nil, nil).pem()
	for name, o := range map[string]client.Options{
		"no URL":                {},
		"no scheme":             {URL: "127.0.0.1:8081"},
		"scheme":                {URL: "ftp://127.0.0.1"},
		"user":                  {URL: "http://u:p@127.0.0.1"},
		"query":                 {URL: "http://127.0.0.1?x"},
		"two tokens":            {URL: "http://127.0.0.1", Token: "a", TokenFile: "b"},
		"token in the clear":    {URL: "http://10.0.0.1:8081", Token: "a"},
		"token file in clear":   {URL: "http://node.example:8081", TokenFile: "a"},
		"pin without TLS":       {URL: "http://127.0.0.1", CACert: good},
		"no PEM":                {URL: "https://127.0.0.1", CACert: []byte("x")},
		"a key for a pin":       {URL: "https://127.0.0.1", CACert: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY"})},
		"a broken certificate":  {URL: "https://127.0.0.1", CACert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")})},
		"pin without transport": {URL: "https://127.0.0.1", CACert: good, HTTPClient: &http.Client{Transport: otherTransport{}}},
	} {
		if _, err := client.New(o); err == nil {
			t.Errorf("%s: accepted", name)
		} else if strings.Contains(err.Error(), "u:p") {
			t.Errorf("%s: the error shows a password: %v", name, err)
		}
	}
	for _, u := range []string{"http://127.0.0.1:1", "http://[::1]:1", "http://localhost:1/", "https://10.0.0.1:1"} {
		if _, err := client.New(client.Options{URL: u, Token: "a"}); err != nil {
			t.Errorf("%s with a token: %v", u, err)
		}
	}
}

func TestTokenFileIsReadAnew(t *testing.T) {
	var got string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r.Header.Get("Authorization")
		io.WriteString(w, `{}`)
	}))
	defer srv.Close()
	path := filepath.Join(t.TempDir(), "token")
	c, err := client.New(client.Options{URL: srv.URL, TokenFile: path})
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseIdleConnections()
	if _, err := c.Status(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	for _, token := range []string{"one", "two"} {
		if err := os.WriteFile(path, []byte(token+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Status(t.Context()); err != nil || got != "Bearer "+token {
			t.Errorf("sent %q, %v", got, err)
		}
	}
	for _, text := range []string{"", " \n", "a b", "a\nb", "ä", strings.Repeat("x", 70_000)} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := client.ReadTokenFile(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("token file %.10q: %v", text, err)
		}
	}
}

func answering(t *testing.T, h http.HandlerFunc, o client.Options) *client.Client {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	o.URL = srv.URL
	c, err := client.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.CloseIdleConnections)
	return c
}

func TestForeignAnswers(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("a redirect was followed with %q", r.Header.Get("Authorization"))
	}))
	defer elsewhere.Close()
	for _, tt := range []struct {
		name, body string
		status     int
		is         error
		message    string
	}{
		{"no admin API", "<html>not\x1b[31m found</html>", 404, client.ErrNotAdminAPI, `\x1b`},
		{"long", strings.Repeat("x", 5000), 500, client.ErrNotAdminAPI, "…"},
		{"redirect", "", 302, client.ErrNotAdminAPI, "302"},
		{"known", `{"error":{"code":"notFound","message":"no such bundle"}}`, 404, client.ErrNotFound, "no such bundle"},
		{"route", `{"error":{"code":"noRoute","message":"no such path"}}`, 404, nil, "no such path"},
		{"garbage", "}", 200, nil, "answer of GET"},
		{"huge", strings.Repeat("x", 6000), 200, nil, "exceeds 5500 bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := answering(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Location", elsewhere.URL)
				w.WriteHeader(tt.status)
				io.WriteString(w, tt.body)
			}, client.Options{Token: "s3cret", MaxBody: 5500})
			_, err := c.Status(t.Context())
			if err == nil || len(err.Error()) > 400 || !strings.Contains(err.Error(), tt.message) {
				t.Fatalf("error %v, want one with %q", err, tt.message)
			}
			if tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("%v is not %v", err, tt.is)
			}
			if tt.is != client.ErrNotFound && errors.Is(err, client.ErrNotFound) {
				t.Errorf("%v passes for a missing bundle", err)
			}
		})
	}
}

func TestCallsTimeOut(t *testing.T) {
	c := answering(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, client.Options{Timeout: 50 * time.Millisecond})
	if _, err := c.Status(t.Context()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Status: %v", err)
	}
	if err := c.Watch(t.Context(), "", func(client.Change) error { return nil }); !errors.Is(err, client.ErrSilent) {
		t.Errorf("Watch without an answer: %v", err)
	}
}

// stream is a watch that says what the test tells it.
func stream(t *testing.T, heartbeat string, say func(since string, line func(string), r *http.Request)) *client.Client {
	return answering(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(client.HeartbeatHeader, heartbeat)
		w.(http.Flusher).Flush()
		say(r.URL.Query().Get("since"), func(text string) {
			io.WriteString(w, text+"\n")
			w.(http.Flusher).Flush()
		}, r)
	}, client.Options{})
}

func TestWatchNoticesSilence(t *testing.T) {
	c := stream(t, "0.3", func(_ string, line func(string), r *http.Request) {
		line(`{"token":"1","kind":"heartbeat"}`)
		<-r.Context().Done()
	})
	seen := 0
	err := c.Watch(t.Context(), "", func(client.Change) error {
		seen++
		return nil
	})
	if !errors.Is(err, client.ErrSilent) || seen != 1 {
		t.Errorf("got %v after %d changes, want ErrSilent after one", err, seen)
	}
}

func TestWatchDoesNotBlameASlowCaller(t *testing.T) {
	c := stream(t, "0.3", func(_ string, line func(string), _ *http.Request) {
		line(`{"token":"1","kind":"heartbeat"}`)
		line(`{"token":"2","kind":"heartbeat"}`)
	})
	var tokens []string
	err := c.Watch(t.Context(), "", func(ch client.Change) error {
		tokens = append(tokens, ch.Token)
		if len(tokens) == 1 {
			<-time.After(time.Second) // longer than three heartbeats
		}
		return nil
	})
	if !errors.Is(err, client.ErrWatchEnded) || fmt.Sprint(tokens) != "[1 2]" {
		t.Errorf("got %v, %v", tokens, err)
	}
}

func TestWatchErrors(t *testing.T) {
	c := stream(t, "x", func(_ string, line func(string), _ *http.Request) { line("nonsense") })
	if err := c.Watch(t.Context(), "", func(client.Change) error { return nil }); err == nil || errors.Is(err, client.ErrWatchEnded) {
		t.Errorf("a line that is no JSON: %v", err)
	}
	c = stream(t, "-1", func(_ string, line func(string), _ *http.Request) { line(strings.Repeat(" ", 9<<20)) })
	if err := c.Watch(t.Context(), "", func(client.Change) error { return nil }); err == nil || errors.Is(err, client.ErrWatchEnded) {
		t.Errorf("a line that is too long: %v", err)
	}
	c = stream(t, "1", func(_ string, line func(string), r *http.Request) {
		line(`{"token":"1"}`)
		<-r.Context().Done()
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if err := c.Watch(ctx, "", func(client.Change) error { cancel(); return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}

func TestFollowResumes(t *testing.T) {
	var asked []string
	c := stream(t, "10", func(since string, line func(string), _ *http.Request) {
		asked = append(asked, since)
		n := len(asked)
		line(fmt.Sprintf(`{"token":"%da","kind":"bundle"}`, n))
		line(fmt.Sprintf(`{"token":"%db","kind":"bundle"}`, n))
	})
	stop := errors.New("enough")
	var seen []string
	var errs int
	err := c.Follow(t.Context(), "0", func(ch client.Change) error {
		if seen = append(seen, ch.Token); len(seen) == 5 {
			return stop
		}
		return nil
	}, client.FollowOptions{MinBackoff: time.Millisecond, OnError: func(err error) error {
		if errs++; !errors.Is(err, client.ErrWatchEnded) {
			t.Errorf("told of %v", err)
		}
		return nil
	}})
	if !errors.Is(err, stop) || fmt.Sprint(seen) != "[1a 1b 2a 2b 3a]" || fmt.Sprint(asked) != "[0 1b 2b]" || errs != 2 {
		t.Errorf("saw %v, asked %v, %d errors, %v", seen, asked, errs, err)
	}
}

func TestFollowEnds(t *testing.T) {
	c := answering(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }, client.Options{})
	no := errors.New("no more")
	n := 0
	err := c.Follow(t.Context(), "", nil, client.FollowOptions{MinBackoff: time.Millisecond, OnError: func(error) error {
		if n++; n == 3 {
			return no
		}
		return nil
	}})
	if !errors.Is(err, no) || n != 3 {
		t.Errorf("OnError's word: %v after %d", err, n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err = c.Follow(ctx, "", nil, client.FollowOptions{MinBackoff: time.Hour, OnError: func(error) error { cancel(); return nil }})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("canceled while it waits: %v", err)
	}
}
