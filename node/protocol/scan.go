package protocol

import (
	"bytes"
	"errors"
	"fmt"
	"unicode/utf8"
)

// ErrTooDeep is wrapped by the SyntaxError of JSON nested above the limit.
var ErrTooDeep = errors.New("nested too deeply")

// SyntaxError says where a text stops being JSON and why.
type SyntaxError struct {
	Offset int    // bytes from the beginning of the text
	Msg    string // what was wrong, what was expected
	err    error
}

func (e *SyntaxError) Error() string {
	return fmt.Sprintf("invalid JSON at byte %d: %s", e.Offset, e.Msg)
}

// Unwrap returns ErrTooDeep where depth was the problem.
func (e *SyntaxError) Unwrap() error { return e.err }

// scanner walks over one JSON text. Its methods leave pos after what they took.
// Beyond RFC 8259 it knows NaN, Infinity and -Infinity, which the reference
// takes; it refuses invalid UTF-8 and lone surrogates, which no peer could
// read back.
type scanner struct {
	src []byte
	pos int
}

func (s *scanner) fail(at int, msg string) error {
	return &SyntaxError{Offset: at, Msg: msg}
}

func (s *scanner) failDepth(limit int) error {
	return &SyntaxError{Offset: s.pos, Msg: fmt.Sprintf("nested deeper than %d levels", limit), err: ErrTooDeep}
}

// peek skips white space and returns the next byte, 0 at the end.
func (s *scanner) peek() byte {
	for s.pos < len(s.src) {
		switch c := s.src[s.pos]; c {
		case ' ', '\t', '\n', '\r':
			s.pos++
		default:
			return c
		}
	}
	return 0
}

