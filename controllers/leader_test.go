package controllers_test

import (
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/yaml"

	"github.com/koi-net/koi-operator/api/v1alpha1"
	"github.com/koi-net/koi-operator/controllers"
	"github.com/koi-net/koi-operator/controllers/internal/observe"
)

// replica is one of several operators that share a lease.
type replica struct {
	*process
	tap *tap
	// dialled counts the nodes it turned to.
	dialled *atomic.Int32
	log     *noise
}

const lease = 3 * time.Second

// replica starts an operator that works only while it leads.
func (w *world) replica() replica {
	w.t.Helper()
	r := replica{tap: &tap{}, dialled: &atomic.Int32{}, log: &noise{}}
	o := w.operator()
	o.tap, o.log = r.tap, controllers.Quiet(logr.FromSlogHandler(r.log))
	o.options.Dial = func(e observe.Endpoint) (observe.Admin, error) {
		r.dialled.Add(1)
		a, err := observe.Dial(e)
		return mortal{a, r.tap}, err
	}
	o.manager = func(m *ctrl.Options) {
		m.LeaderElection, m.LeaderElectionID, m.LeaderElectionNamespace = true, "koi-operator.koi-net.io", w.ns
		m.LeaseDuration, m.RenewDeadline, m.RetryPeriod = ptr.To(lease), ptr.To(2*time.Second), ptr.To(500*time.Millisecond)
	}
	r.process = w.run(o)
	w.t.Cleanup(func() { _ = r.stop() })
	return r
}

// work is what a replica wrote of the operator's work.
func (r replica) work() []written {
	var out []written
	for _, s := range r.tap.writes() {
		if !strings.Contains(s.path, "/leases") && !strings.HasPrefix(s.path, "leases") {
			out = append(out, s)
		}
	}
	return out
}

// bind gives the operator's user a role of config/ in the world's namespace.
func (w *world) bindRole(file string, to string) {
	w.t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "config", "rbac", file))
	if err != nil {
		w.t.Fatal(err)
	}
	var r struct {
		Rules []rbacv1.PolicyRule `json:"rules"`
	}
	if err := yaml.Unmarshal([]byte(strings.Split(string(text), "\n---\n")[0]), &r); err != nil || len(r.Rules) == 0 {
		w.t.Fatalf("%s: %d rules, %v", file, len(r.Rules), err)
	}
	name := strings.ReplaceAll(strings.TrimSuffix(file, ".yaml"), "_", "-")
	w.create(&rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: r.Rules}, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: to}},
	})
}

// handover lets one replica build a world with another standing by, ends it with
// end, and wants the other to take up where it left, and both never to have
// worked at one time.
func handover(t *testing.T, end func(*world, replica)) {
	w := namespace(t)
	w.net = newNetwork(w)
	w.bindRole("leader_election_role.yaml", apiserver.operator.Impersonate.UserName)
	first := w.replica()
	w.eventually("the first leads", func() string {
		var l coordinationv1.Lease
		if !w.get("koi-operator.koi-net.io", &l) || ptr.Deref(l.Spec.HolderIdentity, "") == "" {
			return "nobody does"
		}
		return ""
	})
	second := w.replica()
	w.create(full("a", provides("orn:x.y")), full("b"), full("c"), edge("e", "a", "b", "orn:x.y"))
	for _, n := range []string{"a", "b", "c"} {
		w.node(n, v1alpha1.ReasonReady)
	}
	w.edge("e", v1alpha1.ReasonApproved)
	w.eventually("the first settles", func() string {
		before := len(first.work())
		time.Sleep(time.Second)
		if len(first.work()) != before {
			return "it writes"
		}
		return ""
	})
	if n := len(second.work()); n != 0 || second.dialled.Load() != 0 {
		t.Errorf("the second wrote %d times and turned to %d nodes before it led", n, second.dialled.Load())
	}

	end(w, first)
	killed := time.Now()
	// The network goes on meanwhile.
	w.net.mu.Lock()
	w.net.forget(pair{w.net.names["a"].rid, w.net.names["b"].rid})
	w.net.mu.Unlock()
	w.net.subscribe(w.net.named("a"), w.net.named("c"), "orn:x.y")
	w.create(edge("new", "b", "a", "orn:koi-net.node"))

	w.eventually("the new edge is shown", func() string { return w.discovered("a", "c", v1alpha1.ReasonApproved) })
	w.edge("new", v1alpha1.ReasonApproved)
	w.eventually("the edge that was forgotten is there again", func() string {
		if w.wire("a", "a", "b") == nil {
			return "it is not"
		}
		return ""
	})
	w.edge("e", v1alpha1.ReasonApproved)
	t.Logf("a lease lasts %s; all was mirrored %s after the first ended", lease, time.Since(killed).Round(100*time.Millisecond))
	<-first.done
	was, is := first.work(), second.work()
	if last, next := was[len(was)-1], is[0]; !last.at.Before(next.at) {
		t.Errorf("the first wrote %v after the second wrote %v", last, next)
	}
	for _, s := range is {
		// What was as it should be is not written again.
		if strings.HasPrefix(s.path, "deployments") || strings.HasPrefix(s.path, "secrets") || strings.HasPrefix(s.path, "configmaps") {
			t.Errorf("the second wrote %v", s)
		}
	}
	if seen := second.log.errors(); len(seen) > 0 {
		t.Errorf("the second logged errors: %q", seen)
	}
}

