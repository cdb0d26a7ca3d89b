package protocol

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// maxDetails bounds how many problems of one body are told; maxInput how many
// bytes of the offending value are told back.
const (
	maxDetails = 32
	maxInput   = 512
)

// ValidationError lists what is wrong with the shape of a body. It marshals to
// the body of the reference's 422 answer.
type ValidationError struct {
	Details []Detail `json:"detail"`
}

// Detail is one problem, in the reference's form (FastAPI, pydantic).
type Detail struct {
	Type  string `json:"type"`            // kind of problem: missing, value_error, ...
	Loc   []any  `json:"loc"`             // where: "body", then field names and list indexes; for broken JSON the byte offset
	Msg   string `json:"msg"`             // what is wrong and what is right
	Input any    `json:"input,omitempty"` // the value, where it is short
}

// Error names the first problem and counts the others.
func (e *ValidationError) Error() string {
	if len(e.Details) == 0 {
		return "invalid body"
	}
	first := e.Details[0]
	var at strings.Builder
	for i, l := range first.Loc {
		if i > 0 {
			at.WriteByte('.')
		}
		switch l := l.(type) {
		case string:
			at.WriteString(l)
		case int:
			at.WriteString(strconv.Itoa(l))
		}
	}
	text := first.Msg
	if at.Len() > 0 {
		text = at.String() + ": " + text
	}
	if more := len(e.Details) - 1; more > 0 {
		text += fmt.Sprintf(" (and %d more)", more)
	}
	return text
}

// invalid makes the error of JSON that breaks off or nests too deeply.
func invalid(prefix []any, err error) *ValidationError {
	detail := Detail{Type: "json_invalid", Loc: prefix, Msg: "JSON decode error: " + err.Error()}
	var syntax *SyntaxError
	if errors.As(err, &syntax) {
		detail.Loc = append(append([]any{}, prefix...), syntax.Offset)
		detail.Msg = "JSON decode error: " + syntax.Msg
	}
	return &ValidationError{Details: []Detail{detail}}
}

// shown returns raw for telling back: in normal form, so that it marshals, and
// nil where it is long.
func shown(raw []byte) any {
	if len(raw) == 0 || len(raw) > maxInput {
		return nil
	}
	text, err := Normalize(raw, DefaultLimits().Depth)
	if err != nil {
		return nil
	}
	return text
}
