//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
	crlog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/koi-net/koi-operator/hack/flux"
	"github.com/koi-net/koi-operator/hack/up/deploy"
)

// production is the namespace of the net that docs/gitops describes.
const production = "koi-production"

// follower is a repository laid out as docs/gitops, and Flux that follows it.
type follower struct {
	*suite
	repo        *flux.Repository
	definitions []byte
	nodeImage   string
	revision    string
	running     []func() error // what ends it, the last started last
}

// gitFollowed has a net live by commits alone, from its first to its last.
func gitFollowed(t *testing.T, s *suite) {
	f := &follower{suite: s}
	f.start(t)
	for _, step := range []struct {
		name string
		run  func(*testing.T, *follower)
	}{
		{"the layout becomes a net", layoutStands},
		{"a commit adds a node and an edge", commitAdds},
		{"a commit approves an edge that waits", commitApproves},
		{"drift is corrected", driftCorrected},
		{"Flux waits while a node does not start, and fails with one that is broken", healthIsTrue},
		{"a commit removes them, and nothing is left", commitRemoves},
		{"the net goes with its Kustomizations, and the operator stays", netGoes},
	} {
		if !t.Run(step.name, func(t *testing.T) { step.run(t, f) }) {
			t.FailNow()
		}
	}
}

// start makes the repository, and has Flux follow it.
func (f *follower) start(t *testing.T) {
	t.Helper()
	ctx := context.Background() // it ends with the test's cleanup, which the test's own would not see
	dir := t.TempDir()
	program, err := flux.Build(ctx, testWriter{t})
	if err != nil {
		t.Fatal(err)
	}
	if f.definitions, err = flux.Definitions(ctx, f.root); err != nil {
		t.Fatal(err)
	}
	if f.repo, err = flux.NewRepository(ctx, dir); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(dir, "kustomize-controller.log"))
	if err != nil {
		t.Fatal(err)
	}
	f.running = []func() error{log.Close, f.repo.Stop}
	t.Cleanup(func() {
		if t.Failed() {
			f.explain(t, log.Name())
		}
		f.halt(t)
	})
	f.layOut(t)

	namespace := "apiVersion: v1\nkind: Namespace\nmetadata: {name: " + flux.Namespace + "}\n---\n"
	if err := f.kubectl.Apply(ctx, append([]byte(namespace), f.definitions...)); err != nil {
		t.Fatal(err)
	}
	f.k(t, "wait", "--for=condition=Established", "--timeout=60s",
		"crd/gitrepositories.source.toolkit.fluxcd.io", "crd/kustomizations.kustomize.toolkit.fluxcd.io")
	crlog.SetLogger(logr.Discard()) // or controller-runtime complains that it has none
	config, err := clientcmd.BuildConfigFromFlags("", f.kubectl.Kubeconfig)
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
	f.running = append(f.running, source.Stop)
	controller, err := flux.StartController(ctx, program, f.kubectl.Kubeconfig, dir, log)
	if err != nil {
		t.Fatal(err)
	}
	f.running = append(f.running, controller.Stop)
}

// halt ends what start started.
func (f *follower) halt(t *testing.T) {
	t.Helper()
	for _, end := range slices.Backward(f.running) {
		if err := end(); err != nil {
			t.Error(err)
		}
	}
	f.running = nil
}

// explain prints what Flux has to say.
func (f *follower) explain(t *testing.T, log string) {
	text, err := os.ReadFile(log)
	t.Logf("kustomize-controller (%v):\n%s", err, text[max(0, len(text)-20_000):])
	for _, args := range [][]string{
		{"get", "gitrepositories,kustomizations", "-n", flux.Namespace, "-o", "yaml"},
		{"get", "koinodes,koiedges,pods", "-n", production, "-o", "wide"},
		{"get", "koinodes,koiedges", "-n", production, "-o", "yaml"},
	} {
		out, err := f.kubectl.Run(context.Background(), args...)
		t.Logf("kubectl %s (%v):\n%s", strings.Join(args, " "), err, out)
	}
}

