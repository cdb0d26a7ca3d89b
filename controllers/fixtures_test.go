package controllers_test

import (
	"encoding/json"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// collect does what the garbage collector does, which does not run here: it
// removes what a KoiNode that is gone owned.
func (w *world) collect(name string) {
	w.t.Helper()
	for _, o := range []client.Object{&appsv1.Deployment{}, &corev1.Service{}, &corev1.ServiceAccount{}} {
		if w.get(name, o) {
			w.delete(o)
		}
	}
	for suffix, o := range map[string]client.Object{"-config": &corev1.ConfigMap{}, "-admin": &corev1.Secret{}} {
		if w.get(name+suffix, o) {
			w.delete(o)
		}
	}
}

// eventReasons are the reasons of the Events about an object.
func (w *world) eventReasons(name string) []string {
	w.t.Helper()
	var list eventsv1.EventList
	if err := w.client.List(w.t.Context(), &list, client.InNamespace(w.ns)); err != nil {
		w.t.Fatal(err)
	}
	var out []string
	for _, e := range list.Items {
		if e.Regarding.Name == name {
			out = append(out, e.Reason)
		}
	}
	return out
}

// convert reads an object that came without a type into one.
func convert(o *unstructured.Unstructured, into any) error {
	text, err := json.Marshal(o.Object)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, into)
}
