package protocol

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"slices"
	"unicode/utf8"
)

// ErrHashMismatch is wrapped by VerifyHash where contents and hash differ.
var ErrHashMismatch = errors.New("contents do not match the manifest's hash")

// errNotFinite is Hash's answer to NaN and infinities, which RFC 8785 has no
// text for.
var errNotFinite = errors.New("NaN and infinite numbers have no canonical form")

// Hash returns the hash of contents that manifests carry: the SHA-256, in
// lower-case hexadecimal, of their RFC 8785 (JCS) form.
func Hash(contents []byte) (string, error) {
	if isJCS(contents) {
		sum := sha256.Sum256(contents)
		return hex.EncodeToString(sum[:]), nil
	}
	t := tape{scanner: scanner{src: contents}}
	if err := t.whole(); err != nil {
		return "", fmt.Errorf("hashing contents: %w", err)
	}
	sum, err := t.hash(jcsStyle)
	if err != nil {
		return "", fmt.Errorf("hashing contents: %w", err)
	}
	return hex.EncodeToString(sum[:]), nil
}

// VerifyHash checks contents against a manifest's hash, which may be of any of
// the three generations: RFC 8785 (rid-lib from 3.2.5), or Python's JSON with
// sorted keys, compact (3.2.4) or with spaces (3.2.0). The error wraps
// ErrHashMismatch, or is a *SyntaxError.
func VerifyHash(contents []byte, sum string) error {
	var want [sha256.Size]byte
	if n, err := hex.Decode(want[:], []byte(clip(sum, 2*sha256.Size))); err != nil || n != len(want) || len(sum) != 2*sha256.Size {
		return fmt.Errorf("%w: %q is not 64 hexadecimal digits", ErrHashMismatch, clip(sum, 80))
	}
	styles := []*style{jcsStyle, pythonStyle, pythonSpacedStyle}
	if isJCS(contents) {
		if sha256.Sum256(contents) == want {
			return nil
		}
		styles = styles[1:]
	}
	t := tape{scanner: scanner{src: contents}}
	if err := t.whole(); err != nil {
		return fmt.Errorf("hashing contents: %w", err)
	}
	for _, style := range styles {
		if got, err := t.hash(style); err == nil && got == want {
			return nil
		}
	}
	return fmt.Errorf("%w %s", ErrHashMismatch, sum)
}

func clip(s string, n int) string {
	if len(s) > n {
		return s[:n]
	}
	return s
}

// style is a way to write a JSON value.
type style struct {
	comma, colon string
	sorted       bool // by UTF-16 code units where utf16, else by code points
	utf16        bool
	ascii        bool // escape everything that is not printable ASCII
	numbers      func(dst, raw []byte, kind scalarKind) ([]byte, error)
}

var (
	normalStyle       = &style{comma: ",", colon: ":", numbers: normalNumber}
	jcsStyle          = &style{comma: ",", colon: ":", sorted: true, utf16: true, numbers: jcsNumber}
	pythonStyle       = &style{comma: ",", colon: ":", sorted: true, ascii: true, numbers: pythonNumber}
	pythonSpacedStyle = &style{comma: ", ", colon: ": ", sorted: true, ascii: true, numbers: pythonNumber}
)

func normalNumber(dst, raw []byte, kind scalarKind) ([]byte, error) {
	return appendScalar(dst, raw, kind, span{end: len(raw)}), nil
}

func jcsNumber(dst, raw []byte, kind scalarKind) ([]byte, error) {
	if kind == kindNotFinite {
		return dst, errNotFinite
	}
	if kind == kindInt && len(raw) <= 15 { // below 2^53: digits stay
		return appendInt(dst, raw), nil
	}
	f := parseFloat(raw)
	if math.IsInf(f, 0) {
		return dst, errNotFinite
	}
	return appendJCS(dst, f), nil
}

// appendJCS appends a finite number.
func appendJCS(dst []byte, f float64) []byte {
	if f == 0 {
		return append(dst, '0')
	}
	return appendFloat(dst, f, jcsFloat)
}

func pythonNumber(dst, raw []byte, kind scalarKind) ([]byte, error) {
	switch kind {
	case kindNotFinite:
		return append(dst, raw...), nil
	case kindInt:
		return appendInt(dst, raw), nil
	}
	f := parseFloat(raw)
	switch {
	case math.IsInf(f, 1):
		return append(dst, "Infinity"...), nil
	case math.IsInf(f, -1):
		return append(dst, "-Infinity"...), nil
	}
	return appendFloat(dst, f, pythonFloat), nil
}

// tape is what has to be known of a JSON text to write its objects' members in
// another order: a flat list of its objects and keys. What stands between them
// is read from the source again, so that a tape takes a few bytes for each
// member and nothing for anything else.
type tape struct {
	scanner
	limit   int
	start   int
	entries []entry
	members []member // scratch of write: members of the objects that are open
	texts   []byte   // scratch of write: their keys, where they were escaped
}

