package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/koi-net/koi-operator/hack/cluster/assets"
	"github.com/koi-net/koi-operator/hack/image/oci"
)

// Up starts the cluster and returns when its node takes pods. On a healthy one it does
// nothing; what is left of an unhealthy one is taken down first.
func (c *Cluster) Up(ctx context.Context) error {
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
	switch {
	case status.Healthy():
		fmt.Fprintln(c.Progress, "the local cluster is up already")
		return c.noteAge()
	case status.Exists:
		fmt.Fprintf(c.Progress, "the local cluster is damaged: %s; starting afresh\n", strings.Join(status.Faults, "; "))
		if err := c.down(ctx, false); err != nil {
			return fmt.Errorf("take down the damaged cluster: %w", err)
		}
	}
	if err := installTools(ctx, c.Progress); err != nil {
		return err
	}
	dirs, err := c.Builder.Ensure(ctx, assets.All()...)
	if err != nil {
		return err
	}
	start := time.Now()
	s, err := c.prepare(ctx, dirs)
	if err != nil {
		return err
	}
	if err := c.boot(ctx, s); err != nil {
		return fmt.Errorf("%w\nlogs are in %s; go run ./hack/cluster down takes away what is left", err, c.path("log"))
	}
	fmt.Fprintf(c.Progress, "the local cluster is up after %s, kubeconfig %s\n", time.Since(start).Round(time.Second/10), c.Kubeconfig())
	return nil
}

// lock keeps two runs from changing the machine at once.
func (c *Cluster) lock(ctx context.Context) (func(), error) {
	if err := os.MkdirAll(c.Builder.Cache, 0o755); err != nil {
		return nil, fmt.Errorf("make the cache directory: %w", err)
	}
	return assets.Lock(ctx, filepath.Join(c.Builder.Cache, "cluster.lock"), c.Progress)
}

// noteAge says when the running cluster is of other sources than the checkout's.
func (c *Cluster) noteAge() error {
	s, err := readState(c.Run)
	if err != nil {
		return err
	}
	for _, component := range assets.All() {
		dir, err := c.Builder.Dir(component)
		if err != nil {
			return err
		}
		if s.Assets[component.Name] != dir {
			fmt.Fprintf(c.Progress, "note: it runs an older build of %s; down and up again takes the new one\n", component.Name)
		}
	}
	return nil
}

// prepare checks the machine, notes how it is, and writes all files.
func (c *Cluster) prepare(ctx context.Context, dirs map[string]string) (*state, error) {
	_, err := os.Stat(c.Run)
	fresh := errors.Is(err, os.ErrNotExist)
	if err := c.claim(); err != nil {
		return nil, err
	}
	// A refusal leaves the machine as it was.
	refuse := func(err error) (*state, error) {
		if fresh {
			os.RemoveAll(c.Run)
		}
		return nil, err
	}
	if err := preflight(ctx, c.Run); err != nil {
		return refuse(err)
	}
	node, err := nodeAddress()
	if err != nil {
		return refuse(err)
	}
	s := &state{Assets: dirs, NodeIP: node, Absent: absentDirs()}
	if s.Sysctls, err = readSysctls(); err != nil {
		return refuse(err)
	}
	if s.Chains, err = clusterChains(ctx); err != nil {
		return refuse(err)
	}
	if err := s.write(c.Run); err != nil {
		return refuse(err)
	}
	for _, dir := range []string{"log", "pv", "kubelet"} {
		if err := os.MkdirAll(c.path(dir), 0o755); err != nil {
			return nil, fmt.Errorf("make the run directory: %w", err)
		}
	}
	if err := writeCredentials(c.Run, node); err != nil {
		return nil, err
	}
	if err := c.writeConfiguration(s); err != nil {
		return nil, err
	}
	return s, c.writePause(dirs[assets.Pause().Name])
}

// claim makes the run directory, or makes sure that an existing one is empty.
func (c *Cluster) claim() error {
	entries, err := os.ReadDir(c.Run)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("run directory: %w", err)
	}
	if len(entries) > 0 {
		return fmt.Errorf("the run directory %s holds files that are not of a cluster (%s, ...): empty it or set KOI_RUN", c.Run, entries[0].Name())
	}
	// 0711: containers run as other users and reach their volumes by this path.
	if err := os.MkdirAll(c.Run, 0o711); err != nil {
		return fmt.Errorf("run directory: %w", err)
	}
	return nil
}

