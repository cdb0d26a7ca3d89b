package controllers_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/koi-net/koi-operator/api/v1alpha1"
	"github.com/koi-net/koi-operator/controllers"
)

func TestNodeBecomesReady(t *testing.T) {
	w := newWorld(t)
	w.create(full("sensor", provides("orn:git.commit")))
	n := w.node("sensor", v1alpha1.ReasonReady)
	if n.Status.RID == "" || n.Status.PublicKey == "" || n.Status.Image != nodeImage || n.Status.Version != "1.2.3" || n.Status.StoreID != "store-sensor" {
		t.Errorf("status: %+v", n.Status)
	}
	if want := "http://sensor." + w.ns + ".svc:8000/koi-net"; n.Status.BaseURL != want {
		t.Errorf("base URL %q, want %q", n.Status.BaseURL, want)
	}
	for _, o := range []struct {
		name  string
		o     client.Object
		owned bool
	}{
		{"sensor", &corev1.ServiceAccount{}, true},
		{"sensor-config", &corev1.ConfigMap{}, true},
		{"sensor-admin", &corev1.Secret{}, true},
		{"sensor-identity", &corev1.Secret{}, false},
		{"sensor-data", &corev1.PersistentVolumeClaim{}, false},
		{"sensor", &corev1.Service{}, true},
		{"sensor", &appsv1.Deployment{}, true},
	} {
		w.must(o.name, o.o)
		if owned := len(o.o.GetOwnerReferences()) > 0; owned != o.owned {
			t.Errorf("%T %s: owned %t, want %t", o.o, o.name, owned, o.owned)
		}
	}
	if w.get("sensor", &networkingv1.NetworkPolicy{}) {
		t.Error("there is a NetworkPolicy nobody asked for")
	}
}

func TestPartialNodeHasNoService(t *testing.T) {
	w := newWorld(t)
	w.create(partial("reader"))
	if n := w.node("reader", v1alpha1.ReasonReady); n.Status.BaseURL != "" {
		t.Errorf("base URL %q of a partial node", n.Status.BaseURL)
	}
	if w.get("reader", &corev1.Service{}) {
		t.Error("there is a Service")
	}
}

func TestDriftIsUndone(t *testing.T) {
	w := newWorld(t)
	w.create(full("a"))
	w.node("a", v1alpha1.ReasonReady)

	t.Log("changed")
	change(w, "a", &appsv1.Deployment{}, func(d *appsv1.Deployment) {
		d.Spec.Replicas = ptr.To(int32(3))
		d.Spec.Template.Spec.Containers[0].Image = "evil"
		d.Spec.Template.Spec.Containers[0].SecurityContext = nil
	})
	change(w, "a", &corev1.Service{}, func(s *corev1.Service) { s.Spec.Selector = map[string]string{"x": "y"} })
	change(w, "a-config", &corev1.ConfigMap{}, func(c *corev1.ConfigMap) { c.Data["config.yaml"] = "name: b\n" })
	w.eventually("the changes are undone", func() string {
		var d appsv1.Deployment
		var s corev1.Service
		var c corev1.ConfigMap
		w.must("a", &d)
		w.must("a", &s)
		w.must("a-config", &c)
		switch {
		case *d.Spec.Replicas != 1, d.Spec.Template.Spec.Containers[0].Image != nodeImage, d.Spec.Template.Spec.Containers[0].SecurityContext == nil:
			return "Deployment"
		case s.Spec.Selector["x"] != "", s.Spec.Selector[v1alpha1.LabelNode] != "a":
			return "Service"
		case !strings.Contains(c.Data["config.yaml"], "name: a\n"):
			return "ConfigMap"
		}
		return ""
	})

	t.Log("deleted")
	uids := map[client.Object]string{}
	for _, o := range []client.Object{&appsv1.Deployment{}, &corev1.Service{}, &corev1.ServiceAccount{}} {
		w.must("a", o)
		uids[o] = string(o.GetUID())
		w.delete(o)
	}
	for o, uid := range uids {
		w.eventually("it is there again", func() string {
			if !w.get("a", o) || string(o.GetUID()) == uid {
				return "not yet"
			}
			return ""
		})
	}

	t.Log("what others own is left alone")
	change(w, "a", &appsv1.Deployment{}, func(d *appsv1.Deployment) { metav1.SetMetaDataAnnotation(&d.ObjectMeta, "x", "y") })
	change(w, "a", &v1alpha1.KoiNode{}, func(n *v1alpha1.KoiNode) { n.Spec.Coordinator = true })
	w.node("a", v1alpha1.ReasonReady)
	var d appsv1.Deployment
	w.must("a", &d)
	if d.Annotations["x"] != "y" {
		t.Error("a foreign annotation was removed")
	}
}

