package rid

import (
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
)

type verdict struct {
	OK        bool
	Scheme    string
	Namespace string
	Reference string
	// RoundTrips: the reference's normal form is the input. Only URLs have
	// another, which matters for signatures alone.
	RoundTrips bool
	Context    string
	Error      string
}

type parseCase struct {
	Input string
	RID   verdict `json:"rid"`
	Type  verdict `json:"rid_type"`
}

func readJSON(t testing.TB, path string, to any) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, to); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

func parseCases(t testing.TB) []parseCase {
	var file struct {
		Count int
		Cases []parseCase
	}
	readJSON(t, "testdata/rid_parse.json", &file)
	if len(file.Cases) == 0 || len(file.Cases) != file.Count {
		t.Fatalf("%d cases, want %d", len(file.Cases), file.Count)
	}
	return file.Cases
}

// ownForm reports whether the reference holds a RID to the form of its type;
// of these types we know those of KOI-net alone.
func ownForm(input string) bool {
	for _, prefix := range []string{"orn:slack.", "orn:github.", "orn:normalized.", "orn:hackmd.", "orn:google_drive."} {
		if strings.HasPrefix(input, prefix) {
			return true
		}
	}
	return false
}

func TestParseVectors(t *testing.T) {
	for _, c := range parseCases(t) {
		r, err := Parse(c.Input)
		switch {
		case c.RID.OK && err != nil:
			t.Errorf("Parse(%q): %v; the reference takes it", c.Input, err)
		case !c.RID.OK && err == nil && !ownForm(c.Input):
			t.Errorf("Parse(%q) succeeds; the reference says %s", c.Input, c.RID.Error)
		case err != nil && !errors.Is(err, ErrInvalid):
			t.Errorf("Parse(%q): %v does not wrap ErrInvalid", c.Input, err)
		case err == nil && string(r) != c.Input:
			t.Errorf("Parse(%q) = %q", c.Input, r)
		case c.RID.OK && c.RID.RoundTrips && (string(r.Type()) != c.RID.Context || r.Reference() != c.RID.Reference):
			t.Errorf("Parse(%q) has type %q and reference %q, want %q and %q", c.Input, r.Type(), r.Reference(), c.RID.Context, c.RID.Reference)
		}
		_, err = ParseType(c.Input)
		if (err == nil) != c.Type.OK {
			t.Errorf("ParseType(%q): %v; the reference: %v %s", c.Input, err, c.Type.OK, c.Type.Error)
		}
		if err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("ParseType(%q): %v does not wrap ErrInvalid", c.Input, err)
		}
	}
}

func TestParseBounds(t *testing.T) {
	fits := "orn:test.doc:" + strings.Repeat("x", MaxLength-len("orn:test.doc:"))
	if _, err := Parse(fits); err != nil {
		t.Errorf("%d bytes: %v", len(fits), err)
	}
	for name, s := range map[string]string{"long": fits + "x", "bytes": "orn:test.doc:\xff", "long type": strings.Repeat("x", MaxLength+1)} {
		_, err := Parse(s)
		if !errors.Is(err, ErrInvalid) {
			t.Errorf("Parse of %s: %v", name, err)
		} else if len(err.Error()) > 400 {
			t.Errorf("Parse of %s: the error has %d bytes", name, len(err.Error()))
		}
		if _, err := ParseType(s); !errors.Is(err, ErrInvalid) {
			t.Errorf("ParseType of %s: %v", name, err)
		}
	}
}

func TestParts(t *testing.T) {
	r, err := Parse("orn:test.doc:a:b:c")
	if err != nil {
		t.Fatal(err)
	}
	if r.Type() != "orn:test.doc" || r.Reference() != "a:b:c" || r.String() != "orn:test.doc:a:b:c" || r.Type().String() != "orn:test.doc" {
		t.Errorf("%s: type %s, reference %s", r, r.Type(), r.Reference())
	}
	if bad := RID("nocolon"); bad.Type() != "" || bad.Reference() != "" {
		t.Errorf("an invalid RID has type %q and reference %q", bad.Type(), bad.Reference())
	}
}

