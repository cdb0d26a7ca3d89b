package conditions

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/koi-net/koi-operator/api/v1alpha1"
	"github.com/koi-net/koi-operator/controllers/internal/observe"
	"github.com/koi-net/koi-operator/controllers/internal/resources"
)

// NodeFacts is what is known about a node that is deployed.
type NodeFacts struct {
	Node       *v1alpha1.KoiNode
	RID        string
	ConfigHash string
	Deployment *appsv1.Deployment // nil until it is seen
	Pods       []corev1.Pod
	Snapshot   *observe.Snapshot // nil until it answered or failed to
	// Asked: it is being asked, so without a Snapshot there will be one in a moment.
	Asked    bool
	Now      time.Time
	Interval time.Duration
}

// Node says how a deployed node fares. Ready takes three witnesses: the
// Deployment is rolled out, the pod is well, and the node itself said within
// the last interval that it is ready and runs this configuration.
func Node(f NodeFacts) *State {
	if f.Node.Spec.Suspend {
		if d := f.Deployment; d == nil || d.Status.ObservedGeneration < d.Generation || d.Status.Replicas > 0 {
			return Wait(v1alpha1.ReasonSuspended, "the node is being stopped")
		}
		return Suspend("the node is suspended: it has no pod; its store and identity are kept")
	}
	rolledOut := deployed(f.Deployment, f.ConfigHash)
	if !rolledOut || !f.Snapshot.Fresh(f.Now, f.Interval) {
		if s := Pods(f.Pods); s != nil {
			return s
		}
	}
	if !rolledOut {
		// A pod that is not ready may be asked why.
		if s := f.Snapshot; s.Fresh(f.Now, f.Interval) && string(s.Status.RID) == f.RID && s.Status.ConfigHash == f.ConfigHash && !s.Status.Ready {
			return unready(f)
		}
		return Wait(v1alpha1.ReasonDeploying, "the pod is being started")
	}
	return confirmed(f)
}

// Short is the state of a node for which a part of its spec was refused: it
// runs, and yet is not as it should be. refused is nil where nothing was.
func Short(s, refused *State) *State {
	switch {
	case refused == nil:
		return s
	case s.Kind == Ready:
		return refused
	case s.Reason == v1alpha1.ReasonStorageFull:
		return Stall(s.Reason, "%s; %s", s.Message, refused.Message)
	}
	return s
}

func confirmed(f NodeFacts) *State {
	s := f.Snapshot
	if !s.Fresh(f.Now, f.Interval) {
		if s != nil && s.Err != nil {
			return Wait(v1alpha1.ReasonNodeUnreachable, "the node's admin API does not answer: %v", s.Err)
		}
		if s == nil && f.Asked && f.Node.Status.ObservedGeneration == f.Node.Generation {
			// An operator that has just begun takes nothing back before it was answered.
			if before := Of(f.Node.Status.Conditions); before != nil && before.Kind != Suspended {
				return before
			}
		}
		return Wait(v1alpha1.ReasonNodeUnreachable, "the node's admin API was not asked yet")
	}
	switch {
	case string(s.Status.RID) != f.RID:
		return Stall(v1alpha1.ReasonIdentityMismatch, "the running node says it is %s, and its identity Secret says %s: "+
			"restore the Secret %s, or delete the pod if the Secret is right", s.Status.RID, f.RID, f.Node.IdentitySecretName())
	case s.Status.ConfigHash != f.ConfigHash:
		return Wait(v1alpha1.ReasonDeploying, "the node still runs another configuration")
	case !s.Status.Ready:
		return unready(f)
	}
	return Rest(v1alpha1.ReasonReady, "the node runs and answers")
}

// unready is the state of a node that says itself that it is not ready.
func unready(f NodeFacts) *State {
	for _, c := range f.Snapshot.Status.Checks {
		if c.Name == "store" && !c.OK && noRoom(c.Message) {
			return Stall(v1alpha1.ReasonStorageFull, "the node's volume has no room left (%s); it still serves what it has and accepts nothing: %s",
				c.Message, moreRoom(f.Node))
		}
	}
	return Wait(v1alpha1.ReasonNodeNotReady, "the node says it is not ready: %s", failing(f.Snapshot))
}

// noRoom tells whether a store's message is about room.
func noRoom(message string) bool {
	m := strings.ToLower(message)
	return strings.Contains(m, "full") || strings.Contains(m, "no room") || strings.Contains(m, "no space")
}

// moreRoom says what a person can do for a node whose volume is full.
func moreRoom(n *v1alpha1.KoiNode) string {
	have := resources.StorageSize(n)
	if n.IsEphemeral() {
		return fmt.Sprintf("raise spec.storage.size, now %s, which restarts the node with an empty store, or have it forget what is not needed (koi-node forget)", have.String())
	}
	return fmt.Sprintf("raise spec.storage.size, now %s, where the storage class expands volumes, or have the node forget what is not needed (koi-node forget)", have.String())
}

func failing(s *observe.Snapshot) string {
	var out []string
	for _, c := range s.Status.Checks {
		if !c.OK {
			out = append(out, strings.TrimSuffix(c.Name+": "+c.Message, ": "))
		}
	}
	if len(out) == 0 {
		return "no check says why"
	}
	return strings.Join(out, "; ")
}

// deployed tells whether the Deployment's present generation is rolled out and
// is the one with this configuration.
func deployed(d *appsv1.Deployment, hash string) bool {
	return d != nil &&
		d.Spec.Template.Annotations[v1alpha1.AnnotationConfigHash] == hash &&
		d.Status.ObservedGeneration >= d.Generation &&
		d.Status.UpdatedReplicas == 1 && d.Status.Replicas == 1 && d.Status.AvailableReplicas == 1
}