func TestConfigChangeRolls(t *testing.T) {
	w := newWorld(t)
	w.create(full("a"))
	w.node("a", v1alpha1.ReasonReady)
	var d appsv1.Deployment
	w.must("a", &d)
	before := d.Spec.Template.Annotations[v1alpha1.AnnotationConfigHash]
	change(w, "a", &v1alpha1.KoiNode{}, func(n *v1alpha1.KoiNode) { manual(&n.Spec) })
	w.node("a", v1alpha1.ReasonReady)
	w.must("a", &d)
	if after := d.Spec.Template.Annotations[v1alpha1.AnnotationConfigHash]; after == before || after == "" {
		t.Errorf("config hash %q, before %q", after, before)
	}
}

func TestNodeSaysItIsNotReady(t *testing.T) {
	w := newWorld(t)
	w.create(full("a"))
	w.node("a", v1alpha1.ReasonReady)
	w.net.at("a", func(f *fakeNode) { f.ready = false })
	n := w.node("a", v1alpha1.ReasonNodeNotReady)
	if c := meta.FindStatusCondition(n.Status.Conditions, v1alpha1.ConditionReady); !strings.Contains(c.Message, "the store is closed") {
		t.Errorf("message: %s", c.Message)
	}
	w.net.at("a", func(f *fakeNode) { f.ready = true })
	w.node("a", v1alpha1.ReasonReady)
}

func TestIdentityOutlivesTheNode(t *testing.T) {
	w := newWorld(t)
	node := full("a")
	w.create(node)
	first := w.node("a", v1alpha1.ReasonReady).Status
	w.delete(node)
	w.gone("a", &v1alpha1.KoiNode{})
	w.must("a-identity", &corev1.Secret{})
	w.must("a-data", &corev1.PersistentVolumeClaim{})
	w.collect("a")
	w.create(full("a"))
	if again := w.node("a", v1alpha1.ReasonReady).Status; again.RID != first.RID || again.PublicKey != first.PublicKey {
		t.Errorf("RID %s, before %s", again.RID, first.RID)
	}
}

func TestUnsignedIdentity(t *testing.T) {
	w := newWorld(t)
	w.create(full("a", func(s *v1alpha1.KoiNodeSpec) {
		s.Security = &v1alpha1.Security{Mode: v1alpha1.SecurityUnsigned}
		s.Identity = &v1alpha1.Identity{Name: "other"}
	}))
	s := w.node("a", v1alpha1.ReasonReady).Status
	if !strings.HasPrefix(s.RID, "orn:koi-net.node:other+") || s.PublicKey != "" {
		t.Errorf("%+v", s)
	}
	var secret corev1.Secret
	w.must("a-identity", &secret)
	if len(secret.Data) != 1 || string(secret.Data["rid"]) != s.RID {
		t.Errorf("the Secret has %d keys", len(secret.Data))
	}
}

