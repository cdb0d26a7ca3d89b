package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/koi-net/koi-operator/node/admin/client"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

// ask sends a request as a browser or curl would and returns status and body.
func ask(t *testing.T, method, target, body string, header ...string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, target, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		if header[i] == "Host" {
			req.Host = header[i+1]
		} else {
			req.Header.Set(header[i], header[i+1])
		}
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	defer http.DefaultClient.CloseIdleConnections()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

func TestEveryRouteThroughTheClient(t *testing.T) {
	f := serve(t, nil)
	ctx := t.Context()
	note := rid.RID("orn:example.note:1")

	st, err := f.Status(ctx)
	if err != nil || st.RID != self || st.Bundles != 3 || !st.Started.Equal(noon) {
		t.Errorf("Status = %+v, %v", st, err)
	}
	if nodes, err := f.Nodes(ctx); err != nil || len(nodes) != 1 || !nodes[0].Self {
		t.Errorf("Nodes = %+v, %v", nodes, err)
	}
	n, err := f.Introduce(ctx, client.Introduction{URL: "http://h:1/koi-net", RID: other, PublicKey: "a2V5"})
	if err != nil || n.Profile.BaseURL != "http://h:1/koi-net" || f.backend.last() != "introduce http://h:1/koi-net "+string(other)+" a2V5" {
		t.Errorf("Introduce = %+v, %v after %q", n, err, f.backend.last())
	}
	list, err := f.Edges(ctx, true)
	if err != nil || len(list.Edges) != 1 || len(list.Refusals) != 1 || f.backend.last() != "edges own=true" {
		t.Errorf("Edges = %+v, %v after %q", list, err, f.backend.last())
	}
	e, err := f.Propose(ctx, client.Proposal{Source: other, EdgeType: protocol.Poll, RIDTypes: []rid.Type{"orn:a.b", "https"}, SourceURL: "http://h:1"})
	if err != nil || e.Source != other || len(e.RIDTypes) != 2 {
		t.Errorf("Propose = %+v, %v", e, err)
	}
	p, err := f.SetPolicy(ctx, client.Policy{Source: self, Target: other, Verdict: client.Approve})
	if err != nil || !p.Decided.Equal(noon) || p.Target != other {
		t.Errorf("SetPolicy = %+v, %v", p, err)
	}
	for _, call := range []struct {
		want string
		do   func() error
	}{
		{fmt.Sprintf("deletePolicy %s %s", self, other), func() error { return f.DeletePolicy(ctx, self, other) }},
		{fmt.Sprintf("forgetEdge %s %s", self, other), func() error { return f.ForgetEdge(ctx, self, other) }},
		{"resync", func() error { return f.Resync(ctx) }},
		{"leave", func() error { return f.Leave(ctx) }},
	} {
		if err := call.do(); err != nil || f.backend.last() != call.want {
			t.Errorf("%s: %v after %q", call.want, err, f.backend.last())
		}
	}

	res, err := f.Put(ctx, note, json.RawMessage(`{"n":1}`))
	if err != nil || res.Accepted != 1 || res.Manifest == nil || res.Manifest.RID != note {
		t.Errorf("Put = %+v, %v", res, err)
	}
	if res, err := f.Put(ctx, note, json.RawMessage(`{"n":1}`)); err != nil || res.Unchanged != 1 {
		t.Errorf("second Put = %+v, %v", res, err)
	}
	b, err := f.Bundle(ctx, note)
	if err != nil || string(b.Contents) != `{"n":1}` || b.Manifest.SHA256Hash != res.Manifest.SHA256Hash {
		t.Errorf("Bundle = %+v, %v", b, err)
	}
	if err := f.Forget(ctx, note); err != nil {
		t.Errorf("Forget: %v", err)
	}
	if _, err := f.Bundle(ctx, note); !errors.Is(err, client.ErrNotFound) {
		t.Errorf("Bundle after Forget: %v, want ErrNotFound", err)
	}
	if ready, text, err := f.Readyz(ctx); err != nil || !ready || text != "[+] store ok\n[+] listener ok\n" {
		t.Errorf("Readyz = %v, %q, %v", ready, text, err)
	}
}

func TestHardRIDsInPaths(t *testing.T) {
	f := serve(t, nil)
	for _, r := range []rid.RID{
		"orn:x:a/b", "orn:x:a//b", "orn:x:/", "orn:x:..", "orn:x:../../status", "orn:x:a%2Fb", "orn:x:a%b", "orn:x:%", "orn:x:%2541",
		"orn:x:a+b", "orn:x:a b", "orn:x:a?b=c#d", "orn:x:a;b,c", "orn:x:ä€😀", "orn:x:a\nb\x00c", `orn:x:"\<>|`, "orn:x:{rid}", "orn:x:*",
		"https://example.com/a?b=c&d=%20#e", "urn:isbn:978-3", "a:b", "orn:koi-net.node:n+1",
		rid.RID("orn:x:" + strings.Repeat("ü/", 600)),
	} {
		if _, err := f.Put(t.Context(), r, json.RawMessage(`{}`)); err != nil {
			t.Errorf("%q: %v", r, err)
			continue
		}
		b, err := f.Bundle(t.Context(), r)
		if err != nil || b.Manifest.RID != r {
			t.Errorf("%q came back as %q, %v", r, b.Manifest.RID, err)
		}
		if err := f.ForgetEdge(t.Context(), r, r); err != nil || f.backend.last() != fmt.Sprintf("forgetEdge %s %s", r, r) {
			t.Errorf("%q as an end: %v after %q", r, err, f.backend.last())
		}
		if err := f.Forget(t.Context(), r); err != nil {
			t.Errorf("forget %q: %v", r, err)
		}
	}
	// Not everyone encodes what need not be: ':' and '+' mean themselves.
	if _, err := f.Put(t.Context(), "orn:x:a+b", json.RawMessage(`{}`)); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"orn:x:a+b", "orn%3Ax%3Aa%2Bb", "orn%3ax:a+b"} {
		if status, body := ask(t, "GET", f.url+client.BasePath+"/bundles/"+path, ""); status != 200 {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
}

func TestRefusals(t *testing.T) {
	f := serve(t, func(c *Config) {
		c.Limits.Protocol.BodyBytes, c.Limits.Protocol.ContentsBytes, c.Limits.Protocol.RIDTypes = 300, 100, 2
	})
	s, o := url.PathEscape(string(self)), url.PathEscape(string(other))
	for _, tt := range []struct {
		name, method, path, body string
		status                   int
		code, message            string
	}{
		{"no route", "GET", "/nothing", "", 404, client.CodeNoRoute, "no such path: /admin/v1/nothing"},
		{"RID not encoded", "GET", "/bundles/https://x/y", "", 404, client.CodeNoRoute, "percent-encoded"},
		{"method", "PATCH", "/status", "", 405, client.CodeNoRoute, "PATCH"},
		{"RID", "GET", "/bundles/nonsense", "", 400, client.CodeBadRequest, "rid in the path"},
		{"RID too long", "GET", "/bundles/a:" + strings.Repeat("b", rid.MaxLength), "", 400, client.CodeBadRequest, "limit is 2048"},
		{"RID no UTF-8", "GET", "/bundles/a:%ff", "", 400, client.CodeBadRequest, "UTF-8"},
		{"pair", "DELETE", "/edges/" + s + "/nonsense", "", 400, client.CodeBadRequest, "target in the path"},
		{"own", "GET", "/edges?own=perhaps", "", 400, client.CodeBadRequest, "own"},
		{"limit", "GET", "/rids?limit=0", "", 400, client.CodeBadRequest, "limit"},
		{"limit text", "GET", "/rids?limit=many", "", 400, client.CodeBadRequest, "many"},
		{"after", "GET", "/rids?after=x", "", 400, client.CodeBadRequest, "after"},
		{"type", "GET", "/rids?type=orn:a:b", "", 400, client.CodeBadRequest, "type"},
		{"types", "GET", "/rids?type=a&type=b&type=c", "", 400, client.CodeBadRequest, "limit is 2"},
		{"empty body", "POST", "/nodes", "", 400, client.CodeBadRequest, "empty"},
		{"array", "POST", "/nodes", "[]", 400, client.CodeBadRequest, "JSON object"},
		{"syntax", "POST", "/nodes", `{"url":`, 400, client.CodeBadRequest, "byte"},
		{"two values", "POST", "/nodes", `{"url":"http://h"}{}`, 400, client.CodeBadRequest, "valid JSON"},
		{"wrong kind", "POST", "/nodes", `{"url":1}`, 400, client.CodeBadRequest, "url"},
		{"large body", "POST", "/nodes", `{"url":"http://` + strings.Repeat("h", 400) + `"}`, 413, client.CodeTooLarge, "300 bytes"},
		{"no url", "POST", "/nodes", `{}`, 400, client.CodeBadRequest, "url is missing"},
		{"file url", "POST", "/nodes", `{"url":"file:///etc"}`, 400, client.CodeBadRequest, "base URL"},
		{"key without rid", "POST", "/nodes", `{"url":"http://h","publicKey":"x"}`, 400, client.CodeBadRequest, "without rid"},
		{"no source", "POST", "/edges", `{"ridTypes":["a"]}`, 400, client.CodeBadRequest, "source"},
		{"no types", "POST", "/edges", `{"source":"` + string(other) + `"}`, 400, client.CodeBadRequest, "ridTypes is empty"},
		{"bad type", "POST", "/edges", `{"source":"` + string(other) + `","ridTypes":["a","orn:"]}`, 400, client.CodeBadRequest, "ridTypes[1]"},
		{"edge type", "POST", "/edges", `{"source":"` + string(other) + `","ridTypes":["a"],"edgeType":"webhook"}`, 400, client.CodeBadRequest, "WEBHOOK"},
		{"source url", "POST", "/edges", `{"source":"` + string(other) + `","ridTypes":["a"],"sourceURL":"h:1"}`, 400, client.CodeBadRequest, "sourceURL"},
		{"verdict", "PUT", "/policy/" + s + "/" + o, `{"verdict":"Maybe"}`, 400, client.CodeBadRequest, "Maybe"},
		{"pair differs", "PUT", "/policy/" + s + "/" + o, `{"verdict":"Approved","source":"` + string(other) + `"}`, 400, client.CodeBadRequest, "in the path"},
		{"no contents", "PUT", "/bundles/a:b", `{}`, 400, client.CodeBadRequest, "one JSON object"},
		{"contents array", "PUT", "/bundles/a:b", `{"contents":[]}`, 400, client.CodeBadRequest, "one JSON object"},
		{"contents too large", "PUT", "/bundles/a:b", `{"contents":{"a":"` + strings.Repeat("x", 100) + `"}}`, 413, client.CodeTooLarge, "limit is 100"},
		{"not there", "GET", "/bundles/a:b", "", 404, client.CodeNotFound, "a:b"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			status, body := ask(t, tt.method, f.url+client.BasePath+tt.path, tt.body)
			var eb client.ErrorBody
			if err := json.Unmarshal([]byte(body), &eb); err != nil {
				t.Fatalf("%d %s: %v", status, body, err)
			}
			if status != tt.status || eb.Error.Code != tt.code || !strings.Contains(eb.Error.Message, tt.message) {
				t.Errorf("got %d %s, want %d %s with %q", status, body, tt.status, tt.code, tt.message)
			}
		})
	}
}

func TestUnknownFieldsArePassedOver(t *testing.T) {
	f := serve(t, nil)
	status, body := ask(t, "POST", f.url+client.BasePath+"/nodes", `{"url":"http://h/koi-net","later":{"x":1}}`)
	if status != 200 {
		t.Errorf("%d %s", status, body)
	}
}

func TestBackendErrors(t *testing.T) {
	for _, tt := range []struct {
		err    error
		status int
		is     error
	}{
		{store.ErrNotFound, 404, client.ErrNotFound},
		{ErrInvalid, 400, client.ErrBadRequest},
		{&protocol.ValidationError{}, 400, client.ErrBadRequest},
		{rid.ErrInvalid, 400, client.ErrBadRequest},
		{ErrConflict, 409, client.ErrConflict},
		{store.ErrFull, 507, client.ErrStoreFull},
		{ErrUnavailable, 503, client.ErrUnavailable},
		{store.ErrClosed, 503, client.ErrUnavailable},
		{context.DeadlineExceeded, 503, client.ErrUnavailable},
		{errors.New("disk on fire"), 500, nil},
	} {
		f := serve(t, nil)
		f.backend.err = fmt.Errorf("while testing: %w", tt.err)
		_, err := f.Status(t.Context())
		var answer *client.Error
		if !errors.As(err, &answer) || answer.Status != tt.status {
			t.Errorf("%v became %v", tt.err, err)
			continue
		}
		if tt.is != nil && !errors.Is(err, tt.is) {
			t.Errorf("%v is not %v", err, tt.is)
		}
		if !strings.Contains(answer.Message, "while testing") {
			t.Errorf("message %q has lost its context", answer.Message)
		}
	}
}

func TestToken(t *testing.T) {
	f := serve(t, func(c *Config) {
		c.Token = "s3cret"
		reg := prometheus.NewRegistry()
		reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "koi_test_total"}, func() float64 { return 1 }))
		c.Metrics = reg
	})
	if _, err := f.Status(t.Context()); err != nil {
		t.Errorf("with the token: %v", err)
	}
	status := f.url + client.BasePath + "/status"
	for _, header := range []string{"", "Bearer", "Bearer wrong", "Bearer s3cre", "Bearer s3cret2", "Basic s3cret", "s3cret"} {
		code, body := ask(t, "GET", status, "", "Authorization", header)
		if code != 401 || !strings.Contains(body, client.CodeUnauthorized) || strings.Contains(body, "s3cret") {
			t.Errorf("%q: %d %s", header, code, body)
		}
	}
	if code, _ := ask(t, "GET", status, "", "Authorization", "bearer s3cret"); code != 200 {
		t.Errorf("the scheme is case-insensitive, got %d", code)
	}
	for _, path := range []string{"/watch", "/bundles/a:b", "/rids", "/edges"} {
		if code, _ := ask(t, "GET", f.url+client.BasePath+path, ""); code != 401 {
			t.Errorf("%s without a token: %d", path, code)
		}
	}
	for path, want := range map[string]string{"/healthz": "ok", "/readyz": "store ok", "/metrics": "koi_test_total 1"} {
		if code, body := ask(t, "GET", f.url+path, ""); code != 200 || !strings.Contains(body, want) {
			t.Errorf("%s without a token: %d %s", path, code, body)
		}
	}
}