// entry is an object, or a key and its value.
type entry struct {
	start, end uint32 // the key between its quotes; end of an object: behind its brace
	next       uint32 // index of the entry behind it and all in it
	escaped    bool
}

// member is one member of an object being written.
type member struct {
	start, end uint32 // the key's text in the source, or in texts
	key, value uint32 // entries of the key, and of the key whose value it has
	inTexts    bool
	prefix     uint64 // the text's first bytes, which settle most comparisons
}

// whole parses a text that is one value and nothing else.
func (t *tape) whole() error {
	if err := t.parse(maxDepth); err != nil {
		return err
	}
	return t.end()
}

// parse reads the value the scanner stands before.
func (t *tape) parse(depth int) error {
	if len(t.src) > math.MaxUint32 {
		return t.fail(0, "longer than 4 GiB")
	}
	t.start, t.limit = t.pos, depth
	t.entries = slices.Grow(t.entries[:0], min(len(t.src)/24+4, 256))
	return t.value(depth)
}

func (t *tape) value(left int) error {
	c := t.peek()
	if c != '{' && c != '[' {
		_, _, err := t.scalar(c)
		return err
	}
	if left <= 0 {
		return t.failDepth(t.limit)
	}
	if c == '[' {
		for more := t.open(']'); more; {
			err := t.value(left - 1)
			if err != nil {
				return err
			}
			if more, err = t.next(']'); err != nil {
				return err
			}
		}
		return nil
	}
	object := len(t.entries)
	t.entries = append(t.entries, entry{})
	for more := t.open('}'); more; {
		sp, err := t.key()
		if err != nil {
			return err
		}
		key := len(t.entries)
		t.entries = append(t.entries, entry{start: uint32(sp.start), end: uint32(sp.end), escaped: sp.escaped})
		if err := t.value(left - 1); err != nil {
			return err
		}
		t.entries[key].next = uint32(len(t.entries))
		if more, err = t.next('}'); err != nil {
			return err
		}
	}
	t.entries[object].end = uint32(t.pos)
	t.entries[object].next = uint32(len(t.entries))
	return nil
}

// hash returns the SHA-256 of the value written in a style.
func (t *tape) hash(s *style) ([sha256.Size]byte, error) {
	out, err := t.write(make([]byte, 0, len(t.src)+len(t.src)/8), s)
	if err != nil {
		return [sha256.Size]byte{}, err
	}
	return sha256.Sum256(out), nil
}

// write appends the value in a style.
func (t *tape) write(dst []byte, s *style) ([]byte, error) {
	t.pos, t.texts = t.start, t.texts[:0]
	t.members = slices.Grow(t.members[:0], min(len(t.entries), 64))
	dst, _, err := t.writeValue(dst, s, 0)
	return dst, err
}

// writeValue writes the value the scanner stands before. at is the first entry
// that can belong to it; it returns the first that does not.
func (t *tape) writeValue(dst []byte, s *style, at int) ([]byte, int, error) {
	c := t.peek()
	switch c {
	case '{':
		return t.writeObject(dst, s, at)
	case '[':
		dst = append(dst, '[')
		for more := t.open(']'); more; {
			var err error
			if dst, at, err = t.writeValue(dst, s, at); err != nil {
				return dst, at, err
			}
			if more, err = t.next(']'); err != nil {
				return dst, at, err
			}
			if more {
				dst = append(dst, s.comma...)
			}
		}
		return append(dst, ']'), at, nil
	}
	kind, sp, err := t.scalar(c)
	if err != nil {
		return dst, at, err
	}
	switch kind {
	case kindString:
		dst = t.writeString(dst, s, sp)
	case kindLiteral:
		dst = append(dst, t.src[sp.start:sp.end]...)
	default:
		dst, err = s.numbers(dst, t.src[sp.start:sp.end], kind)
	}
	return dst, at, err
}

func (t *tape) writeObject(dst []byte, s *style, at int) ([]byte, int, error) {
	object := t.entries[at]
	base, texts := len(t.members), len(t.texts)
	for i := uint32(at) + 1; i < object.next; i = t.entries[i].next {
		e := t.entries[i]
		m := member{start: e.start, end: e.end, key: i, value: i, inTexts: e.escaped}
		if e.escaped {
			m.start = uint32(len(t.texts))
			t.texts = unescape(t.texts, t.src[e.start:e.end])
			m.end = uint32(len(t.texts))
		}
		t.members = append(t.members, m)
	}
	t.members = t.members[:base+t.arrange(t.members[base:], s)]
	end := len(t.members)

	dst = append(dst, '{')
	for i := base; i < end; i++ {
		if i > base {
			dst = append(dst, s.comma...)
		}
		m := t.members[i] // writing below may move the slice
		e := t.entries[m.key]
		dst = t.writeString(dst, s, span{start: int(e.start), end: int(e.end), escaped: e.escaped, respell: e.escaped})
		dst = append(dst, s.colon...)
		t.pos = int(t.entries[m.value].end) + 1
		t.peek() // the colon
		t.pos++
		var err error
		if dst, _, err = t.writeValue(dst, s, int(m.value)+1); err != nil {
			return dst, at, err
		}
	}
	t.pos, t.members, t.texts = int(object.end), t.members[:base], t.texts[:texts]
	return append(dst, '}'), int(object.next), nil
}

