package load

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/koi-net/koi-operator/node/identity"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// recorder is a server that notes what it is sent.
type recorder struct {
	mu     sync.Mutex
	bodies []string
	status int
	answer string
	hold   chan struct{} // nil, or closed when answers may come
}

func (r *recorder) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, _ := io.ReadAll(req.Body)
	r.mu.Lock()
	r.bodies = append(r.bodies, req.Method+" "+req.URL.Path+" "+req.Header.Get("Content-Type")+" "+string(body))
	r.mu.Unlock()
	if r.hold != nil {
		<-r.hold
	}
	if r.status != 0 {
		w.WriteHeader(r.status)
	}
	_, _ = io.WriteString(w, r.answer)
}

func serve(t *testing.T, r *recorder) Target {
	t.Helper()
	s := httptest.NewServer(r)
	t.Cleanup(s.Close)
	target, err := NewTarget(s.URL+"/koi-net", "/call")
	if err != nil {
		t.Fatal(err)
	}
	return target
}

func TestEachIsSentOnce(t *testing.T) {
	r := &recorder{answer: strings.Repeat("a", 100_000)} // chunked
	target := serve(t, r)
	var bodies [][]byte
	var want []string
	for i := range 50 {
		body := strings.Repeat("x", i)
		bodies = append(bodies, []byte(body))
		want = append(want, "POST /koi-net/call application/json "+body)
	}
	o, err := Each(t.Context(), target, 7, bodies)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(r.bodies)
	slices.Sort(want)
	if !slices.Equal(r.bodies, want) {
		t.Errorf("%d bodies came", len(r.bodies))
	}
	if len(o.Samples) != 50 || len(o.Wholes()) != 50 || len(o.FirstBytes()) != 50 || !slices.IsSorted(o.Wholes()) {
		t.Errorf("%d samples", len(o.Samples))
	}
	for _, s := range o.Samples {
		if s.Bytes != 100_000 || s.FirstByte <= 0 || s.Whole < s.FirstByte || s.Whole > o.Elapsed {
			t.Errorf("sample %+v of %s", s, o.Elapsed)
		}
	}
}

func TestAgain(t *testing.T) {
	r := &recorder{}
	target := serve(t, r)
	o, err := Again(t.Context(), target, 1, [][]byte{[]byte("a"), []byte("b")}, 5, 0)
	if err != nil || len(o.Samples) != 5 {
		t.Fatalf("%d samples, %v", len(o.Samples), err)
	}
	var all strings.Builder
	for _, b := range r.bodies {
		all.WriteString(b[len(b)-1:])
	}
	if all.String() != "ababa" {
		t.Errorf("sent %s", all.String())
	}
}

func TestAsk(t *testing.T) {
	target := serve(t, &recorder{answer: "[]"})
	if answer, err := Ask(t.Context(), target, []byte("q")); err != nil || string(answer) != "[]" {
		t.Errorf("%q, %v", answer, err)
	}
}

