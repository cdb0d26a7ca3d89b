package subject

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/koi-net/koi-operator/hack/bench/load"
	"github.com/koi-net/koi-operator/hack/interop/reference"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestParseStat(t *testing.T) {
	const line = "123 (a (b) c) S 1 123 123 0 -1 4194560 100 0 0 0 250 50 7 8 20 0 1 0 100 1000 200\n"
	if d, err := parseStat([]byte(line)); err != nil || d != 3*time.Second {
		t.Errorf("%s, %v", d, err)
	}
	for _, bad := range []string{"", "123 (a) S 1 2 3", "123 (a) S 1 2 3 4 5 6 7 8 9 10 x 12 13", "no parenthesis"} {
		if _, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestParseStatus(t *testing.T) {
	m, err := parseStatus([]byte("Name:\tx\nVmHWM:\t  300 kB\nRssAnon:\t 100 kB\nRssFile:\t 50 kB\nRssShmem:\t 0 kB\n"))
	if err != nil || m != (Memory{Anonymous: 100 << 10, File: 50 << 10}) {
		t.Errorf("%+v, %v", m, err)
	}
	for _, bad := range []string{"", "RssAnon: 1 kB\n", "RssAnon: 1 kB\nRssFile: x kB\n"} {
		if _, err := parseStatus([]byte(bad)); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestMeasure(t *testing.T) {
	m, err := Measure(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	before, err := CPU(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	// Work until the kernel has counted some of it.
	for now, end := before, time.Now().Add(30*time.Second); now == before && time.Now().Before(end); {
		if now, err = CPU(os.Getpid()); err != nil {
			t.Fatal(err)
		}
	}
	u, err := m.Stop()
	if err != nil || u.Wall <= 0 || u.CPU <= 0 || u.End.Anonymous <= 0 || u.PeakAnonymous < u.End.Anonymous {
		t.Errorf("%+v, %v", u, err)
	}
	if _, err := Measure(-1); err == nil {
		t.Error("a process that is not there was measured")
	}
}

// shell runs a script as a node is run.
func shell(t *testing.T, script string) *process {
	t.Helper()
	p, err := start(exec.CommandContext(t.Context(), "sh", "-c", script), filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	return p
}

func never(context.Context) (bool, error) { return false, nil }

func TestAProcessThatEndsSaysWhy(t *testing.T) {
	p := shell(t, "echo the reason; exit 3")
	err := p.until(t.Context(), "it is up", time.Millisecond, never)
	if !errors.Is(err, ErrEnded) || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(err.Error(), "the reason") || !strings.Contains(err.Error(), "it is up") {
		t.Errorf("error %v", err)
	}
	p.end() // nothing more happens
}

func TestWaitingIsBounded(t *testing.T) {
	p := shell(t, "echo busy; sleep 60")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := p.until(ctx, "it is up", time.Millisecond, never); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
	if err := p.until(t.Context(), "it is up", time.Millisecond, func(context.Context) (bool, error) { return true, nil }); err != nil {
		t.Error(err)
	}
}

func TestEndAndKill(t *testing.T) {
	for _, script := range []string{"exec sleep 60", "sleep 60 & wait"} {
		p := shell(t, script)
		if p.PID() <= 0 {
			t.Errorf("PID %d", p.PID())
		}
		if strings.HasPrefix(script, "exec") {
			p.end()
		} else {
			p.Kill()
		}
		select {
		case <-p.exited:
		default:
			t.Errorf("%s still runs", script)
		}
	}
	if _, err := start(exec.CommandContext(t.Context(), "/nonexistent"), filepath.Join(t.TempDir(), "log")); err == nil {
		t.Error("a program that is not there was started")
	}
	if _, err := start(exec.CommandContext(t.Context(), "true"), "/nonexistent/log"); err == nil {
		t.Error("a program without a log was started")
	}
}

func TestDiskBytes(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "a"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"x", "a/y"} {
		if err := os.WriteFile(filepath.Join(dir, name), make([]byte, 100_000), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// A file that is all hole takes nothing.
	if err := os.Truncate(filepath.Join(dir, "x"), 1<<30); err != nil {
		t.Fatal(err)
	}
	if n, err := DiskBytes(dir); err != nil || n < 200_000 || n > 1<<20 {
		t.Errorf("%d, %v", n, err)
	}
	if _, err := DiskBytes(filepath.Join(dir, "none")); err == nil {
		t.Error("a directory that is not there has a size")
	}
}

// A node of the reference is filled and counted as files, without Python.
func TestReferenceCache(t *testing.T) {
	for _, r := range []reference.Release{{Version: "1.0.0b5"}, {Version: "2.1.2", Signed: true}} {
		n := &Reference{environment: reference.Environment{Release: r}, dir: t.TempDir(), listen: "127.0.0.1:1"}
		if err := os.MkdirAll(n.cache(), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := n.Seed(t.Context(), "", load.Notes(5)); err != nil {
			t.Fatal(err)
		}
		if count, err := n.Cached(t.Context()); err != nil || count != 5 {
			t.Errorf("%d cached, %v", count, err)
		}
		if size, err := n.StoreBytes(); err != nil || size < 5*load.ContentsBytes {
			t.Errorf("%d bytes, %v", size, err)
		}
		if n.URL() != "http://127.0.0.1:1/koi-net" {
			t.Error(n.URL())
		}
		// As b64encode of Python, URL safe and without padding.
		if got := filepath.Base(n.file("orn:a.b:?>c")); got != "b3JuOmEuYjo_PmM.json" {
			t.Error(got)
		}
	}
}

func TestReferencePrograms(t *testing.T) {
	lender := reference.Environment{Dir: t.TempDir(), Release: reference.Release{Version: "2.1.2"}}
	n := &Reference{environment: reference.Environment{Release: reference.Release{Version: "1.0.0b5"}}, lender: lender, dir: t.TempDir()}
	if err := n.unpack(); err == nil || !strings.Contains(err.Error(), "no package rich") {
		t.Errorf("error %v", err)
	}
	for _, name := range richPackages {
		if err := os.MkdirAll(filepath.Join(lender.Dir, "lib", "python3.13", "site-packages", name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	n.dir = t.TempDir()
	if err := n.unpack(); err != nil {
		t.Fatal(err)
	}
	for _, name := range append([]string{n.program(), "signed.py"}, richPackages...) {
		if _, err := os.Stat(filepath.Join(n.dir, "program", name)); err != nil {
			t.Error(err)
		}
	}
}

func TestOursIsSeeded(t *testing.T) {
	n, err := NewOurs("none", t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := n.Seed(t.Context(), "unsigned", load.Notes(7)); err != nil {
			t.Fatal(err)
		}
	}
	s, err := n.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Check(t.Context()); err != nil {
		t.Error(err)
	}
	if s.Info().NodeRID != n.RID() {
		t.Errorf("the store of %s, not %s", s.Info().NodeRID, n.RID())
	}
	if size, err := n.StoreBytes(); err != nil || size < 14*load.ContentsBytes {
		t.Errorf("%d bytes, %v", size, err)
	}
}
