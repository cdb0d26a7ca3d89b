package controllers_test

import (
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/yaml"

	"github.com/koi-net/koi-operator/api/v1alpha1"
)

// permission is what RBAC grants and a request needs.
type permission struct{ group, resource, verb string }

func (p permission) String() string { return strings.Join([]string{p.verb, p.resource, p.group}, " ") }

// unseen are permissions that no request shows in use, with the reason why the
// operator has them all the same.
var unseen = map[permission]string{
	{"koi-net.io", "koinodes/finalizers", "update"}: "asked for by the admission plugin OwnerReferencesPermissionEnforcement where a child blocks its owner's deletion",
	{"events.k8s.io", "events", "patch"}:            "the recorder counts an Event that repeats for one version of an object",
	{"", "events", "patch"}:                         "likewise, for the Events of leader election",
}

// usage records what an operator asks of the API server.
type usage struct {
	mu      sync.Mutex
	used    map[permission]bool
	refused []string
}

func (u *usage) wrap(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		resp, err := next.RoundTrip(r)
		if p, ok := needed(r); ok && err == nil {
			u.note(p, resp)
		}
		return resp, err
	})
}

func (u *usage) note(p permission, resp *http.Response) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if resp.StatusCode == http.StatusForbidden {
		u.refused = append(u.refused, p.String())
		return
	}
	u.used[p] = true
	if p.verb == "patch" && resp.StatusCode == http.StatusCreated { // an apply that creates needs both
		p.verb = "create"
		u.used[p] = true
	}
	// A watch that begins with what there is stands for a list, which an API server
	// that has no such watches is asked for instead.
	if p.verb == "watch" && resp.Request.URL.Query().Get("sendInitialEvents") == "true" {
		p.verb = "list"
		u.used[p] = true
	}
}

// needed is the permission a request needs; false for what is no resource, as
// discovery.
func needed(r *http.Request) (permission, bool) {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	var p permission
	switch {
	case len(parts) > 2 && parts[0] == "api":
		parts = parts[2:]
	case len(parts) > 3 && parts[0] == "apis":
		p.group, parts = parts[1], parts[3:]
	default:
		return p, false
	}
	if parts[0] == "namespaces" && len(parts) > 2 {
		parts = parts[2:]
	}
	p.resource = parts[0]
	if len(parts) > 2 {
		p.resource += "/" + parts[2]
	}
	named := len(parts) > 1
	p.verb = map[string]string{http.MethodPost: "create", http.MethodPut: "update", http.MethodPatch: "patch", http.MethodDelete: "delete"}[r.Method]
	switch {
	case r.Method == http.MethodGet && named:
		p.verb = "get"
	case r.Method == http.MethodGet && r.URL.Query().Get("watch") != "":
		p.verb = "watch"
	case r.Method == http.MethodGet:
		p.verb = "list"
	}
	return p, true
}

// granted are the permissions of the operator's roles in config/rbac.
func granted(t *testing.T) map[permission]bool {
	t.Helper()
	out := map[permission]bool{}
	for _, file := range []string{"role.yaml", "leader_election_role.yaml"} {
		text, err := os.ReadFile(filepath.Join("..", "config", "rbac", file))
		if err != nil {
			t.Fatal(err)
		}
		for document := range strings.SplitSeq(string(text), "\n---\n") {
			var role rbacv1.ClusterRole // a Role has its rules in the same place
			if err := yaml.Unmarshal([]byte(document), &role); err != nil {
				t.Fatal(err)
			}
			for _, rule := range role.Rules {
				for _, g := range rule.APIGroups {
					for _, r := range rule.Resources {
						for _, v := range rule.Verbs {
							out[permission{g, r, v}] = true
						}
					}
				}
			}
		}
	}
	if len(out) < 30 {
		t.Fatalf("the roles grant %d permissions only", len(out))
	}
	return out
}

