package metrics

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/koi-net/koi-operator/api/v1alpha1"
	"github.com/koi-net/koi-operator/controllers/internal/conditions"
	"github.com/koi-net/koi-operator/controllers/internal/observe"
	adminclient "github.com/koi-net/koi-operator/node/admin/client"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func newMetrics(t *testing.T) (*Metrics, *prometheus.Registry) {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	m, err := New(r)
	if err != nil {
		t.Fatal(err)
	}
	return m, r
}

func expect(t *testing.T, r *prometheus.Registry, text string, names ...string) {
	t.Helper()
	if err := testutil.GatherAndCompare(r, strings.NewReader(text), names...); err != nil {
		t.Error(err)
	}
}

func TestNamesAreWellFormed(t *testing.T) {
	m, r := newMetrics(t)
	m.called("status", nil)
	m.wrote(&corev1.Secret{}, "", "create")
	r.MustRegister(census(t, nodeIn("a", "n", conditions.Wait(v1alpha1.ReasonDeploying, "x"))))
	problems, err := testutil.GatherAndLint(r)
	if err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
	if _, err := New(r); err == nil {
		t.Error("registered twice")
	}
}

// The label reason knows every reason of the API and nothing else.
func TestReasonsAreTheAPIs(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "../../../api/v1alpha1/conditions.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	ast.Inspect(file, func(n ast.Node) bool {
		v, ok := n.(*ast.ValueSpec)
		if !ok || !strings.HasPrefix(v.Names[0].Name, "Reason") {
			return true
		}
		seen++
		text, err := strconv.Unquote(v.Values[0].(*ast.BasicLit).Value)
		if err != nil || reasonName(text) != text {
			t.Errorf("%s counts as %q, %v", v.Names[0].Name, reasonName(text), err)
		}
		return true
	})
	if seen < 30 {
		t.Errorf("found %d reasons only", seen)
	}
	if got := reasonName("orn:koi-net.node:a+b"); got != "Other" {
		t.Errorf("an unknown reason is the label %q", got)
	}
}

func status(s *conditions.State) []metav1.Condition {
	if s == nil {
		return nil
	}
	return conditions.Set(nil, 1, start.Add(time.Minute), s)
}

func nodeIn(namespace, name string, s *conditions.State) *v1alpha1.KoiNode {
	return &v1alpha1.KoiNode{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, CreationTimestamp: metav1.NewTime(start)},
		Status:     v1alpha1.KoiNodeStatus{Conditions: status(s)},
	}
}

func edgeIn(namespace, name string, s *conditions.State) *v1alpha1.KoiEdge {
	return &v1alpha1.KoiEdge{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, CreationTimestamp: metav1.NewTime(start)},
		Status:     v1alpha1.KoiEdgeStatus{Conditions: status(s)},
	}
}

func reader(t *testing.T, objects ...client.Object) client.Client {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{v1alpha1.AddToScheme, corev1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	return fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).WithStatusSubresource(&v1alpha1.KoiEdge{}).Build()
}

func census(t *testing.T, objects ...client.Object) *Census {
	t.Helper()
	return &Census{
		Reader: reader(t, objects...),
		Leads:  func() bool { return true },
		Clock:  func() time.Time { return start.Add(10 * time.Minute) },
	}
}

