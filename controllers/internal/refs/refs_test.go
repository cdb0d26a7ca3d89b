package refs

import (
	"context"
	"errors"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/koi-net/koi-operator/api/v1alpha1"
	"github.com/koi-net/koi-operator/controllers/internal/conditions"
	"github.com/koi-net/koi-operator/controllers/internal/resources"
	"github.com/koi-net/koi-operator/node/rid"
)

func node(namespace, name, r string, f ...func(*v1alpha1.KoiNode)) *v1alpha1.KoiNode {
	n := &v1alpha1.KoiNode{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Status: v1alpha1.KoiNodeStatus{RID: r}}
	for _, f := range f {
		f(n)
	}
	return n
}

func contact(c v1alpha1.FirstContact) func(*v1alpha1.KoiNode) {
	return func(n *v1alpha1.KoiNode) { n.Spec.FirstContact = &c }
}

func byName(name string) *v1alpha1.NodeReference { return &v1alpha1.NodeReference{Name: name} }

// builder gathers the indexes for a fake client.
type builder struct{ *fake.ClientBuilder }

func (b builder) IndexField(_ context.Context, o client.Object, field string, f client.IndexerFunc) error {
	b.WithIndex(o, field, f)
	return nil
}

func resolver(t *testing.T, objects ...client.Object) *Resolver {
	t.Helper()
	s := runtime.NewScheme()
	if err := errors.Join(v1alpha1.AddToScheme(s), corev1.AddToScheme(s)); err != nil {
		t.Fatal(err)
	}
	b := fake.NewClientBuilder().WithScheme(s).WithObjects(objects...)
	if err := Index(t.Context(), builder{b}); err != nil {
		t.Fatal(err)
	}
	return &Resolver{Reader: b.Build()}
}

const (
	ridA = "orn:koi-net.node:a+01"
	ridB = "orn:koi-net.node:b+02"
)

func TestEnd(t *testing.T) {
	r := resolver(t, node("n", "a", ridA), node("n", "young", ""), node("m", "b", ridB),
		node("n", "twin", "orn:koi-net.node:twin+1"), node("m", "a-twin", "orn:koi-net.node:twin+1"),
		node("n", "told", "orn:koi-net.node:told+1", func(n *v1alpha1.KoiNode) { n.Spec.External = &v1alpha1.External{} }), node("m", "runs", "orn:koi-net.node:told+1"))
	for _, tt := range []struct {
		name   string
		end    v1alpha1.EdgeEnd
		node   string
		local  bool
		reason string
	}{
		{"by name", v1alpha1.EdgeEnd{NodeRef: byName("a")}, "n/a", true, ""},
		{"by name, none", v1alpha1.EdgeEnd{NodeRef: byName("b")}, "", false, v1alpha1.ReasonNodeNotFound},
		{"by name, no RID yet", v1alpha1.EdgeEnd{NodeRef: byName("young")}, "", false, v1alpha1.ReasonNodeNotReady},
		{"by RID", v1alpha1.EdgeEnd{RID: ridA}, "n/a", true, ""},
		{"by RID, another namespace", v1alpha1.EdgeEnd{RID: ridB}, "m/b", false, ""},
		{"by RID, both", v1alpha1.EdgeEnd{RID: "orn:koi-net.node:twin+1"}, "n/twin", true, ""},
		{"by RID, one that runs before one described", v1alpha1.EdgeEnd{RID: "orn:koi-net.node:told+1"}, "m/runs", false, ""},
		{"by RID, elsewhere", v1alpha1.EdgeEnd{RID: "orn:koi-net.node:far+1"}, "", false, ""},
		{"no RID", v1alpha1.EdgeEnd{RID: "orn:koi-net.node:"}, "", false, v1alpha1.ReasonInvalidSpec},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e, err := r.End(t.Context(), "n", tt.end)
			var s *conditions.State
			if tt.reason != "" {
				if !errors.As(err, &s) || s.Reason != tt.reason {
					t.Fatalf("got %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			if e.Node != nil {
				got = e.Key().String()
			}
			if got != tt.node || e.Local != tt.local || e.Steered() != tt.local || e.Name() == "" {
				t.Errorf("%+v", e)
			}
		})
	}
}

