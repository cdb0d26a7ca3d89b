//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/koi-net/koi-operator/hack/up/deploy"
	"github.com/koi-net/koi-operator/hack/up/feed"
)

var sampleNodes = []string{"coordinator", "sensor", "reader"}

func allApproved(t *testing.T, s *suite) {
	rids := map[string]string{}
	for _, name := range sampleNodes {
		rids[name] = s.waitReady(t, "koinode", name).Status.RID
	}
	want := []string{"coordinator>reader", "coordinator>sensor", "reader>coordinator", "sensor>coordinator", "sensor>reader"}
	var edges []object
	eventually(t, "every edge approved", patience, func() (bool, string) {
		edges = s.list(t, "koiedges")
		var seen []string
		for _, e := range edges {
			if e.ready() && e.Status.Status == "Approved" {
				seen = append(seen, e.Status.Source+">"+e.Status.Target)
			}
		}
		slices.Sort(seen)
		return slices.Equal(seen, want) && len(edges) == len(want), fmt.Sprint(seen)
	})
	s.bothEnds(t)
	// Nobody declared the reader's subscription: it came about by way of the coordinator.
	for _, e := range edges {
		if e.Metadata.Labels["koi-net.io/origin"] != "discovered" {
			t.Errorf("edge %s was not discovered", e.Metadata.Name)
		}
	}
}

// bothEnds sees that every edge is approved in the bundles of both its ends.
func (s *suite) bothEnds(t *testing.T) {
	t.Helper()
	for _, e := range s.list(t, "koiedges") {
		pair := [2]string{e.Status.SourceRID, e.Status.TargetRID}
		for _, end := range []string{e.Status.Source, e.Status.Target} {
			if got := s.edgesOf(t, end)[pair]; got != "APPROVED" {
				t.Errorf("edge %s in the cache of %s: %q, want APPROVED", e.Metadata.Name, end, got)
			}
		}
	}
}

func kubectlAnswers(t *testing.T, s *suite) {
	for _, tt := range []struct {
		args []string
		want []string
	}{
		{[]string{"get", "kn"}, []string{"NAME", "TYPE", "READY", "STATUS", "EDGES", "AGE", "coordinator", "Partial"}},
		{[]string{"get", "ke"}, []string{"SOURCE", "TARGET", "TYPE", "STATUS", "READY", "Approved"}},
		{[]string{"get", "koi"}, []string{"koinode.koi-net.io/sensor", "koiedge.koi-net.io/"}},
		{[]string{"explain", "koinode.spec"}, []string{"firstContact", "interests", "Immutable"}},
		{[]string{"explain", "koiedge.spec.approval"}, []string{"Approved", "Rejected"}},
		{[]string{"describe", "koinode", "sensor"}, []string{"Conditions", "Ready"}},
	} {
		out := s.k(t, tt.args...)
		for _, w := range tt.want {
			if !strings.Contains(out, w) {
				t.Errorf("kubectl %s does not show %q:\n%s", strings.Join(tt.args, " "), w, out)
			}
		}
	}
}

func everyCommit(t *testing.T, s *suite) {
	held := strings.Fields(s.mustKoi(t, "reader", "", "rids", "--type", feed.CommitType))
	for _, c := range s.commits {
		if !slices.Contains(held, c.RID) {
			t.Errorf("the reader lacks %s (%s)", c.RID, c.Contents.Subject)
		}
	}
	newest := s.commits[len(s.commits)-1]
	var got struct{ Contents feed.Contents }
	if err := json.Unmarshal([]byte(s.mustKoi(t, "reader", "", "get", newest.RID)), &got); err != nil {
		t.Fatal(err)
	}
	if got.Contents.Author != newest.Contents.Author || got.Contents.Subject != newest.Contents.Subject ||
		!slices.Equal(got.Contents.Files, newest.Contents.Files) {
		t.Errorf("contents at the reader: %+v, Git says %+v", got.Contents, newest.Contents)
	}
}

const probe = feed.CommitType + ":probe"

func (s *suite) put(t *testing.T, rid, contents string) {
	t.Helper()
	s.mustKoi(t, "sensor", contents, "put", rid, "-")
}

