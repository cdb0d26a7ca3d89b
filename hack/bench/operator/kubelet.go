package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"sync"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/yaml"

	"github.com/koi-net/koi-operator/node/rid"
)

// Ports of a node's pod.
const (
	adminPort    = "8081"
	protocolPort = "8000"
)

// running is a node that runs.
type running interface {
	hash() string // of its configuration
	stop()
}

// kubelet makes a pod of each Deployment with a replica, at an address of its
// own, and runs the node in it.
type kubelet struct {
	client client.Client
	run    func(context.Context, settings) (running, error)

	mu    sync.Mutex
	nodes map[client.ObjectKey]running
}

// address is that of the pod of the node with a number: nodes are named n0, n1, ...
func address(number int) string {
	return netip.AddrFrom4([4]byte{127, 1 + byte(number>>16), byte(number >> 8), byte(number)}).String()
}

// addressOf is address by a node's name.
func addressOf(name string) (string, error) {
	number, err := strconv.Atoi(name[1:])
	if err != nil {
		return "", fmt.Errorf("node %s has no number: %w", name, err)
	}
	return address(number + 1), nil
}

func (k *kubelet) setup(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).Named("kubelet").For(&appsv1.Deployment{}).
		WithOptions(controller.Options{MaxConcurrentReconciles: 8}).Complete(k)
}

// Reconcile brings a Deployment and its node together.
func (k *kubelet) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	var d appsv1.Deployment
	if err := k.client.Get(ctx, req.NamespacedName, &d); err != nil {
		k.end(req.NamespacedName)
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	replicas := int32(0)
	if *d.Spec.Replicas > 0 {
		s, err := k.settings(ctx, &d)
		if err != nil {
			return ctrl.Result{}, err
		}
		if err := k.ensure(ctx, req.NamespacedName, s); err != nil {
			return ctrl.Result{}, err
		}
		if err := k.pod(ctx, &d, s.ip); err != nil {
			return ctrl.Result{}, err
		}
		replicas = 1
	} else {
		k.end(req.NamespacedName)
	}
	want := appsv1.DeploymentStatus{
		ObservedGeneration: d.Generation, Replicas: replicas, UpdatedReplicas: replicas, ReadyReplicas: replicas, AvailableReplicas: replicas,
	}
	if d.Status.ObservedGeneration == want.ObservedGeneration && d.Status.AvailableReplicas == replicas {
		return ctrl.Result{}, nil
	}
	d.Status = want
	return ctrl.Result{}, k.client.Status().Update(ctx, &d)
}

func (k *kubelet) ensure(ctx context.Context, key client.ObjectKey, s settings) error {
	k.mu.Lock()
	n := k.nodes[key]
	k.mu.Unlock()
	if n != nil && n.hash() == s.hash {
		return nil
	}
	k.end(key)
	n, err := k.run(ctx, s)
	if err != nil {
		return err
	}
	k.mu.Lock()
	k.nodes[key] = n
	k.mu.Unlock()
	return nil
}

func (k *kubelet) end(key client.ObjectKey) {
	k.mu.Lock()
	n := k.nodes[key]
	delete(k.nodes, key)
	k.mu.Unlock()
	if n != nil {
		n.stop()
	}
}

// stop ends all nodes.
func (k *kubelet) stop() {
	k.mu.Lock()
	defer k.mu.Unlock()
	var all sync.WaitGroup
	for _, n := range k.nodes {
		all.Go(n.stop)
	}
	all.Wait()
	k.nodes = nil
}

// settings reads what a node's pod would mount.
func (k *kubelet) settings(ctx context.Context, d *appsv1.Deployment) (settings, error) {
	pod := d.Spec.Template.Spec
	s := settings{name: d.Name, files: map[string][]byte{}}
	var err error
	if s.ip, err = addressOf(d.Name); err != nil {
		return s, err
	}
	for _, e := range pod.Containers[0].Env {
		if e.Name == "KOI_CONFIG_HASH" {
			s.hash = e.Value
		}
	}
	for _, m := range pod.Containers[0].VolumeMounts {
		for _, v := range pod.Volumes {
			if v.Name != m.Name {
				continue
			}
			key := client.ObjectKey{Namespace: d.Namespace}
			switch {
			case v.Secret != nil:
				var o corev1.Secret
				key.Name = v.Secret.SecretName
				if err := k.client.Get(ctx, key, &o); err != nil {
					return s, err
				}
				for name, data := range o.Data {
					s.files[path.Join(v.Name, name)] = data
				}
			case v.ConfigMap != nil:
				var o corev1.ConfigMap
				key.Name = v.ConfigMap.Name
				if err := k.client.Get(ctx, key, &o); err != nil {
					return s, err
				}
				for name, data := range o.Data {
					s.files[path.Join(v.Name, name)] = []byte(data)
				}
			}
		}
	}
	s.rid, s.token = rid.RID(s.files["identity/rid"]), string(s.files["admin/token"])
	if s.certificate, err = tls.X509KeyPair(s.files["admin/tls.crt"], s.files["admin/tls.key"]); err != nil {
		return s, fmt.Errorf("the admin Secret of %s: %w", d.Name, err)
	}
	var c struct {
		ProvidesEvent []rid.Type `json:"provides-event"`
	}
	if err := yaml.Unmarshal(s.files["config/config.yaml"], &c); err != nil {
		return s, fmt.Errorf("the configuration of %s: %w", d.Name, err)
	}
	s.provides = slices.Concat(c.ProvidesEvent, []rid.Type{rid.NodeType, rid.EdgeType})
	return s, nil
}

// pod makes the pod of a Deployment, ready and at its address.
func (k *kubelet) pod(ctx context.Context, d *appsv1.Deployment, ip string) error {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: d.Namespace, Name: d.Name + "-0", Labels: d.Spec.Template.Labels},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "node", Image: d.Spec.Template.Spec.Containers[0].Image}}},
	}
	err := k.client.Create(ctx, p)
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("pod of %s: %w", d.Name, err)
	}
	p.Status = corev1.PodStatus{
		Phase: corev1.PodRunning, PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}},
		Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
	}
	return k.client.Status().Update(ctx, p)
}
