package controllers_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	"github.com/koi-net/koi-operator/api/v1alpha1"
	"github.com/koi-net/koi-operator/controllers"
	adminclient "github.com/koi-net/koi-operator/node/admin/client"
)

// says waits for a KoiNode to be in a state whose message holds all of the words.
func (w *world) says(name, reason string, words ...string) {
	w.t.Helper()
	w.eventually(fmt.Sprintf("KoiNode %s is %s and says %q", name, reason, words), func() string {
		var n v1alpha1.KoiNode
		w.must(name, &n)
		if text := resting(n.Status.Conditions, n.Generation, n.Status.ObservedGeneration, reason); text != "" {
			return text
		}
		return missing(n.Status.Conditions, words)
	})
}

// edgeSays waits for a KoiEdge to be in a state whose message holds all of the words.
func (w *world) edgeSays(name, reason string, words ...string) {
	w.t.Helper()
	w.eventually(fmt.Sprintf("KoiEdge %s is %s and says %q", name, reason, words), func() string {
		var e v1alpha1.KoiEdge
		w.must(name, &e)
		if text := resting(e.Status.Conditions, e.Generation, e.Status.ObservedGeneration, reason); text != "" {
			return text
		}
		return missing(e.Status.Conditions, words)
	})
}

func missing(conditions []metav1.Condition, words []string) string {
	c := meta.FindStatusCondition(conditions, v1alpha1.ConditionReady)
	if c == nil {
		c = meta.FindStatusCondition(conditions, v1alpha1.ConditionSuspended)
	}
	for _, word := range words {
		if c == nil || !strings.Contains(c.Message, word) {
			return fmt.Sprintf("%q is missing: %+v", word, c)
		}
	}
	return ""
}

func (w *world) deployment(name string) *appsv1.Deployment {
	w.t.Helper()
	var d appsv1.Deployment
	w.must(name, &d)
	return &d
}

// Each change of a node's spec reaches its pod, once, and a change that is taken
// back leaves the pod as it was before.
func TestSpecReachesThePod(t *testing.T) {
	w := newWorld(t)
	w.create(full("a"))
	w.node("a", v1alpha1.ReasonReady)
	before := w.deployment("a")
	apply := func(what string, f func(*v1alpha1.KoiNodeSpec), want func(corev1.PodSpec) bool) {
		t.Helper()
		generation := w.deployment("a").Generation
		change(w, "a", &v1alpha1.KoiNode{}, func(n *v1alpha1.KoiNode) { f(&n.Spec) })
		w.node("a", v1alpha1.ReasonReady)
		d := w.deployment("a")
		if d.Generation != generation+1 {
			t.Errorf("%s: generation %d after %d", what, d.Generation, generation)
		}
		if !want(d.Spec.Template.Spec) {
			text, _ := yaml.Marshal(d.Spec.Template.Spec)
			t.Errorf("%s: the pod is\n%s", what, text)
		}
	}
	the := func(p corev1.PodSpec) corev1.Container {
		i := slices.IndexFunc(p.Containers, func(c corev1.Container) bool { return c.Name == "node" })
		return p.Containers[i]
	}
	apply("image", func(s *v1alpha1.KoiNodeSpec) { s.Image, s.ImagePullPolicy = "mine:2", corev1.PullNever }, func(p corev1.PodSpec) bool {
		return the(p).Image == "mine:2" && the(p).ImagePullPolicy == corev1.PullNever
	})
	if image := w.node("a", v1alpha1.ReasonReady).Status.Image; image != "mine:2" {
		t.Errorf("status.image %s", image)
	}
	apply("resources", func(s *v1alpha1.KoiNodeSpec) {
		s.Resources = &corev1.ResourceRequirements{Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("1Gi")}}
	}, func(p corev1.PodSpec) bool {
		r := the(p).Resources
		return r.Limits.Memory().String() == "1Gi" && r.Requests.Cpu().IsZero()
	})
	apply("pull secrets", func(s *v1alpha1.KoiNodeSpec) { s.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "x"}} }, func(p corev1.PodSpec) bool {
		return len(p.ImagePullSecrets) == 1
	})
	apply("a template that adds and removes", func(s *v1alpha1.KoiNodeSpec) {
		s.PodTemplate = &runtime.RawExtension{Raw: []byte(`{"metadata":{"annotations":{"mine":"yes"}},"spec":{"priorityClassName":null,"enableServiceLinks":null,
			"tolerations":[{"operator":"Exists"}],"volumes":[{"name":"scratch","emptyDir":{}}],
			"containers":[{"name":"side","image":"side:1"},{"name":"node","livenessProbe":null,
				"env":[{"name":"KOI_ADMIN","$patch":"delete"},{"name":"KOI_LOG_LEVEL","value":"debug"}],"volumeMounts":[{"name":"scratch","mountPath":"/scratch"}]}]}}`)}
	}, func(p corev1.PodSpec) bool {
		has := func(name string) bool {
			return slices.ContainsFunc(the(p).Env, func(e corev1.EnvVar) bool { return e.Name == name })
		}
		return len(p.Containers) == 2 && the(p).LivenessProbe == nil && the(p).ReadinessProbe != nil && !has("KOI_ADMIN") && has("KOI_LOG_LEVEL") &&
			has("KOI_CONFIG_HASH") && len(p.Tolerations) == 1 && len(p.Volumes) == 5 && len(the(p).VolumeMounts) == 5
	})
	apply("a template that takes that back", func(s *v1alpha1.KoiNodeSpec) {
		s.PodTemplate = &runtime.RawExtension{Raw: []byte(`{"spec":{"containers":[{"name":"node","env":[{"name":"KOI_ADMIN","value":"mine"}]}]}}`)}
	}, func(p corev1.PodSpec) bool {
		return len(p.Containers) == 1 && the(p).LivenessProbe != nil && len(p.Tolerations) == 0 && len(p.Volumes) == 4 && len(the(p).VolumeMounts) == 4
	})
	apply("everything taken back", func(s *v1alpha1.KoiNodeSpec) {
		s.Image, s.ImagePullPolicy, s.Resources, s.ImagePullSecrets, s.PodTemplate = nodeImage, "", nil, nil, nil
	}, func(p corev1.PodSpec) bool {
		first := before.Spec.Template.Spec
		for _, c := range [][]corev1.EnvVar{the(p).Env, the(first).Env} { // what was taken out and put back stands elsewhere
			slices.SortFunc(c, func(a, b corev1.EnvVar) int { return strings.Compare(a.Name, b.Name) })
		}
		return equality.Semantic.DeepEqual(p, first)
	})
}

