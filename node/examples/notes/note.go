package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/url"
	"path"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// maxLinks bounds the links indexed of one note.
const maxLinks = 1000

// note is the contents of a note's bundle.
type note struct {
	Title    string    `json:"title"`
	Text     string    `json:"text"`
	Tags     []string  `json:"tags"`
	Modified time.Time `json:"modified"` // the file's modification time

	draft bool
}

var errNotText = errors.New("it is not UTF-8 text")

// parse makes a note of a file's text. Front matter that cannot be read is an
// error: it may be what says that the note is a draft.
func parse(file string, text []byte, modified time.Time) (note, error) {
	if !utf8.Valid(text) {
		return note{}, errNotText
	}
	text = bytes.TrimPrefix(text, []byte("\ufeff"))
	front, body := split(text)
	var meta struct {
		Title string
		Tags  tags
		Draft bool
	}
	if err := yaml.Unmarshal(front, &meta); err != nil {
		return note{}, fmt.Errorf("its front matter: %w", err)
	}
	n := note{Title: meta.Title, Text: string(body), Tags: meta.Tags, Modified: modified.UTC(), draft: meta.Draft}
	if n.Title == "" {
		n.Title = heading(n.Text)
	}
	if n.Title == "" {
		n.Title = strings.TrimSuffix(path.Base(file), path.Ext(file))
	}
	if n.Tags == nil {
		n.Tags = []string{}
	}
	return n, nil
}

// split parts the front matter, between two lines of "---", from what follows.
func split(text []byte) (front, body []byte) {
	first, rest, _ := bytes.Cut(text, []byte("\n"))
	if string(bytes.TrimRight(first, " \t\r")) != "---" {
		return nil, text
	}
	for at := 0; at < len(rest); {
		line, _, found := bytes.Cut(rest[at:], []byte("\n"))
		next := at + len(line)
		if found {
			next++
		}
		if string(bytes.TrimRight(line, " \t\r")) == "---" {
			return rest[:at], bytes.TrimLeft(rest[next:], "\r\n")
		}
		at = next
	}
	return nil, text // a rule that nothing closes
}

func heading(text string) string {
	for line := range strings.Lines(text) {
		if title, ok := strings.CutPrefix(line, "# "); ok {
			return strings.TrimSpace(title)
		}
	}
	return ""
}

// tags are written as a list or as text with commas.
type tags []string

// UnmarshalYAML takes either.
func (t *tags) UnmarshalYAML(value *yaml.Node) error {
	var list []string
	if value.Kind == yaml.ScalarNode {
		list = strings.Split(value.Value, ",")
	} else if err := value.Decode(&list); err != nil {
		return err
	}
	for _, tag := range list {
		if tag = strings.TrimPrefix(strings.TrimSpace(tag), "#"); tag != "" {
			*t = append(*t, tag)
		}
	}
	return nil
}

// [text](target "title") and [[target|text]].
var linkForm = regexp.MustCompile(`\]\(<?([^)\s>]+)|\[\[([^\]|#]+)`)

// links returns the files that a note's text links to, once each, as paths from
// the top of the vault; links out of it are left out. A target in double brackets
// is a path from the top, and may lack its extension.
func links(file, text string) []string {
	var out []string
	seen := map[string]bool{file: true} // a link to oneself is none
	for _, m := range linkForm.FindAllStringSubmatch(text, maxLinks) {
		target := strings.TrimSpace(m[2])
		if m[1] != "" {
			u, err := url.Parse(m[1])
			if err != nil || u.Scheme != "" || u.Host != "" || u.Path == "" || path.IsAbs(u.Path) {
				continue
			}
			target = path.Join(path.Dir(file), u.Path)
		} else if !isNote(target) {
			target += ".md"
		}
		if target = path.Clean(target); isNote(target) && !seen[target] {
			seen[target] = true
			out = append(out, target)
		}
	}
	return out
}

// isNote reports whether a path from the top of the vault, with slashes, may be
// a note's: a Markdown file's, none of whose elements is hidden or an editor's.
func isNote(file string) bool {
	if !isVisible(file) {
		return false
	}
	ext := strings.ToLower(path.Ext(file))
	return ext == ".md" || ext == ".markdown"
}

// isVisible also refuses paths that lead out of the vault, are not the shortest
// way to where they lead, or are no text.
func isVisible(file string) bool {
	if !utf8.ValidString(file) {
		return false
	}
	for element := range strings.SplitSeq(file, "/") {
		if element == "" || strings.ContainsAny(element[:1], ".~#") || strings.ContainsAny(element, "\\\x00") {
			return false
		}
	}
	return true
}