func TestContact(t *testing.T) {
	r := resolver(t,
		node("n", "a", ridA), node("n", "young", ""),
		node("n", "reader", ridB, func(n *v1alpha1.KoiNode) { n.Spec.NodeType = v1alpha1.NodePartial }),
		node("n", "far", ridB, func(n *v1alpha1.KoiNode) { n.Spec.External = &v1alpha1.External{RID: ridB, BaseURL: "http://far/"} }))
	for _, tt := range []struct {
		name    string
		contact *v1alpha1.FirstContact
		want    resources.Contact
		missing bool
		reason  string
	}{
		{"none", nil, resources.Contact{}, false, ""},
		{"url", &v1alpha1.FirstContact{URL: "http://x/", RID: ridA}, resources.Contact{URL: "http://x", RID: ridA}, false, ""},
		{"node", &v1alpha1.FirstContact{NodeRef: byName("a")}, resources.Contact{URL: "http://a.n.svc:8000/koi-net", RID: ridA}, false, ""},
		{"external node", &v1alpha1.FirstContact{NodeRef: byName("far")}, resources.Contact{URL: "http://far", RID: ridB}, false, ""},
		{"no such node", &v1alpha1.FirstContact{NodeRef: byName("x")}, resources.Contact{}, true, ""},
		{"node without a RID", &v1alpha1.FirstContact{NodeRef: byName("young")}, resources.Contact{}, false, v1alpha1.ReasonAwaitingContact},
		{"partial node", &v1alpha1.FirstContact{NodeRef: byName("reader")}, resources.Contact{}, false, v1alpha1.ReasonInvalidSpec},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := node("n", "new", "")
			n.Spec.FirstContact = tt.contact
			got, missing, err := r.Contact(t.Context(), n)
			var s *conditions.State
			if errors.As(err, &s) != (tt.reason != "") || s != nil && s.Reason != tt.reason {
				t.Fatalf("got %v", err)
			}
			if got != tt.want || (missing != "") != tt.missing {
				t.Errorf("%+v, %q", got, missing)
			}
		})
	}
}

func edge(namespace, name string, age time.Duration, f ...func(*v1alpha1.KoiEdge)) v1alpha1.KoiEdge {
	e := v1alpha1.KoiEdge{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, CreationTimestamp: metav1.NewTime(time.Unix(1e9, 0).Add(-age))},
		Spec:       v1alpha1.KoiEdgeSpec{Source: v1alpha1.EdgeEnd{NodeRef: byName("a")}, Target: v1alpha1.EdgeEnd{RID: ridB}},
		Status:     v1alpha1.KoiEdgeStatus{SourceRID: ridA, TargetRID: ridB},
	}
	for _, f := range f {
		f(&e)
	}
	return e
}

func discovered(e *v1alpha1.KoiEdge) {
	e.Labels = map[string]string{v1alpha1.LabelOrigin: v1alpha1.OriginDiscovered}
}

func TestWinner(t *testing.T) {
	going := func(e *v1alpha1.KoiEdge) { e.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)} }
	for _, tt := range []struct {
		want  string
		edges []v1alpha1.KoiEdge
	}{
		{"", nil},
		{"", []v1alpha1.KoiEdge{edge("n", "d", 0, discovered)}},
		{"", []v1alpha1.KoiEdge{edge("stranger", "old", time.Hour), edge("far", "old", time.Hour)}},
		{"old", []v1alpha1.KoiEdge{edge("n", "young", time.Hour), edge("o", "old", 2*time.Hour), edge("n", "d", 9*time.Hour, discovered)}},
		{"young", []v1alpha1.KoiEdge{edge("n", "young", time.Hour), edge("n", "old", 2*time.Hour, going)}},
		{"b", []v1alpha1.KoiEdge{edge("n", "b", 0), edge("o", "a", 0)}},
		{"a", []v1alpha1.KoiEdge{edge("n", "b", 0), edge("n", "a", 0)}},
	} {
		got := ""
		ends := []*v1alpha1.KoiNode{node("n", "a", ridA), node("o", "b", ridB), nil, node("far", "c", ridB, func(n *v1alpha1.KoiNode) { n.Spec.External = &v1alpha1.External{} })}
		if w := Winner(tt.edges, ends...); w != nil {
			got = w.Name
		}
		if got != tt.want {
			t.Errorf("%q wins, want %q", got, tt.want)
		}
	}
}