func TestOpenAPIIsNoBrowsersToUse(t *testing.T) {
	f := serve(t, nil)
	api := f.url + client.BasePath
	if code, body := ask(t, "GET", api+"/status", "", "Host", "rebound.example:80"); code != 403 {
		t.Errorf("a foreign host name: %d %s", code, body)
	}
	for _, host := range []string{"localhost:8081", "127.0.0.1", "[::1]:8081", "[::1]"} {
		if code, body := ask(t, "GET", api+"/status", "", "Host", host); code != 200 {
			t.Errorf("host %s: %d %s", host, code, body)
		}
	}
	if code, body := ask(t, "POST", api+"/leave", "", "Origin", "https://evil.example"); code != 403 || f.backend.last() == "leave" {
		t.Errorf("a foreign origin: %d %s", code, body)
	}
}

func TestNotReady(t *testing.T) {
	f := serve(t, nil)
	f.backend.checks = []client.Check{{Name: "store", OK: true}, {Name: "listener", Message: "not bound yet"}}
	code, body := ask(t, "GET", f.url+"/readyz", "")
	if code != 503 || body != "[+] store ok\n[-] listener: not bound yet\n" {
		t.Errorf("%d %q", code, body)
	}
	if code, _ := ask(t, "GET", f.url+"/healthz", ""); code != 200 {
		t.Errorf("a node that is not ready is alive all the same, got %d", code)
	}
	if ready, _, err := f.Readyz(t.Context()); ready || err != nil {
		t.Errorf("client: %v %v", ready, err)
	}
}

