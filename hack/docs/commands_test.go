package docs_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/koi-net/koi-operator/hack/docs"
)

// withCommands are the documents of which every command is run by a test.
var withCommands = []string{"README.md", docs.Tutorial}

// section is the part of README.md that TestReadmeNodes runs.
const section = "## A node without Kubernetes"

func TestBlocks(t *testing.T) {
	const text = "a\n```sh\n# first\none \\\n  --more # why\n\ntwo <<END\nx $y\n\nEND\nthree\n```\n```console\n$ four\nwhat it prints\n$ five | \\\n  six\n```\n```yaml\na: b\n```\n```sh\nlast\n"
	blocks := docs.Blocks(text)
	var got []string
	for _, b := range blocks {
		got = append(got, fmt.Sprintf("%d %s %q", b.Line, b.Language, b.Commands()))
	}
	want := []string{
		`2 sh ["one --more" "two <<END\nx $y\n\nEND" "three"]`,
		`13 console ["four" "five | six"]`,
		`19 yaml []`,
		`22 sh ["last"]`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// Every command is run by the tutorial's test, by TestReadmeNodes, or by a test that
// Elsewhere names; and Elsewhere names nothing that is gone.
func TestCommandsAreTried(t *testing.T) {
	tried := map[string]bool{}
	for _, b := range docs.Blocks(read(t, docs.Tutorial)) {
		if b.Language == "console" {
			t.Errorf("%s:%d: the tutorial's commands are sh blocks, which can be run as they are", docs.Tutorial, b.Line)
		}
		for _, c := range b.Commands() {
			tried[c] = true
		}
	}
	for _, b := range docs.Blocks(nodeSection(t)) {
		for _, c := range b.Commands() {
			tried[c] = true
		}
	}
	stated := map[string]bool{}
	seen := 0
	for _, name := range withCommands {
		for _, b := range docs.Blocks(read(t, name)) {
			for _, c := range b.Commands() {
				seen++
				stated[c] = true
				if docs.Elsewhere[c] == "" && !tried[c] {
					t.Errorf("%s:%d: no test runs %q: put it into the tutorial, or name its test in Elsewhere", name, b.Line, c)
				}
			}
		}
	}
	if seen < 30 {
		t.Fatalf("found %d commands only", seen)
	}
	for c, by := range docs.Elsewhere {
		if !stated[c] {
			t.Errorf("Elsewhere has %q, which no document has", c)
		}
		if !testExists(t, by) {
			t.Errorf("Elsewhere: %q is run by %s, which does not exist", c, by)
		}
	}
}

// testExists finds a test by directory and name, or a target of the Makefile.
func testExists(t *testing.T, by string) bool {
	t.Helper()
	where, name, _ := strings.Cut(by, " ")
	if where == "make" {
		return strings.Contains(read(t, "Makefile"), "\n"+name+":")
	}
	files, err := filepath.Glob(filepath.Join(root, where, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "\nfunc "+name+"(t *testing.T) {") {
			return true
		}
	}
	return false
}

// nodeSection is the part of README.md about koi-node.
func nodeSection(t *testing.T) string {
	t.Helper()
	_, rest, ok := strings.Cut(read(t, "README.md"), section)
	if !ok {
		t.Fatalf("README.md has no %q", section)
	}
	text, _, _ := strings.Cut(rest, "\n## ")
	return text
}

// What README.md says of koi-node without Kubernetes is typed, with other ports than
// those it names: they may be taken here.
func TestReadmeNodes(t *testing.T) {
	var commands []string
	for _, b := range docs.Blocks(nodeSection(t)) {
		commands = append(commands, b.Commands()...)
	}
	bin := filepath.Join(t.TempDir(), "koi-node")
	run(t, "go", "build", "-o", bin, "./cmd/koi-node")
	ports := map[string]string{}
	// The defaults that the first command leaves unsaid.
	const first = "go run ./cmd/koi-node run --name coordinator --coordinator"
	if !slices.Contains(commands, first) {
		t.Fatalf("README.md no longer has %q", first)
	}
	dir := t.TempDir()
	for _, c := range commands {
		if c == first {
			c += " --listen 127.0.0.1:8000 --admin-listen 127.0.0.1:8081"
		}
		c = regexp.MustCompile(`127\.0\.0\.1:(\d+)`).ReplaceAllStringFunc(c, func(at string) string {
			if ports[at] == "" {
				ports[at] = free(t)
			}
			return ports[at]
		})
		c = strings.ReplaceAll(c, "go run ./cmd/koi-node", bin)
		if strings.HasPrefix(c, bin+" run ") {
			background(t, dir, c)
			continue
		}
		within(t, dir, c)
	}
	if len(ports) != 4 {
		t.Errorf("README.md names the addresses %v, want a listener and an admin API for each of two nodes", ports)
	}
}

// free is an address on which nobody listens.
func free(t *testing.T) string {
	t.Helper()
	var config net.ListenConfig
	l, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }() // nothing was accepted on it
	return l.Addr().String()
}

// background runs a command until the test ends, and wants it to end well.
func background(t *testing.T, dir, command string) {
	t.Helper()
	cmd := exec.CommandContext(context.Background(), "sh", "-c", "exec "+command)
	cmd.Dir = dir
	log := filepath.Join(dir, fmt.Sprintf("%d.log", time.Now().UnixNano()))
	out, err := os.Create(log)
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		err := errors.Join(cmd.Process.Signal(syscall.SIGTERM), cmd.Wait(), out.Close())
		if text, _ := os.ReadFile(log); err != nil || t.Failed() {
			t.Errorf("%s: %v\n%s", command, err, text)
		}
	})
}

