package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
	"github.com/koi-net/koi-operator/node/store/bolt"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const self rid.RID = "orn:koi-net.node:self+0e0b2a9c-8f0d-4a53-9f2a-8ad1c8a3d111"

// acceptor records what it is given.
type acceptor struct {
	mu     sync.Mutex
	err    error
	hold   chan struct{} // if set, Accept waits for it to be closed
	inside chan struct{} // if set, told of every call
	events []protocol.Event
	calls  int
	from   Sender
}

// acquaintances are the peers of a test: keys by RID, and what is kept from whom.
type acquaintances struct {
	keys   map[rid.RID]string
	style  protocol.FloatStyle
	hidden rid.RID // from signed askers

	mu     sync.Mutex
	learnt []string
}

func (a *acquaintances) PublicKey(r rid.RID) (string, bool) {
	key, ok := a.keys[r]
	return key, ok
}

func (a *acquaintances) FloatStyle(rid.RID) protocol.FloatStyle { return a.style }

func (a *acquaintances) Learn(r rid.RID, style protocol.FloatStyle, userAgent string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.learnt = append(a.learnt, fmt.Sprint(r, style, userAgent))
}

func (a *acquaintances) Suits(asker, r rid.RID) bool { return asker == "" || r != a.hidden }

func (a *acceptor) Accept(ctx context.Context, from Sender, events []protocol.Event) error {
	if a.inside != nil {
		a.inside <- struct{}{}
	}
	if a.hold != nil {
		select {
		case <-a.hold:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.calls++
	if a.err != nil {
		return a.err
	}
	a.from = from
	a.events = append(a.events, events...)
	return nil
}

// poller hands out fixed events and records what becomes of its lease.
type poller struct {
	mu       sync.Mutex
	err      error
	events   [][]byte
	peer     rid.RID
	program  string
	limit    int
	written  int
	released int
}

func (p *poller) Lease(_ context.Context, peer rid.RID, program string, limit int) (Lease, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.peer, p.program, p.limit = peer, program, limit
	if p.err != nil {
		return nil, p.err
	}
	return (*pollerLease)(p), nil
}

func (p *poller) outcome() (written, released int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.written, p.released
}

type pollerLease poller

func (l *pollerLease) Events() [][]byte { return l.events }
func (l *pollerLease) Written()         { l.mu.Lock(); l.written++; l.mu.Unlock() }
func (l *pollerLease) Release()         { l.mu.Lock(); l.released++; l.mu.Unlock() }

// damaged is a store in which some records are damaged.
type damaged struct {
	store.Store
	rids map[rid.RID]bool
}

func (d damaged) View(ctx context.Context, fn func(store.Reader) error) error {
	return d.Store.View(ctx, func(r store.Reader) error { return fn(damagedReader{r, d.rids}) })
}

type damagedReader struct {
	store.Reader
	rids map[rid.RID]bool
}

func (d damagedReader) RawBundle(r rid.RID) (protocol.RawBundle, error) {
	if d.rids[r] {
		return protocol.RawBundle{}, fmt.Errorf("record %s: %w", r, store.ErrDamaged)
	}
	return d.Reader.RawBundle(r)
}

func (d damagedReader) RawManifest(r rid.RID) (protocol.RawManifest, error) {
	if d.rids[r] {
		return protocol.RawManifest{}, fmt.Errorf("record %s: %w", r, store.ErrDamaged)
	}
	return d.Reader.RawManifest(r)
}

func (d damagedReader) RawManifests(types []rid.Type, after rid.RID) iter.Seq2[*protocol.RawManifest, error] {
	return func(yield func(*protocol.RawManifest, error) bool) {
		for m, err := range d.Reader.RawManifests(types, after) {
			if err == nil && d.rids[m.RID()] {
				m, err = &protocol.RawManifest{RawRID: m.RawRID}, fmt.Errorf("record %s: %w", m, store.ErrDamaged)
			}
			if !yield(m, err) {
				return
			}
		}
	}
}

// watched counts the transactions there were and that are open.
type watched struct {
	store.Store
	mu    sync.Mutex
	open  int
	begun int
}

func (w *watched) View(ctx context.Context, fn func(store.Reader) error) error {
	return w.Store.View(ctx, func(r store.Reader) error {
		w.mu.Lock()
		w.open++
		w.begun++
		w.mu.Unlock()
		defer func() {
			w.mu.Lock()
			w.open--
			w.mu.Unlock()
		}()
		return fn(r)
	})
}

func (w *watched) transactions() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.open
}

type fixture struct {
	Config
	store    store.Store
	inbox    *acceptor
	polls    *poller
	registry *prometheus.Registry
	log      *bytes.Buffer
}

func newFixture(t testing.TB) *fixture {
	t.Helper()
	s, err := bolt.Open(bolt.Options{Path: filepath.Join(t.TempDir(), "koi.db"), NodeRID: self, Create: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	f := &fixture{store: s, inbox: &acceptor{}, polls: &poller{}, registry: prometheus.NewRegistry(), log: &bytes.Buffer{}}
	own := bundle(t, self, `{"base_url":"http://127.0.0.1:8000/koi-net","node_type":"FULL","provides":{"event":[],"state":[]}}`)
	f.Config = Config{
		Store:    s,
		Inbox:    f.inbox,
		Polls:    f.polls,
		Peers:    &acquaintances{},
		Self:     func() (protocol.Bundle, bool) { return own, true },
		BasePath: "/koi-net",
		Metrics:  f.registry,
		Logger:   slog.New(slog.NewTextHandler(f.log, nil)),
	}
	return f
}

func (f *fixture) handler(t testing.TB) http.Handler {
	t.Helper()
	h, err := New(f.Config)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// serve runs the handler on a loopback listener with the bounds of HTTPServer.
func (f *fixture) serve(t *testing.T) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(f.handler(t))
	bounds := HTTPServer(s.Config.Handler, nil)
	s.Config.ReadHeaderTimeout, s.Config.ReadTimeout = bounds.ReadHeaderTimeout, bounds.ReadTimeout
	s.Config.WriteTimeout, s.Config.MaxHeaderBytes = bounds.WriteTimeout, bounds.MaxHeaderBytes
	s.Config.ErrorLog = bounds.ErrorLog
	s.Start()
	t.Cleanup(s.Close)
	return s
}

func bundle(t testing.TB, r rid.RID, contents string) protocol.Bundle {
	t.Helper()
	b, err := protocol.NewBundle(r, protocol.NewTimestamp(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)), []byte(contents))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (f *fixture) put(t testing.TB, bundles ...protocol.Bundle) {
	t.Helper()
	err := f.store.Update(context.Background(), func(w store.Writer) error {
		for _, b := range bundles {
			if err := w.PutBundle(store.Record{Bundle: b, Source: "unsigned", Stored: time.Unix(1, 0)}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func do(h http.Handler, method, path, body string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func decodeJSON(t *testing.T, body []byte) any {
	t.Helper()
	var v any
	if err := json.Unmarshal(body, &v); err != nil {
		t.Fatalf("answer %q: %v", body, err)
	}
	return v
}

func TestNewRefusesIncompleteConfig(t *testing.T) {
	f := newFixture(t)
	for name, change := range map[string]func(*Config){
		"no store":      func(c *Config) { c.Store = nil },
		"no acceptor":   func(c *Config) { c.Inbox = nil },
		"no poller":     func(c *Config) { c.Polls = nil },
		"no self":       func(c *Config) { c.Self = nil },
		"relative path": func(c *Config) { c.BasePath = "koi-net" },
		"pattern in it": func(c *Config) { c.BasePath = "/{x}" },
		"query in it":   func(c *Config) { c.BasePath = "/a?b" },
		"metrics in use": func(c *Config) {
			c.Metrics.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: "koi_server_requests_in_flight"}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := f.Config
			c.Metrics = prometheus.NewRegistry()
			change(&c)
			if _, err := New(c); err == nil {
				t.Error("New accepted it")
			}
		})
	}
}

func TestPathsAndMethods(t *testing.T) {
	f := newFixture(t)
	for _, base := range []string{"/koi-net", "", "/", "/behind/proxy/", "/koi-net/"} {
		f.BasePath, f.Metrics = base, nil
		h := f.handler(t)
		prefix := strings.TrimRight(base, "/")
		for _, c := range []struct {
			method, path string
			status       int
			allow        string
		}{
			{"POST", prefix + "/rids/fetch", 200, ""},
			{"POST", prefix + "/rids/fetch/", 307, ""},
			{"GET", prefix + "/rids/fetch", 405, "POST"},
			{"PUT", prefix + "/events/broadcast", 405, "POST"},
			{"GET", prefix + "/", 200, ""},
			{"HEAD", prefix + "/", 200, ""},
			{"POST", prefix + "/", 405, "GET, HEAD"},
			{"POST", prefix + "/rids/fetch/x", 404, ""},
			{"GET", prefix + "/nothing", 404, ""},
			{"POST", "/koi-net/x/rids/fetch", 404, ""},
		} {
			w := do(h, c.method, c.path, "{}")
			if w.Code != c.status || w.Header().Get("Allow") != c.allow {
				t.Errorf("base %q: %s %s: %d Allow %q, want %d Allow %q", base, c.method, c.path, w.Code, w.Header().Get("Allow"), c.status, c.allow)
			}
			if c.status >= 400 && w.Header().Get("Content-Type") != "application/json" {
				t.Errorf("base %q: %s %s: Content-Type %q", base, c.method, c.path, w.Header().Get("Content-Type"))
			}
		}
		// The prefix of 1.0 is optional there, and only there.
		want := 404
		if prefix == "/koi-net" || prefix == "" {
			want = 200
		}
		if w := do(h, "POST", "/rids/fetch", "{}"); w.Code != want {
			t.Errorf("base %q: without the prefix: %d, want %d", base, w.Code, want)
		}
	}
}

func TestOwnBundle(t *testing.T) {
	f := newFixture(t)
	h := f.handler(t)
	w := do(h, "GET", "/koi-net", "")
	b, err := protocol.DecodeBundle(w.Body.Bytes(), protocol.DefaultLimits())
	if w.Code != 200 || err != nil || b.Manifest.RID != self {
		t.Errorf("GET: %d %s (%v)", w.Code, w.Body, err)
	}
	f.Self = func() (protocol.Bundle, bool) { return protocol.Bundle{}, false }
	f.Metrics = nil
	if w := do(f.handler(t), "GET", "/koi-net", ""); w.Code != 503 || w.Header().Get("Retry-After") == "" {
		t.Errorf("without an own bundle: %d %v", w.Code, w.Header())
	}
}

func TestBroadcast(t *testing.T) {
	const events = `{"events":[{"rid":"orn:test.doc:1","event_type":"NEW","manifest":null,"contents":null},{"rid":"orn:test.doc:2","event_type":"FORGET"}]}`
	for _, c := range []struct {
		name   string
		err    error
		status int
		retry  bool
	}{
		{"accepted", nil, 200, false},
		{"busy", fmt.Errorf("inbox: %w", ErrBusy), 503, true},
		{"full", fmt.Errorf("writing: %w", store.ErrFull), 507, true},
		{"closed", store.ErrClosed, 503, true},
		{"fault", errors.New("secret detail"), 500, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t)
			f.inbox.err = c.err
			w := do(f.handler(t), "POST", "/koi-net/events/broadcast", events)
			if w.Code != c.status {
				t.Fatalf("status %d, want %d: %s", w.Code, c.status, w.Body)
			}
			if got := w.Header().Get("Retry-After") != ""; got != c.retry {
				t.Errorf("Retry-After there: %t, want %t", got, c.retry)
			}
			if strings.Contains(w.Body.String(), "secret") {
				t.Errorf("the answer tells inner details: %s", w.Body)
			}
			if c.err == nil {
				if w.Body.String() != "null" || f.inbox.from != (Sender{}) || len(f.inbox.events) != 2 || f.inbox.events[1].EventType != protocol.Forget {
					t.Errorf("answer %q, sender %+v, events %v", w.Body, f.inbox.from, f.inbox.events)
				}
			}
			if c.status == 500 && !strings.Contains(f.log.String(), "secret detail") {
				t.Errorf("the log lacks the fault: %s", f.log)
			}
		})
	}
}

func TestInvalidBatchLeavesNoTrace(t *testing.T) {
	f := newFixture(t)
	w := do(f.handler(t), "POST", "/koi-net/events/broadcast",
		`{"events":[{"rid":"orn:test.doc:1","event_type":"NEW"},{"rid":"nonsense","event_type":"NEW"}]}`)
	if w.Code != 422 || f.inbox.calls != 0 {
		t.Errorf("status %d, accepted %d times", w.Code, f.inbox.calls)
	}
	var e struct {
		Detail []struct {
			Loc []any
			Msg string
		}
	}
	if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil || len(e.Detail) == 0 {
		t.Fatalf("answer %s: %v", w.Body, err)
	}
	if got := fmt.Sprint(e.Detail[0].Loc[:3]); got != "[body events 1]" || e.Detail[0].Msg == "" {
		t.Errorf("detail %+v", e.Detail[0])
	}
	if n := testutil.ToFloat64(f.metric(t, reasonInvalid)); n != 1 {
		t.Errorf("counted %v refusals", n)
	}
}

// metric returns the counter of refusals for a reason.
func (f *fixture) metric(t *testing.T, reason string) prometheus.Collector {
	t.Helper()
	families, err := f.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	g := prometheus.NewGauge(prometheus.GaugeOpts{Name: "value"})
	for _, fam := range families {
		if fam.GetName() != "koi_server_refused_total" {
			continue
		}
		for _, m := range fam.GetMetric() {
			if m.GetLabel()[0].GetValue() == reason {
				g.Set(m.GetCounter().GetValue())
			}
		}
	}
	return g
}

func TestBodies(t *testing.T) {
	f := newFixture(t)
	f.Limits = protocol.DefaultLimits()
	f.Limits.BodyBytes = 1000
	h := f.handler(t)
	pad := func(n int) string { return `{"x":"` + strings.Repeat("x", n-8) + `"}` }
	for _, c := range []struct {
		name, body, header, value string
		status                    int
	}{
		{"one under", pad(999), "", "", 200},
		{"at the limit", pad(1000), "", "", 200},
		{"one over", pad(1001), "", "", 413},
		{"empty", "", "", "", 422},
		{"no JSON", "{", "", "", 422},
		{"trailing text", "{} x", "", "", 422},
		{"deep", `{"x":` + strings.Repeat("[", 400) + strings.Repeat("]", 400) + `}`, "", "", 422},
		{"gzip", "{}", "Content-Encoding", "gzip", 415},
		{"identity", "{}", "Content-Encoding", "identity", 200},
		{"form", "{}", "Content-Type", "application/x-www-form-urlencoded", 422},
		{"text", "{}", "Content-Type", "text/plain", 422},
		{"json", "{}", "Content-Type", "application/json; charset=utf-8", 200},
		{"+json", "{}", "Content-Type", "application/ld+json", 200},
		{"broken type", "{}", "Content-Type", ";;", 422},
		{"bad envelope", `{"payload":{"type":"fetch_rids"},"source_node":"a","target_node":"b","signature":"c"}`, "", "", 422},
		{"no envelope", `{"rid_types":[],"note":"payload and signature"}`, "", "", 200},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := do(h, "POST", "/koi-net/rids/fetch", c.body, c.header, c.value)
			if w.Code != c.status {
				t.Errorf("status %d, want %d: %s", w.Code, c.status, w.Body)
			}
			if got := w.Header().Get("Content-Type"); got != "application/json" {
				t.Errorf("Content-Type %q", got)
			}
			decodeJSON(t, w.Body.Bytes())
		})
	}
	t.Run("one over, chunked", func(t *testing.T) {
		r := httptest.NewRequest("POST", "/koi-net/rids/fetch", io.MultiReader(strings.NewReader(pad(1001))))
		r.ContentLength = -1
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != 413 {
			t.Errorf("status %d: %s", w.Code, w.Body)
		}
	})
}

func TestPoll(t *testing.T) {
	events := [][]byte{[]byte(`{"rid":"orn:a:1","event_type":"FORGET","manifest":null,"contents":null}`), []byte(`{"rid":"orn:a:2","event_type":"FORGET","manifest":null,"contents":null}`)}
	f := newFixture(t)
	f.polls.events = events
	w := do(f.handler(t), "POST", "/koi-net/events/poll", `{"rid":"orn:koi-net.node:reader+1","limit":7}`)
	if want := `{"events":[` + string(events[0]) + "," + string(events[1]) + "]}"; w.Code != 200 || w.Body.String() != want {
		t.Errorf("%d %s, want %s", w.Code, w.Body, want)
	}
	if f.polls.peer != "orn:koi-net.node:reader+1" || f.polls.limit != 7 {
		t.Errorf("leased for %q, limit %d", f.polls.peer, f.polls.limit)
	}
	if written, released := f.polls.outcome(); written != 1 || released != 1 {
		t.Errorf("lease written %d times, released %d times", written, released)
	}

	f.polls.err, f.Metrics = fmt.Errorf("lease: %w", ErrBusy), nil
	if w := do(f.handler(t), "POST", "/koi-net/events/poll", `{"rid":"orn:koi-net.node:reader+1"}`); w.Code != 503 {
		t.Errorf("busy: %d", w.Code)
	}
}

func TestFetch(t *testing.T) {
	f := newFixture(t)
	a, b, c := bundle(t, "orn:a:1", `{"n":1}`), bundle(t, "orn:a:2", `{"n":2}`), bundle(t, "orn:b:1", `{"n":"ü<>&"}`)
	f.put(t, a, b, c)
	f.Store = damaged{f.store, map[rid.RID]bool{"orn:a:2": true}}
	h := f.handler(t)
	text := func(b protocol.Bundle) string { return string(protocol.AppendBundle(nil, b)) }
	mtext := func(b protocol.Bundle) string { return string(protocol.AppendManifest(nil, b.Manifest)) }
	for _, x := range []struct{ path, body, want string }{
		{"/rids/fetch", `{}`, `{"rids":["orn:a:1","orn:b:1"]}`},
		{"/rids/fetch", `{"rid_types":["orn:b"]}`, `{"rids":["orn:b:1"]}`},
		{"/rids/fetch", `{"rid_types":["orn:z"]}`, `{"rids":[]}`},
		{"/manifests/fetch", `{}`, `{"manifests":[` + mtext(a) + "," + mtext(c) + `],"not_found":[]}`},
		{"/manifests/fetch", `{"rid_types":["orn:a"]}`, `{"manifests":[` + mtext(a) + `],"not_found":[]}`},
		{"/manifests/fetch", `{"rid_types":["orn:a"],"rids":["orn:b:1","orn:a:2","orn:b:1","orn:x:9"]}`, `{"manifests":[` + mtext(c) + `],"not_found":["orn:a:2","orn:x:9"]}`},
		{"/bundles/fetch", `{"rids":[]}`, `{"manifests":[],"bundles":[],"not_found":[],"deferred":[]}`},
		{"/bundles/fetch", `{"rids":["orn:b:1","orn:x:9","orn:a:2","orn:a:1","orn:b:1"]}`,
			`{"manifests":[` + text(c) + "," + text(a) + `],"bundles":[` + text(c) + "," + text(a) + `],"not_found":["orn:x:9","orn:a:2"],"deferred":[]}`},
	} {
		w := do(h, "POST", "/koi-net"+x.path, x.body)
		if w.Code != 200 || w.Body.String() != x.want {
			t.Errorf("%s %s:\n got %d %s\nwant %s", x.path, x.body, w.Code, w.Body, x.want)
		}
		if w.Header().Get("Content-Length") == "" {
			t.Errorf("%s %s: a small answer has no Content-Length", x.path, x.body)
		}
	}
	if !strings.Contains(f.log.String(), "damaged") {
		t.Error("the damaged record is not in the log")
	}
}

// TestLargeAnswers crosses pages of rows and parts of bytes.
func TestLargeAnswers(t *testing.T) {
	f := newFixture(t)
	const n = 2*pageRows + 17
	var all []protocol.Bundle
	var rids []rid.RID
	for i := range n {
		r := rid.RID(fmt.Sprintf("orn:t.%d:%05d", i%2, i))
		all = append(all, bundle(t, r, fmt.Sprintf(`{"n":%d,"pad":%q}`, i, strings.Repeat("x", 500))))
		rids = append(rids, r)
	}
	f.put(t, all...)
	s := f.serve(t)
	post := func(path, body string) []byte {
		t.Helper()
		res, err := http.Post(s.URL+"/koi-net"+path, "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		got, err := io.ReadAll(res.Body)
		if err != nil || res.StatusCode != 200 {
			t.Fatalf("%s: %d %v", path, res.StatusCode, err)
		}
		return got
	}
	limits := protocol.DefaultLimits()
	got, err := protocol.DecodeRIDs(post("/rids/fetch", "{}"), limits)
	if err != nil || len(got) != n || len(unique(got)) != n {
		t.Errorf("rids: %d, %d different (%v)", len(got), len(unique(got)), err)
	}
	manifests, err := protocol.DecodeManifests(post("/manifests/fetch", "{}"), limits)
	if err != nil || len(manifests.Manifests) != n {
		t.Errorf("manifests: %d (%v)", len(manifests.Manifests), err)
	}
	body := post("/bundles/fetch", string(protocol.EncodeFetchBundles(protocol.FetchBundles{RIDs: append(rids, "orn:x:1")})))
	var lists struct {
		Manifests, Bundles []json.RawMessage
		NotFound           []rid.RID `json:"not_found"`
	}
	if err := json.Unmarshal(body, &lists); err != nil {
		t.Fatal(err)
	}
	if len(lists.Manifests) != n || len(lists.Bundles) != n || len(lists.NotFound) != 1 {
		t.Errorf("bundles: %d and %d, not found %v", len(lists.Manifests), len(lists.Bundles), lists.NotFound)
	}
	for i := range lists.Bundles {
		if string(lists.Bundles[i]) != string(protocol.AppendBundle(nil, all[i])) {
			t.Fatalf("bundle %d is %s", i, lists.Bundles[i])
		}
	}
}

// TestPagesAreBoundedInBytes: long RIDs make a page of rows large; the bytes end
// it first.
func TestPagesAreBoundedInBytes(t *testing.T) {
	f := newFixture(t)
	const n = pageRows
	var all []protocol.Bundle
	for i := range n {
		all = append(all, bundle(t, rid.RID(fmt.Sprintf("orn:t:%04d%s", i, strings.Repeat("r", 1500))), `{}`))
	}
	f.put(t, all...)
	w := &watched{Store: f.store}
	f.Store = w
	answer := do(f.handler(t), "POST", "/koi-net/rids/fetch", "{}")
	rids, err := protocol.DecodeRIDs(answer.Body.Bytes(), protocol.DefaultLimits())
	if err != nil || len(rids) != n {
		t.Fatalf("%d RIDs: %v", len(rids), err)
	}
	if least := answer.Body.Len() / (2 * partBytes); w.begun < least {
		t.Errorf("%d bytes in %d transactions, want %d at least", answer.Body.Len(), w.begun, least)
	}
}

func TestPanicIsContained(t *testing.T) {
	f := newFixture(t)
	f.Self = func() (protocol.Bundle, bool) { panic("boom") }
	w := do(f.handler(t), "GET", "/koi-net", "")
	if w.Code != 500 || strings.Contains(w.Body.String(), "boom") || !strings.Contains(f.log.String(), "boom") {
		t.Errorf("%d %s, log %s", w.Code, w.Body, f.log)
	}
}
