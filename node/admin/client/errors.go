package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// What an *Error is, for errors.Is.
var (
	ErrBadRequest   = errors.New("bad request")
	ErrUnauthorized = errors.New("unauthorized")
	ErrNotFound     = errors.New("not found")
	ErrConflict     = errors.New("conflict")
	ErrTooLarge     = errors.New("too large")
	ErrStoreFull    = errors.New("store full")
	ErrStoreDamaged = errors.New("store damaged")
	ErrUnavailable  = errors.New("unavailable")
	// ErrBrokenOff: a backup did not come to its end.
	ErrBrokenOff = errors.New("the backup broke off")
	// ErrNotAdminAPI: the answer is none of a node's admin API.
	ErrNotAdminAPI = errors.New("not an admin API")
)

// Error is an answer with a status of 400 or above.
type Error struct {
	Status  int    // HTTP status
	Code    string // see the Code constants; "" where it is no admin API
	Message string
	// Line and Result are set where a PutStream failed midway.
	Line   int
	Result *PutResult
}

// Error returns the node's message.
func (e *Error) Error() string {
	if e.Code == "" {
		return fmt.Sprintf("the server answered %d %s, and not as an admin API would: %s", e.Status, http.StatusText(e.Status), e.Message)
	}
	return e.Message
}

// Is matches the sentinel errors of this package.
func (e *Error) Is(target error) bool {
	switch target {
	case ErrBadRequest:
		return e.Code == CodeBadRequest
	case ErrUnauthorized:
		return e.Code == CodeUnauthorized
	case ErrNotFound:
		return e.Code == CodeNotFound
	case ErrConflict:
		return e.Code == CodeConflict
	case ErrTooLarge:
		return e.Code == CodeTooLarge
	case ErrStoreFull:
		return e.Code == CodeStoreFull
	case ErrStoreDamaged:
		return e.Code == CodeStoreDamaged
	case ErrUnavailable:
		return e.Code == CodeUnavailable
	case ErrNotAdminAPI:
		return e.Code == ""
	}
	return false
}

func decodeError(status int, body []byte) error {
	var eb ErrorBody
	if err := json.Unmarshal(body, &eb); err != nil || eb.Error.Code == "" {
		text := strings.TrimSpace(string(body))
		if len(text) > maxErrorText {
			text = strings.ToValidUTF8(text[:maxErrorText], "") + "…"
		}
		return &Error{Status: status, Message: fmt.Sprintf("%q", text)}
	}
	return &Error{Status: status, Code: eb.Error.Code, Message: eb.Error.Message, Line: eb.Error.Line, Result: eb.Result}
}
