package controllers_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// tap sees what operators write, all of it, on its way to the API server. It can
// refuse writes, and cut an operator off as its end would.
type tap struct {
	mu     sync.Mutex
	seen   []written
	refuse func(verb, path string) *metav1.Status
	left   int           // writes until the cut
	cut    chan struct{} // closed when it has come; nil where none is to come
}

// written is one request that would change something.
type written struct {
	verb, path string
	at         time.Time
}

func (w written) String() string { return w.verb + " " + w.path }

// beside tells whether the request is not the operator's work on its objects:
// Events and leases go their own ways.
func (w written) beside() bool {
	return strings.Contains(w.path, "/events") || strings.Contains(w.path, "/leases")
}

var errCut = errors.New("the operator was cut off")

func (t *tap) wrap(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		status, err := t.pass(r)
		switch {
		case err != nil:
			return nil, err
		case status != nil:
			return answer(r, status), nil
		}
		return next.RoundTrip(r)
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func (t *tap) pass(r *http.Request) (*metav1.Status, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.off() {
		return nil, errCut
	}
	if r.Method == http.MethodGet || strings.HasPrefix(r.URL.Path, "/apis/authorization.k8s.io/") {
		return nil, nil
	}
	w := written{verb: r.Method, path: short(r.URL.Path), at: time.Now()}
	if t.cut != nil && !w.beside() {
		if t.left == 0 {
			close(t.cut)
			return nil, errCut
		}
		t.left--
	}
	t.seen = append(t.seen, w)
	if t.refuse != nil {
		return t.refuse(w.verb, w.path), nil
	}
	return nil, nil
}

// off tells whether the cut has come; t.mu is held.
func (t *tap) off() bool {
	select {
	case <-t.cut:
		return true
	default: // also where none is to come
		return false
	}
}

// short is a path without what all have in common.
func short(path string) string {
	parts := strings.Split(path, "/")
	for i, p := range parts {
		if p == "namespaces" && i+2 < len(parts) {
			return strings.Join(parts[i+2:], "/")
		}
	}
	return path
}

func answer(r *http.Request, s *metav1.Status) *http.Response {
	s.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}
	text, err := json.Marshal(s)
	if err != nil {
		text = nil
	}
	return &http.Response{
		StatusCode: int(s.Code), Status: http.StatusText(int(s.Code)), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(bytes.NewReader(text)), Request: r,
	}
}

// refusing has writes refused from now on where f returns a status.
func (t *tap) refusing(f func(verb, path string) *metav1.Status) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.refuse = f
}

// cutAfter lets n more writes through, Events and leases aside, and nothing
// after them. The channel is closed when the write after them was attempted.
func (t *tap) cutAfter(n int) <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.left, t.cut = n, make(chan struct{})
	return t.cut
}

// sever lets nothing through from now on.
func (t *tap) sever() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.cut == nil {
		t.cut = make(chan struct{})
	}
	close(t.cut)
}

func (t *tap) reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.seen = nil
}

func (t *tap) writes() []written {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]written(nil), t.seen...)
}

func (t *tap) list() []string {
	var out []string
	for _, w := range t.writes() {
		out = append(out, w.String())
	}
	return out
}
