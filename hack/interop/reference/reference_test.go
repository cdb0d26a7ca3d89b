package reference

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestRequirementsArePinned(t *testing.T) {
	line := regexp.MustCompile(`^[A-Za-z0-9_.-]+==[A-Za-z0-9.]+$`)
	for _, r := range Releases() {
		text, err := r.Requirements()
		if err != nil {
			t.Error(err)
			continue
		}
		lines := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
		for _, l := range lines {
			if !line.MatchString(l) {
				t.Errorf("%s: %q names no version", r.Version, l)
			}
		}
		for _, need := range []string{"koi-net==" + r.Version, "rid-lib==", "fastapi==", "uvicorn==", "pydantic=="} {
			if !strings.Contains(string(text), need) {
				t.Errorf("%s: %s is missing", r.Version, need)
			}
		}
	}
	if _, err := (Release{Version: "0.0"}).Requirements(); err == nil {
		t.Error("a release without a list of packages has one")
	}
}

func TestKey(t *testing.T) {
	key := func(r Release, p Python) string {
		t.Helper()
		k, err := r.key(p)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	python := Python{Path: "/usr/bin/python3", Version: "3.13.5"}
	first := key(Releases()[0], python)
	if !strings.HasPrefix(first, "koi-net-1.0.0b5-") || key(Releases()[0], python) != first {
		t.Errorf("key %q", first)
	}
	for name, other := range map[string]Python{
		"version": {Path: python.Path, Version: "3.13.6"},
		"path":    {Path: "/opt/python3", Version: python.Version},
		"root":    {Path: python.Path, Version: python.Version, Root: "/cache/python"},
	} {
		if key(Releases()[0], other) == first {
			t.Errorf("another %s of Python has the same key", name)
		}
	}
	if key(Releases()[1], python) == first {
		t.Error("another release has the same key")
	}
}

// interpreter writes a program that acts like a Python of a version: it makes
// environments with itself in them, and in them is pip.
func interpreter(t *testing.T, dir, name, version string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	script := fmt.Sprintf(`#!/bin/sh
case "$*" in
*"import koi_net"*) ;;
-c*) echo %s ;;
"-m venv"*) for dir; do :; done; mkdir -p "$dir/bin" && cp "$0" "$dir/bin/python" && cp "$0" "$dir/bin/pip" ;;
"--python "*" install "*)
	for list; do :; done
	echo run >> "$TEST_INSTALLS"
	if grep -q "koi-net==$TEST_BROKEN$" "$list"; then echo "no such package" >&2; exit 1; fi ;;
*) echo "unexpected: $*" >&2; exit 1 ;;
esac
`, version)
	if err := os.WriteFile(path, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestSearch(t *testing.T) {
	dir := t.TempDir()
	good, old, next := interpreter(t, dir, "good", "3.12.1"), interpreter(t, dir, "old", "3.11.9"), interpreter(t, dir, "new", "3.14.0")
	odd := interpreter(t, dir, "odd", "2.7.18")
	shim := filepath.Join(dir, "shim")
	if err := os.WriteFile(shim, []byte("#!/bin/sh\necho not chosen >&2\nexit 127\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name  string
		on    map[string]string // the path
		env   string
		want  string
		error string
	}{
		{name: "by name", on: map[string]string{"python3.13": good}, want: good},
		{name: "the second name, the first being a shim", on: map[string]string{"python3.13": shim, "python3.12": good}, want: good},
		{name: "the plain name, the others being too old", on: map[string]string{"python3.12": old, "python3": good}, want: good},
		{name: "too old", on: map[string]string{"python3": old}, error: "is Python 3.11.9, not 3.12 to 3.13"},
		{name: "too new", on: map[string]string{"python3": next}, error: "is Python 3.14.0, not 3.12 to 3.13"},
		{name: "another Python", on: map[string]string{"python3": odd}, error: `calls itself Python "2.7.18"`},
		{name: "a shim", on: map[string]string{"python3": shim}, error: "not chosen"},
		{name: "none", error: "python3.13: not on the path"},
		{name: "the one that is named", on: map[string]string{"python3": old, "mine": good}, env: "mine", want: good},
		{name: "named, and too old", on: map[string]string{"python3": good, "mine": old}, env: "mine", error: "3.11.9"},
		{name: "Debian's", on: map[string]string{"python3": good}, env: "debian", error: "no Python"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, err := search(t.Context(), func(string) string { return tt.env }, func(name string) (string, error) {
				if path, ok := tt.on[name]; ok {
					return path, nil
				}
				return "", errors.New("not on the path")
			})
			if tt.error == "" && (err != nil || p.Path != tt.want || p.Version != "3.12.1") {
				t.Errorf("%+v, %v", p, err)
			}
			if tt.error != "" && (!errors.Is(err, errNoPython) || !strings.Contains(err.Error(), tt.error)) {
				t.Errorf("error %v, want %q", err, tt.error)
			}
		})
	}
}

func TestCommand(t *testing.T) {
	if c := (Python{Path: "p"}).Command(t.Context(), "prog", "a", "b"); strings.Join(c.Args, " ") != "prog a b" {
		t.Errorf("%v", c.Args)
	}
	c := (Python{Path: "p", Root: "/cache/python"}).Command(t.Context(), "prog", "a", "b")
	if got := strings.Join(c.Args, " "); !strings.HasPrefix(got, "unshare --mount --propagation private sh -c mount") || !strings.HasSuffix(got, " /cache/python/usr prog a b") {
		t.Errorf("%v", c.Args)
	}
}

// testBuilder returns a builder whose machine has one interpreter.
func testBuilder(t *testing.T, progress io.Writer) (b *builder, installs string) {
	t.Helper()
	dir := t.TempDir()
	installs = filepath.Join(dir, "installs")
	t.Setenv("TEST_INSTALLS", installs)
	t.Setenv("TEST_BROKEN", "none")
	t.Setenv(pythonVariable, interpreter(t, dir, "python", "3.13.5"))
	return &builder{cache: filepath.Join(dir, "cache"), progress: &lines{w: progress}}, installs
}

func runs(t *testing.T, installs string) int {
	t.Helper()
	text, err := os.ReadFile(installs)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return bytes.Count(text, []byte("run"))
}

func TestInstall(t *testing.T) {
	var progress bytes.Buffer
	b, installs := testBuilder(t, &progress)
	// What an interrupted install left behind goes.
	if err := os.MkdirAll(filepath.Join(b.cache, ".interop-old", "env"), 0o755); err != nil {
		t.Fatal(err)
	}
	all, err := b.install(t.Context(), Releases())
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != len(Releases()) || runs(t, installs) != len(all) {
		t.Errorf("%d environments, %d installs", len(all), runs(t, installs))
	}
	for i, e := range all {
		if e.Release != Releases()[i] {
			t.Errorf("%s stands where %s was asked for", e.Release.Version, Releases()[i].Version)
		}
		if out, err := e.Command(t.Context(), "-c", "x").Output(); err != nil || string(out) != "3.13.5\n" {
			t.Errorf("%s: %q, %v", e.Dir, out, err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(b.cache, ".interop-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if !strings.Contains(progress.String(), "koi-net 2.1.2: installed in") {
		t.Errorf("progress %q", progress.String())
	}
	progress.Reset()
	again, err := b.install(t.Context(), Releases())
	if err != nil || runs(t, installs) != len(all) || progress.Len() > 0 || again[0] != all[0] {
		t.Errorf("a second time: %v, %d installs, %q", err, runs(t, installs), progress.String())
	}
}

func TestInstallFails(t *testing.T) {
	b, _ := testBuilder(t, io.Discard)
	t.Setenv("TEST_BROKEN", "1.1.0")
	_, err := b.install(t.Context(), Releases()[:3])
	if err == nil || !strings.Contains(err.Error(), "install koi-net 1.1.0") || !strings.Contains(err.Error(), "no such package") {
		t.Errorf("error %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(b.cache, "koi-net-1.1.0*")); len(left) > 0 {
		t.Errorf("a failed install is in the cache: %v", left)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.install(ctx, Releases()); err == nil {
		t.Error("an install that was given up succeeded")
	}
}

func TestInstallWhereThereIsNoPython(t *testing.T) {
	t.Setenv("KOI_CACHE", t.TempDir())
	t.Setenv(pythonVariable, filepath.Join(t.TempDir(), "none"))
	_, err := Install(t.Context(), io.Discard, Releases()...)
	if !errors.Is(err, ErrImpossible) || !strings.Contains(err.Error(), "KOI_PYTHON=") {
		t.Errorf("error %v", err)
	}
}

func TestDebianKey(t *testing.T) {
	if key := debianKey(); !strings.HasPrefix(key, "python-trixie-") || key != debianKey() {
		t.Errorf("key %q", key)
	}
}

func TestRunTellsWhatFailed(t *testing.T) {
	b := &builder{cache: t.TempDir(), progress: io.Discard}
	err := b.run(exec.CommandContext(t.Context(), "sh", "-c", "for i in $(seq 100); do echo line $i; done; exit 3"))
	if err == nil || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(err.Error(), "line 100") || strings.Contains(err.Error(), "line 85\n") {
		t.Errorf("error %v", err)
	}
}