func TestRefusalEndsTheLoad(t *testing.T) {
	r := &recorder{status: http.StatusUnprocessableEntity, answer: "no such thing"}
	target := serve(t, r)
	_, err := Each(t.Context(), target, 2, make([][]byte, 1000))
	if !errors.Is(err, ErrAnswer) || !strings.Contains(err.Error(), "422") || !strings.Contains(err.Error(), "no such thing") {
		t.Errorf("error %v", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.bodies) > 4 {
		t.Errorf("%d requests after the first refusal", len(r.bodies))
	}
}

func TestTheEndOfTheContextEndsTheLoad(t *testing.T) {
	r := &recorder{hold: make(chan struct{})}
	target := serve(t, r)
	defer close(r.hold)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := Each(ctx, target, 3, make([][]byte, 3)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
	if _, err := Each(ctx, target, 3, make([][]byte, 3)); err == nil {
		t.Error("a load began after the end")
	}
}

func TestTargetsAreOnLoopback(t *testing.T) {
	for _, url := range []string{"http://192.0.2.1:80/koi-net", "http://localhost:80", "https://127.0.0.1:80", "http://127.0.0.1", "", "http://%zz"} {
		if _, err := NewTarget(url, "/x"); err == nil {
			t.Errorf("%q is taken", url)
		}
	}
	if _, err := NewTarget("http://[::1]:80/koi-net", "/x"); err != nil {
		t.Error(err)
	}
}

func TestBroadcasts(t *testing.T) {
	signed, err := identity.Generate("client", false)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[rid.RID]bool{}
	for _, id := range []identity.Identity{{RID: "orn:koi-net.node:client+1"}, signed} {
		s := Speaker{Self: id, To: "orn:koi-net.node:to+2"}
		bodies, err := s.Broadcasts(3, 4)
		if err != nil || len(bodies) != 3 {
			t.Fatalf("%d bodies, %v", len(bodies), err)
		}
		for _, body := range bodies {
			var events []protocol.Event
			if id.Unsigned() {
				events, err = protocol.DecodeBroadcast(body, protocol.DefaultLimits())
			} else {
				var e protocol.Envelope[protocol.EventsPayload]
				e, err = protocol.DecodeEnvelope[protocol.EventsPayload](body, protocol.DefaultLimits())
				if e.Source != id.RID || e.Target != s.To {
					t.Errorf("from %s to %s", e.Source, e.Target)
				}
				if err := identity.Verify(id.PublicKeyText(), e.Signed, e.Signature); err != nil {
					t.Error(err)
				}
				events = e.Payload
			}
			if err != nil || len(events) != 4 {
				t.Fatalf("%d events, %v", len(events), err)
			}
			for _, e := range events {
				if e.EventType != protocol.New || e.Manifest == nil || e.Manifest.RID != e.RID || len(e.Contents) != ContentsBytes || seen[e.RID] {
					t.Errorf("event %+v", e)
				}
				if err := protocol.VerifyHash(e.Contents, e.Manifest.SHA256Hash); err != nil {
					t.Error(err)
				}
				seen[e.RID] = true
			}
		}
	}
}

func TestRequests(t *testing.T) {
	signed, err := identity.Generate("client", false)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{`"rid_types":["orn:bench.note"]`, `"rid_types":["orn:bench.note"]`, `"rids":["orn:bench.note:1"]`}
	for _, id := range []identity.Identity{{RID: "orn:koi-net.node:client+1"}, signed} {
		s := Speaker{Self: id, To: "orn:koi-net.node:to+2"}
		rids, err := s.FetchRIDs(NoteType)
		manifests, err2 := s.FetchManifests(NoteType)
		bundles, err3 := s.FetchBundles([]rid.RID{"orn:bench.note:1"})
		if err := errors.Join(err, err2, err3); err != nil {
			t.Fatal(err)
		}
		for i, body := range [][]byte{rids, manifests, bundles} {
			if !strings.Contains(string(body), want[i]) || protocol.IsEnvelope(body) == id.Unsigned() {
				t.Errorf("%s", body)
			}
		}
	}
	if rids, err := (Speaker{}).RIDs([]byte(`{"rids":["a:1","a:2"]}`)); err != nil || len(rids) != 2 {
		t.Errorf("%v, %v", rids, err)
	}
	if _, err := (Speaker{Self: signed}).RIDs([]byte(`{"rids":[]}`)); err == nil {
		t.Error("an answer without an envelope is taken for a signed one")
	}
}

func TestNotesAreInOrder(t *testing.T) {
	var rids []rid.RID
	for b, err := range Notes(300) {
		if err != nil {
			t.Fatal(err)
		}
		if len(b.Contents) != ContentsBytes {
			t.Errorf("contents of %d bytes", len(b.Contents))
		}
		rids = append(rids, b.Manifest.RID)
	}
	one, err := Note()
	if err != nil {
		t.Fatal(err)
	}
	if len(rids) != 300 || !slices.IsSorted(rids) || len(slices.Compact(rids)) != 300 || len(rids[0]) != len(one.Manifest.RID) {
		t.Errorf("%d RIDs: %s, %s", len(rids), rids[0], one.Manifest.RID)
	}
}

func TestStar(t *testing.T) {
	for _, s := range []Star{
		{Center: "orn:koi-net.node:center+1", Size: 3, Types: []rid.Type{NoteType}},
		{Center: "orn:koi-net.node:center+1", Size: 3, Types: []rid.Type{NoteType}, Signed: true},
		{Center: "orn:koi-net.node:center+1", Size: 3, Types: []rid.Type{NoteType}, BaseURL: "http://127.0.0.1:1"},
	} {
		var nodes []rid.RID
		edges := 0
		for b, err := range s.Bundles() {
			if err != nil {
				t.Fatal(err)
			}
			if bytes.HasPrefix([]byte(b.Manifest.RID), []byte(rid.NodeType)) {
				p, err := protocol.ParseNodeProfile(b.Contents)
				if err != nil || p.Validate() != nil || !p.KeyMatches(b.Manifest.RID) || rid.IsKeyed(b.Manifest.RID) != s.Signed || (p.NodeType == protocol.Full) != (s.BaseURL != "") {
					t.Errorf("%s: %+v, %v", b.Manifest.RID, p, err)
				}
				nodes = append(nodes, b.Manifest.RID)
				continue
			}
			p, err := protocol.ParseEdgeProfile(b.Contents)
			if err != nil || p.Validate() != nil || p.Source != s.Center || p.Target != nodes[len(nodes)-1] || p.Status != protocol.Approved || b.Manifest.RID != rid.NewEdge(p.Source, p.Target) {
				t.Errorf("%s: %+v, %v", b.Manifest.RID, p, err)
			}
			edges++
		}
		if len(nodes) != 3 || edges != 3 {
			t.Errorf("%d nodes, %d edges", len(nodes), edges)
		}
	}
}
