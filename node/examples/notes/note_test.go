package main

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func TestParse(t *testing.T) {
	tests := map[string]struct {
		file, text string
		want       note
		err        string
	}{
		"plain":               {"a.md", "just text\n", note{Title: "a", Text: "just text\n"}, ""},
		"empty":               {"sub/a.markdown", "", note{Title: "a"}, ""},
		"heading":             {"a.md", "intro\n# The title \nmore", note{Title: "The title", Text: "intro\n# The title \nmore"}, ""},
		"second-level only":   {"a.md", "## No title", note{Title: "a", Text: "## No title"}, ""},
		"front matter":        {"a.md", "---\ntitle: T\ntags: [x, '#y']\n---\n\n# H\n", note{Title: "T", Text: "# H\n", Tags: []string{"x", "y"}}, ""},
		"tags as text":        {"a.md", "---\ntags: one, two,\n---\nx", note{Title: "a", Text: "x", Tags: []string{"one", "two"}}, ""},
		"draft":               {"a.md", "---\ndraft: true\n---\nx", note{Title: "a", Text: "x", draft: true}, ""},
		"carriage returns":    {"a.md", "---\r\ntitle: T\r\ndraft: yes\r\n---\r\nx\r\n", note{Title: "T", Text: "x\r\n", draft: true}, ""},
		"byte order mark":     {"a.md", "\ufeff---\ntitle: T\n---\nx", note{Title: "T", Text: "x"}, ""},
		"a number as title":   {"a.md", "---\ntitle: 2026\n---\n", note{Title: "2026"}, ""},
		"unclosed":            {"a.md", "---\ntitle: T\n", note{Title: "a", Text: "---\ntitle: T\n"}, ""},
		"nothing in between":  {"a.md", "---\n---\nx", note{Title: "a", Text: "x"}, ""},
		"a rule further down": {"a.md", "x\n---\ndraft: true\n---\n", note{Title: "a", Text: "x\n---\ndraft: true\n---\n"}, ""},
		"broken front matter": {"a.md", "---\ndraft: [true\n---\nx", note{}, "front matter"},
		"draft of no sense":   {"a.md", "---\ndraft: [1]\n---\nx", note{}, "front matter"},
		"not text":            {"a.md", "\xff\xfe", note{}, "UTF-8"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := parse(tt.file, []byte(tt.text), noon.In(time.FixedZone("", 3600)))
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("%+v, %v: want an error about %q", got, err, tt.err)
				}
				return
			}
			tt.want.Modified = noon
			if tt.want.Tags == nil {
				tt.want.Tags = []string{}
			}
			if err != nil || !reflect.DeepEqual(got, tt.want) {
				t.Errorf("%+v, %v\nwant %+v", got, err, tt.want)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add("---\ntitle: T\ntags: [a]\ndraft: true\n---\n# H\n[x](y.md) [[z]]")
	f.Add("---\r\na: &a [*a]\r\n---\r\n")
	f.Fuzz(func(t *testing.T, text string) {
		n, err := parse("a.md", []byte(text), noon)
		if err != nil {
			return
		}
		if n.Title == "" && utf8.ValidString(text) {
			t.Error("a note without a title")
		}
		for _, target := range links("sub/a.md", n.Text) {
			if !isNote(target) {
				t.Errorf("a link to %q, which is no note", target)
			}
		}
	})
}

func TestLinks(t *testing.T) {
	text := `[a](b.md) [again](b.md "title") [up](../c.md#part) [space](<d%20e.md>) [angle](<f.md>)
[web](https://example.com/x.md) [out](../../x.md) [root](/etc/x.md) [picture](p.png) [self](a.md) [part](#x)
[[top]] [[sub/deep|shown]] [[top#part]] [[v1.2 notes]] [[.hidden]] [[../x]] [mail](mailto:a@b.md)`
	want := []string{"sub/b.md", "c.md", "sub/d e.md", "sub/f.md", "top.md", "sub/deep.md", "v1.2 notes.md"}
	if got := links("sub/a.md", text); !slices.Equal(got, want) {
		t.Errorf("%q\nwant %q", got, want)
	}
	if got := links("a.md", strings.Repeat("[x](y.md)[[z]]", maxLinks)); len(got) != 2 {
		t.Errorf("%d links", len(got))
	}
}

func TestWhatIsANote(t *testing.T) {
	for file, want := range map[string]bool{
		"a.md": true, "sub/a.MD": true, "a.markdown": true, "ü b.md": true, "a..b.md": true,
		"a.txt": false, "a.md~": false, ".a.md": false, ".a.md.swp": false, "#a.md#": false, "~$a.md": false, ".#a.md": false,
		".git/a.md": false, "sub/.obsidian/a.md": false, "../a.md": false, "/a.md": false, "sub//a.md": false, "./a.md": false,
		"a\x00.md": false, `sub\a.md`: false, "": false, ".md": false, "a\xff.md": false,
	} {
		if isNote(file) != want {
			t.Errorf("%q: %t, want %t", file, !want, want)
		}
	}
}
