package protocol

import (
	"bytes"
	"encoding/json"
	"errors"
	"hash/maphash"
	"math"
	"slices"
	"strconv"
)

// maxDepth bounds nesting where the caller gives no bound of its own. It is far
// above what a peer may send.
const maxDepth = 10_000

// Normalize returns the compact normal form of one JSON value: keys in the
// order received and each once (the last value at the first place), strings as
// raw UTF-8 with only '"', '\' and control characters escaped, integers exact
// at any size, floats in shortest digits as pydantic 2.13 writes them, NaN and
// infinities as null. It is what is stored, served, hashed and signed, and it
// is its own normal form. Nesting above depth levels is refused.
//
// The error is a *SyntaxError.
func Normalize(raw []byte, depth int) (json.RawMessage, error) {
	n := normalizer{scanner: scanner{src: raw}}
	out, err := n.normalize(make([]byte, 0, len(raw)), depth)
	if err != nil {
		return nil, err
	}
	if err := n.end(); err != nil {
		return nil, err
	}
	return out, nil
}

// errDuplicate makes the one-pass writer give way to the tape.
var errDuplicate = errors.New("duplicate key")

// normalizer writes the normal form in one pass over the source.
type normalizer struct {
	scanner
	limit int
	seed  maphash.Seed
	keys  []uint64 // hashes of the keys of the objects that are open
}

// normalize appends the normal form of the value the scanner stands before.
func (n *normalizer) normalize(dst []byte, depth int) ([]byte, error) {
	if n.seed == (maphash.Seed{}) {
		n.seed = maphash.MakeSeed()
	}
	depth = min(max(depth, 0), maxDepth)
	n.limit = depth
	start, length := n.pos, len(dst)
	n.keys = n.keys[:0]
	dst, err := n.value(dst, depth)
	if !errors.Is(err, errDuplicate) {
		return dst, err
	}
	// Moving members about at every level would cost depth times size; the tape
	// costs the size alone.
	t := tape{scanner: scanner{src: n.src, pos: start}}
	if err := t.parse(depth); err != nil {
		return dst, err
	}
	n.pos = t.pos
	return t.write(dst[:length], normalStyle)
}

func (n *normalizer) value(dst []byte, left int) ([]byte, error) {
	c := n.peek()
	switch c {
	case '{', '[':
		if left <= 0 {
			return dst, n.failDepth(n.limit)
		}
		if c == '{' {
			return n.object(dst, left-1)
		}
		return n.array(dst, left-1)
	}
	kind, sp, err := n.scalar(c)
	if err != nil {
		return dst, err
	}
	return appendScalar(dst, n.src, kind, sp), nil
}

func (n *normalizer) object(dst []byte, left int) ([]byte, error) {
	dst = append(dst, '{')
	base := len(n.keys)
	for more := n.open('}'); more; {
		sp, err := n.key()
		if err != nil {
			return dst, err
		}
		at := len(dst)
		dst = appendText(dst, n.src[sp.start:sp.end], sp.respell)
		n.keys = append(n.keys, maphash.Bytes(n.seed, dst[at:]))
		dst = append(dst, ':')
		if dst, err = n.value(dst, left); err != nil {
			return dst, err
		}
		if more, err = n.next('}'); err != nil {
			return dst, err
		}
		if more {
			dst = append(dst, ',')
		}
	}
	if repeated(n.keys[base:]) {
		return dst, errDuplicate
	}
	n.keys = n.keys[:base]
	return append(dst, '}'), nil
}

func (n *normalizer) array(dst []byte, left int) ([]byte, error) {
	dst = append(dst, '[')
	for more := n.open(']'); more; {
		var err error
		if dst, err = n.value(dst, left); err != nil {
			return dst, err
		}
		if more, err = n.next(']'); err != nil {
			return dst, err
		}
		if more {
			dst = append(dst, ',')
		}
	}
	return append(dst, ']'), nil
}

// repeated reports whether two hashes are equal; it may reorder them. Two keys
// that merely share a hash cost the slow path and no more.
func repeated(hashes []uint64) bool {
	if len(hashes) > 16 {
		slices.Sort(hashes)
		for i := 1; i < len(hashes); i++ {
			if hashes[i] == hashes[i-1] {
				return true
			}
		}
		return false
	}
	for i, h := range hashes {
		for _, g := range hashes[:i] {
			if g == h {
				return true
			}
		}
	}
	return false
}

func appendScalar(dst, src []byte, kind scalarKind, sp span) []byte {
	raw := src[sp.start:sp.end]
	switch kind {
	case kindString:
		return appendText(dst, raw, sp.respell)
	case kindInt:
		return appendInt(dst, raw)
	case kindFloat:
		f := parseFloat(raw)
		if math.IsInf(f, 0) {
			return append(dst, "null"...)
		}
		return appendFloat(dst, f, normalFloat)
	case kindNotFinite:
		return append(dst, "null"...)
	default:
		return append(dst, raw...)
	}
}