func TestPagesOfRIDs(t *testing.T) {
	f := serve(t, nil)
	for i := range 25 {
		r := rid.RID(fmt.Sprintf("orn:x:%02d", i))
		f.backend.bundles[r] = protocol.Bundle{}
	}
	f.backend.bundles["y:1"] = protocol.Bundle{}
	var got []rid.RID
	for after := rid.RID(""); ; {
		page, err := f.RIDs(t.Context(), []rid.Type{"orn:x"}, after, 10)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, page.RIDs...)
		if after = page.Next; after == "" {
			break
		}
	}
	if len(got) != 25 || got[0] != "orn:x:00" || got[24] != "orn:x:24" {
		t.Errorf("pages give %v", got)
	}
	if _, err := f.RIDs(t.Context(), nil, "", 0); err != nil || f.backend.last() != `rids [] "" 1000` {
		t.Errorf("default page: %v after %s", err, f.backend.last())
	}
	if code, _ := ask(t, "GET", f.url+client.BasePath+"/rids?limit=999999", ""); code != 200 || f.backend.last() != `rids [] "" 10000` {
		t.Errorf("huge page: %d after %s", code, f.backend.last())
	}
	count := 0
	for _, err := range f.AllRIDs(t.Context(), nil) {
		if err != nil {
			t.Fatal(err)
		}
		count++
	}
	if count != 26 {
		t.Errorf("AllRIDs gives %d, want 26", count)
	}
	if code, body := ask(t, "GET", f.url+client.BasePath+"/rids?type=zzz", ""); code != 200 || body != "{\"rids\":[]}\n" {
		t.Errorf("no RIDs: %d %q", code, body)
	}
}

