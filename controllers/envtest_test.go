package controllers_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/yaml"

	"github.com/koi-net/koi-operator/api/v1alpha1"
	"github.com/koi-net/koi-operator/controllers"
)

const (
	nodeImage = "registry.test/koi-node:1"
	interval  = 4 * time.Second
	patience  = 30 * time.Second
)

// apiserver is the API server all tests share, each in a namespace of its own.
var apiserver struct {
	config *rest.Config
	// operator is what an operator runs with: the role of config/rbac and no more.
	operator *rest.Config
	scheme   *runtime.Scheme
}

func TestMain(m *testing.M) {
	os.Exit(testMain(m))
}

// worlds is how many tests run side by side unless -parallel says otherwise:
// they wait for time to pass more than they compute.
const worlds = "8"

func testMain(m *testing.M) int {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		if err := flag.Set("test.parallel", worlds); err != nil {
			fmt.Fprintln(os.Stderr, "controllers:", err)
			return 1
		}
	}
	if os.Getenv("KUBEBUILDER_ASSETS") == "" {
		fmt.Fprintln(os.Stderr, "controllers: KUBEBUILDER_ASSETS is not set, so there is no API server to test against: run `make test-envtest`")
		if os.Getenv("CI") == "true" {
			return 1
		}
		return m.Run()
	}
	log.SetLogger(logr.Discard())
	env := &envtest.Environment{
		CRDDirectoryPaths:     []string{filepath.Join("..", "config", "crd", "bases")},
		ErrorIfCRDPathMissing: true,
	}
	// Its default, a /24, holds no more than 254 Services, and no namespace is ever emptied here.
	env.ControlPlane.GetAPIServer().Configure().Set("service-cluster-ip-range", "10.96.0.0/16")
	cfg, err := env.Start()
	if err != nil {
		fmt.Fprintln(os.Stderr, "controllers: start etcd and kube-apiserver:", err)
		return 1
	}
	defer func() {
		if err := env.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, "controllers: stop etcd and kube-apiserver:", err)
		}
	}()
	cfg.QPS, cfg.Burst = 500, 500
	apiserver.config, apiserver.scheme = cfg, runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(apiserver.scheme); err != nil {
			fmt.Fprintln(os.Stderr, "controllers:", err)
			return 1
		}
	}
	if apiserver.operator, err = operatorConfig(cfg); err != nil {
		fmt.Fprintln(os.Stderr, "controllers: give the operator its role:", err)
		return 1
	}
	return m.Run()
}

// operatorConfig binds the generated role to a user and acts as that user.
func operatorConfig(cfg *rest.Config) (*rest.Config, error) {
	text, err := os.ReadFile(filepath.Join("..", "config", "rbac", "role.yaml"))
	if err != nil {
		return nil, err
	}
	var role rbacv1.ClusterRole
	if err := yaml.UnmarshalStrict(text, &role); err != nil {
		return nil, err
	}
	const user = "system:serviceaccount:koi-operator-system:koi-operator"
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: role.Name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role.Name},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}},
	}
	c, err := client.New(cfg, client.Options{Scheme: apiserver.scheme})
	if err != nil {
		return nil, err
	}
	for _, o := range []client.Object{&role, binding} {
		if err := c.Create(context.Background(), o); err != nil {
			return nil, err
		}
	}
	as := rest.CopyConfig(cfg)
	as.Impersonate = rest.ImpersonationConfig{UserName: user}
	return as, nil
}

// world is a namespace with an operator and simulated nodes.
type world struct {
	t      *testing.T
	ns     string
	client client.Client // past all caches
	net    *network
	writes *tap   // on the operators' way to the API server
	stop   func() // stops the operator and waits for it
	// patience is how long what must come may take.
	patience time.Duration
}

// namespace makes a world without an operator.
func namespace(t *testing.T) *world {
	t.Helper()
	if apiserver.config == nil {
		t.Skip("NOT RUN: needs etcd and kube-apiserver; run `make test-envtest`")
	}
	t.Parallel()
	c, err := client.New(apiserver.config, client.Options{Scheme: apiserver.scheme})
	if err != nil {
		t.Fatal(err)
	}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "t-"}}
	if err := c.Create(t.Context(), ns); err != nil {
		t.Fatal(err)
	}
	return &world{t: t, ns: ns.Name, client: c, writes: &tap{}, patience: patience}
}