// within runs a command until it succeeds: what it asks may still be starting.
func within(t *testing.T, dir, command string) {
	t.Helper()
	var out []byte
	var err error
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		cmd := exec.CommandContext(t.Context(), "sh", "-c", command)
		cmd.Dir = dir
		if out, err = cmd.CombinedOutput(); err == nil {
			t.Logf("%s\n%s", command, out)
			return
		}
	}
	t.Fatalf("%s: %v\n%s", command, err, out)
}

// What README.md says was tested is what the tests are built from.
func TestCompatibility(t *testing.T) {
	_, rest, ok := strings.Cut(read(t, "README.md"), "## Compatibility")
	if !ok {
		t.Fatal("README.md has no such part")
	}
	table, _, _ := strings.Cut(rest, "\n## ")
	for _, of := range []struct{ row, file, module string }{
		{"Kubernetes", "hack/cluster/kone/go.mod", "k8s.io/kubernetes"},
		{"Helm", "hack/tools/helm/go.mod", "helm.sh/helm/v4"},
		{"Flux", "hack/tools/flux-kustomize/go.mod", "github.com/fluxcd/kustomize-controller"},
	} {
		m := regexp.MustCompile(regexp.QuoteMeta(of.module) + ` v(\d+\.\d+)\.`).FindStringSubmatch(read(t, of.file))
		if m == nil {
			t.Fatalf("%s has no %s", of.file, of.module)
		}
		if !regexp.MustCompile(`(?m)^\| ` + of.row + ` \|.*\b` + regexp.QuoteMeta(m[1]) + `\b`).MatchString(table) {
			t.Errorf("the row of %s does not have %s", of.row, m[1])
		}
	}
	pinned, err := filepath.Glob(filepath.Join(root, "hack/interop/reference/requirements/*.txt"))
	if err != nil {
		t.Fatal(err)
	}
	if len(pinned) < 3 {
		t.Fatalf("found %v only", pinned)
	}
	for _, p := range pinned {
		version := strings.TrimSuffix(filepath.Base(p), ".txt")
		if !regexp.MustCompile(`[ ,]` + regexp.QuoteMeta(version) + `[ ,]`).MatchString(strings.ReplaceAll(table, "\n", " ")) {
			t.Errorf("koi-net %s is tried, and not in the table", version)
		}
	}
}
