package examples_test

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const timeout = 30 * time.Second

// program is an example that runs.
type program struct {
	t     *testing.T
	name  string
	lines chan string // of its standard output
}

func start(t *testing.T, bin, name string, args ...string) *program {
	t.Helper()
	cmd := exec.Command(filepath.Join(bin, name), append(args, "-data-dir", t.TempDir())...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &program{t: t, name: name, lines: make(chan string, 10_000)}
	read := make(chan struct{})
	go func() {
		defer close(read)
		defer close(p.lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			p.lines <- s.Text()
		}
		_, _ = io.Copy(io.Discard, out)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended: Wait tells
		kill := time.AfterFunc(timeout, func() { _ = cmd.Process.Kill() })
		<-read
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s ended with: %v", name, err)
		}
		kill.Stop()
	})
	return p
}

// expect reads the program's output up to a line with that beginning.
func (p *program) expect(beginning string) string {
	p.t.Helper()
	deadline := time.After(timeout)
	for {
		select {
		case line, open := <-p.lines:
			if !open {
				p.t.Fatalf("%s ended and did not print %q", p.name, beginning)
			}
			if strings.HasPrefix(line, beginning) {
				return line
			}
		case <-deadline:
			p.t.Fatalf("%s did not print %q in %s", p.name, beginning, timeout)
		}
	}
}

// The four examples make a net: a note reaches the partial node, and so does
// the count of its words, which the custom node made of it.
func TestExamplesMakeANet(t *testing.T) {
	bin := t.TempDir()
	if out, err := exec.Command("go", "build", "-o", bin+"/", "./coordinator", "./full", "./partial", "./custom").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	const loopback = "127.0.0.1:0"
	at := start(t, bin, "coordinator", "-listen", loopback).expect("coordinator at ")
	first := strings.TrimPrefix(at, "coordinator at ")
	start(t, bin, "full", "-listen", loopback, "-first-contact", first, "-every", "100ms")
	start(t, bin, "custom", "-listen", loopback, "-first-contact", first)
	desk := start(t, bin, "partial", "-first-contact", first, "-poll-interval", "50ms")
	desk.expect("NEW orn:example.note:")
	count := desk.expect("NEW orn:example.word-count:")
	if !strings.HasSuffix(count, `{"words":4}`) {
		t.Errorf("count of a note of four words: %s", count)
	}
}