// layOut fills the checkout: docs/gitops as it is, less the address of the repository,
// and the operator as this cluster has it, where a release's manifests go.
func (f *follower) layOut(t *testing.T) {
	t.Helper()
	if err := os.CopyFS(f.repo.Dir, os.DirFS(filepath.Join(f.root, "docs", "gitops"))); err != nil {
		t.Fatal(err)
	}
	f.edit(t, "flux/production/source.yaml", "https://git.example.org/koi.git", f.repo.URL)
	container := "jsonpath={.spec.template.spec.containers[0]"
	operator := []string{"get", "deployment", deploy.Operator, "-n", deploy.SystemNamespace, "-o"}
	manifests, err := f.kubectl.Run(t.Context(), "kustomize", filepath.Join(f.root, "config", "default"))
	if err != nil {
		t.Fatal(err)
	}
	f.nodeImage = f.k(t, append(operator, container+`.env[?(@.name=="KOI_NODE_IMAGE")].value}`)...)
	manifests, err = deploy.SetImages(manifests, map[string]string{
		"koi-operator": f.k(t, append(operator, container+".image}")...),
		"koi-node":     f.nodeImage,
	})
	if err != nil {
		t.Fatal(err)
	}
	f.write(t, "operator/install.yaml", string(manifests))
}

func (f *follower) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(f.repo.Dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// edit replaces what has to be there once.
func (f *follower) edit(t *testing.T, name, before, after string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(f.repo.Dir, name))
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(text, []byte(before)); n != 1 {
		t.Fatalf("%s has %q %d times", name, before, n)
	}
	f.write(t, name, strings.Replace(string(text), before, after, 1))
}

// add writes a file and lists it in the kustomization beside it.
func (f *follower) add(t *testing.T, name, text string) {
	t.Helper()
	f.write(t, name, text)
	f.edit(t, filepath.Join(filepath.Dir(name), "kustomization.yaml"), "resources:\n", "resources:\n- "+filepath.Base(name)+"\n")
}

// remove takes that back.
func (f *follower) remove(t *testing.T, name string) {
	t.Helper()
	if err := os.Remove(filepath.Join(f.repo.Dir, name)); err != nil {
		t.Fatal(err)
	}
	f.edit(t, filepath.Join(filepath.Dir(name), "kustomization.yaml"), "- "+filepath.Base(name)+"\n", "")
}

// push commits what the checkout has.
func (f *follower) push(t *testing.T, message string) {
	t.Helper()
	commit, err := f.repo.Commit(t.Context(), message)
	if err != nil {
		t.Fatal(err)
	}
	f.revision = flux.Branch + "@sha1:" + commit
}

// commit does so, and has Flux look for it.
func (f *follower) commit(t *testing.T, message string) {
	t.Helper()
	f.push(t, message)
	f.request(t, "gitrepository/koi")
}

// request has Flux look at one of its objects at once.
func (f *follower) request(t *testing.T, object string) string {
	t.Helper()
	at := time.Now().Format(time.RFC3339Nano)
	f.k(t, "annotate", "--overwrite", "-n", flux.Namespace, object, "reconcile.fluxcd.io/requestedAt="+at)
	return at
}

// kustomization is what is read of one.
type kustomization struct {
	object
	Status struct {
		ObservedGeneration                                                 int64
		LastAppliedRevision, LastAttemptedRevision, LastHandledReconcileAt string
		Conditions                                                         []struct{ Type, Status, Reason, Message string }
	}
}

// says returns a condition with its reason, and its message.
func (k kustomization) says(kind string) (verdict, message string) {
	for _, c := range k.Status.Conditions {
		if c.Type == kind {
			return c.Status + "/" + c.Reason, c.Message
		}
	}
	return "none", ""
}

// at says whether all of a revision is applied and healthy.
func (k kustomization) at(revision string) bool {
	verdict, _ := k.says("Ready")
	return strings.HasPrefix(verdict, "True/") && k.Status.LastAppliedRevision == revision && k.Status.ObservedGeneration == k.Metadata.Generation
}

func (f *follower) kustomizations(t *testing.T) map[string]kustomization {
	t.Helper()
	var l struct{ Items []kustomization }
	if err := json.Unmarshal([]byte(f.k(t, "get", "kustomizations.kustomize.toolkit.fluxcd.io", "-n", flux.Namespace, "-o", "json")), &l); err != nil {
		t.Fatal(err)
	}
	out := map[string]kustomization{}
	for _, k := range l.Items {
		out[k.Metadata.Name] = k
	}
	return out
}

