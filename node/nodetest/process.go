package nodetest

import (
	"bufio"
	"io"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// maxLines bounds the lines of output that a Process keeps; the oldest go.
const maxLines = 10_000

// Process is a program that embeds a node, in a process of its own. What a kill
// leaves behind can be seen in no other way: a node within the test's process is
// always stopped in good order.
type Process struct {
	t    testing.TB
	name string
	cmd  *exec.Cmd
	url  string
	done chan struct{} // closed when all its output was read
	end  sync.Once

	mu    sync.Mutex
	lines []string // of its standard output, those that Expect has not passed
}

// Build builds the program in a directory and returns its path, for StartProcess.
func Build(t testing.TB, dir string) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), filepath.Base(dir))
	cmd := exec.Command("go", "build", "-o", program, ".")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build in %s: %v\n%s", dir, err, out)
	}
	return program
}

// upLine is how a node logs that it is up, in any of slog's formats.
var upLine = regexp.MustCompile(`node up.*\bbaseURL"?[=:]"?([^\s"]*)`)

// StartProcess starts a program and waits until its standard error says that the
// node is up, as a node with a logger does (node.WithLogger). It is stopped when
// the test ends.
func StartProcess(t testing.TB, program string, args ...string) *Process {
	t.Helper()
	p := &Process{t: t, name: filepath.Base(program), cmd: exec.Command(program, args...), done: make(chan struct{})}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	up := make(chan string, 1)
	var readers sync.WaitGroup
	readers.Go(func() { scan(stdout, p.say) })
	readers.Go(func() {
		scan(stderr, func(line string) {
			t.Logf("%s: %s", p.name, line)
			if m := upLine.FindStringSubmatch(line); m != nil {
				select {
				case up <- m[1]:
				default: // it was up before
				}
			}
		})
	})
	go func() {
		readers.Wait()
		close(p.done)
	}()
	t.Cleanup(p.Stop)
	select {
	case p.url = <-up:
	case <-p.done:
		t.Fatalf("%s ended before it was up", p.name)
	case <-time.After(Timeout):
		t.Fatalf("%s did not come up in %s", p.name, Timeout)
	}
	return p
}

// scan reads r to its end, however long a line is.
func scan(r io.Reader, line func(string)) {
	s := bufio.NewScanner(r)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		line(s.Text())
	}
	_, _ = io.Copy(io.Discard, r) // the program must not block on us
}

func (p *Process) say(line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.lines) == maxLines {
		p.lines = p.lines[1:]
	}
	p.lines = append(p.lines, line)
}

// URL is the base URL of the program's node, "" for a partial one.
func (p *Process) URL() string { return p.url }

// Expect waits for a line of standard output with that beginning, passes over
// those before it, and returns it.
func (p *Process) Expect(beginning string) (line string) {
	p.t.Helper()
	Eventually(p.t, p.name+" prints "+beginning, func() (bool, string) {
		p.mu.Lock()
		defer p.mu.Unlock()
		i := slices.IndexFunc(p.lines, func(l string) bool { return strings.HasPrefix(l, beginning) })
		if i < 0 {
			return false, strings.Join(p.lines, "\n")
		}
		line, p.lines = p.lines[i], p.lines[i+1:]
		return true, ""
	})
	return line
}

// Output returns the lines of standard output that Expect has not passed.
func (p *Process) Output() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.lines)
}

// Stop asks the program to end, by SIGTERM, and waits for it; it has to end well.
// After another Stop or a Kill it does nothing.
func (p *Process) Stop() {
	p.t.Helper()
	p.end.Do(func() {
		p.t.Helper()
		_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended: Wait tells
		late := time.AfterFunc(Timeout, func() { _ = p.cmd.Process.Kill() })
		defer late.Stop()
		<-p.done
		if err := p.cmd.Wait(); err != nil {
			p.t.Errorf("%s ended with: %v", p.name, err)
		}
	})
}

// Kill ends the program by SIGKILL, in the middle of whatever it does.
func (p *Process) Kill() {
	p.end.Do(func() {
		_ = p.cmd.Process.Kill() // gone already: as good
		<-p.done
		_ = p.cmd.Wait() // "signal: killed"
	})
}
