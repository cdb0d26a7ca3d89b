//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
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
	for _, e := range edges {
		// The bundles of both ends say the same.
		pair := [2]string{e.Status.SourceRID, e.Status.TargetRID}
		for _, end := range []string{e.Status.Source, e.Status.Target} {
			if got := s.edgesOf(t, end)[pair]; got != "APPROVED" {
				t.Errorf("edge %s in the cache of %s: %q, want APPROVED", e.Metadata.Name, end, got)
			}
		}
	}
	// Nobody declared the reader's subscription: it came about by way of the coordinator.
	for _, e := range edges {
		if e.Metadata.Labels["koi-net.io/origin"] != "discovered" {
			t.Errorf("edge %s was not discovered", e.Metadata.Name)
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
	eventually(t, "the reader has "+rid, patience, func() (bool, string) {
		out, err := s.koi("reader", "", "get", rid)
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

func changesTravel(t *testing.T, s *suite) {
	s.put(t, probe, `{"subject":"one"}`)
	s.waitAtReader(t, probe, `{"subject":"one"}`)
	s.put(t, probe, `{"subject":"two"}`)
	s.waitAtReader(t, probe, `{"subject":"two"}`)
	s.mustKoi(t, "sensor", "", "forget", probe)
	eventually(t, "the reader forgot the probe", patience, func() (bool, string) {
		out, err := s.koi("reader", "", "get", probe)
		return err != nil && strings.Contains(err.Error(), "exit code 3"), fmt.Sprint(out, err)
	})
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
	s.put(t, probe+"-2", `{"subject":"after the kill"}`)
	s.waitAtReader(t, probe+"-2", `{"subject":"after the kill"}`)
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
	s.put(t, probe+"-alone", `{"subject":"nobody watches"}`)
	s.waitAtReader(t, probe+"-alone", `{"subject":"nobody watches"}`)
	scale("1")
	s.k(t, "rollout", "status", "deployment/"+deploy.Operator, "-n", deploy.SystemNamespace, "--timeout=90s")
	for _, n := range sampleNodes {
		s.waitReady(t, "koinode", n)
	}
	s.waitEdges(t)
	if after := s.pods(t); !maps.Equal(before, after) {
		t.Errorf("pods after the operator's absence: %v, before: %v", after, before)
	}
}

func driftUndone(t *testing.T, s *suite) {
	for _, kind := range []string{"service", "configmap", "serviceaccount"} {
		objects := s.list(t, kind, "-l", "koi-net.io/node=sensor")
		if len(objects) == 0 {
			t.Fatalf("the sensor has no %s", kind)
		}
		name, uid := objects[0].Metadata.Name, objects[0].Metadata.UID
		s.k(t, "delete", kind, name)
		eventually(t, kind+" "+name+" is back", patience, func() (bool, string) {
			for _, o := range s.list(t, kind, "-l", "koi-net.io/node=sensor") {
				if o.Metadata.Name == name && o.Metadata.UID != uid {
					return true, ""
				}
			}
			return false, "missing"
		})
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
			out[ns+" "+o.Kind+" "+o.Metadata.Name] = o.Metadata.UID + " " + o.Metadata.ResourceVersion
		}
	}
	return out
}

func upAgain(t *testing.T, s *suite) {
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

	rid := s.get(t, "koinode", "careful").Status.RID
	s.k(t, "delete", "koinode", "careful", "--wait=false")
	s.waitGone(t, "koinode", "careful")
	eventually(t, "the neighbours forgot it", patience, func() (bool, string) {
		out, err := s.koi("coordinator", "", "get", rid)
		return err != nil && strings.Contains(err.Error(), "exit code 3"), fmt.Sprint(out, err)
	})
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
	if again := s.waitReady(t, "koinode", "careful").Status.RID; again != rid {
		t.Errorf("created again as %s, was %s", again, rid)
	}

	s.k(t, "delete", "namespace", deploy.Namespace, "--wait=false")
	s.waitGone(t, "namespace", deploy.Namespace)
}