// kinds are those of our objects that a Kustomization of the layout applies.
var kinds = map[string]string{"koi-coordinator": "KoiNode", "koi-nodes": "KoiNode", "koi-edges": "KoiEdge"}

// applied waits until every Kustomization is ready with the last commit. Whenever one
// says so, what it applied has to be: it is read after.
func (f *follower) applied(t *testing.T) {
	t.Helper()
	eventually(t, "Flux applied "+f.revision, patience, func() (bool, string) {
		all := f.kustomizations(t)
		objects := f.list(t, "koinodes,koiedges", "-n", production)
		var missing []string
		for _, name := range []string{"koi-operator", "koi-coordinator", "koi-nodes", "koi-edges"} {
			k := all[name]
			if !k.at(f.revision) {
				verdict, message := k.says("Ready")
				missing = append(missing, name+" "+verdict+" "+message)
				continue
			}
			for _, o := range objects {
				if o.Metadata.Labels["kustomize.toolkit.fluxcd.io/name"] == name && o.Kind == kinds[name] && !o.ready() {
					t.Errorf("%s is ready while %s %s is %s", name, o.Kind, o.Metadata.Name, o.condition("Ready"))
				}
			}
		}
		return len(missing) == 0, strings.Join(missing, "; ")
	})
}

// standing waits until an object of the net is Ready with a reason.
func (f *follower) standing(t *testing.T, kind, name, reason string) object {
	t.Helper()
	o := f.of(t, kind, name)
	if !o.ready() || o.condition("Ready") != "True/"+reason {
		t.Errorf("%s %s: %+v, want Ready for %s", kind, name, o.Status.Conditions, reason)
	}
	return o
}

func (f *follower) of(t *testing.T, kind, name string) object {
	t.Helper()
	var o object
	if err := json.Unmarshal([]byte(f.k(t, "get", kind, name, "-n", production, "-o", "json")), &o); err != nil {
		t.Fatal(err)
	}
	return o
}

func layoutStands(t *testing.T, f *follower) {
	before := f.k(t, "get", "deployment", deploy.Operator, "-n", deploy.SystemNamespace, "-o", "jsonpath={.metadata.uid} {.metadata.generation}")
	f.push(t, "A net")
	f.k(t, "apply", "-n", flux.Namespace, "-k", filepath.Join(f.repo.Dir, "flux", "production"))
	f.applied(t)
	f.standing(t, "koinode", "coordinator", "Ready")
	f.standing(t, "koinode", "sensor", "Ready")
	f.standing(t, "koinode", "archive", "Ready")
	f.standing(t, "koiedge", "sensor-to-archive", "Approved")
	if after := f.k(t, "get", "deployment", deploy.Operator, "-n", deploy.SystemNamespace, "-o", "jsonpath={.metadata.uid} {.metadata.generation}"); after != before {
		t.Errorf("the operator's Deployment is %s, was %s: Flux applied what was there", after, before)
	}
}

const weather = `apiVersion: koi-net.io/v1alpha1
kind: KoiNode
metadata:
  name: weather
spec:
  provides:
    event: [orn:example.forecast]
    state: [orn:example.forecast]
  interests: []
  firstContact: {nodeRef: {name: coordinator}}
  storage: {size: 64Mi}
`

const weatherToArchive = `apiVersion: koi-net.io/v1alpha1
kind: KoiEdge
metadata:
  name: weather-to-archive
spec:
  source: {nodeRef: {name: weather}}
  target: {nodeRef: {name: archive}}
  ridTypes: [orn:example.forecast]
`

func commitAdds(t *testing.T, f *follower) {
	f.add(t, "base/nodes/weather.yaml", weather)
	f.add(t, "base/edges/weather-to-archive.yaml", weatherToArchive)
	f.commit(t, "A weather node, and the archive subscribes to it")
	f.applied(t)
	f.standing(t, "koinode", "weather", "Ready")
	f.standing(t, "koiedge", "weather-to-archive", "Approved")
	const forecast = "orn:example.forecast:1"
	exec := func(node, stdin string, args ...string) (string, error) {
		prefix := []string{"-n", production, "exec", "-i", "deployment/" + node, "-c", "node", "--", "/koi-node"}
		out, err := f.kubectl.Pipe(t.Context(), strings.NewReader(stdin), append(prefix, args...)...)
		return string(out), err
	}
	if _, err := exec("weather", `{"sky":"blue"}`, "put", forecast, "-"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the archive has the forecast", patience, func() (bool, string) {
		out, err := exec("archive", "", "get", forecast)
		return err == nil && strings.Contains(out, `"blue"`), fmt.Sprint(out, err)
	})
}