// Pods says what keeps a node's pod from running, nil if nothing is seen.
func Pods(pods []corev1.Pod) *State {
	for i := range pods {
		if pods[i].DeletionTimestamp != nil {
			continue
		}
		if s := podState(&pods[i]); s != nil {
			return s
		}
	}
	return nil
}

func podState(pod *corev1.Pod) *State {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse && c.Reason == corev1.PodReasonUnschedulable {
			return Wait(v1alpha1.ReasonUnschedulable, "the pod %s cannot be scheduled: %s", pod.Name, c.Message)
		}
	}
	for _, c := range append(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses...) {
		if w := c.State.Waiting; w != nil {
			switch w.Reason {
			case "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull":
				return Wait(v1alpha1.ReasonImagePull, "the image %s cannot be pulled: %s", c.Image, w.Message)
			case "CreateContainerConfigError", "CreateContainerError", "RunContainerError":
				return Wait(v1alpha1.ReasonCrashed, "the container %s of pod %s cannot be started: %s", c.Name, pod.Name, w.Message)
			}
		}
		if c.Name == resources.ContainerName && !c.Ready {
			if t := lastTermination(c); t != nil && t.ExitCode != 0 {
				return terminated(pod.Name, t)
			}
		}
	}
	return nil
}

func lastTermination(c corev1.ContainerStatus) *corev1.ContainerStateTerminated {
	if c.State.Terminated != nil {
		return c.State.Terminated
	}
	if c.State.Waiting != nil { // running again: let it speak for itself
		return c.LastTerminationState.Terminated
	}
	return nil
}

// terminated turns a container's last words into a State: koi-node leaves
// {"reason","message"} in its termination log.
func terminated(pod string, t *corev1.ContainerStateTerminated) *State {
	var said struct {
		Reason  string `json:"reason"`
		Message string `json:"message"`
	}
	if err := json.Unmarshal([]byte(t.Message), &said); err != nil || said.Reason == "" {
		detail := t.Reason
		if t.Message != "" {
			detail = strings.TrimSpace(t.Message)
		}
		return Wait(v1alpha1.ReasonCrashed, "the node ended with exit code %d (%s); see kubectl logs --previous %s", t.ExitCode, detail, pod)
	}
	switch said.Reason {
	case v1alpha1.ReasonStoreDamaged, v1alpha1.ReasonIdentityMismatch, v1alpha1.ReasonBadConfig:
		return Stall(said.Reason, "%s", said.Message)
	case v1alpha1.ReasonStoreLocked:
		return Wait(said.Reason, "%s", said.Message)
	}
	return Wait(v1alpha1.ReasonCrashed, "%s: %s", said.Reason, said.Message)
}

// UpgradeAvailable is the condition that another image is the default.
func UpgradeAvailable(reason, have, latest string) metav1.Condition {
	return metav1.Condition{
		Type: v1alpha1.ConditionUpgradeAvailable, Status: metav1.ConditionTrue, Reason: reason,
		Message: fmt.Sprintf("the node runs %s; the operator's default is %s", have, latest),
	}
}

// StoreReplaced is the condition that lasting storage holds another store.
func StoreReplaced(was, is string) metav1.Condition {
	return metav1.Condition{
		Type: v1alpha1.ConditionStoreReplaced, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonStoreReplaced,
		Message: fmt.Sprintf("the volume holds store %s where it held %s: what the node knew is gone unless it is restored; "+
			"accept it with the annotation %s=%s", is, was, v1alpha1.AnnotationAcceptStore, is),
	}
}

// Reachable is the condition of a node that runs elsewhere, by what the nodes here
// see of it: those that were asked, of which there is one at least.
func Reachable(s observe.Sight) metav1.Condition {
	c := metav1.Condition{Type: v1alpha1.ConditionReachable}
	if s.Reach == s.Asked {
		c.Status, c.Reason = metav1.ConditionTrue, v1alpha1.ReasonContactReached
		c.Message = "the nodes here that have an edge with it reach it"
		return c
	}
	c.Status, c.Reason = metav1.ConditionFalse, v1alpha1.ReasonContactUnreached
	who := "no node here that has an edge with it reaches it"
	if s.Reach > 0 {
		c.Status = metav1.ConditionTrue
		who = "not every node here that has an edge with it reaches it"
	}
	c.Message = fmt.Sprintf("%s; %s: %s", who, s.By.Name, short(s.Why))
	return c
}

// short bounds what of a node's words goes into a message.
func short(text string) string {
	const most = 300
	if r := []rune(text); len(r) > most {
		return string(r[:most]) + "…"
	}
	return text
}

// FirstContact is the condition of a node that has a first contact; missing
// says that the KoiNode it names does not exist.
func FirstContact(missing string, s *observe.Snapshot) (metav1.Condition, bool) {
	c := metav1.Condition{Type: v1alpha1.ConditionFirstContact, Status: metav1.ConditionFalse}
	switch {
	case missing != "":
		c.Reason, c.Message = v1alpha1.ReasonContactMissing, missing
	case s == nil || s.Status.FirstContact == nil:
		return c, false
	case s.Status.FirstContact.Reached:
		c.Status, c.Reason, c.Message = metav1.ConditionTrue, v1alpha1.ReasonContactReached, "the first contact answered"
	default:
		c.Reason, c.Message = v1alpha1.ReasonContactUnreached, s.Status.FirstContact.Message
		if c.Message == "" {
			c.Message = "the first contact did not answer yet"
		}
	}
	return c, true
}
