package peer

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

func yes() bool { return true }

func localClient(t testing.TB, c ClientConfig) *Client {
	t.Helper()
	c.AllowLoopback = yes
	if c.Identity.RID == "" {
		c.Identity.RID = "orn:koi-net.node:self+1"
	}
	if c.Circuits == nil {
		c.Circuits = shortCircuits(t)
	}
	cl := NewClient(c)
	t.Cleanup(cl.Close)
	return cl
}

// shortCircuits have pauses that a test can wait for.
func shortCircuits(t testing.TB) *Circuits {
	t.Helper()
	c, err := NewCircuits(CircuitsConfig{RetryBase: time.Millisecond, RetryCap: 20 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func testBundle(t testing.TB, r rid.RID, contents string) protocol.Bundle {
	t.Helper()
	b, err := protocol.NewBundle(r, protocol.NewTimestamp(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)), []byte(contents))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func testEvent(r rid.RID) []byte {
	return protocol.AppendEvent(nil, protocol.Event{RID: r, EventType: protocol.Forget})
}

func TestClientCalls(t *testing.T) {
	a, stray := testBundle(t, "orn:a:1", `{"n":1}`), testBundle(t, "orn:b:9", `{}`)
	own := testBundle(t, "orn:koi-net.node:peer+1", `{"node_type":"FULL"}`)
	var got string
	answers := map[string]string{
		"POST /x/koi-net/events/broadcast": "null",
		"POST /x/koi-net/events/poll":      `{"events":[` + string(testEvent("orn:a:1")) + `]}`,
		"POST /x/koi-net/rids/fetch":       `{"rids":["orn:a:1","orn:b:9"]}`,
		"POST /x/koi-net/manifests/fetch": `{"manifests":[` + string(protocol.AppendManifest(nil, a.Manifest)) + "," +
			string(protocol.AppendManifest(nil, stray.Manifest)) + `],"not_found":["orn:a:2","orn:b:8"]}`,
		"POST /x/koi-net/bundles/fetch": `{"manifests":[` + string(protocol.AppendBundle(nil, a)) + "," +
			string(protocol.AppendBundle(nil, stray)) + `],"not_found":["orn:a:2"],"deferred":["orn:a:3","orn:b:8"]}`,
		"GET /x/koi-net": string(protocol.AppendBundle(nil, own)),
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got = string(body)
		if r.Method == "POST" && r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: Content-Type %q", r.URL, r.Header.Get("Content-Type"))
		}
		if r.Header.Get("Accept") != "application/json" || r.UserAgent() != "koi-node/test" || r.Header.Get("Accept-Encoding") != "" {
			t.Errorf("%s: headers %v", r.URL, r.Header)
		}
		if _, ok := r.Header["Idempotency-Key"]; ok {
			t.Errorf("%s: the idempotency key went out", r.URL)
		}
		answer, ok := answers[r.Method+" "+r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		io.WriteString(w, answer)
	}))
	defer s.Close()
	c := localClient(t, ClientConfig{UserAgent: "koi-node/test"})
	ctx := context.Background()
	base := Target{URL: s.URL + "/x/koi-net/"}

	if err := c.Broadcast(ctx, base, [][]byte{testEvent("orn:a:1"), testEvent("orn:a:2")}, nil); err != nil {
		t.Error(err)
	}
	if want := `{"events":[` + string(testEvent("orn:a:1")) + "," + string(testEvent("orn:a:2")) + `]}`; got != want {
		t.Errorf("broadcast sent %s", got)
	}
	polled, err := c.Poll(ctx, base, 5)
	events := polled.Events
	if err != nil || len(events) != 1 || events[0].RID != "orn:a:1" || polled.Source != "" || polled.Replay != nil || got != `{"rid":"orn:koi-net.node:self+1","limit":5}` {
		t.Errorf("poll: %v, %v; sent %s", events, err, got)
	}
	rids, err := c.FetchRIDs(ctx, base, []rid.Type{"orn:a"})
	if err != nil || fmt.Sprint(rids) != "[orn:a:1]" {
		t.Errorf("rids: %v, %v", rids, err)
	}
	manifests, err := c.FetchManifests(ctx, base, nil, []rid.RID{"orn:a:1", "orn:a:2"})
	if err != nil || len(manifests.Manifests) != 1 || fmt.Sprint(manifests.NotFound) != "[orn:a:2]" {
		t.Errorf("manifests: %v, %v", manifests, err)
	}
	manifests, err = c.FetchManifests(ctx, base, []rid.Type{"orn:a"}, nil)
	if err != nil || len(manifests.Manifests) != 1 {
		t.Errorf("manifests by type: %v, %v", manifests, err)
	}
	bundles, err := c.FetchBundles(ctx, base, []rid.RID{"orn:a:1", "orn:a:2", "orn:a:3"})
	if err != nil || len(bundles.Bundles) != 1 || string(bundles.Bundles[0].Contents) != `{"n":1}` ||
		fmt.Sprint(bundles.NotFound, bundles.Deferred) != "[orn:a:2] [orn:a:3]" {
		t.Errorf("bundles: %v, %v", bundles, err)
	}
	self, err := c.Self(ctx, base.URL)
	if err != nil || self.Manifest.RID != own.Manifest.RID {
		t.Errorf("self: %v, %v", self, err)
	}
	answers["GET /x/koi-net"] = string(protocol.AppendBundle(nil, a))
	if _, err := c.Self(ctx, base.URL); !errors.Is(err, ErrBadAnswer) {
		t.Errorf("self of something else: %v", err)
	}
	var status *StatusError
	if _, err := c.Self(ctx, s.URL+"/other"); !errors.As(err, &status) || status.Code != 404 || len(status.Body) == 0 {
		t.Errorf("no such path: %v", err)
	}
}

// TestFetchBundlesInParts: what does not fit one answer is asked for in parts.
func TestFetchBundlesInParts(t *testing.T) {
	var requests atomic.Int32
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		body, _ := io.ReadAll(r.Body)
		req, err := protocol.DecodeFetchBundles(body, protocol.DefaultLimits())
		if err != nil {
			t.Error(err)
		}
		out := []byte(`{"bundles":[`)
		for i, x := range req.RIDs {
			if i > 0 {
				out = append(out, ',')
			}
			out = protocol.AppendBundle(out, testBundle(t, x, `{"x":"`+strings.Repeat("x", 1000)+`"}`))
		}
		w.Write(append(out, `],"not_found":[],"deferred":[]}`...))
	}))
	defer s.Close()
	c := localClient(t, ClientConfig{AnswerBytes: 3000})
	var rids []rid.RID
	for i := range 9 {
		rids = append(rids, rid.RID(fmt.Sprintf("orn:a:%d", i)))
	}
	answer, err := c.FetchBundles(context.Background(), Target{URL: s.URL}, rids)
	if err != nil || len(answer.Bundles) != 9 {
		t.Fatalf("%d bundles in %d requests: %v", len(answer.Bundles), requests.Load(), err)
	}
	for i, b := range answer.Bundles {
		if b.Manifest.RID != rids[i] {
			t.Errorf("bundle %d is %s", i, b.Manifest.RID)
		}
	}
	tiny := localClient(t, ClientConfig{AnswerBytes: 100})
	requests.Store(0)
	if _, err := tiny.FetchBundles(context.Background(), Target{URL: s.URL}, rids); !errors.Is(err, ErrTooLarge) {
		t.Errorf("what fits nowhere: %v", err)
	}
	if n := requests.Load(); n > 5 {
		t.Errorf("%d requests for what fits nowhere", n)
	}
}