func TestIdentityLostOrChanged(t *testing.T) {
	w := newWorld(t)
	w.create(full("a"), full("b"))
	rid := w.node("a", v1alpha1.ReasonReady).Status.RID
	w.node("b", v1alpha1.ReasonReady)
	var a, b corev1.Secret
	w.must("a-identity", &a)
	w.must("b-identity", &b)

	w.delete(&a)
	n := w.node("a", v1alpha1.ReasonIdentityLost)
	if n.Status.RID != rid || !meta.IsStatusConditionTrue(n.Status.Conditions, v1alpha1.ConditionStalled) {
		t.Errorf("status: %+v", n.Status)
	}
	if w.get("a-identity", &corev1.Secret{}) {
		t.Error("the operator made a new identity")
	}

	// Another node's identity, put there by hand.
	w.create(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "a-identity"}, Data: b.Data})
	w.node("a", v1alpha1.ReasonIdentityMismatch)
	var foreign corev1.Secret
	w.must("a-identity", &foreign)
	if string(foreign.Data["rid"]) != string(b.Data["rid"]) {
		t.Error("the Secret was written to")
	}

	// Restored.
	change(w, "a-identity", &corev1.Secret{}, func(s *corev1.Secret) { s.Data = a.Data })
	if n := w.node("a", v1alpha1.ReasonReady); n.Status.RID != rid {
		t.Errorf("RID %s, before %s", n.Status.RID, rid)
	}
}

func TestObjectsOfOthersAreLeftAlone(t *testing.T) {
	w := newWorld(t)
	w.create(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 1}}}})
	w.create(full("a"))
	n := w.node("a", v1alpha1.ReasonConflict)
	if c := meta.FindStatusCondition(n.Status.Conditions, v1alpha1.ConditionStalled); c == nil || !strings.Contains(c.Message, "Service a") {
		t.Errorf("%+v", n.Status.Conditions)
	}
	var s corev1.Service
	w.must("a", &s)
	if s.Spec.Ports[0].Port != 1 {
		t.Error("the Service was taken over")
	}
	w.delete(&s)
	w.node("a", v1alpha1.ReasonReady)
}

func TestDeletion(t *testing.T) {
	w := newWorld(t)
	keep, drop := full("keep"), full("drop", func(s *v1alpha1.KoiNodeSpec) {
		s.Storage = &v1alpha1.Storage{DeletionPolicy: v1alpha1.DeletionDelete}
		s.Identity = &v1alpha1.Identity{DeletionPolicy: v1alpha1.DeletionDelete}
	})
	asleep := full("asleep", func(s *v1alpha1.KoiNodeSpec) { s.Suspend = true })
	w.create(keep, drop, asleep)
	w.node("keep", v1alpha1.ReasonReady)
	w.node("drop", v1alpha1.ReasonReady)
	w.node("asleep", v1alpha1.ReasonSuspended)
	leaving := w.net.named("keep")
	for _, n := range []client.Object{keep, drop, asleep} {
		w.delete(n)
		w.gone(n.GetName(), &v1alpha1.KoiNode{})
	}
	w.net.mu.Lock()
	if leaving.left != 1 {
		t.Errorf("the node took its leave %d times", leaving.left)
	}
	w.net.mu.Unlock()
	for _, name := range []string{"keep", "asleep"} {
		w.must(name+"-data", &corev1.PersistentVolumeClaim{})
		w.must(name+"-identity", &corev1.Secret{})
	}
	w.gone("drop-identity", &corev1.Secret{})
	w.eventually("the claim goes", func() string {
		var c corev1.PersistentVolumeClaim
		// Its protection finalizer is a controller's that does not run here.
		if w.get("drop-data", &c) && c.DeletionTimestamp == nil {
			return "it is not deleted"
		}
		return ""
	})
}

// A node that never comes up, or has gone silent, does not hold its object.
func TestDeletionOfSilentNode(t *testing.T) {
	w := newWorld(t)
	w.net.mu.Lock()
	w.net.down["a"] = true
	w.net.mu.Unlock()
	a, b := full("a"), full("b")
	w.create(a, b)
	w.node("a", v1alpha1.ReasonDeploying)
	w.node("b", v1alpha1.ReasonReady)
	w.net.mu.Lock()
	w.net.down["b"] = true
	w.net.mu.Unlock()
	w.node("b", v1alpha1.ReasonDeploying)
	for _, n := range []client.Object{a, b} {
		w.delete(n)
		w.gone(n.GetName(), &v1alpha1.KoiNode{})
	}
}

