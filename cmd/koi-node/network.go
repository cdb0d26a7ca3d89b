package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/koi-net/koi-operator/node/admin/client"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

func (a *app) nodesCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "nodes",
		Short:             "List the nodes the node knows",
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.do(func(cmd *cobra.Command, c *client.Client, p printer, _ []string) error {
			nodes, err := c.Nodes(cmd.Context())
			if err != nil {
				return err
			}
			return p.print(client.NodeList{Nodes: nodes}, func() error { return printNodes(p, nodes) })
		}),
	}
	var in client.Introduction
	add := &cobra.Command{
		Use:               "add URL",
		Short:             "Introduce the node to another one, by its base URL",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.do(func(cmd *cobra.Command, c *client.Client, p printer, args []string) error {
			in.URL = args[0]
			n, err := c.Introduce(cmd.Context(), in)
			if err != nil {
				return err
			}
			return p.print(n, func() error { return printNodes(p, []client.Node{n}) })
		}),
	}
	add.Flags().Var(ridValue{&in.RID}, "rid", "its RID, where known")
	add.Flags().StringVar(&in.PublicKey, "public-key", "", "its public key (base64), with --rid")
	cmd.AddCommand(add)
	return cmd
}

func printNodes(p printer, nodes []client.Node) error {
	rows := make([][]string, 0, len(nodes))
	for _, n := range nodes {
		state := "unverified"
		switch {
		case n.Self:
			state = "self"
		case n.Verified:
			state = "verified"
		}
		rows = append(rows, []string{string(n.RID), string(n.Profile.NodeType), state, n.Profile.BaseURL, n.LastError})
	}
	return p.table([]string{"NODE", "TYPE", "STATE", "BASE URL", "LAST ERROR"}, rows)
}

func (a *app) edgesCommand() *cobra.Command {
	var own bool
	cmd := &cobra.Command{
		Use:               "edges",
		Short:             "List the edges the node knows, and its standing decisions",
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.do(func(cmd *cobra.Command, c *client.Client, p printer, _ []string) error {
			list, err := c.Edges(cmd.Context(), own)
			if err != nil {
				return err
			}
			return p.print(list, func() error { return printEdges(p, list) })
		}),
	}
	cmd.Flags().BoolVar(&own, "own", false, "only edges in which the node is an end")
	cmd.AddCommand(
		a.pairCommand("forget", "Have the node forget an edge and tell its neighbours", (*client.Client).ForgetEdge, "forgotten"),
		a.pairCommand("undecide", "Take back the standing decision on an edge", (*client.Client).DeletePolicy, "undecided"),
	)
	return cmd
}

func printEdges(p printer, list client.EdgeList) error {
	rows := make([][]string, 0, len(list.Edges)+len(list.Refusals))
	for _, e := range list.Edges {
		decision := ""
		switch {
		case e.Refused:
			decision = "refused by source"
		case e.Decision != nil:
			decision = e.Decision.Verdict
		}
		rows = append(rows, []string{string(e.RID), string(e.Source), string(e.Target), string(e.EdgeType), string(e.Status), joined(e.RIDTypes), decision})
	}
	for _, r := range list.Refusals {
		rows = append(rows, []string{"", string(r.Source), string(r.Target), "", "", "", r.Verdict})
	}
	return p.table([]string{"EDGE", "SOURCE", "TARGET", "TYPE", "STATUS", "RID TYPES", "DECISION"}, rows)
}

// pairCommand makes a command that acts on one edge and prints a word.
func (a *app) pairCommand(name, short string, act func(*client.Client, context.Context, rid.RID, rid.RID) error, done string) *cobra.Command {
	return &cobra.Command{
		Use:               name + " EDGE | " + name + " SOURCE TARGET",
		Short:             short,
		Args:              cobra.RangeArgs(1, 2),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.do(func(cmd *cobra.Command, c *client.Client, p printer, args []string) error {
			source, target, err := pairOf(cmd.Context(), c, args)
			if err != nil {
				return err
			}
			if err := act(c, cmd.Context(), source, target); err != nil {
				return err
			}
			return p.print(struct {
				Source rid.RID `json:"source"`
				Target rid.RID `json:"target"`
				Done   string  `json:"done"`
			}{source, target, done}, func() error { return p.linef("edge from %s to %s %s", source, target, done) })
		}),
	}
}