func TestEdgeVectors(t *testing.T) {
	var file struct {
		Cases []struct {
			Source, Target RID
			Old            RID `json:"old_rid_lib_3_2_4"`
			New            RID `json:"new_koi_net_1_1_to_2_1"`
		}
	}
	readJSON(t, "testdata/edge_rid.json", &file)
	if len(file.Cases) == 0 {
		t.Fatal("no cases")
	}
	for _, c := range file.Cases {
		if got := LegacyEdge(c.Source, c.Target); got != c.Old {
			t.Errorf("LegacyEdge(%q, %q) = %s, want %s", c.Source, c.Target, got, c.Old)
		}
		if got := NewEdge(c.Source, c.Target); got != c.New {
			t.Errorf("NewEdge(%q, %q) = %s, want %s", c.Source, c.Target, got, c.New)
		}
		if NewEdge(c.Source, c.Target).Type() != EdgeType {
			t.Errorf("%s is no edge", NewEdge(c.Source, c.Target))
		}
	}
}

func TestNodeRIDs(t *testing.T) {
	r, err := NewNode("alice", "6061")
	if err != nil || r != "orn:koi-net.node:alice+6061" {
		t.Fatalf("NewNode = %s, %v", r, err)
	}
	name, id, err := SplitNode(r)
	if err != nil || name != "alice" || id != "6061" {
		t.Errorf("SplitNode = %q, %q, %v", name, id, err)
	}
	for _, c := range [][2]string{{"", "x"}, {"x", ""}, {"a+b", "x"}, {"a", "x+y"}, {"a", "x\xff"}, {strings.Repeat("a", MaxLength), "x"}} {
		if r, err := NewNode(c[0], c[1]); !errors.Is(err, ErrInvalid) {
			t.Errorf("NewNode(%.20q, %q) = %.80s, %v", c[0], c[1], r, err)
		}
	}
	for _, r := range []RID{"orn:koi-net.node:x", "orn:koi-net.node:a+b+c", "orn:koi-net.edge:a+b", "", "x"} {
		if _, _, err := SplitNode(r); !errors.Is(err, ErrInvalid) {
			t.Errorf("SplitNode(%q): %v", r, err)
		}
	}
}

func TestKeyID(t *testing.T) {
	const key = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEHVPP2uqII8WrU1k+Jh5txK1/DWfKaJCYqR6JVaYcqpQzIIYWZI9f2XjyxsxWVkuodnvxEuIn+lbhVGZPdw/JFQ=="
	if got := KeyID(key); got != "6061eade2b51a53cbfa9e06edb28041c7f3db33f0f298656e042645fb6cc90c1" {
		t.Errorf("KeyID = %s", got)
	}
}

func FuzzParse(f *testing.F) {
	for _, c := range parseCases(f) {
		f.Add(c.Input)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := Parse(s)
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Fatalf("%q: %v", s, err)
			}
			return
		}
		if string(r.Type())+":"+r.Reference() != s {
			t.Fatalf("%q has type %q and reference %q", s, r.Type(), r.Reference())
		}
		if _, err := ParseType(string(r.Type())); err != nil {
			t.Fatalf("%q has an invalid type: %v", s, err)
		}
		if r.Type() == NodeType {
			if _, _, err := SplitNode(r); err != nil {
				t.Fatalf("%q: %v", s, err)
			}
		}
	})
}

func FuzzParseType(f *testing.F) {
	for _, c := range parseCases(f) {
		f.Add(c.Input)
	}
	f.Fuzz(func(t *testing.T, s string) {
		typ, err := ParseType(s)
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Fatalf("%q: %v", s, err)
			}
			return
		}
		if string(typ) != s {
			t.Fatalf("%q becomes %q", s, typ)
		}
		if len(s)+2 > MaxLength || typ == NodeType {
			return
		}
		r, err := Parse(s + ":x")
		if err != nil || r.Type() != typ || r.Reference() != "x" {
			t.Fatalf("type %q makes no RID: %v", s, err)
		}
	})
}

func TestIsKeyed(t *testing.T) {
	hash := KeyID("key")
	for r, want := range map[RID]bool{
		RID("orn:koi-net.node:a+" + hash):                         true,
		RID("orn:koi-net.node:a+" + strings.ToUpper(hash)):        false,
		RID("orn:koi-net.node:a+" + hash[1:]):                     false,
		"orn:koi-net.node:a+7f7e1c3e-5c1c-4c39-9b0e-3f0e3a7a7a3e": false,
		RID("orn:koi-net.edge:" + hash):                           false,
		RID("orn:koi-net.node:" + hash):                           false,
		"":                                                        false,
	} {
		if got := IsKeyed(r); got != want {
			t.Errorf("IsKeyed(%q) = %v, want %v", r, got, want)
		}
	}
}