func TestCallsAreBounded(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	f := serve(t, func(c *Config) { c.Limits.Calls, c.Limits.Watchers = 1, 1 })
	f.backend.block = func(_ context.Context, call string) {
		if call == "resync" {
			close(entered)
			<-leave
		}
	}
	done := make(chan error)
	go func() { done <- f.Resync(t.Context()) }()
	<-entered
	if _, err := f.Status(t.Context()); !errors.Is(err, client.ErrUnavailable) {
		t.Errorf("a second call: %v, want ErrUnavailable", err)
	}
	if code, _ := ask(t, "GET", f.url+"/readyz", ""); code != 200 {
		t.Errorf("probes are not bounded, got %d", code)
	}
	close(leave)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := f.Status(t.Context()); err != nil {
		t.Errorf("afterwards: %v", err)
	}
	stop := errors.New("stop")
	err := f.Watch(t.Context(), "", func(client.Change) error {
		err := f.Watch(t.Context(), "", func(client.Change) error { return nil })
		if !errors.Is(err, client.ErrUnavailable) {
			t.Errorf("a second watch: %v, want ErrUnavailable", err)
		}
		return stop
	})
	if !errors.Is(err, stop) {
		t.Error(err)
	}
}

func lines(n int, bad map[int]string) string {
	var b bytes.Buffer
	for i := 1; i <= n; i++ {
		if text, ok := bad[i]; ok {
			b.WriteString(text + "\n")
			continue
		}
		fmt.Fprintf(&b, "{\"rid\":\"orn:x:%d\",\"contents\":{\"n\":%d}}\n", i, i)
	}
	return b.String()
}

