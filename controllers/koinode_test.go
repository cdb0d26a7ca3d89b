package controllers_test

import (
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/koi-net/koi-operator/api/v1alpha1"
)

func TestNodeBecomesReady(t *testing.T) {
	w := newWorld(t)
	w.create(full("sensor", provides("orn:git.commit")))
	n := w.node("sensor", v1alpha1.ReasonReady)
	if n.Status.RID == "" || n.Status.PublicKey == "" || n.Status.Image != nodeImage || n.Status.Version != "1.2.3" || n.Status.StoreID != "store-sensor" {
		t.Errorf("status: %+v", n.Status)
	}
	if want := "http://sensor." + w.ns + ".svc:8000/koi-net"; n.Status.BaseURL != want {
		t.Errorf("base URL %q, want %q", n.Status.BaseURL, want)
	}
	for _, o := range []struct {
		name  string
		o     client.Object
		owned bool
	}{
		{"sensor", &corev1.ServiceAccount{}, true},
		{"sensor-config", &corev1.ConfigMap{}, true},
		{"sensor-admin", &corev1.Secret{}, true},
		{"sensor-identity", &corev1.Secret{}, false},
		{"sensor-data", &corev1.PersistentVolumeClaim{}, false},
		{"sensor", &corev1.Service{}, true},
		{"sensor", &appsv1.Deployment{}, true},
	} {
		w.must(o.name, o.o)
		if owned := len(o.o.GetOwnerReferences()) > 0; owned != o.owned {
			t.Errorf("%T %s: owned %t, want %t", o.o, o.name, owned, o.owned)
		}
	}
}

func TestSteadyStateWritesNothing(t *testing.T) {
	w := newWorld(t)
	w.create(full("a", provides("orn:x.y")), partial("b"), full("c", func(s *v1alpha1.KoiNodeSpec) {
		s.NetworkPolicy = &v1alpha1.NetworkPolicy{Enabled: true}
		s.FirstContact = &v1alpha1.FirstContact{NodeRef: &v1alpha1.NodeReference{Name: "a"}}
	}))
	w.create(edge("a-b", "a", "b", "orn:x.y"))
	for _, n := range []string{"a", "b", "c"} {
		w.node(n, v1alpha1.ReasonReady)
	}
	w.edge("a-b", v1alpha1.ReasonApproved)
	w.net.subscribe(w.net.named("a"), w.net.named("c"), "orn:x.y")
	w.eventually("the discovered edge is approved", func() string { return w.discovered("a", "c", v1alpha1.ReasonApproved) })

	w.settled()
	time.Sleep(3 * interval) // the claim is about time passing: three resyncs
	if seen := w.writes.list(); len(seen) > 0 {
		t.Errorf("an unchanged world was written to: %q", seen)
	}
	w.stop()
	w.start()
	time.Sleep(2 * interval)
	if seen := w.writes.list(); len(seen) > 0 {
		t.Errorf("a restarted operator wrote to an unchanged world: %q", seen)
	}
}
