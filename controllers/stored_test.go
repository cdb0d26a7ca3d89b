package controllers_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/koi-net/koi-operator/api/v1alpha1"
	"github.com/koi-net/koi-operator/controllers"
	"github.com/koi-net/koi-operator/controllers/internal/observe"
	adminclient "github.com/koi-net/koi-operator/node/admin/client"
)

// record writes testdata anew, as this build stores it. What a release has
// stored is kept: another format gets another directory beside it.
var record = flag.String("record", "", "write testdata/`directory` anew, as this build stores it")

// storage is a directory with what an operator stored: objects.yaml as they were
// read from an API server, network.json as the nodes had it, and when that was.
type storage struct{ dir string }

func (s storage) namespace() string { return "koi-stored-" + filepath.Base(s.dir) }

// wire is what one node had.
type wire struct {
	Edges    []adminclient.Edge   `json:"edges,omitempty"`
	Policies []adminclient.Policy `json:"policies,omitempty"`
}

const (
	storedFar  = "orn:koi-net.node:far+0f1e2d3c"
	storedTime = "recorded.txt"
)

// storedKinds are the kinds in objects.yaml, in the order in which they are made.
func storedKinds() []client.ObjectList {
	return []client.ObjectList{&v1alpha1.KoiNodeList{}, &v1alpha1.KoiEdgeList{}, &corev1.SecretList{}, &corev1.ConfigMapList{}, &corev1.ServiceAccountList{},
		&corev1.PersistentVolumeClaimList{}, &corev1.ServiceList{}, &networkingv1.NetworkPolicyList{}, &appsv1.DeploymentList{}}
}

// all are the objects of a namespace, without what is in every namespace.
func (w *world) all() []client.Object {
	w.t.Helper()
	var out []client.Object
	for _, list := range storedKinds() {
		if err := w.client.List(w.t.Context(), list, client.InNamespace(w.ns)); err != nil {
			w.t.Fatal(err)
		}
		_ = meta.EachListItem(list, func(o runtime.Object) error {
			if c := o.(client.Object); c.GetName() != "kube-root-ca.crt" && c.GetName() != "default" {
				out = append(out, c)
			}
			return nil
		})
	}
	return out
}

// TestStoredRecord records, where it is asked to.
func TestStoredRecord(t *testing.T) {
	if *record == "" {
		t.Skip("nothing is to be recorded: -record names a directory of testdata")
	}
	s := storage{filepath.Join("testdata", *record)}
	w := s.world(t)
	w.start(s.options(t, time.Now()))
	w.net.elsewhere("far", "orn:x.y")
	w.create(varied(storedFar)...)
	w.create(full("everything", func(s *v1alpha1.KoiNodeSpec) {
		text := `{nodeType: Full, baseURL: "https://koi.example.org/koi-net", provides: {event: [orn:a.b], state: [https]}, interests: ["*"],
			coordinator: true, firstContact: {url: "http://x.y:8000/koi-net", rid: "` + someRID + `"}, identity: {name: other, secretName: keys, deletionPolicy: Delete},
			security: {mode: Signed, unsignedPeers: Deny, allowedPeerCIDRs: [10.0.0.0/8, "fd00::/8"]}, networkPolicy: {enabled: true, from: [{podSelector: {}}]},
			edges: {approval: Manual, discovery: Ignore}, suspend: false, upgrade: Automatic,
			storage: {size: 2Gi, storageClassName: fast, accessModes: [ReadWriteOncePod], deletionPolicy: Delete},
			image: i, imagePullPolicy: Never, imagePullSecrets: [{name: x}], resources: {limits: {memory: 1Gi}}, service: {type: NodePort, annotations: {a: b}},
			podTemplate: {spec: {tolerations: [{operator: Exists}]}}}`
		if err := yaml.Unmarshal([]byte(text), s); err != nil {
			t.Fatal(err)
		}
	}), full("unsigned", func(s *v1alpha1.KoiNodeSpec) {
		s.Security = &v1alpha1.Security{Mode: v1alpha1.SecurityUnsigned}
		s.Storage = &v1alpha1.Storage{Ephemeral: true}
	}))
	w.rests()
	w.node("everything", v1alpha1.ReasonReady)
	w.node("unsigned", v1alpha1.ReasonReady)
	w.net.subscribe(w.net.named("a"), w.net.named("c"), "orn:x.y")
	w.net.subscribe(w.net.named("c"), w.net.named("unsigned"), "orn:x.y")
	w.eventually("one is discovered", func() string { return w.discovered("a", "c", v1alpha1.ReasonApproved) })
	w.eventually("another waits", func() string { return w.discovered("c", "unsigned", v1alpha1.ReasonAwaitingApproval) })
	w.rests()
	w.settled()
	w.stop()

	var text bytes.Buffer
	for _, o := range w.all() {
		gvks, _, err := apiserver.scheme.ObjectKinds(o)
		if err != nil {
			t.Fatal(err)
		}
		o.GetObjectKind().SetGroupVersionKind(gvks[0])
		o.SetResourceVersion("")
		out, err := yaml.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&text, "---\n%s", out)
	}
	network := map[string]wire{}
	w.net.mu.Lock()
	for name, f := range w.net.names {
		var x wire
		for _, e := range f.edges {
			x.Edges = append(x.Edges, e)
		}
		for _, p := range f.policies {
			x.Policies = append(x.Policies, p)
		}
		slices.SortFunc(x.Edges, func(a, b adminclient.Edge) int { return strings.Compare(string(a.RID), string(b.RID)) })
		slices.SortFunc(x.Policies, func(a, b adminclient.Policy) int {
			return strings.Compare(string(a.Source+a.Target), string(b.Source+b.Target))
		})
		network[name] = x
	}
	w.net.mu.Unlock()
	wires, err := json.MarshalIndent(network, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"objects.yaml": text.Bytes(), "network.json": append(wires, '\n'),
		storedTime: []byte(time.Now().UTC().Format(time.RFC3339) + "\n")} {
		if err := os.WriteFile(filepath.Join(s.dir, name), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// world is the namespace of the storage, whose name is in what is stored. Its
// nodes speak without TLS: what is stored outlives its certificates.
func (s storage) world(t *testing.T) *world {
	t.Helper()
	w := namespace(t)
	w.ns = s.namespace()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: w.ns}}
	if err := w.client.Create(t.Context(), ns); err != nil {
		t.Fatal(err)
	}
	w.net = newNetwork(w)
	w.net.plain = true
	return w
}