func TestHostileAnswers(t *testing.T) {
	hang := make(chan struct{})
	mux := http.NewServeMux()
	wait := func(r *http.Request) {
		select {
		case <-hang:
		case <-r.Context().Done():
		}
	}
	var followed atomic.Bool
	mux.HandleFunc("/followed/", func(http.ResponseWriter, *http.Request) { followed.Store(true) })
	mux.HandleFunc("/redirect/", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/followed/rids/fetch", http.StatusTemporaryRedirect)
	})
	mux.HandleFunc("/endless/", func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := io.WriteString(w, strings.Repeat("[", 64<<10)); err != nil {
				return
			}
		}
	})
	mux.HandleFunc("/declared/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "1000000000000")
		io.WriteString(w, "{")
	})
	mux.HandleFunc("/hang/", func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(200)
		w.(http.Flusher).Flush()
		wait(r)
	})
	mux.HandleFunc("/silent/", func(w http.ResponseWriter, r *http.Request) { wait(r) })
	mux.HandleFunc("/gzip/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		io.WriteString(w, "\x1f\x8b")
	})
	mux.HandleFunc("/headers/", func(w http.ResponseWriter, r *http.Request) {
		for i := range 100 {
			w.Header().Set(fmt.Sprintf("X-Bomb-%d", i), strings.Repeat("x", 1000))
		}
	})
	mux.HandleFunc("/deep/", func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, `{"rids":`+strings.Repeat("[", 5000))
	})
	mux.HandleFunc("/html/", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "<html>") })
	mux.HandleFunc("/empty/", func(w http.ResponseWriter, r *http.Request) {})
	mux.HandleFunc("/cut/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100")
		io.WriteString(w, `{"rids":[]}`)
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	mux.HandleFunc("/busy/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(503)
		io.WriteString(w, strings.Repeat("x", 1<<20))
	})
	s := httptest.NewServer(mux)
	defer s.Close()
	defer close(hang) // or the server would wait for those who hang
	c := localClient(t, ClientConfig{Timeout: 300 * time.Millisecond, AnswerBytes: 1 << 20})
	is := func(want error) func(error) bool { return func(err error) bool { return errors.Is(err, want) } }
	status := func(code int) func(error) bool {
		return func(err error) bool { var s *StatusError; return errors.As(err, &s) && s.Code == code }
	}
	for path, want := range map[string]func(error) bool{
		"/redirect": status(307),
		"/endless":  is(ErrTooLarge),
		"/declared": is(ErrTooLarge),
		"/hang":     is(context.DeadlineExceeded),
		"/silent":   is(context.DeadlineExceeded),
		"/gzip":     is(ErrBadAnswer),
		"/headers":  func(err error) bool { return err != nil },
		"/deep":     is(ErrBadAnswer),
		"/html":     is(ErrBadAnswer),
		"/empty":    is(ErrBadAnswer),
		"/cut":      is(io.ErrUnexpectedEOF),
		"/busy": func(err error) bool {
			var s *StatusError
			return errors.As(err, &s) && s.Code == 503 && s.RetryAfter == 7*time.Second && len(s.Body) == maxErrorBytes && len(s.Error()) < 400
		},
	} {
		began := time.Now()
		_, err := c.FetchRIDs(context.Background(), Target{URL: s.URL + path}, nil)
		if !want(err) {
			t.Errorf("%s: %v", path, err)
		}
		if d := time.Since(began); d > 5*time.Second {
			t.Errorf("%s took %s", path, d)
		}
	}
	if followed.Load() {
		t.Error("the redirect was followed")
	}
}

