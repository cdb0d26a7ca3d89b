package protocol

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"
)

// ErrTimestamp is wrapped by every error of ParseTimestamp.
var ErrTimestamp = errors.New("invalid timestamp")

// Timestamp is an instant in microseconds together with the UTC offset it was
// written in, as manifests carry it. The zero Timestamp is the Unix epoch,
// older than anything the protocol makes. Compare with Equal: two offsets can
// name one instant.
type Timestamp struct {
	micros int64 // since the Unix epoch, UTC
	offset int16 // minutes east of UTC
	naive  bool  // it came without an offset; read as UTC
}

// The range of a Python datetime, in microseconds of local time; what lies
// outside stops the reference.
const (
	minLocalMicros = -62135596800 * 1_000_000
	maxLocalMicros = 253402300800*1_000_000 - 1
)

// NewTimestamp returns t in UTC, cut to microseconds.
func NewTimestamp(t time.Time) Timestamp {
	micros := t.Unix()*1_000_000 + int64(t.Nanosecond()/1000)
	return Timestamp{micros: min(max(micros, minLocalMicros), maxLocalMicros)}
}

// Now is NewTimestamp; it reads well where a clock's reading becomes a manifest's.
func Now(t time.Time) Timestamp { return NewTimestamp(t) }

// ParseTimestamp reads the forms the reference reads (pydantic's datetime in
// its lax mode): ISO 8601 with 'T', 't', ' ' or '_', optional seconds, a
// fraction of any length (cut after six digits), Z or ±hh[:]mm or no offset; a
// date alone; and seconds or milliseconds since the epoch as a number.
func ParseTimestamp(s string) (Timestamp, error) {
	t, err := parseTimestamp(s)
	if err != nil {
		if n, ok := parseEpoch(s); ok {
			return n, nil
		}
		if len(s) > 64 {
			s = s[:64] + "…"
		}
		return Timestamp{}, fmt.Errorf("%w %q: %w; a timestamp looks like 2026-01-01T00:00:00.000000Z", ErrTimestamp, s, err)
	}
	return t, nil
}

// UnmarshalText reads text as ParseTimestamp does, without a copy of it where it is
// a timestamp.
func (t *Timestamp) UnmarshalText(text []byte) error {
	parsed, err := parseTimestamp(string(text))
	if err != nil {
		if parsed, err = ParseTimestamp(string(text)); err != nil {
			return err
		}
	}
	*t = parsed
	return nil
}

// parseError is a constant text, so that a refused timestamp costs little.
type parseError string

func (e parseError) Error() string { return string(e) }

func parseTimestamp(s string) (Timestamp, error) {
	year, ok1 := digits(s, 0, 4)
	month, ok2 := digits(s, 5, 2)
	day, ok3 := digits(s, 8, 2)
	if !ok1 || !ok2 || !ok3 || s[4] != '-' || s[7] != '-' {
		return Timestamp{}, parseError("it does not begin with a date, year-month-day")
	}
	switch {
	case year < 1:
		return Timestamp{}, parseError("the year is outside 0001 to 9999")
	case month < 1 || month > 12:
		return Timestamp{}, parseError("the month is outside 01 to 12")
	case day < 1 || day > daysIn(month, year):
		return Timestamp{}, parseError("the day is outside the month")
	}
	if len(s) == 10 {
		return localTimestamp(year, month, day, 0, 0, 0, 0, 0, true)
	}
	if c := s[10]; c != 'T' && c != 't' && c != ' ' && c != '_' {
		return Timestamp{}, parseError("there is no 'T' between date and time")
	}
	hour, ok1 := digits(s, 11, 2)
	minute, ok2 := digits(s, 14, 2)
	if !ok1 || !ok2 || s[13] != ':' || hour > 23 || minute > 59 {
		return Timestamp{}, parseError("the time is not hh:mm[:ss[.ffffff]]")
	}
	i, second, micro := 16, 0, 0
	if i < len(s) && s[i] == ':' {
		sec, ok := digits(s, i+1, 2)
		if !ok || sec > 59 {
			return Timestamp{}, parseError("the seconds are not 00 to 59")
		}
		second, i = sec, i+3
		if i < len(s) && (s[i] == '.' || s[i] == ',') {
			i++
			from := i
			for i < len(s) && isDigit(s[i]) {
				if i-from < 6 {
					micro = micro*10 + int(s[i]-'0')
				}
				i++
			}
			if i == from {
				return Timestamp{}, parseError("there are no digits after the decimal point of the seconds")
			}
			for n := i - from; n < 6; n++ {
				micro *= 10
			}
		}
	}
	if i == len(s) {
		return localTimestamp(year, month, day, hour, minute, second, micro, 0, true)
	}
	offset, ok := parseOffset(s[i:])
	if !ok {
		return Timestamp{}, parseError("the UTC offset is not Z or ±hh:mm below 24:00")
	}
	return localTimestamp(year, month, day, hour, minute, second, micro, offset, false)
}

func parseOffset(s string) (minutes int, ok bool) {
	if s == "Z" || s == "z" {
		return 0, true
	}
	if len(s) < 5 || (s[0] != '+' && s[0] != '-') {
		return 0, false
	}
	hours, ok1 := digits(s, 1, 2)
	at := 3
	if s[3] == ':' {
		at = 4
	}
	mins, ok2 := digits(s, at, 2)
	if !ok1 || !ok2 || len(s) != at+2 || hours > 23 || mins > 59 {
		return 0, false
	}
	minutes = hours*60 + mins
	if s[0] == '-' {
		minutes = -minutes
	}
	return minutes, true
}

