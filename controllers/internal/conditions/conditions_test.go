package conditions

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/koi-net/koi-operator/api/v1alpha1"
	"github.com/koi-net/koi-operator/controllers/internal/observe"
	"github.com/koi-net/koi-operator/node/admin/client"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// An object rests with Ready or Suspended alone; otherwise exactly one of
// Reconciling and Stalled says what Ready says.
func TestSetKeepsKstatusTrue(t *testing.T) {
	for _, s := range []*State{Rest("R", "m"), Wait("R", "m"), Stall("R", "m"), Suspend("m")} {
		conditions := Set(nil, 7, now, s)
		var types []string
		for _, c := range conditions {
			types = append(types, c.Type+"="+string(c.Status))
			if c.ObservedGeneration != 7 || c.Message != "m" || c.Reason == "" || !c.LastTransitionTime.Time.Equal(now) {
				t.Errorf("%+v", c)
			}
		}
		want := map[Kind][]string{
			Ready:     {"Ready=True"},
			Waiting:   {"Ready=False", "Reconciling=True"},
			Stalled:   {"Ready=False", "Stalled=True"},
			Suspended: {"Suspended=True"},
		}[s.Kind]
		if !slices.Equal(types, want) {
			t.Errorf("%v: %v, want %v", s, types, want)
		}
		if back := Of(conditions); back == nil || back.Kind != s.Kind || back.Reason != s.Reason || back.Message != "m" {
			t.Errorf("%v reads as %v", s, back)
		}
	}
	if Of(nil) != nil {
		t.Error("no conditions speak of a state")
	}
}

func TestSetKeepsTransitionTimes(t *testing.T) {
	first := Set(nil, 1, now, Wait("A", "a"))
	second := Set(first, 2, now.Add(time.Hour), Wait("B", "b"))
	for _, c := range second {
		if !c.LastTransitionTime.Time.Equal(now) {
			t.Errorf("%s moved without a change of status", c.Type)
		}
	}
	third := Set(second, 2, now.Add(2*time.Hour), Rest("C", "c"))
	if !third[0].LastTransitionTime.Time.Equal(now.Add(2 * time.Hour)) {
		t.Errorf("%+v", third[0])
	}
	long := Set(nil, 1, now, Wait("A", "%s", strings.Repeat("x", 2*maxMessage)))
	if len(long[0].Message) != maxMessage {
		t.Errorf("a message of %d", len(long[0].Message))
	}
}

func rolledOut() *appsv1.Deployment {
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Generation: 3}}
	d.Spec.Template.Annotations = map[string]string{v1alpha1.AnnotationConfigHash: "h"}
	d.Status = appsv1.DeploymentStatus{ObservedGeneration: 3, Replicas: 1, UpdatedReplicas: 1, AvailableReplicas: 1}
	return d
}

func answered() *observe.Snapshot {
	return &observe.Snapshot{At: now.Add(-30 * time.Second), Status: client.Status{RID: "orn:koi-net.node:a+b", ConfigHash: "h", Ready: true}}
}

