//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/koi-net/koi-operator/hack/charts/helm"
	"github.com/koi-net/koi-operator/hack/up/deploy"
)

// What the releases are called, and where the net of the charts is.
const (
	operatorRelease    = "koi-operator"
	coordinatorRelease = "hub"
	chartNamespace     = "koi-charts"
)

// newField is one of the KoiNode's, by its path in the schema below the spec, that
// the older chart's definitions lack. No rule of them names it.
var newField = []string{"properties", "service", "properties", "annotations"}

// net are the values of the net: a coordinator, two nodes, an edge.
const net = `
coordinator:
  storage: {size: 64Mi}
  networkPolicy: {enabled: true}
nodes:
- {name: source, spec: {provides: {event: [orn:test.note], state: [orn:test.note]}, storage: {size: 64Mi}}}
- {name: target, spec: {nodeType: Partial, interests: ["orn:koi-net.node"], storage: {ephemeral: true, size: 64Mi}}}
edges:
- {name: source-to-target, spec: {source: {nodeRef: {name: source}}, target: {nodeRef: {name: target}}, ridTypes: [orn:test.note]}}
`

// charts are packages of both charts, in two versions, away from the repository.
type charts struct {
	*suite
	helm   *helm.Client
	older  map[string]string // package by chart, in Helm's working directory
	newer  map[string]string
	images []string // arguments that have the operator's release run what make up runs
	tester []string // and that have helm test run it
}

// helmCharts installs by Helm what kubectl installed before, and goes through the
// life of the releases.
func helmCharts(t *testing.T, s *suite) {
	// What other steps left, or were not run to delete: its definitions are to go.
	if _, err := s.kubectl.Run(t.Context(), "delete", "koiedges,koinodes", "--all", "--all-namespaces", "--timeout=1m"); err != nil {
		t.Fatal(err)
	}
	s.k(t, "delete", "namespace", deploy.Namespace, "--ignore-not-found", "--wait=false")
	s.waitGone(t, "namespace", deploy.Namespace)
	c := packCharts(t, s)
	for _, step := range []struct {
		name string
		run  func(*testing.T, *charts)
	}{
		{"a release takes over what kubectl installed", takeOver},
		{"uninstall keeps the definitions", uninstallKeepsDefinitions},
		{"a coordinator without an operator is refused", coordinatorRefused},
		{"one command installs the operator, one a net", installNet},
		{"helm test passes and leaves nothing", testPasses},
		{"an upgrade brings new definitions and restarts nothing", upgradeDefinitions},
		{"the same upgrade again changes nothing", resync},
		{"helm test fails where the coordinator does not answer, and a rollback brings it back", testFails},
		{"a rollback takes the definitions back and restarts nothing", rollBack},
		{"nodes outlive the operator's release; it takes them up again, with rights in their namespace alone", operatorComesAndGoes},
		{"uninstalling the net keeps data and identity", uninstallNet},
	} {
		if !t.Run(step.name, func(t *testing.T) { step.run(t, c) }) {
			c.describe(t)
			t.FailNow()
		}
	}
}

