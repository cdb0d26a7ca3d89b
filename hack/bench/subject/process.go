package subject

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Bounds of a start, and of a stop before the process is killed.
const (
	patience = 2 * time.Minute
	stopping = 30 * time.Second
)

// logLines is how much of a log an error carries.
const logLines = 12

// ErrEnded says that a node's process ended by itself.
var ErrEnded = errors.New("the node has ended")

// process is a program that runs.
type process struct {
	log    string
	cmd    *exec.Cmd
	exited chan struct{}
	result error // once exited is closed
}

// start runs a command with all its output in a file.
func start(cmd *exec.Cmd, log string) (*process, error) {
	file, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("log of a node: %w", err)
	}
	defer file.Close() // the process has its own
	cmd.Stdout, cmd.Stderr = file, file
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start a node: %w", err)
	}
	p := &process{log: log, cmd: cmd, exited: make(chan struct{})}
	go func() {
		p.result = cmd.Wait()
		close(p.exited)
	}()
	return p, nil
}

// PID is the process's.
func (p *process) PID() int { return p.cmd.Process.Pid }

// until asks whether something holds, every step, until it does, the process
// ends or ctx does.
func (p *process) until(ctx context.Context, what string, step time.Duration, holds func(ctx context.Context) (bool, error)) error {
	tick := time.NewTicker(step)
	defer tick.Stop()
	for {
		ok, err := holds(ctx)
		if ok && err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-p.exited:
			return fmt.Errorf("%s: %w: %w\n%s", what, ErrEnded, p.how(), p.tail())
		case <-ctx.Done():
			return fmt.Errorf("%s: %w (last: %w)\n%s", what, context.Cause(ctx), errOr(err, "not yet"), p.tail())
		}
	}
}

// errOr returns err, or an error that says so.
func errOr(err error, otherwise string) error {
	if err != nil {
		return err
	}
	return errors.New(otherwise)
}

// how tells how the process ended, which exit code 0 does not undo.
func (p *process) how() error { return errOr(p.result, "exit status 0") }

// tail returns the end of what the process wrote.
func (p *process) tail() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-logLines):], "\n")
}

// end asks the process to end, and kills it where it does not. Either way it is
// gone afterwards.
func (p *process) end() {
	_ = syscall.Kill(p.cmd.Process.Pid, syscall.SIGTERM) // an error: it is gone
	select {
	case <-p.exited:
	case <-time.After(stopping):
	}
	p.Kill()
}

// Kill ends the process and all it started, at once, and waits for it.
func (p *process) Kill() {
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) // an error: it is gone
	<-p.exited
}

// freeAddress returns an address of the loopback interface that nobody listens on.
func freeAddress() (string, error) {
	var config net.ListenConfig
	l, err := config.Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// ClosedAddress returns an address of the loopback interface that nobody listens
// on, and nobody is likely to as long as the run lasts.
func ClosedAddress() (string, error) { return freeAddress() }

// DiskBytes returns the space that the files below a directory take.
func DiskBytes(dir string) (int64, error) {
	var sum int64
	err := filepath.WalkDir(dir, func(_ string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			sum += st.Blocks * 512
		}
		return nil
	})
	return sum, err
}