func TestCensus(t *testing.T) {
	going := nodeIn("b", "going", conditions.Stall(v1alpha1.ReasonConflict, "x"))
	going.Finalizers = []string{"x/y"}
	going.DeletionTimestamp = &metav1.Time{Time: start}
	c := census(t,
		nodeIn("a", "ready", conditions.Rest(v1alpha1.ReasonReady, "x")),
		nodeIn("a", "elsewhere", conditions.Rest(v1alpha1.ReasonExternal, "x")),
		nodeIn("a", "new", nil),
		nodeIn("b", "asleep", conditions.Suspend("x")),
		nodeIn("b", "starting", conditions.Wait(v1alpha1.ReasonDeploying, "x")),
		nodeIn("b", "strange", conditions.Wait("SomethingElse", "x")),
		going,
		edgeIn("a", "one", conditions.Wait(v1alpha1.ReasonAwaitingApproval, "x")),
		edgeIn("a", "two", conditions.Wait(v1alpha1.ReasonAwaitingApproval, "x")),
		edgeIn("b", "three", conditions.Rest(v1alpha1.ReasonApproved, "x")),
		edgeIn("b", "four", conditions.Stall(v1alpha1.ReasonConflict, "x")),
	)
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(c)
	expect(t, r, `
# HELP koi_operator_edge_longest_unready_seconds For how long the KoiEdge has not been Ready that has not been for longest; those that wait for approval apart.
# TYPE koi_operator_edge_longest_unready_seconds gauge
koi_operator_edge_longest_unready_seconds{namespace="b"} 540
# HELP koi_operator_edges KoiEdges by how they fare.
# TYPE koi_operator_edges gauge
koi_operator_edges{namespace="a",reason="AwaitingApproval",state="Reconciling"} 2
koi_operator_edges{namespace="b",reason="Approved",state="Ready"} 1
koi_operator_edges{namespace="b",reason="Conflict",state="Stalled"} 1
# HELP koi_operator_node_longest_unready_seconds For how long the KoiNode has not been Ready that has not been for longest.
# TYPE koi_operator_node_longest_unready_seconds gauge
koi_operator_node_longest_unready_seconds{namespace="a"} 600
koi_operator_node_longest_unready_seconds{namespace="b"} 540
# HELP koi_operator_nodes KoiNodes by how they fare.
# TYPE koi_operator_nodes gauge
koi_operator_nodes{namespace="a",reason="External",state="Ready"} 1
koi_operator_nodes{namespace="a",reason="Ready",state="Ready"} 1
koi_operator_nodes{namespace="a",reason="Unobserved",state="Reconciling"} 1
koi_operator_nodes{namespace="b",reason="Conflict",state="Deleting"} 1
koi_operator_nodes{namespace="b",reason="Deploying",state="Reconciling"} 1
koi_operator_nodes{namespace="b",reason="Other",state="Reconciling"} 1
koi_operator_nodes{namespace="b",reason="Suspended",state="Suspended"} 1
# HELP koi_operator_proposal_longest_wait_seconds For how long the oldest proposal has waited for a person's approval.
# TYPE koi_operator_proposal_longest_wait_seconds gauge
koi_operator_proposal_longest_wait_seconds{namespace="a"} 540
`)
	c.Leads = func() bool { return false }
	if n, err := testutil.GatherAndCount(r); n != 0 || err != nil {
		t.Errorf("an operator that waits to lead counts %d series, %v", n, err)
	}
}

func TestOutcomes(t *testing.T) {
	answer := func(status int, code string) error {
		return fmt.Errorf("call: %w", &adminclient.Error{Status: status, Code: code})
	}
	for want, errs := range map[string][]error{
		"ok":            {nil},
		"unauthorized":  {answer(401, adminclient.CodeUnauthorized)},
		"not_found":     {answer(404, adminclient.CodeNotFound)},
		"refused":       {answer(400, adminclient.CodeBadRequest), answer(409, adminclient.CodeConflict), answer(413, adminclient.CodeTooLarge)},
		"unavailable":   {answer(503, adminclient.CodeUnavailable)},
		"store_full":    {answer(507, adminclient.CodeStoreFull)},
		"not_admin_api": {answer(502, "")},
		"internal":      {answer(500, adminclient.CodeInternal), answer(400, "hello")},
		"ended":         {adminclient.ErrWatchEnded},
		"timeout":       {fmt.Errorf("%w for 45s", adminclient.ErrSilent), context.DeadlineExceeded, &net.DNSError{IsTimeout: true}},
		"tls":           {x509.UnknownAuthorityError{}, fmt.Errorf("x: %w", x509.CertificateInvalidError{}), &tls.CertificateVerificationError{}, tls.RecordHeaderError{}, tls.AlertError(42)},
		"unreachable":   {&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}, fmt.Errorf("x: %w", &net.OpError{Op: "read", Err: syscall.ECONNRESET})},
		"other":         {errors.New("answer of GET: unexpected end of JSON input")},
	} {
		for _, err := range errs {
			if got := outcome(err); got != want {
				t.Errorf("%v is %s, want %s", err, got, want)
			}
		}
	}
}

// scripted answers every call with err and plays a watch.
type scripted struct {
	observe.Admin
	err error
}

func (s scripted) Status(context.Context) (adminclient.Status, error) {
	return adminclient.Status{}, s.err
}
func (s scripted) Leave(context.Context) error { return s.err }
func (s scripted) Follow(_ context.Context, _ string, fn func(adminclient.Change) error, o adminclient.FollowOptions) error {
	for range 2 {
		for range 3 {
			if err := fn(adminclient.Change{}); err != nil {
				return err
			}
		}
		if err := o.OnError(adminclient.ErrWatchEnded); err != nil {
			return err
		}
	}
	return s.err
}