// in is the same world seen by a subtest.
func (w *world) in(t *testing.T) *world {
	sub := *w
	sub.t = t
	return &sub
}

// newWorld makes a world with an operator; adjust may change its options.
func newWorld(t *testing.T, adjust ...func(*controllers.Options)) *world {
	t.Helper()
	w := namespace(t)
	w.net = newNetwork(w)
	w.start(adjust...)
	return w
}

// operator is how an operator runs.
type operator struct {
	options    controllers.Options
	config     *rest.Config // whom it acts as
	namespaces []string     // what it watches
	tap        *tap
	log        logr.Logger
	manager    func(*ctrl.Options)
}

// start starts an operator, which ends with the test or with w.stop.
func (w *world) start(adjust ...func(*controllers.Options)) {
	w.t.Helper()
	o := w.operator()
	for _, f := range adjust {
		f(&o.options)
	}
	p := w.run(o)
	w.stop = sync.OnceFunc(func() {
		if err := p.stop(); err != nil {
			w.t.Errorf("the operator ended: %v", err)
		}
	})
	w.t.Cleanup(func() { w.stop() })
}

// operator is one as in config/, for this world.
func (w *world) operator() operator {
	options := controllers.Options{
		NodeImage: nodeImage,
		Interval:  interval,
		Namespace: "koi-operator-system",
		Workers:   4,
		AdminURL:  w.net.adminURL,
	}
	return operator{options: options, config: apiserver.operator, namespaces: []string{w.ns}, tap: w.writes, log: testLog(w.t)}
}

// process is an operator that was started.
type process struct {
	cancel context.CancelFunc
	done   chan struct{}
	err    error // how it ended, once it is done
}

// stop ends the operator and waits for it.
func (p *process) stop() error {
	p.cancel()
	<-p.done
	return p.err
}