func (s *suite) waitAtReader(t *testing.T, rid, contents string) {
	t.Helper()
	s.waitAt(t, "reader", rid, contents)
}

// waitAt waits until a node holds a RID with these contents.
func (s *suite) waitAt(t *testing.T, node, rid, contents string) {
	t.Helper()
	eventually(t, node+" has "+rid, patience, func() (bool, string) {
		out, err := s.koi(node, "", "get", rid)
		if err != nil {
			return false, err.Error()
		}
		var b struct{ Contents json.RawMessage }
		if err := json.Unmarshal([]byte(out), &b); err != nil {
			return false, err.Error()
		}
		var got, want any
		if json.Unmarshal(b.Contents, &got) != nil || json.Unmarshal([]byte(contents), &want) != nil {
			return false, out
		}
		return fmt.Sprint(got) == fmt.Sprint(want), out
	})
}

// waitForgotten waits until a node says that it does not hold a RID.
func (s *suite) waitForgotten(t *testing.T, node, rid string) {
	t.Helper()
	eventually(t, node+" forgot "+rid, patience, func() (bool, string) {
		out, err := s.koi(node, "", "get", rid)
		return err != nil && strings.Contains(err.Error(), "exit code 3"), fmt.Sprint(out, err)
	})
}

func changesTravel(t *testing.T, s *suite) {
	s.put(t, probe, `{"subject":"one"}`)
	s.waitAtReader(t, probe, `{"subject":"one"}`)
	s.put(t, probe, `{"subject":"two"}`)
	s.waitAtReader(t, probe, `{"subject":"two"}`)
	s.mustKoi(t, "sensor", "", "forget", probe)
	s.waitForgotten(t, "reader", probe)
}

func podsRestricted(t *testing.T, s *suite) {
	for _, p := range s.list(t, "pods") {
		text, err := json.Marshal(p.Spec)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{`"runAsNonRoot":true`, `"readOnlyRootFilesystem":true`, `"drop":["ALL"]`, `"RuntimeDefault"`, `"automountServiceAccountToken":false`} {
			if !strings.Contains(string(text), want) {
				t.Errorf("pod %s lacks %s", p.Metadata.Name, want)
			}
		}
	}
	// What the runtime says they run as, a line for each container.
	users := strings.Fields(s.k(t, "get", "pods", "-o", "jsonpath={range .items[*].status.containerStatuses[*]}{.user.linux.uid}:{.user.linux.gid}{\"\\n\"}{end}"))
	if want := slices.Repeat([]string{"65532:65532"}, len(sampleNodes)); !slices.Equal(users, want) {
		t.Errorf("containers run as %q, want %q", users, want)
	}
	if out := s.k(t, "get", "namespace", deploy.Namespace, "-o", "jsonpath={.metadata.labels}"); !strings.Contains(out, `"pod-security.kubernetes.io/enforce":"restricted"`) {
		t.Errorf("the namespace does not enforce the restricted standard: %s", out)
	}
}

// identityOf is what must outlive a pod.
func (s *suite) identityOf(t *testing.T, node string) [2]string {
	t.Helper()
	o := s.get(t, "koinode", node)
	return [2]string{o.Status.RID, o.Status.StoreID}
}

func (s *suite) podOf(t *testing.T, node string) object {
	t.Helper()
	pods := s.list(t, "pods", "-l", "koi-net.io/node="+node)
	if len(pods) != 1 {
		t.Fatalf("%d pods of %s", len(pods), node)
	}
	return pods[0]
}