// A store that is full says so and what to do, and rests again when there is
// room.
func TestStorageFullComesAndGoes(t *testing.T) {
	w := newWorld(t)
	w.create(full("a", size("3Gi"), provides("orn:x.y")), full("tmp", func(s *v1alpha1.KoiNodeSpec) { s.Storage = &v1alpha1.Storage{Ephemeral: true} }), full("b"))
	for _, n := range []string{"a", "tmp", "b"} {
		w.node(n, v1alpha1.ReasonReady)
	}
	for _, n := range []string{"a", "tmp"} {
		w.net.mu.Lock()
		w.net.unready[n] = true // its /readyz fails, and so its pod is not ready
		w.net.mu.Unlock()
		w.net.at(n, func(f *fakeNode) {
			f.ready, f.says.Checks = false, []adminclient.Check{{Name: "store", Message: "store full: no space left for /var/lib/koi/koi.db; enlarge the volume or delete something"}}
		})
	}
	w.says("a", v1alpha1.ReasonStorageFull, "no space left for /var/lib/koi/koi.db", "spec.storage.size, now 3Gi", "koi-node forget")
	w.says("tmp", v1alpha1.ReasonStorageFull, "spec.storage.size, now 1Gi", "empty store")
	w.eventually("there is an Event", func() string {
		if reasons := w.eventReasons("a"); !slices.Contains(reasons, v1alpha1.ReasonStorageFull) {
			return fmt.Sprint(reasons)
		}
		return ""
	})

	t.Log("its volume cannot grow: both are told")
	w.bind("a-data")
	change(w, "a", &v1alpha1.KoiNode{}, func(n *v1alpha1.KoiNode) { size("4Gi")(&n.Spec) })
	w.says("a", v1alpha1.ReasonStorageFull, "no space left", "cannot grow from 3Gi to 4Gi")
	change(w, "a", &v1alpha1.KoiNode{}, func(n *v1alpha1.KoiNode) { size("3Gi")(&n.Spec) })

	t.Log("there is room again")
	for _, n := range []string{"a", "tmp"} {
		w.net.mu.Lock()
		w.net.unready[n] = false
		w.net.mu.Unlock()
		w.net.at(n, func(f *fakeNode) { f.ready, f.says.Checks = true, nil })
		w.node(n, v1alpha1.ReasonReady)
	}
}

