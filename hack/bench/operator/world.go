package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/yaml"

	"github.com/koi-net/koi-operator/api/v1alpha1"
	"github.com/koi-net/koi-operator/hack/cluster/assets"
)

const namespace = "default"

// world is an API server with a stand-in for the kubelet, and what it takes to
// run operators against it.
type world struct {
	dir        string // for what is built and written
	root       string // of the repository
	client     client.WithWatch
	kubeconfig string
	kubelet    *kubelet
	operator   *program
	metrics    string // URL of the operator's
	pprof      string // likewise
	closers    []func()
}

// newWorld starts the API server and the kubelet; run starts nodes.
func newWorld(ctx context.Context, root, dir string, progress io.Writer, run func(context.Context, settings) (running, error)) (*world, error) {
	w := &world{dir: dir, root: root}
	log.SetLogger(logr.Discard())
	programs, err := assets.Envtest(ctx, progress)
	if err != nil {
		return nil, err
	}
	env := &envtest.Environment{
		BinaryAssetsDirectory: programs,
		CRDDirectoryPaths:     []string{filepath.Join(root, "config", "crd", "bases")},
		ErrorIfCRDPathMissing: true,
	}
	// Its default, a /24, holds no more than 254 Services.
	env.ControlPlane.GetAPIServer().Configure().Set("service-cluster-ip-range", "10.96.0.0/16")
	cfg, err := env.Start()
	if err != nil {
		return nil, fmt.Errorf("start etcd and kube-apiserver: %w", err)
	}
	w.closers = append(w.closers, func() { _ = env.Stop() })
	cfg.QPS = -1
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		return w, err
	}
	if w.client, err = client.NewWithWatch(cfg, client.Options{Scheme: scheme}); err != nil {
		return w, err
	}
	if err := w.authorize(ctx, env); err != nil {
		return w, err
	}
	mgr, err := ctrl.NewManager(cfg, ctrl.Options{
		Scheme: scheme, Metrics: server.Options{BindAddress: "0"}, HealthProbeBindAddress: "0",
		Controller: config.Controller{SkipNameValidation: ptr.To(true)},
	})
	if err != nil {
		return w, err
	}
	w.kubelet = &kubelet{client: mgr.GetClient(), run: run, nodes: map[client.ObjectKey]running{}}
	if err := w.kubelet.setup(mgr); err != nil {
		return w, err
	}
	kubeletCtx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = mgr.Start(kubeletCtx) // the measurements wait for what it does
	}()
	w.closers = append(w.closers, func() {
		cancel()
		<-done
		w.kubelet.stop()
	})
	return w, nil
}

// authorize gives the operator's user its role, and writes its kubeconfig.
func (w *world) authorize(ctx context.Context, env *envtest.Environment) error {
	text, err := os.ReadFile(filepath.Join(w.root, "config", "rbac", "role.yaml"))
	if err != nil {
		return err
	}
	var role rbacv1.ClusterRole
	if err := yaml.UnmarshalStrict(text, &role); err != nil {
		return err
	}
	const name = "koi-operator"
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: role.Name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role.Name},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: name}},
	}
	for _, o := range []client.Object{&role, binding} {
		if err := w.client.Create(ctx, o); err != nil {
			return err
		}
	}
	user, err := env.AddUser(envtest.User{Name: name}, nil)
	if err != nil {
		return err
	}
	data, err := user.KubeConfig()
	if err != nil {
		return err
	}
	w.kubeconfig = filepath.Join(w.dir, "kubeconfig")
	return os.WriteFile(w.kubeconfig, data, 0o600)
}

// build builds a program of cmd/.
func build(ctx context.Context, root, dir, name string) (string, error) {
	out := filepath.Join(dir, name)
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", out, "./cmd/"+name)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", name, err, text)
	}
	return out, nil
}

// startOperator starts an operator with its settings as shipped.
func (w *world) startOperator(ctx context.Context, binary string) error {
	var addresses [2]string
	for i := range addresses {
		var listen net.ListenConfig
		l, err := listen.Listen(ctx, "tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		addresses[i] = l.Addr().String()
		if err := l.Close(); err != nil {
			return err
		}
	}
	w.metrics, w.pprof = "http://"+addresses[0]+"/metrics", "http://"+addresses[1]+"/debug/pprof/profile"
	var err error
	w.operator, err = launch(filepath.Join(w.dir, "operator.log"), binary, []string{"KUBECONFIG=" + w.kubeconfig},
		"--node-image", "koi-node:bench", "--namespace", "koi-operator-system", "--metrics-bind-address", addresses[0], "--pprof-bind-address", addresses[1], "--health-probe-bind-address", "0")
	return err
}

func (w *world) close() {
	if w.operator != nil {
		w.operator.stop()
	}
	for i := len(w.closers) - 1; i >= 0; i-- {
		w.closers[i]()
	}
}

// requests are how often the operator called the API server, by method.
func (w *world) requests(ctx context.Context) (map[string]float64, error) {
	return w.scrape(ctx, "rest_client_requests_total", "method")
}

// waiting is how many objects the operator's queues hold.
func (w *world) waiting(ctx context.Context) (float64, error) {
	by, err := w.scrape(ctx, "workqueue_depth", "")
	return by[""], err
}

// profile writes a CPU profile of the operator over d to a file.
func (w *world) profile(ctx context.Context, d time.Duration, file string) error {
	ctx, cancel := context.WithTimeout(ctx, d+30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("%s?seconds=%d", w.pprof, int(d.Seconds())), nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("profile of the operator: %s", resp.Status)
	}
	return os.WriteFile(file, data, 0o600)
}

// scrape sums up a metric of the operator by a label.
func (w *world) scrape(ctx context.Context, name, label string) (map[string]float64, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.metrics, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(resp.Body)
	if err != nil {
		return nil, err
	}
	sums := map[string]float64{}
	for _, m := range families[name].GetMetric() {
		by := ""
		for _, l := range m.GetLabel() {
			if l.GetName() == label {
				by = l.GetValue()
			}
		}
		sums[by] += m.GetCounter().GetValue() + m.GetGauge().GetValue()
	}
	return sums, nil
}
