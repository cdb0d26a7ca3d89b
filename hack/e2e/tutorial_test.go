//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/koi-net/koi-operator/hack/charts/helm"
	"github.com/koi-net/koi-operator/hack/cluster/assets"
	"github.com/koi-net/koi-operator/hack/cluster/local"
	"github.com/koi-net/koi-operator/hack/docs"
	"github.com/koi-net/koi-operator/hack/flux"
	"github.com/koi-net/koi-operator/hack/interop/reference"
	"github.com/koi-net/koi-operator/hack/up/kubectl"
)

// blockPatience is how long one block of the tutorial may take.
const blockPatience = 5 * time.Minute

// TestTutorial types what docs/tutorial.md says, block by block, on a machine without a
// cluster. What a reader brings, it brings: Helm, kubectl, Python with the library,
// and, before the block that needs it, Flux and a Git repository.
func TestTutorial(t *testing.T) {
	if err := local.Possible(); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("no cluster is possible here, and in CI this test has to run: %v", err)
		}
		t.Skipf("SKIPPED, NOT PASSED: no cluster is possible on this machine: %v", err)
	}
	root, err := assets.Root()
	if err != nil {
		t.Fatal(err)
	}
	cluster, err := local.New(io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if status, err := cluster.Status(t.Context()); err != nil || status.Exists {
		t.Fatalf("a local cluster is there already (%+v, %v): this test makes the machine's only one. Run make down first", status, err)
	}
	text, err := os.ReadFile(filepath.Join(root, docs.Tutorial))
	if err != nil {
		t.Fatal(err)
	}
	r := newReader(t, root, cluster)
	for _, b := range docs.Blocks(string(text)) {
		commands := b.Commands()
		given := 0
		for _, c := range commands {
			if docs.Elsewhere[c] != "" {
				given++
			}
		}
		switch {
		case len(commands) == 0 || given == len(commands):
			continue
		case given > 0:
			t.Fatalf("%s:%d: some commands of the block are run here and some are not", docs.Tutorial, b.Line)
		}
		// From the first mention of Flux on, it is there.
		if strings.Contains(b.Text, "$CLONE") && r.repo == nil {
			r.bringFlux(t)
		}
		began := time.Now()
		r.typeIn(t, fmt.Sprintf("%s:%d", docs.Tutorial, b.Line), b.Text)
		t.Logf("%s:%d took %s", docs.Tutorial, b.Line, time.Since(began).Round(time.Second/10))
	}
	if r.repo == nil {
		t.Error("the tutorial no longer has a part with Git")
	}
	if status, err := cluster.Status(t.Context()); err != nil || status.Exists {
		t.Errorf("after the tutorial: %+v, %v", status, err)
	}
}

// reader is somebody who reads the tutorial at a shell.
type reader struct {
	root    string
	cluster *local.Cluster
	env     []string
	shell   *exec.Cmd
	stdin   io.WriteCloser
	log     *os.File
	work    string
	repo    *flux.Repository
	fluxLog *os.File
}

// newReader opens the shell.
func newReader(t *testing.T, root string, cluster *local.Cluster) *reader {
	t.Helper()
	ctx := context.Background() // what runs by it ends with the test's cleanup
	r := &reader{root: root, cluster: cluster, work: t.TempDir()}
	bin := filepath.Join(r.work, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	program, err := cluster.Kubectl(ctx)
	if err != nil {
		t.Fatal(err)
	}
	helmProgram, err := helm.Build(ctx, testWriter{t})
	if err != nil {
		t.Fatal(err)
	}
	plugin := filepath.Join(r.work, "kubectl-koi")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", plugin, filepath.Join(root, "cmd", "kubectl-koi")).CombinedOutput(); err != nil {
		t.Fatalf("build the plugin: %v\n%s", err, out)
	}
	for name, path := range map[string]string{"kubectl": program, "helm": helmProgram, "kubectl-koi": plugin} {
		if err := os.Symlink(path, filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	r.env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "PYTHON="+r.python(t, bin), "KUBECACHEDIR="+r.work,
		"HELM_CONFIG_HOME="+r.work, "HELM_CACHE_HOME="+r.work, "HELM_DATA_HOME="+r.work,
		"GIT_AUTHOR_NAME=koi", "GIT_AUTHOR_EMAIL=koi@example.org", "GIT_COMMITTER_NAME=koi", "GIT_COMMITTER_EMAIL=koi@example.org")
	if r.log, err = os.Create(filepath.Join(r.work, "shell.log")); err != nil {
		t.Fatal(err)
	}
	r.shell = exec.CommandContext(ctx, "bash", "-m", "-e", "-u", "-o", "pipefail", "-s")
	r.shell.Dir, r.shell.Env, r.shell.Stdout, r.shell.Stderr = root, r.env, r.log, r.log
	r.shell.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if r.stdin, err = r.shell.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := r.shell.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.close(t) })
	return r
}