func TestNode(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*NodeFacts)
		kind   Kind
		reason string
	}{
		{"all well", func(*NodeFacts) {}, Ready, v1alpha1.ReasonReady},
		{"no Deployment", func(f *NodeFacts) { f.Deployment = nil }, Waiting, v1alpha1.ReasonDeploying},
		{"generation not seen", func(f *NodeFacts) { f.Deployment.Generation = 4 }, Waiting, v1alpha1.ReasonDeploying},
		{"old pod still there", func(f *NodeFacts) { f.Deployment.Status.Replicas = 2 }, Waiting, v1alpha1.ReasonDeploying},
		{"not available", func(f *NodeFacts) { f.Deployment.Status.AvailableReplicas = 0 }, Waiting, v1alpha1.ReasonDeploying},
		{"another configuration rolled out", func(f *NodeFacts) { f.ConfigHash = "i" }, Waiting, v1alpha1.ReasonDeploying},
		{"node runs another configuration", func(f *NodeFacts) { f.Snapshot.Status.ConfigHash = "i" }, Waiting, v1alpha1.ReasonDeploying},
		{"never asked", func(f *NodeFacts) { f.Snapshot = nil }, Waiting, v1alpha1.ReasonNodeUnreachable},
		{"answer too old", func(f *NodeFacts) { f.Snapshot.At = now.Add(-61 * time.Second) }, Waiting, v1alpha1.ReasonNodeUnreachable},
		{"one answer missed", func(f *NodeFacts) { f.Snapshot.Err = errors.New("refused") }, Ready, v1alpha1.ReasonReady},
		{"not ready", func(f *NodeFacts) { f.Snapshot.Status.Ready = false }, Waiting, v1alpha1.ReasonNodeNotReady},
		{"another RID", func(f *NodeFacts) { f.Snapshot.Status.RID = "orn:koi-net.node:c+d" }, Stalled, v1alpha1.ReasonIdentityMismatch},
		{"suspended, stopping", func(f *NodeFacts) { f.Node.Spec.Suspend = true }, Waiting, v1alpha1.ReasonSuspended},
		{"suspended a moment ago", func(f *NodeFacts) { f.Node.Spec.Suspend, f.Deployment = true, nil }, Waiting, v1alpha1.ReasonSuspended},
		{"suspended, not seen yet", func(f *NodeFacts) {
			f.Node.Spec.Suspend, f.Deployment.Status.Replicas, f.Deployment.Generation = true, 0, 4
		}, Waiting, v1alpha1.ReasonSuspended},
		{"suspended", func(f *NodeFacts) { f.Node.Spec.Suspend, f.Deployment.Status.Replicas = true, 0 }, Suspended, v1alpha1.ReasonSuspended},
		{"not heard yet, but ready before the operator began", func(f *NodeFacts) {
			f.Snapshot, f.Asked = nil, true
			f.Node.Status.Conditions = Set(nil, 0, now, Rest(v1alpha1.ReasonReady, "m"))
		}, Ready, v1alpha1.ReasonReady},
		{"not heard yet, and full before the operator began", func(f *NodeFacts) {
			f.Snapshot, f.Asked = nil, true
			f.Node.Status.Conditions = Set(nil, 0, now, Stall(v1alpha1.ReasonStorageFull, "m"))
		}, Stalled, v1alpha1.ReasonStorageFull},
		{"not heard yet, and suspended before", func(f *NodeFacts) {
			f.Snapshot, f.Asked = nil, true
			f.Node.Status.Conditions = Set(nil, 0, now, Suspend("m"))
		}, Waiting, v1alpha1.ReasonNodeUnreachable},
		{"nowhere to ask, and ready before", func(f *NodeFacts) {
			f.Snapshot = nil
			f.Node.Status.Conditions = Set(nil, 0, now, Rest(v1alpha1.ReasonReady, "m"))
		}, Waiting, v1alpha1.ReasonNodeUnreachable},
		{"silent, and ready before", func(f *NodeFacts) {
			f.Snapshot = &observe.Snapshot{Err: errors.New("refused")}
			f.Node.Status.Conditions = Set(nil, 0, now, Rest(v1alpha1.ReasonReady, "m"))
		}, Waiting, v1alpha1.ReasonNodeUnreachable},
		{"never asked, and another generation was ready", func(f *NodeFacts) {
			f.Snapshot, f.Asked, f.Node.Generation = nil, true, 1
			f.Node.Status.Conditions = Set(nil, 0, now, Rest(v1alpha1.ReasonReady, "m"))
		}, Waiting, v1alpha1.ReasonNodeUnreachable},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := NodeFacts{Node: &v1alpha1.KoiNode{}, RID: "orn:koi-net.node:a+b", ConfigHash: "h", Deployment: rolledOut(),
				Snapshot: answered(), Now: now, Interval: time.Minute}
			tt.change(&f)
			if s := Node(f); s.Kind != tt.kind || s.Reason != tt.reason || s.Message == "" {
				t.Errorf("%+v", s)
			}
		})
	}
}