// pairOf returns the ends of an edge given by its RID or by both ends.
func pairOf(ctx context.Context, c *client.Client, args []string) (source, target rid.RID, err error) {
	if len(args) == 2 {
		if source, err = rid.Parse(args[0]); err != nil {
			return "", "", err
		}
		target, err = rid.Parse(args[1])
		return source, target, err
	}
	edge, err := rid.Parse(args[0])
	if err != nil {
		return "", "", err
	}
	if edge.Type() != rid.EdgeType {
		return "", "", fmt.Errorf("%s is no edge's RID: give that (see koi-node edges), or SOURCE and TARGET", edge)
	}
	list, err := c.Edges(ctx, false)
	if err != nil {
		return "", "", err
	}
	for _, e := range list.Edges {
		if e.RID == edge {
			return e.Source, e.Target, nil
		}
	}
	return "", "", fmt.Errorf("edge %s: %w at this node", edge, client.ErrNotFound)
}

func (a *app) proposeCommand() *cobra.Command {
	var prop client.Proposal
	cmd := &cobra.Command{
		Use:               "propose SOURCE --rid-type TYPE",
		Short:             "Propose an edge from another node to this one",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.do(func(cmd *cobra.Command, c *client.Client, p printer, args []string) (err error) {
			if prop.Source, err = rid.Parse(args[0]); err != nil {
				return err
			}
			if len(prop.RIDTypes) == 0 {
				return errors.New("--rid-type is missing: name what the edge is to carry")
			}
			e, err := c.Propose(cmd.Context(), prop)
			if err != nil {
				return err
			}
			return p.print(e, func() error { return printEdges(p, client.EdgeList{Edges: []client.Edge{e}}) })
		}),
	}
	registerTerms(cmd.Flags(), &prop.EdgeType, &prop.RIDTypes)
	cmd.Flags().StringVar(&prop.SourceURL, "source-url", "", "base URL of the source, where it is not known yet")
	cmd.Flags().StringVar(&prop.SourcePublicKey, "source-public-key", "", "its public key (base64), with --source-url")
	return cmd
}

// registerTerms declares what an edge carries and how.
func registerTerms(f *pflag.FlagSet, kind *protocol.EdgeKind, types *[]rid.Type) {
	f.Var(ridTypes(types), "rid-type", "RID types of the edge")
	f.Var(&choice[protocol.EdgeKind]{kind, []protocol.EdgeKind{protocol.Webhook, protocol.Poll}}, "edge-type", "how events travel")
}

func (a *app) verdictCommand(name, verdict string) *cobra.Command {
	var policy client.Policy
	cmd := &cobra.Command{
		Use:               name + " EDGE | " + name + " SOURCE TARGET",
		Short:             strings.ToUpper(name[:1]) + name[1:] + " an edge that has the node as its source, now and whenever it is proposed",
		Args:              cobra.RangeArgs(1, 2),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.do(func(cmd *cobra.Command, c *client.Client, p printer, args []string) (err error) {
			if policy.Source, policy.Target, err = pairOf(cmd.Context(), c, args); err != nil {
				return err
			}
			policy.Verdict = verdict
			set, err := c.SetPolicy(cmd.Context(), policy)
			if err != nil {
				return err
			}
			return p.print(set, func() error {
				return p.linef("edge from %s to %s: %s%s", set.Source, set.Target, set.Verdict, terms(set))
			})
		}),
	}
	if verdict == client.Approve {
		registerTerms(cmd.Flags(), &policy.EdgeType, &policy.RIDTypes)
	}
	return cmd
}

// terms says how far an approval reaches.
func terms(p client.Policy) string {
	var b strings.Builder
	if p.EdgeType != "" {
		b.WriteString(" as " + string(p.EdgeType))
	}
	if len(p.RIDTypes) > 0 {
		b.WriteString(" for " + joined(p.RIDTypes))
	}
	return b.String()
}