// In all that makes up the life of nodes and edges the operator asks for what
// its roles grant, for all of it and for no more. Of the ClusterRole it needs
// what a RoleBinding gives in the namespaces it watches.
func TestRolesGrantWhatIsUsed(t *testing.T) {
	w := namespace(t)
	system := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "koi-operator-system"}}
	if err := w.client.Create(t.Context(), system); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	w.install("rbac", "leader_election_role.yaml")
	const account = "koi-operator-of-one-namespace"
	bind := func(namespace, kind, role string) {
		t.Helper()
		b := &rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: account},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind, Name: role},
			Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: system.Name, Name: account}},
		}
		if err := w.client.Create(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	bind(w.ns, "ClusterRole", "koi-operator")
	bind(system.Name, "Role", "koi-operator-leader-election")

	u := &usage{used: map[permission]bool{}}
	w.net = newNetwork(w)
	o := w.operator()
	o.config = rest.CopyConfig(apiserver.config)
	o.config.Impersonate = rest.ImpersonationConfig{UserName: "system:serviceaccount:" + system.Name + ":" + account}
	o.config.Wrap(u.wrap)
	o.manager = func(s *ctrl.Options) {
		s.LeaderElection, s.LeaderElectionNamespace, s.LeaderElectionID = true, system.Name, account
		s.LeaderElectionReleaseOnCancel = true
		// Renewed often, so that the test sees it.
		s.LeaseDuration, s.RenewDeadline, s.RetryPeriod = ptr.To(15*time.Second), ptr.To(10*time.Second), ptr.To(time.Second)
	}
	p := w.run(o)
	stopped := false
	t.Cleanup(func() {
		if !stopped {
			_ = p.stop()
		}
	})
	live(w)
	stopped = true
	if err := p.stop(); err != nil {
		t.Errorf("the operator ended: %v", err)
	}

	u.mu.Lock()
	defer u.mu.Unlock()
	for _, r := range u.refused {
		t.Errorf("refused: %s", r)
	}
	grants := granted(t)
	for p := range maps.Keys(u.used) {
		if !grants[p] {
			t.Errorf("used and not granted: %s", p)
		}
		if unseen[p] != "" {
			t.Errorf("said to be unseen and used: %s", p)
		}
	}
	for p := range grants {
		if !u.used[p] && unseen[p] == "" {
			t.Errorf("granted and not used: %s", p)
		}
	}
	for p := range unseen {
		if !grants[p] {
			t.Errorf("said to be unseen and not granted: %s", p)
		}
	}
	t.Logf("%d permissions used: %s", len(u.used), slices.Sorted(func(yield func(string) bool) {
		for p := range u.used {
			if !yield(fmt.Sprint(p)) {
				return
			}
		}
	}))
}

// live has nodes and edges go through all that the operator writes for.
func live(w *world) {
	w.t.Helper()
	w.create(full("a", provides("orn:x.y"), func(s *v1alpha1.KoiNodeSpec) {
		s.NetworkPolicy = &v1alpha1.NetworkPolicy{Enabled: true}
		s.Storage = &v1alpha1.Storage{Size: ptr.To(resource.MustParse("1Gi")), DeletionPolicy: v1alpha1.DeletionDelete}
		s.Identity = &v1alpha1.Identity{DeletionPolicy: v1alpha1.DeletionDelete}
	}), full("b"), partial("c"))
	for _, n := range []string{"a", "b", "c"} {
		w.node(n, v1alpha1.ReasonReady)
	}
	w.create(edge("e", "a", "b", "orn:x.y"))
	w.edge("e", v1alpha1.ReasonApproved)

	a, c := w.net.named("a"), w.net.named("c")
	w.net.subscribe(a, c, "orn:x.y")
	w.eventually("an edge is discovered", func() string { return w.discovered("a", "c", v1alpha1.ReasonApproved) })
	found := w.discoveredEdge("a", "c").Name
	w.net.mu.Lock()
	w.net.forget(pair{a.rid, c.rid})
	w.net.mu.Unlock()
	w.gone(found, &v1alpha1.KoiEdge{})

	change(w, "a", &v1alpha1.KoiNode{}, func(n *v1alpha1.KoiNode) {
		n.Annotations = map[string]string{v1alpha1.AnnotationRotateAdmin: "now"}
		n.Spec.NetworkPolicy = nil
		n.Spec.Edges = &v1alpha1.NodeEdges{Approval: v1alpha1.ApprovalManual}
	})
	w.gone("a", &networkingv1.NetworkPolicy{})
	w.eventually("the token is another one", func() string {
		var s corev1.Secret
		w.must("a-admin", &s)
		if s.Annotations[v1alpha1.AnnotationRotateAdmin] == "" {
			return "not yet"
		}
		return ""
	})
	w.delete(&v1alpha1.KoiEdge{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "e"}})
	w.gone("e", &v1alpha1.KoiEdge{})
	w.delete(&v1alpha1.KoiNode{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "a"}})
	w.gone("a", &v1alpha1.KoiNode{})
	w.gone("a-identity", &corev1.Secret{})
	w.eventually("the claim goes", func() string {
		var claim corev1.PersistentVolumeClaim
		if w.get("a-data", &claim) && claim.DeletionTimestamp == nil {
			return "it stays"
		}
		return ""
	})
}
