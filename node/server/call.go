package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/koi-net/koi-operator/node/protocol"
)

// freeBytes of a body are not counted in the budget: what fits in them is
// bounded by the number of concurrent requests already, so small calls get
// through while large ones take all the room.
const freeBytes = 64 << 10

// call makes a handler of fn: within the concurrency bound, measured, with
// errors answered and panics contained.
func (s *server) call(name string, fn func(*http.Request, *answer) error) http.HandlerFunc {
	duration := s.metrics.duration.WithLabelValues(name)
	return func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		a := newAnswer(w)
		if s.product != "" {
			w.Header().Set("Server", s.product)
		}
		defer a.recycle()
		status := http.StatusInternalServerError
		defer func() {
			s.metrics.requests.WithLabelValues(name, strconv.Itoa(status), a.generation).Inc()
			duration.Observe(time.Since(began).Seconds())
		}()

		if !s.gate.enter(r.Context()) {
			status = s.fail(a, r, name, errOverload)
			return
		}
		defer s.gate.leave()
		s.metrics.inFlight.Inc()
		defer s.metrics.inFlight.Dec()

		err := contain(fn, r, a)
		if err == nil {
			err = a.finish()
		}
		status = http.StatusOK
		if err != nil {
			status = s.fail(a, r, name, err)
			if a.sent || status == statusClientClosed {
				// Cutting the connection is the only way left to say that
				// the answer is not whole.
				panic(http.ErrAbortHandler)
			}
		}
	}
}

func contain(fn func(*http.Request, *answer) error, r *http.Request, a *answer) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %v\n%s", v, debug.Stack())
		}
	}()
	return fn(r, a)
}

// post makes the handler of one call: bytes to body, body to call, call to
// answer. A signed envelope is told from the unsigned call by its fields, and
// answered by one.
func post[Call protocol.Payload](s *server, name string, decode func([]byte, protocol.Limits) (Call, error),
	serve func(ctx context.Context, a *answer, from Sender, call Call) error) http.HandlerFunc {
	return s.call(name, func(r *http.Request, a *answer) error {
		raw, release, err := s.body(a, r)
		defer release()
		if err != nil {
			return err
		}
		if protocol.IsEnvelope(raw) {
			a.generation = generationSigned
			e, err := protocol.DecodeEnvelope[Call](raw, s.limits)
			if err != nil {
				return err
			}
			from, err := verify(s, e, r.UserAgent())
			if err != nil {
				return err
			}
			a.seal = newSeal(s.identity, from.RID, s.peers.FloatStyle(from.RID))
			return serve(r.Context(), a, from, e.Payload)
		}
		a.generation = generationUnsigned
		if s.denyUnsigned {
			return errUnsigned
		}
		call, err := decode(raw, s.limits)
		if err != nil {
			return err
		}
		return serve(r.Context(), a, Sender{}, call)
	})
}

func decodeBroadcast(body []byte, l protocol.Limits) (protocol.EventsPayload, error) {
	events, err := protocol.DecodeBroadcast(body, l)
	return events, err
}

// body reads a request's body within all bounds. release gives its room back
// and must be called in any case, once nothing of the body is used any more.
func (s *server) body(a *answer, r *http.Request) (raw []byte, release func(), err error) {
	var held int64
	release = func() { s.budget.give(held) }
	if enc := r.Header.Get("Content-Encoding"); enc != "" && !strings.EqualFold(enc, "identity") {
		return nil, release, errEncoding
	}
	limit := s.limits.BodyBytes
	if r.ContentLength > limit {
		return nil, release, tooLarge(limit)
	}
	if !isJSON(r.Header.Get("Content-Type")) {
		return nil, release, errContentType
	}

	in := http.MaxBytesReader(a.w, r.Body, limit)
	size := int64(4 << 10)
	if r.ContentLength >= 0 {
		size = r.ContentLength + 1 // room to see the end
	}
	buf := make([]byte, 0, min(size, freeBytes))
	for {
		if len(buf) == cap(buf) {
			next := min(2*int64(cap(buf)), limit+1)
			if r.ContentLength >= 0 {
				next = min(next, r.ContentLength+1)
			}
			next = max(next, int64(cap(buf))+1)
			if need := next - freeBytes - held; need > 0 {
				if !s.budget.take(need) {
					return nil, release, errMemory
				}
				held += need
			}
			buf = append(make([]byte, 0, next), buf...)
		}
		n, err := in.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, release, bodyError(err)
		}
	}
	return buf, release, nil
}

func bodyError(err error) error {
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return err
	case errors.Is(err, os.ErrDeadlineExceeded):
		return errBodyTimeout
	default:
		return fmt.Errorf("%w: %w", errAborted, err)
	}
}

// isJSON says whether a body of the content type is read as JSON, by the
// reference's rule. Clients of koi-net 1.0 to 1.2 send none.
func isJSON(contentType string) bool {
	if contentType == "" {
		return true
	}
	media, _, err := mime.ParseMediaType(contentType)
	if err != nil && !errors.Is(err, mime.ErrInvalidMediaParameter) {
		return false
	}
	return media == "application/json" || strings.HasPrefix(media, "application/") && strings.HasSuffix(media, "+json")
}