func TestPutStream(t *testing.T) {
	small := func(c *Config) {
		c.Limits.BatchItems, c.Limits.BatchBytes = 4, 1000
		c.Limits.Protocol.BodyBytes, c.Limits.Protocol.ContentsBytes = 4000, 2000
	}
	large := `{"rid":"orn:x:big","contents":{"s":"` + strings.Repeat("x", 1500) + `"}}`
	for _, tt := range []struct {
		name     string
		body     string
		accepted int
		batches  []int
		line     int
		status   int
		message  string
	}{
		{"batches", lines(10, nil), 10, []int{4, 4, 2}, 0, 0, ""},
		{"no last newline", strings.TrimSuffix(lines(2, nil), "\n"), 2, []int{2}, 0, 0, ""},
		{"blank lines", "\n \r\n" + lines(2, nil) + "\n\n", 2, []int{2}, 0, 0, ""},
		{"nothing", "", 0, nil, 0, 0, ""},
		{"bytes end a batch", lines(3, map[int]string{1: large}), 3, []int{1, 2}, 0, 0, ""},
		{"no JSON", lines(8, map[int]string{7: "nonsense"}), 6, []int{4, 2}, 7, 400, "line 7: "},
		{"first line", lines(3, map[int]string{1: `{"rid":1}`}), 0, nil, 1, 400, "line 1: "},
		{"blank lines count", "\n\n" + lines(2, map[int]string{2: "{}"}), 1, []int{1}, 4, 400, "line 4: rid"},
		{"bad RID", lines(5, map[int]string{5: `{"rid":"x","contents":{}}`}), 4, []int{4}, 5, 400, "line 5: rid: invalid RID"},
		{"contents missing", lines(2, map[int]string{2: `{"rid":"a:b"}`}), 1, []int{1}, 2, 400, "one JSON object"},
		{"contents too large", lines(2, map[int]string{2: `{"rid":"a:b","contents":{"s":"` + strings.Repeat("x", 2000) + `"}}`}), 1, []int{1}, 2, 413, "line 2"},
		{"line too long", lines(3, map[int]string{2: strings.Repeat(" ", 5000)}), 1, []int{1}, 2, 413, "line 2: too large: a line exceeds 4000 bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := serve(t, small)
			res, err := f.PutStream(t.Context(), strings.NewReader(tt.body))
			if res.Accepted != tt.accepted || fmt.Sprint(f.backend.batches) != fmt.Sprint(tt.batches) {
				t.Errorf("accepted %d in batches %v, want %d in %v", res.Accepted, f.backend.batches, tt.accepted, tt.batches)
			}
			if tt.status == 0 {
				if err != nil {
					t.Error(err)
				}
				return
			}
			var answer *client.Error
			if !errors.As(err, &answer) || answer.Status != tt.status || answer.Line != tt.line || !strings.Contains(answer.Message, tt.message) {
				t.Errorf("error %#v, want status %d at line %d with %q", err, tt.status, tt.line, tt.message)
			}
		})
	}
}

