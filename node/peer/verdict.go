package peer

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"strconv"

	"github.com/koi-net/koi-operator/node/protocol"
)

// verdict is what the outcome of a request means for the events in it.
type verdict int

const (
	taken   verdict = iota // the peer has them
	retry                  // not now, or not there: they stay
	refused                // the peer refuses the body itself; again would be the same
)

// judge reads the outcome of a broadcast. Only answers that speak of the body
// count as refusals: a peer that is away, overloaded, moved, or of another
// generation may take the very same events later.
func judge(err error) verdict {
	switch {
	case err == nil:
		return taken
	case errors.Is(err, errIntroduction), errors.Is(err, ErrCircuitOpen):
		return retry // the events were not looked at
	case errors.Is(err, errBadEvent):
		return refused
	}
	var status *StatusError
	if !errors.As(err, &status) {
		return retry
	}
	switch status.Code {
	case http.StatusRequestEntityTooLarge:
		return refused
	case http.StatusBadRequest:
		var e struct {
			Type string `json:"type"`
		}
		if json.Unmarshal(status.Body, &e) == nil && e.Type == "error_response" {
			return retry // about who we are, not about what we say
		}
		return refused
	case http.StatusUnprocessableEntity:
		var e struct {
			Detail []struct {
				Type string `json:"type"`
				Loc  []any  `json:"loc"`
			} `json:"detail"`
		}
		if json.Unmarshal(status.Body, &e) != nil || len(e.Detail) == 0 {
			return refused
		}
		for _, d := range e.Detail {
			if d.Type == "json_invalid" || aboutEvents(d.Loc, d.Type) {
				return refused
			}
		}
		return retry // it misses a field that no event has: not this generation
	}
	return retry
}

// aboutEvents reports whether a location leads to the events of a body: to
// body.events, or in an envelope to body.payload.events. That there are none means
// that the body is of another generation than the peer takes.
func aboutEvents(loc []any, problem string) bool {
	if len(loc) > 1 && loc[1] == "payload" {
		loc = loc[1:]
	}
	return len(loc) > 1 && loc[1] == "events" && (problem != "missing" || len(loc) > 2)
}

// outcome names the outcome of a request for the metrics: one of a few names.
func outcome(err error) string {
	var refusal protocol.ErrorResponse
	var status *StatusError
	var timeout net.Error
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, ErrCircuitOpen):
		return "circuit_open"
	case errors.Is(err, ErrUnsignedPeer):
		return "denied"
	case errors.Is(err, ErrUnknownServer):
		return "unknown_server"
	case errors.Is(err, errBadEvent):
		return "bad_event"
	case errors.As(err, &refusal):
		return string(refusal.Code) // one of four
	case errors.As(err, &status):
		return strconv.Itoa(status.Code/100) + "xx"
	case errors.Is(err, ErrForbiddenAddress), errors.Is(err, ErrBadURL):
		return "forbidden"
	case errors.Is(err, ErrTooLarge), errors.Is(err, ErrBadAnswer):
		return "bad_answer"
	case errors.Is(err, context.Canceled):
		return "stopped"
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return "timeout"
	}
	return "network"
}
