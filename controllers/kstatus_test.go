package controllers_test

import (
	"context"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/koi-net/koi-operator/api/v1alpha1"
	adminclient "github.com/koi-net/koi-operator/node/admin/client"
	"github.com/koi-net/koi-operator/node/protocol"
)

const foreignFinalizer = "example.org/held"

// raw reads an object as others do, who do not know its type.
func (w *world) raw(kind, name string) *unstructured.Unstructured {
	w.t.Helper()
	o := &unstructured.Unstructured{}
	o.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind(kind))
	w.must(name, o)
	return o
}

// kstatus is what kstatus makes of an object.
func kstatus(t *testing.T, o *unstructured.Unstructured) status.Status {
	t.Helper()
	r, err := status.Compute(o)
	if err != nil {
		t.Fatalf("kstatus of %s %s: %v", o.GetKind(), o.GetName(), err)
	}
	return r.Status
}

// waited tells whether `kubectl wait --for=condition=kind` would end now.
func waited(o *unstructured.Unstructured, kind string) bool {
	conditions, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
	for _, c := range conditions {
		c, ok := c.(map[string]any)
		if !ok || c["type"] != kind {
			continue
		}
		observed, found, _ := unstructured.NestedInt64(c, "observedGeneration")
		if !found {
			observed, found, _ = unstructured.NestedInt64(o.Object, "status", "observedGeneration")
		}
		return c["status"] == "True" && (!found || observed >= o.GetGeneration())
	}
	return false
}

// pod gives a node a pod in a state: no kubelet runs here.
func (w *world) pod(node string, status corev1.PodStatus) {
	w.t.Helper()
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: node + "-0", Labels: map[string]string{
			"app.kubernetes.io/name": "koi-node", "app.kubernetes.io/managed-by": "koi-operator", v1alpha1.LabelNode: node,
		}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "node", Image: nodeImage}}},
	}
	if !w.get(p.Name, &corev1.Pod{}) {
		w.create(p)
	}
	w.eventually("the pod of "+node, func() string {
		w.must(node+"-0", p)
		p.Status = status
		if err := w.client.Status().Update(w.t.Context(), p); err != nil {
			return err.Error()
		}
		return ""
	})
}

func waiting(reason string) corev1.PodStatus {
	return corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{
		Name: "node", Image: nodeImage, State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: "back-off"}},
	}}}
}

func ended(code int32, message string) corev1.PodStatus {
	return corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{
		Name: "node", Image: nodeImage, State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, Message: message}},
	}}}
}

func unschedulable(message string) corev1.PodStatus {
	return corev1.PodStatus{Conditions: []corev1.PodCondition{
		{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable, Message: message},
	}}
}

// class makes a storage class that does not expand its volumes, once.
func (w *world) class() string {
	w.t.Helper()
	c := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "rigid-" + w.ns}, Provisioner: "example.org/none"}
	if err := w.client.Create(w.t.Context(), c); err != nil {
		w.t.Fatal(err)
	}
	return c.Name
}

// bind does to a claim what its provisioner does.
func (w *world) bind(name string) {
	w.t.Helper()
	w.eventually("bind "+name, func() string {
		var c corev1.PersistentVolumeClaim
		w.must(name, &c)
		if c.Spec.VolumeName == "" {
			c.Spec.VolumeName = "pv-" + name
			if err := w.client.Update(w.t.Context(), &c); err != nil {
				return err.Error()
			}
		}
		c.Status.Phase = corev1.ClaimBound
		c.Status.Capacity = c.Spec.Resources.Requests
		if err := w.client.Status().Update(w.t.Context(), &c); err != nil {
			return err.Error()
		}
		return ""
	})
}

func size(s string) func(*v1alpha1.KoiNodeSpec) {
	return func(spec *v1alpha1.KoiNodeSpec) {
		if spec.Storage == nil {
			spec.Storage = &v1alpha1.Storage{}
		}
		spec.Storage.Size = ptr.To(resource.MustParse(s))
	}
}