func packCharts(t *testing.T, s *suite) *charts {
	t.Helper()
	program, err := helm.Build(t.Context(), os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	away := t.TempDir()
	c := &charts{
		suite: s, older: map[string]string{}, newer: map[string]string{},
		helm: &helm.Client{Path: program, Home: filepath.Join(away, "home"), Dir: away, Kubeconfig: s.kubectl.Kubeconfig},
	}
	if err := os.WriteFile(filepath.Join(away, "net.yaml"), []byte(net), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"koi-operator", "koi-coordinator"} {
		source := filepath.Join(away, "source", name)
		if err := os.CopyFS(source, os.DirFS(filepath.Join(s.root, "charts", name))); err != nil {
			t.Fatal(err)
		}
		lower, version := patches(t, source)
		pack := func(version string) string {
			c.run(t, "package", source, "--version", version)
			return name + "-" + version + ".tgz"
		}
		c.newer[name] = pack(version)
		if name == "koi-operator" {
			withoutField(t, filepath.Join(source, "files", "crds", "koinodes.yaml"))
		}
		c.older[name] = pack(lower)
	}
	if err := os.RemoveAll(filepath.Join(away, "source")); err != nil {
		t.Fatal(err)
	}
	c.findImages(t)
	return c
}

// patches returns the chart's version and the patch below; for a .0, which has
// none, the next patch stands for the version.
func patches(t *testing.T, chart string) (lower, version string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(chart, "Chart.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var v struct{ Version string }
	if err := yaml.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	var major, minor, patch int
	if _, err := fmt.Sscanf(v.Version, "%d.%d.%d", &major, &minor, &patch); err != nil {
		t.Fatalf("version %q: %v", v.Version, err)
	}
	patch = max(patch, 1)
	return fmt.Sprintf("%d.%d.%d", major, minor, patch-1), fmt.Sprintf("%d.%d.%d", major, minor, patch)
}

// withoutField takes newField out of a definition.
func withoutField(t *testing.T, file string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var crd map[string]any
	if err := yaml.Unmarshal(text, &crd); err != nil {
		t.Fatal(err)
	}
	at := crd["spec"].(map[string]any)["versions"].([]any)[0].(map[string]any)["schema"]
	last := len(newField) - 1
	for _, key := range slices.Concat([]string{"openAPIV3Schema", "properties", "spec"}, newField[:last]) {
		at = at.(map[string]any)[key]
	}
	fields := at.(map[string]any)
	if fields[newField[last]] == nil {
		t.Fatalf("%s has no field %v to leave out", file, newField)
	}
	delete(fields, newField[last])
	if text, err = yaml.Marshal(crd); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// findImages looks up what make up runs.
func (c *charts) findImages(t *testing.T) {
	t.Helper()
	out := c.k(t, "get", "deployment", deploy.Operator, "-n", deploy.SystemNamespace, "-o",
		`jsonpath={.spec.template.spec.containers[0].image} {.spec.template.spec.containers[0].env[?(@.name=="KOI_NODE_IMAGE")].value}`)
	references := strings.Fields(out)
	if len(references) != 2 {
		t.Fatalf("images of the operator's Deployment: %q", out)
	}
	set := func(value, reference string) []string {
		cut := strings.LastIndex(reference, ":")
		return []string{"--set", value + ".repository=" + reference[:cut], "--set-string", value + ".tag=" + reference[cut+1:]}
	}
	c.images = append(set("image", references[0]), set("nodeImage", references[1])...)
	c.tester = set("test.image", references[1])
}

func (c *charts) run(t *testing.T, args ...string) string {
	t.Helper()
	out, err := c.try(args...)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return out
}

func (c *charts) try(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience+deletionPatience)
	defer cancel()
	return c.helm.Run(ctx, args...)
}

// operator runs a verb for the operator's release with a package.
func (c *charts) operator(t *testing.T, verb, archive string, args ...string) {
	t.Helper()
	all := append([]string{verb, operatorRelease, archive, "-n", deploy.SystemNamespace, "--wait", "--timeout=2m"}, c.images...)
	c.run(t, append(all, args...)...)
}

// net is the like for that of the net.
func (c *charts) net(verb, archive string, args ...string) (string, error) {
	all := []string{verb, coordinatorRelease, archive, "-n", chartNamespace, "--wait", "--timeout=2m", "--values", "net.yaml"}
	all = append(all, c.tester...)
	return c.try(append(all, args...)...)
}

func (c *charts) mustNet(t *testing.T, verb, archive string, args ...string) {
	t.Helper()
	if out, err := c.net(verb, archive, args...); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// uids are those of the objects that the arguments of kubectl get name.
func (c *charts) uids(t *testing.T, args ...string) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, o := range c.list(t, args...) {
		out[o.Kind+" "+o.Metadata.Name] = o.Metadata.UID
	}
	if len(out) == 0 {
		t.Fatalf("kubectl get %v finds nothing", args)
	}
	return out
}

var definitions = []string{"crd", "koinodes.koi-net.io", "koiedges.koi-net.io"}

// pods are the nodes' by name, with their identity and restarts.
func (c *charts) pods(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, p := range c.list(t, "pods", "-n", chartNamespace, "-l", "koi-net.io/node") {
		out[p.Metadata.Name] = fmt.Sprint(p.Metadata.UID, p.Status.ContainerStatuses)
	}
	if len(out) != 3 {
		t.Fatalf("%d pods of nodes, want 3: %v", len(out), out)
	}
	return out
}

func (c *charts) unharmed(t *testing.T, before map[string]string) {
	t.Helper()
	if after := c.pods(t); !maps.Equal(before, after) {
		t.Errorf("pods were %v, are %v", before, after)
	}
}

func (c *charts) knows(t *testing.T, want bool) {
	t.Helper()
	out := c.k(t, "get", "crd", "koinodes.koi-net.io", "-o", "jsonpath={.spec.versions[0].schema.openAPIV3Schema.properties.spec."+strings.Join(newField, ".")+".type}")
	if got := out != ""; got != want {
		t.Errorf("the definition knows %v: %v, want %v", newField, got, want)
	}
}

// allReady waits until the net stands: three nodes, an edge each way between the
// coordinator and each of the others, and the one of the values, which both its
// nodes count.
func (c *charts) allReady(t *testing.T) {
	t.Helper()
	eventually(t, "the net of the chart is ready", patience, func() (bool, string) {
		ready, ends := 0, 0
		for _, o := range c.list(t, "koinodes,koiedges", "-n", chartNamespace) {
			if o.ready() {
				ready++
			}
			ends += o.Status.Edges.Approved
		}
		return ready == 3+5 && ends == 2*5, fmt.Sprintf("%d ready, %d ends of edges", ready, ends)
	})
}

func takeOver(t *testing.T, c *charts) {
	before := c.uids(t, definitions...)
	deployment := c.uids(t, "deployments", "-n", deploy.SystemNamespace)
	c.operator(t, "install", c.newer["koi-operator"], "--take-ownership", "--force-conflicts")
	if after := c.uids(t, definitions...); !maps.Equal(before, after) {
		t.Errorf("definitions were %v, are %v", before, after)
	}
	if after := c.uids(t, "deployments", "-n", deploy.SystemNamespace); !maps.Equal(deployment, after) {
		t.Errorf("deployments were %v, are %v", deployment, after)
	}
}

func uninstallKeepsDefinitions(t *testing.T, c *charts) {
	before := c.uids(t, definitions...)
	c.run(t, "uninstall", operatorRelease, "-n", deploy.SystemNamespace, "--wait")
	if after := c.uids(t, definitions...); !maps.Equal(before, after) {
		t.Errorf("definitions were %v, are %v", before, after)
	}
	left := c.list(t, "deployments,serviceaccounts,roles,rolebindings,services", "-n", deploy.SystemNamespace, "-l", "app.kubernetes.io/name=koi-operator")
	left = append(left, c.list(t, "clusterroles,clusterrolebindings,validatingadmissionpolicies,validatingadmissionpolicybindings", "-l", "app.kubernetes.io/name=koi-operator")...)
	for _, o := range left {
		t.Errorf("%s %s is left", o.Kind, o.Metadata.Name)
	}
	// From here on as on a cluster that never had an operator.
	c.k(t, "delete", "crd", "koinodes.koi-net.io", "koiedges.koi-net.io")
}

func coordinatorRefused(t *testing.T, c *charts) {
	// Restricted, as the pods of nodes and of the test have to be.
	manifest := "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: " + chartNamespace + "\n  labels: {pod-security.kubernetes.io/enforce: restricted}\n"
	if err := c.kubectl.Apply(t.Context(), []byte(manifest)); err != nil {
		t.Fatal(err)
	}
	if out, err := c.net("install", c.newer["koi-coordinator"]); err == nil || !strings.Contains(err.Error(), "helm install koi-operator") {
		t.Errorf("error %v, want one that says what to install first\n%s", err, out)
	}
}

func installNet(t *testing.T, c *charts) {
	c.operator(t, "install", c.older["koi-operator"])
	c.knows(t, false)
	c.mustNet(t, "install", c.older["koi-coordinator"])
	// helm install --wait means what it says: all of it was ready, the edge approved.
	for _, o := range c.list(t, "koinodes,koiedges", "-n", chartNamespace, "-l", "app.kubernetes.io/instance="+coordinatorRelease) {
		if !o.ready() {
			t.Errorf("after helm install --wait, %s %s: %+v", o.Kind, o.Metadata.Name, o.Status.Conditions)
		}
	}
	c.allReady(t)
	var e object
	if err := json.Unmarshal([]byte(c.k(t, "get", "koiedge", "source-to-target", "-n", chartNamespace, "-o", "json")), &e); err != nil || e.Status.Status != "Approved" {
		t.Errorf("the first edge is %q, %v", e.Status.Status, err)
	}
}

func testPasses(t *testing.T, c *charts) {
	out := c.run(t, "test", coordinatorRelease, "-n", chartNamespace, "--logs")
	if !strings.Contains(out, "FULL, coordinator") {
		t.Errorf("the test's log does not show a coordinator:\n%s", out)
	}
	for _, o := range c.list(t, "pods,services,networkpolicies", "-n", chartNamespace) {
		if strings.HasSuffix(o.Metadata.Name, "-helm-test") {
			t.Errorf("%s %s is left of the test", o.Kind, o.Metadata.Name)
		}
	}
}

func upgradeDefinitions(t *testing.T, c *charts) {
	before := c.pods(t)
	operator := c.uids(t, "pods", "-n", deploy.SystemNamespace)
	c.operator(t, "upgrade", c.newer["koi-operator"])
	c.knows(t, true)
	c.mustNet(t, "upgrade", c.newer["koi-coordinator"])
	c.unharmed(t, before)
	if after := c.uids(t, "pods", "-n", deploy.SystemNamespace); !maps.Equal(operator, after) {
		t.Errorf("an upgrade to the same image restarted the operator: %v, then %v", operator, after)
	}
}

// versions are what identifies the state of every object of the releases, and of
// what the operator made for them.
func (c *charts) versions(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, args := range [][]string{
		{"crd,clusterroles,clusterrolebindings,validatingadmissionpolicies,validatingadmissionpolicybindings", "-l", "app.kubernetes.io/instance=" + operatorRelease},
		{"deployments,serviceaccounts,roles,rolebindings,pods", "-n", deploy.SystemNamespace},
		{"koinodes,koiedges,deployments,services,configmaps,serviceaccounts,persistentvolumeclaims,networkpolicies,pods", "-n", chartNamespace},
	} {
		for _, o := range c.list(t, args...) {
			out[o.Kind+" "+o.Metadata.Name] = o.Metadata.UID + " " + o.Metadata.ResourceVersion
		}
	}
	return out
}

func resync(t *testing.T, c *charts) {
	c.allReady(t)
	var before map[string]string
	eventually(t, "the net rests", patience, func() (bool, string) {
		last := before
		before = c.versions(t)
		return maps.Equal(last, before), "it still changes"
	})
	pods := c.pods(t)
	c.operator(t, "upgrade", c.newer["koi-operator"])
	c.mustNet(t, "upgrade", c.newer["koi-coordinator"])
	after := c.versions(t)
	for key := range after {
		if before[key] != after[key] {
			t.Errorf("%s changed: %q, then %q", key, before[key], after[key])
		}
	}
	if len(after) != len(before) || len(after) < 25 {
		t.Errorf("%d objects, then %d", len(before), len(after))
	}
	c.unharmed(t, pods)
}

func testFails(t *testing.T, c *charts) {
	c.mustNet(t, "upgrade", c.newer["koi-coordinator"], "--set", "coordinator.suspend=true", "--set", "test.timeoutSeconds=5")
	eventually(t, "the coordinator rests", patience, func() (bool, string) {
		pods := c.list(t, "pods", "-n", chartNamespace, "-l", "koi-net.io/node="+coordinatorRelease)
		return len(pods) == 0, fmt.Sprint(len(pods), " pods")
	})
	if out, err := c.try("test", coordinatorRelease, "-n", chartNamespace, "--timeout=1m"); err == nil {
		t.Errorf("helm test passes without a coordinator:\n%s", out)
	}
	c.k(t, "delete", "pod", coordinatorRelease+"-helm-test", "-n", chartNamespace, "--ignore-not-found", "--wait=false")
	c.run(t, "rollback", coordinatorRelease, "-n", chartNamespace, "--wait", "--timeout=2m")
	c.allReady(t)
}

func rollBack(t *testing.T, c *charts) {
	before := c.pods(t)
	c.run(t, "rollback", operatorRelease, "1", "-n", deploy.SystemNamespace, "--wait", "--timeout=2m")
	c.knows(t, false)
	c.run(t, "rollback", operatorRelease, "2", "-n", deploy.SystemNamespace, "--wait", "--timeout=2m")
	c.knows(t, true)
	c.unharmed(t, before)
}

func operatorComesAndGoes(t *testing.T, c *charts) {
	pods := c.pods(t)
	objects := []string{"koinodes,koiedges", "-n", chartNamespace}
	before := c.uids(t, objects...)
	c.run(t, "uninstall", operatorRelease, "-n", deploy.SystemNamespace, "--wait")
	if after := c.uids(t, objects...); !maps.Equal(before, after) {
		t.Errorf("without an operator there are %v, were %v", after, before)
	}
	// Back with rights in this namespace alone, it does its work.
	c.operator(t, "install", c.newer["koi-operator"], "--set", "watchNamespaces={"+chartNamespace+"}")
	if bound := c.list(t, "clusterrolebindings", "-l", "app.kubernetes.io/instance="+operatorRelease); len(bound) != 0 {
		t.Errorf("with namespaces given, the operator has %d ClusterRoleBindings", len(bound))
	}
	c.unharmed(t, pods)
	const asked = "koi-net.io/reconcile-requested-at"
	c.k(t, "annotate", "koinode", coordinatorRelease, "-n", chartNamespace, asked+"=again")
	eventually(t, "the operator looks at the coordinator", patience, func() (bool, string) {
		out := c.k(t, "get", "koinode", coordinatorRelease, "-n", chartNamespace, "-o", "jsonpath={.status.lastHandledReconcileAt}")
		return out == "again", out
	})
	c.allReady(t)
}

func uninstallNet(t *testing.T, c *charts) {
	c.run(t, "uninstall", coordinatorRelease, "-n", chartNamespace, "--wait", "--timeout=1m")
	eventually(t, "the net is gone", deletionPatience, func() (bool, string) {
		left := c.list(t, "koinodes,koiedges,deployments", "-n", chartNamespace)
		return len(left) == 0, fmt.Sprintf("%d objects", len(left))
	})
	kept := c.uids(t, "secrets,persistentvolumeclaims", "-n", chartNamespace, "-l", "koi-net.io/node="+coordinatorRelease)
	for _, want := range []string{"Secret " + coordinatorRelease + "-identity", "PersistentVolumeClaim " + coordinatorRelease + "-data"} {
		if kept[want] == "" {
			t.Errorf("%s is gone", want)
		}
	}
	c.k(t, "delete", "namespace", chartNamespace, "--wait=false")
	c.waitGone(t, "namespace", chartNamespace)
}

// describe prints what helps to understand a failure.
func (c *charts) describe(t *testing.T) {
	for _, args := range [][]string{
		{"get", "koinodes,koiedges,pods,services", "-n", chartNamespace, "-o", "wide"},
		{"get", "events", "-n", chartNamespace},
		{"get", "all", "-n", deploy.SystemNamespace},
	} {
		out, err := c.kubectl.Run(context.Background(), args...)
		t.Logf("kubectl %s (%v):\n%s", strings.Join(args, " "), err, out)
	}
}
