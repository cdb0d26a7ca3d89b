package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"
	"go.uber.org/goleak"

	"github.com/koi-net/koi-operator/node"
	"github.com/koi-net/koi-operator/node/rid"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// call is one run of the program.
type call struct {
	args    []string
	stdin   string
	env     map[string]string
	newNode nodeMaker
}

// outcome is what a run left.
type outcome struct {
	code           int
	stdout, stderr string
}

func (c call) run(t *testing.T) outcome {
	t.Helper()
	return c.runContext(t.Context(), t)
}

func (c call) runContext(ctx context.Context, t *testing.T) outcome {
	t.Helper()
	var stdout, stderr bytes.Buffer
	a := &app{
		stdin:  strings.NewReader(c.stdin),
		stdout: &stdout,
		stderr: &stderr,
		env: func(name string) (string, bool) {
			v, ok := c.env[name]
			return v, ok
		},
		newNode: c.newNode,
		version: "v1.2.3",
	}
	if a.newNode == nil {
		a.newNode = func(node.Config) (daemon, error) { return nil, errors.New("no node in this test") }
	}
	code := a.main(ctx, c.args)
	return outcome{code, stdout.String(), stderr.String()}
}

// fakeDaemon is a node that does nothing.
type fakeDaemon struct{ err error }

func (fakeDaemon) RID() rid.RID { return "orn:koi-net.node:fake+1" }

func (d fakeDaemon) Run(context.Context) error { return d.err }

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s", path, got, want)
	}
}

func TestFlagsStandAnywhere(t *testing.T) {
	root := (&app{stdin: strings.NewReader(""), stdout: io.Discard, env: func(string) (string, bool) { return "", false }}).root()
	for _, tt := range []struct{ args, want string }{
		{"", ""},
		{"--help", "--help"},
		{"status", "status"},
		{"-o json status", "status -o json"},
		{"-ojson status", "status -ojson"},
		{"--output=json status", "status --output=json"},
		{"--admin http://h:1 get a:b -o json", "get --admin http://h:1 a:b -o json"},
		{"--partial run --name x", "run --partial --name x"},
		{"--name status run", "run --name status"},
		{"--own edges", "edges --own"},
		{"--rid a:b nodes add http://h", "nodes --rid a:b add http://h"},
		{"-f - put", "put -f -"},
		{"-- status", "-- status"},
	} {
		if got := strings.Join(commandFirst(root, strings.Fields(tt.args)), " "); got != tt.want {
			t.Errorf("%q became %q, want %q", tt.args, got, tt.want)
		}
	}
}

func TestHelpAndVersion(t *testing.T) {
	if out := (call{args: []string{}}).run(t); out.code != 0 || !strings.Contains(out.stdout, "koi-node [command]") {
		t.Errorf("no arguments: %+v", out)
	}
	help := call{args: []string{"run", "--help"}}.run(t).stdout
	f := pflag.NewFlagSet("", pflag.ContinueOnError)
	newSettings().register(f)
	f.VisitAll(func(flag *pflag.Flag) {
		if !strings.Contains(help, " --"+flag.Name+" ") || !strings.Contains(help, flag.Usage) {
			t.Errorf("run --help does not explain --%s", flag.Name)
		}
	})
	if out := (call{args: []string{"version"}}).run(t); out.code != 0 || !strings.HasPrefix(out.stdout, "koi-node v1.2.3 (go") {
		t.Errorf("version: %+v", out)
	}
	if out := (call{args: []string{"-o", "json", "version"}}).run(t); out.code != 0 || !strings.Contains(out.stdout, `"version": "v1.2.3"`) {
		t.Errorf("version as JSON: %+v", out)
	}
	if out := (call{args: []string{"completion", "bash"}}).run(t); out.code != 0 || !strings.Contains(out.stdout, "__start_koi-node") {
		t.Errorf("completion: %d %.200s", out.code, out.stderr)
	}
	for _, args := range [][]string{{"nonsense"}, {"status", "--nonsense"}, {"get"}, {"status", "-o", "xml"}} {
		if out := (call{args: args}).run(t); out.code != 1 || out.stdout != "" || strings.Count(out.stderr, "\n") != 1 {
			t.Errorf("%v: %+v", args, out)
		}
	}
}