const sensorToWeather = `apiVersion: koi-net.io/v1alpha1
kind: KoiEdge
metadata:
  name: sensor-to-weather
spec:
  source: {nodeRef: {name: sensor}}
  target: {nodeRef: {name: weather}}
  ridTypes: [orn:example.reading]
`

// waits waits until a Kustomization waits for the health of an object that waits for
// a reason itself.
func (f *follower) waits(t *testing.T, name, kind, of, reason string) {
	t.Helper()
	eventually(t, name+" waits for "+of, patience, func() (bool, string) {
		k := f.kustomizations(t)[name]
		if k.at(f.revision) {
			t.Fatalf("%s is ready before %s is", name, of)
		}
		ready, _ := k.says("Ready")
		reconciling, message := k.says("Reconciling")
		out := f.k(t, "get", kind, of, "-n", production, "--ignore-not-found", "-o", `jsonpath={.status.conditions[?(@.type=="Reconciling")].reason}`)
		return out == reason && ready == "Unknown/Progressing" && strings.HasPrefix(reconciling, "True/") && strings.Contains(message, "health"),
			fmt.Sprint(out, " ", ready, " ", reconciling, " ", message)
	})
}

func commitApproves(t *testing.T, f *follower) {
	f.add(t, "base/edges/sensor-to-weather.yaml", sensorToWeather)
	f.commit(t, "The weather node asks for readings")
	f.waits(t, "koi-edges", "koiedge", "sensor-to-weather", "AwaitingApproval")
	if o := f.of(t, "koiedge", "sensor-to-weather"); o.Status.Status != "Proposed" {
		t.Errorf("the edge is %s before it is approved", o.Status.Status)
	}
	f.write(t, "base/edges/sensor-to-weather.yaml", sensorToWeather+"  approval: Approved\n")
	f.commit(t, "Approve it")
	f.applied(t)
	if o := f.standing(t, "koiedge", "sensor-to-weather", "Approved"); o.Status.Status != "Approved" {
		t.Errorf("the edge is %s", o.Status.Status)
	}
}

func driftCorrected(t *testing.T, f *follower) {
	f.k(t, "patch", "koiedge", "sensor-to-archive", "-n", production, "--type=merge", "-p", `{"spec":{"approval":"Rejected"}}`)
	f.k(t, "delete", "koiedge", "weather-to-archive", "-n", production)
	f.k(t, "patch", "koinode", "archive", "-n", production, "--type=merge", "-p", `{"spec":{"firstContact":{"nodeRef":{"name":"nobody"}}}}`)
	f.k(t, "patch", "koinode", "sensor", "-n", production, "--type=merge", "-p", `{"spec":{"upgrade":"Automatic"}}`) // a field that Git leaves out
	asked := map[string]string{}
	for _, name := range []string{"koi-nodes", "koi-edges"} {
		asked[name] = f.request(t, "kustomization/"+name)
	}
	for name, at := range asked {
		eventually(t, name+" is applied again", patience, func() (bool, string) {
			k := f.kustomizations(t)[name]
			verdict, message := k.says("Ready")
			return k.Status.LastHandledReconcileAt == at && k.at(f.revision), verdict + " " + message
		})
	}
	f.standing(t, "koinode", "archive", "Ready")
	f.standing(t, "koiedge", "sensor-to-archive", "Approved")
	f.standing(t, "koiedge", "weather-to-archive", "Approved")
	if got := f.of(t, "koinode", "archive").Spec["firstContact"]; fmt.Sprint(got) != "map[nodeRef:map[name:coordinator]]" {
		t.Errorf("the archive's first contact is %v", got)
	}
	if got, ok := f.of(t, "koinode", "sensor").Spec["upgrade"]; ok {
		t.Errorf("the sensor's upgrade is %v", got)
	}
	if got := f.of(t, "koiedge", "sensor-to-archive").Spec["approval"]; got != "Approved" {
		t.Errorf("the decision is %v", got)
	}
}

