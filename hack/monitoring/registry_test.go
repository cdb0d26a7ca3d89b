package main

import (
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/koi-net/koi-operator/api/v1alpha1"
	"github.com/koi-net/koi-operator/controllers"
	"github.com/koi-net/koi-operator/node"
	"github.com/koi-net/koi-operator/node/nodetest"
)

// family is a metric that is registered, with its labels.
type family map[string]bool

// known are the metrics of an operator or a node by their names.
type known map[string]family

var (
	fqName    = regexp.MustCompile(`fqName: "([^"]+)"`)
	varLabels = regexp.MustCompile(`variableLabels: \{([^}]*)\}`)
)

// add takes in what is registered, whether or not it has a series yet.
func (k known) add(t *testing.T, r any) {
	t.Helper()
	c, ok := r.(prometheus.Collector)
	if !ok {
		t.Fatalf("a registry of type %T does not describe itself", r)
	}
	descs := make(chan *prometheus.Desc)
	go func() {
		defer close(descs)
		c.Describe(descs)
	}()
	for d := range descs {
		name, labels := fqName.FindStringSubmatch(d.String()), varLabels.FindStringSubmatch(d.String())
		if name == nil || labels == nil {
			t.Fatalf("cannot read %s", d)
		}
		f := family{}
		for l := range strings.FieldsFuncSeq(labels[1], func(r rune) bool { return r == ',' || r == ' ' }) {
			f[strings.TrimSuffix(strings.TrimPrefix(l, "c("), ")")] = true
		}
		k[name[1]] = f
	}
}

// find returns the metric a series belongs to: itself, or the histogram it is
// a part of.
func (k known) find(name string) (family, bool) {
	if f, ok := k[name]; ok {
		return f, true
	}
	for _, suffix := range []string{"_bucket", "_sum", "_count"} {
		if f, ok := k[strings.TrimSuffix(name, suffix)]; ok && strings.HasSuffix(name, suffix) {
			return f, true
		}
	}
	return nil, false
}

// ofOperator are the metrics of an operator: its own, controller-runtime's and
// the process's.
func ofOperator(t *testing.T) known {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	mgr, err := ctrl.NewManager(&rest.Config{Host: "127.0.0.1:1"}, ctrl.Options{ // nothing is called before Start
		Scheme:                 scheme,
		Logger:                 logr.Discard(),
		Cache:                  controllers.CacheOptions(nil),
		Metrics:                server.Options{BindAddress: "0"},
		HealthProbeBindAddress: "0",
		MapperProvider: func(*rest.Config, *http.Client) (meta.RESTMapper, error) {
			m := meta.NewDefaultRESTMapper(scheme.PrioritizedVersionsAllGroups())
			for gvk := range scheme.AllKnownTypes() {
				m.Add(gvk, meta.RESTScopeNamespace)
			}
			return m, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	r := prometheus.NewRegistry()
	if err := controllers.Setup(t.Context(), mgr, controllers.Options{NodeImage: "x", Namespace: "x", Metrics: r}); err != nil {
		t.Fatal(err)
	}
	k := known{}
	k.add(t, r)
	if len(k) < 8 {
		t.Fatalf("the operator registers %d metrics only", len(k))
	}
	k.add(t, metrics.Registry)
	return k
}

// ofNode are the metrics of nodes, full and partial.
func ofNode(t *testing.T) known {
	t.Helper()
	k := known{}
	f := nodetest.NewFleet(t)
	for name, kind := range map[string]node.Option{"full": func(*node.Config) {}, "partial": node.AsPartial()} {
		r := prometheus.NewRegistry()
		f.Start(name, kind, func(c *node.Config) { c.Metrics = r })
		k.add(t, r)
	}
	if len(k) < 25 {
		t.Fatalf("nodes register %d metrics only", len(k))
	}
	return k
}
