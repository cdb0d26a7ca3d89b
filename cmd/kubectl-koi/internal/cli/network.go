package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/koi-net/koi-operator/api/v1alpha1"
	"github.com/koi-net/koi-operator/cmd/kubectl-koi/internal/draw"
)

func (a *App) graph() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "graph",
		Short: "Draw the network: each node, and who subscribes to it",
		Example: `  kubectl koi graph
  kubectl koi graph -A -o dot | dot -Tsvg > net.svg
  kubectl koi graph -o mermaid`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.Clients()
			if err != nil {
				return err
			}
			n, err := a.network(cmd.Context(), c)
			if err != nil {
				return err
			}
			if done, err := a.structured(n); done {
				return err
			}
			switch a.output {
			case "dot":
				return draw.DOT(a.Out, n, a.all)
			case "mermaid":
				return draw.Mermaid(a.Out, n, a.all)
			}
			return draw.Tree(a.Out, n, a.all)
		},
	}
	return a.formatted(a.scoped(cmd), "dot", "mermaid")
}

func (a *App) network(ctx context.Context, c *Clients) (draw.Network, error) {
	var nodes v1alpha1.KoiNodeList
	var edges v1alpha1.KoiEdgeList
	err := errors.Join(c.Objects.List(ctx, &nodes, a.scope(c)), c.Objects.List(ctx, &edges, a.scope(c)))
	return draw.Network{Nodes: nodes.Items, Edges: edges.Items}, explain(err)
}

func (a *App) edges() *cobra.Command {
	var waiting bool
	cmd := &cobra.Command{
		Use:   "edges",
		Short: "List edges: who asks whom for what, and what waits for a person",
		Example: `  kubectl koi edges --waiting
  kubectl koi approve NAME`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.Clients()
			if err != nil {
				return err
			}
			var list v1alpha1.KoiEdgeList
			if err := c.Objects.List(cmd.Context(), &list, a.scope(c)); err != nil {
				return explain(err)
			}
			if waiting {
				list.Items = slices.DeleteFunc(list.Items, func(e v1alpha1.KoiEdge) bool { return !waitsForPerson(&e) })
			}
			// What waits first, then by name.
			slices.SortStableFunc(list.Items, func(x, y v1alpha1.KoiEdge) int {
				return cmp.Or(cmp.Compare(b2i(waitsForPerson(&y)), b2i(waitsForPerson(&x))), strings.Compare(x.Namespace+"/"+x.Name, y.Namespace+"/"+y.Name))
			})
			if done, err := a.structured(list); done {
				return err
			}
			return a.printEdges(list.Items, waiting)
		},
	}
	cmd.Flags().BoolVar(&waiting, "waiting", false, "only those that wait for approve or reject")
	return a.formatted(a.scoped(cmd))
}

func (a *App) printEdges(edges []v1alpha1.KoiEdge, waiting bool) error {
	if len(edges) == 0 {
		what := "There are no edges here."
		if waiting {
			what = "No edge waits for a person."
		}
		_, err := fmt.Fprintln(a.Err, what)
		return err
	}
	head := []string{"NAME", "TARGET", "SOURCE", "RID TYPES", "STATUS", "REASON", "AGE"}
	if a.all {
		head = append([]string{"NAMESPACE"}, head...)
	}
	var rows [][]string
	for i := range edges {
		e := &edges[i]
		types := e.Status.RIDTypes
		if len(types) == 0 {
			for _, t := range e.Spec.RIDTypes {
				types = append(types, string(t))
			}
		}
		row := []string{e.Name, e.Status.Target, e.Status.Source, strings.Join(types, ","), string(e.Status.Status), reason(e.Status.Conditions), age(e.CreationTimestamp)}
		if a.all {
			row = append([]string{e.Namespace}, row...)
		}
		rows = append(rows, row)
	}
	return a.table(head, rows)
}

// waitsForPerson reports whether an edge is proposed and nobody decided on it.
func waitsForPerson(e *v1alpha1.KoiEdge) bool {
	c := meta.FindStatusCondition(e.Status.Conditions, v1alpha1.ConditionReady)
	return c != nil && c.Reason == v1alpha1.ReasonAwaitingApproval
}

