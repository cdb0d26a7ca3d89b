package controllers_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/koi-net/koi-operator/api/v1alpha1"
	adminclient "github.com/koi-net/koi-operator/node/admin/client"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// settled waits until the operator writes nothing for a second.
func (w *world) settled() {
	w.t.Helper()
	w.eventually("the operator settles", func() string {
		w.writes.reset()
		time.Sleep(time.Second)
		if seen := w.writes.list(); len(seen) > 0 {
			return fmt.Sprintf("%q", seen)
		}
		return ""
	})
}

// discoveredEdge finds the discovered KoiEdge between two nodes.
func (w *world) discoveredEdge(source, target string) *v1alpha1.KoiEdge {
	w.t.Helper()
	var list v1alpha1.KoiEdgeList
	if err := w.client.List(w.t.Context(), &list, client.InNamespace(w.ns), client.MatchingLabels{v1alpha1.LabelOrigin: v1alpha1.OriginDiscovered}); err != nil {
		w.t.Fatal(err)
	}
	for i := range list.Items {
		if e := &list.Items[i]; e.Status.Source == source && e.Status.Target == target {
			return e
		}
	}
	return nil
}

func (w *world) discovered(source, target, reason string) string {
	w.t.Helper()
	e := w.discoveredEdge(source, target)
	if e == nil {
		return "it does not exist"
	}
	return resting(e.Status.Conditions, e.Generation, e.Status.ObservedGeneration, reason)
}

// two makes a providing and a subscribing node.
func two(t *testing.T, source ...func(*v1alpha1.KoiNodeSpec)) *world {
	t.Helper()
	w := newWorld(t)
	w.create(full("a", append(source, provides("orn:x.y", "orn:x.z"))...), full("b"))
	w.node("a", v1alpha1.ReasonReady)
	w.node("b", v1alpha1.ReasonReady)
	return w
}

func (w *world) rid(name string) rid.RID { return w.net.named(name).rid }

// wire is the edge from one node to another as a node has it.
func (w *world) wire(at, source, target string) *adminclient.Edge {
	k := pair{w.rid(source), w.rid(target)}
	n := w.net.named(at)
	w.net.mu.Lock()
	defer w.net.mu.Unlock()
	if e, ok := n.edges[k]; ok {
		return &e
	}
	return nil
}

func TestDeclaredEdge(t *testing.T) {
	w := two(t)
	w.create(edge("e", "a", "b", "orn:x.z", "orn:x.y"))
	e := w.edge("e", v1alpha1.ReasonApproved)
	s := e.Status
	if s.Status != v1alpha1.EdgeApproved || s.SourceRID != string(w.rid("a")) || s.TargetRID != string(w.rid("b")) || s.RID == "" ||
		s.EdgeType != v1alpha1.EdgeWebhook || !slices.Equal(s.RIDTypes, []string{"orn:x.y", "orn:x.z"}) || s.Timestamp == "" || s.Source != "a" || s.Target != "b" {
		t.Errorf("status: %+v", s)
	}
	for _, at := range []string{"a", "b"} {
		if e := w.wire(at, "a", "b"); e == nil || e.Status != protocol.Approved {
			t.Errorf("the edge in %s: %+v", at, e)
		}
	}

	t.Log("other terms are proposed anew")
	change(w, "e", &v1alpha1.KoiEdge{}, func(e *v1alpha1.KoiEdge) {
		e.Spec.RIDTypes, e.Spec.EdgeType = []v1alpha1.RIDType{"orn:x.y"}, v1alpha1.EdgePoll
	})
	if s := w.edge("e", v1alpha1.ReasonApproved).Status; !slices.Equal(s.RIDTypes, []string{"orn:x.y"}) || s.EdgeType != v1alpha1.EdgePoll {
		t.Errorf("status: %+v", s)
	}

	t.Log("drift on the wire is put right")
	w.net.mu.Lock()
	w.net.forget(pair{w.net.names["a"].rid, w.net.names["b"].rid})
	w.net.mu.Unlock()
	w.eventually("the edge is there again", func() string {
		if e := w.wire("a", "a", "b"); e == nil || e.Status != protocol.Approved {
			return "not yet"
		}
		return ""
	})
	w.edge("e", v1alpha1.ReasonApproved)

	t.Log("deletion has both ends forget it")
	w.delete(e)
	w.gone("e", &v1alpha1.KoiEdge{})
	for _, at := range []string{"a", "b"} {
		if e := w.wire(at, "a", "b"); e != nil {
			t.Errorf("%s still has %+v", at, e)
		}
	}
}

