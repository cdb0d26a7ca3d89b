package controllers_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/koi-net/koi-operator/api/v1alpha1"
)

// refused applies a manifest and wants it refused for a reason ("": taken).
func (w *world) refused(o *unstructured.Unstructured, update bool, reason string) {
	w.t.Helper()
	var err error
	if update {
		err = w.client.Update(w.t.Context(), o, client.DryRunAll)
	} else {
		err = w.client.Create(w.t.Context(), o, client.DryRunAll)
	}
	switch {
	case reason == "" && err != nil:
		w.t.Errorf("refused: %v", err)
	case reason != "" && err == nil:
		w.t.Errorf("taken; want it refused for %q", reason)
	case reason != "" && !strings.Contains(err.Error(), reason):
		w.t.Errorf("refused for %v; want %q", err, reason)
	}
}

func (w *world) manifest(kind, name, spec string) *unstructured.Unstructured {
	w.t.Helper()
	var s map[string]any
	if err := yaml.Unmarshal([]byte(spec), &s); err != nil {
		w.t.Fatalf("%s: %v", spec, err)
	}
	o := &unstructured.Unstructured{Object: map[string]any{"spec": s}}
	o.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind(kind))
	o.SetName(name)
	o.SetNamespace(w.ns)
	return o
}

const someRID = "orn:koi-net.node:far+0123"

func TestKoiNodeRules(t *testing.T) {
	w := namespace(t)
	for _, tt := range []struct{ name, object, spec, reason string }{
		{"least", "n", `{}`, ""},
		{"all of a full node", "n", `{nodeType: Full, baseURL: "https://koi.example.org/koi-net", provides: {event: [orn:a.b], state: [https]}, interests: ["*"],
			coordinator: true, firstContact: {url: "http://x.y:8000/koi-net", rid: "` + someRID + `"}, identity: {name: other, secretName: s, deletionPolicy: Delete},
			security: {mode: Signed, unsignedPeers: Deny, allowedPeerCIDRs: [10.0.0.0/8, "fd00::/8"]}, networkPolicy: {enabled: true, from: [{podSelector: {}}]},
			edges: {approval: Manual, discovery: Ignore}, suspend: true, upgrade: Automatic,
			storage: {size: 2Gi, storageClassName: fast, accessModes: [ReadWriteOncePod], deletionPolicy: Delete},
			image: i, imagePullPolicy: Never, imagePullSecrets: [{name: x}], resources: {limits: {memory: 1Gi}}, service: {type: NodePort, annotations: {a: b}},
			podTemplate: {spec: {tolerations: [{operator: Exists}]}}}`, ""},
		{"partial", "n", `{nodeType: Partial, interests: []}`, ""},
		{"unsigned", "n", `{security: {mode: Unsigned}}`, ""},
		{"ephemeral", "n", `{storage: {ephemeral: true, size: 1Gi}}`, ""},
		{"external", "n", `{external: {rid: "` + someRID + `", baseURL: "http://far.example.org/koi-net"}}`, ""},
		{"external partial", "n", `{nodeType: Partial, external: {rid: "` + someRID + `"}}`, ""},

		{"other type", "n", `{nodeType: Half}`, "Unsupported value"},
		{"partial with base URL", "n", `{nodeType: Partial, baseURL: "http://x"}`, "a Partial node serves nothing"},
		{"partial coordinator", "n", `{nodeType: Partial, coordinator: true}`, "a Partial node cannot be a coordinator"},
		{"partial with service", "n", `{nodeType: Partial, service: {type: NodePort}}`, "a Partial node serves nothing"},
		{"base URL with user", "n", `{baseURL: "http://me@x"}`, "should match"},
		{"base URL of another scheme", "n", `{baseURL: "ftp://x"}`, "should match"},
		{"type with reference", "n", `{interests: ["orn:a.b:c"]}`, "should match"},
		{"empty type", "n", `{provides: {event: [""]}}`, "should be at least 1 chars"},
		{"type twice", "n", `{interests: [orn:a.b, orn:a.b]}`, "Duplicate value"},
		{"two first contacts", "n", `{firstContact: {url: "http://x", nodeRef: {name: other}}}`, "exactly one of nodeRef and url"},
		{"empty first contact", "n", `{firstContact: {}}`, "exactly one of nodeRef and url"},
		{"first contact RID without URL", "n", `{firstContact: {nodeRef: {name: other}, rid: "` + someRID + `"}}`, "rid goes with url"},
		{"own first contact", "self", `{firstContact: {nodeRef: {name: self}}}`, "cannot be its own first contact"},
		{"identity with plus", "n", `{identity: {name: "a+b"}}`, "should match"},
		{"unsigned that denies unsigned", "n", `{security: {mode: Unsigned, unsignedPeers: Deny}}`, "can only speak unsigned"},
		{"no CIDR", "n", `{security: {allowedPeerCIDRs: [10.0.0.1]}}`, "should match"},
		{"ephemeral with class", "n", `{storage: {ephemeral: true, storageClassName: x}}`, "ephemeral storage has no"},
		{"external without RID", "n", `{external: {baseURL: "http://x"}}`, "Required value"},
		{"external full without base URL", "n", `{external: {rid: "` + someRID + `"}}`, "external.baseURL is required"},
		{"external partial with base URL", "n", `{nodeType: Partial, external: {rid: "` + someRID + `", baseURL: "http://x"}}`, "has no external.baseURL"},
		{"external with image", "n", `{image: i, external: {rid: "` + someRID + `", baseURL: "http://x"}}`, "nothing is deployed"},
		{"external with storage", "n", `{storage: {}, external: {rid: "` + someRID + `", baseURL: "http://x"}}`, "nothing is deployed"},
		{"external with interests", "n", `{interests: [], external: {rid: "` + someRID + `", baseURL: "http://x"}}`, "nothing is deployed"},
		{"external with security", "n", `{security: {}, external: {rid: "` + someRID + `", baseURL: "http://x"}}`, "nothing is deployed"},
		{"external that is no node", "n", `{external: {rid: "orn:a.b:c", baseURL: "http://x"}}`, "should match"},
		{"name that is no Service's", "1n", `{}`, "a KoiNode's name begins with a letter"},
		{"long name", strings.Repeat("n", 53), `{}`, "at most 52"},
		{"name with dot", "a.b", `{}`, "a KoiNode's name begins with a letter"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := w.in(t)
			w.refused(w.manifest("KoiNode", tt.object, tt.spec), false, tt.reason)
		})
	}
}