func TestSuspendAndResume(t *testing.T) {
	w := newWorld(t)
	w.create(full("a"))
	rid := w.node("a", v1alpha1.ReasonReady).Status.RID
	change(w, "a", &v1alpha1.KoiNode{}, func(n *v1alpha1.KoiNode) { n.Spec.Suspend = true })
	n := w.node("a", v1alpha1.ReasonSuspended)
	w.eventually("it rests", func() string {
		w.must("a", n)
		if len(n.Status.Conditions) != 1 || n.Status.Conditions[0].Type != v1alpha1.ConditionSuspended {
			return "conditions besides Suspended"
		}
		return ""
	})
	w.net.mu.Lock()
	if w.net.names["a"].left != 0 {
		t.Error("a suspended node took its leave")
	}
	w.net.mu.Unlock()
	change(w, "a", &v1alpha1.KoiNode{}, func(n *v1alpha1.KoiNode) { n.Spec.Suspend = false })
	if n := w.node("a", v1alpha1.ReasonReady); n.Status.RID != rid {
		t.Errorf("RID %s, before %s", n.Status.RID, rid)
	}
}

func TestFirstContact(t *testing.T) {
	w := newWorld(t)
	w.create(full("late", func(s *v1alpha1.KoiNodeSpec) {
		s.FirstContact = &v1alpha1.FirstContact{NodeRef: &v1alpha1.NodeReference{Name: "coordinator"}}
	}))
	n := w.node("late", v1alpha1.ReasonReady)
	if c := meta.FindStatusCondition(n.Status.Conditions, v1alpha1.ConditionFirstContact); c == nil || c.Reason != v1alpha1.ReasonContactMissing {
		t.Errorf("%+v", n.Status.Conditions)
	}
	w.create(full("coordinator", func(s *v1alpha1.KoiNodeSpec) { s.Coordinator = true }))
	rid := w.node("coordinator", v1alpha1.ReasonReady).Status.RID
	w.eventually("the newcomer knows its first contact", func() string {
		var c corev1.ConfigMap
		w.must("late-config", &c)
		text := c.Data["config.yaml"]
		if !strings.Contains(text, "first-contact: http://coordinator."+w.ns+".svc:8000/koi-net\n") || !strings.Contains(text, rid) {
			return text
		}
		return ""
	})
	w.node("late", v1alpha1.ReasonReady)
}

func TestExternalNode(t *testing.T) {
	w := newWorld(t)
	far := w.net.elsewhere("far")
	w.create(full("far", func(s *v1alpha1.KoiNodeSpec) {
		s.External = &v1alpha1.External{RID: v1alpha1.NodeRID(far.rid), BaseURL: "http://far.example.org/koi-net/"}
	}))
	n := w.node("far", v1alpha1.ReasonExternal)
	if n.Status.RID != string(far.rid) || n.Status.BaseURL != "http://far.example.org/koi-net" {
		t.Errorf("status: %+v", n.Status)
	}
	for _, o := range []client.Object{&appsv1.Deployment{}, &corev1.Service{}, &corev1.ServiceAccount{}} {
		if w.get("far", o) {
			t.Errorf("there is a %T", o)
		}
	}
	w.create(full("newcomer", func(s *v1alpha1.KoiNodeSpec) {
		s.FirstContact = &v1alpha1.FirstContact{NodeRef: &v1alpha1.NodeReference{Name: "far"}}
	}))
	w.node("newcomer", v1alpha1.ReasonReady)
	var c corev1.ConfigMap
	w.must("newcomer-config", &c)
	if !strings.Contains(c.Data["config.yaml"], "first-contact: http://far.example.org/koi-net\n") {
		t.Errorf("configuration:\n%s", c.Data["config.yaml"])
	}

	reachable := func(status metav1.ConditionStatus, reason, words string) {
		t.Helper()
		w.eventually("Reachable is "+string(status)+", "+reason, func() string {
			w.must("far", n)
			c := meta.FindStatusCondition(n.Status.Conditions, v1alpha1.ConditionReachable)
			if c == nil || c.Status != status || c.Reason != reason || !strings.Contains(c.Message, words) {
				return fmt.Sprintf("%+v", c)
			}
			return ""
		})
	}
	if c := meta.FindStatusCondition(n.Status.Conditions, v1alpha1.ConditionReachable); c != nil {
		t.Errorf("nobody calls it: %+v", c)
	}
	w.create(edge("from-far", "far", "newcomer", "orn:x.y"))
	reachable(metav1.ConditionTrue, v1alpha1.ReasonContactReached, "reach it")
	w.net.mu.Lock()
	far.silent = "connection refused"
	w.net.mu.Unlock()
	reachable(metav1.ConditionFalse, v1alpha1.ReasonContactUnreached, "newcomer: connection refused")
	w.node("far", v1alpha1.ReasonExternal)

	w.delete(n)
	w.gone("far", &v1alpha1.KoiNode{})
}

