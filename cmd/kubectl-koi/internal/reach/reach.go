package reach

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"

	"github.com/koi-net/koi-operator/api/v1alpha1"
	"github.com/koi-net/koi-operator/node/admin/client"
)

// adminPort is that of the admin API in a node's pod.
const adminPort = 8081

// Keys of the admin Secret; docs/operator.md names them.
const (
	keyToken    = "token"
	keyCert     = "tls.crt"
	oldKeyToken = "previous-token"
	oldKeyCert  = "previous-tls.crt"
)

// ErrNotRunning is wrapped where a node has no pod that could be called.
var ErrNotRunning = errors.New("the node does not run")

// Reacher calls nodes of a cluster.
type Reacher struct {
	Config *rest.Config
	Client kubernetes.Interface
	// Timeout bounds a call; 0 means the client's default.
	Timeout time.Duration
}

// Node is a way to one node's admin API. Close ends it.
type Node struct {
	*client.Client
	Pod string

	stop chan struct{}
	once sync.Once
	done chan error
}

// Close takes the port-forward down and waits for its end.
func (n *Node) Close() error {
	n.CloseIdleConnections()
	n.once.Do(func() { close(n.stop) })
	return <-n.done
}

// Node opens the way to a KoiNode's pod. Errors say which permission is missing; they
// wrap ErrNotRunning where there is nobody to call.
func (r *Reacher) Node(ctx context.Context, node *v1alpha1.KoiNode) (*Node, error) {
	switch {
	case node.IsExternal():
		return nil, fmt.Errorf("KoiNode %s: %w here: it is external, at %s", node.Name, ErrNotRunning, node.EffectiveBaseURL())
	case node.Spec.Suspend:
		return nil, fmt.Errorf("KoiNode %s: %w: it is suspended; set spec.suspend to false", node.Name, ErrNotRunning)
	}
	pod, err := r.pod(ctx, node)
	if err != nil {
		return nil, err
	}
	secret, err := r.Client.CoreV1().Secrets(node.Namespace).Get(ctx, node.AdminSecretName(), metav1.GetOptions{})
	if err != nil {
		return nil, allowed(err, "get", "secrets", node.Namespace, "to know the node's admin token")
	}
	n, port, err := r.forward(ctx, pod)
	if err != nil {
		return nil, err
	}
	n.Client, err = client.New(client.Options{
		URL:   fmt.Sprintf("https://127.0.0.1:%d", port),
		Token: string(secret.Data[keyToken]), CACert: secret.Data[keyCert],
		PreviousToken: string(secret.Data[oldKeyToken]), PreviousCACert: secret.Data[oldKeyCert],
		Timeout: r.Timeout,
	})
	if err != nil {
		n.once.Do(func() { close(n.stop) })
		return nil, errors.Join(fmt.Errorf("the Secret %s is not usable: %w", node.AdminSecretName(), err), <-n.done)
	}
	return n, nil
}

// pod is the pod to call: one that runs, and is not on its way out.
func (r *Reacher) pod(ctx context.Context, node *v1alpha1.KoiNode) (*corev1.Pod, error) {
	list, err := r.Client.CoreV1().Pods(node.Namespace).List(ctx, metav1.ListOptions{
		LabelSelector: labels.Set{"app.kubernetes.io/name": "koi-node", v1alpha1.LabelNode: node.Name}.String(),
	})
	if err != nil {
		return nil, allowed(err, "list", "pods", node.Namespace, "to find the node's pod")
	}
	var best *corev1.Pod
	for i := range list.Items {
		p := &list.Items[i]
		if p.DeletionTimestamp == nil && p.Status.Phase == corev1.PodRunning && (best == nil || p.CreationTimestamp.After(best.CreationTimestamp.Time)) {
			best = p
		}
	}
	if best == nil {
		return nil, fmt.Errorf("KoiNode %s: %w: no pod of it is running; kubectl koi status %s says why", node.Name, ErrNotRunning, node.Name)
	}
	return best, nil
}

// forward makes a local port lead to the pod's admin port, over a WebSocket or, where
// the API server has none, SPDY.
func (r *Reacher) forward(ctx context.Context, pod *corev1.Pod) (*Node, int, error) {
	dialer, err := r.dialer(pod)
	if err != nil {
		return nil, 0, err
	}
	n := &Node{Pod: pod.Name, stop: make(chan struct{}), done: make(chan error, 1)}
	ready := make(chan struct{})
	f, err := portforward.NewOnAddresses(dialer, []string{"127.0.0.1"}, []string{fmt.Sprintf("0:%d", adminPort)}, n.stop, ready, io.Discard, io.Discard)
	if err != nil {
		return nil, 0, fmt.Errorf("forward a port to pod %s: %w", pod.Name, err)
	}
	go func() { n.done <- f.ForwardPorts() }()
	select {
	case <-ready:
	case err := <-n.done:
		return nil, 0, allowed(err, "create", "pods/portforward", pod.Namespace, "to reach pod "+pod.Name)
	case <-ctx.Done():
		close(n.stop)
		return nil, 0, errors.Join(ctx.Err(), <-n.done)
	}
	ports, err := f.GetPorts()
	if err != nil {
		close(n.stop)
		return nil, 0, errors.Join(err, <-n.done)
	}
	return n, int(ports[0].Local), nil
}

func (r *Reacher) dialer(pod *corev1.Pod) (httpstreamDialer, error) {
	req := r.Client.CoreV1().RESTClient().Post().Resource("pods").Namespace(pod.Namespace).Name(pod.Name).SubResource("portforward")
	return dialerFor(r.Config, req.URL())
}

func dialerFor(config *rest.Config, at *url.URL) (httpstreamDialer, error) {
	transport, upgrader, err := spdy.RoundTripperFor(config)
	if err != nil {
		return nil, fmt.Errorf("reach the API server: %w", err)
	}
	old := spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, at)
	tunnel, err := portforward.NewSPDYOverWebsocketDialer(at, config)
	if err != nil {
		return nil, fmt.Errorf("reach the API server: %w", err)
	}
	return portforward.NewFallbackDialer(tunnel, old, shouldFallBack), nil
}

// allowed says what a refusal of the API server asks for.
func allowed(err error, verb, resource, namespace, why string) error {
	if apierrors.IsForbidden(err) {
		return fmt.Errorf("you may not %s %s in namespace %s, which it takes %s: bind the ClusterRole koi-node-user, or one that allows it (%w)", verb, resource, namespace, why, err)
	}
	return err
}