func TestPutStreamBackendErrors(t *testing.T) {
	for _, tt := range []struct {
		name    string
		err     error
		line    int
		is      error
		message string
	}{
		{"an item", &ItemError{Index: 1, Err: fmt.Errorf("%w: too deep", ErrInvalid)}, 6, client.ErrBadRequest, "line 6: invalid request: too deep"},
		{"a batch", store.ErrFull, 5, client.ErrStoreFull, "lines 5 to 8: store full"},
		{"an index out of range", &ItemError{Index: 9, Err: ErrInvalid}, 5, client.ErrBadRequest, "lines 5 to 8: item 9"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := serve(t, func(c *Config) { c.Limits.BatchItems = 4 })
			f.backend.putErr = func(items []client.PutItem) error {
				if items[0].RID == "orn:x:5" {
					return tt.err
				}
				return nil
			}
			// The rest of the body is far larger than what a socket takes in.
			res, err := f.PutStream(t.Context(), strings.NewReader(lines(100_000, nil)))
			var answer *client.Error
			if !errors.As(err, &answer) || !errors.Is(err, tt.is) || answer.Line != tt.line || !strings.Contains(answer.Message, tt.message) {
				t.Errorf("error %v, want %v at line %d with %q", err, tt.is, tt.line, tt.message)
			}
			if res.Accepted != 4 {
				t.Errorf("accepted %d, want 4", res.Accepted)
			}
		})
	}
	f := serve(t, nil)
	f.backend.putErr = func([]client.PutItem) error { return &ItemError{Err: ErrConflict} }
	if _, err := f.Put(t.Context(), "a:b", json.RawMessage(`{}`)); !errors.Is(err, client.ErrConflict) || strings.Contains(err.Error(), "item") {
		t.Errorf("single put: %v", err)
	}
}