// What somebody writes into an edge's status is put right though the edge rests.
func TestEdgeStatusIsPutRight(t *testing.T) {
	w := two(t)
	w.create(edge("e", "a", "b", "orn:x.y"))
	e := w.edge("e", v1alpha1.ReasonApproved)
	e.Status.RIDTypes, e.Status.Source = []string{"orn:made.up"}, "nobody"
	if err := w.client.Status().Update(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	w.eventually("the status is right again", func() string {
		w.must("e", e)
		if e.Status.Source != "a" || !slices.Equal(e.Status.RIDTypes, []string{"orn:x.y"}) {
			return fmt.Sprintf("%+v", e.Status)
		}
		return ""
	})
	if took := time.Since(began); took > 2*interval {
		t.Errorf("it took %s", took)
	}
}

// An edge that goes with its object is not taken for one that arose by itself,
// while its ends are still heard to have it.
func TestDeletedEdgeIsNotDiscovered(t *testing.T) {
	w := two(t)
	for range 5 {
		e := edge("e", "a", "b", "orn:x.y")
		w.create(e)
		w.edge("e", v1alpha1.ReasonApproved)
		w.delete(e)
		w.gone("e", &v1alpha1.KoiEdge{})
	}
	for _, written := range w.writes.list() {
		if written == "POST koiedges" {
			t.Error("a discovered KoiEdge was made")
		}
	}
}

func TestRetainedEdgeStaysOnTheWire(t *testing.T) {
	w := two(t)
	e := edge("e", "a", "b", "orn:x.y")
	e.Spec.DeletionPolicy = v1alpha1.DeletionRetain
	w.create(e)
	w.edge("e", v1alpha1.ReasonApproved)
	w.delete(e)
	w.gone("e", &v1alpha1.KoiEdge{})
	if w.wire("a", "a", "b") == nil || w.wire("b", "a", "b") == nil {
		t.Error("the edge was forgotten")
	}
	w.eventually("it shows as discovered", func() string { return w.discovered("a", "b", v1alpha1.ReasonApproved) })
}

func TestManualApproval(t *testing.T) {
	w := two(t, manual)
	w.create(edge("e", "a", "b", "orn:x.y"))
	e := w.edge("e", v1alpha1.ReasonAwaitingApproval)
	if e.Status.Status != v1alpha1.EdgeProposed || !meta.IsStatusConditionTrue(e.Status.Conditions, v1alpha1.ConditionReconciling) {
		t.Errorf("status: %+v", e.Status)
	}
	decide := func(a v1alpha1.Approval) {
		change(w, "e", &v1alpha1.KoiEdge{}, func(e *v1alpha1.KoiEdge) { e.Spec.Approval = a })
	}
	decide(v1alpha1.Approved)
	if e := w.edge("e", v1alpha1.ReasonApproved); e.Status.Decision != v1alpha1.Approved {
		t.Errorf("status: %+v", e.Status)
	}
	decide(v1alpha1.Rejected)
	e = w.edge("e", v1alpha1.ReasonRejected)
	w.eventually("the refusal rests", func() string {
		e = w.edge("e", v1alpha1.ReasonRejected)
		if !meta.IsStatusConditionTrue(e.Status.Conditions, v1alpha1.ConditionReady) || e.Status.Status != v1alpha1.EdgeRejected {
			return fmt.Sprintf("%+v", e.Status)
		}
		return ""
	})
	if e := w.wire("a", "a", "b"); e != nil {
		t.Errorf("the source still has %+v", e)
	}
	decide(v1alpha1.Approved)
	w.edge("e", v1alpha1.ReasonApproved)
	decide(v1alpha1.Undecided)
	w.eventually("the decision is taken back", func() string {
		w.must("e", e)
		w.net.mu.Lock()
		defer w.net.mu.Unlock()
		if e.Status.Decision != v1alpha1.Undecided || len(w.net.names["a"].policies) != 0 {
			return fmt.Sprintf("%+v", e.Status)
		}
		return ""
	})
}

// A decision reaches no wider than the object: the target asks for more.
func TestApprovalIsNotWider(t *testing.T) {
	w := newWorld(t)
	far := w.net.elsewhere("far")
	w.create(full("a", provides("orn:x.y", "orn:x.z"), manual))
	w.node("a", v1alpha1.ReasonReady)
	e := edge("e", "a", string(far.rid), "orn:x.y")
	e.Spec.Approval, e.Spec.EdgeType = v1alpha1.Approved, v1alpha1.EdgeWebhook
	w.create(e)
	w.edge("e", v1alpha1.ReasonAwaitingProposal)

	t.Log("the approval given beforehand can be taken back")
	approve := func(a v1alpha1.Approval, held int) {
		t.Helper()
		change(w, "e", e, func(e *v1alpha1.KoiEdge) { e.Spec.Approval = a })
		w.eventually("the decision is as the object has it", func() string {
			w.must("e", e)
			w.net.mu.Lock()
			defer w.net.mu.Unlock()
			if e.Status.Decision != a || len(w.net.names["a"].policies) != held {
				return fmt.Sprintf("%+v", e.Status)
			}
			return ""
		})
	}
	approve(v1alpha1.Undecided, 0)
	approve(v1alpha1.Approved, 1)

	t.Log("more than that waits, and that much is approved")
	w.net.subscribe(w.net.named("a"), far, "orn:x.y", "orn:x.z")
	w.edge("e", v1alpha1.ReasonAwaitingApproval)
	w.net.subscribe(w.net.named("a"), far, "orn:x.y")
	w.edge("e", v1alpha1.ReasonApproved)
}

func TestRefusedBySource(t *testing.T) {
	w := two(t)
	w.create(edge("e", "a", "b", "orn:not.provided"))
	e := w.edge("e", v1alpha1.ReasonRefusedBySource)
	if e.Status.Status != v1alpha1.EdgeRejected || !meta.IsStatusConditionTrue(e.Status.Conditions, v1alpha1.ConditionStalled) {
		t.Errorf("status: %+v", e.Status)
	}
	before := len(w.net.called("b"))
	time.Sleep(2 * interval) // the claim is about time passing
	if calls := w.net.called("b"); len(calls) != before {
		t.Errorf("a refused edge was proposed again: %v", calls)
	}
}

func TestOlderEdgeWins(t *testing.T) {
	w := two(t)
	older, younger := edge("older", "a", "b", "orn:x.y"), edge("younger", "a", "b", "orn:x.z")
	w.create(older)
	w.edge("older", v1alpha1.ReasonApproved)
	time.Sleep(1100 * time.Millisecond) // creation times are in seconds
	w.create(younger)
	e := w.edge("younger", v1alpha1.ReasonConflict)
	if c := meta.FindStatusCondition(e.Status.Conditions, v1alpha1.ConditionStalled); c == nil || !strings.Contains(c.Message, w.ns+"/older") {
		t.Errorf("%+v", e.Status.Conditions)
	}
	if e := w.wire("a", "a", "b"); len(e.RIDTypes) != 1 || e.RIDTypes[0] != "orn:x.y" {
		t.Errorf("on the wire: %+v", e)
	}
	w.delete(older)
	w.gone("older", &v1alpha1.KoiEdge{})
	w.edge("younger", v1alpha1.ReasonApproved)

	t.Log("a loser's end touches nothing")
	time.Sleep(1100 * time.Millisecond) // as above
	loser := edge("loser", "a", "b", "orn:x.y")
	w.create(loser)
	w.edge("loser", v1alpha1.ReasonConflict)
	w.delete(loser)
	w.gone("loser", &v1alpha1.KoiEdge{})
	if e := w.wire("a", "a", "b"); e == nil || e.Status != protocol.Approved {
		t.Errorf("on the wire: %+v", e)
	}
}

func TestDiscoveredEdge(t *testing.T) {
	w := two(t, manual)
	w.net.subscribe(w.net.named("a"), w.net.named("b"), "orn:x.y")
	w.eventually("it appears", func() string { return w.discovered("a", "b", v1alpha1.ReasonAwaitingApproval) })
	e := w.discoveredEdge("a", "b")
	if len(e.OwnerReferences) != 1 || e.OwnerReferences[0].Name != "a" || e.Spec.DeletionPolicy != v1alpha1.DeletionRetain ||
		e.Spec.Source.NodeRef == nil || e.Spec.Target.NodeRef == nil || len(e.Finalizers) != 0 {
		t.Errorf("%+v", e)
	}

	t.Log("a person approves it")
	change(w, e.Name, e, func(e *v1alpha1.KoiEdge) { e.Spec.Approval = v1alpha1.Approved })
	w.edge(e.Name, v1alpha1.ReasonApproved)

	t.Log("other terms replace it, and the approval does not carry over")
	uid := e.UID
	w.net.subscribe(w.net.named("a"), w.net.named("b"), "orn:x.y", "orn:x.z")
	w.eventually("it is replaced", func() string {
		e := w.discoveredEdge("a", "b")
		if e == nil || e.UID == uid {
			return "not yet"
		}
		if e.Spec.Approval != v1alpha1.Undecided || len(e.Spec.RIDTypes) != 2 {
			t.Errorf("%+v", e.Spec)
		}
		return ""
	})
	w.eventually("it waits for approval", func() string { return w.discovered("a", "b", v1alpha1.ReasonAwaitingApproval) })

	t.Log("it goes when the network forgets it")
	w.net.mu.Lock()
	w.net.forget(pair{w.net.names["a"].rid, w.net.names["b"].rid})
	w.net.mu.Unlock()
	w.gone(e.Name, &v1alpha1.KoiEdge{})
}

func TestDiscoveredRefusalStays(t *testing.T) {
	w := two(t)
	w.net.subscribe(w.net.named("a"), w.net.named("b"), "orn:x.y")
	w.eventually("it appears", func() string { return w.discovered("a", "b", v1alpha1.ReasonApproved) })
	e := w.discoveredEdge("a", "b")
	change(w, e.Name, e, func(e *v1alpha1.KoiEdge) { e.Spec.Approval = v1alpha1.Rejected })
	w.eventually("the refusal rests", func() string {
		e := w.edge(e.Name, v1alpha1.ReasonRejected)
		if !meta.IsStatusConditionTrue(e.Status.Conditions, v1alpha1.ConditionReady) {
			return fmt.Sprintf("%+v", e.Status.Conditions)
		}
		return ""
	})
	w.net.subscribe(w.net.named("a"), w.net.named("b"), "orn:x.y") // asks again
	w.settled()
	w.edge(e.Name, v1alpha1.ReasonRejected)
	if e := w.wire("a", "a", "b"); e != nil {
		t.Errorf("the source has %+v", e)
	}
}

func TestDeclaredEdgeTakesOver(t *testing.T) {
	w := two(t)
	w.net.subscribe(w.net.named("a"), w.net.named("b"), "orn:x.y")
	w.eventually("it appears", func() string { return w.discovered("a", "b", v1alpha1.ReasonApproved) })
	name := w.discoveredEdge("a", "b").Name
	w.create(edge("mine", "a", "b", "orn:x.y"))
	w.edge("mine", v1alpha1.ReasonApproved)
	w.gone(name, &v1alpha1.KoiEdge{})
}

func TestDiscoveryIgnored(t *testing.T) {
	w := two(t, func(s *v1alpha1.KoiNodeSpec) { s.Edges = &v1alpha1.NodeEdges{Discovery: v1alpha1.DiscoveryIgnore} })
	w.net.subscribe(w.net.named("a"), w.net.named("b"), "orn:x.y")
	w.net.subscribe(w.net.named("b"), w.net.named("a"), "orn:koi-net.node")
	w.eventually("the other way appears", func() string { return w.discovered("b", "a", v1alpha1.ReasonApproved) })
	w.settled()
	if e := w.discoveredEdge("a", "b"); e != nil {
		t.Errorf("there is %s", e.Name)
	}
}

func TestDiscoveryIsBounded(t *testing.T) {
	w := two(t)
	const beyond = 3
	for i := range 64 + beyond {
		w.net.subscribe(w.net.named("a"), w.net.elsewhere(fmt.Sprintf("far-%02d", i)), "orn:x.y")
	}
	w.eventually("64 appear", func() string {
		var list v1alpha1.KoiEdgeList
		if err := w.client.List(t.Context(), &list, client.InNamespace(w.ns)); err != nil {
			t.Fatal(err)
		}
		n := w.node("a", v1alpha1.ReasonReady)
		if len(list.Items) != 64 || n.Status.Edges == nil || n.Status.Edges.Unmirrored != beyond || n.Status.Edges.Approved != 64+beyond {
			return fmt.Sprintf("%d edges, status %+v", len(list.Items), n.Status.Edges)
		}
		return ""
	})
	w.settled()
}

func TestEdgeWithExternalSource(t *testing.T) {
	w := newWorld(t)
	far := w.net.elsewhere("far", "orn:x.y")
	w.create(full("far", func(s *v1alpha1.KoiNodeSpec) {
		s.External = &v1alpha1.External{RID: v1alpha1.NodeRID(far.rid), BaseURL: "http://far.example.org/koi-net"}
	}), partial("b"))
	w.create(edge("by-name", "far", "b", "orn:x.y"))
	e := w.edge("by-name", v1alpha1.ReasonApproved)
	if e.Status.SourceRID != string(far.rid) || e.Status.EdgeType != v1alpha1.EdgePoll {
		t.Errorf("status: %+v", e.Status)
	}
}

func TestEdgeWaitsForItsNodes(t *testing.T) {
	w := newWorld(t)
	w.create(edge("e", "a", "b", "orn:x.y"))
	w.edge("e", v1alpha1.ReasonNodeNotFound)
	w.create(full("a", provides("orn:x.y")), full("b"))
	w.edge("e", v1alpha1.ReasonApproved)
	change(w, "b", &v1alpha1.KoiNode{}, func(n *v1alpha1.KoiNode) { n.Spec.Suspend = true })
	e := w.edge("e", v1alpha1.ReasonSuspended)
	if meta.FindStatusCondition(e.Status.Conditions, v1alpha1.ConditionReady) != nil || e.Status.Status != v1alpha1.EdgeApproved {
		t.Errorf("status: %+v", e.Status)
	}
	w.delete(e)
	w.gone("e", &v1alpha1.KoiEdge{})
}

func TestEdgeNobodyHereCanAct(t *testing.T) {
	w := newWorld(t)
	w.create(edge("e", someRID, "orn:koi-net.node:other+4567", "orn:x.y"))
	w.edge("e", v1alpha1.ReasonNoManagedEnd)
}

// Deleting an edge ends although its nodes are gone or silent.
func TestEdgeDeletionEnds(t *testing.T) {
	w := two(t)
	e := edge("e", "a", "b", "orn:x.y")
	w.create(e)
	w.edge("e", v1alpha1.ReasonApproved)
	w.net.mu.Lock()
	w.net.down["a"] = true
	w.net.mu.Unlock()
	w.node("a", v1alpha1.ReasonDeploying)
	var b v1alpha1.KoiNode
	w.must("b", &b)
	w.delete(&b)
	w.gone("b", &v1alpha1.KoiNode{})
	w.delete(e)
	w.gone("e", &v1alpha1.KoiEdge{})
}
