package controllers_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/koi-net/koi-operator/api/v1alpha1"
	"github.com/koi-net/koi-operator/controllers"
)

// keeps gives both policies of a node.
func keeps(p v1alpha1.DeletionPolicy) func(*v1alpha1.KoiNodeSpec) {
	return func(s *v1alpha1.KoiNodeSpec) {
		s.Storage = &v1alpha1.Storage{DeletionPolicy: p}
		s.Identity = &v1alpha1.Identity{DeletionPolicy: p}
	}
}

var policies = []v1alpha1.DeletionPolicy{v1alpha1.DeletionRetain, v1alpha1.DeletionDelete}

// named names a row of a table and a policy.
func named(row string, p v1alpha1.DeletionPolicy) string {
	return row + "-" + strings.ToLower(string(p))
}

// remains holds what is left of a node that is gone against its policy.
func (w *world) remains(name string, policy v1alpha1.DeletionPolicy, storage bool) {
	w.t.Helper()
	kept := policy == v1alpha1.DeletionRetain
	there := func(name string, o client.Object) bool {
		// A claim's protection goes by a controller that does not run here.
		return w.get(name, o) && o.GetDeletionTimestamp() == nil
	}
	if there(name+"-identity", &corev1.Secret{}) != kept {
		w.t.Errorf("%s: the identity is there: %t", name, !kept)
	}
	if storage && there(name+"-data", &corev1.PersistentVolumeClaim{}) != kept {
		w.t.Errorf("%s: the storage is there: %t", name, !kept)
	}
	// The rest has an owner that is gone, so the garbage collector takes it.
	for _, list := range []client.ObjectList{&appsv1.DeploymentList{}, &corev1.ServiceList{}, &corev1.ConfigMapList{}, &corev1.ServiceAccountList{},
		&corev1.SecretList{}, &corev1.PersistentVolumeClaimList{}, &networkingv1.NetworkPolicyList{}, &v1alpha1.KoiEdgeList{}} {
		if err := w.client.List(w.t.Context(), list, client.InNamespace(w.ns), client.MatchingLabels{v1alpha1.LabelNode: name}); err != nil {
			w.t.Fatal(err)
		}
		_ = meta.EachListItem(list, func(o runtime.Object) error {
			c := o.(client.Object)
			outlives := c.GetName() == name+"-identity" || c.GetName() == name+"-data"
			if owner := metav1.GetControllerOf(c); !outlives && (owner == nil || owner.Name != name || len(c.GetFinalizers()) > 0) {
				w.t.Errorf("%s: %T %s is an orphan: owner %v, finalizers %v", name, c, c.GetName(), owner, c.GetFinalizers())
			}
			return nil
		})
	}
}