func TestKoiNodeImmutability(t *testing.T) {
	w := namespace(t)
	for _, tt := range []struct{ name, before, after, reason string }{
		{"node type", `{}`, `{nodeType: Partial}`, "nodeType is immutable"},
		{"identity name", `{}`, `{identity: {name: other}}`, "identity.name is part"},
		{"identity name said again", `{identity: {name: ""}}`, `{}`, ""},
		{"identity Secret", `{}`, `{identity: {secretName: other}}`, ""},
		{"security mode", `{}`, `{security: {mode: Unsigned}}`, "security.mode decides"},
		{"security mode said outright", `{}`, `{security: {mode: Signed}}`, ""},
		{"ephemeral", `{}`, `{storage: {ephemeral: true}}`, "storage.ephemeral is immutable"},
		{"not ephemeral said outright", `{}`, `{storage: {ephemeral: false}}`, ""},
		{"storage class", `{storage: {storageClassName: a}}`, `{storage: {storageClassName: b}}`, "storageClassName is immutable"},
		{"access modes", `{}`, `{storage: {accessModes: [ReadWriteOncePod]}}`, "accessModes is immutable"},
		{"size", `{storage: {size: 1Gi}}`, `{storage: {size: 2Gi}}`, ""},
		{"external", `{external: {rid: "` + someRID + `", baseURL: "http://x"}}`, `{external: {rid: "` + someRID + `", baseURL: "http://y"}}`, "external is immutable"},
		{"no longer external", `{external: {rid: "` + someRID + `", baseURL: "http://x"}}`, `{}`, "external is immutable"},
		{"external now", `{}`, `{external: {rid: "` + someRID + `", baseURL: "http://x"}}`, "external is immutable"},
		{"much else", `{}`, `{baseURL: "http://x", interests: [], coordinator: true, suspend: true, image: i, edges: {approval: Manual}}`, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := w.in(t)
			o := w.manifest("KoiNode", strings.ToLower("n-"+strings.ReplaceAll(tt.name, " ", "-")), tt.before)
			if err := w.client.Create(t.Context(), o); err != nil {
				t.Fatal(err)
			}
			o.Object["spec"] = w.manifest("KoiNode", "", tt.after).Object["spec"]
			w.refused(o, true, tt.reason)
		})
	}
}