func (t *tape) writeString(dst []byte, s *style, sp span) []byte {
	if s.ascii {
		return appendASCII(dst, t.bytes(sp))
	}
	return appendText(dst, t.src[sp.start:sp.end], sp.respell)
}

func (t *tape) keyText(m member) []byte {
	if m.inTexts {
		return t.texts[m.start:m.end]
	}
	return t.src[m.start:m.end]
}

// arrange puts members into the order of the style and leaves one member of
// each key, with the last value (and, in source order, at the first place). It
// returns how many are left.
func (t *tape) arrange(members []member, s *style) int {
	order := func(a, b member) int {
		if c := cmp.Compare(a.prefix, b.prefix); c != 0 {
			return c
		}
		return bytes.Compare(t.keyText(a), t.keyText(b))
	}
	if s.utf16 && t.beyondBytes(members) {
		order = func(a, b member) int { return compareUTF16(t.keyText(a), t.keyText(b)) }
	}
	ascending := true
	for i := range members {
		members[i].prefix = prefix(t.keyText(members[i]))
		if i > 0 && ascending {
			ascending = order(members[i-1], members[i]) < 0
		}
	}
	if ascending {
		return len(members)
	}
	slices.SortFunc(members, func(a, b member) int {
		if c := order(a, b); c != 0 {
			return c
		}
		return cmp.Compare(a.key, b.key)
	})
	kept := 0
	for i, m := range members {
		if i > 0 && bytes.Equal(t.keyText(m), t.keyText(members[kept-1])) {
			members[kept-1].value = m.value
			continue
		}
		members[kept] = m
		kept++
	}
	if !s.sorted {
		slices.SortFunc(members[:kept], func(a, b member) int { return cmp.Compare(a.key, b.key) })
	}
	return kept
}

// beyondBytes reports whether some key may sort otherwise by UTF-16 than by its
// bytes.
func (t *tape) beyondBytes(members []member) bool {
	for _, m := range members {
		if beyondBytes(t.keyText(m)) {
			return true
		}
	}
	return false
}

// beyondBytes reports whether a key has a character from U+E000 on.
func beyondBytes(key []byte) bool {
	for _, c := range key {
		if c >= 0xee {
			return true
		}
	}
	return false
}

// prefix returns the first eight bytes of text as a number of the same order.
func prefix(text []byte) uint64 {
	if len(text) >= 8 {
		return binary.BigEndian.Uint64(text)
	}
	var buf [8]byte
	copy(buf[:], text)
	return binary.BigEndian.Uint64(buf[:])
}

// compareUTF16 orders valid UTF-8 texts by their UTF-16 code units: code point
// order, but characters beyond U+FFFF, being surrogates, come before
// U+E000 to U+FFFF.
func compareUTF16(a, b []byte) int {
	n := min(len(a), len(b))
	i := 0
	for i < n && a[i] == b[i] {
		i++
	}
	if i == n || (a[i] < 0xee && b[i] < 0xee) {
		return bytes.Compare(a[i:], b[i:])
	}
	for i > 0 && !utf8.RuneStart(a[i]) {
		i--
	}
	x, _ := utf8.DecodeRune(a[i:])
	y, _ := utf8.DecodeRune(b[i:])
	if (x > 0xffff) != (y > 0xffff) && x >= 0xe000 && y >= 0xe000 {
		return int(y - x)
	}
	return int(x - y)
}

// appendASCII appends text as a JSON string the way Python's json.dumps does by
// default.
func appendASCII(dst, text []byte) []byte {
	dst = append(dst, '"')
	for i := 0; i < len(text); {
		if plain[text[i]] && text[i] != 0x7f {
			dst = append(dst, text[i])
			i++
			continue
		}
		r, n := utf8.DecodeRune(text[i:])
		i += n
		switch {
		case r < 0x7f:
			dst = appendEscapedRune(dst, r)
		case r > 0xffff:
			r -= 0x10000
			dst = appendHex(dst, 0xd800+(r>>10))
			dst = appendHex(dst, 0xdc00+(r&0x3ff))
		default:
			dst = appendHex(dst, r)
		}
	}
	return append(dst, '"')
}

func appendHex(dst []byte, r rune) []byte {
	return append(dst, '\\', 'u', hexDigits[r>>12&0xf], hexDigits[r>>8&0xf], hexDigits[r>>4&0xf], hexDigits[r&0xf])
}
