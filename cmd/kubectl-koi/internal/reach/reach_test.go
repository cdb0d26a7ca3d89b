package reach

import (
	"errors"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"
	ktesting "k8s.io/client-go/testing"

	"github.com/koi-net/koi-operator/api/v1alpha1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func pod(name string, made int, change func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Namespace: "net", Name: name, CreationTimestamp: metav1.NewTime(time.Unix(int64(made), 0)),
		Labels: map[string]string{"app.kubernetes.io/name": "koi-node", v1alpha1.LabelNode: "n"},
	}, Status: corev1.PodStatus{Phase: corev1.PodRunning}}
	if change != nil {
		change(p)
	}
	return p
}

var node = &v1alpha1.KoiNode{ObjectMeta: metav1.ObjectMeta{Namespace: "net", Name: "n"}}

func TestPod(t *testing.T) {
	going := func(p *corev1.Pod) {
		p.DeletionTimestamp, p.Finalizers = &metav1.Time{Time: time.Unix(9, 0)}, []string{"x"}
	}
	waits := func(p *corev1.Pod) { p.Status.Phase = corev1.PodPending }
	other := func(p *corev1.Pod) { p.Labels[v1alpha1.LabelNode] = "m" }
	r := &Reacher{Client: fake.NewClientset(pod("old", 1, nil), pod("new", 2, nil), pod("going", 3, going), pod("waits", 4, waits), pod("other", 5, other))}
	if p, err := r.pod(t.Context(), node); err != nil || p.Name != "new" {
		t.Errorf("%v, %v", p, err)
	}
	r.Client = fake.NewClientset(pod("waits", 1, waits))
	if _, err := r.pod(t.Context(), node); !errors.Is(err, ErrNotRunning) || !strings.Contains(err.Error(), "kubectl koi status n") {
		t.Errorf("%v", err)
	}
}

func TestWhyANodeIsNotCalled(t *testing.T) {
	refuse := func(verb, resource string) *fake.Clientset {
		c := fake.NewClientset(pod("p", 1, nil))
		c.PrependReactor(verb, resource, func(ktesting.Action) (bool, runtime.Object, error) {
			return true, nil, apierrors.NewForbidden(schema.GroupResource{Resource: resource}, "x", errors.New("no"))
		})
		return c
	}
	suspended, external := node.DeepCopy(), node.DeepCopy()
	suspended.Spec.Suspend = true
	external.Spec.External = &v1alpha1.External{BaseURL: "http://far/koi-net"}
	for _, tt := range []struct {
		client *fake.Clientset
		node   *v1alpha1.KoiNode
		want   string
	}{
		{refuse("list", "pods"), node, "you may not list pods in namespace net"},
		{refuse("get", "secrets"), node, "you may not get secrets in namespace net"},
		{fake.NewClientset(pod("p", 1, nil)), node, `"n-admin" not found`},
		{fake.NewClientset(), suspended, "set spec.suspend to false"},
		{fake.NewClientset(), external, "it is external, at http://far/koi-net"},
	} {
		r := &Reacher{Client: tt.client, Config: &rest.Config{}}
		if _, err := r.Node(t.Context(), tt.node); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%v, want %q", err, tt.want)
		}
	}
}