// A claim grows where its class allows it and once it is bound; where it is
// refused the node says so and goes on, with all else that changes.
func TestStorageGrows(t *testing.T) {
	w := newWorld(t)
	elastic := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "elastic-" + w.ns}, Provisioner: "example.org/none", AllowVolumeExpansion: ptr.To(true)}
	if err := w.client.Create(t.Context(), elastic); err != nil {
		t.Fatal(err)
	}
	rigid := w.class()
	of := func(class string) func(*v1alpha1.KoiNodeSpec) {
		return func(s *v1alpha1.KoiNodeSpec) { s.Storage.StorageClassName = &class }
	}
	w.create(full("elastic", size("1Gi"), of(elastic.Name)), full("rigid", size("1Gi"), of(rigid)), full("late", size("1Gi"), of(elastic.Name)))
	for _, n := range []string{"elastic", "rigid", "late"} {
		w.node(n, v1alpha1.ReasonReady)
	}
	w.bind("elastic-data")
	w.bind("rigid-data")
	grow := func(name, to string) {
		change(w, name, &v1alpha1.KoiNode{}, func(n *v1alpha1.KoiNode) { size(to)(&n.Spec) })
	}
	asks := func(name, want string) {
		t.Helper()
		w.eventually(name+" asks for "+want, func() string {
			var c corev1.PersistentVolumeClaim
			w.must(name+"-data", &c)
			if got := c.Spec.Resources.Requests[corev1.ResourceStorage]; got.String() != want {
				return got.String()
			}
			return ""
		})
	}
	grow("elastic", "2Gi")
	asks("elastic", "2Gi")
	w.node("elastic", v1alpha1.ReasonReady)

	t.Log("before it is bound it cannot be changed, and nobody is bothered")
	grow("late", "2Gi")
	w.node("late", v1alpha1.ReasonReady)
	asks("late", "1Gi")
	w.bind("late-data")
	asks("late", "2Gi")
	w.node("late", v1alpha1.ReasonReady)

	t.Log("refused")
	generation := w.deployment("rigid").Generation
	change(w, "rigid", &v1alpha1.KoiNode{}, func(n *v1alpha1.KoiNode) {
		size("2Gi")(&n.Spec)
		n.Spec.Coordinator = true
	})
	w.says("rigid", v1alpha1.ReasonExpansionRefused, "rigid-data", "from 1Gi to 2Gi", "set spec.storage.size back")
	asks("rigid", "1Gi")
	w.eventually("the other change is carried out", func() string {
		if d := w.deployment("rigid"); d.Generation != generation+1 {
			return fmt.Sprint(d.Generation)
		}
		return ""
	})
	grow("rigid", "1Gi")
	w.node("rigid", v1alpha1.ReasonReady)
}

// Whatever keeps a pod from running is told with what to do, and forgotten when
// it is over.
func TestTroublesOfAPod(t *testing.T) {
	w := newWorld(t)
	w.net.mu.Lock()
	w.net.down["a"] = true
	w.net.mu.Unlock()
	w.create(full("a"))
	w.node("a", v1alpha1.ReasonDeploying)
	for _, tt := range []struct {
		status corev1.PodStatus
		reason string
		words  []string
	}{
		{unschedulable("0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims"), v1alpha1.ReasonUnschedulable, []string{"a-0", "unbound immediate"}},
		{waiting("ErrImagePull"), v1alpha1.ReasonImagePull, []string{nodeImage, "back-off"}},
		{waiting("InvalidImageName"), v1alpha1.ReasonImagePull, []string{nodeImage}},
		{waiting("CreateContainerConfigError"), v1alpha1.ReasonCrashed, []string{"cannot be started", "back-off"}},
		{ended(2, "panic: oh no"), v1alpha1.ReasonCrashed, []string{"exit code 2", "panic: oh no", "kubectl logs --previous a-0"}},
		{ended(137, ""), v1alpha1.ReasonCrashed, []string{"exit code 137"}},
		{ended(11, `{"reason":"StoreLocked","message":"koi.db is in use"}`), v1alpha1.ReasonStoreLocked, []string{"koi.db is in use"}},
		{ended(10, `{"reason":"StoreDamaged","message":"koi.db is damaged; restore a backup"}`), v1alpha1.ReasonStoreDamaged, []string{"restore a backup"}},
		{ended(13, `{"reason":"BadConfig","message":"there is no flag --x"}`), v1alpha1.ReasonBadConfig, []string{"there is no flag --x"}},
		{ended(12, `{"reason":"IdentityMismatch","message":"the store is of another"}`), v1alpha1.ReasonIdentityMismatch, []string{"the store is of another"}},
	} {
		w.pod("a", tt.status)
		w.says("a", tt.reason, tt.words...)
	}
	w.delete(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "a-0"}})
	w.node("a", v1alpha1.ReasonDeploying)
	w.net.mu.Lock()
	w.net.down["a"] = false
	w.net.mu.Unlock()
	w.node("a", v1alpha1.ReasonReady)
}

