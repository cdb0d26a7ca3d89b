// Package draw draws the network that KoiNodes and KoiEdges describe: as a tree for a
// terminal, as DOT and as a Mermaid flowchart. It is pure: what it is given it draws,
// the same each time.
package draw

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/koi-net/koi-operator/api/v1alpha1"
)

// Network is what is drawn.
type Network struct {
	Nodes []v1alpha1.KoiNode
	Edges []v1alpha1.KoiEdge
}

// link is an edge between two nodes by their names.
type link struct {
	source, target string
	status, label  string
	approved       bool
}

// graph is a Network with every end named: nodes without a KoiNode too.
type graph struct {
	names []string // sorted
	notes map[string]string
	links []link // by source, target
}

func (n Network) graph(qualified bool) graph {
	g := graph{notes: map[string]string{}}
	name := func(namespace, name string) string {
		if qualified && namespace != "" {
			return namespace + "/" + name
		}
		return name
	}
	byRID := map[string]string{}
	for i := range n.Nodes {
		k := &n.Nodes[i]
		id := name(k.Namespace, k.Name)
		byRID[k.Status.RID] = id
		g.notes[id] = note(k)
	}
	delete(byRID, "")
	for i := range n.Edges {
		e := &n.Edges[i]
		end := func(end v1alpha1.EdgeEnd, rid, shown string) string {
			if end.NodeRef != nil {
				return name(e.Namespace, end.NodeRef.Name)
			}
			if rid == "" {
				rid = string(end.RID)
			}
			if id, ok := byRID[rid]; ok {
				return id
			}
			if shown != "" {
				return shown
			}
			return rid
		}
		l := link{
			source: end(e.Spec.Source, e.Status.SourceRID, e.Status.Source), target: end(e.Spec.Target, e.Status.TargetRID, e.Status.Target),
			status: string(e.Status.Status), approved: e.Status.Status == v1alpha1.EdgeApproved,
		}
		if l.status == "" {
			l.status = "no edge yet"
		}
		l.label = strings.Join(typesOf(e), ", ")
		for _, id := range []string{l.source, l.target} {
			if _, known := g.notes[id]; !known {
				g.notes[id] = "not in these namespaces"
			}
		}
		g.links = append(g.links, l)
	}
	g.names = slices.Sorted(maps.Keys(g.notes))
	slices.SortFunc(g.links, func(a, b link) int {
		if c := strings.Compare(a.source, b.source); c != 0 {
			return c
		}
		return strings.Compare(a.target, b.target)
	})
	return g
}

// typesOf are the RID types of an edge: as the network has them, else as they are
// wished for.
func typesOf(e *v1alpha1.KoiEdge) []string {
	if len(e.Status.RIDTypes) > 0 {
		return e.Status.RIDTypes
	}
	out := make([]string, len(e.Spec.RIDTypes))
	for i, t := range e.Spec.RIDTypes {
		out[i] = string(t)
	}
	return out
}

// note says in a few words what a node is and how it fares.
func note(n *v1alpha1.KoiNode) string {
	var words []string
	switch {
	case n.IsExternal():
		words = append(words, "external")
	case n.Spec.Coordinator:
		words = append(words, "coordinator")
	case n.IsPartial():
		words = append(words, "partial")
	}
	switch c := meta.FindStatusCondition(n.Status.Conditions, v1alpha1.ConditionReady); {
	case n.Spec.Suspend:
		words = append(words, "suspended")
	case c == nil:
		words = append(words, "not seen yet")
	case c.Status != "True":
		words = append(words, c.Reason)
	}
	return strings.Join(words, ", ")
}

// Tree draws each node with those that subscribe to it below. qualified puts the
// namespaces before the names.
func Tree(w io.Writer, n Network, qualified bool) error {
	g := n.graph(qualified)
	var b strings.Builder
	for _, id := range g.names {
		b.WriteString(id)
		if g.notes[id] != "" {
			fmt.Fprintf(&b, " (%s)", g.notes[id])
		}
		b.WriteByte('\n')
		mine := slices.DeleteFunc(slices.Clone(g.links), func(l link) bool { return l.source != id })
		for i, l := range mine {
			branch := "├── "
			if i == len(mine)-1 {
				branch = "└── "
			}
			fmt.Fprintf(&b, "%s%s: %s", branch, l.target, l.label)
			if !l.approved {
				fmt.Fprintf(&b, " [%s]", l.status)
			}
			b.WriteByte('\n')
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// DOT draws the network for Graphviz: an arrow leads from who provides to who
// subscribes, dashed while it is not approved.
func DOT(w io.Writer, n Network, qualified bool) error {
	g := n.graph(qualified)
	var b strings.Builder
	b.WriteString("digraph koi {\n\trankdir=LR;\n\tnode [shape=box];\n")
	for _, id := range g.names {
		label := id
		if g.notes[id] != "" {
			label += "\n" + g.notes[id]
		}
		fmt.Fprintf(&b, "\t%s [label=%s];\n", quote(id), quote(label))
	}
	for _, l := range g.links {
		style := ""
		if !l.approved {
			style = ", style=dashed"
		}
		fmt.Fprintf(&b, "\t%s -> %s [label=%s%s];\n", quote(l.source), quote(l.target), quote(l.text()), style)
	}
	b.WriteString("}\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// Mermaid draws the network as a flowchart.
func Mermaid(w io.Writer, n Network, qualified bool) error {
	g := n.graph(qualified)
	ids := map[string]string{}
	var b strings.Builder
	b.WriteString("flowchart LR\n")
	for i, id := range g.names {
		ids[id] = fmt.Sprintf("n%d", i)
		label := id
		if g.notes[id] != "" {
			label += "<br/>" + g.notes[id]
		}
		fmt.Fprintf(&b, "  %s[%s]\n", ids[id], entities(label))
	}
	for _, l := range g.links {
		arrow := "-->"
		if !l.approved {
			arrow = "-.->"
		}
		fmt.Fprintf(&b, "  %s %s|%s| %s\n", ids[l.source], arrow, entities(l.text()), ids[l.target])
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// text is what stands at an arrow.
func (l link) text() string {
	if l.approved {
		return l.label
	}
	return l.label + " (" + l.status + ")"
}

// quote makes a quoted DOT identifier.
func quote(text string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(text) + `"`
}

// entities makes a quoted Mermaid text: what stands for something there becomes its
// entity, but for the line break.
func entities(text string) string {
	text = strings.NewReplacer(`"`, "#quot;", "#", "#35;", "|", "#124;").Replace(text)
	return `"` + text + `"`
}