// listener counts the connections that reach it.
func listener(t *testing.T, addr string) (url string, reached *atomic.Int32) {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	reached = new(atomic.Int32)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, `{"rids":[]}`) }))
	s.Listener.Close()
	s.Listener = l
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			reached.Add(1)
		}
	}
	s.Start()
	t.Cleanup(s.Close)
	return s.URL, reached
}

func TestForbiddenAddressesAreNotDialled(t *testing.T) {
	loopback, reached := listener(t, "127.0.0.1:0")
	port := loopback[strings.LastIndex(loopback, ":"):]
	c := NewClient(ClientConfig{Timeout: 5 * time.Second})
	defer c.Close()
	for _, base := range []string{
		loopback, "http://localhost" + port, "http://[::1]" + port, "http://[::ffff:127.0.0.1]" + port, "http://127.1.2.3" + port,
		"http://0.0.0.0" + port, "http://[::]" + port, "http://169.254.169.254/latest", "http://[fd00:ec2::254]/",
		"http://[fe80::1%25lo]" + port, "http://100.100.100.200/", "http://224.0.0.1" + port, "http://[64:ff9b::7f00:1]" + port,
	} {
		_, err := c.FetchRIDs(context.Background(), Target{URL: base}, nil)
		if !errors.Is(err, ErrForbiddenAddress) {
			t.Errorf("%s: %v", base, err)
		}
	}
	for _, base := range []string{"http://user:pass@127.0.0.1" + port, "ftp://127.0.0.1" + port, "http://127.0.0.1" + port + "/?"} {
		if _, err := c.FetchRIDs(context.Background(), Target{URL: base}, nil); !errors.Is(err, ErrBadURL) {
			t.Errorf("%s: %v", base, err)
		}
	}
	if n := reached.Load(); n != 0 {
		t.Errorf("%d connections were made", n)
	}

	limited := NewClient(ClientConfig{AllowLoopback: yes, AllowCIDRs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}})
	defer limited.Close()
	if _, err := limited.FetchRIDs(context.Background(), Target{URL: loopback}, nil); !errors.Is(err, ErrForbiddenAddress) {
		t.Errorf("outside the networks: %v", err)
	}
	if _, err := localClient(t, ClientConfig{}).FetchRIDs(context.Background(), Target{URL: loopback}, nil); err != nil {
		t.Errorf("allowed loopback: %v", err)
	}
}