func TestKoiEdgeRules(t *testing.T) {
	w := namespace(t)
	far := `{rid: "` + someRID + `"}`
	for _, tt := range []struct{ name, spec, reason string }{
		{"least", `{source: {nodeRef: {name: a}}, target: {nodeRef: {name: b}}, ridTypes: [orn:x.y]}`, ""},
		{"all", `{source: ` + far + `, target: {nodeRef: {name: b}}, edgeType: Poll, ridTypes: [orn:x.y, https], approval: Rejected, deletionPolicy: Retain}`, ""},
		{"undecided outright", `{source: ` + far + `, target: {nodeRef: {name: b}}, ridTypes: [orn:x.y], approval: ""}`, ""},
		{"no source", `{target: {nodeRef: {name: b}}, ridTypes: [orn:x.y]}`, "Required value"},
		{"one node", `{source: {nodeRef: {name: a}}, target: {nodeRef: {name: a}}, ridTypes: [orn:x.y]}`, "must be two nodes"},
		{"one RID", `{source: ` + far + `, target: ` + far + `, ridTypes: [orn:x.y]}`, "must be two nodes"},
		{"two names for one end", `{source: {nodeRef: {name: a}, rid: "` + someRID + `"}, target: {nodeRef: {name: b}}, ridTypes: [orn:x.y]}`, "exactly one of nodeRef and rid"},
		{"no name for one end", `{source: {}, target: {nodeRef: {name: b}}, ridTypes: [orn:x.y]}`, "exactly one of nodeRef and rid"},
		{"RID of no node", `{source: {rid: "orn:x.y:z"}, target: {nodeRef: {name: b}}, ridTypes: [orn:x.y]}`, "should match"},
		{"no types", `{source: ` + far + `, target: {nodeRef: {name: b}}, ridTypes: []}`, "should have at least 1 items"},
		{"other decision", `{source: ` + far + `, target: {nodeRef: {name: b}}, ridTypes: [orn:x.y], approval: Maybe}`, "Unsupported value"},
		{"other edge type", `{source: ` + far + `, target: {nodeRef: {name: b}}, ridTypes: [orn:x.y], edgeType: WEBHOOK}`, "Unsupported value"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := w.in(t)
			w.refused(w.manifest("KoiEdge", "e", tt.spec), false, tt.reason)
		})
	}
	o := w.manifest("KoiEdge", "e", `{source: {nodeRef: {name: a}}, target: {nodeRef: {name: b}}, ridTypes: [orn:x.y]}`)
	if err := w.client.Create(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	for change, reason := range map[string]string{
		`{source: {nodeRef: {name: c}}, target: {nodeRef: {name: b}}, ridTypes: [orn:x.y]}`:                                     "source is immutable",
		`{source: {nodeRef: {name: a}}, target: {nodeRef: {name: c}}, ridTypes: [orn:x.y]}`:                                     "target is immutable",
		`{source: {nodeRef: {name: a}}, target: {nodeRef: {name: b}}, ridTypes: [https], edgeType: Poll, approval: "Approved"}`: "",
	} {
		changed := o.DeepCopy()
		changed.Object["spec"] = w.manifest("KoiEdge", "", change).Object["spec"]
		w.refused(changed, true, reason)
	}
}

