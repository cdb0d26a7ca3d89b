package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Down stops the cluster, takes back what it left on the machine, and checks that
// nothing is left: an error names what is. With force it also removes firewall chains
// and the DNS address where no run directory says whose they are.
func (c *Cluster) Down(ctx context.Context, force bool) error {
	if err := Possible(); err != nil {
		return err
	}
	release, err := c.lock(ctx)
	if err != nil {
		return err
	}
	defer release()
	status, err := c.Status(ctx)
	if err != nil {
		return err
	}
	if !status.Exists && !force {
		fmt.Fprintln(c.Progress, "no local cluster is up")
		return nil
	}
	start := time.Now()
	if err := c.down(ctx, force); err != nil {
		return err
	}
	fmt.Fprintf(c.Progress, "the local cluster is down after %s, nothing is left behind\n", time.Since(start).Round(time.Second/10))
	return nil
}

// down goes through every kind of thing a cluster leaves, then looks again.
func (c *Cluster) down(ctx context.Context, force bool) error {
	s, err := readState(c.Run)
	known := err == nil
	if !known {
		if !errors.Is(err, os.ErrNotExist) && !force {
			return fmt.Errorf("%w; --force takes down what can be recognised without it", err)
		}
		s = &state{}
	}
	shims := c.shims()
	// State is thrown away, so nothing is stopped gently. kubelet goes first, lest it
	// restart what is killed next.
	early := []string{"kubelet", "kube-controller-manager", "kube-scheduler", "local-path", "coredns", "netpol"}
	steps := []func() error{
		func() error { return kill(ctx, c.Run, func(p process) bool { return slices.Contains(early, p.name) }) },
		func() error { return emptyCgroups(ctx) },
		func() error { return kill(ctx, c.Run, func(process) bool { return true }) },
		func() error { return unmount(c.Run) },
		func() error { return removeInterfaces(ctx) },
	}
	if known || force {
		steps = append(steps, func() error {
			chains, err := newChains(ctx, s.Chains)
			if err != nil {
				return err
			}
			if err := removeChains(ctx, chains); err != nil {
				return err
			}
			return removeCounters()
		})
	}
	steps = append(steps,
		func() error { return removeCgroups(ctx) },
		func() error { return restoreSysctls(s.Sysctls) },
		func() error { return removeShared(shims, c.Run, s.Absent) },
		func() error { return c.removeRun() },
	)
	var errs []error
	for _, step := range steps {
		if err := step(); err != nil {
			errs = append(errs, err)
		}
	}
	left, err := c.leftovers(ctx, s)
	errs = append(errs, err)
	if len(left) > 0 {
		errs = append(errs, fmt.Errorf("left behind:\n  %s", strings.Join(left, "\n  ")))
	}
	return errors.Join(errs...)
}

// deviceSocketDir is where kubelet puts its device plugin socket, whatever its root.
const deviceSocketDir = "/var/lib/kubelet/device-plugins"

// shim is what a container's shim leaves outside the run directory.
type shim struct{ id, socket string }

// shims reads the containers that the runtime knows from its state directory.
func (c *Cluster) shims() []shim {
	files, err := filepath.Glob(c.path("containerd-state/io.containerd.runtime.v2.task/k8s.io/*/bootstrap.json"))
	if err != nil {
		return nil
	}
	var out []shim
	for _, file := range files {
		found := shim{id: filepath.Base(filepath.Dir(file))}
		var boot struct {
			Address string `json:"address"`
		}
		if b, err := os.ReadFile(file); err == nil && json.Unmarshal(b, &boot) == nil {
			found.socket = strings.TrimPrefix(boot.Address, "unix://")
		}
		out = append(out, found)
	}
	return out
}

// mounts returns the mount points below a directory, the innermost first.
func mounts(dir string) ([]string, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("list the mounts: %w", err)
	}
	return mountsBelow(string(text), dir), nil
}

// mountsBelow reads the form of /proc/self/mountinfo.
func mountsBelow(text, dir string) []string {
	var out []string
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) > 4 {
			// Spaces and the like are written as octal escapes.
			point := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(f[4])
			if strings.HasPrefix(point, dir+"/") {
				out = append(out, point)
			}
		}
	}
	slices.Reverse(out)
	return out
}

// unmount detaches every mount below the run directory; mounts may be stacked.
func unmount(run string) error {
	for range 8 {
		points, err := mounts(run)
		if err != nil || len(points) == 0 {
			return err
		}
		for _, point := range points {
			// Another unmount may have taken it along.
			_ = syscall.Unmount(point, syscall.MNT_DETACH)
		}
	}
	return nil // leftovers names them
}

// removeInterfaces deletes what the network plugin and Up put on the machine.
func removeInterfaces(ctx context.Context) error {
	names, err := podInterfaces()
	if err != nil {
		return err
	}
	for _, name := range names {
		// Most go by themselves with their network namespace.
		_ = command(ctx, "ip", "link", "delete", name)
	}
	there, err := dnsAddress()
	if err != nil || !there {
		return err
	}
	return command(ctx, "ip", "address", "delete", dnsHost+"/32", "dev", "lo")
}