// A key that is lost or damaged is told, loudly, and no other is made.
func TestLostKey(t *testing.T) {
	w := newWorld(t)
	w.create(full("a"), full("mine", func(s *v1alpha1.KoiNodeSpec) { s.Identity = &v1alpha1.Identity{SecretName: "first"} }))
	w.node("a", v1alpha1.ReasonReady)
	rid := w.node("mine", v1alpha1.ReasonReady).Status.RID
	var kept corev1.Secret
	w.must("a-identity", &kept)
	for what, spoil := range map[string]func(map[string][]byte){
		`"priv_key.pem" is missing`: func(d map[string][]byte) { delete(d, "priv_key.pem") },
		"not PEM":                   func(d map[string][]byte) { d["priv_key.pem"] = []byte("rubbish") },
		`"rid" is missing`:          func(d map[string][]byte) { delete(d, "rid") },
	} {
		change(w, "a-identity", &corev1.Secret{}, func(s *corev1.Secret) {
			s.Data = map[string][]byte{"rid": kept.Data["rid"], "priv_key.pem": kept.Data["priv_key.pem"]}
			spoil(s.Data)
		})
		w.says("a", v1alpha1.ReasonIdentityMismatch, what, "restore it from a backup")
	}
	change(w, "a-identity", &corev1.Secret{}, func(s *corev1.Secret) { s.Data = kept.Data })
	w.node("a", v1alpha1.ReasonReady)

	t.Log("another Secret is no other identity")
	change(w, "mine", &v1alpha1.KoiNode{}, func(n *v1alpha1.KoiNode) { n.Spec.Identity.SecretName = "second" })
	w.says("mine", v1alpha1.ReasonIdentityLost, "second", rid)
	if w.get("second", &corev1.Secret{}) {
		t.Error("the operator made a new identity")
	}
	var first corev1.Secret
	w.must("first", &first)
	w.create(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "second"}, Data: first.Data})
	if n := w.node("mine", v1alpha1.ReasonReady); n.Status.RID != rid {
		t.Errorf("RID %s, before %s", n.Status.RID, rid)
	}
}

// A first contact that does not answer is told in the node's own words; one that
// is no node to contact stalls.
func TestBadFirstContact(t *testing.T) {
	w := newWorld(t)
	w.create(full("a", func(s *v1alpha1.KoiNodeSpec) {
		s.FirstContact = &v1alpha1.FirstContact{URL: "http://nobody.example.org/koi-net"}
	}), partial("mute"), full("b", contact("mute")))
	w.node("a", v1alpha1.ReasonReady)
	w.says("b", v1alpha1.ReasonInvalidSpec, "mute is Partial", "name a Full node")
	reached := func(reason, words string) {
		t.Helper()
		w.eventually("FirstContactReached is "+reason, func() string {
			n := w.node("a", v1alpha1.ReasonReady)
			c := meta.FindStatusCondition(n.Status.Conditions, v1alpha1.ConditionFirstContact)
			if c == nil || c.Reason != reason || !strings.Contains(c.Message, words) {
				return fmt.Sprintf("%+v", c)
			}
			return ""
		})
	}
	w.net.at("a", func(f *fakeNode) {
		f.says.FirstContact = &adminclient.FirstContact{URL: "http://nobody.example.org/koi-net", Message: "dial tcp: no such host"}
	})
	reached(v1alpha1.ReasonContactUnreached, "no such host")
	w.net.at("a", func(f *fakeNode) { f.says.FirstContact.Reached = true })
	reached(v1alpha1.ReasonContactReached, "answered")
}

