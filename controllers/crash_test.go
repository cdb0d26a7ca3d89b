package controllers_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/koi-net/koi-operator/api/v1alpha1"
	"github.com/koi-net/koi-operator/controllers/internal/observe"
	adminclient "github.com/koi-net/koi-operator/node/admin/client"
	"github.com/koi-net/koi-operator/node/rid"
)

// mortal is a node's admin API in the hands of an operator that may have ended:
// from then on it asks for nothing.
type mortal struct {
	observe.Admin
	tap *tap
}

func (m mortal) alive() error {
	m.tap.mu.Lock()
	defer m.tap.mu.Unlock()
	if m.tap.off() {
		return errCut
	}
	return nil
}

func (m mortal) Propose(ctx context.Context, p adminclient.Proposal) (adminclient.Edge, error) {
	if err := m.alive(); err != nil {
		return adminclient.Edge{}, err
	}
	return m.Admin.Propose(ctx, p)
}

func (m mortal) SetPolicy(ctx context.Context, p adminclient.Policy) (adminclient.Policy, error) {
	if err := m.alive(); err != nil {
		return adminclient.Policy{}, err
	}
	return m.Admin.SetPolicy(ctx, p)
}

func (m mortal) DeletePolicy(ctx context.Context, s, t rid.RID) error {
	if err := m.alive(); err != nil {
		return err
	}
	return m.Admin.DeletePolicy(ctx, s, t)
}

func (m mortal) ForgetEdge(ctx context.Context, s, t rid.RID) error {
	if err := m.alive(); err != nil {
		return err
	}
	return m.Admin.ForgetEdge(ctx, s, t)
}

func (m mortal) Leave(ctx context.Context) error {
	if err := m.alive(); err != nil {
		return err
	}
	return m.Admin.Leave(ctx)
}

// supervised runs operators one after the other, as a kubelet would: each is cut
// off after its share of writes, a negative one for never. It returns what the
// operators wrote.
func (w *world) supervised(shares func(life int) int) func() []written {
	w.t.Helper()
	var mu sync.Mutex
	var taps []*tap
	end := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for life := 0; ; life++ {
			o := w.operator()
			o.tap = &tap{}
			o.options.Dial = func(e observe.Endpoint) (observe.Admin, error) {
				a, err := observe.Dial(e)
				return mortal{a, o.tap}, err
			}
			mu.Lock()
			taps = append(taps, o.tap)
			mu.Unlock()
			var cut <-chan struct{}
			if n := shares(life); n >= 0 {
				cut = o.tap.cutAfter(n)
			}
			p := w.run(o)
			select {
			case <-cut:
				_ = p.stop()
			case <-end:
				_ = p.stop()
				return
			}
		}
	}()
	w.stop = sync.OnceFunc(func() {
		close(end)
		<-done
	})
	w.t.Cleanup(func() { w.stop() })
	return func() []written {
		mu.Lock()
		defer mu.Unlock()
		var out []written
		for _, t := range taps {
			out = append(out, t.writes()...)
		}
		return out
	}
}

// lived is what a life looked like: in its midst, with all there is, and at its
// end.
type lived struct{ midst, end []string }