func killedNodeReturns(t *testing.T, s *suite) {
	for _, node := range []string{"sensor", "reader"} {
		before, pod := s.identityOf(t, node), s.podOf(t, node)
		s.k(t, "delete", "pod", pod.Metadata.Name, "--force", "--grace-period=0")
		eventually(t, "another pod of "+node, patience, func() (bool, string) {
			pods := s.list(t, "pods", "-l", "koi-net.io/node="+node)
			return len(pods) == 1 && pods[0].Metadata.UID != pod.Metadata.UID, fmt.Sprint(len(pods))
		})
		s.waitReady(t, "koinode", node)
		eventually(t, node+" answers", patience, func() (bool, string) {
			out, err := s.koi(node, "", "rids", "--type", feed.CommitType)
			return err == nil && len(strings.Fields(out)) >= len(s.commits), fmt.Sprint(len(strings.Fields(out)), err)
		})
		if after := s.identityOf(t, node); after != before || before[0] == "" || before[1] == "" {
			t.Errorf("%s came back as %v, was %v", node, after, before)
		}
	}
	s.waitEdges(t)
	s.bothEnds(t)
	s.put(t, probe+"-2", `{"subject":"after the kill"}`)
	s.waitAtReader(t, probe+"-2", `{"subject":"after the kill"}`)
}

// killedProcessReturns kills the sensor's process right after it accepted a bundle.
func killedProcessReturns(t *testing.T, s *suite) {
	before, pod := s.identityOf(t, "sensor"), s.podOf(t, "sensor")
	pid := processOf(t, pod.Metadata.UID)
	s.put(t, probe+"-last", `{"subject":"last words"}`)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the sensor's container runs again", patience, func() (bool, string) {
		p := s.podOf(t, "sensor")
		return p.Metadata.UID == pod.Metadata.UID && len(p.Status.ContainerStatuses) == 1 &&
			p.Status.ContainerStatuses[0].RestartCount == pod.Status.ContainerStatuses[0].RestartCount+1, fmt.Sprintf("%+v", p.Status)
	})
	eventually(t, "the sensor answers with every commit", patience, func() (bool, string) {
		out, err := s.koi("sensor", "", "rids", "--type", feed.CommitType)
		held := strings.Fields(out)
		lacks := slices.ContainsFunc(s.commits, func(c feed.Commit) bool { return !slices.Contains(held, c.RID) })
		return err == nil && !lacks, fmt.Sprint(len(held), err)
	})
	s.waitAtReader(t, probe+"-last", `{"subject":"last words"}`)
	s.waitReady(t, "koinode", "sensor")
	if after := s.identityOf(t, "sensor"); after != before {
		t.Errorf("the sensor came back as %v, was %v", after, before)
	}
	s.waitEdges(t)
	s.bothEnds(t)
}

// processOf finds the node's process of a pod: the cluster runs on this machine.
func processOf(t *testing.T, podUID string) int {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		groups, err := os.ReadFile(file)
		if err != nil || !strings.Contains(string(groups), podUID) {
			continue // gone meanwhile, or of another pod
		}
		dir := filepath.Dir(file)
		if program, err := os.Readlink(filepath.Join(dir, "exe")); err != nil || filepath.Base(program) != "koi-node" {
			continue // the sandbox's
		}
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			t.Fatal(err)
		}
		return pid
	}
	t.Fatalf("no koi-node process of the pod %s", podUID)
	return 0
}

// waitEdges waits until every edge is Ready.
func (s *suite) waitEdges(t *testing.T) {
	t.Helper()
	eventually(t, "every edge ready", patience, func() (bool, string) {
		var waiting []string
		for _, e := range s.list(t, "koiedges") {
			if !e.ready() {
				waiting = append(waiting, e.Status.Source+">"+e.Status.Target+" "+e.condition("Ready"))
			}
		}
		return len(waiting) == 0, fmt.Sprint(waiting)
	})
}

func awayNodeCatchesUp(t *testing.T, s *suite) {
	s.k(t, "patch", "koinode", "reader", "--type=merge", "-p", `{"spec":{"suspend":true}}`)
	eventually(t, "the reader is away", patience, func() (bool, string) {
		pods := s.list(t, "pods", "-l", "koi-net.io/node=reader")
		return len(pods) == 0, fmt.Sprint(len(pods))
	})
	for i := range 5 {
		s.put(t, fmt.Sprintf("%s-away-%d", probe, i), fmt.Sprintf(`{"n":%d}`, i))
	}
	s.k(t, "patch", "koinode", "reader", "--type=merge", "-p", `{"spec":{"suspend":null}}`)
	s.waitReady(t, "koinode", "reader")
	for i := range 5 {
		s.waitAtReader(t, fmt.Sprintf("%s-away-%d", probe, i), fmt.Sprintf(`{"n":%d}`, i))
	}
}