// Deleting a node ends, whatever is gone, stuck, silent or hostile, and what is
// left is what its policies say.
func TestNodeDeletionMatrix(t *testing.T) {
	w := newWorld(t)
	type row struct {
		name   string
		change func(*v1alpha1.KoiNodeSpec)
		reason string       // the state before
		before func(string) // what happens to it then
		leaves bool         // it takes its leave of its neighbours
	}
	rows := []row{
		{name: "up", leaves: true},
		{name: "nodegone", before: func(n string) {
			w.net.mu.Lock()
			w.net.down[n] = true
			w.net.mu.Unlock()
			w.delete(&appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: n, Namespace: w.ns}})
		}},
		{name: "podgone", before: func(n string) {
			w.net.mu.Lock()
			w.net.down[n] = true
			w.net.mu.Unlock()
			w.node(n, v1alpha1.ReasonDeploying)
		}},
		{name: "stuck", leaves: true, before: func(n string) {
			change(w, n+"-data", &corev1.PersistentVolumeClaim{}, func(c *corev1.PersistentVolumeClaim) { c.Finalizers = append(c.Finalizers, foreignFinalizer) })
		}},
		{name: "hang", before: func(n string) { w.net.trouble(n, hang) }},
		{name: "refuse", before: func(n string) { w.net.trouble(n, refuse) }},
		{name: "reset", before: func(n string) { w.net.trouble(n, reset) }},
		{name: "asleep", change: suspended, reason: v1alpha1.ReasonSuspended},
		{name: "invalid", reason: v1alpha1.ReasonInvalidSpec, change: func(s *v1alpha1.KoiNodeSpec) {
			s.PodTemplate = nil
			s.Security = &v1alpha1.Security{AllowedPeerCIDRs: []string{"300.0.0.0/8"}}
		}},
		{name: "keyless", before: func(n string) {
			w.delete(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: n + "-identity", Namespace: w.ns}})
			w.node(n, v1alpha1.ReasonIdentityLost)
		}, leaves: true},
	}
	for _, r := range rows {
		for _, p := range policies {
			n := full(named(r.name, p), keeps(p))
			if r.change != nil {
				r.change(&n.Spec)
			}
			w.create(n)
		}
	}
	for _, r := range rows {
		for _, p := range policies {
			if r.reason == "" {
				r.reason = v1alpha1.ReasonReady
			}
			w.node(named(r.name, p), r.reason)
		}
	}
	for _, r := range rows {
		for _, p := range policies {
			if r.before != nil {
				r.before(named(r.name, p))
			}
		}
	}
	for _, r := range rows {
		for _, p := range policies {
			w.delete(&v1alpha1.KoiNode{ObjectMeta: metav1.ObjectMeta{Name: named(r.name, p), Namespace: w.ns}})
		}
	}
	for _, r := range rows {
		for _, p := range policies {
			name := named(r.name, p)
			w.gone(name, &v1alpha1.KoiNode{})
			f := w.net.named(name)
			w.net.mu.Lock()
			if f != nil && (f.left > 0) != r.leaves {
				t.Errorf("%s took its leave %d times", name, f.left)
			}
			w.net.mu.Unlock()
			if r.name != "invalid" && r.name != "keyless" {
				w.remains(name, p, true)
			}
		}
	}
	for _, p := range policies {
		w.release(&corev1.PersistentVolumeClaim{}, named("stuck", p)+"-data")
	}
}

// A node that is deleted as soon as it is made leaves nothing behind that the
// operator's caches did not know of yet.
func TestDeletedAtOnce(t *testing.T) {
	w := newWorld(t)
	names := []string{"a", "b", "c", "d", "e", "f"}
	for i, name := range names {
		n := full(name, keeps(v1alpha1.DeletionDelete))
		w.create(n)
		w.eventually("the operator begins", func() string {
			// One after the other is deleted one step later in its making.
			made := 0
			for _, s := range w.writes.list() {
				if strings.Contains(s, "/"+name) || strings.HasSuffix(s, " secrets") {
					made++
				}
			}
			if made < i {
				return "not yet"
			}
			return ""
		})
		w.delete(n)
	}
	for _, name := range names {
		w.gone(name, &v1alpha1.KoiNode{})
		w.remains(name, v1alpha1.DeletionDelete, true)
	}
}

// The API server may delete an object although it got its finalizer in the same
// moment. A node that is gone in the middle of its making leaves what its
// policies say, and no more, and takes nothing from one that comes after it.
func TestGoneWhileItIsMade(t *testing.T) {
	w := newWorld(t)
	gone := map[string]bool{}
	w.writes.refusing(func(_, path string) *metav1.Status {
		name, found := strings.CutPrefix(path, "configmaps/gone-")
		name = "gone-" + strings.TrimSuffix(name, "-config")
		if found && !gone[name] {
			gone[name] = true
			n := &v1alpha1.KoiNode{}
			w.release(n, name)
			if err := w.client.Delete(context.Background(), n); err != nil {
				t.Error(err)
			}
			if strings.HasSuffix(name, "again") {
				w.create(full(name, keeps(v1alpha1.DeletionDelete)))
			}
		}
		return nil
	})
	w.create(full("gone-retain", keeps(v1alpha1.DeletionRetain)), full("gone-delete", keeps(v1alpha1.DeletionDelete)), full("gone-again", keeps(v1alpha1.DeletionDelete)))
	for _, p := range policies {
		name := named("gone", p)
		w.gone(name, &v1alpha1.KoiNode{})
		w.eventually(name+" leaves what its policies say", func() string {
			kept := w.get(name+"-identity", &corev1.Secret{})
			var claim corev1.PersistentVolumeClaim
			claimed := w.get(name+"-data", &claim) && claim.DeletionTimestamp == nil
			if want := p == v1alpha1.DeletionRetain; kept != want || claimed != want {
				return fmt.Sprintf("identity %t, storage %t", kept, claimed)
			}
			return ""
		})
	}
	w.settled()
	if !w.get("gone-again-identity", &corev1.Secret{}) || !w.get("gone-again-data", &corev1.PersistentVolumeClaim{}) {
		t.Error("the node that came after lost what is its own now")
	}
}

