package protocol

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/big"
	"reflect"
	"strconv"
	"strings"
	"testing"
)

func TestNormalize(t *testing.T) {
	long := strings.Repeat("9", 5000)
	for in, want := range map[string]string{
		` { "b" : 1 , "a" : [ 1 , 2 ] } `: `{"b":1,"a":[1,2]}`,
		"\t[\r\n]\n":                      `[]`,
		`{ }`:                             `{}`,
		`"x"`:                             `"x"`,
		`null`:                            `null`,
		`{"a":1,"b":2,"a":3}`:             `{"a":3,"b":2}`,
		`{"a":{"x":1,"x":2},"a":{"y":3,"z":4,"y":5}}`:                     `{"a":{"y":5,"z":4}}`,
		`{"a":1,"\u0061":2}`:                                              `{"a":2}`,
		`{"x":[{"a":1,"a":2,"b":{"c":1,"c":2}}]}`:                         `{"x":[{"a":2,"b":{"c":2}}]}`,
		`{"b":1,"a":2,"b":3,"c":4,"a":5}`:                                 `{"b":3,"a":5,"c":4}`,
		`{"":1,"":2}`:                                                     `{"":2}`,
		`"\u00fc\ud83d\ude00\u2028\u0000\u001F\u007f\b\f\n\r\t\/\\\"<>&"`: "\"ü😀\u2028\\u0000\\u001f\x7f\\b\\f\\n\\r\\t/\\\\\\\"<>&\"",
		`"\uD834\uDD1E"`:                                                  `"𝄞"`,
		`"\ufffd"`:                                                        "\"\ufffd\"",
		`-0`:                                                              `0`,
		`-0.0`:                                                            `-0.0`,
		`0.0`:                                                             `0.0`,
		`1E5`:                                                             `100000.0`,
		`1e15`:                                                            `1000000000000000.0`,
		`1e16`:                                                            `1e+16`,
		`1.5e-5`:                                                          `0.000015`,
		`1e-6`:                                                            `1e-6`,
		`1.25e-7`:                                                         `1.25e-7`,
		`123456789012345680000.0`:                                         `1.2345678901234568e+20`,
		`1.7976931348623157e308`:                                          `1.7976931348623157e+308`,
		`5e-324`:                                                          `5e-324`,
		`1e-400`:                                                          `0.0`,
		`-1e-400`:                                                         `-0.0`,
		`1e400`:                                                           `null`,
		`-1e400`:                                                          `null`,
		`[NaN,Infinity,-Infinity]`:                                        `[null,null,null]`,
		`333333333.33333329`:                                              `333333333.3333333`,
		`4.50`:                                                            `4.5`,
		long:                                                              long,
		"-" + long:                                                        "-" + long,
	} {
		got, err := Normalize([]byte(in), 256)
		if err != nil || string(got) != want {
			t.Errorf("Normalize(%.80q) = %.80q, %v; want %.80q", in, got, err, want)
		}
	}
}

// The reference's own normal form: what it signs.
func TestNormalizeVectors(t *testing.T) {
	var file struct {
		Cases []struct {
			Name, Type, Signed string
			Payload            string `json:"payload_json"`
		}
	}
	readJSON(t, "testdata/pydantic_json.json", &file)
	tested := 0
	for _, c := range file.Cases {
		if c.Type != "events_payload" || c.Signed == "" || strings.HasPrefix(c.Name, "timestamp") || c.Name == "FORGET with nulls" {
			continue
		}
		contents := func(text string) string {
			if i := strings.Index(text, `"contents":`); i >= 0 {
				s := scanner{src: []byte(text), pos: i + len(`"contents":`)}
				from := s.pos
				if err := s.skip(256, 256); err != nil {
					t.Fatalf("%s: %v", c.Name, err)
				}
				return text[from:s.pos]
			}
			return ""
		}
		in, want := contents(c.Payload), contents(c.Signed)
		if in == "" {
			continue
		}
		tested++
		if got, err := Normalize([]byte(in), 256); err != nil || string(got) != want {
			t.Errorf("%s: Normalize(%s) = %s, %v; want %s", c.Name, in, got, err, want)
		}
	}
	if tested < 30 {
		t.Errorf("only %d cases tested", tested)
	}
}