// pods returns the UID and restarts of every node's pod.
func (s *suite) pods(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, p := range s.list(t, "pods") {
		restarts := 0
		for _, c := range p.Status.ContainerStatuses {
			restarts += c.RestartCount
		}
		out[p.Metadata.Name] = fmt.Sprint(p.Metadata.UID, restarts)
	}
	return out
}

func operatorAbsence(t *testing.T, s *suite) {
	before := s.pods(t)
	scale := func(n string) {
		s.k(t, "scale", "deployment", deploy.Operator, "-n", deploy.SystemNamespace, "--replicas="+n)
	}
	scale("0")
	eventually(t, "no operator", patience, func() (bool, string) {
		out := s.k(t, "get", "pods", "-n", deploy.SystemNamespace, "--no-headers", "--ignore-not-found")
		return strings.TrimSpace(out) == "", out
	})
	// What is deleted meanwhile it restores: that shows that it looks at every node again.
	lost := map[string]string{}
	for _, n := range sampleNodes {
		lost[n+"-config"] = s.get(t, "configmap", n+"-config").Metadata.UID
		s.k(t, "delete", "configmap", n+"-config")
	}
	s.put(t, probe+"-alone", `{"subject":"nobody watches"}`)
	s.waitAtReader(t, probe+"-alone", `{"subject":"nobody watches"}`)
	scale("1")
	s.k(t, "rollout", "status", "deployment/"+deploy.Operator, "-n", deploy.SystemNamespace, "--timeout=90s")
	for name, uid := range lost {
		s.waitRestored(t, "configmap", name, uid)
	}
	for _, n := range sampleNodes {
		s.waitReady(t, "koinode", n)
	}
	s.waitEdges(t)
	if after := s.pods(t); !maps.Equal(before, after) {
		t.Errorf("pods after the operator's absence: %v, before: %v", after, before)
	}
}

// waitRestored waits until another object stands in the place of the one that had the UID.
func (s *suite) waitRestored(t *testing.T, kind, name, uid string) {
	t.Helper()
	eventually(t, kind+" "+name+" is back", patience, func() (bool, string) {
		for _, o := range s.list(t, kind) {
			if o.Metadata.Name == name && o.Metadata.UID != uid {
				return true, ""
			}
		}
		return false, "missing"
	})
}

func driftUndone(t *testing.T, s *suite) {
	for _, kind := range []string{"service", "configmap", "serviceaccount"} {
		objects := s.list(t, kind, "-l", "koi-net.io/node=sensor")
		if len(objects) == 0 {
			t.Fatalf("the sensor has no %s", kind)
		}
		name, uid := objects[0].Metadata.Name, objects[0].Metadata.UID
		s.k(t, "delete", kind, name)
		s.waitRestored(t, kind, name, uid)
	}
	s.k(t, "scale", "deployment", "sensor", "--replicas=0")
	eventually(t, "the sensor is scaled up again", patience, func() (bool, string) {
		d := s.get(t, "deployment", "sensor")
		return d.Spec["replicas"] == float64(1) && d.Status.ReadyReplicas == 1, fmt.Sprint(d.Spec["replicas"], d.Status.ReadyReplicas)
	})
	s.waitReady(t, "koinode", "sensor")
	s.waitEdges(t)
}

const careful = `
apiVersion: koi-net.io/v1alpha1
kind: KoiNode
metadata: {name: careful}
spec:
  provides: {event: [orn:test.secret], state: [orn:test.secret]}
  interests: []
  firstContact: {nodeRef: {name: coordinator}}
  edges: {approval: Manual}
  storage: {size: 64Mi}
`

const wish = `
apiVersion: koi-net.io/v1alpha1
kind: KoiEdge
metadata: {name: careful-to-reader}
spec:
  source: {nodeRef: {name: careful}}
  target: {nodeRef: {name: reader}}
  ridTypes: [orn:test.secret]
`