// end checks that nothing but white space is left.
func (s *scanner) end() error {
	if s.peek() != 0 || s.pos < len(s.src) {
		return s.fail(s.pos, "there is more after the JSON value")
	}
	return nil
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// plain marks the ASCII bytes that stand for themselves in a string.
var plain = func() (t [256]bool) {
	for c := 0x20; c < utf8.RuneSelf; c++ {
		t[c] = c != '"' && c != '\\'
	}
	return t
}()

// span is a string's text between its quotes, as it stands in the source.
type span struct {
	start, end int
	escaped    bool // it holds at least one escape sequence
	respell    bool // and one that normal form may spell in another way
}

// str takes a string; the scanner stands on its opening quote.
func (s *scanner) str() (span, error) {
	sp := span{start: s.pos + 1}
	var high uint64 // it holds what is not ASCII
	for i := sp.start; ; {
		at, more := firstSpecial(s.src, i)
		high |= more
		if at == len(s.src) {
			return s.strWithFault()
		}
		switch s.src[at] {
		case '"':
			if high != 0 && !utf8.Valid(s.src[sp.start:at]) {
				return s.strWithFault()
			}
			sp.end, s.pos = at, at+1
			return sp, nil
		case '\\':
			n, err := s.escape(at)
			if err != nil {
				return s.strWithFault()
			}
			sp.escaped = true
			sp.respell = sp.respell || n > 2 || s.src[at+1] == '/'
			i = at + n
		default:
			return s.strWithFault()
		}
	}
}

// strWithFault returns what is wrong with a string, the first of it.
func (s *scanner) strWithFault() (span, error) {
	src, i := s.src, s.pos+1
	sp := span{start: i}
	for i < len(src) {
		switch c := src[i]; {
		case c == '\\':
			n, err := s.escape(i)
			if err != nil {
				return sp, err
			}
			i += n
		case c < ' ':
			return sp, s.fail(i, "a control character inside a string must be escaped")
		default:
			r, n := utf8.DecodeRune(src[i:])
			if r == utf8.RuneError && n == 1 {
				return sp, s.fail(i, "invalid UTF-8 inside a string")
			}
			i += n
		}
	}
	return sp, s.fail(i, "unexpected end of input inside a string")
}

// escape checks the escape sequence at i and returns its length; a surrogate
// pair is one sequence.
func (s *scanner) escape(i int) (int, error) {
	if i+1 >= len(s.src) {
		return 0, s.fail(i+1, "unexpected end of input inside a string")
	}
	switch s.src[i+1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return 2, nil
	case 'u':
	default:
		return 0, s.fail(i, "unknown escape sequence inside a string")
	}
	r, ok := hexRune(s.src, i+2)
	if !ok {
		return 0, s.fail(i, "a \\u escape needs four hexadecimal digits")
	}
	if r < 0xd800 || r > 0xdfff {
		return 6, nil
	}
	low, ok := rune(0), false
	if r < 0xdc00 && i+7 < len(s.src) && s.src[i+6] == '\\' && s.src[i+7] == 'u' {
		low, ok = hexRune(s.src, i+8)
	}
	if !ok || low < 0xdc00 || low > 0xdfff {
		return 0, s.fail(i, "a \\u escape names one half of a surrogate pair alone")
	}
	return 12, nil
}

func hexRune(src []byte, i int) (rune, bool) {
	if i+4 > len(src) {
		return 0, false
	}
	var r rune
	for _, c := range src[i : i+4] {
		switch {
		case isDigit(c):
			r = r<<4 | rune(c-'0')
		case 'a' <= c && c <= 'f':
			r = r<<4 | rune(c-'a'+10)
		case 'A' <= c && c <= 'F':
			r = r<<4 | rune(c-'A'+10)
		default:
			return 0, false
		}
	}
	return r, true
}

// unescape appends the text of an escaped span, checked before, as UTF-8.
func unescape(dst, src []byte) []byte {
	for {
		i := bytes.IndexByte(src, '\\')
		if i < 0 {
			return append(dst, src...)
		}
		dst = append(dst, src[:i]...)
		src = src[i:]
		n := 2
		switch src[1] {
		case 'b':
			dst = append(dst, '\b')
		case 'f':
			dst = append(dst, '\f')
		case 'n':
			dst = append(dst, '\n')
		case 'r':
			dst = append(dst, '\r')
		case 't':
			dst = append(dst, '\t')
		case 'u':
			var r rune
			r, n = escapedRune(src)
			dst = utf8.AppendRune(dst, r)
		default: // '"', '\\', '/'
			dst = append(dst, src[1])
		}
		src = src[n:]
	}
}

// escapedRune returns the character of the \u escape, checked before, that src
// begins with, and the length of the escape; a surrogate pair is one.
func escapedRune(src []byte) (rune, int) {
	r, _ := hexRune(src, 2)
	if r < 0xd800 || r > 0xdfff {
		return r, 6
	}
	low, _ := hexRune(src, 8)
	return 0x10000 + (r-0xd800)<<10 + (low - 0xdc00), 12
}

// text takes a string and returns what it says.
func (s *scanner) text() (string, error) {
	sp, err := s.str()
	if err != nil {
		return "", err
	}
	return string(s.bytes(sp)), nil
}

// bytes returns what a string says; it aliases the source where it can.
func (s *scanner) bytes(sp span) []byte {
	raw := s.src[sp.start:sp.end]
	if sp.escaped {
		return unescape(make([]byte, 0, len(raw)), raw)
	}
	return raw
}

// number takes a number and says whether it has a fraction or an exponent.
func (s *scanner) number() (isFloat bool, err error) {
	src, i := s.src, s.pos
	if i < len(src) && src[i] == '-' {
		i++
	}
	switch {
	case i >= len(src) || !isDigit(src[i]):
		return false, s.fail(s.pos, "a value was expected")
	case src[i] == '0':
		i++
	default:
		for i < len(src) && isDigit(src[i]) {
			i++
		}
	}
	if i < len(src) && src[i] == '.' {
		isFloat = true
		i++
		from := i
		for i < len(src) && isDigit(src[i]) {
			i++
		}
		if i == from {
			return false, s.fail(i, "a digit was expected after the decimal point")
		}
	}
	if i < len(src) && (src[i] == 'e' || src[i] == 'E') {
		isFloat = true
		i++
		if i < len(src) && (src[i] == '+' || src[i] == '-') {
			i++
		}
		from := i
		for i < len(src) && isDigit(src[i]) {
			i++
		}
		if i == from {
			return false, s.fail(i, "a digit was expected in the exponent")
		}
	}
	s.pos = i
	return isFloat, nil
}

// literal takes word, or fails.
func (s *scanner) literal(word string) error {
	if len(s.src)-s.pos < len(word) || string(s.src[s.pos:s.pos+len(word)]) != word {
		if s.pos >= len(s.src) {
			return s.fail(s.pos, "unexpected end of input, a value was expected")
		}
		return s.fail(s.pos, "a value was expected")
	}
	s.pos += len(word)
	return nil
}

// scalarKind tells the values that hold no others apart.
type scalarKind uint8

const (
	kindString scalarKind = iota
	kindInt
	kindFloat
	kindLiteral   // true, false, null
	kindNotFinite // NaN, Infinity, -Infinity
)

// scalar takes a value that is no object and no array; the scanner stands on
// its first byte, c. The span of a string is without its quotes.
func (s *scanner) scalar(c byte) (scalarKind, span, error) {
	start := s.pos
	kind, err := kindLiteral, error(nil)
	switch {
	case c == '"':
		sp, err := s.str()
		return kindString, sp, err
	case c == 't':
		err = s.literal("true")
	case c == 'f':
		err = s.literal("false")
	case c == 'n':
		err = s.literal("null")
	case c == 'N':
		kind, err = kindNotFinite, s.literal("NaN")
	case c == 'I':
		kind, err = kindNotFinite, s.literal("Infinity")
	case c == '-' && s.pos+1 < len(s.src) && s.src[s.pos+1] == 'I':
		kind, err = kindNotFinite, s.literal("-Infinity")
	case c == '-' || isDigit(c):
		var isFloat bool
		isFloat, err = s.number()
		kind = kindInt
		if isFloat {
			kind = kindFloat
		}
	case s.pos >= len(s.src):
		err = s.fail(s.pos, "unexpected end of input, a value was expected")
	default:
		err = s.fail(s.pos, "a value was expected")
	}
	return kind, span{start: start, end: s.pos}, err
}

// key takes a member's key and its colon.
func (s *scanner) key() (span, error) {
	if s.peek() != '"' {
		return span{}, s.fail(s.pos, "a key in double quotes was expected")
	}
	sp, err := s.str()
	if err != nil {
		return span{}, err
	}
	if s.peek() != ':' {
		return span{}, s.fail(s.pos, "':' was expected after the key")
	}
	s.pos++
	return sp, nil
}

// next takes ',' and returns true, or the closing byte and returns false.
func (s *scanner) next(closing byte) (bool, error) {
	switch s.peek() {
	case ',':
		s.pos++
		if s.peek() == closing {
			return false, s.fail(s.pos, "there is a comma before the closing bracket")
		}
		return true, nil
	case closing:
		s.pos++
		return false, nil
	}
	return false, s.fail(s.pos, fmt.Sprintf("',' or '%c' was expected", closing))
}

// open takes an opening bracket and returns false where its closing one
// follows at once, taken as well.
func (s *scanner) open(closing byte) bool {
	s.pos++
	if s.peek() == closing {
		s.pos++
		return false
	}
	return true
}

// skip takes any value and drops it. left is how many levels it may nest.
func (s *scanner) skip(left, limit int) error {
	c := s.peek()
	if c != '{' && c != '[' {
		_, _, err := s.scalar(c)
		return err
	}
	if left <= 0 {
		return s.failDepth(limit)
	}
	closing := c + 2 // '{' and '}', '[' and ']' are two apart
	for more := s.open(closing); more; {
		if c == '{' {
			if _, err := s.key(); err != nil {
				return err
			}
		}
		err := s.skip(left-1, limit)
		if err != nil {
			return err
		}
		if more, err = s.next(closing); err != nil {
			return err
		}
	}
	return nil
}
