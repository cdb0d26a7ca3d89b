package docs_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Promises of the README have numbers, none is left out, and each names tests that
// are there: `package: TestName`, where the tests that follow are of the same
// package until another is named, and the steps of the test end to end by their
// names.
func TestPromisesNameTheirTests(t *testing.T) {
	const promises = 8
	rows := promiseRows(t)
	seen := map[string]bool{}
	for _, row := range rows {
		seen[row.number] = true
		if len(row.tests) == 0 {
			t.Errorf("%s %q names no test", row.number, row.promise)
		}
		for _, test := range row.tests {
			if err := test.missing(t); err != "" {
				t.Errorf("%s %q: %s", row.number, row.promise, err)
			}
		}
	}
	for n := range promises {
		if number := string(rune('1' + n)); !seen[number] {
			t.Errorf("promise %s is not there", number)
		}
	}
}

// proof is a test that a promise names.
type proof struct{ pkg, name string }

type promiseRow struct {
	number, promise string
	tests           []proof
}

var codeSpan = regexp.MustCompile("`([^`]+)`")

// promiseRows reads the table of promises.
func promiseRows(t *testing.T) []promiseRow {
	t.Helper()
	_, section, found := strings.Cut(read(t, "README.md"), "\n## What is promised\n")
	if !found {
		t.Fatal("README.md has no promises")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	var rows []promiseRow
	for line := range strings.Lines(section) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) != 3 || !strings.HasPrefix(line, "|") {
			continue
		}
		row := promiseRow{number: strings.TrimSpace(cells[0]), promise: strings.TrimSpace(cells[1])}
		if row.number == "" || strings.HasPrefix(row.number, "-") {
			continue // the head
		}
		pkg := ""
		for _, span := range codeSpan.FindAllStringSubmatch(cells[2], -1) {
			if p, name, named := strings.Cut(span[1], ": "); named {
				pkg = p
				row.tests = append(row.tests, proof{pkg, name})
			} else {
				row.tests = append(row.tests, proof{pkg, span[1]})
			}
		}
		rows = append(rows, row)
	}
	return rows
}

// missing says what is wrong with a proof, if anything.
func (p proof) missing(t *testing.T) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, p.pkg, "*_test.go"))
	if err != nil || len(files) == 0 {
		return p.pkg + " has no tests"
	}
	declared := "func " + p.name + "("
	if p.pkg == "hack/e2e" {
		declared = `{"` + p.name + `"`
	}
	if !slices.ContainsFunc(files, func(file string) bool {
		text, err := os.ReadFile(file)
		return err == nil && strings.Contains(string(text), declared)
	}) {
		return "there is no " + p.name + " in " + p.pkg
	}
	return ""
}
