package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// systemPath is where the daemons look for host tools, besides their own directory.
const systemPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// process is a running program of the cluster.
type process struct {
	pid  int
	name string // the program, by its file name
}

// programs are the names a process of the cluster can have.
var programs = []string{
	"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy",
	"coredns", "local-path", "netpol", "containerd", "containerd-shim-runc-v2",
}

// processes returns the programs that run for the cluster in a directory. Each names
// the directory on its command line, so that a reused process ID, or a program that
// someone else runs, is never taken for one.
func processes(run string) ([]process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list the processes: %w", err)
	}
	var out []process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		// A process that ended meanwhile, or a zombie, has no command line.
		line, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err != nil {
			continue
		}
		if name, ok := belongs(line, run); ok {
			out = append(out, process{pid, name})
		}
	}
	return out, nil
}

// belongs tells from a command line (words ended by NUL) whether it is a program of
// the cluster in a directory, and which.
func belongs(cmdline []byte, run string) (string, bool) {
	words := strings.Split(string(bytes.TrimRight(cmdline, "\x00")), "\x00")
	name := filepath.Base(words[0])
	if !slices.Contains(programs, name) {
		return "", false
	}
	return name, slices.ContainsFunc(words[1:], func(w string) bool { return strings.Contains(w, run+"/") })
}

// kill ends the processes that match and waits until they are gone.
func kill(ctx context.Context, run string, match func(process) bool) error {
	deadline := time.Now().Add(20 * time.Second)
	for {
		all, err := processes(run)
		if err != nil {
			return err
		}
		all = slices.DeleteFunc(all, func(p process) bool { return !match(p) })
		if len(all) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s (process %d) does not end", all[0].name, all[0].pid)
		}
		for _, p := range all {
			if err := syscall.Kill(p.pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("end %s (process %d): %w", p.name, p.pid, err)
			}
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}

// start starts a daemon in a session of its own, its output appended to a log file.
func (c *Cluster) start(d daemon) error {
	log, err := os.OpenFile(c.logFile(d.name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("start %s: %w", d.name, err)
	}
	defer log.Close()
	cmd := exec.Command(d.path, d.args...)
	cmd.Dir = c.Run
	cmd.Env = append(daemonEnv(filepath.Dir(d.path)), d.env...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", d.name, err)
	}
	// The daemon outlives this program.
	return cmd.Process.Release()
}

// logFile returns the log of a daemon.
func (c *Cluster) logFile(name string) string { return c.path("log", name+".log") }

// logTail returns the last lines of a daemon's log, for an error.
func (c *Cluster) logTail(name string) string {
	const lines, window = 8, 16 << 10
	f, err := os.Open(c.logFile(name))
	if err != nil {
		return ""
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > window {
		_, _ = f.Seek(-window, 2)
	}
	b := make([]byte, window)
	n, _ := f.Read(b)
	all := strings.Split(strings.TrimSpace(string(b[:n])), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// daemonEnv is the whole environment of a daemon: nothing of the caller's leaks in.
func daemonEnv(dir string) []string {
	path := systemPath
	if dir != "" {
		path = dir + ":" + path
	}
	return []string{"PATH=" + path, "HOME=/root", "LANG=C.UTF-8"}
}

// lookPath finds a host tool on the system's path, which a plain user's lacks.
func lookPath(name string) (string, error) {
	for _, dir := range filepath.SplitList(systemPath) {
		file := filepath.Join(dir, name)
		if info, err := os.Stat(file); err == nil && !info.IsDir() && info.Mode()&0o111 != 0 {
			return file, nil
		}
	}
	return "", fmt.Errorf("%s: %w", name, exec.ErrNotFound)
}

// pause waits, or ends early with the context's cause.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}