func contact(name string) func(*v1alpha1.KoiNodeSpec) {
	return func(s *v1alpha1.KoiNodeSpec) {
		s.FirstContact = &v1alpha1.FirstContact{NodeRef: &v1alpha1.NodeReference{Name: name}}
	}
}

func suspended(s *v1alpha1.KoiNodeSpec) { s.Suspend = true }

// state is what an object has to say, and to kstatus.
type state struct {
	kind, name string
	reason     string
	kstatus    status.Status
	// condition is the one `kubectl wait` ends on in that state; Ready=False waits on.
	condition string
}

// rest waits for an object to be in a state and holds it against what kstatus
// and kubectl make of it.
func (w *world) rest(s state) {
	w.t.Helper()
	w.eventually(fmt.Sprintf("%s %s is %s, %s", s.kind, s.name, s.reason, s.kstatus), func() string {
		o := &unstructured.Unstructured{}
		o.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind(s.kind))
		if !w.get(s.name, o) {
			return "there is none"
		}
		got := kstatus(w.t, o)
		var said struct {
			Status struct {
				Conditions []metav1.Condition `json:"conditions"`
			} `json:"status"`
		}
		if err := convert(o, &said); err != nil {
			return err.Error()
		}
		reason := ""
		if c := meta.FindStatusCondition(said.Status.Conditions, s.condition); c != nil && c.Status == metav1.ConditionTrue {
			reason = c.Reason
		}
		waits := ""
		for _, c := range []string{v1alpha1.ConditionReady, v1alpha1.ConditionReconciling, v1alpha1.ConditionStalled, v1alpha1.ConditionSuspended} {
			if waited(o, c) != (c == s.condition) {
				waits += fmt.Sprintf(", kubectl waits for %s: %t", c, !waited(o, c))
			}
		}
		if got != s.kstatus || reason != s.reason || waits != "" {
			return fmt.Sprintf("kstatus %s%s: %+v", got, waits, said.Status.Conditions)
		}
		return ""
	})
}

