package server

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/koi-net/koi-operator/node/server/apidocs"
)

func docsFiles(t *testing.T) []apidocs.File {
	t.Helper()
	files, err := apidocs.Files()
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestDocsServed(t *testing.T) {
	f := newFixture(t)
	for base, prefixes := range map[string][]string{
		"/koi-net":         {"/koi-net", ""},
		"":                 {""},
		"/":                {""},
		"/behind/a proxy/": {"/behind/a%20proxy"},
	} {
		f.BasePath, f.Metrics = base, nil
		h := f.handler(t)
		for _, prefix := range prefixes {
			for _, file := range docsFiles(t) {
				w := do(h, "GET", prefix+file.Path, "")
				if w.Code != 200 || w.Body.Len() != file.Size || w.Header().Get("Content-Type") != file.ContentType {
					t.Fatalf("base %q, %s%s: %d, %d of %d bytes, %v", base, prefix, file.Path, w.Code, w.Body.Len(), file.Size, w.Header())
				}
				for name, want := range map[string]string{
					"Content-Security-Policy": apidocs.Policy, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache", "Referrer-Policy": "no-referrer",
				} {
					if got := w.Header().Get(name); got != want {
						t.Errorf("%s: %s: %q", file.Path, name, got)
					}
				}
				for _, method := range []string{"POST", "PUT", "DELETE", "OPTIONS"} {
					if w := do(h, method, prefix+file.Path, "{}"); w.Code != 405 || w.Header().Get("Allow") != "GET, HEAD" {
						t.Errorf("%s %s: %d %v", method, file.Path, w.Code, w.Header())
					}
				}
			}
			at, err := url.Parse("http://node" + prefix + "/docs/")
			if err != nil {
				t.Fatal(err)
			}
			w := do(h, "GET", at.EscapedPath(), "")
			to, err := at.Parse(w.Header().Get("Location"))
			if w.Code != 307 || err != nil || to.EscapedPath() != prefix+"/docs" || strings.HasPrefix(w.Header().Get("Location"), "/") {
				t.Errorf("base %q, %s: %d to %s (%v)", base, at, w.Code, to, err)
			}
		}
	}
	for _, path := range []string{"/elsewhere/docs", "/koi-net/docs/SHA256SUMS", "/koi-net/docs/page.html", "/koi-net/docs/../docs.go", "/koi-net/docs/x"} {
		if w := do(f.handler(t), "GET", path, ""); w.Code != 404 {
			t.Errorf("%s: %d", path, w.Code)
		}
		f.Metrics = nil
	}
}

func TestDocsLeftOut(t *testing.T) {
	f := newFixture(t)
	f.NoDocs = true
	h := f.handler(t)
	for _, path := range []string{"/koi-net/docs", "/docs", "/koi-net/docs/", "/koi-net/docs/swagger-ui.css"} {
		if w := do(h, "GET", path, ""); w.Code != 404 {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
	if w := do(h, "GET", "/koi-net/openapi.json", ""); w.Code != 200 {
		t.Errorf("the document: %d", w.Code)
	}
}

// TestDocsOverAConnection asks for compressed and plain files, and for their heads,
// as browsers and others do.
func TestDocsOverAConnection(t *testing.T) {
	f := newFixture(t)
	s := f.serve(t)
	client := &http.Client{Transport: &http.Transport{DisableCompression: true}}
	defer client.CloseIdleConnections()
	ask := func(method, path string, header ...string) (*http.Response, []byte) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, s.URL+"/koi-net"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatalf("%s %s: %v", method, path, err)
		}
		return res, body
	}
	for _, file := range docsFiles(t) {
		plain, content := ask("GET", file.Path)
		if plain.Header.Get("Content-Encoding") != "" || len(content) != file.Size || plain.ContentLength != int64(file.Size) {
			t.Errorf("%s: %d of %d bytes, %v", file.Path, len(content), file.Size, plain.Header)
		}
		packed, sent := ask("GET", file.Path, "Accept-Encoding", "br, gzip")
		unpacked := sent
		if isPacked := packed.Header.Get("Content-Encoding") == "gzip"; isPacked != (file.Gzip() != nil) {
			t.Errorf("%s: %v", file.Path, packed.Header)
		} else if isPacked {
			z, err := gzip.NewReader(bytes.NewReader(sent))
			if err != nil {
				t.Fatal(err)
			}
			if unpacked, err = io.ReadAll(z); err != nil {
				t.Fatal(err)
			}
			if packed.Header.Get("ETag") == plain.Header.Get("ETag") || packed.Header.Get("Vary") != "Accept-Encoding" || plain.Header.Get("Vary") != "Accept-Encoding" {
				t.Errorf("%s: a cache could give one out for the other: %v, %v", file.Path, plain.Header, packed.Header)
			}
		}
		if !bytes.Equal(unpacked, content) {
			t.Errorf("%s: compressed it is another file", file.Path)
		}
		for _, x := range []struct {
			encoding string
			of       *http.Response
		}{{"identity", plain}, {"gzip", packed}} {
			etag := x.of.Header.Get("ETag")
			head, none := ask("HEAD", file.Path, "Accept-Encoding", x.encoding)
			if head.StatusCode != 200 || len(none) != 0 || head.ContentLength != x.of.ContentLength || head.Header.Get("ETag") != etag ||
				head.Header.Get("Content-Encoding") != x.of.Header.Get("Content-Encoding") || head.Header.Get("Content-Type") != file.ContentType {
				t.Errorf("HEAD %s (%s): %d, %v", file.Path, x.encoding, head.StatusCode, head.Header)
			}
			for match, status := range map[string]int{etag: 304, "W/" + etag: 304, "*": 304, `"a"`: 200} {
				res, body := ask("GET", file.Path, "Accept-Encoding", x.encoding, "If-None-Match", match)
				if res.StatusCode != status || (len(body) == 0) != (status == 304) || res.Header.Get("ETag") != etag {
					t.Errorf("%s (%s), If-None-Match %s: %d, %d bytes, %v", file.Path, x.encoding, match, res.StatusCode, len(body), res.Header)
				}
			}
		}
	}
}

// TestDocsAreWithinTheBounds holds the page to the bound on requests served at once.
func TestDocsAreWithinTheBounds(t *testing.T) {
	f := newFixture(t)
	f.Concurrency, f.BacklogWait = 1, 1
	f.inbox.inside, f.inbox.hold = make(chan struct{}), make(chan struct{})
	h := f.handler(t)
	done := make(chan int, 1)
	go func() {
		done <- do(h, "POST", "/koi-net/events/broadcast", `{"events":[{"rid":"orn:test.doc:1","event_type":"FORGET"}]}`).Code
	}()
	select {
	case <-f.inbox.inside:
	case code := <-done:
		t.Fatalf("the broadcast ended before its time: %d", code)
	}
	for _, path := range []string{"/koi-net/docs", "/koi-net/docs/swagger-ui-bundle.js"} {
		if w := do(h, "GET", path, ""); w.Code != 503 || w.Header().Get("Retry-After") == "" || w.Header().Get("Content-Type") != "application/json" {
			t.Errorf("%s: %d %v", path, w.Code, w.Header())
		}
	}
	close(f.inbox.hold)
	if code := <-done; code != 200 {
		t.Errorf("the broadcast: %d", code)
	}
}

// deaf takes so many bytes and then no more.
type deaf struct {
	http.ResponseWriter
	left int
}

func (d *deaf) Write(p []byte) (int, error) {
	if d.left -= len(p); d.left < 0 {
		return 0, errors.New("nobody listens")
	}
	return d.ResponseWriter.Write(p)
}

// TestDocsToOneWhoLeaves cuts a file that is not taken in.
func TestDocsToOneWhoLeaves(t *testing.T) {
	f := newFixture(t)
	h := f.handler(t)
	cut := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if v := recover(); v != any(http.ErrAbortHandler) {
				t.Errorf("the answer was not cut: %v", v)
			}
		}()
		h.ServeHTTP(&deaf{w, partBytes + 1}, r)
	})
	do(cut, "GET", "/koi-net/docs/swagger-ui-bundle.js", "")
	do(cut, "GET", "/koi-net/docs/swagger-ui-bundle.js", "", "Accept-Encoding", "gzip")
}

func TestTakesGzip(t *testing.T) {
	for text, want := range map[string]bool{
		"": false, "gzip": true, "br": false, "br, GZIP": true, "gzip;q=0": false, "gzip; q=0.0": false, "gzip;q=0.1": true,
		"*": true, "*;q=0": false, "*, gzip;q=0": false, "gzip;q=0, *": false, "identity, *;q=0.5": true, "gzip;x": false, "gzip;q=a": false,
		"gzip;q=NaN": false, "gzip;q=-1": false, "gzip;q=2": false, "xgzip": false, ", ,gzip": true, "gzip;q=": false, "gzip;q=1;q=0": false,
	} {
		if got := takesGzip([]string{text}); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
	if !takesGzip([]string{"br", "gzip"}) || takesGzip(nil) {
		t.Error("two fields, or none")
	}
}

func FuzzTakesGzip(f *testing.F) {
	for _, text := range []string{"gzip, deflate, br", "*;q=0.5, gzip;q=0", ";=,;q", "gzip;q=1e309"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(strings.ToLower(text), "gzip") || strings.Contains(text, "*") {
			return // either may be meant
		}
		if takesGzip([]string{text}) {
			t.Errorf("%s: gzip is not in it", strconv.Quote(text))
		}
	})
}
