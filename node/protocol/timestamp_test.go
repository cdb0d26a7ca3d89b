package protocol

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// The reference's reading and writing of timestamps.
func TestTimestampVectors(t *testing.T) {
	var file struct {
		Cases []struct {
			Name, Signed string
			Payload      string `json:"payload_json"`
		}
	}
	readJSON(t, "testdata/pydantic_json.json", &file)
	type envelope struct {
		Events []struct {
			Manifest struct{ Timestamp json.RawMessage }
		}
	}
	tested := 0
	for _, c := range file.Cases {
		if !strings.HasPrefix(c.Name, "timestamp ") {
			continue
		}
		tested++
		var in envelope
		if err := json.Unmarshal([]byte(c.Payload), &in); err != nil {
			t.Fatal(err)
		}
		raw := in.Events[0].Manifest.Timestamp
		var got Timestamp
		err := json.Unmarshal(raw, &got)
		if c.Signed == "" {
			if !errors.Is(err, ErrTimestamp) {
				t.Errorf("%s: %v, %v; the reference refuses it", raw, got, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", raw, err)
			continue
		}
		var signed struct{ Payload envelope }
		if err := json.Unmarshal([]byte(c.Signed), &signed); err != nil {
			t.Fatal(err)
		}
		want := strings.Trim(string(signed.Payload.Events[0].Manifest.Timestamp), `"`)
		if got.Received() != want {
			t.Errorf("%s: received as %s, want %s", raw, got.Received(), want)
		}
		if !got.naive && got.String() != want {
			t.Errorf("%s: written as %s, want %s", raw, got, want)
		}
		if got.naive && got.String() != want+"Z" {
			t.Errorf("%s: naive, written as %s, want %sZ", raw, got, want)
		}
	}
	if tested < 30 {
		t.Errorf("only %d cases tested", tested)
	}
}

func TestParseTimestamp(t *testing.T) {
	for in, want := range map[string]string{
		"2026-01-01T00:00:00Z":               "2026-01-01T00:00:00Z",
		"2026-01-01_10:20":                   "2026-01-01T10:20:00Z",
		"2026-01-01T00:00:00.0000009Z":       "2026-01-01T00:00:00Z",
		"2026-01-01T00:00:00.1+0530":         "2026-01-01T00:00:00.100000+05:30",
		"2026-01-01T00:00:00-00:30":          "2026-01-01T00:00:00-00:30",
		"2024-02-29":                         "2024-02-29T00:00:00Z",
		"9999-12-31T23:59:59.999999Z":        "9999-12-31T23:59:59.999999Z",
		"9999-12-31T23:59:59.999999-23:59":   "9999-12-31T23:59:59.999999-23:59",
		"0001-01-01T00:00:00+23:59":          "0001-01-01T00:00:00+23:59",
		"-1":                                 "1969-12-31T23:59:59Z",
		"-0.5":                               "1969-12-31T23:59:59.500000Z",
		"20000000000":                        "2603-10-11T11:33:20Z",
		"20000000001":                        "1970-08-20T11:33:20.001000Z",
		"253402300799999":                    "9999-12-31T23:59:59.999000Z",
		"2026-01-01T00:00:00." + sixty + "Z": "2026-01-01T00:00:00.111111Z",
	} {
		got, err := ParseTimestamp(in)
		if err != nil || got.String() != want {
			t.Errorf("ParseTimestamp(%q) = %v, %v; want %s", in, got, err, want)
			continue
		}
		again, err := ParseTimestamp(got.String())
		if err != nil || !again.Equal(got) || again.String() != want {
			t.Errorf("%s read again: %v, %v", want, again, err)
		}
	}
	for _, in := range []string{
		"", "now", "2026-", "2026-1-1", "2026-13-01", "2026-00-01", "2026-01-32", "2023-02-29", "0000-01-01", "2026-01-01T", "2026-01-01T24:00:00Z",
		"2026-01-01T00:60:00Z", "2026-01-01T00:00:60Z", "2026-01-01T00:00:00.Z", "2026-01-01T00:00:00+2", "2026-01-01T00:00:00+24:00",
		"2026-01-01T00:00:00+00:60", "2026-01-01T00:00:00ZZ", "2026-01-01T00:00:00Z ", "2026-01-01x00:00:00Z", "20260101T000000Z", "1e400", "253402300800000",
		"1e18", "NaN", "0x10", "+5", "01", strings.Repeat("9", 200),
	} {
		if got, err := ParseTimestamp(in); !errors.Is(err, ErrTimestamp) {
			t.Errorf("ParseTimestamp(%q) = %v, %v; want ErrTimestamp", in, got, err)
		}
	}
}

const sixty = "111111111111111111111111111111111111111111111111111111111111"

func TestTimestampOrder(t *testing.T) {
	parse := func(s string) Timestamp {
		ts, err := ParseTimestamp(s)
		if err != nil {
			t.Fatal(err)
		}
		return ts
	}
	early, late := parse("2026-01-01T01:00:00+02:00"), parse("2026-01-01T00:00:00Z")
	if !early.Before(late) || !late.After(early) || early.Equal(late) || late.Before(early) {
		t.Errorf("%s and %s are out of order", early, late)
	}
	if same := parse("2025-12-31T23:00:00Z"); !same.Equal(early) {
		t.Errorf("%s and %s are one instant", same, early)
	}
	if got := early.Time(); !got.Equal(time.Date(2025, 12, 31, 23, 0, 0, 0, time.UTC)) {
		t.Errorf("time %v", got)
	}
	if !(Timestamp{}).IsZero() || late.IsZero() {
		t.Error("IsZero")
	}
}

func TestNewTimestampAndNext(t *testing.T) {
	now := time.Date(2026, 5, 6, 7, 8, 9, 123456789, time.FixedZone("", 3600))
	ts := NewTimestamp(now)
	if got := ts.String(); got != "2026-05-06T06:08:09.123456Z" {
		t.Errorf("NewTimestamp = %s", got)
	}
	if Now(now) != ts {
		t.Error("Now differs from NewTimestamp")
	}
	if got := NewTimestamp(time.Unix(0, -1)); got.String() != "1969-12-31T23:59:59.999999Z" {
		t.Errorf("before the epoch: %s", got)
	}
	if got := ts.Next(now.Add(time.Second)); got.String() != "2026-05-06T06:08:10.123456Z" {
		t.Errorf("Next with a good clock: %s", got)
	}
	if got := ts.Next(now.Add(-time.Hour)); got.String() != "2026-05-06T06:08:09.123457Z" {
		t.Errorf("Next with a clock behind: %s", got)
	}
	if got := NewTimestamp(time.Date(12000, 1, 1, 0, 0, 0, 0, time.UTC)); got.String() != "9999-12-31T23:59:59.999999Z" {
		t.Errorf("far future: %s", got)
	}
}

func TestTimestampJSON(t *testing.T) {
	var m Manifest
	if err := json.Unmarshal([]byte(`{"rid":"orn:a.b:c","timestamp":"2026-01-01T00:00:00","sha256_hash":"x"}`), &m); err != nil {
		t.Fatal(err)
	}
	out, err := json.Marshal(m)
	if err != nil || string(out) != `{"rid":"orn:a.b:c","timestamp":"2026-01-01T00:00:00Z","sha256_hash":"x"}` {
		t.Errorf("%s, %v", out, err)
	}
	for _, bad := range []string{`null1`, `{}`, `[]`, `true`, `"x"`, `""`} {
		if err := new(Timestamp).UnmarshalJSON([]byte(bad)); !errors.Is(err, ErrTimestamp) {
			t.Errorf("%s: %v, want ErrTimestamp", bad, err)
		}
	}
}

func FuzzParseTimestamp(f *testing.F) {
	for _, s := range []string{"2026-11-22T05:20:01.893725Z", "2026-01-01T00:00:00-05:30", "2026-01-01", "1700000000.5", "0001-01-01T00:00:00+23:59", "2026-01-01t00:00,5z"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ts, err := ParseTimestamp(s)
		var same Timestamp
		if failed := same.UnmarshalText([]byte(s)); same != ts || fmt.Sprint(failed) != fmt.Sprint(err) {
			t.Fatalf("%q is %v, %v; as bytes %v, %v", s, ts, err, same, failed)
		}
		if err != nil {
			return
		}
		text := ts.String()
		again, err := ParseTimestamp(text)
		if err != nil || !again.Equal(ts) || again.String() != text {
			t.Fatalf("%q is %s, read again %s, %v", s, text, again, err)
		}
		if len(text) > len("2026-01-01T00:00:00.000000+00:00") {
			t.Fatalf("%q is written as %q", s, text)
		}
	})
}
