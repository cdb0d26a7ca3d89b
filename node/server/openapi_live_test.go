package server

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

// audit calls a server and holds what goes either way against the document that
// the server itself hands out.
type audit struct {
	*contract
	handler http.Handler
	seen    map[string]bool // "POST /rids/fetch 200"
}

func newAudit(t *testing.T, f *fixture) *audit {
	t.Helper()
	h := f.handler(t)
	w := do(h, "GET", "/koi-net/openapi.json", "")
	if w.Code != 200 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	return &audit{newContract(t, w.Body.String()), h, map[string]bool{}}
}

func (a *audit) call(t *testing.T, method, path, body string, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	w := do(a.handler, method, "/koi-net"+strings.TrimSuffix(path, "/"), body, header...)
	name := method + " " + path + " " + strconv.Itoa(w.Code)
	a.seen[name] = true
	if method == "POST" {
		v, err := jsonschema.UnmarshalJSON(strings.NewReader(body))
		if err == nil {
			err = a.request(t, path).Validate(v)
		}
		if err == nil && w.Code == 422 && len(header) == 0 {
			t.Errorf("%s: the document promises that %.200s is taken: %s", name, body, w.Body)
		}
		if err != nil && w.Code == 200 {
			t.Errorf("%s: %.200s: %v", name, body, err)
		}
	}
	pointer, ok := a.response(method, path, w.Code)
	if !ok {
		t.Fatalf("%s is not in the document", name)
	}
	if pointer == "/components/responses/Error" && !slices.Contains([]int{404, 405, 408, 415, 500}, w.Code) {
		t.Errorf("%s is but one of the other refusals, which do not name it", name)
	}
	response, _, _ := a.at(pointer)
	headers, _ := response.(map[string]any)["headers"].(map[string]any)
	for h := range headers {
		if w.Header().Get(h) == "" {
			t.Errorf("%s: no %s", name, h)
		}
		if err := a.schema(t, pointer+"/headers/"+h+"/schema").Validate(headerValue(w.Header().Get(h))); err != nil {
			t.Errorf("%s: %s: %v", name, h, err)
		}
	}
	if response.(map[string]any)["content"] == nil {
		if w.Body.Len() > 0 {
			t.Errorf("%s: a body: %s", name, w.Body)
		}
		return w
	}
	if got := w.Header().Get("Content-Type"); got != "application/json" {
		t.Errorf("%s: Content-Type %q", name, got)
	}
	if err := a.answer(t, method, path, w.Code).Validate(parseJSON(t, w.Body.String())); err != nil {
		t.Errorf("%s: %s: %v", name, w.Body, err)
	}
	return w
}

func headerValue(s string) any {
	if n, err := strconv.Atoi(s); err == nil {
		return n
	}
	return s
}

// expect calls and wants a status.
func (a *audit) expect(t *testing.T, status int, method, path, body string, header ...string) {
	t.Helper()
	if w := a.call(t, method, path, body, header...); w.Code != status {
		t.Errorf("%s %s %.200s: %d, want %d: %s", method, path, body, w.Code, status, w.Body)
	}
}

// knowledge fills a fixture's store and poll queue with something of every kind.
func knowledge(t *testing.T, f *fixture) (bundles []protocol.Bundle) {
	t.Helper()
	other := rid.RID("orn:koi-net.node:other+5f0c7a4e-55b2-4d14-9d5c-6a1b5b0e3a42")
	edge := protocol.EdgeProfile{Source: self, Target: other, EdgeType: protocol.Poll, Status: protocol.Approved, RIDTypes: []rid.Type{"orn:test.doc"}}
	bundles = []protocol.Bundle{
		bundle(t, "orn:test.doc:1", `{"n":1.5e300,"s":"ü<>&\u2028","deep":[[{"a":null}]]}`),
		bundle(t, "https://example.org/a?b=c", `{}`),
		bundle(t, other, string(protocol.NodeProfile{NodeType: protocol.Partial}.Contents())),
		bundle(t, rid.NewEdge(self, other), string(edge.Contents())),
	}
	f.put(t, bundles...)
	for _, b := range bundles {
		f.polls.events = append(f.polls.events, protocol.AppendEvent(nil, protocol.Event{
			RID: b.Manifest.RID, EventType: protocol.Update, Manifest: &b.Manifest, Contents: b.Contents,
		}))
	}
	f.polls.events = append(f.polls.events, protocol.AppendEvent(nil, protocol.Event{RID: "orn:test.doc:2", EventType: protocol.Forget}))
	return bundles
}

