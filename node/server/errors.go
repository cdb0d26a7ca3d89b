package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/store"
)

// statusClientClosed is what metrics call an answer nobody waited for.
const statusClientClosed = 499

// Ways in which a peer ends a request before its time.
var (
	errAborted = errors.New("the body ended early")
	errTooSlow = errors.New("the peer took the answer in too slowly")
	errGone    = errors.New("the peer did not take the answer in")
)

// refusal is an error with an answer of its own.
type refusal struct {
	status     int
	reason     string // of the metric
	detail     string // tells the peer what was wrong and what to do
	header     [2]string
	connection bool // close it: the rest of the body is not worth reading
}

func (r *refusal) Error() string { return r.detail }

var (
	errOverload = &refusal{status: http.StatusServiceUnavailable, reason: reasonOverload,
		detail: "too many requests at once; try again later", header: [2]string{"Retry-After", "1"}, connection: true}
	errMemory = &refusal{status: http.StatusServiceUnavailable, reason: reasonMemory,
		detail: "too many large requests at once; try again later or send less at once", header: [2]string{"Retry-After", "1"}, connection: true}
	errNotReady = &refusal{status: http.StatusServiceUnavailable, reason: reasonOverload,
		detail: "this node is still starting; try again later", header: [2]string{"Retry-After", "1"}}
	errEncoding = &refusal{status: http.StatusUnsupportedMediaType, reason: reasonEncoding,
		detail: "compressed bodies are not accepted; send the JSON text as it is", header: [2]string{"Accept-Encoding", "identity"}, connection: true}
	errUnsigned = &refusal{status: http.StatusForbidden, reason: reasonUnsigned,
		detail: "this node takes signed envelopes only (KOI-net 1.1 and later); sign the call"}
	errBodyTimeout = &refusal{status: http.StatusRequestTimeout, reason: reasonAborted,
		detail: "the body did not arrive in time; send less at once", connection: true}
	errContentType = &protocol.ValidationError{Details: []protocol.Detail{{
		Type: "model_attributes_type", Loc: []any{"body"},
		Msg: "Input should be a valid dictionary or object to extract fields from; send JSON, with Content-Type application/json or none",
	}}}
)

func tooLarge(limit int64) *refusal {
	return &refusal{status: http.StatusRequestEntityTooLarge, reason: reasonTooLarge, connection: true,
		detail: fmt.Sprintf("the body is larger than %d bytes; send less at once", limit)}
}

// fail answers a request that could not be served and returns the status for
// the metrics. Where the answer has begun, the connection is cut by the caller.
func (s *server) fail(a *answer, r *http.Request, call string, err error) int {
	var (
		ref     *refusal
		invalid *protocol.ValidationError
		denied  protocol.ErrorResponse
		large   *http.MaxBytesError
	)
	switch {
	case errors.As(err, &ref):
	case errors.As(err, &denied):
		s.metrics.refused.WithLabelValues(string(denied.Code)).Inc()
		s.log.Debug("refused an envelope", "call", call, "remote", r.RemoteAddr, "code", denied.Code)
		writeJSON(a.w, http.StatusBadRequest, protocol.EncodeErrorResponse(denied))
		return http.StatusBadRequest
	case errors.As(err, &invalid):
		s.metrics.refused.WithLabelValues(reasonInvalid).Inc()
		s.log.Debug("refused an invalid body", "call", call, "remote", r.RemoteAddr, "error", err)
		body, err := json.Marshal(invalid)
		if err != nil {
			s.log.Error("could not encode a refusal", "call", call, "error", err)
			body = []byte(`{"detail":[]}`)
		}
		writeJSON(a.w, http.StatusUnprocessableEntity, body)
		return http.StatusUnprocessableEntity
	case errors.As(err, &large):
		ref = tooLarge(large.Limit)
	case errors.Is(err, protocol.ErrTooLarge):
		ref = tooLarge(s.limits.BodyBytes)
	case errors.Is(err, ErrBusy):
		ref = errOverload
	case errors.Is(err, store.ErrClosed):
		ref = &refusal{status: http.StatusServiceUnavailable, reason: reasonOverload,
			detail: "this node is shutting down; try again later", header: errOverload.header, connection: true}
	case errors.Is(err, store.ErrFull):
		ref = &refusal{status: http.StatusInsufficientStorage, reason: reasonFull,
			detail: "this node's store is full; nothing of the request was kept", header: [2]string{"Retry-After", "30"}}
	case r.Context().Err() != nil, errors.Is(err, context.Canceled),
		errors.Is(err, errAborted), errors.Is(err, errTooSlow), errors.Is(err, errGone):
		s.metrics.refused.WithLabelValues(reasonAborted).Inc()
		s.log.Debug("the peer left before the answer was whole", "call", call, "remote", r.RemoteAddr, "error", err)
		return statusClientClosed
	default:
		s.log.Error("could not answer a peer", "call", call, "remote", r.RemoteAddr, "error", err)
		if !a.sent {
			writeDetail(a.w, http.StatusInternalServerError, "Internal Server Error")
		}
		return http.StatusInternalServerError
	}
	s.metrics.refused.WithLabelValues(ref.reason).Inc()
	s.log.Debug("refused a request", "call", call, "remote", r.RemoteAddr, "status", ref.status, "error", err)
	if a.sent {
		return ref.status
	}
	if ref.header[0] != "" {
		a.w.Header().Set(ref.header[0], ref.header[1])
	}
	if ref.connection {
		a.w.Header().Set("Connection", "close")
	}
	writeDetail(a.w, ref.status, ref.detail)
	return ref.status
}

// writeDetail writes an error in the reference's shape {"detail": "..."}.
func writeDetail(w http.ResponseWriter, status int, detail string) {
	body := protocol.AppendString([]byte(`{"detail":`), detail)
	writeJSON(w, status, append(body, '}'))
}

func writeJSON(w http.ResponseWriter, status int, body []byte) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	// Whether the peer takes the refusal in changes nothing.
	_, _ = w.Write(body)
}
