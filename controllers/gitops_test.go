package controllers_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/jsonmergepatch"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/koi-net/koi-operator/api/v1alpha1"
	"github.com/koi-net/koi-operator/controllers"
	"github.com/koi-net/koi-operator/node/rid"
)

// manifests are objects as people keep them in files: without a status.
func manifests(t *testing.T, objects ...client.Object) []*unstructured.Unstructured {
	t.Helper()
	var out []*unstructured.Unstructured
	for _, o := range objects {
		content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
		if err != nil {
			t.Fatal(err)
		}
		u := &unstructured.Unstructured{Object: content}
		kind := "KoiNode"
		if _, ok := o.(*v1alpha1.KoiEdge); ok {
			kind = "KoiEdge"
		}
		u.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind(kind))
		unstructured.RemoveNestedField(u.Object, "status")
		unstructured.RemoveNestedField(u.Object, "metadata", "creationTimestamp")
		out = append(out, u)
	}
	return out
}

// varied are the manifests of a world in which every kind of rest is found.
func varied(far rid.RID) []client.Object {
	approved := func(e *v1alpha1.KoiEdge, a v1alpha1.Approval) *v1alpha1.KoiEdge {
		e.Spec.Approval = a
		return e
	}
	return []client.Object{
		full("a", provides("orn:x.y"), func(s *v1alpha1.KoiNodeSpec) { s.NetworkPolicy = &v1alpha1.NetworkPolicy{Enabled: true} }),
		partial("b"),
		full("c", provides("orn:x.y"), manual, contact("a")),
		full("d", size("2Gi"), func(s *v1alpha1.KoiNodeSpec) {
			s.Interests = []v1alpha1.RIDType{"*"}
			s.Identity = &v1alpha1.Identity{Name: "other", DeletionPolicy: v1alpha1.DeletionDelete}
			s.Security = &v1alpha1.Security{AllowedPeerCIDRs: []string{"10.0.0.0/8"}, UnsignedPeers: v1alpha1.UnsignedPeersDeny}
			s.Service = &v1alpha1.Service{Annotations: map[string]string{"x": "y"}}
			s.Resources = &corev1.ResourceRequirements{}
			s.PodTemplate = &runtime.RawExtension{Raw: []byte(`{"spec":{"tolerations":[{"operator":"Exists"}],` +
				`"containers":[{"name":"node","livenessProbe":null},{"name":"sidecar","image":"side:1"}]}}`)}
		}),
		full("sleeper", suspended),
		full("far", func(s *v1alpha1.KoiNodeSpec) {
			s.External = &v1alpha1.External{RID: v1alpha1.NodeRID(far), BaseURL: "http://far.example.org/koi-net"}
		}),
		edge("by-policy", "a", "b", "orn:x.y"),
		approved(edge("by-hand", "c", "a", "orn:x.y"), v1alpha1.Approved),
		approved(edge("refused", "c", "b", "orn:x.y"), v1alpha1.Rejected),
		edge("waits", "c", "d", "orn:x.y"),
		edge("from-afar", "far", "b", "orn:x.y"),
		edge("asleep", "a", "sleeper", "orn:x.y"),
		edge("hopeless", "a", "d", "orn:not.provided"),
		edge("nobody", "a", "nobody", "orn:x.y"),
	}
}

// settle waits until a varied world rests.
func (w *world) rests() {
	w.t.Helper()
	for name, reason := range map[string]string{"a": v1alpha1.ReasonReady, "b": v1alpha1.ReasonReady, "c": v1alpha1.ReasonReady, "d": v1alpha1.ReasonReady,
		"sleeper": v1alpha1.ReasonSuspended, "far": v1alpha1.ReasonExternal} {
		w.node(name, reason)
	}
	for name, reason := range map[string]string{"by-policy": v1alpha1.ReasonApproved, "by-hand": v1alpha1.ReasonApproved, "refused": v1alpha1.ReasonRejected,
		"waits": v1alpha1.ReasonAwaitingApproval, "from-afar": v1alpha1.ReasonApproved, "asleep": v1alpha1.ReasonSuspended,
		"hopeless": v1alpha1.ReasonRefusedBySource, "nobody": v1alpha1.ReasonNodeNotFound} {
		w.edge(name, reason)
	}
	w.eventually("it shows that far is reached", func() string {
		var far v1alpha1.KoiNode
		w.must("far", &far)
		if !meta.IsStatusConditionTrue(far.Status.Conditions, v1alpha1.ConditionReachable) {
			return fmt.Sprintf("%+v", far.Status.Conditions)
		}
		return ""
	})
}