// An operator that was away for long when objects were deleted lets nodes take
// their leave and edges be forgotten all the same, and waits for the silent no
// longer than usual.
func TestDeletionWhileTheOperatorIsAway(t *testing.T) {
	w := newWorld(t)
	for _, p := range policies {
		w.create(full(named("up", p), keeps(p)), full(named("hang", p), keeps(p)))
	}
	w.create(full("a", provides("orn:x.y"), manual), full("b"), full("c"))
	approved := edge("e", "a", "b", "orn:x.y")
	approved.Spec.Approval = v1alpha1.Approved
	halved := edge("h", "a", "c", "orn:x.y")
	halved.Spec.Approval = v1alpha1.Approved
	w.create(approved, halved)
	for _, name := range []string{"up-retain", "up-delete", "hang-retain", "hang-delete", "a", "b", "c"} {
		w.node(name, v1alpha1.ReasonReady)
	}
	w.edge("e", v1alpha1.ReasonApproved)
	w.edge("h", v1alpha1.ReasonApproved)
	w.stop()
	for _, name := range []string{"hang-retain", "hang-delete", "c"} {
		w.net.trouble(name, hang)
	}
	for _, row := range []string{"up", "hang"} {
		for _, p := range policies {
			w.delete(&v1alpha1.KoiNode{ObjectMeta: metav1.ObjectMeta{Name: named(row, p), Namespace: w.ns}})
		}
	}
	w.delete(approved)
	w.delete(halved)

	w.start(func(o *controllers.Options) {
		o.Clock = func() time.Time { return time.Now().Add(time.Hour) } // it was away for an hour
	})
	for _, row := range []string{"up", "hang"} {
		for _, p := range policies {
			name := named(row, p)
			w.gone(name, &v1alpha1.KoiNode{})
			w.remains(name, p, true)
			f := w.net.named(name)
			w.net.mu.Lock()
			if (f.left > 0) != (row == "up") {
				t.Errorf("%s took its leave %d times", name, f.left)
			}
			w.net.mu.Unlock()
		}
	}
	for _, name := range []string{"e", "h"} {
		w.gone(name, &v1alpha1.KoiEdge{})
	}
	for _, n := range []string{"a", "b"} {
		f := w.net.named(n)
		w.net.mu.Lock()
		if len(f.edges) > 0 || len(f.policies) > 0 {
			t.Errorf("%s still has %v and decided %v", n, f.edges, f.policies)
		}
		w.net.mu.Unlock()
	}
}