// Nodes find their first contact again where the coordinator is replaced by another
// one, moves, or is named anew; and each has its own where there are several.
func TestCoordinatorsComeAndGo(t *testing.T) {
	w := newWorld(t)
	coordinator := func(name string) {
		w.create(full(name, func(s *v1alpha1.KoiNodeSpec) { s.Coordinator = true }))
		w.node(name, v1alpha1.ReasonReady)
	}
	contact := func(node, coordinator string) {
		t.Helper()
		w.eventually(node+" has "+coordinator+" as its first contact", func() string {
			var c corev1.ConfigMap
			if !w.get(node+"-config", &c) {
				return "it has no configuration"
			}
			var k v1alpha1.KoiNode
			w.must(coordinator, &k)
			text := c.Data["config.yaml"]
			if !strings.Contains(text, "first-contact: "+k.EffectiveBaseURL()+"\n") || !strings.Contains(text, "first-contact-rid: "+k.Status.RID+"\n") {
				return text
			}
			return ""
		})
		w.node(node, v1alpha1.ReasonReady)
	}
	member := func(name, coordinator string) {
		w.create(full(name, func(s *v1alpha1.KoiNodeSpec) {
			s.FirstContact = &v1alpha1.FirstContact{NodeRef: &v1alpha1.NodeReference{Name: coordinator}}
		}))
	}
	coordinator("c1")
	coordinator("c2")
	member("a", "c1")
	member("b", "c2")
	contact("a", "c1")
	contact("b", "c2")

	t.Log("replaced under its name, with another identity")
	var c1 v1alpha1.KoiNode
	w.must("c1", &c1)
	was := c1.Status.RID
	change(w, "c1", &c1, func(n *v1alpha1.KoiNode) {
		n.Spec.Identity = &v1alpha1.Identity{DeletionPolicy: v1alpha1.DeletionDelete}
	})
	w.delete(&c1)
	w.gone("c1", &v1alpha1.KoiNode{})
	w.says("a", v1alpha1.ReasonReady)
	w.eventually("its identity is gone", func() string {
		if w.get("c1-identity", &corev1.Secret{}) {
			return "it is still there"
		}
		return ""
	})
	w.collect("c1")
	coordinator("c1")
	w.must("c1", &c1)
	if c1.Status.RID == was {
		t.Fatal("the new coordinator has the old identity")
	}
	contact("a", "c1")

	t.Log("moved behind another URL")
	change(w, "c1", &c1, func(n *v1alpha1.KoiNode) { n.Spec.BaseURL = "https://koi.example.org/net" })
	contact("a", "c1")

	t.Log("named anew")
	coordinator("c3")
	change(w, "a", &v1alpha1.KoiNode{}, func(n *v1alpha1.KoiNode) { n.Spec.FirstContact.NodeRef.Name = "c3" })
	contact("a", "c3")
	contact("b", "c2")
}