func TestNormalizeRefuses(t *testing.T) {
	for in, at := range map[string]int{
		``:                     0,
		`   `:                  3,
		`{`:                    1,
		`{"events":[`:          11,
		`[1,]`:                 3,
		`{"a":1,}`:             7,
		`{"a" 1}`:              5,
		`{a:1}`:                1,
		`{'a':1}`:              1,
		`[1 2]`:                3,
		`[1}`:                  2,
		`01`:                   1,
		`-`:                    0,
		`+1`:                   0,
		`.5`:                   0,
		`1.`:                   2,
		`1e`:                   2,
		`1e+`:                  3,
		`tru`:                  0,
		`nul`:                  0,
		`True`:                 0,
		`1 1`:                  2,
		`"abc`:                 4,
		`"\x"`:                 1,
		`"\u12g4"`:             1,
		`"\u12`:                1,
		`"\`:                   2,
		`"\ud800"`:             1,
		`"\udc00"`:             1,
		`"\ud800\u0041"`:       1,
		`"\ud800\ud800"`:       1,
		"\"\x01\"":             1,
		"\"a\nb\"":             2,
		"\"\xff\"":             1,
		"\"\xc0\x80\"":         1,
		"\"\xed\xa0\x80\"":     1, // a surrogate in UTF-8
		"{\"a\":\"\xe2\x82\"}": 6,
		"\ufeff{}":             0,
		"{}\x00":               2,
		"\x00":                 0,
	} {
		_, err := Normalize([]byte(in), 256)
		var syntax *SyntaxError
		if !errors.As(err, &syntax) {
			t.Errorf("Normalize(%q) = %v, want a SyntaxError", in, err)
		} else if syntax.Offset != at || syntax.Msg == "" {
			t.Errorf("Normalize(%q) fails at %d (%v), want %d", in, syntax.Offset, err, at)
		}
		if _, err := Hash([]byte(in)); err == nil {
			t.Errorf("Hash(%q) succeeds", in)
		}
	}
}

func TestNormalizeDepth(t *testing.T) {
	nested := func(n int) []byte {
		return []byte(strings.Repeat(`{"a":[`, n/2) + strings.Repeat(`]}`, n/2))
	}
	if _, err := Normalize(nested(256), 256); err != nil {
		t.Errorf("256 levels: %v", err)
	}
	if _, err := Normalize(nested(258), 256); !errors.Is(err, ErrTooDeep) {
		t.Errorf("258 levels: %v, want ErrTooDeep", err)
	}
	if _, err := Normalize([]byte(`1`), 0); err != nil {
		t.Errorf("a number at depth 0: %v", err)
	}
	if _, err := Normalize([]byte(`[]`), 0); !errors.Is(err, ErrTooDeep) {
		t.Errorf("a list at depth 0: %v, want ErrTooDeep", err)
	}
	deep := []byte(strings.Repeat(`{"a":1,"a":`, 10) + `{}` + strings.Repeat(`}`, 10))
	if _, err := Normalize(deep, 10); !errors.Is(err, ErrTooDeep) {
		t.Errorf("duplicates and too deep: %v, want ErrTooDeep", err)
	}
	if _, err := Normalize(bytes.Repeat([]byte("["), 5<<20), math.MaxInt); !errors.Is(err, ErrTooDeep) {
		t.Errorf("no bound: %v, want ErrTooDeep", err)
	}
}

// Many keys take another way to find duplicates than few.
func TestNormalizeManyKeys(t *testing.T) {
	var in, want strings.Builder
	in.WriteByte('{')
	want.WriteByte('{')
	for i := range 1000 {
		fmt.Fprintf(&in, `"k%d": %d, `, i, i)
		if i > 0 {
			want.WriteByte(',')
		}
		n := i
		if i == 7 {
			n = -1
		}
		fmt.Fprintf(&want, `"k%d":%d`, i, n)
	}
	unique := strings.TrimSuffix(in.String(), ", ") + "}"
	got, err := Normalize([]byte(unique), 1)
	if err != nil || string(got) != strings.Replace(want.String(), `"k7":-1`, `"k7":7`, 1)+"}" {
		t.Errorf("unique keys: %.100s, %v", got, err)
	}
	got, err = Normalize([]byte(in.String()+`"k7": -1}`), 1)
	if err != nil || string(got) != want.String()+"}" {
		t.Errorf("one key twice: %.100s, %v", got, err)
	}
}

func TestAppendString(t *testing.T) {
	for in, want := range map[string]string{
		"":                        `""`,
		"orn:a.b:c":               `"orn:a.b:c"`,
		"a\"b\\c\n\x00é\u2028😀<>": "\"a\\\"b\\\\c\\n\\u0000é\u2028😀<>\"",
		"a\xffb":                  "\"a\ufffdb\"",
	} {
		if got := string(AppendString(nil, in)); got != want {
			t.Errorf("AppendString(%q) = %s, want %s", in, got, want)
		}
	}
}

// equalJSON compares two values as encoding/json reads them, numbers by value.
func equalJSON(a, b any) bool {
	switch a := a.(type) {
	case json.Number:
		b, ok := b.(json.Number)
		if !ok {
			return false
		}
		if isInt(string(a)) {
			x, ok1 := new(big.Int).SetString(string(a), 10)
			y, ok2 := new(big.Int).SetString(string(b), 10)
			return ok1 && ok2 && x.Cmp(y) == 0
		}
		x, _ := strconv.ParseFloat(string(a), 64)
		y, _ := strconv.ParseFloat(string(b), 64)
		return math.Float64bits(x) == math.Float64bits(y) && !isInt(string(b))
	case []any:
		b, ok := b.([]any)
		if !ok || len(a) != len(b) {
			return false
		}
		for i := range a {
			if !equalJSON(a[i], b[i]) {
				return false
			}
		}
		return true
	case map[string]any:
		b, ok := b.(map[string]any)
		if !ok || len(a) != len(b) {
			return false
		}
		for k := range a {
			if v, ok := b[k]; !ok || !equalJSON(a[k], v) {
				return false
			}
		}
		return true
	}
	return reflect.DeepEqual(a, b)
}

func isInt(s string) bool { return !strings.ContainsAny(s, ".eE") }

func parseAny(data []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var v any
	err := d.Decode(&v)
	return v, err
}

func FuzzNormalize(f *testing.F) {
	for _, c := range hashCases(f) {
		if len(c.Text) < 300 {
			f.Add([]byte(c.Text))
		}
	}
	for _, s := range []string{`{"a":1,"b":2,"a":[{"x":1,"x":2}]}`, `"\ud83d\ude00"`, `[NaN,-Infinity,1e400]`, "\"\xff\"", `{"a":{"a":{"a":[[[1e-7]]]}}}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := Normalize(data, 64)
		if err != nil {
			// What we refuse, encoding/json refuses, but for depth and for
			// texts it repairs: surrogates and invalid UTF-8.
			if json.Valid(data) && !errors.Is(err, ErrTooDeep) && !bytes.Contains(data, []byte(`\u`)) && bytes.Equal(bytes.ToValidUTF8(data, nil), data) {
				t.Fatalf("%q is JSON, but: %v", data, err)
			}
			return
		}
		if !json.Valid(got) {
			t.Fatalf("%q: normal form %q is no JSON", data, got)
		}
		again, err := Normalize(got, 64)
		if err != nil || !bytes.Equal(again, got) {
			t.Fatalf("%q: normal form %q becomes %q, %v", data, got, again, err)
		}
		tp := tape{scanner: scanner{src: data}}
		if err := tp.parse(64); err != nil {
			t.Fatal(err)
		}
		if slow, err := tp.write(nil, normalStyle); err != nil || !bytes.Equal(slow, got) {
			t.Fatalf("%q: one pass gives %q, the tape %q, %v", data, got, slow, err)
		}
		want, err := parseAny(data)
		if err != nil {
			return // NaN and its like
		}
		if have, err := parseAny(got); err != nil || (!equalJSON(want, have) && !bytes.Contains(data, []byte("e")) && !bytes.Contains(data, []byte("E"))) {
			t.Fatalf("%q and its normal form %q differ in value", data, got)
		}
	})
}

// kilobyte returns about 1 KiB of contents as a git commit has them.
func kilobyte(i int) []byte {
	return fmt.Appendf(nil, `{"author": "A. Person <person%d@example.org>", "date": "2026-01-01T00:00:00+02:00", "subject": "a change of %d lines", "size": %d, "ratio": 0.%d, "body": %q, "files": ["a/b.go", "c/d.go", {"name": "e.go", "added": 12, "removed": 3}]}`,
		i, i, i*977, i+1, strings.Repeat("some text with a break\n and \"quotes\" ", 20))
}

func BenchmarkNormalize(b *testing.B) {
	raw := kilobyte(1)
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Normalize(raw, 256); err != nil {
			b.Fatal(err)
		}
	}
}
