package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
)

// tools are the host programs that a cluster needs, and the Debian packages they are in.
var tools = []struct{ name, pkg string }{
	{"runc", "runc"},
	{"iptables", "iptables"},
	{"iptables-restore", "iptables"},
	{"iptables-save", "iptables"},
	{"ip", "iproute2"},
	{"mount", "mount"},
}

// controllers are the cgroup controllers that kubelet will not start without.
var controllers = []string{"cpu", "cpuset", "memory", "pids"}

// Possible tells whether a local cluster can run here at all: nil, or what stands in
// the way. What a package manager can put right does not count.
func Possible() error {
	if runtime.GOOS != "linux" {
		return fmt.Errorf("the local cluster runs on Linux, not on %s", runtime.GOOS)
	}
	if os.Geteuid() != 0 {
		return errors.New("the local cluster needs root (mounts, network namespaces, cgroups): run it with sudo -E env \"PATH=$PATH\"")
	}
	text, err := os.ReadFile("/proc/cgroups")
	if err != nil {
		return fmt.Errorf("no cgroups: %w", err)
	}
	if lacking := disabledControllers(string(text)); len(lacking) > 0 {
		return fmt.Errorf("the kernel lacks the cgroup controllers %s", strings.Join(lacking, ", "))
	}
	return nil
}

// disabledControllers reads /proc/cgroups: name, hierarchy, number of cgroups, enabled.
func disabledControllers(text string) []string {
	on := map[string]bool{}
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) == 4 {
			on[f[0]] = f[3] == "1"
		}
	}
	return slices.DeleteFunc(slices.Clone(controllers), func(c string) bool { return on[c] })
}

// missingPackages returns the Debian packages of the tools that find does not find.
func missingPackages(find func(string) (string, error)) []string {
	var out []string
	for _, t := range tools {
		if _, err := find(t.name); err != nil && !slices.Contains(out, t.pkg) {
			out = append(out, t.pkg)
		}
	}
	return out
}

// installTools installs the host tools that are missing where apt-get is there, and
// otherwise says which they are.
func installTools(ctx context.Context, progress io.Writer) error {
	missing := missingPackages(lookPath)
	if len(missing) == 0 {
		return nil
	}
	install := "apt-get install " + strings.Join(missing, " ")
	if _, err := lookPath("apt-get"); err != nil {
		return fmt.Errorf("missing on this machine, by the names of the Debian packages: %s", strings.Join(missing, " "))
	}
	fmt.Fprintf(progress, "missing on this machine: running %s\n", install)
	args := append([]string{"install", "--yes", "--no-install-recommends"}, missing...)
	if err := apt(ctx, args...); err != nil {
		fmt.Fprintln(progress, "the package lists look old: running apt-get update")
		if err := apt(ctx, "update"); err != nil {
			return fmt.Errorf("cannot install what is missing; run %s yourself: %w", install, err)
		}
		if err := apt(ctx, args...); err != nil {
			return fmt.Errorf("cannot install what is missing; run %s yourself: %w", install, err)
		}
	}
	if left := missingPackages(lookPath); len(left) > 0 {
		return fmt.Errorf("still missing after %s: %s", install, strings.Join(left, " "))
	}
	return nil
}

func apt(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "apt-get", append([]string{"-q", "-o", "DPkg::Lock::Timeout=120"}, args...)...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "PATH="+systemPath)
	if out, err := cmd.CombinedOutput(); err != nil {
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		return fmt.Errorf("apt-get %s: %w: %s", args[0], err, strings.Join(lines[max(0, len(lines)-3):], "; "))
	}
	return nil
}

// preflight refuses to start on a machine where a cluster would collide with what is
// there, or could not work.
func preflight(ctx context.Context, run string) error {
	var errs []error
	if busy := busyPorts(); len(busy) > 0 {
		errs = append(errs, fmt.Errorf("TCP ports %s are in use (another Kubernetes or etcd?): see ss -ltnp", strings.Join(busy, ", ")))
	}
	chains, err := clusterChains(ctx)
	if err != nil {
		return err
	}
	for _, c := range chains {
		if !strings.HasPrefix(c.Name, "CNI-") { // podman's may be there
			errs = append(errs, fmt.Errorf("firewall chain %s (%s, table %s) is of another Kubernetes, or of a cluster whose run directory was deleted: stop that one, or run go run ./hack/cluster down --force", c.Name, c.Tool, c.Table))
			break
		}
	}
	foreign, err := foreignRoutes()
	if err != nil {
		return err
	}
	if len(foreign) > 0 {
		errs = append(errs, fmt.Errorf("addresses %s of this machine overlap the cluster's %s and %s", strings.Join(foreign, ", "), clusterCIDR, serviceCIDR))
	}
	if err := tryOverlay(run); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// tryOverlay makes and drops the kind of mount that containers' file systems are.
func tryOverlay(run string) error {
	dir, err := os.MkdirTemp(run, "overlay-")
	if err != nil {
		return fmt.Errorf("the run directory cannot be written: %w", err)
	}
	defer os.RemoveAll(dir)
	for _, sub := range []string{"lower", "upper", "work", "merged"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			return fmt.Errorf("the run directory cannot be written: %w", err)
		}
	}
	merged := filepath.Join(dir, "merged")
	options := fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", dir)
	if err := syscall.Mount("overlay", merged, "overlay", 0, options); err != nil {
		return fmt.Errorf("no overlay mount is possible in %s: set KOI_RUN to a directory on a plain disk file system: %w", run, err)
	}
	if err := syscall.Unmount(merged, 0); err != nil {
		return fmt.Errorf("unmount %s: %w", merged, err)
	}
	return nil
}
