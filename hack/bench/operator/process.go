package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// stopTime is how long a process may take to end before it is killed.
const stopTime = 20 * time.Second

// program is a process of ours, its output in a file.
type program struct {
	cmd    *exec.Cmd
	log    string
	exited chan struct{}
	result error // once exited is closed
}

func launch(log, path string, env []string, args ...string) (*program, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close() // the process has its own
	p := &program{cmd: exec.Command(path, args...), log: log, exited: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", filepath.Base(path), err)
	}
	go func() {
		p.result = p.cmd.Wait()
		close(p.exited)
	}()
	return p, nil
}

func (p *program) pid() int { return p.cmd.Process.Pid }

// ended tells that the process has ended, and where its last words are.
func (p *program) ended() error {
	select {
	case <-p.exited:
		return fmt.Errorf("%s ended by itself (%w); its log is %s", filepath.Base(p.cmd.Path), errors.Join(p.result), p.log)
	default:
		return nil
	}
}

func (p *program) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // an error: it is gone
	select {
	case <-p.exited:
	case <-time.After(stopTime):
		_ = p.cmd.Process.Kill() // likewise
		<-p.exited
	}
}

// processes runs nodes as real koi-node processes.
type processes struct{ binary, dir string }

// process is a node in a process of its own.
type process struct {
	*program
	of settings
}

func (p process) hash() string { return p.of.hash }

func (ps processes) run(_ context.Context, s settings) (running, error) {
	dir := filepath.Join(ps.dir, s.name)
	for name, data := range s.files {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			return nil, err
		}
		if err := os.WriteFile(file, data, 0o600); err != nil {
			return nil, err
		}
	}
	p, err := launch(filepath.Join(dir, "log"), ps.binary, []string{"KOI_CONFIG_HASH=" + s.hash}, "run",
		"--config", filepath.Join(dir, "config", "config.yaml"),
		"--data-dir", filepath.Join(dir, "data"), "--identity-dir", filepath.Join(dir, "identity"),
		"--listen", net.JoinHostPort(s.ip, protocolPort), "--admin-listen", net.JoinHostPort(s.ip, adminPort),
		"--metrics-listen", "", // with the admin API: the port is one for all machines
		"--admin-token-file", filepath.Join(dir, "admin", "token"),
		"--admin-tls-cert", filepath.Join(dir, "admin", "tls.crt"), "--admin-tls-key", filepath.Join(dir, "admin", "tls.key"),
		"--termination-log", "")
	if err != nil {
		return nil, err
	}
	return process{p, s}, nil
}
