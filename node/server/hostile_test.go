package server

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

// eventually waits for a condition with a deadline.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("still not: %s", what)
		}
	}
}

// endless is a body without an end.
type endless struct{ read int }

func (e *endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = '['
	}
	e.read += len(p)
	return len(p), nil
}

func TestEndlessBody(t *testing.T) {
	f := newFixture(t)
	f.Limits.BodyBytes = 1 << 20
	h := f.handler(t)
	body := &endless{}
	r := httptest.NewRequest("POST", "/koi-net/events/broadcast", body)
	r.ContentLength = -1
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if w.Code != 413 {
		t.Errorf("status %d: %s", w.Code, w.Body)
	}
	if body.read > 2<<20 {
		t.Errorf("%d bytes were read for a limit of %d", body.read, f.Limits.BodyBytes)
	}
}

func TestHugeBodyIsRefusedUnread(t *testing.T) {
	f := newFixture(t)
	body := &endless{}
	r := httptest.NewRequest("POST", "/koi-net/events/broadcast", body)
	r.ContentLength = 1 << 40
	w := httptest.NewRecorder()
	f.handler(t).ServeHTTP(w, r)
	if w.Code != 413 || body.read != 0 {
		t.Errorf("status %d after %d bytes", w.Code, body.read)
	}
}

func TestHeaderBomb(t *testing.T) {
	f := newFixture(t)
	s := f.serve(t)
	c, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "POST /koi-net/rids/fetch HTTP/1.1\r\nHost: x\r\n")
	line := "X-Bomb: " + strings.Repeat("x", 1000) + "\r\n"
	for range 64 {
		if _, err := io.WriteString(c, line); err != nil {
			break // cut while sending is as good
		}
	}
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) || strings.Contains(err.Error(), "reset") {
			return
		}
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("status %d", res.StatusCode)
	}
}

func TestBoundsOfHTTPServer(t *testing.T) {
	s := HTTPServer(http.NotFoundHandler(), nil)
	for name, set := range map[string]bool{
		"ReadHeaderTimeout": s.ReadHeaderTimeout > 0, "ReadTimeout": s.ReadTimeout > 0, "WriteTimeout": s.WriteTimeout > 0,
		"IdleTimeout": s.IdleTimeout > 0, "MaxHeaderBytes": s.MaxHeaderBytes > 0, "ErrorLog": s.ErrorLog != nil,
	} {
		if !set {
			t.Errorf("%s is not set", name)
		}
	}
}

// TestSlowBody sends a body that stops half way: the server's read timeout ends
// the request, and its place is free again.
func TestSlowBody(t *testing.T) {
	f := newFixture(t)
	f.Concurrency = 1
	s := httptest.NewUnstartedServer(f.handler(t))
	s.Config.ReadTimeout = 100 * time.Millisecond
	s.Start()
	defer s.Close()
	c, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "POST /koi-net/rids/fetch HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{")
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusRequestTimeout {
		t.Errorf("status %d", res.StatusCode)
	}
	if n := f.inbox.calls; n != 0 {
		t.Errorf("accepted %d times", n)
	}
	if w, err := http.Post(s.URL+"/koi-net/rids/fetch", "", strings.NewReader("{}")); err != nil || w.StatusCode != 200 {
		t.Errorf("after it: %v %v", w, err)
	} else {
		w.Body.Close()
	}
}

