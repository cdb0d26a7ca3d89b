//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/koi-net/koi-operator/hack/cluster/assets"
	"github.com/koi-net/koi-operator/hack/cluster/local"
	"github.com/koi-net/koi-operator/hack/up/deploy"
	"github.com/koi-net/koi-operator/hack/up/feed"
	"github.com/koi-net/koi-operator/hack/up/kubectl"
)

// patience bounds every wait; deletion has a promise of its own.
const (
	patience         = 2 * time.Minute
	deletionPatience = time.Minute
)

// suite is the net under test and the means to look at it.
type suite struct {
	root    string
	kubectl *kubectl.Client
	commits []feed.Commit
}

// TestKOINet goes through a net's life in order: each step builds on the ones before.
func TestKOINet(t *testing.T) {
	if err := local.Possible(); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("no cluster is possible here, and in CI this test has to run: %v", err)
		}
		t.Skipf("SKIPPED, NOT PASSED: no cluster is possible on this machine: %v", err)
	}
	s := begin(t)
	for _, step := range []struct {
		name string
		run  func(*testing.T, *suite)
	}{
		{"every node is ready and every edge approved at both ends", allApproved},
		{"kubectl get and explain answer", kubectlAnswers},
		{"the reader holds every commit", everyCommit},
		{"up at once again changes nothing", unchangedByUp},
		{"changes and FORGETs travel", changesTravel},
		{"pods run restricted", podsRestricted},
		{"a killed node returns with cache and identity", killedNodeReturns},
		{"a killed process returns with all it accepted", killedProcessReturns},
		{"what came while a node was away arrives", awayNodeCatchesUp},
		{"the operator's absence and return restart no node", operatorAbsence},
		{"drift is undone", driftUndone},
		// Before anything is rejected: a rejected target asks once more after a while, and that shows.
		{"up again changes nothing", upAgain},
		{"a person approves and rejects", manualApproval},
		{"a node that runs elsewhere is met and subscribed to", externalNode},
		{"a suspended node rests and resumes", suspendAndResume},
		{"kubectl koi shows, asks and gathers", pluginWorks},
		{"a store is backed up and restored", backedUpAndRestored},
		{"the other samples become what they say", samplesStand},
		{"install.yaml is what runs", installerApplies},
		{"a node of the Python library moves in", pythonMoves},
		// Its fields are Flux's from then on.
		{"a net lives by commits alone", gitFollowed},
		{"deletion leaves what is to be kept, and nothing else", deletion},
		// Last: it takes the operator that kubectl installed away.
		{"what Helm makes of the charts", helmCharts},
	} {
		if !t.Run(step.name, func(t *testing.T) { step.run(t, s) }) {
			t.FailNow() // the later steps build on this one
		}
	}
}