func TestCheckListen(t *testing.T) {
	for _, tt := range []struct {
		addr       string
		token, tls bool
		ok         bool
	}{
		{"", false, false, true},
		{"127.0.0.1:8081", false, false, true},
		{"127.9.9.9:0", false, false, true},
		{"[::1]:8081", false, false, true},
		{"[::ffff:127.0.0.1]:8081", false, false, true},
		{"localhost:8081", false, false, true},
		{":8081", false, false, false},
		{"0.0.0.0:8081", true, false, false},
		{"0.0.0.0:8081", false, true, false},
		{"0.0.0.0:8081", true, true, true},
		{"10.1.2.3:8081", false, false, false},
		{"localhost.example:8081", false, false, false},
		{"[::]:8081", true, true, true},
	} {
		err := CheckListen(tt.addr, tt.token, tt.tls)
		if (err == nil) != tt.ok || err != nil && !errors.Is(err, ErrExposed) {
			t.Errorf("CheckListen(%q, %v, %v) = %v", tt.addr, tt.token, tt.tls, err)
		}
	}
	if err := CheckListen("8081", true, true); err == nil || errors.Is(err, ErrExposed) {
		t.Errorf("an address without a port: %v", err)
	}
}

func TestMetricsHandler(t *testing.T) {
	srv := httptest.NewServer(MetricsHandler(prometheus.NewRegistry()))
	defer srv.Close()
	if code, _ := ask(t, "GET", srv.URL+"/metrics", ""); code != 200 {
		t.Errorf("metrics: %d", code)
	}
	if code, _ := ask(t, "GET", srv.URL+client.BasePath+"/status", ""); code != 404 {
		t.Errorf("the metrics listener serves the API: %d", code)
	}
}

// FuzzRequests holds every route to its word: whatever comes, the answer is
// JSON with a known status, and nothing panics.
func FuzzRequests(f *testing.F) {
	f.Add("GET", "/bundles/orn%3Ax%3Aa%2Fb", "")
	f.Add("PUT", "/bundles/a:b", `{"contents":{}}`)
	f.Add("POST", "/bundles", lines(3, map[int]string{2: "x"}))
	f.Add("PUT", "/policy/a:b/c:d", `{"verdict":"Approved","ridTypes":["x"]}`)
	f.Add("POST", "/edges", `{"source":"a:b","ridTypes":["orn:x"],"edgeType":"POLL"}`)
	f.Add("GET", "/rids?type=a&limit=3&after=b:c", "")
	h := New(Config{Backend: newFake(), Feed: NewFeed("s", 4, nil)})
	f.Fuzz(func(t *testing.T, method, path, body string) {
		if strings.HasPrefix(path, "/watch") {
			return // a stream
		}
		u, err := url.Parse("http://127.0.0.1" + client.BasePath + path)
		if err != nil {
			return
		}
		req, err := http.NewRequest(method, "http://127.0.0.1/", strings.NewReader(body))
		if err != nil {
			return
		}
		req.URL = u
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req)
		if w.Code >= 500 {
			t.Fatalf("%s %s: %d %s", method, path, w.Code, w.Body)
		}
		if w.Body.Len() > 0 && !json.Valid(w.Body.Bytes()) {
			t.Fatalf("%s %s: %s", method, path, w.Body)
		}
	})
}