func TestInvalidSpecStalls(t *testing.T) {
	w := newWorld(t)
	w.create(
		full("cidr", func(s *v1alpha1.KoiNodeSpec) {
			s.Security = &v1alpha1.Security{AllowedPeerCIDRs: []string{"300.0.0.0/8"}}
		}),
		full("template", func(s *v1alpha1.KoiNodeSpec) {
			s.PodTemplate = &runtime.RawExtension{Raw: []byte(`{"spec":{"containers":[{"name":"node","imgae":"x"}]}}`)}
		}),
		full("volume", func(s *v1alpha1.KoiNodeSpec) {
			s.PodTemplate = &runtime.RawExtension{Raw: []byte(`{"spec":{"containers":[{"name":"node","volumeMounts":[{"name":"nowhere","mountPath":"/x"}]}]}}`)}
		}),
	)
	for _, name := range []string{"cidr", "template", "volume"} {
		n := w.node(name, v1alpha1.ReasonInvalidSpec)
		if !meta.IsStatusConditionTrue(n.Status.Conditions, v1alpha1.ConditionStalled) {
			t.Errorf("%s: %+v", name, n.Status.Conditions)
		}
	}
	change(w, "cidr", &v1alpha1.KoiNode{}, func(n *v1alpha1.KoiNode) { n.Spec.Security = nil })
	w.node("cidr", v1alpha1.ReasonReady)
}

// What a pod that does not run says becomes the node's condition.
func TestPodTroubles(t *testing.T) {
	w := newWorld(t)
	w.net.mu.Lock()
	w.net.down["a"] = true
	w.net.mu.Unlock()
	w.create(full("a"))
	w.node("a", v1alpha1.ReasonDeploying)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "a-0", Labels: map[string]string{
			"app.kubernetes.io/name": "koi-node", "app.kubernetes.io/managed-by": "koi-operator", v1alpha1.LabelNode: "a",
		}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "node", Image: nodeImage}}},
	}
	w.create(pod)
	crash := func(message string) {
		change(w, "a-0", &corev1.Pod{}, func(p *corev1.Pod) {
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "node", Image: nodeImage, State: corev1.ContainerState{
				Terminated: &corev1.ContainerStateTerminated{ExitCode: 10, Message: message},
			}}}
			if err := w.client.Status().Update(t.Context(), p); err != nil {
				t.Log(err) // change tries again
			}
		})
	}
	crash(`{"reason":"StoreDamaged","message":"koi.db: the meta pages are gone; restore a backup"}`)
	n := w.node("a", v1alpha1.ReasonStoreDamaged)
	if !meta.IsStatusConditionTrue(n.Status.Conditions, v1alpha1.ConditionStalled) {
		t.Errorf("%+v", n.Status.Conditions)
	}
	crash(`{"reason":"StoreLocked","message":"koi.db is in use"}`)
	n = w.node("a", v1alpha1.ReasonStoreLocked)
	if !meta.IsStatusConditionTrue(n.Status.Conditions, v1alpha1.ConditionReconciling) {
		t.Errorf("%+v", n.Status.Conditions)
	}
	crash("panic: oh no")
	w.node("a", v1alpha1.ReasonCrashed)
}

func TestUpgrade(t *testing.T) {
	w := newWorld(t)
	automatic := func(s *v1alpha1.KoiNodeSpec) { s.Upgrade = v1alpha1.UpgradeAutomatic }
	w.create(full("manual"), full("auto-a", automatic), full("auto-b", automatic), full("own", func(s *v1alpha1.KoiNodeSpec) { s.Image = "mine:1" }))
	names := []string{"manual", "auto-a", "auto-b", "own"}
	generation := map[string]int64{}
	for _, n := range names {
		w.node(n, v1alpha1.ReasonReady)
		var d appsv1.Deployment
		w.must(n, &d)
		generation[n] = d.Generation
	}
	w.stop()
	const latest = "registry.test/koi-node:2"
	w.start(func(o *controllers.Options) { o.NodeImage = latest })
	for _, n := range []string{"auto-a", "auto-b"} {
		w.eventually(n+" is upgraded", func() string {
			if s := w.node(n, v1alpha1.ReasonReady).Status; s.Image != latest || meta.IsStatusConditionTrue(s.Conditions, v1alpha1.ConditionUpgradeAvailable) {
				return s.Image
			}
			return ""
		})
	}
	w.eventually("the manual node says that there is an upgrade", func() string {
		s := w.node("manual", v1alpha1.ReasonReady).Status
		if s.Image != nodeImage || !meta.IsStatusConditionTrue(s.Conditions, v1alpha1.ConditionUpgradeAvailable) {
			return s.Image
		}
		return ""
	})
	for _, n := range []string{"manual", "own"} {
		var d appsv1.Deployment
		w.must(n, &d)
		if d.Generation != generation[n] {
			t.Errorf("the operator's upgrade restarted %s", n)
		}
	}
}