// life is all that happens to a small network, from its making to its end.
func (w *world) life() lived {
	w.t.Helper()
	w.create(full("a", provides("orn:x.y"), manual, keeps(v1alpha1.DeletionDelete), func(s *v1alpha1.KoiNodeSpec) {
		s.NetworkPolicy = &v1alpha1.NetworkPolicy{Enabled: true}
	}), full("b", contact("a")), edge("e", "a", "b", "orn:x.y"))
	w.edge("e", v1alpha1.ReasonAwaitingApproval)
	identity := w.node("b", v1alpha1.ReasonReady).Status.RID
	change(w, "e", &v1alpha1.KoiEdge{}, func(e *v1alpha1.KoiEdge) { e.Spec.Approval = v1alpha1.Approved })
	w.edge("e", v1alpha1.ReasonApproved)
	w.net.subscribe(w.net.named("b"), w.net.named("a"), "orn:koi-net.node")
	w.eventually("an edge is discovered", func() string { return w.discovered("b", "a", v1alpha1.ReasonApproved) })
	change(w, "a", &v1alpha1.KoiNode{}, func(n *v1alpha1.KoiNode) { n.Spec.Interests = []v1alpha1.RIDType{"*"}; n.Spec.NetworkPolicy = nil })
	w.node("a", v1alpha1.ReasonReady)
	change(w, "e", &v1alpha1.KoiEdge{}, func(e *v1alpha1.KoiEdge) { e.Spec.EdgeType = v1alpha1.EdgePoll })
	change(w, "b", &v1alpha1.KoiNode{}, func(n *v1alpha1.KoiNode) { n.Spec.Suspend = true })
	w.rest(state{"KoiNode", "b", v1alpha1.ReasonSuspended, status.CurrentStatus, v1alpha1.ConditionSuspended})
	w.edge("e", v1alpha1.ReasonSuspended)
	change(w, "b", &v1alpha1.KoiNode{}, func(n *v1alpha1.KoiNode) { n.Spec.Suspend = false })
	if again := w.node("b", v1alpha1.ReasonReady).Status.RID; again != identity {
		w.t.Errorf("b is %s, and was %s", again, identity)
	}
	w.node("a", v1alpha1.ReasonReady)
	w.edge("e", v1alpha1.ReasonApproved)
	w.gone("a", &networkingv1.NetworkPolicy{})
	w.eventually("the discovered edge is there again", func() string { return w.discovered("b", "a", v1alpha1.ReasonApproved) })
	var out lived
	w.eventually("the midst of the life is still", func() string {
		out.midst = w.picture()
		if counts := w.node("a", v1alpha1.ReasonReady).Status.Edges; counts == nil || counts.Approved != 2 {
			return fmt.Sprintf("%+v", counts)
		}
		return ""
	})
	// The wish to take the decision back and the end of the object come together.
	w.delete(&v1alpha1.KoiEdge{ObjectMeta: metav1.ObjectMeta{Name: "e", Namespace: w.ns}})
	w.gone("e", &v1alpha1.KoiEdge{})
	w.delete(&v1alpha1.KoiNode{ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: w.ns}})
	w.delete(&v1alpha1.KoiNode{ObjectMeta: metav1.ObjectMeta{Name: "b", Namespace: w.ns}})
	for _, name := range []string{"a", "b"} {
		w.gone(name, &v1alpha1.KoiNode{})
	}
	w.remains("a", v1alpha1.DeletionDelete, true)
	w.remains("b", v1alpha1.DeletionRetain, true)
	out.end = w.picture()
	return out
}

var random = regexp.MustCompile(`[+:][0-9a-f]{32,}|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|-to-(\w+)-[0-9a-f]{8}|"[0-9a-f]{16}"`)

// picture is all that is in the namespace and in the nodes, but for what chance
// and time make different.
func (w *world) picture() []string {
	w.t.Helper()
	var out []string
	for _, list := range []client.ObjectList{&v1alpha1.KoiNodeList{}, &v1alpha1.KoiEdgeList{}, &appsv1.DeploymentList{}, &corev1.ServiceList{}, &corev1.ConfigMapList{},
		&corev1.ServiceAccountList{}, &corev1.SecretList{}, &corev1.PersistentVolumeClaimList{}, &networkingv1.NetworkPolicyList{}} {
		if err := w.client.List(w.t.Context(), list, client.InNamespace(w.ns)); err != nil {
			w.t.Fatal(err)
		}
		_ = meta.EachListItem(list, func(o runtime.Object) error {
			c := o.(client.Object)
			owner := metav1.GetControllerOf(c)
			if line := still(c); line != "" && (owner == nil || w.get(owner.Name, &v1alpha1.KoiNode{})) { // else the garbage collector takes it
				out = append(out, line)
			}
			return nil
		})
	}
	w.net.mu.Lock()
	defer w.net.mu.Unlock()
	for name, f := range w.net.names {
		var edges []string
		for p, e := range f.edges {
			edges = append(edges, fmt.Sprint(p.source, p.target, e.Status, e.EdgeType, e.RIDTypes))
		}
		for p, d := range f.policies {
			edges = append(edges, fmt.Sprint(p.source, p.target, d.Verdict, d.EdgeType, d.RIDTypes))
		}
		slices.Sort(edges)
		out = append(out, fmt.Sprintf("node %s, started %d times, left %t, edges and decisions %v", name, f.starts, f.left > 0, edges))
	}
	for i := range out {
		out[i] = strings.ReplaceAll(random.ReplaceAllString(out[i], "~$1"), w.ns, "NAMESPACE")
	}
	slices.Sort(out)
	return out
}