// applied is what a way of applying manifests made of one.
type applied struct{ version, generation, spec string }

func (w *world) stored(m *unstructured.Unstructured) applied {
	w.t.Helper()
	o := w.raw(m.GetKind(), m.GetName())
	spec, err := json.Marshal(o.Object["spec"])
	if err != nil {
		w.t.Fatal(err)
	}
	return applied{o.GetResourceVersion(), fmt.Sprint(o.GetGeneration()), string(spec)}
}

// threeWay patches an object as kubectl and Helm do for kinds that are not
// Kubernetes' own: from what was applied before, to what is applied now, over
// what is there. They send nothing where nothing differs; here it is sent.
func (w *world) threeWay(before, now *unstructured.Unstructured, manager string) {
	w.t.Helper()
	live := w.raw(now.GetKind(), now.GetName())
	texts := make([][]byte, 3)
	for i, o := range []*unstructured.Unstructured{before, now, live} {
		text, err := json.Marshal(o.Object)
		if err != nil {
			w.t.Fatal(err)
		}
		texts[i] = text
	}
	patch, err := jsonmergepatch.CreateThreeWayJSONMergePatch(texts[0], texts[1], texts[2])
	if err != nil {
		w.t.Fatal(err)
	}
	if string(patch) != "{}" {
		w.t.Errorf("%s would patch %s %s: %s", manager, now.GetKind(), now.GetName(), patch)
	}
	if err := w.client.Patch(w.t.Context(), live, client.RawPatch(types.MergePatchType, patch), client.FieldOwner(manager)); err != nil {
		w.t.Fatal(err)
	}
}

const lastApplied = "kubectl.kubernetes.io/last-applied-configuration"

// annotated is a manifest as kubectl apply sends it.
func annotated(t *testing.T, m *unstructured.Unstructured) *unstructured.Unstructured {
	t.Helper()
	text, err := json.Marshal(m.Object)
	if err != nil {
		t.Fatal(err)
	}
	out := m.DeepCopy()
	a := out.GetAnnotations()
	if a == nil {
		a = map[string]string{}
	}
	a[lastApplied] = string(text) + "\n"
	out.SetAnnotations(a)
	return out
}

// The same manifests applied again change nothing, however it is done: by
// kubectl on either side, by Helm, or by several of them one after the other.
func TestAppliedAgain(t *testing.T) {
	type way struct {
		name  string
		first func(w *world, m *unstructured.Unstructured) error
		again func(w *world, m *unstructured.Unstructured)
	}
	serverSide := func(manager string) (func(*world, *unstructured.Unstructured) error, func(*world, *unstructured.Unstructured)) {
		apply := func(w *world, m *unstructured.Unstructured) error {
			return w.client.Apply(w.t.Context(), client.ApplyConfigurationFromUnstructured(m.DeepCopy()), client.FieldOwner(manager), client.ForceOwnership)
		}
		return apply, func(w *world, m *unstructured.Unstructured) {
			if err := apply(w, m); err != nil {
				w.t.Fatal(err)
			}
		}
	}
	create := func(manager string, change func(*world, *unstructured.Unstructured) *unstructured.Unstructured) func(*world, *unstructured.Unstructured) error {
		return func(w *world, m *unstructured.Unstructured) error {
			return w.client.Create(w.t.Context(), change(w, m), client.FieldOwner(manager))
		}
	}
	helm := func(_ *world, m *unstructured.Unstructured) *unstructured.Unstructured {
		out := m.DeepCopy()
		out.SetLabels(map[string]string{"app.kubernetes.io/managed-by": "Helm"})
		out.SetAnnotations(map[string]string{"meta.helm.sh/release-name": "net", "meta.helm.sh/release-namespace": m.GetNamespace()})
		return out
	}
	kubectl := func(w *world, m *unstructured.Unstructured) *unstructured.Unstructured { return annotated(w.t, m) }
	first, again := serverSide("kubectl")
	fluxFirst, fluxAgain := serverSide("kustomize-controller")
	for _, way := range []way{
		{"kubectl apply", create("kubectl-client-side-apply", kubectl), func(w *world, m *unstructured.Unstructured) {
			w.threeWay(m, kubectl(w, m), "kubectl-client-side-apply")
		}},
		{"kubectl apply --server-side", first, again},
		{"helm upgrade", create("helm", helm), func(w *world, m *unstructured.Unstructured) { w.threeWay(helm(w, m), helm(w, m), "helm") }},
		{"kubectl, and then Flux", create("kubectl-client-side-apply", kubectl), func(w *world, m *unstructured.Unstructured) {
			if err := fluxFirst(w, m); err != nil { // it becomes an owner beside kubectl
				w.t.Fatal(err)
			}
			before := w.stored(m)
			fluxAgain(w, m)
			if after := w.stored(m); after != before {
				w.t.Errorf("%s %s: Flux's second apply made %+v of %+v", m.GetKind(), m.GetName(), after, before)
			}
			w.threeWay(m, kubectl(w, m), "kubectl-client-side-apply")
		}},
	} {
		t.Run(way.name, func(t *testing.T) {
			w := newWorld(t)
			list := manifests(t, varied(w.net.elsewhere("far", "orn:x.y").rid)...)
			for _, m := range list {
				m.SetNamespace(w.ns)
				if err := way.first(w, m); err != nil {
					t.Fatalf("%s %s: %v", m.GetKind(), m.GetName(), err)
				}
			}
			w.rests()
			w.settled()
			before := map[*unstructured.Unstructured]applied{}
			for _, m := range list {
				before[m] = w.stored(m)
			}
			for _, m := range list {
				way.again(w, m)
			}
			for _, m := range list {
				after := w.stored(m)
				if strings.Contains(way.name, "then Flux") {
					after.version = before[m].version // a new owner was noted
				}
				if after != before[m] {
					t.Errorf("%s %s: %+v after the second apply, %+v before", m.GetKind(), m.GetName(), after, before[m])
				}
				w.onlyStatusIsWritten(m)
			}
			w.settled()
			w.rests()
		})
	}
}