func (w *world) run(o operator) *process {
	w.t.Helper()
	cfg := rest.CopyConfig(o.config)
	cfg.Wrap(o.tap.wrap)
	settings := ctrl.Options{
		Scheme:                 apiserver.scheme,
		Logger:                 o.log,
		Cache:                  controllers.CacheOptions(o.namespaces),
		Metrics:                server.Options{BindAddress: "0"},
		HealthProbeBindAddress: "0",
		Controller:             config.Controller{SkipNameValidation: ptr.To(true)},
	}
	if o.manager != nil {
		o.manager(&settings)
	}
	if o.options.Metrics == nil {
		o.options.Metrics = prometheus.NewRegistry() // each operator has its own
	}
	mgr, err := ctrl.NewManager(cfg, settings)
	if err != nil {
		w.t.Fatal(err)
	}
	p := &process{done: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	if err := controllers.Setup(ctx, mgr, o.options); err != nil {
		cancel()
		w.t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		p.err = mgr.Start(ctx)
	}()
	return p
}

func testLog(t *testing.T) logr.Logger {
	if os.Getenv("KOI_TEST_LOG") == "" {
		return logr.Discard()
	}
	return logr.FromSlogHandler(logTo(t))
}

func (w *world) create(objects ...client.Object) {
	w.t.Helper()
	for _, o := range objects {
		o.SetNamespace(w.ns)
		if err := w.client.Create(w.t.Context(), o); err != nil {
			w.t.Fatalf("create %T %s: %v", o, o.GetName(), err)
		}
	}
}

func (w *world) delete(o client.Object) {
	w.t.Helper()
	o.SetNamespace(w.ns)
	if err := w.client.Delete(w.t.Context(), o); err != nil {
		w.t.Fatalf("delete %T %s: %v", o, o.GetName(), err)
	}
}

// get reads an object by name; false if there is none.
func (w *world) get(name string, o client.Object) bool {
	w.t.Helper()
	err := w.client.Get(w.t.Context(), client.ObjectKey{Namespace: w.ns, Name: name}, o)
	if client.IgnoreNotFound(err) != nil {
		w.t.Fatalf("get %T %s: %v", o, name, err)
	}
	return err == nil
}

func (w *world) must(name string, o client.Object) {
	w.t.Helper()
	if !w.get(name, o) {
		w.t.Fatalf("there is no %T %s", o, name)
	}
}

// change changes an object and writes it, again on conflict.
func change[T client.Object](w *world, name string, o T, f func(T)) {
	w.t.Helper()
	w.eventually("change "+name, func() string {
		w.must(name, o)
		f(o)
		if err := w.client.Update(w.t.Context(), o); err != nil {
			return err.Error()
		}
		return ""
	})
}

// eventually waits until check returns "", and fails with its last answer.
func (w *world) eventually(what string, check func() string) {
	w.t.Helper()
	var last string
	for end := time.Now().Add(w.patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if last = check(); last == "" {
			return
		}
	}
	w.t.Fatalf("%s: after %s: %s", what, w.patience, last)
}

// gone waits until an object is not there any more.
func (w *world) gone(name string, o client.Object) {
	w.t.Helper()
	w.eventually(fmt.Sprintf("%T %s goes", o, name), func() string {
		if w.get(name, o) {
			return fmt.Sprintf("it is still there: finalizers %v", o.GetFinalizers())
		}
		return ""
	})
}

// node waits for a KoiNode to be in a state: "Ready", or the reason of another.
func (w *world) node(name, reason string) *v1alpha1.KoiNode {
	w.t.Helper()
	var n v1alpha1.KoiNode
	w.eventually("KoiNode "+name+" is "+reason, func() string {
		w.must(name, &n)
		return resting(n.Status.Conditions, n.Generation, n.Status.ObservedGeneration, reason)
	})
	return &n
}

// edge waits for a KoiEdge to be in a state.
func (w *world) edge(name, reason string) *v1alpha1.KoiEdge {
	w.t.Helper()
	var e v1alpha1.KoiEdge
	w.eventually("KoiEdge "+name+" is "+reason, func() string {
		if !w.get(name, &e) {
			return "it does not exist"
		}
		return resting(e.Status.Conditions, e.Generation, e.Status.ObservedGeneration, reason)
	})
	return &e
}

// resting tells "" if the conditions of this generation have the reason.
func resting(conditions []metav1.Condition, generation, observed int64, reason string) string {
	if generation != observed {
		return fmt.Sprintf("generation %d, observed %d", generation, observed)
	}
	c := meta.FindStatusCondition(conditions, v1alpha1.ConditionReady)
	if c == nil {
		c = meta.FindStatusCondition(conditions, v1alpha1.ConditionSuspended)
	}
	if c == nil || c.Reason != reason {
		return fmt.Sprintf("%+v", conditions)
	}
	return ""
}

// full, partial and edge make objects.
func full(name string, f ...func(*v1alpha1.KoiNodeSpec)) *v1alpha1.KoiNode {
	n := &v1alpha1.KoiNode{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.KoiNodeSpec{NodeType: v1alpha1.NodeFull}}
	for _, f := range f {
		f(&n.Spec)
	}
	return n
}

func partial(name string, f ...func(*v1alpha1.KoiNodeSpec)) *v1alpha1.KoiNode {
	n := full(name, f...)
	n.Spec.NodeType = v1alpha1.NodePartial
	return n
}

func provides(types ...v1alpha1.RIDType) func(*v1alpha1.KoiNodeSpec) {
	return func(s *v1alpha1.KoiNodeSpec) { s.Provides = &v1alpha1.Provides{Event: types, State: types} }
}

func manual(s *v1alpha1.KoiNodeSpec) {
	s.Edges = &v1alpha1.NodeEdges{Approval: v1alpha1.ApprovalManual}
}

func edge(name, source, target string, types ...v1alpha1.RIDType) *v1alpha1.KoiEdge {
	return &v1alpha1.KoiEdge{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       v1alpha1.KoiEdgeSpec{Source: end(source), Target: end(target), RIDTypes: types},
	}
}

// end names an end by RID where the text is one.
func end(s string) v1alpha1.EdgeEnd {
	if strings.Contains(s, ":") {
		return v1alpha1.EdgeEnd{RID: v1alpha1.NodeRID(s)}
	}
	return v1alpha1.EdgeEnd{NodeRef: &v1alpha1.NodeReference{Name: s}}
}