// newChains returns the chains of a cluster that were not there before it.
func newChains(ctx context.Context, before []chain) ([]chain, error) {
	now, err := clusterChains(ctx)
	return slices.DeleteFunc(now, func(c chain) bool { return slices.Contains(before, c) }), err
}

// removeShared removes the cluster's files in directories that it shares with others,
// and the directories that were not there and are empty.
func removeShared(shims []shim, run string, absent []string) error {
	var errs []error
	for _, s := range shims {
		if strings.HasPrefix(s.socket, "/run/containerd/s/") {
			errs = append(errs, remove(s.socket))
		}
		errs = append(errs, os.RemoveAll(filepath.Join("/run/containerd/runc/k8s.io", s.id)))
		// The loopback's result carries the sandbox alone, not the network's name.
		errs = append(errs, remove(filepath.Join("/var/lib/cni/results", "cni-loopback-"+s.id+"-lo")))
	}
	if slices.Contains(absent, deviceSocketDir) {
		errs = append(errs, remove(filepath.Join(deviceSocketDir, "kubelet.sock")))
	}
	for _, file := range sharedFiles(run) {
		errs = append(errs, remove(file))
	}
	for _, dir := range sharedDirs {
		if slices.Contains(absent, dir) {
			// Fails where others have moved in meanwhile, as it should.
			_ = os.Remove(dir)
		}
	}
	return errors.Join(errs...)
}

// sharedFiles returns the CNI results and log links of the cluster: the ones carry the
// network's name, the others point into the run directory.
func sharedFiles(run string) []string {
	out, err := filepath.Glob("/var/lib/cni/results/" + netName + "-*")
	if err != nil {
		return nil
	}
	links, err := filepath.Glob("/var/log/containers/*.log")
	if err != nil {
		return out
	}
	for _, link := range links {
		if to, err := os.Readlink(link); err == nil && strings.HasPrefix(to, run+"/") {
			out = append(out, link)
		}
	}
	return out
}

// remove deletes a file that may be gone already.
func remove(file string) error {
	if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// removeRun deletes the run directory, never through a mount.
func (c *Cluster) removeRun() error {
	points, err := mounts(c.Run)
	if err != nil {
		return err
	}
	if len(points) > 0 {
		return fmt.Errorf("%s stays: %s is still mounted", c.Run, points[0])
	}
	if _, err := os.Stat(stateFile(c.Run)); errors.Is(err, os.ErrNotExist) {
		return nil // not known to be ours
	}
	if err := os.RemoveAll(c.Run); err != nil {
		return fmt.Errorf("remove the run directory: %w", err)
	}
	return nil
}

// leftovers names everything of a cluster that is still on the machine. What the kernel
// takes apart in the background is given a moment.
func (c *Cluster) leftovers(ctx context.Context, before *state) ([]string, error) {
	deadline := time.Now().Add(5 * time.Second)
	for {
		left, err := c.look(ctx, before)
		if err != nil || len(left) == 0 || time.Now().After(deadline) {
			return left, err
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return left, err
		}
	}
}

func (c *Cluster) look(ctx context.Context, before *state) ([]string, error) {
	var left []string
	note := func(kind, name string) { left = append(left, kind+" "+name) }
	running, err := processes(c.Run)
	if err != nil {
		return nil, err
	}
	for _, p := range running {
		note("process", fmt.Sprintf("%s (%d)", p.name, p.pid))
	}
	points, err := mounts(c.Run)
	if err != nil {
		return nil, err
	}
	for _, p := range points {
		note("mount", p)
	}
	links, err := podInterfaces()
	if err != nil {
		return nil, err
	}
	for _, l := range links {
		note("interface", l)
	}
	there, err := dnsAddress()
	if err != nil {
		return nil, err
	}
	if there {
		note("address", dnsHost+" on lo")
	}
	chains, err := newChains(ctx, before.Chains)
	if err != nil {
		return nil, err
	}
	for _, ch := range chains {
		note("firewall chain", fmt.Sprintf("%s (%s, table %s)", ch.Name, ch.Tool, ch.Table))
	}
	for _, dir := range cgroups() {
		note("cgroup", dir)
	}
	now, err := readSysctls()
	if err != nil {
		return nil, err
	}
	for name, value := range before.Sysctls {
		if now[name] != value {
			note("kernel setting", fmt.Sprintf("%s = %s, was %s", name, now[name], value))
		}
	}
	for _, file := range sharedFiles(c.Run) {
		note("file", file)
	}
	for _, dir := range before.Absent {
		if _, err := os.Lstat(dir); err == nil {
			note("directory", dir)
		}
	}
	if _, err := os.Lstat(c.Run); err == nil {
		note("directory", c.Run)
	}
	return left, nil
}
