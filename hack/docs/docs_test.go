package docs_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"unicode"
)

// root is the repository's, seen from this package.
const root = "../.."

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// documents are README.md, what is in docs, and the charts' READMEs.
func documents(t *testing.T) []string {
	t.Helper()
	out := []string{"README.md"}
	for _, dir := range []string{"docs", "charts"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".md") {
				return err
			}
			name, err := filepath.Rel(root, path)
			out = append(out, filepath.ToSlash(name))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(out) < 10 {
		t.Fatalf("found %v only", out)
	}
	return out
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = root
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func parse(t *testing.T, path string) *ast.File {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

var flagLine = regexp.MustCompile(`(?m)^\s+(?:-\w, )?--([a-z0-9-]+)`)

func TestFlagsAreDocumented(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "koi-node")
	run(t, "go", "build", "-o", bin, "./cmd/koi-node")
	known := map[string]bool{}
	for _, m := range flagLine.FindAllStringSubmatch(run(t, bin, "run", "--help"), -1) {
		known[m[1]] = true
	}
	if len(known) < 30 {
		t.Fatalf("koi-node run --help shows %d flags only", len(known))
	}
	doc := read(t, "docs/node.md")
	for name := range known {
		if name != "help" && !strings.Contains(doc, "`--"+name+"`") {
			t.Errorf("docs/node.md does not mention `--%s`", name)
		}
	}
	// And the other way round: a row of a table names no flag that is gone.
	for _, m := range regexp.MustCompile("(?m)^\\|.*`--([a-z0-9-]+)` \\|").FindAllStringSubmatch(doc, -1) {
		if !known[m[1]] {
			t.Errorf("docs/node.md has `--%s`, which koi-node run does not know", m[1])
		}
	}
}

func TestMetricsAreDocumented(t *testing.T) {
	doc := read(t, "docs/node.md")
	known := map[string]bool{}
	err := filepath.WalkDir(filepath.Join(root, "node"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		ast.Inspect(parse(t, path), func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
				if s, err := strconv.Unquote(lit.Value); err == nil && metric.MatchString(s) {
					known[s] = true
				}
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(known) < 10 {
		t.Fatalf("found %d metrics only", len(known))
	}
	for name := range known {
		if !strings.Contains(doc, "`"+name+"`") {
			t.Errorf("docs/node.md does not mention the metric %s", name)
		}
	}
	for _, m := range regexp.MustCompile("`(koi_[a-z_]+)`").FindAllStringSubmatch(doc, -1) {
		if !known[m[1]] {
			t.Errorf("docs/node.md has the metric %s, which no node has", m[1])
		}
	}
}

func TestOperatorMetricsAreDocumented(t *testing.T) {
	rows := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(koi_operator_[a-z_]+)` \\|").FindAllStringSubmatch(read(t, "docs/operator.md"), -1) {
		rows[m[1]] = true
	}
	names, err := filepath.Glob(filepath.Join(root, "controllers/internal/metrics/*.go"))
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, path := range names {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		ast.Inspect(parse(t, path), func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
				if s, err := strconv.Unquote(lit.Value); err == nil && metric.MatchString(s) {
					known[s] = true
				}
			}
			return true
		})
	}
	if len(known) < 8 {
		t.Fatalf("found %d metrics only", len(known))
	}
	for name := range known {
		if !rows[name] {
			t.Errorf("docs/operator.md has no row for the metric %s", name)
		}
	}
	for name := range rows {
		if !known[name] {
			t.Errorf("docs/operator.md has a row for the metric %s, which the operator does not have", name)
		}
	}
}

var metric = regexp.MustCompile(`^koi_[a-z_]+$`)

func TestConditionsAreDocumented(t *testing.T) {
	rows := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([A-Za-z]+)` \\|").FindAllStringSubmatch(read(t, "docs/operator.md"), -1) {
		rows[m[1]] = true
	}
	names, err := filepath.Glob(filepath.Join(root, "api/v1alpha1/*.go"))
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, path := range names {
		for _, decl := range parse(t, path).Decls {
			g, ok := decl.(*ast.GenDecl)
			if !ok || g.Tok != token.CONST {
				continue
			}
			for _, spec := range g.Specs {
				v := spec.(*ast.ValueSpec)
				for i, id := range v.Names {
					if !strings.HasPrefix(id.Name, "Condition") && !strings.HasPrefix(id.Name, "Reason") {
						continue
					}
					lit, ok := v.Values[i].(*ast.BasicLit)
					if !ok {
						t.Fatalf("%s is no literal", id.Name)
					}
					value, err := strconv.Unquote(lit.Value)
					if err != nil {
						t.Fatal(err)
					}
					seen++
					if !rows[value] {
						t.Errorf("docs/operator.md has no row for %s (%s)", value, id.Name)
					}
				}
			}
		}
	}
	if seen < 20 {
		t.Fatalf("found %d conditions and reasons only", seen)
	}
}

var link = regexp.MustCompile(`\]\(([^)\s]+)\)`)

func TestLinksResolve(t *testing.T) {
	seen := 0
	for _, name := range documents(t) {
		for _, m := range link.FindAllStringSubmatch(withoutCode(read(t, name)), -1) {
			u, err := url.Parse(m[1])
			if err != nil {
				t.Errorf("%s: %s: %v", name, m[1], err)
				continue
			}
			if u.IsAbs() {
				continue
			}
			seen++
			path := name
			if u.Path != "" {
				path = filepath.Join(filepath.Dir(name), filepath.FromSlash(u.Path))
			}
			if _, err := os.Stat(filepath.Join(root, path)); err != nil {
				t.Errorf("%s: the link %s leads nowhere: %v", name, m[1], err)
				continue
			}
			if u.Fragment != "" && !anchors(read(t, path))[u.Fragment] {
				t.Errorf("%s: the link %s: there is no such heading", name, m[1])
			}
		}
	}
	if seen < 5 {
		t.Fatalf("found %d links only", seen)
	}
}

// withoutCode drops fenced blocks.
func withoutCode(text string) string {
	var out []string
	fenced := false
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "```") {
			fenced = !fenced
		} else if !fenced {
			out = append(out, line)
		}
	}
	return strings.Join(out, "")
}

// anchors are the headings of a document as links spell them.
func anchors(text string) map[string]bool {
	out := map[string]bool{}
	for line := range strings.Lines(withoutCode(text)) {
		if !strings.HasPrefix(line, "#") {
			continue
		}
		heading := strings.ToLower(strings.TrimSpace(strings.TrimLeft(line, "#")))
		out[strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
				return r
			}
			return -1
		}, heading)] = true
	}
	return out
}

// Whole programs in the documents compile.
func TestExamplesCompile(t *testing.T) {
	seen := 0
	for _, name := range documents(t) {
		for _, block := range strings.Split(read(t, name), "```go\n")[1:] {
			code, _, ok := strings.Cut(block, "\n```")
			if !ok || !strings.HasPrefix(code, "package main") {
				continue
			}
			seen++
			dir := t.TempDir()
			file := filepath.Join(dir, "main.go")
			if err := os.WriteFile(file, []byte(code+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			run(t, "go", "build", "-o", filepath.Join(dir, "example"), file)
		}
	}
	if seen == 0 {
		t.Fatal("no document has a program")
	}
}