func healthIsTrue(t *testing.T, f *follower) {
	const file = "base/nodes/newcomer.yaml"
	newcomer := strings.Replace(weather, "name: weather", "name: newcomer", 1)
	f.add(t, file, newcomer+"  image: example.invalid/koi-net/not-there:1\n")
	f.commit(t, "A node whose image is not there")
	f.waits(t, "koi-nodes", "koinode", "newcomer", "ImagePullFailed")

	f.write(t, file, newcomer+"  security: {allowedPeerCIDRs: [300.0.0.0/8]}\n")
	f.commit(t, "A node that cannot be")
	eventually(t, "koi-nodes fails", patience, func() (bool, string) {
		k := f.kustomizations(t)["koi-nodes"]
		if k.at(f.revision) {
			t.Fatal("koi-nodes is ready with a broken node")
		}
		verdict, message := k.says("Ready")
		return verdict == "False/HealthCheckFailed" && strings.Contains(message, "newcomer") && k.Status.LastAttemptedRevision == f.revision, verdict + " " + message
	})
	if got := f.of(t, "koinode", "newcomer").condition("Stalled"); got != "True/InvalidSpec" {
		t.Errorf("the broken node is stalled: %s", got)
	}
	if verdict, _ := f.kustomizations(t)["koi-edges"].says("Ready"); strings.HasPrefix(verdict, "True/") && f.kustomizations(t)["koi-edges"].at(f.revision) {
		t.Error("koi-edges is ready with this commit, though koi-nodes is not")
	}

	// A node keeps the image it had where its spec names none: so name one that is there.
	f.write(t, file, newcomer+"  image: "+f.nodeImage+"\n")
	f.commit(t, "Mend it")
	f.applied(t)
	f.standing(t, "koinode", "newcomer", "Ready")
}

func commitRemoves(t *testing.T, f *follower) {
	for _, name := range []string{"base/nodes/weather.yaml", "base/nodes/newcomer.yaml", "base/edges/weather-to-archive.yaml", "base/edges/sensor-to-weather.yaml"} {
		f.remove(t, name)
	}
	f.commit(t, "Without weather")
	eventually(t, "they are gone, with all they had but data and identity", deletionPatience, func() (bool, string) {
		var left []string
		for _, o := range f.list(t, "koinodes,koiedges,deployments,services,configmaps,serviceaccounts,pods", "-n", production) {
			if strings.Contains(o.Metadata.Name, "weather") || strings.Contains(o.Metadata.Name, "newcomer") {
				left = append(left, o.Kind+" "+o.Metadata.Name)
			}
		}
		return len(left) == 0, fmt.Sprint(left)
	})
	f.applied(t)
	eventually(t, "the net's other edges are as they were", patience, func() (bool, string) {
		var edges []string
		for _, e := range f.list(t, "koiedges", "-n", production) {
			edges = append(edges, e.Status.Source+">"+e.Status.Target+" "+e.condition("Ready"))
		}
		return slices.Contains(edges, "sensor>archive True/Approved"), fmt.Sprint(edges)
	})
}

func netGoes(t *testing.T, f *follower) {
	f.k(t, "delete", "-n", flux.Namespace, "kustomizations.kustomize.toolkit.fluxcd.io", "--all", "--timeout=60s")
	f.waitGone(t, "namespace", production)
	f.k(t, "delete", "-n", flux.Namespace, "gitrepositories.source.toolkit.fluxcd.io", "--all", "--timeout=60s")
	f.halt(t)
	if _, err := f.kubectl.Pipe(t.Context(), bytes.NewReader(f.definitions), "delete", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	f.k(t, "delete", "namespace", flux.Namespace)
	if out := f.k(t, "get", "deployment", deploy.Operator, "-n", deploy.SystemNamespace, "-o", "jsonpath={.status.readyReplicas}"); out != "1" {
		t.Errorf("%q of the operator are ready", out)
	}
	f.k(t, "get", "crd", "koinodes.koi-net.io", "koiedges.koi-net.io")
}

// testWriter logs what a build says.
type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimRight(string(p), "\n"))
	return len(p), nil
}