func TestDeclared(t *testing.T) {
	here := []*v1alpha1.KoiNode{node("n", "a", ridA), node("n", "b", ridB)}
	by := func(source, target v1alpha1.EdgeEnd) func(*v1alpha1.KoiEdge) {
		return func(e *v1alpha1.KoiEdge) {
			e.Spec.Source, e.Spec.Target, e.Status = source, target, v1alpha1.KoiEdgeStatus{}
		}
	}
	name := func(n string) v1alpha1.EdgeEnd { return v1alpha1.EdgeEnd{NodeRef: &v1alpha1.NodeReference{Name: n}} }
	of := func(r rid.RID) v1alpha1.EdgeEnd { return v1alpha1.EdgeEnd{RID: v1alpha1.NodeRID(r)} }
	going := func(e *v1alpha1.KoiEdge) { e.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)} }
	for what, tt := range map[string]struct {
		edge  v1alpha1.KoiEdge
		nodes []*v1alpha1.KoiNode
		want  bool
	}{
		"by its status":               {edge("n", "e", 0, func(e *v1alpha1.KoiEdge) { e.Spec = v1alpha1.KoiEdgeSpec{} }), here, true},
		"by names, not looked at":     {edge("n", "e", 0, by(name("a"), name("b"))), here, true},
		"by RIDs, not looked at":      {edge("n", "e", 0, by(of(ridA), of(ridB))), here, true},
		"by a name and a RID":         {edge("n", "e", 0, by(name("a"), of(ridB))), here[:1], true},
		"going":                       {edge("n", "e", 0, by(name("a"), name("b")), going), here, true},
		"the other way round":         {edge("n", "e", 0, by(name("b"), name("a"))), here, false},
		"another node":                {edge("n", "e", 0, by(name("a"), name("c"))), here, false},
		"of names of a namespace":     {edge("m", "e", 0, by(name("a"), name("b"))), append(here, node("m", "c", "x")), false},
		"where it has no say":         {edge("m", "e", 0, by(of(ridA), of(ridB))), here, false},
		"discovered":                  {edge("n", "e", 0, by(name("a"), name("b")), discovered), here, false},
		"of a node without a KoiNode": {edge("n", "e", 0, by(name("a"), name("b"))), []*v1alpha1.KoiNode{here[0], nil}, false},
	} {
		if got := Declared([]v1alpha1.KoiEdge{tt.edge}, ridA, ridB, tt.nodes...); got != tt.want {
			t.Errorf("%s: declared %t", what, got)
		}
	}
}

func TestLookUps(t *testing.T) {
	here, there := edge("n", "e", 0), edge("m", "e", 0, func(e *v1alpha1.KoiEdge) { e.Spec.Source = v1alpha1.EdgeEnd{RID: ridA} })
	young := edge("n", "young", 0, func(e *v1alpha1.KoiEdge) { e.Status = v1alpha1.KoiEdgeStatus{} })
	r := resolver(t, &here, &there, &young, node("n", "new", "", contact(v1alpha1.FirstContact{NodeRef: byName("a")})), node("m", "new", "", contact(v1alpha1.FirstContact{NodeRef: byName("a")})))
	key := types.NamespacedName{Namespace: "n", Name: "a"}
	if l, err := r.EdgesOf(t.Context(), key, ridA); err != nil || len(l) != 3 {
		t.Errorf("edges of a: %d, %v", len(l), err)
	}
	if l, err := r.EdgesOf(t.Context(), key, ""); err != nil || len(l) != 2 {
		t.Errorf("edges of a without its RID: %d, %v", len(l), err)
	}
	if l, err := r.Pair(t.Context(), ridA, ridB); err != nil || len(l) != 2 {
		t.Errorf("edges of the pair: %d, %v", len(l), err)
	}
	if l, err := r.Pair(t.Context(), ridB, ridA); err != nil || len(l) != 0 {
		t.Errorf("edges of the pair turned round: %d, %v", len(l), err)
	}
	if l, err := r.Newcomers(t.Context(), key); err != nil || len(l) != 1 || l[0].Namespace != "n" {
		t.Errorf("newcomers: %v, %v", l, err)
	}
	if pairKey("ab", "c") == pairKey("a", "bc") {
		t.Error("two pairs have one key")
	}
	if n, err := r.NodeByRID(t.Context(), "n", string(rid.RID(ridB))); n != nil || err != nil {
		t.Errorf("%v, %v", n, err)
	}
}
