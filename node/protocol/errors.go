package protocol

// ErrorCode says why a node of the signed generation refused an envelope.
type ErrorCode string

// The error codes, in the order in which an envelope is checked.
const (
	// UnknownNode: the receiver holds no profile of the sender, and the envelope
	// brings none. The sender may introduce itself.
	UnknownNode ErrorCode = "unknown_node"
	// InvalidKey: the sender's public key is not the one its RID was made from.
	InvalidKey ErrorCode = "invalid_key"
	// InvalidSignature: the signature does not belong to the envelope and key.
	InvalidSignature ErrorCode = "invalid_signature"
	// InvalidTarget: the envelope is meant for another node.
	InvalidTarget ErrorCode = "invalid_target"
)

// ErrorResponse is the answer, with status 400, to an envelope that was read
// but refused. It is an error, so that callers find it with errors.As.
type ErrorResponse struct {
	Code ErrorCode
}

// Error says what the peer refused, and what follows from it.
func (e ErrorResponse) Error() string {
	text := "the peer refused the envelope: " + string(e.Code)
	switch e.Code {
	case UnknownNode:
		text += ": it does not know this node, which has to introduce itself"
	case InvalidKey:
		text += ": the public key in the sender's profile is not the one its RID was made from"
	case InvalidSignature:
		text += ": it could not verify the signature"
	case InvalidTarget:
		text += ": another node answers at this address than the one addressed"
	}
	return text
}

// EncodeErrorResponse returns the body of the answer. It is not signed.
func EncodeErrorResponse(e ErrorResponse) []byte {
	return append(e.appendFields([]byte(`{"type":"`+string(TypeError)+`"`), sent), '}')
}

// DecodeErrorResponse reads the body of an answer with status 400. The error is
// ErrTooLarge or a *ValidationError, the latter also where the answer is another
// error than these.
func DecodeErrorResponse(body []byte, l Limits) (ErrorResponse, error) {
	var e ErrorResponse
	err := decode(body, l, func(d *decoder) error {
		return d.require("error", d.typed(TypeError, d.errorField(&e)))
	})
	if err != nil {
		return ErrorResponse{}, err
	}
	return e, nil
}

func (d *decoder) errorField(to *ErrorResponse) fieldReader {
	return func(key string) (bool, error) {
		if key != "error" {
			return false, nil
		}
		return true, d.enum((*string)(&to.Code), "'unknown_node', 'invalid_key', 'invalid_signature' or 'invalid_target'",
			string(UnknownNode), string(InvalidKey), string(InvalidSignature), string(InvalidTarget))
	}
}
