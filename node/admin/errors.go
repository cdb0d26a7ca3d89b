package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/koi-net/koi-operator/node/admin/client"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

// errTooLarge: a body, line or value exceeds its bound; 413.
var errTooLarge = errors.New("too large")

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrInvalid, fmt.Errorf(format, args...))
}

// classify maps an error to an HTTP status and a stable code.
func classify(err error) (status int, code string) {
	var tooLarge *http.MaxBytesError
	var validation *protocol.ValidationError
	switch {
	case errors.As(err, &tooLarge), errors.Is(err, errTooLarge):
		return http.StatusRequestEntityTooLarge, client.CodeTooLarge
	case errors.Is(err, store.ErrNotFound):
		return http.StatusNotFound, client.CodeNotFound
	case errors.Is(err, ErrConflict):
		return http.StatusConflict, client.CodeConflict
	case errors.Is(err, ErrInvalid), errors.Is(err, rid.ErrInvalid), errors.As(err, &validation):
		return http.StatusBadRequest, client.CodeBadRequest
	case errors.Is(err, store.ErrFull):
		return http.StatusInsufficientStorage, client.CodeStoreFull
	case errors.Is(err, ErrUnavailable), errors.Is(err, store.ErrClosed),
		errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return http.StatusServiceUnavailable, client.CodeUnavailable
	case errors.Is(err, store.ErrDamaged):
		return http.StatusInternalServerError, client.CodeStoreDamaged
	}
	return http.StatusInternalServerError, client.CodeInternal
}

// lineError is a failure at one line of a stream, and what went before it.
type lineError struct {
	line   int
	result client.PutResult
	err    error
}

func (e *lineError) Error() string { return e.err.Error() }
func (e *lineError) Unwrap() error { return e.err }

// fail answers err.
func (s *server) fail(w http.ResponseWriter, r *http.Request, err error) {
	status, code := classify(err)
	if status == http.StatusInternalServerError {
		s.log.ErrorContext(r.Context(), "admin call failed", "method", r.Method, "path", r.URL.EscapedPath(), "error", err)
	}
	body := client.ErrorBody{Error: client.ErrorDetail{Code: code, Message: err.Error()}}
	var line *lineError
	if errors.As(err, &line) {
		body.Error.Line, body.Result = line.line, &line.result
	}
	s.writeError(w, status, body)
}

func (s *server) writeError(w http.ResponseWriter, status int, body client.ErrorBody) {
	if status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "1")
	}
	s.write(w, status, body)
}

// write answers v as JSON.
func (s *server) write(w http.ResponseWriter, status int, v any) {
	var body bytes.Buffer
	enc := json.NewEncoder(&body)
	enc.SetEscapeHTML(false) // contents leave as they are stored
	if err := enc.Encode(v); err != nil {
		s.log.Error("admin answer cannot be encoded", "error", err)
		status = http.StatusInternalServerError
		body.Reset()
		body.WriteString(`{"error":{"code":"internal","message":"the answer cannot be encoded as JSON; see the node's log"}}`)
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	// A client that went away does not want to be told.
	_, _ = body.WriteTo(w)
}
