package protocol

import (
	"bytes"

	"github.com/koi-net/koi-operator/node/rid"
)

// FloatStyle is one of the two ways in which peers write floats of 1e16 and
// above, and so the bytes that they sign.
type FloatStyle uint8

const (
	// FloatsCurrent writes 1e+16, as pydantic 2.13 does and normal form is.
	FloatsCurrent FloatStyle = iota
	// FloatsOlder writes 1e16, as pydantic 2.10 does.
	FloatsOlder
)

// SignedText returns the text that the signature of an envelope with this
// payload covers, {"payload":…,"source_node":…,"target_node":…} as pydantic
// serialises it: fields in the models' order, defaults written out, what is null
// left out, RIDs canonical, contents as they are.
func SignedText(p Payload, source, target rid.RID, style FloatStyle) []byte {
	return restyle(signedText(nil, p.PayloadType(), p.appendFields, source, target, sent), style)
}

func signedText(dst []byte, kind PayloadType, fields func([]byte, form) []byte, source, target rid.RID, form form) []byte {
	dst = append(append(append(dst, `{"payload":{"type":"`...), kind...), '"')
	dst = fields(dst, form)
	dst = AppendString(append(dst, `},"source_node":`...), string(source))
	dst = AppendString(append(dst, `,"target_node":`...), string(target))
	return append(dst, '}')
}

func restyle(text []byte, style FloatStyle) []byte {
	if style == FloatsOlder {
		if older := OlderFloats(text); older != nil {
			return older
		}
	}
	return text
}

// OlderFloats returns a text in normal form with its floats in the older style,
// nil where it holds none that differ. Both styles have to be tried to verify a
// signature; where there is but one, a peer's invalid_signature means what it
// says.
func OlderFloats(text []byte) []byte {
	// Outside strings, normal form has a '+' in such exponents alone.
	var out []byte
	copied := 0
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '"':
			i = endOfString(text, i)
		case '+':
			out = append(out, text[copied:i]...)
			copied = i + 1
		}
	}
	if out == nil {
		return nil
	}
	return append(out, text[copied:]...)
}

// endOfString returns the index of the quote that closes the string opened at i.
func endOfString(text []byte, i int) int {
	for from := i + 1; ; {
		n := bytes.IndexByte(text[from:], '"')
		if n < 0 {
			return len(text)
		}
		end := from + n
		escapes := 0
		for text[end-1-escapes] == '\\' {
			escapes++
		}
		if escapes%2 == 0 {
			return end
		}
		from = end + 1
	}
}