// The edges of a suspended node say for whom they wait, can be deleted
// meanwhile, and go on where they were when the node is back.
func TestSuspendedEdges(t *testing.T) {
	w := newWorld(t)
	w.create(full("a", provides("orn:x.y"), manual), full("b"), full("c"))
	for _, n := range []string{"a", "b", "c"} {
		w.node(n, v1alpha1.ReasonReady)
	}
	kept, asked, gone := edge("kept", "a", "b", "orn:x.y"), edge("asked", "a", "c", "orn:x.y"), edge("gone", "b", "a", "orn:koi-net.node")
	kept.Spec.Approval = v1alpha1.Approved
	w.create(kept, asked, gone)
	w.edge("kept", v1alpha1.ReasonApproved)
	w.edge("asked", v1alpha1.ReasonAwaitingApproval)
	w.edge("gone", v1alpha1.ReasonApproved)
	change(w, "a", &v1alpha1.KoiNode{}, func(n *v1alpha1.KoiNode) { n.Spec.Suspend = true })
	w.node("a", v1alpha1.ReasonSuspended)
	w.edgeSays("kept", v1alpha1.ReasonSuspended, "the source a is suspended")
	w.edgeSays("asked", v1alpha1.ReasonSuspended, "the source a is suspended")
	w.edgeSays("gone", v1alpha1.ReasonSuspended, "the target a is suspended")
	var e v1alpha1.KoiEdge
	w.must("kept", &e)
	if e.Status.Status != v1alpha1.EdgeApproved || e.Status.Decision != v1alpha1.Approved {
		t.Errorf("the last word does not stand: %+v", e.Status)
	}

	t.Log("what is decided and deleted meanwhile")
	change(w, "asked", &v1alpha1.KoiEdge{}, func(e *v1alpha1.KoiEdge) { e.Spec.Approval = v1alpha1.Approved })
	w.edge("asked", v1alpha1.ReasonSuspended)
	w.delete(gone)
	w.gone("gone", &v1alpha1.KoiEdge{})
	if w.wire("b", "b", "a") != nil {
		t.Error("the end that runs has the edge still")
	}
	w.settled()

	change(w, "a", &v1alpha1.KoiNode{}, func(n *v1alpha1.KoiNode) { n.Spec.Suspend = false })
	w.edge("kept", v1alpha1.ReasonApproved)
	w.edge("asked", v1alpha1.ReasonApproved)
}

// A decision is written down before it is made, so that an operator that ends in
// between leaves nothing behind in the node that no object stands for.
func TestDecisionIsTakenBackAfterACrash(t *testing.T) {
	for name, end := range map[string]func(*world){
		"unset": func(w *world) {
			change(w, "e", &v1alpha1.KoiEdge{}, func(e *v1alpha1.KoiEdge) { e.Spec.Approval = v1alpha1.Undecided })
		},
		"deleted": func(w *world) { w.delete(&v1alpha1.KoiEdge{ObjectMeta: metav1.ObjectMeta{Name: "e"}}) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.create(full("a", provides("orn:x.y"), manual), full("b"), edge("e", "a", "b", "orn:x.y"))
			w.edge("e", v1alpha1.ReasonAwaitingApproval)
			w.settled()
			decided := func() int {
				w.net.mu.Lock()
				defer w.net.mu.Unlock()
				return len(w.net.names["a"].policies)
			}
			crashed := make(chan struct{})
			w.writes.refusing(func(_, path string) *metav1.Status {
				if path != "koiedges/e/status" || decided() == 0 {
					return nil
				}
				select {
				case <-crashed:
				default:
					close(crashed) // in the source it is made, and of that the object does not know
				}
				return &metav1.Status{Status: metav1.StatusFailure, Code: 500, Reason: metav1.StatusReasonInternalError}
			})
			change(w, "e", &v1alpha1.KoiEdge{}, func(e *v1alpha1.KoiEdge) { e.Spec.Approval = v1alpha1.Approved })
			w.eventually("the operator gets that far", func() string {
				select {
				case <-crashed:
					return ""
				default:
					return "it has not"
				}
			})
			w.stop()
			end(w)
			w.writes.refusing(nil)
			w.start()
			w.eventually("the decision is taken back", func() string {
				if decided() > 0 {
					return "it stands"
				}
				return ""
			})
		})
	}
}