// Deleting an edge ends, whatever its ends are like, and those that can be
// reached have forgotten it, and the decision, if the policy says so.
func TestEdgeDeletionMatrix(t *testing.T) {
	w := newWorld(t)
	remove := func(name string) {
		w.delete(&v1alpha1.KoiNode{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: w.ns}})
		w.gone(name, &v1alpha1.KoiNode{})
	}
	suspend := func(name string) {
		change(w, name, &v1alpha1.KoiNode{}, func(n *v1alpha1.KoiNode) { n.Spec.Suspend = true })
		w.node(name, v1alpha1.ReasonSuspended)
	}
	rows := []struct {
		name   string
		before func(source, target string)
		forget bool // with Delete, nobody who can be asked has the edge afterwards
	}{
		{"up", func(string, string) {}, true},
		{"sourcegone", func(s, _ string) { remove(s) }, true},
		{"targetgone", func(_, t string) { remove(t) }, true},
		{"bothgone", func(s, t string) { remove(s); remove(t) }, false},
		{"sourcehangs", func(s, _ string) { w.net.trouble(s, hang) }, true},
		{"targethangs", func(_, t string) { w.net.trouble(t, hang) }, true},
		{"refused", func(s, t string) { w.net.trouble(s, refuse); w.net.trouble(t, refuse) }, false},
		{"reset", func(s, t string) { w.net.trouble(s, reset); w.net.trouble(t, reset) }, false},
		{"asleep", func(s, t string) { suspend(s); suspend(t) }, false},
		{"sourceasleep", func(s, _ string) { suspend(s) }, true},
	}
	// From the first node of a row to the second goes the edge that is deleted on
	// the wire, and back the one that is retained.
	for _, r := range rows {
		w.create(full("s"+r.name, provides("orn:x.y"), manual), full("t"+r.name, provides("orn:x.y"), manual))
	}
	edges := map[string]*v1alpha1.KoiEdge{}
	for _, r := range rows {
		for _, p := range policies {
			e := edge(named(r.name, p), "s"+r.name, "t"+r.name, "orn:x.y")
			if p == v1alpha1.DeletionRetain {
				e.Spec.Source, e.Spec.Target = e.Spec.Target, e.Spec.Source
			}
			e.Spec.Approval, e.Spec.DeletionPolicy = v1alpha1.Approved, p
			w.create(e)
			edges[e.Name] = e
		}
	}
	for name := range edges {
		w.edge(name, v1alpha1.ReasonApproved)
	}
	fakes := map[string]*fakeNode{}
	for _, r := range rows {
		for _, n := range []string{"s" + r.name, "t" + r.name} {
			fakes[n] = w.net.named(n)
		}
	}
	var wait sync.WaitGroup
	for _, r := range rows {
		wait.Go(func() { r.before("s"+r.name, "t"+r.name) })
	}
	wait.Wait()
	for _, e := range edges {
		w.delete(e)
	}
	for name := range edges {
		w.gone(name, &v1alpha1.KoiEdge{})
	}
	w.net.mu.Lock()
	defer w.net.mu.Unlock()
	for _, r := range rows {
		s, d := fakes["s"+r.name], fakes["t"+r.name]
		out, back := pair{s.rid, d.rid}, pair{d.rid, s.rid}
		for name, f := range map[string]*fakeNode{"source": s, "target": d} {
			if _, has := f.edges[out]; has == r.forget {
				t.Errorf("%s: the %s has the edge: %t", r.name, name, has)
			}
			if _, has := f.edges[back]; !has {
				t.Errorf("%s: the %s lost the retained edge", r.name, name)
			}
		}
		reached := r.name == "up" || r.name == "targetgone" || r.name == "targethangs"
		if _, has := s.policies[out]; has == reached {
			t.Errorf("%s: the source holds the decision: %t", r.name, has)
		}
		if _, has := d.policies[back]; !has {
			t.Errorf("%s: the decision of the retained edge is gone", r.name)
		}
	}
}

// noise is a log of which what matters is what it should not hold.
type noise struct {
	mu    sync.Mutex
	lines []string
}

func (n *noise) Enabled(context.Context, slog.Level) bool { return true }
func (n *noise) WithAttrs([]slog.Attr) slog.Handler       { return n }
func (n *noise) WithGroup(string) slog.Handler            { return n }
func (n *noise) Handle(_ context.Context, r slog.Record) error {
	if r.Level < slog.LevelError {
		return nil
	}
	text := r.Message
	r.Attrs(func(a slog.Attr) bool {
		text += fmt.Sprintf(" %s=%v", a.Key, a.Value)
		return true
	})
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lines = append(n.lines, text)
	return nil
}

func (n *noise) errors() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]string(nil), n.lines...)
}