// onlyStatusIsWritten holds what the API server noted about who wrote what: the
// operator wrote finalizers and the status of what a person owns, and nothing
// else.
func (w *world) onlyStatusIsWritten(m *unstructured.Unstructured) {
	w.t.Helper()
	o := w.raw(m.GetKind(), m.GetName())
	seen := false
	for _, f := range o.GetManagedFields() {
		if slices.Contains([]string{"kubectl", "kubectl-client-side-apply", "kustomize-controller", "helm"}, f.Manager) {
			continue
		}
		seen = true
		var fields map[string]map[string]any
		if err := json.Unmarshal(f.FieldsV1.GetRawBytes(), &fields); err != nil {
			w.t.Fatal(err)
		}
		for top, below := range fields {
			switch {
			case top == "f:status" && f.Subresource == "status":
			case top == "f:metadata" && slices.Equal(slices.Collect(maps.Keys(below)), []string{"f:finalizers"}):
			default:
				w.t.Errorf("%s %s: %s (%s) wrote %s: %v", m.GetKind(), m.GetName(), f.Manager, f.Subresource, top, below)
			}
		}
	}
	if !seen {
		w.t.Errorf("%s %s: no trace of the operator", m.GetKind(), m.GetName())
	}
}

// A world in which nothing happens costs no write, to the API server or to a
// node, over three resyncs, nor does a new operator's look at it.
func TestIdleWorldCostsNothing(t *testing.T) {
	w := newWorld(t)
	far := w.net.elsewhere("far", "orn:x.y")
	w.create(varied(far.rid)...)
	w.rests()
	// Discovered: approved, waiting for a person, decided by one, and one too many terms ago.
	w.net.subscribe(w.net.named("a"), w.net.named("c"), "orn:x.y")
	w.net.subscribe(w.net.named("c"), far, "orn:x.y")
	w.net.subscribe(w.net.named("c"), w.net.elsewhere("friend"), "orn:x.y")
	w.net.subscribe(w.net.named("c"), w.net.elsewhere("foe"), "orn:x.y")
	for target, approval := range map[string]v1alpha1.Approval{"friend": v1alpha1.Approved, "foe": v1alpha1.Rejected} {
		w.eventually("the edge to "+target+" waits", func() string { return w.discovered("c", target, v1alpha1.ReasonAwaitingApproval) })
		change(w, w.discoveredEdge("c", target).Name, &v1alpha1.KoiEdge{}, func(e *v1alpha1.KoiEdge) { e.Spec.Approval = approval })
		w.eventually("the edge to "+target+" is decided", func() string { return w.discovered("c", target, string(approval)) })
	}
	w.eventually("one is approved", func() string { return w.discovered("a", "c", v1alpha1.ReasonApproved) })
	w.eventually("one waits", func() string { return w.discovered("c", "far", v1alpha1.ReasonAwaitingApproval) })
	w.rests()
	w.settled()

	calls := func() string {
		var out []string
		for _, n := range []string{"a", "b", "c", "d"} {
			out = append(out, fmt.Sprint(n, w.net.called(n)))
		}
		return strings.Join(out, "; ")
	}
	before, asked := calls(), w.net.asked("a")
	time.Sleep(3*interval + interval/2) // the claim is about time passing: three resyncs
	if seen := w.writes.list(); len(seen) > 0 {
		t.Errorf("an unchanged world was written to: %q", seen)
	}
	if n := w.net.asked("a") - asked; n < 3 {
		t.Errorf("node a was asked %d times in three resyncs: they did not take place", n)
	}
	if after := calls(); after != before {
		t.Errorf("nodes were asked to change: %s; before %s", after, before)
	}
	w.stop()
	w.start()
	time.Sleep(2 * interval)
	if seen := w.writes.list(); len(seen) > 0 {
		t.Errorf("a restarted operator wrote to an unchanged world: %q", seen)
	}
	if after := calls(); after != before {
		t.Errorf("a restarted operator asked nodes to change: %s; before %s", after, before)
	}
	w.rests()
}