// edgeBetween returns the KoiEdge of a pair by the names of its ends.
func (s *suite) edgeBetween(t *testing.T, source, target string) (object, bool) {
	t.Helper()
	for _, e := range s.list(t, "koiedges") {
		if e.Status.Source == source && e.Status.Target == target {
			return e, true
		}
	}
	return object{}, false
}

func manualApproval(t *testing.T, s *suite) {
	s.apply(t, careful)
	s.waitReady(t, "koinode", "careful")
	// The coordinator's proposal waits and shows: a person approves what was discovered.
	var found object
	eventually(t, "the coordinator's proposal waits for a person", patience, func() (bool, string) {
		e, ok := s.edgeBetween(t, "careful", "coordinator")
		found = e
		return ok && e.Status.Status == "Proposed" && e.condition("Reconciling") == "True/AwaitingApproval", fmt.Sprintf("%+v", e.Status)
	})
	s.k(t, "patch", "koiedge", found.Metadata.Name, "--type=merge", "-p", `{"spec":{"approval":"Approved"}}`)
	s.waitReady(t, "koiedge", found.Metadata.Name)

	// A declared edge is proposed for its author, waits, and follows the decision both ways.
	s.apply(t, wish)
	eventually(t, "the declared edge waits for a person", patience, func() (bool, string) {
		e := s.get(t, "koiedge", "careful-to-reader")
		return e.Status.Status == "Proposed" && e.condition("Reconciling") == "True/AwaitingApproval", fmt.Sprintf("%+v", e.Status)
	})
	s.k(t, "patch", "koiedge", "careful-to-reader", "--type=merge", "-p", `{"spec":{"approval":"Approved"}}`)
	e := s.waitReady(t, "koiedge", "careful-to-reader")
	pair := [2]string{e.Status.SourceRID, e.Status.TargetRID}
	for _, end := range []string{"careful", "reader"} {
		if got := s.edgesOf(t, end)[pair]; got != "APPROVED" {
			t.Errorf("approved edge at %s: %q", end, got)
		}
	}
	s.mustKoi(t, "careful", `{"told":true}`, "put", "orn:test.secret:1", "-")
	s.waitAtReader(t, "orn:test.secret:1", `{"told":true}`)

	s.k(t, "patch", "koiedge", "careful-to-reader", "--type=merge", "-p", `{"spec":{"approval":"Rejected"}}`)
	eventually(t, "the edge rests rejected", patience, func() (bool, string) {
		e := s.get(t, "koiedge", "careful-to-reader")
		return e.Status.Status == "Rejected" && e.condition("Ready") == "True/Rejected", fmt.Sprintf("%+v", e.Status)
	})
	if got := s.edgesOf(t, "careful")[pair]; got != "" {
		t.Errorf("rejected edge at its source: %q", got)
	}
	events := s.k(t, "get", "events", "--field-selector", "involvedObject.name=careful-to-reader")
	if !strings.Contains(events, "Approved") || !strings.Contains(events, "Rejected") {
		t.Errorf("the edge's transitions are no Events:\n%s", events)
	}
}

// elsewhere is a namespace whose node the net knows as an external one only.
const elsewhere = "koi-elsewhere"

const remote = `
apiVersion: v1
kind: Namespace
metadata: {name: ` + elsewhere + `, labels: {pod-security.kubernetes.io/enforce: restricted}}
---
apiVersion: koi-net.io/v1alpha1
kind: KoiNode
metadata: {name: remote}
spec:
  coordinator: true
  provides: {event: [orn:test.note], state: [orn:test.note]}
  storage: {size: 64Mi}
`

// scout knows nobody but the external node; it wants that one's RID, URL and key.
const scout = `
apiVersion: koi-net.io/v1alpha1
kind: KoiNode
metadata: {name: far}
spec:
  external: {rid: %q, baseURL: %q, publicKey: %q}
---
apiVersion: koi-net.io/v1alpha1
kind: KoiNode
metadata: {name: scout}
spec:
  firstContact: {nodeRef: {name: far}}
  storage: {ephemeral: true, size: 64Mi}
---
apiVersion: koi-net.io/v1alpha1
kind: KoiEdge
metadata: {name: far-to-scout}
spec:
  source: {nodeRef: {name: far}}
  target: {nodeRef: {name: scout}}
  ridTypes: [orn:test.note]
`