// python is a program that runs the library's interpreter.
func (r *reader) python(t *testing.T, bin string) string {
	t.Helper()
	releases := reference.Releases()
	environments, err := reference.Install(t.Context(), testWriter{t}, releases[len(releases)-1])
	if err != nil {
		t.Fatal(err)
	}
	cmd := environments[0].Command(t.Context())
	quoted := make([]string, 0, len(cmd.Args))
	for _, a := range append([]string{cmd.Path}, cmd.Args[1:]...) {
		quoted = append(quoted, "'"+strings.ReplaceAll(a, "'", `'\''`)+"'")
	}
	path := filepath.Join(bin, "koi-python")
	script := "#!/bin/sh\nexec " + strings.Join(quoted, " ") + " \"$@\"\n"
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// typeIn types a block, and waits until the shell has done it.
func (r *reader) typeIn(t *testing.T, where, text string) {
	t.Helper()
	done := filepath.Join(r.work, "done")
	if err := os.Remove(done); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	from, err := r.log.Seek(0, io.SeekEnd)
	if err != nil {
		t.Fatal(err)
	}
	// Braces have the shell read the block before it runs any of it: no command eats the next.
	if _, err := fmt.Fprintf(r.stdin, "{\n%s} </dev/null\ntouch '%s'\n", text, done); err != nil {
		t.Fatalf("%s: the shell has ended: %v\n%s", where, err, r.said(from))
	}
	for deadline := time.Now().Add(blockPatience); ; time.Sleep(100 * time.Millisecond) {
		if _, err := os.Stat(done); err == nil {
			break
		}
		if ended(r.shell.Process.Pid) || time.Now().After(deadline) {
			r.explain(t)
			t.Fatalf("%s: failed, or not done within %s:\n%s\nsaid:\n%s", where, blockPatience, text, r.said(from))
		}
	}
	t.Logf("%s:\n%s", where, r.said(from))
}

// ended tells whether a child that nobody has waited for is a zombie.
func ended(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return strings.HasPrefix(rest, "Z")
}

// said is what the shell's commands have printed.
func (r *reader) said(from int64) string {
	text, err := os.ReadFile(r.log.Name())
	if err != nil {
		return err.Error()
	}
	return string(text[min(from, int64(len(text))):])
}

// bringFlux has Flux work in the cluster, and an empty repository and a clone of it.
func (r *reader) bringFlux(t *testing.T) {
	t.Helper()
	ctx := context.Background()
	k := &kubectl.Client{Path: filepath.Join(r.work, "bin", "kubectl"), Kubeconfig: r.cluster.Kubeconfig(), CacheDir: r.work}
	program, err := flux.Build(ctx, testWriter{t})
	if err != nil {
		t.Fatal(err)
	}
	definitions, err := flux.Definitions(ctx, r.root)
	if err != nil {
		t.Fatal(err)
	}
	namespace := "apiVersion: v1\nkind: Namespace\nmetadata: {name: " + flux.Namespace + "}\n---\n"
	if err := k.Apply(ctx, append([]byte(namespace), definitions...)); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Run(ctx, "wait", "--for=condition=Established", "--timeout=60s",
		"crd/gitrepositories.source.toolkit.fluxcd.io", "crd/kustomizations.kustomize.toolkit.fluxcd.io"); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(r.work, "flux")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if r.repo, err = flux.NewRepository(ctx, dir); err != nil {
		t.Fatal(err)
	}
	stopped := func(stop func() error) func() {
		return func() {
			if err := stop(); err != nil && !errors.Is(err, context.Canceled) {
				t.Log(err) // the cluster may go before it
			}
		}
	}
	t.Cleanup(stopped(r.repo.Stop))
	config, err := clientcmd.BuildConfigFromFlags("", r.cluster.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New(config, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	source, err := flux.StartSource(ctx, c, dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stopped(source.Stop))
	if r.fluxLog, err = os.Create(filepath.Join(dir, "kustomize-controller.log")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stopped(r.fluxLog.Close))
	controller, err := flux.StartController(ctx, program, r.cluster.Kubeconfig(), dir, r.fluxLog)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stopped(controller.Stop))
	r.typeIn(t, "before Git", fmt.Sprintf("export GIT_URL='%s' CLONE='%s'\n", r.repo.URL, r.repo.Dir))
}

// explain prints what helps to understand a failure.
func (r *reader) explain(t *testing.T) {
	k := &kubectl.Client{Path: filepath.Join(r.work, "bin", "kubectl"), Kubeconfig: r.cluster.Kubeconfig(), CacheDir: r.work}
	for _, args := range [][]string{
		{"get", "koinodes,koiedges,pods", "-A", "-o", "wide"},
		{"get", "events", "-n", "koi-net"},
		{"logs", "-n", "koi-net", "deployment/coordinator", "--tail=50"},
	} {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		out, err := k.Run(ctx, args...)
		cancel()
		t.Logf("kubectl %s (%v):\n%s", strings.Join(args, " "), err, out)
	}
	logs := []string{filepath.Join(r.root, "gauge", "gauge.log")}
	if r.fluxLog != nil {
		logs = append(logs, r.fluxLog.Name())
	}
	for _, path := range logs {
		if text, err := os.ReadFile(path); err == nil {
			t.Logf("%s:\n%s", path, text[max(0, len(text)-10_000):])
		}
	}
}

// close ends the shell with all it started, and takes down what a tutorial that failed
// has left.
func (r *reader) close(t *testing.T) {
	if err := r.stdin.Close(); err != nil {
		t.Log(err)
	}
	endSession(r.shell.Process.Pid)
	if err := r.shell.Wait(); err != nil && !t.Failed() {
		t.Errorf("the shell ended: %v", err)
	}
	if err := os.RemoveAll(filepath.Join(r.root, "gauge")); err != nil {
		t.Error(err)
	}
	cmd := exec.CommandContext(context.Background(), "go", "run", "./hack/cluster", "down")
	cmd.Dir = r.root
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("take the cluster down: %v\n%s", err, out)
	}
	if err := r.log.Close(); err != nil {
		t.Error(err)
	}
}

// endSession kills what is left of a shell's session, the shell apart: it is at its end.
func endSession(session int) {
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		var state string
		var parent, group, of, pid int
		_, rest, _ := strings.Cut(string(text), ") ")
		if _, err := fmt.Sscan(rest, &state, &parent, &group, &of); err != nil || of != session {
			continue
		}
		if _, err := fmt.Sscan(filepath.Base(filepath.Dir(file)), &pid); err == nil && pid != session {
			_ = syscall.Kill(pid, syscall.SIGKILL) // gone already is as good
		}
	}
}