// Of two operators one works. When it dies, with its lease in its hand, the other
// goes on.
func TestLeaderDies(t *testing.T) {
	handover(t, func(_ *world, first replica) { _ = first.stop() })
}

// A leader that can reach the API server no more ends itself before its lease
// does, so that two never work at once.
func TestLeaderIsCutOff(t *testing.T) {
	handover(t, func(w *world, first replica) {
		first.tap.sever()
		w.eventually("the first gives up", func() string {
			select {
			case <-first.done:
			default:
				return "it goes on"
			}
			if first.err == nil || !strings.Contains(first.err.Error(), "leader election lost") {
				t.Errorf("it ended with %v", first.err)
			}
			return ""
		})
	})
}

// With the watch narrowed to namespaces an operator needs nothing of the cluster:
// Roles there do, and what is elsewhere is none of its business.
func TestNarrowedToNamespaces(t *testing.T) {
	w := namespace(t)
	w.net = newNetwork(w)
	other := *w
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "t-"}}
	if err := w.client.Create(t.Context(), ns); err != nil {
		t.Fatal(err)
	}
	other.ns = ns.Name
	const user = "system:serviceaccount:koi-operator-system:narrow"
	w.bindRole("role.yaml", user)
	o := w.operator()
	log := &noise{}
	o.config = rest.CopyConfig(apiserver.config)
	o.config.Impersonate = rest.ImpersonationConfig{UserName: user}
	o.log = controllers.Quiet(logr.FromSlogHandler(log))
	p := w.run(o)
	t.Cleanup(func() {
		if err := p.stop(); err != nil {
			t.Error(err)
		}
	})
	w.create(full("a", provides("orn:x.y"), keeps(v1alpha1.DeletionDelete), func(s *v1alpha1.KoiNodeSpec) {
		s.NetworkPolicy = &v1alpha1.NetworkPolicy{Enabled: true}
		s.Upgrade = v1alpha1.UpgradeAutomatic
	}), full("b"), edge("e", "a", "b", "orn:x.y"), edge("far", someRID, "b", "orn:x.y"))
	other.create(full("a"), edge("e", "a", "b", "orn:x.y"))
	w.node("a", v1alpha1.ReasonReady)
	w.edge("e", v1alpha1.ReasonApproved)
	w.edge("far", v1alpha1.ReasonProposed)
	w.net.subscribe(w.net.named("b"), w.net.named("a"), "orn:koi-net.node")
	w.eventually("an edge is discovered", func() string { return w.discovered("b", "a", v1alpha1.ReasonApproved) })
	w.delete(&v1alpha1.KoiEdge{ObjectMeta: metav1.ObjectMeta{Name: "e"}})
	w.gone("e", &v1alpha1.KoiEdge{})
	w.delete(&v1alpha1.KoiNode{ObjectMeta: metav1.ObjectMeta{Name: "a"}})
	w.gone("a", &v1alpha1.KoiNode{})
	w.remains("a", v1alpha1.DeletionDelete, true)
	if reasons := w.eventReasons("b"); len(reasons) == 0 {
		t.Error("there are no Events")
	}

	var n v1alpha1.KoiNode
	other.must("a", &n)
	if n.Status.ObservedGeneration != -1 || len(n.Finalizers) > 0 {
		t.Errorf("the node of another namespace was looked at: %+v", n.Status)
	}
	var e v1alpha1.KoiEdge
	other.must("e", &e)
	if e.Status.ObservedGeneration != -1 || len(e.Finalizers) > 0 {
		t.Errorf("the edge of another namespace was looked at: %+v", e.Status)
	}
	if seen := log.errors(); len(seen) > 0 {
		t.Errorf("the operator logged errors: %q", seen)
	}
}