// What every state of design looks like to those who know nothing of KOI: each
// reason there is, in the objects of a real API server.
func TestKstatus(t *testing.T) {
	w := newWorld(t)
	w.writes.refusing(func(verb, path string) *metav1.Status {
		if path != "deployments/quota" || verb != http.MethodPatch {
			return nil
		}
		return &metav1.Status{Status: metav1.StatusFailure, Code: http.StatusForbidden, Reason: metav1.StatusReasonForbidden,
			Message: `deployments.apps "quota" is forbidden: exceeded quota`}
	})
	const (
		node, edgeKind = "KoiNode", "KoiEdge"
		ready          = v1alpha1.ConditionReady
		reconciling    = v1alpha1.ConditionReconciling
		stalled        = v1alpha1.ConditionStalled
		asleep         = v1alpha1.ConditionSuspended
	)
	for _, name := range []string{"coming", "unscheduled", "unpulled", "crashed", "locked", "damaged", "badconfig", "impostor"} {
		w.net.down[name] = true
	}
	w.net.unready["full"] = true
	far := w.net.elsewhere("far", "orn:x.y")
	silent := w.net.elsewhere("silent") // it answers no proposal
	w.net.mu.Lock()
	delete(w.net.nodes, silent.rid)
	w.net.mu.Unlock()
	elsewhere := func(s *v1alpha1.KoiNodeSpec) {
		s.External = &v1alpha1.External{RID: v1alpha1.NodeRID(far.rid), BaseURL: "http://far.example.org/koi-net"}
	}
	class := w.class()

	// What stands in the way before the nodes come.
	labels := func(name string) map[string]string {
		return map[string]string{"app.kubernetes.io/managed-by": "koi-operator", v1alpha1.LabelNode: name}
	}
	left := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "leftover-data", Labels: labels("leftover"), Finalizers: []string{foreignFinalizer}},
		Spec: corev1.PersistentVolumeClaimSpec{AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}}}}
	w.create(left, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "taken"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 1}}}})
	w.delete(left)

	w.create(
		full("a", provides("orn:x.y", "orn:x.z")), full("b"), full("c", provides("orn:x.y"), manual), full("sleeper", suspended),
		full("far", elsewhere), full("stopping"), full("silent"), full("unwell"), full("full"), full("rigid", size("1Gi"), func(s *v1alpha1.KoiNodeSpec) {
			s.Storage.StorageClassName = &class
		}), full("refusing", provides("orn:x.y")), full("busy", provides("orn:x.y")), full("lost"), full("swapped"), full("going"),
		full("coming"), full("unscheduled"), full("unpulled"), full("crashed"), full("locked"), full("damaged"), full("badconfig"), full("impostor"),
		full("quota"), full("leftover"), full("taken"),
		full("invalid", func(s *v1alpha1.KoiNodeSpec) {
			s.Security = &v1alpha1.Security{AllowedPeerCIDRs: []string{"300.0.0.0/8"}}
		}),
		full("newcomer", contact("invalid")),
	)
	for _, name := range []string{"a", "b", "c", "stopping", "silent", "unwell", "rigid", "refusing", "busy", "lost", "swapped", "going"} {
		w.node(name, v1alpha1.ReasonReady)
	}

	w.pod("unscheduled", unschedulable("0/1 nodes are available: insufficient memory"))
	w.pod("unpulled", waiting("ImagePullBackOff"))
	w.pod("crashed", ended(2, "panic: oh no"))
	w.pod("locked", ended(11, `{"reason":"StoreLocked","message":"koi.db is in use"}`))
	w.pod("damaged", ended(10, `{"reason":"StoreDamaged","message":"koi.db: the meta pages are gone; restore a backup"}`))
	w.pod("badconfig", ended(13, `{"reason":"BadConfig","message":"config.yaml: there is no flag --frobnicate"}`))
	w.pod("impostor", ended(12, `{"reason":"IdentityMismatch","message":"the store is another node's"}`))

	w.net.mu.Lock()
	w.net.frozen["stopping"] = true
	w.net.mu.Unlock()
	change(w, "stopping", &v1alpha1.KoiNode{}, func(n *v1alpha1.KoiNode) { n.Spec.Suspend = true })
	w.net.trouble("silent", hang)
	w.net.at("unwell", func(f *fakeNode) { f.ready = false })
	w.net.at("full", func(f *fakeNode) {
		f.ready, f.says.Checks = false, []adminclient.Check{{Name: "store", Message: "store full: no space left for koi.db"}}
	})
	w.bind("rigid-data")
	change(w, "rigid", &v1alpha1.KoiNode{}, func(n *v1alpha1.KoiNode) { size("2Gi")(&n.Spec) })
	var secret, other corev1.Secret
	w.must("lost-identity", &secret)
	w.must("b-identity", &other)
	w.delete(&secret)
	change(w, "swapped-identity", &secret, func(s *corev1.Secret) { s.Data = other.Data })
	change(w, "going", &v1alpha1.KoiNode{}, func(n *v1alpha1.KoiNode) { n.Finalizers = append(n.Finalizers, foreignFinalizer) })
	w.delete(&v1alpha1.KoiNode{ObjectMeta: metav1.ObjectMeta{Name: "going", Namespace: w.ns}})
	t.Cleanup(func() { w.release(&v1alpha1.KoiNode{}, "going") })

	answering := func(name, call string, code int) {
		w.net.at(name, func(f *fakeNode) { f.answers = map[string]int{call: code} })
	}
	answering("refusing", "policy", http.StatusBadRequest)
	answering("busy", "policy", http.StatusServiceUnavailable)
	approved := func(e *v1alpha1.KoiEdge, a v1alpha1.Approval) *v1alpha1.KoiEdge {
		e.Spec.Approval = a
		return e
	}
	w.create(
		edge("approved", "a", "b", "orn:x.y"),
		approved(edge("rejected", "c", "a", "orn:x.y"), v1alpha1.Rejected),
		edge("asked", "c", "b", "orn:x.y"),
		edge("asleep", "a", "sleeper", "orn:x.y"),
		edge("proposed", string(silent.rid), "b", "orn:x.y"),
		approved(edge("unproposed", "c", string(far.rid), "orn:x.y"), v1alpha1.Approved),
		edge("nobody", "a", "nobody", "orn:x.y"),
		edge("unborn", "a", "invalid", "orn:x.y"),
		edge("unheard", "a", "silent", "orn:x.y"),
		edge("refused", "a", "c", "orn:not.provided"),
		approved(edge("notmine", "far", "b", "orn:x.y"), v1alpha1.Rejected),
		edge("nowhere", someRID, "orn:koi-net.node:other+4567", "orn:x.y"),
		edge("oneself", "a", string(w.rid("a")), "orn:x.y"),
		approved(edge("undecided", "refusing", "b", "orn:x.y"), v1alpha1.Approved),
		approved(edge("slow", "busy", "b", "orn:x.y"), v1alpha1.Approved),
		approved(edge("leaving", "busy", "a", "orn:x.y"), v1alpha1.Rejected),
		edge("apart", "b", "a", "orn:koi-net.node"),
		edge("gone", "b", "c", "orn:koi-net.node"),
	)
	w.edge("approved", v1alpha1.ReasonApproved)
	time.Sleep(1100 * time.Millisecond) // creation times are in seconds
	w.create(edge("younger", "a", "b", "orn:x.z"))
	answering("unwell", "propose", http.StatusBadRequest)
	answering("b", "propose", http.StatusConflict)
	w.create(edge("untaken", "a", "unwell", "orn:x.y"), edge("notyet", "a", "rigid", "orn:x.y"), edge("later", "c", "lost", "orn:x.y"))

	// A target that does not know that it was approved, and does not ask.
	w.edge("apart", v1alpha1.ReasonApproved)
	w.net.at("a", func(f *fakeNode) {
		for p, e := range f.edges {
			if p.source == w.net.names["b"].rid {
				e.Status = protocol.Proposed
				f.edges[p] = e
			}
		}
	})
	// A discovered edge that a declared one takes over, and somebody holds.
	w.net.subscribe(w.net.named("a"), w.net.named("stopping"), "orn:x.y")
	w.net.subscribe(w.net.named("a"), w.net.named("swapped"), "orn:x.y")
	w.eventually("the edge is discovered", func() string { return w.discovered("a", "swapped", v1alpha1.ReasonApproved) })
	overtaken := w.discoveredEdge("a", "swapped").Name
	change(w, overtaken, &v1alpha1.KoiEdge{}, func(e *v1alpha1.KoiEdge) { e.Finalizers = append(e.Finalizers, foreignFinalizer) })
	t.Cleanup(func() { w.release(&v1alpha1.KoiEdge{}, overtaken) })
	w.create(edge("overtaker", "a", "swapped", "orn:x.y"))
	// One that goes, and is held.
	change(w, "gone", &v1alpha1.KoiEdge{}, func(e *v1alpha1.KoiEdge) { e.Finalizers = append(e.Finalizers, foreignFinalizer) })
	w.delete(&v1alpha1.KoiEdge{ObjectMeta: metav1.ObjectMeta{Name: "gone", Namespace: w.ns}})
	t.Cleanup(func() { w.release(&v1alpha1.KoiEdge{}, "gone") })

	states := []state{
		{node, "b", v1alpha1.ReasonReady, status.CurrentStatus, ready},
		{node, "far", v1alpha1.ReasonExternal, status.CurrentStatus, ready},
		{node, "sleeper", v1alpha1.ReasonSuspended, status.CurrentStatus, asleep},
		{node, "stopping", v1alpha1.ReasonSuspended, status.InProgressStatus, reconciling},
		{node, "coming", v1alpha1.ReasonDeploying, status.InProgressStatus, reconciling},
		{node, "unscheduled", v1alpha1.ReasonUnschedulable, status.InProgressStatus, reconciling},
		{node, "unpulled", v1alpha1.ReasonImagePull, status.InProgressStatus, reconciling},
		{node, "crashed", v1alpha1.ReasonCrashed, status.InProgressStatus, reconciling},
		{node, "locked", v1alpha1.ReasonStoreLocked, status.InProgressStatus, reconciling},
		{node, "unwell", v1alpha1.ReasonNodeNotReady, status.InProgressStatus, reconciling},
		{node, "silent", v1alpha1.ReasonNodeUnreachable, status.InProgressStatus, reconciling},
		{node, "newcomer", v1alpha1.ReasonAwaitingContact, status.InProgressStatus, reconciling},
		{node, "leftover", v1alpha1.ReasonCleaningUp, status.InProgressStatus, reconciling},
		{node, "quota", v1alpha1.ReasonApplyFailed, status.InProgressStatus, reconciling},
		{node, "damaged", v1alpha1.ReasonStoreDamaged, status.FailedStatus, stalled},
		{node, "badconfig", v1alpha1.ReasonBadConfig, status.FailedStatus, stalled},
		{node, "impostor", v1alpha1.ReasonIdentityMismatch, status.FailedStatus, stalled},
		{node, "full", v1alpha1.ReasonStorageFull, status.FailedStatus, stalled},
		{node, "rigid", v1alpha1.ReasonExpansionRefused, status.FailedStatus, stalled},
		{node, "lost", v1alpha1.ReasonIdentityLost, status.FailedStatus, stalled},
		{node, "swapped", v1alpha1.ReasonIdentityMismatch, status.FailedStatus, stalled},
		{node, "taken", v1alpha1.ReasonConflict, status.FailedStatus, stalled},
		{node, "invalid", v1alpha1.ReasonInvalidSpec, status.FailedStatus, stalled},

		{edgeKind, "approved", v1alpha1.ReasonApproved, status.CurrentStatus, ready},
		{edgeKind, "rejected", v1alpha1.ReasonRejected, status.CurrentStatus, ready},
		{edgeKind, "asleep", v1alpha1.ReasonSuspended, status.CurrentStatus, asleep},
		{edgeKind, "asked", v1alpha1.ReasonAwaitingApproval, status.InProgressStatus, reconciling},
		{edgeKind, "proposed", v1alpha1.ReasonProposed, status.InProgressStatus, reconciling},
		{edgeKind, "unproposed", v1alpha1.ReasonAwaitingProposal, status.InProgressStatus, reconciling},
		{edgeKind, "apart", v1alpha1.ReasonEndsDisagree, status.InProgressStatus, reconciling},
		{edgeKind, "nobody", v1alpha1.ReasonNodeNotFound, status.InProgressStatus, reconciling},
		{edgeKind, "unborn", v1alpha1.ReasonNodeNotReady, status.InProgressStatus, reconciling},
		{edgeKind, "unheard", v1alpha1.ReasonNodeUnreachable, status.InProgressStatus, reconciling},
		{edgeKind, "slow", v1alpha1.ReasonDecisionRefused, status.InProgressStatus, reconciling},
		{edgeKind, "leaving", v1alpha1.ReasonDecisionRefused, status.InProgressStatus, reconciling},
		{edgeKind, "untaken", v1alpha1.ReasonProposalRefused, status.FailedStatus, stalled},
		{edgeKind, "refused", v1alpha1.ReasonRefusedBySource, status.FailedStatus, stalled},
		{edgeKind, "notmine", v1alpha1.ReasonNotSource, status.FailedStatus, stalled},
		{edgeKind, "nowhere", v1alpha1.ReasonNoManagedEnd, status.FailedStatus, stalled},
		{edgeKind, "oneself", v1alpha1.ReasonInvalidSpec, status.FailedStatus, stalled},
		{edgeKind, "undecided", v1alpha1.ReasonDecisionRefused, status.FailedStatus, stalled},
		{edgeKind, "younger", v1alpha1.ReasonConflict, status.FailedStatus, stalled},
	}
	covered := map[string]bool{}
	for _, s := range states {
		covered[s.reason] = true
		w.rest(s)
	}
	for kind, name := range map[string]string{node: "going", edgeKind: "gone"} {
		if got := kstatus(t, w.raw(kind, name)); got != status.TerminatingStatus {
			t.Errorf("%s %s: kstatus %s", kind, name, got)
		}
	}
	if got := kstatus(t, w.raw(edgeKind, overtaken)); got != status.TerminatingStatus {
		t.Errorf("the discovered edge that is overtaken: kstatus %s", got)
	}

	// No reason is left out, but those of conditions that say nothing of progress.
	for _, beside := range []string{v1alpha1.ReasonUpgradeAvailable, v1alpha1.ReasonUpgradePending, v1alpha1.ReasonStoreReplaced, v1alpha1.ReasonContactReached,
		v1alpha1.ReasonContactUnreached, v1alpha1.ReasonContactMissing, v1alpha1.ReasonDiscoveryTruncated} {
		covered[beside] = true
	}
	for name, reason := range constants(t, "Reason") {
		if !covered[reason] {
			t.Errorf("no object of this test is in the state %s (%s)", reason, name)
		}
	}
}