// An object nobody has looked at says so, and the default touches nothing else.
func TestDefaults(t *testing.T) {
	w := namespace(t)
	for _, o := range []*unstructured.Unstructured{
		w.manifest("KoiNode", "n", `{}`),
		w.manifest("KoiEdge", "e", `{source: {nodeRef: {name: a}}, target: {nodeRef: {name: b}}, ridTypes: [orn:x.y]}`),
	} {
		before := o.DeepCopy()
		if err := w.client.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		if g, _, _ := unstructured.NestedInt64(o.Object, "status", "observedGeneration"); g != -1 {
			t.Errorf("%s: observedGeneration %d, want -1", o.GetKind(), g)
		}
		spec, _ := json.Marshal(o.Object["spec"])
		want, _ := json.Marshal(before.Object["spec"])
		if o.GetKind() == "KoiNode" {
			want = []byte(`{"nodeType":"Full"}`)
		}
		if string(spec) != string(want) {
			t.Errorf("%s: spec %s, want %s", o.GetKind(), spec, want)
		}
	}
}

// What kubectl get prints.
func TestColumns(t *testing.T) {
	w := newWorld(t)
	w.create(full("a", provides("orn:x.y")), partial("b"), edge("a-b", "a", "b", "orn:x.y"))
	w.edge("a-b", v1alpha1.ReasonApproved)
	w.node("a", v1alpha1.ReasonReady)
	if err := w.client.Get(t.Context(), client.ObjectKey{Namespace: w.ns, Name: "a"}, &v1alpha1.KoiNode{}); err != nil {
		t.Fatal(err)
	}
	w.eventually("the row of a KoiNode", func() string {
		return differs(w.row("koinodes", "a"), []string{"a", "Full", "True", "Ready", "1"})
	})
	w.eventually("the row of a KoiEdge", func() string {
		return differs(w.row("koiedges", "a-b"), []string{"a-b", "a", "b", "Poll", "Approved", "True"})
	})
}

func differs(row, want []string) string {
	got := strings.Join(row, " ")
	if got != strings.Join(want, " ") {
		return got
	}
	return ""
}

// row is what kubectl get prints for one object, without the age.
func (w *world) row(resource, name string) []string {
	w.t.Helper()
	httpClient, err := rest.HTTPClientFor(apiserver.config)
	if err != nil {
		w.t.Fatal(err)
	}
	url := strings.TrimSuffix(apiserver.config.Host, "/") + "/apis/koi-net.io/v1alpha1/namespaces/" + w.ns + "/" + resource + "/" + name
	req, err := http.NewRequestWithContext(w.t.Context(), http.MethodGet, url, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
	resp, err := httpClient.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	var table metav1.Table
	if err := json.NewDecoder(resp.Body).Decode(&table); err != nil {
		w.t.Fatal(err)
	}
	if len(table.Rows) != 1 {
		return nil
	}
	var out []string
	for i, c := range table.ColumnDefinitions {
		if c.Priority != 0 || c.Name == "Age" {
			continue
		}
		text, _ := json.Marshal(table.Rows[0].Cells[i])
		out = append(out, strings.Trim(string(text), `"`))
	}
	return out
}

// A list that a person empties is empty, and not unset, which means the default.
func TestInterestsCanBeEmptied(t *testing.T) {
	w := newWorld(t)
	apply := func(interests string) {
		t.Helper()
		o := w.manifest("KoiNode", "n", "interests: "+interests)
		if err := w.client.Apply(t.Context(), client.ApplyConfigurationFromUnstructured(o), client.FieldOwner("git")); err != nil {
			t.Fatal(err)
		}
	}
	apply("[orn:x.y]")
	apply("[]")
	var n v1alpha1.KoiNode
	w.must("n", &n)
	if n.Spec.Interests == nil || len(n.Spec.Interests) != 0 {
		t.Errorf("interests: %#v", n.Spec.Interests)
	}
}
