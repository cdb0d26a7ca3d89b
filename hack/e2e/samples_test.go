//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/koi-net/koi-operator/hack/docs"
	"github.com/koi-net/koi-operator/hack/up/deploy"
)

// hardenedNamespace is that of config/samples/hardened.yaml.
const hardenedNamespace = "koi-hardened"

// friend is a node beside the hardened one.
const friend = `
apiVersion: koi-net.io/v1alpha1
kind: KoiNode
metadata: {name: friend}
spec:
  firstContact: {nodeRef: {name: keep}}
  storage: {ephemeral: true, size: 64Mi}
`

// samplesStand applies the samples that neither make up nor the tutorial does.
func samplesStand(t *testing.T, s *suite) {
	alone := []string{"processor", "external-python", "ingress", "archive-suspended"}
	file := func(name string) string { return filepath.Join(s.root, "config", "samples", name+".yaml") }
	for _, name := range alone {
		s.k(t, "apply", "-f", file(name))
	}
	s.k(t, "apply", "-n", hardenedNamespace, "-f", file("hardened"))

	s.waitReady(t, "koinode", "processor")
	e := object{}
	eventually(t, "the processor subscribes to the sensor", patience, func() (bool, string) {
		found, ok := s.edgeBetween(t, "sensor", "processor")
		e = found
		return ok && e.ready() && e.Status.Status == "Approved", fmt.Sprintf("%+v", e.Status)
	})
	if got := s.waitReady(t, "koinode", "desk").condition("Ready"); got != "True/External" {
		t.Errorf("the external node is %s", got)
	}
	eventually(t, "the edge to the external node waits for it", patience, func() (bool, string) {
		got := s.get(t, "koiedge", "sensor-to-desk").condition("Reconciling")
		return got == "True/AwaitingProposal", got
	})
	s.waitReady(t, "koinode", "gate")
	if out := s.k(t, "get", "ingress", "gate", "-o", "jsonpath={.spec.rules[0].http.paths[0].backend.service.name}"); out != "gate" {
		t.Errorf("the Ingress leads to %q", out)
	}
	eventually(t, "the archive rests", patience, func() (bool, string) {
		got := s.get(t, "koinode", "archive").condition("Suspended")
		return got == "True/Suspended" && len(s.list(t, "pods", "-l", "koi-net.io/node=archive")) == 0, got
	})

	hardened(t, s)

	for _, name := range alone {
		s.k(t, "delete", "-f", file(name), "--wait=false")
	}
	for _, node := range []string{"processor", "desk", "gate", "archive"} {
		s.waitGone(t, "koinode", node)
	}
	s.waitGone(t, "koiedge", "sensor-to-desk")
	s.k(t, "delete", "namespace", hardenedNamespace, "--wait=false")
	s.waitGone(t, "namespace", hardenedNamespace)
}

// hardened sees that the hardened sample runs in a restricted namespace, that its
// neighbours reach it, and that others do not.
func hardened(t *testing.T, s *suite) {
	if out := s.k(t, "get", "namespace", hardenedNamespace, "-o", "jsonpath={.metadata.labels}"); !strings.Contains(out, `"pod-security.kubernetes.io/enforce":"restricted"`) {
		t.Errorf("the namespace does not enforce the restricted standard: %s", out)
	}
	if err := s.kubectl.Apply(t.Context(), []byte(friend), "-n", hardenedNamespace); err != nil {
		t.Fatal(err)
	}
	s.k(t, "wait", "-n", hardenedNamespace, "koinode/keep", "koinode/friend", "--for=condition=Ready", "--timeout=2m")
	s.k(t, "wait", "-n", hardenedNamespace, "koinode/friend", "--for=condition=FirstContactReached", "--timeout=1m")
	url := s.k(t, "get", "koinode", "keep", "-n", hardenedNamespace, "-o", "jsonpath={.status.baseURL}")
	if out, err := s.koi("coordinator", "", "nodes", "add", url, "--timeout", "5s"); err == nil {
		t.Errorf("a node of another namespace reaches the hardened one: %s", out)
	}
}