func TestPods(t *testing.T) {
	container := func(c corev1.ContainerStatus) corev1.Pod {
		c.Name = "node"
		return corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{c}}}
	}
	waiting := func(reason string) corev1.ContainerState {
		return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: "why"}}
	}
	ended := func(code int32, message string) *corev1.ContainerStateTerminated {
		return &corev1.ContainerStateTerminated{ExitCode: code, Message: message, Reason: "Error"}
	}
	said := func(message string) corev1.Pod {
		return container(corev1.ContainerStatus{State: waiting("CrashLoopBackOff"), LastTerminationState: corev1.ContainerState{Terminated: ended(10, message)}})
	}
	for _, tt := range []struct {
		name, reason, message string
		stalled               bool
		pod                   corev1.Pod
	}{
		{name: "nothing known", pod: corev1.Pod{}},
		{name: "running", pod: container(corev1.ContainerStatus{Ready: true, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}, LastTerminationState: corev1.ContainerState{Terminated: ended(1, "")}})},
		{name: "starting again", pod: container(corev1.ContainerStatus{State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}, LastTerminationState: corev1.ContainerState{Terminated: ended(1, "")}})},
		{name: "ended well", pod: container(corev1.ContainerStatus{State: corev1.ContainerState{Terminated: ended(0, "")}})},
		{name: "unschedulable", reason: v1alpha1.ReasonUnschedulable, message: "no volume", pod: corev1.Pod{Status: corev1.PodStatus{Conditions: []corev1.PodCondition{
			{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable, Message: "no volume"}}}}},
		{name: "image", reason: v1alpha1.ReasonImagePull, message: "why", pod: container(corev1.ContainerStatus{State: waiting("ImagePullBackOff")})},
		{name: "config error", reason: v1alpha1.ReasonCrashed, message: "why", pod: container(corev1.ContainerStatus{State: waiting("CreateContainerConfigError")})},
		{name: "store damaged", reason: v1alpha1.ReasonStoreDamaged, message: "restore it", stalled: true, pod: said(`{"reason":"StoreDamaged","message":"restore it"}`)},
		{name: "bad config", reason: v1alpha1.ReasonBadConfig, message: "m", stalled: true, pod: said(`{"reason":"BadConfig","message":"m"}`)},
		{name: "identity", reason: v1alpha1.ReasonIdentityMismatch, message: "m", stalled: true, pod: said(`{"reason":"IdentityMismatch","message":"m"}`)},
		{name: "store locked", reason: v1alpha1.ReasonStoreLocked, message: "m", pod: said(`{"reason":"StoreLocked","message":"m"}`)},
		{name: "another reason", reason: v1alpha1.ReasonCrashed, message: "Odd: m", pod: said(`{"reason":"Odd","message":"m"}`)},
		{name: "no JSON", reason: v1alpha1.ReasonCrashed, message: "exit code 10 (panic)", pod: said("panic\n")},
		{name: "no words", reason: v1alpha1.ReasonCrashed, message: "exit code 10 (Error)", pod: said("")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := Pods([]corev1.Pod{tt.pod})
			if tt.reason == "" {
				if s != nil {
					t.Errorf("%+v", s)
				}
				return
			}
			if s == nil || s.Reason != tt.reason || !strings.Contains(s.Message, tt.message) || (s.Kind == Stalled) != tt.stalled {
				t.Errorf("%+v", s)
			}
			going := tt.pod
			going.DeletionTimestamp = &metav1.Time{Time: now}
			if s := Pods([]corev1.Pod{going}); s != nil {
				t.Errorf("of a pod that goes: %+v", s)
			}
		})
	}
}

func TestFirstContact(t *testing.T) {
	with := func(f *client.FirstContact) *observe.Snapshot {
		return &observe.Snapshot{Status: client.Status{FirstContact: f}}
	}
	for _, tt := range []struct {
		missing string
		s       *observe.Snapshot
		ok      bool
		reason  string
	}{
		{"there is none", nil, true, v1alpha1.ReasonContactMissing},
		{"", nil, false, ""},
		{"", with(nil), false, ""},
		{"", with(&client.FirstContact{Reached: true}), true, v1alpha1.ReasonContactReached},
		{"", with(&client.FirstContact{}), true, v1alpha1.ReasonContactUnreached},
	} {
		c, ok := FirstContact(tt.missing, tt.s)
		if ok != tt.ok || c.Reason != tt.reason || ok && c.Message == "" {
			t.Errorf("%+v: %+v, %t", tt, c, ok)
		}
		if meta.IsStatusConditionTrue([]metav1.Condition{c}, v1alpha1.ConditionFirstContact) != (tt.reason == v1alpha1.ReasonContactReached) {
			t.Errorf("%+v", c)
		}
	}
}
