//go:build interop

package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"

	"github.com/koi-net/koi-operator/hack/interop/reference"
)

// holds is what the table says of what was seen to work.
const holds = "yes"

// layout is a table of the document.
type layout struct {
	title string
	rows  []string
}

// layouts are all tables, in order. Their columns are the releases.
func layouts() []layout {
	return []layout{
		{sides[0], netRows},
		{sides[1], netRows},
		{tablePair, pairRows},
		{tableFaults, faultRows()},
	}
}

// results are what the tests saw: by table, row and column. They may be added
// side by side.
type results struct {
	mu   sync.Mutex
	seen map[[3]string]string
}

// add notes what was seen of one thing.
func (r *results) add(table, row, column, what string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.seen == nil {
		r.seen = map[[3]string]string{}
	}
	r.seen[[3]string{table, row, column}] = what
}

// table is what was seen, in Markdown; complete tells whether everything was tried.
func (r *results) table() (text string, complete bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var b strings.Builder
	complete = true
	for _, l := range layouts() {
		b.WriteString("| " + l.title + " |")
		line := "|---|"
		for _, release := range reference.Releases() {
			fmt.Fprintf(&b, " %s |", release.Version)
			line += "---|"
		}
		b.WriteString("\n" + line + "\n")
		for _, row := range l.rows {
			fmt.Fprintf(&b, "| %s |", row)
			for _, release := range reference.Releases() {
				what, tried := r.seen[[3]string{l.title, row, release.Version}]
				complete = complete && tried
				fmt.Fprintf(&b, " %s |", what)
			}
			b.WriteString("\n")
		}
		b.WriteString("\n")
	}
	return b.String(), complete
}

// What surrounds the table in the document.
const tableBegin, tableEnd = "<!-- seen -->\n", "<!-- /seen -->"

// document compares the document's table with what was seen, or writes it there.
// A run of some tests alone says nothing about it.
func (r *results) document(path string, write bool) error {
	table, complete := r.table()
	if !complete {
		return nil
	}
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) && !write {
		return nil
	}
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(text), tableBegin)
	_, after, closed := strings.Cut(rest, tableEnd)
	if !ok || !closed {
		return fmt.Errorf("%s has no place for the table, between %q and %q", path, tableBegin, tableEnd)
	}
	now := before + tableBegin + table + tableEnd + after
	switch {
	case now == string(text):
		return nil
	case write:
		return os.WriteFile(path, []byte(now), 0o644)
	}
	return fmt.Errorf("%s says something else than what was seen: run the tests with -args -doc", path)
}
