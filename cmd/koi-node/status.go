package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/koi-net/koi-operator/node/admin/client"
)

func (a *app) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "status",
		Short:             "Show who the node is and how it fares",
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.do(func(cmd *cobra.Command, c *client.Client, p printer, _ []string) error {
			st, err := c.Status(cmd.Context())
			if err != nil {
				return err
			}
			return p.print(st, func() error { return printStatus(p, st) })
		}),
	}
}

func printStatus(p printer, st client.Status) error {
	role := string(st.NodeType)
	if st.Coordinator {
		role += ", coordinator"
	}
	rows := [][]string{
		{"Node", string(st.RID)},
		{"Type", role},
		{"Ready", readiness(st)},
	}
	if st.BaseURL != "" {
		rows = append(rows, []string{"Base URL", st.BaseURL})
	}
	if fc := st.FirstContact; fc != nil {
		rows = append(rows, []string{"First contact", contact(*fc)})
	}
	rows = append(rows,
		[]string{"Edges", fmt.Sprintf("%d approved, %d proposed", st.Edges.Approved, st.Edges.Proposed)},
		[]string{"Approval", st.EdgeApproval},
		[]string{"Bundles", fmt.Sprintf("%d, %d events waiting", st.Bundles, st.Inbox)},
		[]string{"Store", fmt.Sprintf("%s, %s", st.StoreID, bytesText(st.StoreBytes))},
	)
	if st.Damaged > 0 {
		rows = append(rows, []string{"Damaged", fmt.Sprintf("%d bundles, not served", st.Damaged)})
	}
	rows = append(rows,
		[]string{"Started", st.Started.UTC().Format(time.RFC3339)},
		[]string{"Version", st.Version},
	)
	if err := p.table(nil, rows); err != nil {
		return err
	}
	if err := printDamaged(p, st); err != nil {
		return err
	}
	return printQueues(p, st)
}

func printDamaged(p printer, st client.Status) error {
	if len(st.DamagedBundles) == 0 {
		return nil
	}
	rows := make([][]string, 0, len(st.DamagedBundles)+1)
	for _, d := range st.DamagedBundles {
		note := "it is fetched again"
		if d.Own {
			note = "put it again, or forget it"
		}
		rows = append(rows, []string{string(d.RID), d.Reason, d.Found.UTC().Format(time.RFC3339), note})
	}
	if more := st.Damaged - len(st.DamagedBundles); more > 0 {
		rows = append(rows, []string{fmt.Sprintf("and %d more", more), "", "", ""})
	}
	if err := p.linef(""); err != nil {
		return err
	}
	return p.table([]string{"DAMAGED", "REASON", "FOUND", "NOTE"}, rows)
}

func printQueues(p printer, st client.Status) error {
	if len(st.Queues) == 0 {
		return nil
	}
	queues := make([][]string, 0, len(st.Queues))
	for _, q := range st.Queues {
		note := q.LastError
		if q.ResyncNeeded {
			note = "resync needed"
			if q.LastError != "" {
				note += "; " + q.LastError
			}
		}
		queues = append(queues, []string{string(q.Peer), q.Kind, fmt.Sprint(q.Rows), bytesText(q.Bytes), note})
	}
	if err := p.linef(""); err != nil {
		return err
	}
	return p.table([]string{"WAITING FOR", "QUEUE", "EVENTS", "SIZE", "NOTE"}, queues)
}

// readiness says yes, or what is in the way.
func readiness(st client.Status) string {
	if st.Ready {
		return "yes"
	}
	text := "no"
	for _, c := range st.Checks {
		if !c.OK {
			text += fmt.Sprintf("; %s: %s", c.Name, c.Message)
		}
	}
	return text
}

func contact(fc client.FirstContact) string {
	name := fc.URL
	if name == "" {
		name = string(fc.RID)
	}
	state := "not reached yet"
	if fc.Reached {
		state = "reached"
	}
	if fc.Message != "" {
		state += ": " + fc.Message
	}
	return fmt.Sprintf("%s (%s)", name, state)
}

func (a *app) resyncCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "resync",
		Short:             "Have the node contact its interests again and catch up",
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.do(func(cmd *cobra.Command, c *client.Client, p printer, _ []string) error {
			if err := c.Resync(cmd.Context()); err != nil {
				return err
			}
			return p.print(struct {
				Resync string `json:"resync"`
			}{"started"}, func() error { return p.linef("resync started") })
		}),
	}
}

func (a *app) watchCommand() *cobra.Command {
	var since string
	cmd := &cobra.Command{
		Use:   "watch",
		Short: "Print changes at the node as they come, until interrupted",
		Long: `Print changes at the node as they come, until interrupted. A lost connection is
made again, and the watch goes on after the last change seen. With -o json each
line is a change as the admin API sends it, heartbeats included; its token is
what --since takes.`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.do(func(cmd *cobra.Command, c *client.Client, p printer, _ []string) error {
			ctx := cmd.Context()
			begun := false
			err := c.Follow(ctx, since, func(change client.Change) error {
				begun = true
				return printChange(p, change)
			}, client.FollowOptions{OnError: func(err error) error {
				if !begun {
					return err
				}
				fmt.Fprintf(cmd.ErrOrStderr(), "koi-node: %s; connecting again\n", oneLine(a.explain(err)))
				return nil
			}})
			if ctx.Err() != nil {
				return nil // told to stop
			}
			return err
		}),
	}
	cmd.Flags().StringVar(&since, "since", "", "token of the last change seen")
	return cmd
}

func printChange(p printer, c client.Change) error {
	if p.format == jsonOutput {
		line, err := compactJSON(c)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(p.w, "%s\n", line)
		return err
	}
	if c.Kind == client.ChangeHeartbeat {
		return nil
	}
	detail := ""
	switch {
	case c.Kind == client.ChangeReset:
		detail = " changes were missed"
	case c.Edge != nil:
		detail = fmt.Sprintf(" %s from %s to %s", c.Edge.Status, c.Edge.Source, c.Edge.Target)
	}
	_, err := fmt.Fprintln(p.w, clean(fmt.Sprintf("%s %-6s %-6s %s%s", c.Time.UTC().Format(time.RFC3339), c.Kind, c.Event, c.RID, detail)))
	return err
}