// reason is why an object is, or is not, as it should be.
func reason(conditions []metav1.Condition) string {
	for _, kind := range []string{v1alpha1.ConditionSuspended, v1alpha1.ConditionStalled, v1alpha1.ConditionReady} {
		if c := meta.FindStatusCondition(conditions, kind); c != nil && (kind == v1alpha1.ConditionReady || c.Status == metav1.ConditionTrue) {
			return c.Reason
		}
	}
	return ""
}

func age(t metav1.Time) string {
	if t.IsZero() {
		return ""
	}
	return duration.HumanDuration(time.Since(t.Time))
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (a *App) decide(verb string, decision v1alpha1.Approval) *cobra.Command {
	var every bool
	past := map[v1alpha1.Approval]string{v1alpha1.Approved: "approved", v1alpha1.Rejected: "rejected"}[decision]
	cmd := &cobra.Command{
		Use:   verb + " EDGE...",
		Short: fmt.Sprintf("Have proposed edges %s", past),
		Long: fmt.Sprintf(`Set spec.approval of KoiEdges to %s. The source node then answers the proposal, and the
status follows. The ClusterRole koi-edge-approver allows this and no other change.

Where the edges come from Git, commit spec.approval there instead, or it is undone.`, decision),
		RunE: func(cmd *cobra.Command, names []string) error {
			c, err := a.Clients()
			if err != nil {
				return err
			}
			if every == (len(names) > 0) {
				return errors.New("name edges, or give --all-waiting (kubectl koi edges --waiting lists them)")
			}
			if every {
				var list v1alpha1.KoiEdgeList
				if err := c.Objects.List(cmd.Context(), &list, client.InNamespace(c.Namespace)); err != nil {
					return explain(err)
				}
				for i := range list.Items {
					if waitsForPerson(&list.Items[i]) {
						names = append(names, list.Items[i].Name)
					}
				}
			}
			var errs []error
			for _, name := range names {
				said, err := c.decideOn(cmd.Context(), name, decision, past)
				if err != nil {
					errs = append(errs, err)
					continue
				}
				if _, err := fmt.Fprintln(a.Out, said); err != nil {
					return err
				}
			}
			return errors.Join(errs...)
		},
		ValidArgsFunction: a.completeEdges,
	}
	cmd.Flags().BoolVar(&every, "all-waiting", false, "every edge of the namespace that waits for a person")
	return cmd
}

func (c *Clients) decideOn(ctx context.Context, name string, decision v1alpha1.Approval, past string) (string, error) {
	var e v1alpha1.KoiEdge
	if err := c.Objects.Get(ctx, client.ObjectKey{Namespace: c.Namespace, Name: name}, &e); err != nil {
		if client.IgnoreNotFound(err) == nil {
			return "", fmt.Errorf("there is no KoiEdge %s in namespace %s; kubectl koi edges lists them", name, c.Namespace)
		}
		return "", explain(err)
	}
	if e.Spec.Approval == decision {
		return fmt.Sprintf("koiedge/%s was %s already", name, past), nil
	}
	base := e.DeepCopy()
	e.Spec.Approval = decision
	// A manager of its own, whose one field is the decision.
	if err := c.Objects.Patch(ctx, &e, client.MergeFrom(base), client.FieldOwner("koi-approval")); err != nil {
		return "", fmt.Errorf("koiedge/%s: %w", name, explain(err))
	}
	return fmt.Sprintf("koiedge/%s %s", name, past), nil
}

func (a *App) completeEdges(cmd *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
	var list v1alpha1.KoiEdgeList
	return a.complete(cmd, &list, prefix, func() (names []string) {
		for i := range list.Items {
			names = append(names, list.Items[i].Name)
		}
		return names
	})
}

func (a *App) completeNodes(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var list v1alpha1.KoiNodeList
	return a.complete(cmd, &list, prefix, func() (names []string) {
		for i := range list.Items {
			names = append(names, list.Items[i].Name)
		}
		return names
	})
}

func (a *App) complete(cmd *cobra.Command, list client.ObjectList, prefix string, names func() []string) ([]string, cobra.ShellCompDirective) {
	c, err := a.Clients()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), 3*time.Second)
	defer cancel()
	if err := c.Objects.List(ctx, list, client.InNamespace(c.Namespace)); err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	return slices.DeleteFunc(names(), func(n string) bool { return !strings.HasPrefix(n, prefix) }), cobra.ShellCompDirectiveNoFileComp
}
