package peer

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"strconv"
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
	if err == nil {
		return taken
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
			if d.Type == "json_invalid" || len(d.Loc) > 1 && d.Loc[1] == "events" {
				return refused
			}
		}
		return retry // it misses a field that no event has: not this generation
	}
	return retry
}

// outcome names the outcome of a request for the metrics.
func outcome(err error) string {
	var status *StatusError
	var timeout net.Error
	switch {
	case err == nil:
		return "ok"
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
