package draw

import (
	"bytes"
	"flag"
	"io"
	"os"
	"path/filepath"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/koi-net/koi-operator/api/v1alpha1"
)

var update = flag.Bool("update", false, "write the golden files")

func node(name, rid string, f func(*v1alpha1.KoiNode)) v1alpha1.KoiNode {
	n := v1alpha1.KoiNode{ObjectMeta: metav1.ObjectMeta{Namespace: "net", Name: name}}
	n.Status.RID = rid
	n.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: "Ready"}}
	if f != nil {
		f(&n)
	}
	return n
}

func edge(source, target v1alpha1.EdgeEnd, status v1alpha1.EdgeStatus, types ...string) v1alpha1.KoiEdge {
	e := v1alpha1.KoiEdge{ObjectMeta: metav1.ObjectMeta{Namespace: "net", Name: "e"}}
	e.Spec.Source, e.Spec.Target = source, target
	e.Status.Status, e.Status.RIDTypes = status, types
	return e
}

func named(name string) v1alpha1.EdgeEnd {
	return v1alpha1.EdgeEnd{NodeRef: &v1alpha1.NodeReference{Name: name}}
}

func network() Network {
	far := edge(v1alpha1.EdgeEnd{RID: "orn:koi-net.node:far+1"}, named("sensor"), "", "orn:x.y")
	far.Status.Source, far.Status.SourceRID = "far", "orn:koi-net.node:far+1"
	byRID := edge(v1alpha1.EdgeEnd{RID: "orn:koi-net.node:sensor+2"}, named("reader"), v1alpha1.EdgeApproved, "orn:git.commit", "orn:x.y")
	return Network{
		Nodes: []v1alpha1.KoiNode{
			node("sensor", "orn:koi-net.node:sensor+2", nil),
			node("coordinator", "orn:koi-net.node:coordinator+3", func(n *v1alpha1.KoiNode) { n.Spec.Coordinator = true }),
			node("reader", "", func(n *v1alpha1.KoiNode) {
				n.Spec.NodeType = v1alpha1.NodePartial
				n.Status.Conditions[0].Status, n.Status.Conditions[0].Reason = metav1.ConditionFalse, "ImagePullFailed"
			}),
			node("new", "", func(n *v1alpha1.KoiNode) { n.Status.Conditions = nil }),
			node("old", "", func(n *v1alpha1.KoiNode) { n.Spec.Suspend = true }),
			node("desk", "orn:koi-net.node:desk+4", func(n *v1alpha1.KoiNode) { n.Spec.External = &v1alpha1.External{} }),
		},
		Edges: []v1alpha1.KoiEdge{
			edge(named("coordinator"), named("sensor"), v1alpha1.EdgeApproved, "orn:koi-net.node"),
			edge(named("sensor"), named("coordinator"), "Proposed", "orn:koi-net.node"),
			far, byRID,
			edge(named("sensor"), named(`od"d|\<#>`), "", `ty"pe`),
		},
	}
}

// The same network is drawn the same, whatever order it comes in.
func TestDrawings(t *testing.T) {
	for name, draw := range map[string]func(io.Writer, Network, bool) error{"tree": Tree, "dot": DOT, "mermaid": Mermaid} {
		for suffix, qualified := range map[string]bool{"": false, "-all": true} {
			n := network()
			var b, again bytes.Buffer
			if err := draw(&b, n, qualified); err != nil {
				t.Fatal(err)
			}
			for i, j := 0, len(n.Edges)-1; i < j; i, j = i+1, j-1 {
				n.Edges[i], n.Edges[j] = n.Edges[j], n.Edges[i]
			}
			n.Nodes[0], n.Nodes[4] = n.Nodes[4], n.Nodes[0]
			if err := draw(&again, n, qualified); err != nil || again.String() != b.String() {
				t.Errorf("%s: drawn differently from another order:\n%s", name, again.String())
			}
			file := filepath.Join("testdata", name+suffix+".golden")
			if *update {
				if err := os.WriteFile(file, b.Bytes(), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if b.String() != string(want) {
				t.Errorf("%s%s:\n%s\nwant\n%s", name, suffix, b.String(), want)
			}
		}
	}
}

func TestNothingToDraw(t *testing.T) {
	var b bytes.Buffer
	if err := Tree(&b, Network{}, false); err != nil || b.Len() != 0 {
		t.Errorf("%q, %v", b.String(), err)
	}
}
