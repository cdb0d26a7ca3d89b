package controllers

import (
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrlmetrics "sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/koi-net/koi-operator/api/v1alpha1"
	"github.com/koi-net/koi-operator/controllers/internal/observe"
	"github.com/koi-net/koi-operator/controllers/internal/resources"
)

// Options of the controllers.
type Options struct {
	// NodeImage is the image of nodes that name none; required.
	NodeImage string
	// Interval bounds how long a change that no watch told of goes unnoticed, and
	// how old a node's word may be for Ready=True. Jittered by 10%. Default 60 s.
	Interval time.Duration
	// Namespace is where the operator runs: NetworkPolicies let it in from there.
	Namespace string
	// Workers is how many objects of each kind are reconciled side by side. Default 8.
	Workers int

	// AdminURL returns where a node's admin API is, "" while it has no place.
	// Default: the IP of its running pod, which needs neither a Service nor DNS.
	AdminURL func(*v1alpha1.KoiNode, []corev1.Pod) string
	// Dial makes admin clients. Default: observe.Dial.
	Dial func(observe.Endpoint) (observe.Admin, error)
	// Clock tells the time. Default: time.Now.
	Clock func() time.Time
	// Metrics takes the operator's metrics, which a registry takes once. Default:
	// controller-runtime's, which the manager serves.
	Metrics prometheus.Registerer
}

func (o Options) withDefaults() (Options, error) {
	if o.NodeImage == "" {
		return o, errors.New("the node image is not set: give --node-image or KOI_NODE_IMAGE")
	}
	if o.Interval == 0 {
		o.Interval = time.Minute
	}
	if o.Interval < time.Second {
		return o, errors.New("the resync interval must be at least one second")
	}
	if o.Workers == 0 {
		o.Workers = 8
	}
	if o.AdminURL == nil {
		o.AdminURL = podAdminURL
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Dial == nil {
		o.Dial = observe.Dial
	}
	if o.Metrics == nil {
		o.Metrics = ctrlmetrics.Registry
	}
	return o, nil
}

// jittered is the interval ±10%, so that objects made together part.
func (o Options) jittered() time.Duration {
	return o.Interval*9/10 + rand.N(o.Interval/5+1)
}

// podAdminURL is the admin port of the node's running pod.
func podAdminURL(_ *v1alpha1.KoiNode, pods []corev1.Pod) string {
	for i := range pods {
		p := &pods[i]
		if p.DeletionTimestamp == nil && p.Status.Phase == corev1.PodRunning && p.Status.PodIP != "" {
			return "https://" + net.JoinHostPort(p.Status.PodIP, strconv.Itoa(resources.AdminPort))
		}
	}
	return ""
}

// CacheOptions narrows the operator's caches to the given namespaces (none:
// all), and those of Kubernetes' own kinds to what the operator made.
func CacheOptions(namespaces []string) cache.Options {
	ours := cache.ByObject{Label: labels.SelectorFromSet(labels.Set{resources.LabelManagedBy: resources.ManagedBy})}
	o := cache.Options{ByObject: map[client.Object]cache.ByObject{
		&appsv1.Deployment{}:            ours,
		&corev1.ConfigMap{}:             ours,
		&corev1.PersistentVolumeClaim{}: ours,
		&corev1.Pod{}:                   ours,
		&corev1.Secret{}:                ours,
		&corev1.Service{}:               ours,
		&corev1.ServiceAccount{}:        ours,
		&networkingv1.NetworkPolicy{}:   ours,
	}}
	if len(namespaces) > 0 {
		o.DefaultNamespaces = make(map[string]cache.Config, len(namespaces))
		for _, n := range namespaces {
			o.DefaultNamespaces[n] = cache.Config{}
		}
	}
	return o
}
