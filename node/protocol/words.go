package protocol

import (
	"math/bits"
	"unicode/utf8"
)

// Eight bytes of a text at a time: what most of a text costs is to see that
// nothing in it is special.

const (
	everyByte = 0x0101010101010101
	everyHigh = 0x8080808080808080
)

// word returns eight bytes of text from i on, the first as the lowest.
func word[T ~string | ~[]byte](text T, i int) uint64 {
	_ = text[i+7]
	return uint64(text[i]) | uint64(text[i+1])<<8 | uint64(text[i+2])<<16 | uint64(text[i+3])<<24 |
		uint64(text[i+4])<<32 | uint64(text[i+5])<<40 | uint64(text[i+6])<<48 | uint64(text[i+7])<<56
}

// specials marks, by their highest bits, the bytes of a word that do not stand for
// themselves in a JSON string: quotes, backslashes and control characters. What it
// marks above the lowest mark may be wrong.
func specials(w uint64) uint64 {
	quote, slash := w^(everyByte*'"'), w^(everyByte*'\\')
	return ((quote-everyByte)&^quote | (slash-everyByte)&^slash | (w-everyByte*' ')&^w) & everyHigh
}

// special reports whether c is a byte that specials marks.
func special(c byte) bool { return c < ' ' || c == '"' || c == '\\' }

// firstSpecial returns the index of the first special byte of text from i on, its
// length if there is none. high has a byte's highest bit set where one before that
// is not ASCII.
func firstSpecial(text []byte, i int) (at int, high uint64) {
	for ; i+8 <= len(text); i += 8 {
		w := word(text, i)
		if m := specials(w); m != 0 {
			n := bits.TrailingZeros64(m) // 7 in the first byte
			return i + n>>3, high | w&everyHigh&(1<<n-1)
		}
		high |= w & everyHigh
	}
	for ; i < len(text) && !special(text[i]); i++ {
		high |= uint64(text[i] & 0x80)
	}
	return i, high
}

// standsForItself reports whether text needs no escape in a JSON string and is
// valid UTF-8.
func standsForItself[T ~string | ~[]byte](text T) bool {
	var marks, high uint64
	i := 0
	for ; i+8 <= len(text); i += 8 {
		w := word(text, i)
		marks |= specials(w)
		high |= w
	}
	for ; i < len(text); i++ {
		if special(text[i]) {
			return false
		}
		high |= uint64(text[i])
	}
	return marks == 0 && (high&everyHigh == 0 || utf8.Valid([]byte(text)))
}
