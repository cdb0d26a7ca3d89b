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

// call makes a handler of fn: within the concurrency bound, measured, with
// errors answered and panics contained.
func (s *server) call(name string, fn func(*http.Request, *answer) error) http.HandlerFunc {
	duration := s.metrics.duration.WithLabelValues(name)
	return func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		a := newAnswer(w)
		a.program = r.UserAgent()
		if s.product != "" {
			w.Header().Set("Server", s.product)
		}
		defer a.recycle()
		status := http.StatusInternalServerError
		defer func() {
			s.metrics.requests.WithLabelValues(name, strconv.Itoa(status), a.generation).Inc()
			duration.Observe(time.Since(began).Seconds())
		}()

		defer s.leave(a)
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

// plain makes the handler of a call without a body.
func (s *server) plain(name string, fn func(*http.Request, *answer) error) http.HandlerFunc {
	return s.call(name, func(r *http.Request, a *answer) error {
		if err := s.enter(r.Context(), a); err != nil {
			return err
		}
		return fn(r, a)
	})
}

// enter makes a call one of those at once, or refuses it. It does so when the body
// is there: a head without a body must not take the place of a call.
func (s *server) enter(ctx context.Context, a *answer) error {
	if !s.gate.enter(ctx) {
		return errOverload
	}
	a.entered = true
	s.metrics.inFlight.Inc()
	return nil
}

func (s *server) leave(a *answer) {
	if a.entered {
		s.metrics.inFlight.Dec()
		s.gate.leave()
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
		if err := s.enter(r.Context(), a); err != nil {
			return err
		}
		if protocol.IsEnvelope(raw) {
			a.generation = generationSigned
			call, from, err := opened[Call](s, raw, a.program)
			if err != nil {
				return err
			}
			a.seal = newSeal(s.identity, from.RID, s.peers.FloatStyle(from.RID))
			return serve(r.Context(), a, from, call)
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

// opened reads an envelope and verifies it. The text that was signed is as long as
// the body and needed for the verification alone.
func opened[Call protocol.Payload](s *server, raw []byte, userAgent string) (call Call, from Sender, err error) {
	block := s.blocks.get(s.blocks.sizeOf(int64(len(raw))))
	defer s.blocks.put(block)
	e, err := protocol.DecodeEnvelopeInto[Call](*block, raw, s.limits)
	if err != nil {
		return call, Sender{}, err
	}
	from, err = verify(s, e, userAgent)
	return e.Payload, from, err
}

func decodeBroadcast(body []byte, l protocol.Limits) (protocol.EventsPayload, error) {
	events, err := protocol.DecodeBroadcast(body, l)
	return events, err
}

// body reads a request's body within all bounds. release gives its room back
// and must be called in any case, once nothing of the body is used any more.
func (s *server) body(a *answer, r *http.Request) (raw []byte, release func(), err error) {
	m := &room{budget: s.budget, blocks: &s.blocks}
	if enc := r.Header.Get("Content-Encoding"); enc != "" && !strings.EqualFold(enc, "identity") {
		return nil, m.release, errEncoding
	}
	limit := s.limits.BodyBytes
	if r.ContentLength > limit {
		return nil, m.release, tooLarge(limit)
	}
	if !isJSON(r.Header.Get("Content-Type")) {
		return nil, m.release, errContentType
	}

	in := http.MaxBytesReader(a.w, r.Body, limit)
	// How much is said to come is believed once it comes.
	most := limit + 1 // room to see the end
	next := int64(leastRoom)
	if r.ContentLength >= 0 {
		most = r.ContentLength + 1
		next = min(most, freeBytes)
	}
	for {
		if m.block == nil || len(*m.block) == cap(*m.block) {
			if !m.grow(next) {
				return nil, m.release, errMemory
			}
			next = max(min(4*int64(cap(*m.block)), most), int64(cap(*m.block))+1)
		}
		buf := *m.block
		n, err := in.Read(buf[len(buf):cap(buf)])
		*m.block = buf[:len(buf)+n]
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, m.release, bodyError(err)
		}
	}
	return *m.block, m.release, nil
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
