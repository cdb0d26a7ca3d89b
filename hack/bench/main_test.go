package main

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/koi-net/koi-operator/hack/bench/report"
	"github.com/koi-net/koi-operator/hack/bench/scenario"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestParse(t *testing.T) {
	for _, c := range []struct {
		args  string
		large bool
		err   error
	}{
		{args: "", large: true},
		{args: "-short", large: false},
		{args: "-short -large", large: true},
		{args: "-large=false", large: false},
		{args: "-run (", err: errUsage},
		{args: "argument", err: errUsage},
		{args: "-nonsense", err: errUsage},
		{args: "-h", err: flag.ErrHelp},
	} {
		var stderr bytes.Buffer
		o, err := parse(strings.Fields(c.args), &stderr)
		if !errors.Is(err, c.err) || err == nil && o.large != c.large {
			t.Errorf("%q: large %v, %v", c.args, o.large, err)
		}
		if c.err != nil && stderr.Len() == 0 {
			t.Errorf("%q: nothing is said", c.args)
		}
	}
}

func TestList(t *testing.T) {
	var all, ours bytes.Buffer
	if err := run(t.Context(), []string{"-list"}, &all, os.Stderr); err != nil {
		t.Fatal(err)
	}
	if err := run(t.Context(), []string{"-list", "-no-reference", "-run", "^broadcast/"}, &ours, os.Stderr); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(all.String(), "/1.0.0b5 as shipped\n") || !strings.Contains(all.String(), "large/") {
		t.Errorf("all there is:\n%s", all.String())
	}
	for line := range strings.Lines(ours.String()) {
		if !strings.HasPrefix(line, "broadcast/") || !strings.Contains(line, "koi-node") {
			t.Errorf("ours: %s", line)
		}
	}
	if err := run(t.Context(), []string{"-no-reference", "-run", "no such thing"}, &all, os.Stderr); err == nil || !strings.Contains(err.Error(), "nothing matches") {
		t.Errorf("error %v", err)
	}
}

// A limit is measured, printed, saved and rendered again into a document.
func TestRunAndRender(t *testing.T) {
	dir := t.TempDir()
	saved, document := filepath.Join(dir, "results.json"), filepath.Join(dir, "doc.md")
	if err := os.WriteFile(document, []byte("# Before\n<!-- bench -->\n<!-- /bench -->\nafter\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cases := choose(scenario.Cases(&scenario.Env{Short: true}), regexp.MustCompile("P-256, sign"))
	r, err := measure(t.Context(), &scenario.Env{Short: true, Program: "none"}, dir, cases, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	var first, second bytes.Buffer
	if err := publish(r, options{json: saved}, &first); err != nil {
		t.Fatal(err)
	}
	if err := run(t.Context(), []string{"-from", saved, "-doc", document}, &second, os.Stderr); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(document)
	if err != nil || first.String() != second.String() || !strings.Contains(string(text), first.String()) || !strings.HasPrefix(string(text), "# Before") {
		t.Errorf("printed\n%s\nthen\n%s\nthe document is\n%s, %v", first.String(), second.String(), text, err)
	}
	if !strings.Contains(first.String(), "| P-256, sign | this machine |") {
		t.Errorf("printed\n%s", first.String())
	}
	if left, err := filepath.Glob(filepath.Join(dir, "koi-bench-*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if err := run(t.Context(), []string{"-from", filepath.Join(dir, "none")}, &first, os.Stderr); err == nil {
		t.Error("results that are not there were rendered")
	}
}

func TestFailures(t *testing.T) {
	r := &report.Report{Skipped: []report.Skipped{{What: "a"}}}
	if err := failures(r); err != nil {
		t.Error(err)
	}
	r.Skipped = append(r.Skipped, report.Skipped{What: "b", Failed: true})
	if err := failures(r); err == nil || !strings.Contains(err.Error(), "1 of the cases failed") {
		t.Errorf("error %v", err)
	}
}

func TestField(t *testing.T) {
	text := []byte("processor\t: 0\nmodel name\t: Some CPU: fast\nmodel name\t: other\n")
	if got := field(text, "model name"); got != "Some CPU: fast" {
		t.Errorf("%q", got)
	}
	if got := field(text, "flags"); got != "" {
		t.Errorf("%q", got)
	}
}

func TestDataDir(t *testing.T) {
	if dir, err := dataDir(t.TempDir()); err == nil && dir == "" {
		t.Error("no directory and no error")
	}
	if _, err := dataDir("/nonexistent"); err == nil {
		t.Error("a directory that is not there will do")
	}
	if onDisk("/dev/shm") == nil {
		if _, err := os.Stat("/dev/shm"); err == nil && fileSystem("/dev/shm") == "file system 0x1021994" {
			t.Error("memory is taken for a disk")
		}
	}
	if m := machine(t.TempDir()); m.Cores < 1 || m.Memory <= 0 || m.Go == "" || m.FileSystem == "" {
		t.Errorf("%+v", m)
	}
}