// A namespace that is deleted goes with all that is in it, in whatever order its
// contents are taken away, and the operator neither holds it nor cries about
// what it can no longer make.
func TestNamespaceTerminates(t *testing.T) {
	ours := []client.Object{&v1alpha1.KoiEdge{}, &v1alpha1.KoiNode{}}
	children := []client.Object{&corev1.Secret{}, &corev1.ConfigMap{}, &corev1.ServiceAccount{}, &corev1.PersistentVolumeClaim{},
		&appsv1.Deployment{}, &corev1.Service{}, &networkingv1.NetworkPolicy{}}
	for name, order := range map[string][]client.Object{
		"children first": append(append([]client.Object{}, children...), ours...),
		"nodes first":    append([]client.Object{&v1alpha1.KoiNode{}, &v1alpha1.KoiEdge{}}, children...),
		"edges first":    append(append([]client.Object{}, ours...), children...),
	} {
		t.Run(name, func(t *testing.T) {
			w := namespace(t)
			w.net = newNetwork(w)
			log := &noise{}
			o := w.operator()
			o.log = controllers.Quiet(logr.FromSlogHandler(log))
			p := w.run(o)
			t.Cleanup(func() { _ = p.stop() })
			w.create(full("a", provides("orn:x.y"), manual, keeps(v1alpha1.DeletionDelete), func(s *v1alpha1.KoiNodeSpec) {
				s.NetworkPolicy = &v1alpha1.NetworkPolicy{Enabled: true}
			}), full("b"), full("asleep", suspended), full("hangs"))
			decided := edge("e", "a", "b", "orn:x.y")
			decided.Spec.Approval = v1alpha1.Approved
			w.create(decided, edge("f", "a", "hangs", "orn:x.y"))
			for name, reason := range map[string]string{"a": v1alpha1.ReasonReady, "b": v1alpha1.ReasonReady, "hangs": v1alpha1.ReasonReady, "asleep": v1alpha1.ReasonSuspended} {
				w.node(name, reason)
			}
			w.edge("e", v1alpha1.ReasonApproved)
			w.net.subscribe(w.net.named("b"), w.net.named("a"), "orn:koi-net.node")
			w.eventually("an edge is discovered", func() string { return w.discovered("b", "a", v1alpha1.ReasonApproved) })
			w.net.trouble("hangs", hang)
			if seen := log.errors(); len(seen) > 0 {
				t.Errorf("errors before anything was deleted: %q", seen)
			}

			ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: w.ns}}
			if err := w.client.Delete(t.Context(), ns); err != nil {
				t.Fatal(err)
			}
			// No namespace controller runs here: this is what it does.
			for _, o := range order {
				if err := w.client.DeleteAllOf(t.Context(), o, client.InNamespace(w.ns)); err != nil {
					t.Fatal(err)
				}
				time.Sleep(300 * time.Millisecond) // time to do the wrong thing
			}
			w.eventually("the namespace is empty", func() string {
				var left []string
				for _, o := range order {
					list, err := listOf(o)
					if err != nil {
						return err.Error()
					}
					if err := w.client.List(t.Context(), list, client.InNamespace(w.ns)); err != nil {
						return err.Error()
					}
					_ = meta.EachListItem(list, func(item runtime.Object) error {
						c := item.(client.Object)
						if _, claim := c.(*corev1.PersistentVolumeClaim); claim && c.GetDeletionTimestamp() != nil {
							w.release(&corev1.PersistentVolumeClaim{}, c.GetName()) // as its protection controller does
						}
						left = append(left, fmt.Sprintf("%T %s %v", c, c.GetName(), c.GetFinalizers()))
						return nil
					})
					_ = w.client.DeleteAllOf(t.Context(), o, client.InNamespace(w.ns))
				}
				return strings.Join(left, ", ")
			})
			if err := w.client.Get(t.Context(), client.ObjectKeyFromObject(ns), ns); err != nil {
				t.Fatal(err)
			}
			ns.Spec.Finalizers = nil
			if err := w.client.SubResource("finalize").Update(t.Context(), ns); err != nil {
				t.Fatal(err)
			}
			w.eventually("the namespace is gone", func() string {
				if err := w.client.Get(t.Context(), client.ObjectKeyFromObject(ns), ns); !apierrors.IsNotFound(err) {
					return fmt.Sprint(err)
				}
				return ""
			})
			if seen := log.errors(); len(seen) > 0 {
				t.Errorf("the operator logged errors: %q", seen)
			}
		})
	}
}

// listOf is an empty list of objects of the kind of o.
func listOf(o client.Object) (client.ObjectList, error) {
	gvks, _, err := apiserver.scheme.ObjectKinds(o)
	if err != nil {
		return nil, err
	}
	list, err := apiserver.scheme.New(gvks[0].GroupVersion().WithKind(gvks[0].Kind + "List"))
	if err != nil {
		return nil, err
	}
	return list.(client.ObjectList), nil
}
