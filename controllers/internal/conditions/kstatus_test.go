package conditions

import (
	"fmt"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"

	"github.com/koi-net/koi-operator/api/v1alpha1"
	"github.com/koi-net/koi-operator/controllers/internal/observe"
	"github.com/koi-net/koi-operator/node/admin/client"
)

// compute has kstatus judge a KoiNode and a KoiEdge with the same conditions.
func compute(t *testing.T, conditions []metav1.Condition, generation, observed int64, going bool) status.Status {
	t.Helper()
	m := metav1.ObjectMeta{Name: "o", Generation: generation}
	if going {
		m.DeletionTimestamp = &metav1.Time{Time: now}
	}
	node := &v1alpha1.KoiNode{ObjectMeta: m, Status: v1alpha1.KoiNodeStatus{ObservedGeneration: observed, Conditions: conditions}}
	edge := &v1alpha1.KoiEdge{ObjectMeta: m, Status: v1alpha1.KoiEdgeStatus{ObservedGeneration: observed, Conditions: conditions}}
	var out []status.Status
	for kind, o := range map[string]any{"KoiNode": node, "KoiEdge": edge} {
		content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
		if err != nil {
			t.Fatal(err)
		}
		u := &unstructured.Unstructured{Object: content}
		u.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind(kind))
		r, err := status.Compute(u)
		if err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		out = append(out, r.Status)
	}
	if out[0] != out[1] {
		t.Fatalf("kinds differ: %v", out)
	}
	return out[0]
}

// What Set makes of a State means to kstatus what the State means, whatever
// conditions stand beside it and whatever was there before.
func TestKstatusOfConditions(t *testing.T) {
	unreached, _ := FirstContact("there is none", nil)
	beside := map[string][]metav1.Condition{
		"nothing":         nil,
		"first contact":   {unreached},
		"upgrade":         {UpgradeAvailable(v1alpha1.ReasonUpgradePending, "a", "b")},
		"store":           {StoreReplaced("a", "b")},
		"all three":       {unreached, UpgradeAvailable(v1alpha1.ReasonUpgradeAvailable, "a", "b"), StoreReplaced("a", "b")},
		"another's state": {{Type: "Whatever", Status: metav1.ConditionFalse, Reason: "R"}},
	}
	states := map[status.Status][]*State{
		status.CurrentStatus:    {Rest("R", "m"), Suspend("m")},
		status.InProgressStatus: {Wait("R", "m")},
		status.FailedStatus:     {Stall("R", "m")},
	}
	var before [][]metav1.Condition
	for _, list := range states {
		for _, s := range list {
			before = append(before, Set(nil, 6, now.Add(-time.Hour), s))
		}
	}
	for want, list := range states {
		for _, s := range list {
			for what, more := range beside {
				for _, old := range append(before, nil) {
					conditions := Set(old, 7, now, s, more...)
					name := fmt.Sprintf("%+v beside %s after %+v", s, what, Of(old))
					if got := compute(t, conditions, 7, 7, false); got != want {
						t.Errorf("%s: %s, want %s", name, got, want)
					}
					if got := compute(t, conditions, 8, 7, false); got != status.InProgressStatus {
						t.Errorf("%s, of the generation before: %s", name, got)
					}
					if got := compute(t, conditions, 7, 7, true); got != status.TerminatingStatus {
						t.Errorf("%s, going: %s", name, got)
					}
				}
			}
		}
	}
	if got := compute(t, nil, 1, -1, false); got != status.InProgressStatus {
		t.Errorf("never seen: %s", got)
	}
}

func TestStorageFull(t *testing.T) {
	for _, tt := range []struct {
		name    string
		checks  []client.Check
		rollout bool
		reason  string
		kind    Kind
	}{
		{"no space", []client.Check{{Name: "store", Message: "store full: no space left for /var/lib/koi/koi.db"}}, true, v1alpha1.ReasonStorageFull, Stalled},
		{"no room, and its pod is not ready for it", []client.Check{{Name: "identity", OK: true}, {Name: "store", Message: "no room for another page"}}, false, v1alpha1.ReasonStorageFull, Stalled},
		{"another trouble of the store", []client.Check{{Name: "store", Message: "no more is written until the store is opened again"}}, true, v1alpha1.ReasonNodeNotReady, Waiting},
		{"another trouble, and its pod is not ready for it", []client.Check{{Name: "listener", Message: "not bound"}}, false, v1alpha1.ReasonNodeNotReady, Waiting},
		{"another check's word", []client.Check{{Name: "store", OK: true, Message: "full of things"}, {Name: "listener", Message: "the backlog is full"}}, true, v1alpha1.ReasonNodeNotReady, Waiting},
	} {
		f := NodeFacts{Node: &v1alpha1.KoiNode{}, RID: "orn:koi-net.node:a+b", ConfigHash: "h", Deployment: rolledOut(), Snapshot: answered(), Now: now, Interval: time.Minute}
		f.Snapshot.Status.Ready, f.Snapshot.Status.Checks = false, tt.checks
		if !tt.rollout {
			f.Deployment.Status.AvailableReplicas = 0
		}
		if s := Node(f); s.Reason != tt.reason || s.Kind != tt.kind {
			t.Errorf("%s: %+v", tt.name, s)
		}
		// What a node of another configuration, another node, or one long ago said explains nothing.
		for what, spoil := range map[string]func(*observe.Snapshot){
			"another configuration": func(s *observe.Snapshot) { s.Status.ConfigHash = "i" },
			"another node":          func(s *observe.Snapshot) { s.Status.RID = "orn:koi-net.node:c+d" },
			"long ago":              func(s *observe.Snapshot) { s.At = now.Add(-time.Hour) },
		} {
			g := f
			snapshot := *f.Snapshot
			spoil(&snapshot)
			g.Snapshot = &snapshot
			if s := Node(g); s.Reason == tt.reason {
				t.Errorf("%s, said by %s: %+v", tt.name, what, s)
			}
		}
	}
}

func TestShort(t *testing.T) {
	refused := Stall(v1alpha1.ReasonExpansionRefused, "it cannot grow")
	for _, tt := range []struct {
		s, refused, want *State
	}{
		{Rest("R", "m"), nil, Rest("R", "m")},
		{Rest("R", "m"), refused, refused},
		{Wait("R", "m"), refused, Wait("R", "m")},
		{Stall("R", "m"), refused, Stall("R", "m")},
		{Suspend("m"), refused, Suspend("m")},
		{Stall(v1alpha1.ReasonStorageFull, "m"), refused, Stall(v1alpha1.ReasonStorageFull, "m; it cannot grow")},
	} {
		if got := Short(tt.s, tt.refused); *got != *tt.want {
			t.Errorf("%v, %v: %v, want %v", tt.s, tt.refused, got, tt.want)
		}
	}
}