// An object that the operator has not seen, or not since it was changed, is in
// progress whatever its conditions say.
func TestKstatusOfWhatIsNotSeen(t *testing.T) {
	w := namespace(t)
	w.net = newNetwork(w)
	objects := map[string]string{"n": "KoiNode", "m": "KoiNode", "e": "KoiEdge"}
	w.create(full("n", provides("orn:x.y")), full("m"), edge("e", "n", "m", "orn:x.y"))
	unseen := func() {
		t.Helper()
		for name, kind := range objects {
			o := w.raw(kind, name)
			if got := kstatus(t, o); got != status.InProgressStatus || waited(o, v1alpha1.ConditionReady) {
				t.Errorf("%s %s: kstatus %s, kubectl waits for Ready: %t; status %v", kind, name, got, !waited(o, v1alpha1.ConditionReady), o.Object["status"])
			}
		}
	}
	unseen()
	w.start()
	for name, kind := range objects {
		reason := v1alpha1.ReasonReady
		if kind == "KoiEdge" {
			reason = v1alpha1.ReasonApproved
		}
		w.rest(state{kind, name, reason, status.CurrentStatus, v1alpha1.ConditionReady})
	}
	w.stop()
	for _, n := range []string{"n", "m"} {
		change(w, n, &v1alpha1.KoiNode{}, func(n *v1alpha1.KoiNode) { n.Spec.Coordinator = true })
	}
	change(w, "e", &v1alpha1.KoiEdge{}, func(e *v1alpha1.KoiEdge) { e.Spec.EdgeType = v1alpha1.EdgePoll })
	unseen()
	w.start()
	w.edge("e", v1alpha1.ReasonApproved)
}

// release takes a foreign finalizer off.
func (w *world) release(o client.Object, name string) {
	ctx := context.Background() // the test's has ended
	if w.client.Get(ctx, client.ObjectKey{Namespace: w.ns, Name: name}, o) == nil {
		o.SetFinalizers(nil)
		_ = w.client.Update(ctx, o)
	}
}

// constants are the string constants of the API whose names begin alike.
func constants(t *testing.T, prefix string) map[string]string {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), filepath.Join("..", "api", "v1alpha1", "conditions.go"), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	ast.Inspect(f, func(n ast.Node) bool {
		v, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		for i, id := range v.Names {
			if lit, ok := v.Values[i].(*ast.BasicLit); ok && strings.HasPrefix(id.Name, prefix) {
				if out[id.Name], err = strconv.Unquote(lit.Value); err != nil {
					t.Fatal(err)
				}
			}
		}
		return true
	})
	if len(out) < 5 {
		t.Fatalf("found %v only", out)
	}
	return out
}