// writePause assembles the sandbox image.
func (c *Cluster) writePause(dir string) error {
	program, err := os.ReadFile(filepath.Join(dir, "pause"))
	if err != nil {
		return fmt.Errorf("assemble the sandbox image: %w", err)
	}
	var out bytes.Buffer
	_, err = oci.Image{
		Reference: pauseImage, Arch: runtime.GOARCH, User: "65535:65535", Entrypoint: []string{"/pause"},
		Files: []oci.File{{Path: "/pause", Mode: 0o755, Content: program}},
	}.Write(&out)
	if err != nil {
		return fmt.Errorf("assemble the sandbox image: %w", err)
	}
	return writeFiles(c.Run, map[string][]byte{"pause.tar": out.Bytes()})
}

// boot starts the daemons, each when what it needs is there.
func (c *Cluster) boot(ctx context.Context, s *state) error {
	all := c.daemons(s)
	begin := func(names ...string) error {
		for _, name := range names {
			if err := c.start(all[name]); err != nil {
				return err
			}
		}
		return nil
	}
	if err := makeCgroups(); err != nil {
		return err
	}
	if err := setSysctl("net/ipv4/ip_forward", "1"); err != nil {
		return err
	}
	// The runtime does not need the API server: its image is loaded while that starts.
	if err := begin("etcd", "apiserver", "containerd"); err != nil {
		return err
	}
	err := c.await(ctx, all["containerd"], 30*time.Second, func(ctx context.Context) error {
		_, err := c.ctr(ctx, s, "version")
		return err
	})
	if err != nil {
		return err
	}
	if err := c.load(ctx, s, c.path("pause.tar")); err != nil {
		return err
	}
	a, err := c.newAPI()
	if err != nil {
		return err
	}
	defer a.close()
	if err := c.await(ctx, all["apiserver"], 120*time.Second, a.ready); err != nil {
		return err
	}
	if err := begin("controller-manager", "scheduler", "kubelet", "proxy"); err != nil {
		return err
	}
	err = c.await(ctx, all["apiserver"], 30*time.Second, func(ctx context.Context) error { return c.applyAddons(ctx, s) })
	if err != nil {
		return err
	}
	if err := command(ctx, "ip", "address", "add", dnsHost+"/32", "dev", "lo"); err != nil {
		return err
	}
	if err := begin("coredns", "netpol", "local-path"); err != nil {
		return err
	}
	if err := c.await(ctx, all["kubelet"], 90*time.Second, a.nodeReady); err != nil {
		return err
	}
	if err := c.await(ctx, all["controller-manager"], 60*time.Second, a.podsPossible); err != nil {
		return err
	}
	return c.await(ctx, all["coredns"], 30*time.Second, resolves)
}

// applyAddons applies the cluster's own objects.
func (c *Cluster) applyAddons(ctx context.Context, s *state) error {
	kubectl := filepath.Join(s.Assets[assets.Kone().Name], "kubectl")
	cmd := exec.CommandContext(ctx, kubectl, "--kubeconfig", c.Kubeconfig(), "apply", "-f", c.path("etc/addons.yaml"))
	cmd.Env = append(daemonEnv(""), "HOME="+c.Run, "KUBECACHEDIR="+c.path("kubectl"))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("apply the add-ons: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// await polls until a probe succeeds. It fails at once when the daemon has died.
func (c *Cluster) await(ctx context.Context, d daemon, limit time.Duration, probe func(context.Context) error) error {
	begun := time.Now()
	program := filepath.Base(d.path)
	for told := false; ; {
		err := probe(ctx)
		if err == nil {
			return nil
		}
		running, listErr := processes(c.Run)
		if listErr != nil {
			return listErr
		}
		if !slices.ContainsFunc(running, func(p process) bool { return p.name == program }) {
			return fmt.Errorf("%s died:\n%s", d.name, c.logTail(d.name))
		}
		waited := time.Since(begun)
		if waited > limit {
			return fmt.Errorf("%s is not ready after %s: %w\n%s", d.name, limit, err, c.logTail(d.name))
		}
		if waited > 5*time.Second && !told {
			told = true
			fmt.Fprintf(c.Progress, "waiting for %s: %v\n", d.name, err)
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
}