func localTimestamp(year, month, day, hour, minute, second, micro, offset int, naive bool) (Timestamp, error) {
	t := time.Date(year, time.Month(month), day, hour, minute, second, 0, time.UTC)
	return Timestamp{
		micros: (t.Unix()-int64(offset)*60)*1_000_000 + int64(micro),
		offset: int16(offset),
		naive:  naive,
	}, nil
}

// parseEpoch reads a number of seconds since the epoch, or of milliseconds
// where its size exceeds 2e10, as pydantic does.
func parseEpoch(s string) (Timestamp, bool) {
	if len(s) > 64 || !isJSONNumber(s) {
		return Timestamp{}, false
	}
	const watershed = 2e10
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		if n > watershed || n < -watershed {
			if n > maxLocalMicros/1000 || n < minLocalMicros/1000 {
				return Timestamp{}, false
			}
			return Timestamp{micros: n * 1000}, true
		}
		return Timestamp{micros: n * 1_000_000}, true
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return Timestamp{}, false
	}
	if math.Abs(f) > watershed {
		f /= 1000
	}
	whole, fraction := math.Modf(f)
	micros := whole*1e6 + math.Round(fraction*1e6)
	if micros > maxLocalMicros || micros < minLocalMicros {
		return Timestamp{}, false
	}
	return Timestamp{micros: int64(micros)}, true
}

// Time returns the instant in UTC.
func (t Timestamp) Time() time.Time { return time.UnixMicro(t.micros).UTC() }

// IsZero reports whether t is the zero Timestamp.
func (t Timestamp) IsZero() bool { return t == Timestamp{} }

// Before reports whether t is an earlier instant than u.
func (t Timestamp) Before(u Timestamp) bool { return t.micros < u.micros }

// After reports whether t is a later instant than u.
func (t Timestamp) After(u Timestamp) bool { return t.micros > u.micros }

// Equal reports whether t and u are the same instant.
func (t Timestamp) Equal(u Timestamp) bool { return t.micros == u.micros }

// Next returns the timestamp for a change made at now to something whose
// manifest carries t: now, or one microsecond after t where a clock is behind.
func (t Timestamp) Next(now time.Time) Timestamp {
	n := NewTimestamp(now)
	if !n.After(t) {
		n.micros = min(t.micros+1, maxLocalMicros)
	}
	return n
}

// String returns the canonical text: no fraction where it is zero, else six
// digits; Z for UTC, other offsets as they came. A naive time is written as
// UTC, for a naive one stops some reference versions.
func (t Timestamp) String() string { return string(t.AppendText(nil)) }

// Received is String with a naive time left naive: the form a signature over a
// received manifest covers. It must not be sent.
func (t Timestamp) Received() string {
	s := t.String()
	if t.naive {
		return s[:len(s)-1]
	}
	return s
}

// AppendText appends the canonical text to dst.
func (t Timestamp) AppendText(dst []byte) []byte {
	local := time.UnixMicro(t.micros + int64(t.offset)*60_000_000).UTC()
	year, month, day := local.Date()
	hour, minute, second := local.Clock()
	dst = appendPadded(dst, year, 4)
	dst = appendPadded(append(dst, '-'), int(month), 2)
	dst = appendPadded(append(dst, '-'), day, 2)
	dst = appendPadded(append(dst, 'T'), hour, 2)
	dst = appendPadded(append(dst, ':'), minute, 2)
	dst = appendPadded(append(dst, ':'), second, 2)
	if micro := local.Nanosecond() / 1000; micro != 0 {
		dst = appendPadded(append(dst, '.'), micro, 6)
	}
	if t.offset == 0 {
		return append(dst, 'Z')
	}
	offset, sign := int(t.offset), byte('+')
	if offset < 0 {
		offset, sign = -offset, '-'
	}
	dst = appendPadded(append(dst, sign), offset/60, 2)
	return appendPadded(append(dst, ':'), offset%60, 2)
}

// MarshalJSON writes the canonical text as a JSON string.
func (t Timestamp) MarshalJSON() ([]byte, error) {
	dst := append(make([]byte, 0, 36), '"')
	return append(t.AppendText(dst), '"'), nil
}

// UnmarshalJSON reads a JSON string or number as ParseTimestamp does.
func (t *Timestamp) UnmarshalJSON(data []byte) error {
	text := string(data)
	if len(data) > 0 && data[0] == '"' {
		s := scanner{src: data}
		str, err := s.text()
		if err != nil {
			return fmt.Errorf("%w: %w", ErrTimestamp, err)
		}
		text = str
	} else if !isJSONNumber(text) {
		return fmt.Errorf("%w: it is neither a string nor a number", ErrTimestamp)
	}
	parsed, err := ParseTimestamp(text)
	if err != nil {
		return err
	}
	*t = parsed
	return nil
}

func isJSONNumber(s string) bool {
	sc := scanner{src: []byte(s)}
	_, err := sc.number()
	return err == nil && sc.pos == len(s)
}

// digits reads n decimal digits of s at i.
func digits(s string, i, n int) (int, bool) {
	if i+n > len(s) {
		return 0, false
	}
	v := 0
	for _, c := range []byte(s[i : i+n]) {
		if !isDigit(c) {
			return 0, false
		}
		v = v*10 + int(c-'0')
	}
	return v, true
}

func daysIn(month, year int) int {
	switch month {
	case 4, 6, 9, 11:
		return 30
	case 2:
		if year%4 == 0 && (year%100 != 0 || year%400 == 0) {
			return 29
		}
		return 28
	}
	return 31
}

func appendPadded(dst []byte, v, width int) []byte {
	var buf [20]byte
	i := len(buf)
	for v > 0 || i > len(buf)-width {
		i--
		buf[i] = byte('0' + v%10)
		v /= 10
	}
	return append(dst, buf[i:]...)
}