// TestOpenAPILiveUnsigned makes every call in the unsigned form to a server, and
// gets every answer out of it that the document tells of.
func TestOpenAPILiveUnsigned(t *testing.T) {
	f := newFixture(t)
	bundles := knowledge(t, f)
	f.Limits.BodyBytes = 100_000
	a := newAudit(t, f)
	events := string(protocol.EncodeBroadcast(f.polls.events))
	poll := string(protocol.EncodePoll(protocol.PollRequest{RID: "orn:koi-net.node:reader+1"}))

	a.expect(t, 200, "POST", "/events/broadcast", `{"events":[]}`)
	a.expect(t, 200, "POST", "/events/broadcast", events)
	a.expect(t, 200, "POST", "/events/broadcast", events, "Content-Type", "application/json; charset=utf-8")
	if len(f.inbox.events) != 2*len(f.polls.events) {
		t.Errorf("%d events accepted", len(f.inbox.events))
	}
	a.expect(t, 200, "POST", "/events/poll", poll)
	for _, body := range []string{`{}`, `{"rid_types":["https","orn:test.doc"]}`, `{"rid_types":["orn:nothing"]}`} {
		a.expect(t, 200, "POST", "/rids/fetch", body)
		a.expect(t, 200, "POST", "/manifests/fetch", body)
	}
	var rids []rid.RID
	for _, b := range bundles {
		rids = append(rids, b.Manifest.RID)
	}
	for _, asked := range [][]rid.RID{rids, append(rids, "orn:test.doc:none"), {}, {"a:b"}} {
		a.expect(t, 200, "POST", "/manifests/fetch", string(protocol.EncodeFetchManifests(protocol.FetchManifests{RIDs: asked})))
		a.expect(t, 200, "POST", "/bundles/fetch", string(protocol.EncodeFetchBundles(protocol.FetchBundles{RIDs: asked})))
	}
	a.expect(t, 200, "GET", "/", "")

	for path := range documentedCalls {
		for _, body := range []string{"", "{", "[]", "null", `{"events":1,"rid":1,"rid_types":1,"rids":1}`} {
			a.expect(t, 422, "POST", path, body)
		}
		a.expect(t, 422, "POST", path, "{}", "Content-Type", "text/plain")
		a.expect(t, 413, "POST", path, `{"x":"`+strings.Repeat("x", 100_000)+`"}`)
		a.expect(t, 415, "POST", path, `{}`, "Content-Encoding", "gzip")
	}

	f.Metrics = nil
	for _, x := range []struct {
		err    error
		status int
	}{{ErrBusy, 503}, {store.ErrClosed, 503}, {store.ErrFull, 507}, {errors.New("fault"), 500}} {
		f.inbox.err, f.polls.err = x.err, x.err
		a.expect(t, x.status, "POST", "/events/broadcast", events)
		a.expect(t, x.status, "POST", "/events/poll", poll)
	}
	f.Self = func() (protocol.Bundle, bool) { return protocol.Bundle{}, false }
	a.handler = f.handler(t)
	a.expect(t, 503, "GET", "/", "")
	if err := f.store.Close(); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/rids/fetch", "/manifests/fetch", "/bundles/fetch"} {
		a.expect(t, 503, "POST", path, `{"rids":["a:b"]}`)
	}
	a.missing(t, "400", "403") // see the signed calls
}

// missing tells which of the document's answers were not seen, those of the
// given statuses left out.
func (a *audit) missing(t *testing.T, except ...string) {
	t.Helper()
	for path, item := range a.doc["paths"].(map[string]any) {
		if path == "/openapi.json" {
			continue
		}
		for method, op := range item.(map[string]any) {
			for status := range op.(map[string]any)["responses"].(map[string]any) {
				name := strings.ToUpper(method) + " " + path + " " + status
				if status != "default" && !a.seen[name] && !slices.Contains(except, status) {
					t.Errorf("no answer %s was seen", name)
				}
			}
		}
	}
}