func TestAdminIsCounted(t *testing.T) {
	m, r := newMetrics(t)
	dial := m.Dial(func(e observe.Endpoint) (observe.Admin, error) {
		if e.URL == "" {
			return nil, errors.New("no URL")
		}
		return scripted{err: context.Canceled}, nil
	})
	if _, err := dial(observe.Endpoint{}); err == nil {
		t.Error("dialled nothing")
	}
	a, err := dial(observe.Endpoint{URL: "x"})
	if err != nil {
		t.Fatal(err)
	}
	_, _ = a.Status(t.Context()) // given up by the operator
	var most float64
	errs := 0
	err = a.Follow(t.Context(), "", func(adminclient.Change) error {
		most = max(most, testutil.ToFloat64(m.watches))
		return nil
	}, adminclient.FollowOptions{OnError: func(error) error { errs++; return nil }})
	if !errors.Is(err, context.Canceled) || errs != 2 || most != 1 || testutil.ToFloat64(m.watches) != 0 {
		t.Errorf("%v; told of %d ends; %v connected at most, %v in the end", err, errs, most, testutil.ToFloat64(m.watches))
	}
	a, err = m.Dial(func(observe.Endpoint) (observe.Admin, error) {
		return scripted{err: &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}}, nil
	})(observe.Endpoint{})
	if err != nil {
		t.Fatal(err)
	}
	if a.Leave(t.Context()) == nil {
		t.Error("an error is lost")
	}
	expect(t, r, `
# HELP koi_operator_admin_requests_total Requests to the admin APIs of nodes.
# TYPE koi_operator_admin_requests_total counter
koi_operator_admin_requests_total{call="leave",outcome="unreachable"} 1
koi_operator_admin_requests_total{call="watch",outcome="ended"} 2
koi_operator_admin_requests_total{call="watch",outcome="ok"} 2
`, "koi_operator_admin_requests_total")
}

func TestWritesAreCounted(t *testing.T) {
	m, r := newMetrics(t)
	c := m.Client(reader(t))
	ctx := t.Context()
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "s"}}
	edge := edgeIn("n", "e", nil)
	u := &unstructured.Unstructured{}
	u.SetAPIVersion("v1")
	u.SetKind("ConfigMap")
	u.SetNamespace("n")
	u.SetName("c")
	for i, err := range []error{
		c.Create(ctx, secret),
		c.Create(ctx, edge),
		c.Update(ctx, secret),
		c.Status().Patch(ctx, edge, client.RawPatch(types.MergePatchType, []byte(`{"status":{"status":"Approved"}}`))),
		c.Patch(ctx, edge, client.RawPatch(types.MergePatchType, []byte(`{}`))),
		c.Apply(ctx, client.ApplyConfigurationFromUnstructured(u), client.FieldOwner("me")),
		c.Delete(ctx, secret),
		c.Get(ctx, types.NamespacedName{Namespace: "n", Name: "e"}, edge),
		c.List(ctx, &v1alpha1.KoiEdgeList{}),
	} {
		if err != nil {
			t.Errorf("call %d: %v", i, err)
		}
	}
	expect(t, r, `
# HELP koi_operator_api_writes_total Writes to the API server, tried or done; Events and leases apart.
# TYPE koi_operator_api_writes_total counter
koi_operator_api_writes_total{kind="ConfigMap",verb="apply"} 1
koi_operator_api_writes_total{kind="KoiEdge",verb="create"} 1
koi_operator_api_writes_total{kind="KoiEdge",verb="patch"} 1
koi_operator_api_writes_total{kind="KoiEdge/status",verb="patch"} 1
koi_operator_api_writes_total{kind="Secret",verb="create"} 1
koi_operator_api_writes_total{kind="Secret",verb="delete"} 1
koi_operator_api_writes_total{kind="Secret",verb="update"} 1
`, "koi_operator_api_writes_total")
}

// sums are how often and for how long together a histogram was observed, by label.
func sums(t *testing.T, r *prometheus.Registry, name string) string {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			if h := m.GetHistogram(); h.GetSampleCount() > 0 {
				fmt.Fprintf(&out, "%s: %d in %gs; ", m.GetLabel()[0].GetValue(), h.GetSampleCount(), h.GetSampleSum())
			}
		}
	}
	return out.String()
}