// options has an operator's clock stand at a time and run from there.
func (s storage) options(t *testing.T, at time.Time) func(*controllers.Options) {
	t.Helper()
	begun := time.Now()
	return func(o *controllers.Options) {
		o.Clock = func() time.Time { return at.Add(time.Since(begun)) }
		o.Dial = func(e observe.Endpoint) (observe.Admin, error) {
			return observe.Dial(observe.Endpoint{URL: e.URL, Token: e.Token})
		}
	}
}

// read reads what was stored.
func (s storage) read(t *testing.T) (objects []*unstructured.Unstructured, network map[string]wire, at time.Time) {
	t.Helper()
	file := func(name string) []byte {
		text, err := os.ReadFile(filepath.Join(s.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	for d := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(file("objects.yaml")), 4096); ; {
		var o unstructured.Unstructured
		if err := d.Decode(&o); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		objects = append(objects, &o)
	}
	if err := json.Unmarshal(file("network.json"), &network); err != nil {
		t.Fatal(err)
	}
	at, err := time.Parse(time.RFC3339, strings.TrimSpace(string(file(storedTime))))
	if err != nil {
		t.Fatal(err)
	}
	return objects, network, at
}

// load brings what was stored into the API server, with whom its fields belong
// to, and the nodes up as they were.
func (s storage) load(w *world) time.Time {
	w.t.Helper()
	objects, network, at := s.read(w.t)
	w.net.mu.Lock()
	w.net.away = true
	w.net.mu.Unlock()
	uids := strings.NewReplacer()
	var pairs []string
	for _, stored := range objects {
		text, err := json.Marshal(stored.Object)
		if err != nil {
			w.t.Fatal(err)
		}
		var o, full unstructured.Unstructured
		for _, into := range []*unstructured.Unstructured{&o, &full} {
			if err := into.UnmarshalJSON([]byte(uids.Replace(string(text)))); err != nil {
				w.t.Fatal(err)
			}
		}
		o.SetUID("")
		for _, path := range [][]string{{"spec", "clusterIP"}, {"spec", "clusterIPs"}, {"metadata", "creationTimestamp"}} {
			unstructured.RemoveNestedField(o.Object, path...)
		}
		if err := w.client.Create(w.t.Context(), &o, client.FieldOwner("stored")); err != nil {
			w.t.Fatalf("%s %s is not taken any more: %v", o.GetKind(), o.GetName(), err)
		}
		if o.GetKind() == "KoiNode" {
			pairs = append(pairs, string(stored.GetUID()), string(o.GetUID()))
			uids = strings.NewReplacer(pairs...)
		}
		// Whom its fields belong to can only be said of an object that is there.
		o.SetManagedFields(full.GetManagedFields())
		if err := w.client.Update(w.t.Context(), &o, client.FieldOwner("stored")); err != nil {
			w.t.Fatalf("%s %s: %v", o.GetKind(), o.GetName(), err)
		}
		status, found := full.Object["status"]
		if !found {
			continue
		}
		if o.GetKind() == "Deployment" {
			_ = unstructured.SetNestedField(full.Object, o.GetGeneration(), "status", "observedGeneration")
		}
		if o.GetKind() != "Service" {
			o.Object["status"] = status
			if err := w.client.Status().Update(w.t.Context(), &o, client.FieldOwner("stored")); err != nil {
				w.t.Fatalf("the status of %s %s is not taken any more: %v", o.GetKind(), o.GetName(), err)
			}
		}
	}
	w.net.mu.Lock()
	w.net.away = false
	w.net.mu.Unlock()
	for name, x := range network {
		w.eventually(name+" runs", func() string {
			w.net.mu.Lock()
			defer w.net.mu.Unlock()
			f := w.net.names[name]
			if f == nil || f.server == nil {
				return "it does not"
			}
			for _, e := range x.Edges {
				f.edges[pair{e.Source, e.Target}] = e
			}
			for _, p := range x.Policies {
				f.policies[pair{p.Source, p.Target}] = p
			}
			return ""
		})
	}
	return at
}

// stored are the directories of what was ever stored.
func stored(t *testing.T) []storage {
	t.Helper()
	names, err := filepath.Glob(filepath.Join("testdata", "v*"))
	if err != nil || len(names) == 0 {
		t.Fatalf("there is nothing in testdata: %v", err)
	}
	var out []storage
	for _, n := range names {
		out = append(out, storage{n})
	}
	return out
}

// What operators before this one stored still loads, means the same, and is left
// as it is: not an object is written, so no node is started again, no Secret
// changed, no status lost. Whoever changes that on purpose announces it, for it
// restarts every node there is.
func TestStoredIsLeftAsItIs(t *testing.T) {
	if *record != "" {
		t.Skip("it is being recorded")
	}
	for _, s := range stored(t) {
		t.Run(filepath.Base(s.dir), func(t *testing.T) {
			w := s.world(t)
			w.net.elsewhere("far", "orn:x.y")
			at := s.load(w)
			type version struct {
				version    string
				generation int64
			}
			before := map[string]version{}
			key := func(o client.Object) string { return fmt.Sprintf("%T %s", o, o.GetName()) }
			for _, o := range w.all() {
				before[key(o)] = version{o.GetResourceVersion(), o.GetGeneration()}
			}
			w.start(s.options(t, at))
			w.eventually("the nodes were asked", func() string {
				w.net.mu.Lock()
				defer w.net.mu.Unlock()
				for name, f := range w.net.names {
					if f.asked < 2 && f.server != nil {
						return name + " was not"
					}
				}
				return ""
			})
			time.Sleep(interval) // the claim is about time passing
			if seen := w.writes.list(); len(seen) > 0 {
				t.Errorf("an upgrade to this build writes %q", seen)
			}
			for _, o := range w.all() {
				was, known := before[key(o)]
				switch {
				case !known:
					t.Errorf("an upgrade to this build makes %s", key(o))
				case was.generation != o.GetGeneration():
					text, _ := yaml.Marshal(o)
					t.Errorf("an upgrade to this build changes %s, generation %d to %d, now\n%s", key(o), was.generation, o.GetGeneration(), text)
				case was.version != o.GetResourceVersion():
					t.Errorf("an upgrade to this build touches %s", key(o))
				}
				delete(before, key(o))
			}
			for name := range before {
				t.Errorf("an upgrade to this build removes %s", name)
			}
			w.rests()
		})
	}
}

// Every field that was ever stored is still known, is stored as it was, and can
// be written again.
func TestStoredSpecsMeanTheSame(t *testing.T) {
	if *record != "" {
		t.Skip("it is being recorded")
	}
	w := namespace(t)
	for _, s := range stored(t) {
		objects, _, _ := s.read(t)
		seen := 0
		for _, o := range objects {
			var typed client.Object
			switch o.GetKind() {
			case "KoiNode":
				typed = &v1alpha1.KoiNode{}
			case "KoiEdge":
				typed = &v1alpha1.KoiEdge{}
			default:
				continue
			}
			seen++
			text, err := json.Marshal(o.Object)
			if err != nil {
				t.Fatal(err)
			}
			if err := yaml.UnmarshalStrict(text, typed); err != nil {
				t.Errorf("%s %s: %v", o.GetKind(), o.GetName(), err)
				continue
			}
			again, err := json.Marshal(typed)
			if err != nil {
				t.Fatal(err)
			}
			var back unstructured.Unstructured
			if err := back.UnmarshalJSON(again); err != nil {
				t.Fatal(err)
			}
			for _, part := range []string{"spec", "status"} {
				was, _ := json.Marshal(o.Object[part])
				is, _ := json.Marshal(back.Object[part])
				if !bytes.Equal(was, is) {
					t.Errorf("%s %s: the stored %s\n%s\nreads as\n%s", o.GetKind(), o.GetName(), part, was, is)
				}
			}
			fresh := w.manifest(o.GetKind(), o.GetName(), "{}")
			fresh.Object["spec"] = o.DeepCopy().Object["spec"]
			if err := w.client.Create(t.Context(), fresh, client.DryRunAll); err != nil {
				t.Errorf("%s %s cannot be made any more: %v", o.GetKind(), o.GetName(), err)
			}
			was, _ := json.Marshal(o.Object["spec"])
			is, _ := json.Marshal(fresh.Object["spec"])
			if !bytes.Equal(was, is) {
				t.Errorf("%s %s: the spec\n%s\nis stored as\n%s", o.GetKind(), o.GetName(), was, is)
			}
		}
		if seen < 10 {
			t.Errorf("%s: %d objects only", s.dir, seen)
		}
	}
}