// TestReadTimeoutEndsWithTheBody: a request that takes longer than its body may
// take to arrive is not cut.
func TestReadTimeoutEndsWithTheBody(t *testing.T) {
	f := newFixture(t)
	f.inbox.hold, f.inbox.inside = make(chan struct{}), make(chan struct{}, 1)
	s := httptest.NewUnstartedServer(f.handler(t))
	s.Config.ReadTimeout = 50 * time.Millisecond
	s.Start()
	defer s.Close()
	var wg sync.WaitGroup
	wg.Go(func() {
		<-f.inbox.inside
		time.Sleep(4 * s.Config.ReadTimeout) // what is tested is that this time may pass
		close(f.inbox.hold)
	})
	defer wg.Wait()
	res, err := http.Post(s.URL+"/koi-net/events/broadcast", "", strings.NewReader(`{"events":[{"rid":"orn:a:1","event_type":"NEW"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != 200 {
		t.Errorf("status %d", res.StatusCode)
	}
}

func TestConcurrencyLimit(t *testing.T) {
	f := newFixture(t)
	f.Concurrency, f.BacklogWait = 2, 20*time.Millisecond
	f.inbox.hold, f.inbox.inside = make(chan struct{}), make(chan struct{}, 8)
	h := f.handler(t)
	const events = `{"events":[{"rid":"orn:a:1","event_type":"NEW"}]}`
	codes := make(chan int, 2)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() { codes <- do(h, "POST", "/koi-net/events/broadcast", events).Code })
	}
	<-f.inbox.inside
	<-f.inbox.inside
	w := do(h, "POST", "/koi-net/events/broadcast", events)
	if w.Code != 503 || w.Header().Get("Retry-After") == "" {
		t.Errorf("beyond the limit: %d %v", w.Code, w.Header())
	}
	close(f.inbox.hold)
	wg.Wait()
	close(codes)
	for code := range codes {
		if code != 200 {
			t.Errorf("within the limit: %d", code)
		}
	}
	if w := do(h, "POST", "/koi-net/events/broadcast", events); w.Code != 200 {
		t.Errorf("afterwards: %d", w.Code)
	}
}

func TestBacklogWaits(t *testing.T) {
	g := newGate(1, time.Minute)
	ctx := context.Background()
	if !g.enter(ctx) {
		t.Fatal("an empty gate refused")
	}
	entered := make(chan bool)
	go func() { entered <- g.enter(ctx) }()
	eventually(t, "one waits in the backlog", func() bool { return len(g.backlog) == 1 })
	if g.enter(ctx) {
		t.Error("a full backlog let one more in")
	}
	g.leave()
	if !<-entered {
		t.Error("the one in the backlog was refused")
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if g.enter(gone) {
		t.Error("a request that has gone got a place")
	}
	g.leave()
	if len(g.slots) != 0 || len(g.backlog) != 0 {
		t.Errorf("places left behind: %d and %d", len(g.slots), len(g.backlog))
	}
}

// TestBodyBudget holds one large body in the acceptor: a second large one is
// refused, a small one is not, and afterwards all the room is back.
func TestBodyBudget(t *testing.T) {
	f := newFixture(t)
	f.Limits.BodyBytes, f.BodyBudget = 1<<20, 600<<10
	f.inbox.hold, f.inbox.inside = make(chan struct{}), make(chan struct{}, 8)
	h := f.handler(t)
	large := `{"pad":"` + strings.Repeat("x", 500<<10) + `","events":[{"rid":"orn:a:1","event_type":"NEW"}]}`
	var wg sync.WaitGroup
	wg.Go(func() {
		if w := do(h, "POST", "/koi-net/events/broadcast", large); w.Code != 200 {
			t.Errorf("the first: %d", w.Code)
		}
	})
	<-f.inbox.inside
	if w := do(h, "POST", "/koi-net/events/broadcast", large); w.Code != 503 || w.Header().Get("Retry-After") == "" {
		t.Errorf("the second: %d %v", w.Code, w.Header())
	}
	if w := do(h, "POST", "/koi-net/rids/fetch", "{}"); w.Code != 200 {
		t.Errorf("a small one: %d", w.Code)
	}
	close(f.inbox.hold)
	wg.Wait()
	for range 3 {
		if w := do(h, "POST", "/koi-net/events/broadcast", large); w.Code != 200 {
			t.Errorf("afterwards: %d", w.Code)
		}
	}
}

// failing is a connection that breaks after some bytes.
type failing struct {
	*httptest.ResponseRecorder
	left int
}

func (f *failing) Write(p []byte) (int, error) {
	if f.left -= len(p); f.left < 0 {
		return 0, errors.New("connection reset")
	}
	return f.ResponseRecorder.Write(p)
}

func TestLeaseIsNotWrittenWhenTheAnswerFails(t *testing.T) {
	f := newFixture(t)
	for range 10 {
		f.polls.events = append(f.polls.events, bytes.Repeat([]byte{'1'}, 100<<10))
	}
	h := f.handler(t)
	for _, left := range []int{0, 300 << 10, 1000 << 10} {
		_, before := f.polls.outcome()
		r := httptest.NewRequest("POST", "/koi-net/events/poll", strings.NewReader(`{"rid":"orn:koi-net.node:reader+1"}`))
		func() {
			defer func() {
				if v := recover(); v != http.ErrAbortHandler {
					t.Errorf("after %d bytes the answer was not cut: %v", left, v)
				}
			}()
			h.ServeHTTP(&failing{httptest.NewRecorder(), left}, r)
		}()
		if written, released := f.polls.outcome(); written != 0 || released != before+1 {
			t.Errorf("after %d bytes: written %d, released %d times", left, written, released)
		}
	}
}

// TestSlowReaderHoldsNoTransaction asks for far more than a connection buffers,
// and does not read: no store transaction may be open meanwhile.
func TestSlowReaderHoldsNoTransaction(t *testing.T) {
	f := newFixture(t)
	var rids []rid.RID
	for i := range 40 {
		b := bundle(t, rid.RID(fmt.Sprintf("orn:big:%02d", i)), `{"x":"`+strings.Repeat("x", 1<<20)+`"}`)
		f.put(t, b)
		rids = append(rids, b.Manifest.RID)
	}
	w := &watched{Store: f.store}
	f.Store = w
	s := f.serve(t)
	c, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	body := protocol.EncodeFetchBundles(protocol.FetchBundles{RIDs: rids})
	fmt.Fprintf(c, "POST /koi-net/bundles/fetch HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	in := bufio.NewReader(c)
	if _, err := in.ReadByte(); err != nil {
		t.Fatal(err)
	}
	// Blocked, it stays without a transaction; writers go on.
	quiet := 0
	eventually(t, "no transaction is open for a while", func() bool {
		if w.transactions() == 0 {
			quiet++
		} else {
			quiet = 0
		}
		return quiet > 20
	})
	err = f.store.Update(context.Background(), func(w store.Writer) error { return w.DeleteBundle(rids[39]) })
	if err != nil {
		t.Fatal(err)
	}
	if err := in.UnreadByte(); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if n, err := io.Copy(io.Discard, res.Body); err != nil || n < 70<<20 {
		t.Errorf("then it read %d bytes (%v)", n, err)
	}
}

// broken is a store that fails after some transactions.
type broken struct {
	store.Store
	mu   sync.Mutex
	left int
}

func (b *broken) View(ctx context.Context, fn func(store.Reader) error) error {
	b.mu.Lock()
	b.left--
	fail := b.left < 0
	b.mu.Unlock()
	if fail {
		return errors.New("disk gone")
	}
	return b.Store.View(ctx, fn)
}

// TestFaultHalfWayCutsTheAnswer: a peer must not take half an answer for whole.
func TestFaultHalfWayCutsTheAnswer(t *testing.T) {
	f := newFixture(t)
	var rids []rid.RID
	for i := range 4 {
		b := bundle(t, rid.RID(fmt.Sprintf("orn:big:%d", i)), `{"x":"`+strings.Repeat("x", 300<<10)+`"}`)
		f.put(t, b)
		rids = append(rids, b.Manifest.RID)
	}
	f.Store = &broken{Store: f.store, left: 2}
	s := f.serve(t)
	body := protocol.EncodeFetchBundles(protocol.FetchBundles{RIDs: rids})
	res, err := http.Post(s.URL+"/koi-net/bundles/fetch", "", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if _, err := io.ReadAll(res.Body); err == nil {
		t.Error("the answer ended as if it were whole")
	}
	// Before anything has gone out it is an ordinary error.
	res, err = http.Post(s.URL+"/koi-net/bundles/fetch", "", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != 500 {
		t.Errorf("status %d", res.StatusCode)
	}
}

// TestHostileCallsLeaveNothing: goroutines are watched by TestMain, places and
// bytes here.
func TestHostileCallsLeaveNothing(t *testing.T) {
	f := newFixture(t)
	f.Limits.BodyBytes = 64 << 10
	f.Concurrency = 4
	h := f.handler(t)
	bodies := []string{
		"", "{", "null", "[]", strings.Repeat("[", 60<<10), `{"events":` + strings.Repeat(`{"a":`, 5000),
		`{"events":[` + strings.Repeat(`{},`, 10000) + `{}]}`, `{"events":"` + strings.Repeat("x", 64<<10) + `"}`,
		`{"rid":1e999}`, "\xff\xfe", `{"rids":[` + strings.Repeat(`"orn:a:1",`, 5000) + `"orn:a:1"]}`, `{"payload":1,"signature":2}`,
	}
	for i := range 1000 {
		path := []string{"/events/broadcast", "/events/poll", "/rids/fetch", "/manifests/fetch", "/bundles/fetch"}[i%5]
		w := do(h, "POST", "/koi-net"+path, bodies[i%len(bodies)])
		if w.Code >= 500 {
			t.Fatalf("%s %.40q: %d %s", path, bodies[i%len(bodies)], w.Code, w.Body)
		}
		if w.Body.Len() > 128<<10 {
			t.Fatalf("%s %.40q: an answer of %d bytes", path, bodies[i%len(bodies)], w.Body.Len())
		}
	}
	if w := do(h, "POST", "/koi-net/rids/fetch", "{}"); w.Code != 200 {
		t.Errorf("afterwards: %d", w.Code)
	}
}

func FuzzCalls(f *testing.F) {
	for _, b := range []string{"", "{}", `{"events":[]}`, `{"rid":"orn:koi-net.node:a+b","limit":3}`, `{"rids":["orn:a:1"]}`, `{"payload":{},"signature":""}`} {
		for i := range 5 {
			f.Add(i, b, "application/json")
		}
	}
	paths := []string{"/events/broadcast", "/events/poll", "/rids/fetch", "/manifests/fetch", "/bundles/fetch"}
	h, err := New(Config{Store: emptyStore{}, Inbox: &acceptor{}, Polls: &poller{}, Peers: &acquaintances{},
		Self: func() (protocol.Bundle, bool) { return protocol.Bundle{}, false }})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, call int, body, contentType string) {
		r := httptest.NewRequest("POST", paths[uint(call)%5], strings.NewReader(body))
		r.Header.Set("Content-Type", contentType)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != 200 && (w.Code < 400 || w.Code >= 500) {
			t.Errorf("status %d: %s", w.Code, w.Body)
		}
		decodeJSON(t, w.Body.Bytes())
	})
}

// emptyStore answers that there is nothing.
type emptyStore struct{ store.Store }

func (emptyStore) View(_ context.Context, fn func(store.Reader) error) error {
	return fn(emptyReader{})
}

type emptyReader struct{ store.Reader }

func (emptyReader) RawBundle(rid.RID) (protocol.RawBundle, error) {
	return protocol.RawBundle{}, store.ErrNotFound
}

func (emptyReader) RawManifest(rid.RID) (protocol.RawManifest, error) {
	return protocol.RawManifest{}, store.ErrNotFound
}

func (emptyReader) RawManifests([]rid.Type, rid.RID) iter.Seq2[*protocol.RawManifest, error] {
	return func(func(*protocol.RawManifest, error) bool) {}
}