// still is what an object says that is the same in every life.
func still(o client.Object) string {
	var content, status any
	switch o := o.(type) {
	case *v1alpha1.KoiNode:
		s := o.Status
		for i := range s.Conditions {
			s.Conditions[i].LastTransitionTime = metav1.Time{}
		}
		s.PublicKey = ""
		content, status = o.Spec, s
	case *v1alpha1.KoiEdge:
		s := o.Status
		for i := range s.Conditions {
			s.Conditions[i].LastTransitionTime = metav1.Time{}
		}
		s.Timestamp = ""
		content, status = o.Spec, s
	case *appsv1.Deployment:
		// Another generation is another start of the node.
		content, status = o.Spec, o.Generation
	case *corev1.Service:
		content = []any{o.Spec.Selector, o.Spec.Type}
	case *corev1.ConfigMap:
		if o.Name == "kube-root-ca.crt" {
			return ""
		}
		content = o.Data
	case *corev1.Secret:
		var keys []string
		for k := range o.Data {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		content = keys
	case *corev1.PersistentVolumeClaim:
		content = o.Spec
		if o.DeletionTimestamp != nil {
			return "" // its protection goes by a controller that does not run here
		}
	case *corev1.ServiceAccount:
		if o.Name == "default" {
			return ""
		}
	}
	owners := []string{}
	for _, r := range o.GetOwnerReferences() {
		owners = append(owners, r.Kind+" "+r.Name)
	}
	text, err := json.Marshal([]any{o.GetLabels(), o.GetFinalizers(), owners, content, status})
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%T %s: %s", o, o.GetName(), text)
}

// same tells how two pictures differ.
func same(t *testing.T, when string, got, want []string) {
	t.Helper()
	for _, line := range got {
		if !slices.Contains(want, line) {
			t.Errorf("%s there is\n%s", when, line)
		}
	}
	for _, line := range want {
		if !slices.Contains(got, line) {
			t.Errorf("%s there should be\n%s", when, line)
		}
	}
}

// An operator that ends after any of its writes, and so before any other, is
// followed by one that brings everything to the same end: nothing twice, nothing
// left over, no node started once more than needed.
func TestCrashAfterEveryWrite(t *testing.T) {
	w := namespace(t)
	w.net = newNetwork(w)
	all := w.supervised(func(int) int { return -1 })
	want := w.life()
	w.stop()
	total := 0
	for _, s := range all() {
		if !s.beside() {
			total++
		}
	}
	if total < 40 {
		t.Fatalf("a life took %d writes only", total)
	}
	t.Logf("a life takes %d writes", total)

	step, granted := max(total/24, 1), 2
	if os.Getenv("KOI_LONG") != "" {
		step, granted = 1, 1
	}
	lives := map[string]func(int) int{
		fmt.Sprintf("again and again after %d", granted): func(int) int { return granted },
	}
	for k := 0; k <= total; k += step {
		lives[fmt.Sprintf("after write %d", k)] = func(life int) int {
			if life > 0 {
				return -1
			}
			return k
		}
	}
	for name, shares := range lives {
		t.Run(name, func(t *testing.T) {
			w := namespace(t)
			w.net = newNetwork(w)
			w.patience = 4 * patience
			w.supervised(shares)
			got := w.life()
			same(t, "in the midst", got.midst, want.midst)
			same(t, "at the end", got.end, want.end)
		})
	}
}