// An upgrade that an operator's end interrupted goes on with the node that was
// on its way, and no second one starts before that one is ready.
func TestUpgradeGoesOnAfterACrash(t *testing.T) {
	w := newWorld(t)
	automatic := func(s *v1alpha1.KoiNodeSpec) { s.Upgrade = v1alpha1.UpgradeAutomatic }
	names := []string{"a", "b", "c", "asleep"}
	w.create(full("a", automatic), full("b", automatic), full("c", automatic), full("asleep", automatic, suspended))
	for _, n := range names[:3] {
		w.node(n, v1alpha1.ReasonReady)
	}
	w.node("asleep", v1alpha1.ReasonSuspended)
	w.settled()
	w.stop()
	const latest = "registry.test/koi-node:2"
	upgraded := func() (out []string) {
		for _, n := range names {
			if w.deployment(n).Spec.Template.Spec.Containers[0].Image == latest {
				out = append(out, n)
			}
		}
		return out
	}
	// The first operator ends after it changed one Deployment; that node does not
	// come up again.
	crashed := make(chan struct{})
	var moved string
	w.writes.refusing(func(_, path string) *metav1.Status {
		select {
		case <-crashed:
			return &metav1.Status{Status: metav1.StatusFailure, Code: 500, Reason: metav1.StatusReasonInternalError}
		default:
		}
		if name, found := strings.CutPrefix(path, "deployments/"); found {
			w.net.mu.Lock()
			w.net.unready[name] = true
			w.net.mu.Unlock()
			moved = name
			close(crashed)
		}
		return nil
	})
	w.start(func(o *controllers.Options) { o.NodeImage = latest })
	w.eventually("one is on its way", func() string {
		if len(upgraded()) == 0 {
			return "none is"
		}
		return ""
	})
	w.stop()
	w.writes.refusing(nil)
	generation := w.deployment(moved).Generation
	w.start(func(o *controllers.Options) { o.NodeImage = latest })
	time.Sleep(2 * interval) // the claim is about time passing
	if moved != "asleep" {
		if got := upgraded(); !slices.Equal(got, []string{moved}) {
			t.Errorf("%v run the new image while %s is not ready", got, moved)
		}
		if g := w.deployment(moved).Generation; g != generation {
			t.Errorf("%s was started again: generation %d, before %d", moved, g, generation)
		}
		w.node(moved, v1alpha1.ReasonDeploying)
	}
	w.net.mu.Lock()
	w.net.unready[moved] = false
	w.net.mu.Unlock()
	for _, n := range names {
		w.eventually(n+" is upgraded", func() string {
			var o v1alpha1.KoiNode
			w.must(n, &o)
			if o.Status.Image != latest {
				return o.Status.Image
			}
			return ""
		})
	}
	for _, n := range names[:3] {
		w.node(n, v1alpha1.ReasonReady)
	}
}

// What a node refuses is told as long as it refuses, once, and not in turns with
// something else.
func TestRefusalStands(t *testing.T) {
	w := two(t, manual)
	w.net.at("a", func(f *fakeNode) { f.answers = map[string]int{"policy": 503} })
	w.net.at("b", func(f *fakeNode) { f.answers = map[string]int{"propose": 400} })
	decided := edge("decided", "a", "b", "orn:x.y")
	decided.Spec.Approval = v1alpha1.Approved
	w.create(decided, edge("proposed", "b", "a", "orn:koi-net.node"))
	w.net.at("a", func(f *fakeNode) { f.answers["propose"] = 400 })
	w.edge("decided", v1alpha1.ReasonDecisionRefused)
	w.edgeSays("decided", v1alpha1.ReasonDecisionRefused, "it is not taken")
	w.settled()
	before := w.eventReasons("decided")
	time.Sleep(2 * interval) // the claim is about time passing
	if seen := w.writes.list(); len(seen) > 0 {
		t.Errorf("written meanwhile: %q", seen)
	}
	if after := w.eventReasons("decided"); len(after) != len(before) {
		t.Errorf("Events without a transition: %v", after)
	}
	w.net.at("a", func(f *fakeNode) { f.answers = nil })
	w.net.at("b", func(f *fakeNode) { f.answers = nil })
	w.edge("decided", v1alpha1.ReasonApproved)
}