func TestStoreReplaced(t *testing.T) {
	w := newWorld(t)
	w.create(full("a"))
	w.node("a", v1alpha1.ReasonReady)
	w.net.at("a", func(f *fakeNode) { f.storeID = "another" })
	w.eventually("the replaced store is reported", func() string {
		n := w.node("a", v1alpha1.ReasonReady)
		if !meta.IsStatusConditionTrue(n.Status.Conditions, v1alpha1.ConditionStoreReplaced) || n.Status.StoreID != "store-a" {
			return "not reported"
		}
		return ""
	})
	change(w, "a", &v1alpha1.KoiNode{}, func(n *v1alpha1.KoiNode) {
		metav1.SetMetaDataAnnotation(&n.ObjectMeta, v1alpha1.AnnotationAcceptStore, "another")
	})
	w.eventually("the store is accepted", func() string {
		n := w.node("a", v1alpha1.ReasonReady)
		if meta.FindStatusCondition(n.Status.Conditions, v1alpha1.ConditionStoreReplaced) != nil || n.Status.StoreID != "another" {
			return "not yet"
		}
		return ""
	})
}

func TestNetworkPolicyComesAndGoes(t *testing.T) {
	w := newWorld(t)
	w.create(full("a", func(s *v1alpha1.KoiNodeSpec) { s.NetworkPolicy = &v1alpha1.NetworkPolicy{Enabled: true} }))
	w.node("a", v1alpha1.ReasonReady)
	w.must("a", &networkingv1.NetworkPolicy{})
	change(w, "a", &v1alpha1.KoiNode{}, func(n *v1alpha1.KoiNode) { n.Spec.NetworkPolicy = nil })
	w.gone("a", &networkingv1.NetworkPolicy{})
}

func TestClaimNeverShrinks(t *testing.T) {
	w := newWorld(t)
	large := resource.MustParse("2Gi")
	w.create(full("a", func(s *v1alpha1.KoiNodeSpec) { s.Storage = &v1alpha1.Storage{Size: &large} }))
	w.node("a", v1alpha1.ReasonReady)
	change(w, "a", &v1alpha1.KoiNode{}, func(n *v1alpha1.KoiNode) { n.Spec.Storage = nil })
	w.node("a", v1alpha1.ReasonReady)
	var c corev1.PersistentVolumeClaim
	w.must("a-data", &c)
	if got := c.Spec.Resources.Requests[corev1.ResourceStorage]; got.Cmp(large) != 0 {
		t.Errorf("size %s", got.String())
	}
}

func TestEventsOnTransitions(t *testing.T) {
	w := newWorld(t)
	w.create(full("a"))
	w.node("a", v1alpha1.ReasonReady)
	w.eventually("there is an Event", func() string {
		if reasons := w.eventReasons("a"); !slices.Contains(reasons, v1alpha1.ReasonReady) {
			return strings.Join(reasons, " ")
		}
		return ""
	})
	before := len(w.eventReasons("a"))
	time.Sleep(2 * interval) // the claim is about time passing
	if after := w.eventReasons("a"); len(after) != before {
		t.Errorf("Events without a transition: %v", after[before:])
	}
}