func TestApprovalTimes(t *testing.T) {
	approved, proposed := conditions.Rest(v1alpha1.ReasonApproved, ""), conditions.Wait(v1alpha1.ReasonProposed, "")
	awaiting, rejected := conditions.Wait(v1alpha1.ReasonAwaitingApproval, ""), conditions.Rest(v1alpha1.ReasonRejected, "")
	type look struct {
		at    time.Duration // since the creation
		state *conditions.State
		edit  func(*v1alpha1.KoiEdge) // before it
	}
	changed := func(e *v1alpha1.KoiEdge) { e.Generation++ }
	for name, tt := range map[string]struct {
		looks []look
		want  string
	}{
		"at once":                    {[]look{{time.Second, proposed, nil}, {3 * time.Second, approved, nil}, {9 * time.Second, approved, nil}}, "policy: 1 in 2s; "},
		"operator was away":          {[]look{{time.Minute, proposed, nil}, {61 * time.Second, approved, nil}}, "policy: 1 in 61s; "},
		"by a person":                {[]look{{0, proposed, nil}, {1, awaiting, nil}, {time.Hour, proposed, nil}, {time.Hour + time.Second, approved, nil}}, "person: 1 in 3601s; "},
		"nothing to approve":         {[]look{{0, approved, nil}}, ""},
		"rejected":                   {[]look{{0, proposed, nil}, {time.Second, rejected, nil}, {time.Minute, approved, nil}}, ""},
		"changed":                    {[]look{{0, proposed, nil}, {time.Second, approved, nil}, {time.Hour, proposed, changed}, {time.Hour + 2*time.Second, approved, nil}}, "policy: 2 in 3s; "},
		"changed while it waits":     {[]look{{0, proposed, nil}, {time.Hour, proposed, changed}, {time.Hour + 2*time.Second, approved, nil}}, "policy: 1 in 2s; "},
		"changed, and nothing to do": {[]look{{0, approved, nil}, {time.Hour, approved, changed}}, ""},
		"discovered": {[]look{{0, proposed, func(e *v1alpha1.KoiEdge) {
			e.Labels = map[string]string{v1alpha1.LabelOrigin: v1alpha1.OriginDiscovered}
		}}, {1, approved, nil}}, ""},
		"another of the same name":     {[]look{{0, proposed, nil}, {time.Second, approved, func(e *v1alpha1.KoiEdge) { e.UID = "2"; e.Status.ObservedGeneration = -1 }}}, ""},
		"waiting when operator begins": {[]look{{time.Minute, proposed, func(e *v1alpha1.KoiEdge) { e.Status.ObservedGeneration = 1 }}, {time.Hour, approved, nil}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			m, r := newMetrics(t)
			e := edgeIn("n", "e", nil)
			e.UID, e.Generation, e.Status.ObservedGeneration = "1", 1, -1
			for _, l := range tt.looks {
				if l.edit != nil {
					l.edit(e)
				}
				m.EdgeLooked(e, start.Add(l.at))
				e.Status.ObservedGeneration = e.Generation
				m.EdgeReported(e, l.state, time.Time{}, true, start.Add(l.at))
			}
			if got := sums(t, r, "koi_operator_edge_approval_seconds"); got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
			m.ForgetEdge(client.ObjectKeyFromObject(e))
			if n := len(m.approvals.waits) + len(m.mirrored.seen); n != 0 {
				t.Errorf("%d things are remembered of an edge that is gone", n)
			}
		})
	}
}

func TestMirrorLag(t *testing.T) {
	m, r := newMetrics(t)
	key := types.NamespacedName{Namespace: "n", Name: "a"}
	at := func(d time.Duration) time.Time { return start.Add(d) }
	m.NodeReported(key, time.Time{}, true, at(0))                   // no word yet
	m.NodeReported(key, at(time.Second), true, at(2*time.Second))   // 1 s
	m.NodeReported(key, at(time.Second), true, at(time.Hour))       // written for another reason
	m.NodeReported(key, at(time.Hour), false, at(2*time.Hour))      // nothing to write
	m.NodeReported(key, at(time.Hour), true, at(3*time.Hour))       // for another reason
	m.NodeReported(key, at(4*time.Hour), true, at(4*time.Hour+2e9)) // 2 s
	e := edgeIn("n", "a", nil)
	m.EdgeReported(e, conditions.Rest(v1alpha1.ReasonApproved, ""), at(time.Second), true, at(5*time.Second)) // 4 s
	if got, want := sums(t, r, "koi_operator_mirror_lag_seconds"), "KoiEdge: 1 in 4s; KoiNode: 2 in 3s; "; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	m.ForgetNode(key)
	m.ForgetEdge(key)
	if n := len(m.mirrored.seen); n != 0 {
		t.Errorf("%d objects are remembered that are gone", n)
	}
}