// installerApplies sees that make installer writes what runs here.
func installerApplies(t *testing.T, s *suite) {
	container := "jsonpath={.spec.template.spec.containers[0]"
	get := []string{"get", "deployment", deploy.Operator, "-n", deploy.SystemNamespace, "-o"}
	cmd := exec.CommandContext(t.Context(), "make", "--no-print-directory", "installer",
		"IMG="+s.k(t, append(get, container+".image}")...),
		"NODE_IMG="+s.k(t, append(get, container+`.env[?(@.name=="KOI_NODE_IMAGE")].value}`)...))
	cmd.Dir = s.root
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("make installer: %v\n%s", err, out)
	}
	generation := append(get, "jsonpath={.metadata.uid} {.metadata.generation}")
	before := s.k(t, generation...)
	if _, err := s.kubectl.Run(t.Context(), "apply", "--server-side", "--field-manager=koi-up", "-f", filepath.Join(s.root, "dist", "install.yaml")); err != nil {
		t.Fatal(err)
	}
	if after := s.k(t, generation...); after != before {
		t.Errorf("the operator's Deployment was %s, is %s", before, after)
	}
}

// pythonMoves goes through the part of docs/operating.md that takes a node of the
// Python library into the cluster, with one that was made by the library.
func pythonMoves(t *testing.T, s *suite) {
	text, err := os.ReadFile(filepath.Join(s.root, "docs", "operating.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, part, ok := strings.Cut(string(text), "## Move a Python net into the cluster")
	if !ok {
		t.Fatal("docs/operating.md has no such part")
	}
	dir := t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "notes"), os.DirFS(filepath.Join(s.root, "node", "transfer", "testdata", "2.1.2"))); err != nil {
		t.Fatal(err)
	}
	kubeconfig, err := os.ReadFile(s.kubectl.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(dir, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "kubeconfig"), kubeconfig, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(s.kubectl.Path, filepath.Join(bin, "kubectl")); err != nil {
		t.Fatal(err)
	}
	build := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "./cmd/koi-node")
	build.Dir = s.root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	bash := func(script string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "bash", "-e", "-u", "-o", "pipefail", "-c", script)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "KUBECONFIG="+filepath.Join(dir, "kubeconfig"),
			"KUBECACHEDIR="+dir, "PRIV_KEY_PASSWORD=reflab-password") // as golden.py made the key
		var out, said bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &said
		if err := cmd.Run(); err != nil {
			t.Fatalf("%s: %v\n%s%s", script, err, out.String(), said.String())
		}
		return out.String()
	}
	bash("kubectl config set-context --current --namespace=" + deploy.Namespace)
	last := ""
	for _, b := range docs.Blocks(part) {
		switch b.Language {
		case "yaml":
			err = os.WriteFile(filepath.Join(dir, "notes.yaml"), []byte(b.Text), 0o600)
		case "json":
			err = os.WriteFile(filepath.Join(dir, "restore.json"), []byte(b.Text), 0o600)
		case "sh":
			last = bash(b.Text)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	const was = "orn:koi-net.node:notes+0f9c485dbe561038eb3487ba9d4e16181d3c511c39b4e349b70edaa4ddd13f73"
	if got := s.get(t, "koinode", "notes"); got.Status.RID != was {
		t.Errorf("the node is %s, was %s", got.Status.RID, was)
	}
	if held := strings.Count(last, "orn:example.note:"); held != 5 {
		t.Errorf("it holds %d notes, had 5:\n%s", held, last)
	}
	// What the same document says of a backup, of this node.
	_, part, ok = strings.Cut(string(text), "## Backup")
	part, _, end := strings.Cut(part, "\n## ")
	if !ok || !end {
		t.Fatal("docs/operating.md has no part about backups")
	}
	tried := 0
	for _, b := range docs.Blocks(part) {
		for _, c := range b.Commands() {
			tried++
			bash(regexp.MustCompile(`\bN\b`).ReplaceAllString(c, "notes"))
		}
	}
	if tried < 3 {
		t.Errorf("found %d commands about backups only", tried)
	}
	s.k(t, "delete", "koinode", "notes", "--wait=false")
	s.waitGone(t, "koinode", "notes")
	s.k(t, "delete", "secret/notes-identity", "pvc/notes-data", "--wait=false")
}