func externalNode(t *testing.T, s *suite) {
	if err := s.kubectl.Apply(t.Context(), []byte(remote), "-n", elsewhere); err != nil {
		t.Fatal(err)
	}
	var profile []string
	eventually(t, "the remote node is ready", patience, func() (bool, string) {
		out := s.k(t, "get", "koinode", "remote", "-n", elsewhere, "-o",
			`jsonpath={.status.conditions[?(@.type=="Ready")].status} {.status.rid} {.status.baseURL} {.status.publicKey}`)
		profile = strings.Fields(out)
		return len(profile) == 4 && profile[0] == "True", out
	})
	s.apply(t, fmt.Sprintf(scout, profile[1], profile[2], profile[3]))
	if far := s.waitReady(t, "koinode", "far"); far.condition("Ready") != "True/External" || far.Status.RID != profile[1] {
		t.Errorf("the external node: %s as %s", far.condition("Ready"), far.Status.RID)
	}
	if pods := s.list(t, "pods", "-l", "koi-net.io/node=far"); len(pods) != 0 {
		t.Errorf("%d pods were made for a node that runs elsewhere", len(pods))
	}
	s.waitReady(t, "koinode", "scout")
	eventually(t, "the scout met its first contact", patience, func() (bool, string) {
		got := s.get(t, "koinode", "scout").condition("FirstContactReached")
		return strings.HasPrefix(got, "True/"), got
	})
	e := s.waitReady(t, "koiedge", "far-to-scout")
	if e.Status.Status != "Approved" || e.Status.SourceRID != profile[1] {
		t.Errorf("the edge is %s from %s", e.Status.Status, e.Status.SourceRID)
	}
	if got := s.edgesOf(t, "scout")[[2]string{e.Status.SourceRID, e.Status.TargetRID}]; got != "APPROVED" {
		t.Errorf("the edge in the cache of scout: %q, want APPROVED", got)
	}
	const note = "orn:test.note:1"
	tell := func(stdin string, args ...string) {
		t.Helper()
		prefix := []string{"-n", elsewhere, "exec", "-i", "deployment/remote", "-c", "node", "--", "/koi-node"}
		if _, err := s.kubectl.Pipe(t.Context(), strings.NewReader(stdin), append(prefix, args...)...); err != nil {
			t.Fatal(err)
		}
	}
	tell(`{"from":"afar"}`, "put", note, "-")
	s.waitAt(t, "scout", note, `{"from":"afar"}`)
	tell("", "forget", note)
	s.waitForgotten(t, "scout", note)

	// That one's end holds nothing up here.
	s.k(t, "delete", "namespace", elsewhere, "--wait=false")
	s.waitGone(t, "namespace", elsewhere)
	s.k(t, "delete", "koiedge/far-to-scout", "koinode/scout", "koinode/far", "--wait=false")
	s.waitGone(t, "koiedge", "far-to-scout")
	s.waitGone(t, "koinode", "scout")
	s.waitGone(t, "koinode", "far")
}

func suspendAndResume(t *testing.T, s *suite) {
	before := s.identityOf(t, "careful")
	s.k(t, "patch", "koinode", "careful", "--type=merge", "-p", `{"spec":{"suspend":true}}`)
	eventually(t, "careful rests", patience, func() (bool, string) {
		o := s.get(t, "koinode", "careful")
		return o.condition("Suspended") == "True/Suspended" && o.condition("Reconciling") == "none" && o.condition("Stalled") == "none" &&
			len(s.list(t, "pods", "-l", "koi-net.io/node=careful")) == 0, fmt.Sprintf("%+v", o.Status.Conditions)
	})
	eventually(t, "its edges say why they wait", patience, func() (bool, string) {
		e, ok := s.edgeBetween(t, "careful", "coordinator")
		return ok && e.condition("Suspended") == "True/Suspended", fmt.Sprintf("%+v", e.Status.Conditions)
	})
	s.k(t, "patch", "koinode", "careful", "--type=merge", "-p", `{"spec":{"suspend":false}}`)
	s.waitReady(t, "koinode", "careful")
	if after := s.identityOf(t, "careful"); after != before {
		t.Errorf("resumed as %v, was %v", after, before)
	}
	s.waitEdges(t)
}