// begin brings the net up with the command people use, and has it taken down at the end.
func begin(t *testing.T) *suite {
	t.Helper()
	root, err := assets.Root()
	if err != nil {
		t.Fatal(err)
	}
	commits, err := feed.Commits(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	cluster, err := local.New(io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	status, err := cluster.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if status.Exists {
		if os.Getenv("CI") == "" {
			t.Fatalf("a local cluster is there already (%s): this test needs the machine's only one. Run make down first", cluster.Run)
		}
		run(t, root, "down")
	}
	s := &suite{root: root, commits: commits}
	t.Cleanup(func() {
		if t.Failed() {
			s.diagnose(t)
		}
		run(t, root, "down")
		if left, err := cluster.Status(context.Background()); err != nil || left.Exists {
			t.Errorf("after make down: %+v, %v", left, err)
		}
	})
	run(t, root, "up")
	program, err := cluster.Kubectl(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s.kubectl = &kubectl.Client{Path: program, Kubeconfig: cluster.Kubeconfig(), CacheDir: t.TempDir()}
	return s
}

// run runs what make up and make down run.
func run(t *testing.T, root, verb string) string {
	t.Helper()
	began := time.Now()
	cmd := exec.Command("go", "run", "./hack/up", verb)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CLUSTER=local")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Fatalf("make %s: %v\n%s", verb, err, out.String())
	}
	t.Logf("make %s took %s\n%s", verb, time.Since(began).Round(time.Second/10), out.String())
	return out.String()
}

// k runs kubectl in the namespace of the net.
func (s *suite) k(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	out, err := s.kubectl.Run(ctx, append([]string{"-n", deploy.Namespace}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// apply applies manifests in the namespace of the net.
func (s *suite) apply(t *testing.T, manifests string) {
	t.Helper()
	if err := s.kubectl.Apply(t.Context(), []byte(manifests), "-n", deploy.Namespace); err != nil {
		t.Fatal(err)
	}
}

// koi runs koi-node in a node's container.
func (s *suite) koi(node, stdin string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	prefix := []string{"-n", deploy.Namespace, "exec", "-i", "deployment/" + node, "-c", "node", "--", "/koi-node"}
	out, err := s.kubectl.Pipe(ctx, strings.NewReader(stdin), append(prefix, args...)...)
	return string(out), err
}

func (s *suite) mustKoi(t *testing.T, node, stdin string, args ...string) string {
	t.Helper()
	out, err := s.koi(node, stdin, args...)
	if err != nil {
		t.Fatalf("koi-node %s in %s: %v", strings.Join(args, " "), node, err)
	}
	return out
}

// eventually polls until cond holds.
func eventually(t *testing.T, what string, limit time.Duration, cond func() (ok bool, seen string)) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for {
		ok, seen := cond()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s; last seen: %s", what, limit, seen)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// object is what is read of any Kubernetes object.
type object struct {
	Kind     string
	Metadata struct {
		Name, UID, ResourceVersion string
		Generation                 int64
		Labels                     map[string]string
		DeletionTimestamp          *string
	}
	Spec   map[string]any
	Status struct {
		ObservedGeneration                   int64
		RID, StoreID, Status                 string
		Source, Target, SourceRID, TargetRID string
		ReadyReplicas                        int
		ContainerStatuses                    []struct{ RestartCount int }
		Conditions                           []struct{ Type, Status, Reason, Message string }
		Edges                                struct{ Approved, Proposed int }
	}
}

func (o object) condition(kind string) string {
	for _, c := range o.Status.Conditions {
		if c.Type == kind {
			return c.Status + "/" + c.Reason
		}
	}
	return "none"
}

func (o object) ready() bool {
	return strings.HasPrefix(o.condition("Ready"), "True/") && o.Status.ObservedGeneration == o.Metadata.Generation
}

func (s *suite) list(t *testing.T, args ...string) []object {
	t.Helper()
	var l struct{ Items []object }
	if err := json.Unmarshal([]byte(s.k(t, append([]string{"get", "-o", "json"}, args...)...)), &l); err != nil {
		t.Fatal(err)
	}
	return l.Items
}

func (s *suite) get(t *testing.T, kind, name string) object {
	t.Helper()
	var o object
	if err := json.Unmarshal([]byte(s.k(t, "get", kind, name, "-o", "json")), &o); err != nil {
		t.Fatal(err)
	}
	return o
}

// waitReady waits until the named object is Ready for its present generation.
func (s *suite) waitReady(t *testing.T, kind, name string) object {
	t.Helper()
	var o object
	eventually(t, kind+"/"+name+" ready", patience, func() (bool, string) {
		o = s.get(t, kind, name)
		return o.ready(), fmt.Sprintf("%+v", o.Status.Conditions)
	})
	return o
}

// nodeEdge is an edge as koi-node edges -o json shows it.
type nodeEdge struct{ Source, Target, Status string }

func (s *suite) edgesOf(t *testing.T, node string) map[[2]string]string {
	t.Helper()
	var l struct{ Edges []nodeEdge }
	if err := json.Unmarshal([]byte(s.mustKoi(t, node, "", "edges", "-o", "json")), &l); err != nil {
		t.Fatal(err)
	}
	out := map[[2]string]string{}
	for _, e := range l.Edges {
		out[[2]string{e.Source, e.Target}] = e.Status
	}
	return out
}

// diagnose prints what helps to understand a failure. Secrets are not asked for.
func (s *suite) diagnose(t *testing.T) {
	if s.kubectl == nil {
		return
	}
	for _, args := range [][]string{
		{"get", "koinodes,koiedges,deployments,pods,pvc,services", "-n", deploy.Namespace, "-o", "wide"},
		{"get", "koinodes,koiedges", "-n", deploy.Namespace, "-o", "yaml"},
		{"get", "events", "-A", "--sort-by=.lastTimestamp"},
		{"logs", "-n", deploy.SystemNamespace, "deployment/" + deploy.Operator, "--tail=200"},
		{"logs", "-n", deploy.Namespace, "deployment/coordinator", "--tail=50"},
		{"logs", "-n", deploy.Namespace, "deployment/sensor", "--tail=50"},
		{"logs", "-n", deploy.Namespace, "deployment/reader", "--tail=50"},
	} {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		out, err := s.kubectl.Run(ctx, args...)
		cancel()
		t.Logf("kubectl %s (%v):\n%s", strings.Join(args, " "), err, out)
	}
}
