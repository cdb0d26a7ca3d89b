package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const cgroupMount = "/sys/fs/cgroup"

// hierarchies returns the roots of the machine's cgroup hierarchies: the one of
// version 2, or those of version 1, a hybrid's version 2 included.
func hierarchies() []string {
	if _, err := os.Stat(filepath.Join(cgroupMount, "cgroup.procs")); err == nil {
		return []string{cgroupMount}
	}
	found, err := filepath.Glob(filepath.Join(cgroupMount, "*", "cgroup.procs"))
	if err != nil {
		return nil
	}
	var out []string
	for _, file := range found {
		// cpu and cpuacct are often links to one hierarchy.
		if dir, err := filepath.EvalSymlinks(filepath.Dir(file)); err == nil && !slices.Contains(out, dir) {
			out = append(out, dir)
		}
	}
	return out
}

// cgroups returns the cluster's cgroup in each hierarchy where it is.
func cgroups() []string {
	var out []string
	for _, h := range hierarchies() {
		dir := filepath.Join(h, netName)
		if _, err := os.Stat(dir); err == nil {
			out = append(out, dir)
		}
	}
	return out
}

// makeCgroups makes the cgroup that all pods are kept below, apart from whatever else
// runs on the machine.
func makeCgroups() error {
	for _, h := range hierarchies() {
		dir := filepath.Join(h, netName)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make the cluster's cgroup: %w", err)
		}
		// A new cpuset of version 1 has no processors and takes no process.
		for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
			if filepath.Base(h) != "cpuset" {
				break
			}
			value, err := os.ReadFile(filepath.Join(h, name))
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, name), value, 0)
			}
			if err != nil {
				return fmt.Errorf("set up the cluster's cgroup: %w", err)
			}
		}
	}
	return nil
}

// emptyCgroups kills every process of every pod.
func emptyCgroups(ctx context.Context) error {
	deadline := time.Now().Add(10 * time.Second)
	for {
		pids := map[int]bool{}
		for _, dir := range cgroups() {
			if err := collect(dir, pids); err != nil {
				return err
			}
		}
		if len(pids) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d processes of pods do not end", len(pids))
		}
		for pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}

// collect adds the processes of a cgroup and of all below it.
func collect(dir string, pids map[int]bool) error {
	return filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || d.IsDir() || d.Name() != "cgroup.procs" {
			return err
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return nil // gone meanwhile, or a threaded cgroup, which has no list
		}
		for word := range strings.FieldsSeq(string(text)) {
			if pid, err := strconv.Atoi(word); err == nil && pid > 0 {
				pids[pid] = true
			}
		}
		return nil
	})
}

// removeCgroups removes the cluster's cgroups; the kernel may hold one for a moment
// after its last process.
func removeCgroups(ctx context.Context) error {
	deadline := time.Now().Add(5 * time.Second)
	for {
		left := cgroups()
		if len(left) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("cgroup %s does not go", left[0])
		}
		for _, dir := range left {
			var inner []string
			_ = filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
				if err == nil && d.IsDir() {
					inner = append(inner, file)
				}
				return nil
			})
			slices.Reverse(inner)
			for _, d := range inner {
				_ = syscall.Rmdir(d)
			}
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}