// versions returns what identifies the state of every object we make.
func (s *suite) versions(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, ns := range []string{deploy.Namespace, deploy.SystemNamespace} {
		for _, o := range s.list(t, "koinodes,koiedges,deployments,services,configmaps,secrets,serviceaccounts,persistentvolumeclaims,pods", "-n", ns) {
			out[ns+" "+o.Kind+" "+o.Metadata.Name] = fmt.Sprintf("%s %s %+v", o.Metadata.UID, o.Metadata.ResourceVersion, o.Status)
		}
	}
	return out
}

// unchangedByUp sees that make up writes nothing where all is as it wants it.
func unchangedByUp(t *testing.T, s *suite) {
	// Let what the steps before caused come to rest.
	var before map[string]string
	eventually(t, "the net rests", patience, func() (bool, string) {
		last := before
		before = s.versions(t)
		return maps.Equal(last, before), "it still changes"
	})
	run(t, s.root, "up")
	after := s.versions(t)
	for key, v := range after {
		if before[key] != v {
			t.Errorf("%s changed: %q, then %q", key, before[key], v)
		}
	}
	if len(after) != len(before) {
		t.Errorf("%d objects, then %d", len(before), len(after))
	}
}

func upAgain(t *testing.T, s *suite) {
	// The steps before scaled the operator by hand: its manifest takes that back once.
	run(t, s.root, "up")
	unchangedByUp(t, s)
}

func (s *suite) waitGone(t *testing.T, kind, name string) {
	t.Helper()
	eventually(t, kind+" "+name+" is gone", deletionPatience, func() (bool, string) {
		out := s.k(t, "get", kind, name, "--ignore-not-found", "-o", "yaml")
		return strings.TrimSpace(out) == "", out
	})
}

func deletion(t *testing.T, s *suite) {
	s.k(t, "delete", "koiedge", "careful-to-reader", "--wait=false")
	s.waitGone(t, "koiedge", "careful-to-reader")

	before := s.identityOf(t, "careful")
	s.k(t, "delete", "koinode", "careful", "--wait=false")
	s.waitGone(t, "koinode", "careful")
	s.waitForgotten(t, "coordinator", before[0])
	eventually(t, "its edges went with it", deletionPatience, func() (bool, string) {
		_, a := s.edgeBetween(t, "careful", "coordinator")
		_, b := s.edgeBetween(t, "coordinator", "careful")
		return !a && !b, fmt.Sprint(a, b)
	})
	eventually(t, "of the node only data and identity are left", deletionPatience, func() (bool, string) {
		var left []string
		for _, o := range s.list(t, "deployments,services,configmaps,serviceaccounts,secrets,persistentvolumeclaims,pods", "-l", "koi-net.io/node=careful") {
			left = append(left, o.Kind)
		}
		slices.Sort(left)
		return slices.Equal(left, []string{"PersistentVolumeClaim", "Secret"}), fmt.Sprint(left)
	})
	s.apply(t, careful)
	s.waitReady(t, "koinode", "careful")
	if again := s.identityOf(t, "careful"); again != before {
		t.Errorf("created again as %v, was %v", again, before)
	}
	s.waitAt(t, "careful", "orn:test.secret:1", `{"told":true}`)

	s.k(t, "delete", "namespace", deploy.Namespace, "--wait=false")
	s.waitGone(t, "namespace", deploy.Namespace)
	eventually(t, "its volumes went with it", deletionPatience, func() (bool, string) {
		out := s.k(t, "get", "persistentvolumes", "-o", "name")
		return strings.TrimSpace(out) == "", out
	})
}
