package controllers_test

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/koi-net/koi-operator/api/v1alpha1"
	"github.com/koi-net/koi-operator/controllers"
	"github.com/koi-net/koi-operator/node/admin"
)

// gate stands in front of a simulated node with the token and certificate of a
// mounted Secret, as koi-node reads them; mount is when the kubelet brings
// them up to date.
type gate struct {
	w       *world
	dir     string
	keys    *admin.Keys
	address string
	node    http.Handler
	token   string // what the node behind it takes
}

func newGate(w *world) *gate {
	w.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	g := &gate{w: w, dir: w.t.TempDir(), address: "https://" + ln.Addr().String()}
	g.token = g.mount()["token"]
	f := w.net.named("a")
	g.node = w.net.handler(f, g.token)
	path := func(name string) string { return filepath.Join(g.dir, name) }
	g.keys, err = admin.OpenKeys(admin.KeyFiles{Token: path("token"), Cert: path("tls.crt"), Key: path("tls.key")}, nil, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	srv := admin.HTTPServer(g, slog.New(slog.DiscardHandler))
	srv.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS13, GetCertificate: g.keys.Certificate}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.ServeTLS(ln, "", "")
	}()
	w.t.Cleanup(func() {
		_ = srv.Close()
		<-done
	})
	return g
}

func (g *gate) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	const scheme = "Bearer "
	if token := r.Header.Get("Authorization"); len(token) < len(scheme) || !g.keys.Allows(token[len(scheme):]) {
		http.Error(rw, `{"error":{"code":"unauthorized","message":"give the token"}}`, http.StatusUnauthorized)
		return
	}
	r.Header.Set("Authorization", scheme+g.token)
	g.node.ServeHTTP(rw, r)
}

// mount writes the Secret's present contents where the node reads them.
func (g *gate) mount() map[string]string {
	g.w.t.Helper()
	var s corev1.Secret
	g.w.must("a-admin", &s)
	out := map[string]string{}
	for name, text := range s.Data {
		if err := os.WriteFile(filepath.Join(g.dir, name), text, 0o600); err != nil {
			g.w.t.Fatal(err)
		}
		out[name] = string(text)
	}
	return out
}

// Token and certificate change while the node runs on, and nobody looks away
// from it meanwhile.
func TestAdminTokenRotates(t *testing.T) {
	w := newWorld(t)
	w.create(full("a", provides("orn:x.y")))
	w.node("a", v1alpha1.ReasonReady)
	w.stop()
	g := newGate(w)
	w.start(func(o *controllers.Options) {
		o.AdminURL = func(*v1alpha1.KoiNode, []corev1.Pod) string { return g.address }
	})
	w.settled()
	var d appsv1.Deployment
	w.must("a", &d)
	deployed := d.Generation
	ready := func() metav1.Time {
		n := w.node("a", v1alpha1.ReasonReady)
		return meta.FindStatusCondition(n.Status.Conditions, v1alpha1.ConditionReady).LastTransitionTime
	}
	since := ready()
	secret := func(previous bool, not string) string {
		t.Helper()
		var s corev1.Secret
		w.eventually("the Secret changes", func() string {
			if !w.get("a-admin", &s) {
				return "there is none"
			}
			if has := len(s.Data["previous-token"]) > 0; has != previous || string(s.Data["token"]) == not {
				return fmt.Sprintf("previous token %t, want %t", has, previous)
			}
			return ""
		})
		return string(s.Data["token"])
	}
	// mirrored has the node's network change and waits until that shows.
	peers := 0
	mirrored := func(when string) {
		t.Helper()
		peers++
		peer := w.net.elsewhere(fmt.Sprintf("peer%d", peers))
		w.net.subscribe(w.net.named("a"), peer, "orn:x.y")
		w.eventually(when+" a change is mirrored", func() string {
			if n := w.node("a", v1alpha1.ReasonReady); n.Status.Edges == nil || int(n.Status.Edges.Approved) != peers {
				return fmt.Sprintf("%+v", n.Status.Edges)
			}
			return ""
		})
	}
	mirrored("before")

	first := secret(false, "")
	for _, rotate := range []struct {
		name string
		by   func()
	}{
		{"the annotation", func() {
			change(w, "a", &v1alpha1.KoiNode{}, func(n *v1alpha1.KoiNode) {
				n.Annotations = map[string]string{v1alpha1.AnnotationRotateAdmin: "now"}
			})
		}},
		{"the Secret's deletion", func() { w.delete(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "a-admin"}}) }},
		{"a damaged key", func() {
			change(w, "a-admin", &corev1.Secret{}, func(s *corev1.Secret) { s.Data["tls.key"] = []byte("x") })
		}},
	} {
		rotate.by()
		second := secret(true, first)
		mirrored("after " + rotate.name + ", before the node has the new token,")
		time.Sleep(interval) // the claim is about time passing: the previous token stays
		if now := secret(true, first); now != second {
			t.Errorf("%s: rotated again", rotate.name)
		}
		g.mount()
		if now := secret(false, first); now != second {
			t.Errorf("%s: another token than the one announced", rotate.name)
		}
		mirrored("after " + rotate.name)
		first = second
	}
	if now := ready(); !now.Equal(&since) {
		t.Errorf("the node was not Ready in between: since %s, before %s", now, since)
	}
	w.must("a", &d)
	if d.Generation != deployed {
		t.Errorf("the Deployment has generation %d, and had %d", d.Generation, deployed)
	}
	w.settled()
	time.Sleep(interval) // likewise
	if seen := w.writes.list(); len(seen) > 0 {
		t.Errorf("after all that it goes on writing: %q", seen)
	}
}