// flipping is a name server whose answer changes: the first lookup of a name
// gives an allowed address, every later one a forbidden one.
func flipping(t *testing.T, first, later netip.Addr) *net.Resolver {
	var lookups atomic.Int32
	return &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		go func() {
			defer server.Close()
			// A pipe is no packet connection, so messages carry their length.
			var size [2]byte
			if _, err := io.ReadFull(server, size[:]); err != nil {
				return
			}
			raw := make([]byte, binary.BigEndian.Uint16(size[:]))
			if _, err := io.ReadFull(server, raw); err != nil {
				return
			}
			var m dnsmessage.Message
			if err := m.Unpack(raw); err != nil {
				t.Error(err)
				return
			}
			m.Response, m.Additionals = true, nil
			if q := m.Questions[0]; q.Type == dnsmessage.TypeA {
				addr := first
				if lookups.Add(1) > 1 {
					addr = later
				}
				m.Answers = []dnsmessage.Resource{{
					Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class},
					Body:   &dnsmessage.AResource{A: addr.As4()},
				}}
			}
			out, err := m.Pack()
			if err != nil {
				t.Error(err)
				return
			}
			server.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(out))), out...))
		}()
		return client, nil
	}}
}

// TestRebinding: a name that resolved to an allowed address once, and to a
// forbidden one when it is dialled, is not reached.
func TestRebinding(t *testing.T) {
	// Both addresses are loopback, one inside the networks and one not.
	allowed, forbidden := netip.MustParseAddr("127.0.0.2"), netip.MustParseAddr("127.0.0.3")
	l, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	_, reachedAllowed := listener(t, fmt.Sprintf("127.0.0.2:%d", port))
	_, reachedForbidden := listener(t, fmt.Sprintf("127.0.0.3:%d", port))
	c := newClient(ClientConfig{AllowLoopback: yes, AllowCIDRs: []netip.Prefix{netip.PrefixFrom(allowed, 32)}},
		flipping(t, allowed, forbidden))
	defer c.Close()
	base := fmt.Sprintf("http://rebind.example:%d", port)
	if _, err := c.FetchRIDs(context.Background(), Target{URL: base}, nil); err != nil {
		t.Fatalf("the allowed address: %v", err)
	}
	c.Close() // the next call has to dial
	if _, err := c.FetchRIDs(context.Background(), Target{URL: base}, nil); !errors.Is(err, ErrForbiddenAddress) {
		t.Errorf("the forbidden address: %v", err)
	}
	if reachedAllowed.Load() != 1 || reachedForbidden.Load() != 0 {
		t.Errorf("connections: %d to the allowed, %d to the forbidden address", reachedAllowed.Load(), reachedForbidden.Load())
	}
}

// TestStaleConnection: a peer that closes idle connections at once (the
// reference does after 5 s) costs no failed request.
func TestStaleConnection(t *testing.T) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, `{"rids":[]}`) }))
	s.Config.IdleTimeout = time.Millisecond
	s.Start()
	defer s.Close()
	c := localClient(t, ClientConfig{})
	for i := range 50 {
		if _, err := c.FetchRIDs(context.Background(), Target{URL: s.URL}, nil); err != nil {
			t.Fatalf("request %d: %v", i, err)
		}
		time.Sleep(time.Duration(i%5) * 500 * time.Microsecond) // around the moment of closing
	}
}
