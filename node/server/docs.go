package server

import (
	"bytes"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/koi-net/koi-operator/node/server/apidocs"
)

// file answers with one of the files of the page that shows the OpenAPI document,
// within the bound on requests served at once.
func (s *server) file(f apidocs.File) http.HandlerFunc {
	return s.plain("docs", func(r *http.Request, a *answer) error { return a.file(r, f) })
}

// file sends the file, compressed to whoever takes that, or that the caller's copy
// is current.
func (a *answer) file(r *http.Request, f apidocs.File) error {
	h := a.w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", apidocs.Policy)
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	packed, etag, size := f.Gzip(), f.ETag, f.Size
	if packed != nil {
		h.Set("Vary", "Accept-Encoding")
		if !takesGzip(r.Header.Values("Accept-Encoding")) {
			packed = nil
		}
	}
	if packed != nil {
		etag, size = strings.TrimSuffix(etag, `"`)+`-gzip"`, len(packed)
	}
	if !a.changed(r, etag) {
		return nil
	}
	var in io.Reader = bytes.NewReader(packed)
	if packed == nil {
		var err error
		if in, err = f.Open(); err != nil {
			return err
		}
	} else {
		h.Set("Content-Encoding", "gzip")
	}
	h.Set("Content-Type", f.ContentType)
	h.Set("Content-Length", strconv.Itoa(size))
	if r.Method == http.MethodHead {
		a.head(http.StatusOK)
		return nil
	}
	_, err := io.Copy(a, in)
	return err
}

// head sends the head of an answer without a body, which is whole with that.
func (a *answer) head(status int) {
	a.w.WriteHeader(status)
	a.sent = true
}

// changed names what is to be sent by its ETag, and reports whether the caller has no
// copy of that; where it has one the answer, 304, is given. A copy has to be checked
// each time: it changes with the node's settings and its program.
func (a *answer) changed(r *http.Request, etag string) bool {
	h := a.w.Header()
	h.Set("ETag", etag)
	h.Set("Cache-Control", "no-cache")
	if !isCurrent(r.Header.Values("If-None-Match"), etag) {
		return true
	}
	a.head(http.StatusNotModified)
	return false
}

// isCurrent reports whether one of the ETags of If-None-Match is etag.
func isCurrent(fields []string, etag string) bool {
	for _, field := range fields {
		for tag := range strings.SplitSeq(field, ",") {
			tag = strings.TrimPrefix(strings.TrimSpace(tag), "W/")
			if tag == etag || tag == "*" {
				return true
			}
		}
	}
	return false
}

// takesGzip reports whether a caller with these fields of Accept-Encoding takes a
// gzip-compressed answer.
func takesGzip(fields []string) bool {
	anything := false
	for _, field := range fields {
		for item := range strings.SplitSeq(field, ",") {
			coding, weight, _ := strings.Cut(item, ";")
			switch strings.ToLower(strings.TrimSpace(coding)) {
			case "gzip":
				return isWanted(weight)
			case "*":
				anything = isWanted(weight)
			}
		}
	}
	return anything
}

// isWanted reports whether the weight of a coding ("q=0.5"; none is 1) is above 0.
func isWanted(weight string) bool {
	name, value, found := strings.Cut(strings.TrimSpace(weight), "=")
	if !found {
		return strings.TrimSpace(weight) == ""
	}
	q, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
	return strings.EqualFold(strings.TrimSpace(name), "q") && err == nil && q > 0 && q <= 1
}