// appendText appends the quoted normal form of a string's source text.
func appendText(dst, raw []byte, respell bool) []byte {
	dst = append(dst, '"')
	for respell {
		i := bytes.IndexByte(raw, '\\')
		if i < 0 {
			break
		}
		dst = append(dst, raw[:i]...)
		raw = raw[i:]
		n := 2
		switch raw[1] {
		case '/':
			dst = append(dst, '/')
		case 'u':
			var r rune
			r, n = escapedRune(raw)
			dst = appendEscapedRune(dst, r)
		default: // the short escapes are the normal form's own
			dst = append(dst, raw[:2]...)
		}
		raw = raw[n:]
	}
	dst = append(dst, raw...)
	return append(dst, '"')
}

// AppendString appends s as a JSON string in normal form. Invalid UTF-8 becomes
// U+FFFD.
func AppendString(dst []byte, s string) []byte {
	return append(appendEscaped(append(dst, '"'), s), '"')
}

// appendEscaped is AppendString without the quotes.
func appendEscaped[T ~string | ~[]byte](dst []byte, s T) []byte {
	if standsForItself(s) {
		return append(dst, s...)
	}
	for _, r := range string(s) {
		dst = appendEscapedRune(dst, r)
	}
	return dst
}

const hexDigits = "0123456789abcdef"

func appendEscapedRune(dst []byte, r rune) []byte {
	switch {
	case r == '"' || r == '\\':
		return append(dst, '\\', byte(r))
	case r >= 0x20:
		return append(dst, string(r)...)
	}
	switch r {
	case '\b':
		return append(dst, '\\', 'b')
	case '\f':
		return append(dst, '\\', 'f')
	case '\n':
		return append(dst, '\\', 'n')
	case '\r':
		return append(dst, '\\', 'r')
	case '\t':
		return append(dst, '\\', 't')
	}
	return append(dst, '\\', 'u', '0', '0', hexDigits[r>>4], hexDigits[r&0xf])
}

// appendInt appends an integer's digits; minus zero is zero.
func appendInt(dst, raw []byte) []byte {
	if len(raw) == 2 && raw[0] == '-' && raw[1] == '0' {
		return append(dst, '0')
	}
	return append(dst, raw...)
}

// parseFloat reads a checked JSON number; what is too large becomes infinite.
func parseFloat(raw []byte) float64 {
	f, _ := strconv.ParseFloat(string(raw), 64) // the only error is the range
	return f
}

// floatStyle says how a float is laid out. Digits are always the shortest that
// read back the same.
type floatStyle struct {
	low, high int  // decimal exponents written plainly: low <= e < high
	point     bool // whole numbers written plainly end in ".0"
	pad       bool // exponents have at least two digits
}

var (
	normalFloat = floatStyle{low: -5, high: 16, point: true}
	jcsFloat    = floatStyle{low: -6, high: 21}
	pythonFloat = floatStyle{low: -4, high: 16, point: true, pad: true}
)

func appendFloat(dst []byte, f float64, style floatStyle) []byte {
	var buf [32]byte
	text := strconv.AppendFloat(buf[:0], f, 'e', -1, 64) // [-]d[.ddd]e±dd
	if text[0] == '-' {
		dst = append(dst, '-')
		text = text[1:]
	}
	e := len(text) - 1
	for text[e] != 'e' {
		e--
	}
	exp := 0
	for _, c := range text[e+2:] {
		exp = exp*10 + int(c-'0')
	}
	if text[e+1] == '-' {
		exp = -exp
	}
	// Close the gap of the decimal point, so that text holds digits alone.
	if e > 1 {
		text[1] = text[0]
		text = text[1:e]
	} else {
		text = text[:1]
	}

	switch {
	case exp < style.low || exp >= style.high:
		dst = append(dst, text[0])
		if len(text) > 1 {
			dst = append(dst, '.')
			dst = append(dst, text[1:]...)
		}
		sign := byte('+')
		if exp < 0 {
			sign, exp = '-', -exp
		}
		dst = append(dst, 'e', sign)
		if style.pad && exp < 10 {
			dst = append(dst, '0')
		}
		return strconv.AppendInt(dst, int64(exp), 10)
	case exp < 0:
		dst = append(dst, '0', '.')
		for i := -1; i > exp; i-- {
			dst = append(dst, '0')
		}
		return append(dst, text...)
	case exp+1 < len(text):
		dst = append(dst, text[:exp+1]...)
		dst = append(dst, '.')
		return append(dst, text[exp+1:]...)
	}
	dst = append(dst, text...)
	for i := len(text); i <= exp; i++ {
		dst = append(dst, '0')
	}
	if style.point {
		dst = append(dst, '.', '0')
	}
	return dst
}