func TestOpenAPIServed(t *testing.T) {
	f := newFixture(t)
	for base, want := range map[string]struct {
		server string
		paths  []string
	}{
		"/koi-net":         {"/koi-net", []string{"/koi-net/openapi.json", "/openapi.json"}},
		"":                 {"/", []string{"/openapi.json"}},
		"/":                {"/", []string{"/openapi.json"}},
		"/behind/a proxy/": {"/behind/a%20proxy", []string{"/behind/a%20proxy/openapi.json"}},
	} {
		f.BasePath, f.Metrics = base, nil
		h := f.handler(t)
		for _, path := range want.paths {
			w := do(h, "GET", path, "")
			if w.Code != 200 || w.Header().Get("Content-Type") != "application/json" {
				t.Fatalf("base %q, %s: %d %v", base, path, w.Code, w.Header())
			}
			doc := parseJSON(t, w.Body.String()).(map[string]any)
			if url := doc["servers"].([]any)[0].(map[string]any)["url"]; url != want.server {
				t.Errorf("base %q, %s: the server is %v, want %s", base, path, url, want.server)
			}
			for _, method := range []string{"POST", "PUT", "DELETE", "OPTIONS"} {
				if w := do(h, method, path, "{}"); w.Code != 405 || w.Header().Get("Allow") != "GET, HEAD" {
					t.Errorf("%s %s: %d %v", method, path, w.Code, w.Header())
				}
			}
		}
	}
	for product, version := range map[string]string{"koi-node/1.2.3": "1.2.3", "koi-node": "unknown", "": "unknown", `a/1"2\ü`: `1"2\ü`} {
		f.BasePath, f.Product, f.Metrics = "/koi-net", product, nil
		doc := parseJSON(t, do(f.handler(t), "GET", "/koi-net/openapi.json", "").Body.String()).(map[string]any)
		if got := doc["info"].(map[string]any)["version"]; got != version {
			t.Errorf("product %q: version %v", product, got)
		}
	}
	if w := do(f.handler(t), "GET", "/elsewhere/openapi.json", ""); w.Code != 404 {
		t.Errorf("elsewhere: %d", w.Code)
	}
}

// TestOpenAPIIsCached asks over a connection, where 304 and HEAD have no body.
func TestOpenAPIIsCached(t *testing.T) {
	f := newFixture(t)
	s := f.serve(t)
	ask := func(method, match string) (*http.Response, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, s.URL+"/koi-net/openapi.json", nil)
		if err != nil {
			t.Fatal(err)
		}
		if match != "" {
			req.Header.Set("If-None-Match", match)
		}
		res, err := s.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res, string(body)
	}
	first, body := ask("GET", "")
	etag := first.Header.Get("ETag")
	if first.StatusCode != 200 || len(body) < 1000 || len(etag) < 10 || first.Header.Get("Cache-Control") != "no-cache" {
		t.Fatalf("%d %v", first.StatusCode, first.Header)
	}
	if _, again := ask("GET", ""); again != body {
		t.Error("another document the second time")
	}
	if head, none := ask("HEAD", ""); head.StatusCode != 200 || none != "" || head.ContentLength != int64(len(body)) || head.Header.Get("ETag") != etag {
		t.Errorf("HEAD: %d, %d bytes, %v", head.StatusCode, len(none), head.Header)
	}
	for match, status := range map[string]int{
		etag: 304, "W/" + etag: 304, `"a", ` + etag: 304, "*": 304, `"a"`: 200, strings.Trim(etag, `"`): 200, "": 200,
	} {
		res, got := ask("GET", match)
		if res.StatusCode != status || (got == "") != (status == 304) || res.Header.Get("ETag") != etag {
			t.Errorf("If-None-Match %s: %d, %d bytes, %v", match, res.StatusCode, len(got), res.Header)
		}
	}
}