// A look that is asked for is taken at once, at the nodes too, and the status
// says so.
func TestReconcileRequest(t *testing.T) {
	w := newWorld(t, func(o *controllers.Options) { o.Interval = time.Hour })
	w.create(full("a", provides("orn:x.y")), full("b"), full("asleep", suspended), full("invalid", func(s *v1alpha1.KoiNodeSpec) {
		s.Security = &v1alpha1.Security{AllowedPeerCIDRs: []string{"300.0.0.0/8"}}
	}), edge("e", "a", "b", "orn:x.y"), edge("refused", "b", "a", "orn:x.z"))
	for name, reason := range map[string]string{"a": v1alpha1.ReasonReady, "b": v1alpha1.ReasonReady, "asleep": v1alpha1.ReasonSuspended, "invalid": v1alpha1.ReasonInvalidSpec} {
		w.node(name, reason)
	}
	w.edge("e", v1alpha1.ReasonApproved)
	w.edge("refused", v1alpha1.ReasonRefusedBySource)
	w.settled()

	request := func(o client.Object, name, at string) {
		t.Helper()
		o.SetNamespace(w.ns)
		o.SetName(name)
		patch := fmt.Sprintf(`{"metadata":{"annotations":{%q:%q}}}`, v1alpha1.AnnotationReconcile, at)
		if err := w.client.Patch(t.Context(), o, client.RawPatch(types.MergePatchType, []byte(patch))); err != nil {
			t.Fatal(err)
		}
	}
	handled := func(kind, name, at string) {
		t.Helper()
		w.eventually(kind+" "+name+" tells the request", func() string {
			o := w.raw(kind, name)
			got, _, _ := unstructured.NestedString(o.Object, "status", "lastHandledReconcileAt")
			if got != at {
				return got
			}
			return ""
		})
	}
	for _, name := range []string{"a", "asleep", "invalid"} {
		request(&v1alpha1.KoiNode{}, name, "1")
		handled("KoiNode", name, "1")
	}
	request(&v1alpha1.KoiEdge{}, "e", "1")
	handled("KoiEdge", "e", "1")

	w.settled()
	t.Log("what no watch told of is found out")
	silently := func(name string, f func(*fakeNode)) {
		w.net.mu.Lock()
		defer w.net.mu.Unlock()
		f(w.net.names[name])
	}
	silently("a", func(f *fakeNode) { f.ready = false })
	request(&v1alpha1.KoiNode{}, "a", "2")
	w.node("a", v1alpha1.ReasonNodeNotReady)
	handled("KoiNode", "a", "2")

	t.Log("an edge that was refused is proposed once more")
	silently("b", func(f *fakeNode) { f.provides = append(f.provides, "orn:x.z") })
	request(&v1alpha1.KoiEdge{}, "refused", "2")
	w.edge("refused", v1alpha1.ReasonApproved)
	handled("KoiEdge", "refused", "2")

	t.Log("a request is carried out once, and a long one cut")
	long := strings.Repeat("ä", 300)
	request(&v1alpha1.KoiNode{}, "b", long)
	handled("KoiNode", "b", strings.Repeat("ä", 128))
	w.settled()
	request(&v1alpha1.KoiNode{}, "b", long)
	w.settled()
	if err := w.client.Patch(t.Context(), &v1alpha1.KoiNode{ObjectMeta: metav1.ObjectMeta{Name: "b", Namespace: w.ns}},
		client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"annotations":null}}`))); err != nil {
		t.Fatal(err)
	}
	w.settled()
	handled("KoiNode", "b", strings.Repeat("ä", 128))
}

// What others set on the operator's objects stays theirs, and what they change
// of its own is put back, also both in one go.
func TestOthersFieldsStay(t *testing.T) {
	w := newWorld(t)
	w.create(full("a", func(s *v1alpha1.KoiNodeSpec) {
		s.NetworkPolicy = &v1alpha1.NetworkPolicy{Enabled: true}
		s.Service = &v1alpha1.Service{Annotations: map[string]string{"ours": "yes"}}
	}))
	w.node("a", v1alpha1.ReasonReady)

	t.Log("theirs")
	change(w, "a", &appsv1.Deployment{}, func(d *appsv1.Deployment) {
		d.Labels["theirs"], d.Annotations = "yes", map[string]string{"theirs": "yes"}
		p := &d.Spec.Template
		p.Annotations["kubectl.kubernetes.io/restartedAt"] = "now"
		p.Spec.Containers[0].Env = append(p.Spec.Containers[0].Env, corev1.EnvVar{Name: "THEIRS", Value: "yes"})
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "theirs", Image: "side:1"})
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: "theirs", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}})
		p.Spec.Tolerations = []corev1.Toleration{{Key: "theirs", Operator: corev1.TolerationOpExists}}
	})
	change(w, "a", &corev1.Service{}, func(s *corev1.Service) {
		s.Labels["theirs"], s.Annotations["theirs"] = "yes", "yes"
		s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: "theirs", Port: 9})
	})
	change(w, "a-config", &corev1.ConfigMap{}, func(c *corev1.ConfigMap) { c.Data["theirs"] = "yes" })
	change(w, "a-data", &corev1.PersistentVolumeClaim{}, func(c *corev1.PersistentVolumeClaim) { c.Labels["theirs"] = "yes" })
	change(w, "a", &corev1.ServiceAccount{}, func(s *corev1.ServiceAccount) { s.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "theirs"}} })
	w.node("a", v1alpha1.ReasonReady)
	w.settled() // nobody fights

	t.Log("ours, changed by whoever takes the fields over")
	force := func(text string) {
		t.Helper()
		o := w.object(text)
		if err := w.client.Apply(t.Context(), client.ApplyConfigurationFromUnstructured(o), client.FieldOwner("theirs"), client.ForceOwnership); err != nil {
			t.Fatal(err)
		}
	}
	force(`{apiVersion: apps/v1, kind: Deployment, metadata: {name: a, labels: {koi-net.io/node: b}}, spec: {replicas: 2, template: {spec: {serviceAccountName: default,
		containers: [{name: node, image: evil, env: [{name: KOI_ADMIN, value: evil}, {name: THEIRS2, value: "yes"}]}]}}}}`)
	force(`{apiVersion: v1, kind: Service, metadata: {name: a, annotations: {ours: "no"}}, spec: {type: NodePort}}`)
	force(`{apiVersion: v1, kind: ConfigMap, metadata: {name: a-config, labels: {app.kubernetes.io/managed-by: theirs}}, data: {config.yaml: "name: b"}}`)
	t.Log("and taken away")
	change(w, "a-data", &corev1.PersistentVolumeClaim{}, func(c *corev1.PersistentVolumeClaim) { c.Labels = map[string]string{"theirs": "yes"} })
	change(w, "a", &corev1.ServiceAccount{}, func(s *corev1.ServiceAccount) { s.AutomountServiceAccountToken, s.Labels = nil, nil })
	change(w, "a", &appsv1.Deployment{}, func(d *appsv1.Deployment) {
		d.Spec.Template.Spec.Containers[0].Env = d.Spec.Template.Spec.Containers[0].Env[1:]
		d.Spec.Template.Spec.SecurityContext = nil
		d.OwnerReferences = nil
	})

	w.eventually("ours is put back and theirs stays", func() string {
		var d appsv1.Deployment
		var s corev1.Service
		var c corev1.ConfigMap
		var v corev1.PersistentVolumeClaim
		var a corev1.ServiceAccount
		w.must("a", &d)
		w.must("a", &s)
		w.must("a-config", &c)
		w.must("a-data", &v)
		w.must("a", &a)
		pod := d.Spec.Template.Spec
		env := map[string]string{}
		for _, e := range pod.Containers[0].Env {
			env[e.Name] = e.Value
		}
		wrong := []string{}
		want := func(what string, ok bool) {
			if !ok {
				wrong = append(wrong, what)
			}
		}
		want("replicas", *d.Spec.Replicas == 1)
		want("image", pod.Containers[0].Image == nodeImage)
		want("service account", pod.ServiceAccountName == "a")
		want("security context", pod.SecurityContext != nil && ptr.Deref(pod.SecurityContext.RunAsNonRoot, false))
		want("environment", strings.HasPrefix(env["KOI_ADMIN"], "https://") && env["KOI_CONFIG_HASH"] != "")
		want("their environment", env["THEIRS"] == "yes" && env["THEIRS2"] == "yes")
		want("their container", len(pod.Containers) == 2 && pod.Containers[1].Name == "theirs")
		want("their volume", slices.ContainsFunc(pod.Volumes, func(v corev1.Volume) bool { return v.Name == "theirs" }))
		want("their toleration", len(pod.Tolerations) == 1)
		want("their restart", d.Spec.Template.Annotations["kubectl.kubernetes.io/restartedAt"] == "now")
		want("label of the Deployment", d.Labels[v1alpha1.LabelNode] == "a" && d.Labels["theirs"] == "yes" && d.Annotations["theirs"] == "yes")
		want("owner of the Deployment", metav1.GetControllerOf(&d) != nil)
		want("Service", s.Spec.Type == corev1.ServiceTypeClusterIP && s.Annotations["ours"] == "yes" && s.Annotations["theirs"] == "yes" && len(s.Spec.Ports) == 2)
		want("ConfigMap", strings.Contains(c.Data["config.yaml"], "name: a\n") && c.Data["theirs"] == "yes" && c.Labels["app.kubernetes.io/managed-by"] == "koi-operator")
		want("claim", v.Labels["app.kubernetes.io/managed-by"] == "koi-operator" && v.Labels[v1alpha1.LabelNode] == "a" && v.Labels["theirs"] == "yes")
		want("ServiceAccount", a.Labels["app.kubernetes.io/managed-by"] == "koi-operator" && a.AutomountServiceAccountToken != nil && len(a.ImagePullSecrets) == 1)
		return strings.Join(wrong, ", ")
	})
	w.node("a", v1alpha1.ReasonReady)
	w.settled()
}

// object reads an object written in short.
func (w *world) object(text string) *unstructured.Unstructured {
	w.t.Helper()
	o := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(text), &o.Object); err != nil {
		w.t.Fatalf("%s: %v", text, err)
	}
	o.SetNamespace(w.ns)
	return o
}

// A decision a person makes about a discovered edge in the very moment in which
// the network changes is not thrown away with the object.
func TestDecisionIsNotLostWithTheObject(t *testing.T) {
	w := two(t, manual)
	w.net.subscribe(w.net.named("a"), w.net.named("b"), "orn:x.y")
	w.eventually("it appears", func() string { return w.discovered("a", "b", v1alpha1.ReasonAwaitingApproval) })
	name := w.discoveredEdge("a", "b").Name
	decided := false
	w.writes.refusing(func(verb, path string) *metav1.Status {
		if verb == "DELETE" && path == "koiedges/"+name && !decided {
			decided = true
			err := w.client.Patch(t.Context(), &v1alpha1.KoiEdge{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: w.ns}},
				client.RawPatch(types.MergePatchType, []byte(`{"spec":{"approval":"Rejected"}}`)))
			if err != nil && !apierrors.IsNotFound(err) {
				t.Error(err)
			}
		}
		return nil
	})
	w.net.mu.Lock()
	w.net.forget(pair{w.net.names["a"].rid, w.net.names["b"].rid})
	w.net.mu.Unlock()
	w.eventually("the refusal stands", func() string { return w.discovered("a", "b", v1alpha1.ReasonRejected) })
	if !decided {
		t.Error("the operator did not try to remove the object")
	}
}
