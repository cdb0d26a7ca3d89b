package protocol

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"
)

// Each byte at each place of a word, among ordinary ones and others.
func TestSpecialBytes(t *testing.T) {
	for _, fill := range []byte{'a', ' ', '!', '#', '[', ']', 0x7f, 0x80, 0xff} {
		for length := range 20 {
			for at := range length {
				for c := range 256 {
					text := bytes.Repeat([]byte{fill}, length)
					text[at] = byte(c)
					want := length
					if special(byte(c)) {
						want = at
					}
					got, high := firstSpecial(text, 0)
					if got != want || (high != 0) != (bytes.IndexFunc(text[:want], func(r rune) bool { return r >= utf8.RuneSelf }) >= 0) {
						t.Fatalf("firstSpecial(%q) = %d, %#x, want %d", text, got, high, want)
					}
					if got := standsForItself(text); got != (want == length && utf8.Valid(text)) {
						t.Fatalf("standsForItself(%q) = %t", text, got)
					}
					if standsForItself(string(text)) != standsForItself(text) {
						t.Fatalf("%q stands for itself as a text or as bytes alone", text)
					}
				}
			}
		}
	}
}

// A string is taken as it was before it was looked at eight bytes at a time.
func FuzzString(f *testing.F) {
	for _, s := range []string{
		`""`, `"a"`, `"`, `"abcdefgh"`, `"abcdefg` + "\n" + `"`, `"é😀abcdefghij\n"`, `"` + "\xff" + `abcdefghijk\x"`,
		`"abcdefghijklmnop\ud800"`, `"\ud83d\ude00\/\b\f"`, `"abcdefgh\`, `"abcdefgh\u00`, `"abcdef` + "\xe2\x80" + `"`, `"` + "\xe2\x80\x00" + `"`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		fast := scanner{src: append([]byte{'"'}, data...)}
		sp, err := fast.str()
		end, escaped, want := slowString(fast.src)
		if fmt.Sprint(err) != fmt.Sprint(want) {
			t.Fatalf("%q: %v, want %v", fast.src, err, want)
		}
		if err != nil {
			return
		}
		if sp.start != 1 || sp.end != end || fast.pos != end+1 || sp.escaped != escaped {
			t.Fatalf("%q: %+v, now at %d; want its end at %d", fast.src, sp, fast.pos, end)
		}
		raw := fast.src[sp.start:sp.end]
		normal := appendText(nil, raw, sp.respell)
		if string(normal) != string(appendText(nil, raw, true)) {
			t.Fatalf("%q: spelt %q, want %q", fast.src, normal, appendText(nil, raw, true))
		}
		if again := AppendString(nil, string(fast.bytes(sp))); string(again) != string(normal) {
			t.Fatalf("%q: spelt %q, and %q when written", fast.src, normal, again)
		}
	})
}

// slowString takes the string that src begins with, character by character.
func slowString(src []byte) (end int, escaped bool, err error) {
	s := scanner{src: src}
	for i := 1; i < len(src); {
		switch c := src[i]; {
		case c == '"':
			return i, escaped, nil
		case c == '\\':
			n, err := s.escape(i)
			if err != nil {
				return 0, false, err
			}
			escaped = true
			i += n
		case c < ' ':
			return 0, false, s.fail(i, "a control character inside a string must be escaped")
		default:
			r, n := utf8.DecodeRune(src[i:])
			if r == utf8.RuneError && n == 1 {
				return 0, false, s.fail(i, "invalid UTF-8 inside a string")
			}
			i += n
		}
	}
	return 0, false, s.fail(len(src), "unexpected end of input inside a string")
}

func BenchmarkAppendString(b *testing.B) {
	for name, s := range map[string]string{
		"ASCII": "orn:example.note:9e3779b9-7f4a-7c15-8bf5-8a3c15f4a7c1", "accents": strings.Repeat("é à la carte ", 4), "quotes": strings.Repeat(`"a" `, 12),
	} {
		b.Run(name, func(b *testing.B) {
			var dst []byte
			b.ReportAllocs()
			for b.Loop() {
				dst = AppendString(dst[:0], s)
			}
		})
	}
}
