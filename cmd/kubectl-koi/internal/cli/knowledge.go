package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"time"

	"github.com/spf13/cobra"

	adminclient "github.com/koi-net/koi-operator/node/admin/client"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// maxContents bounds what put reads.
const maxContents = 64 << 20

// knowledge is what a node is asked about what it knows.
type knowledge interface {
	AllRIDs(ctx context.Context, types []rid.Type) iter.Seq2[rid.RID, error]
	Bundle(ctx context.Context, r rid.RID) (protocol.Bundle, error)
	Put(ctx context.Context, r rid.RID, contents json.RawMessage) (adminclient.PutResult, error)
	Forget(ctx context.Context, r rid.RID) error
	Follow(ctx context.Context, since string, fn func(adminclient.Change) error, o adminclient.FollowOptions) error
}

// at opens the way to a node, calls fn, and takes the way down again.
func (a *App) at(ctx context.Context, name string, fn func(Admin) error) error {
	c, err := a.Clients()
	if err != nil {
		return err
	}
	n, err := c.node(ctx, name)
	if err != nil {
		return err
	}
	api, _, done, err := c.Node(ctx, n)
	if err != nil {
		return err
	}
	// That the way broke says nothing where the call went well.
	if err := fn(api); err != nil {
		return errors.Join(fmt.Errorf("node %s: %w", name, err), done())
	}
	_ = done()
	return nil
}

func (a *App) rids() *cobra.Command {
	var types []string
	cmd := &cobra.Command{
		Use:     "rids NODE",
		Short:   "List the RIDs a node holds",
		Example: "  kubectl koi rids sensor --type orn:git.commit",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			of := make([]rid.Type, len(types))
			for i, t := range types {
				parsed, err := rid.ParseType(t)
				if err != nil {
					return fmt.Errorf("--type %q: %w", t, err)
				}
				of[i] = parsed
			}
			return a.at(cmd.Context(), args[0], func(api Admin) error {
				for r, err := range api.AllRIDs(cmd.Context(), of) {
					if err != nil {
						return err
					}
					if _, err := fmt.Fprintln(a.Out, oneLine(string(r))); err != nil {
						return err
					}
				}
				return nil
			})
		},
		ValidArgsFunction: a.completeNodes,
	}
	cmd.Flags().StringSliceVar(&types, "type", nil, "only RIDs of these types")
	return cmd
}

func (a *App) get() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "get NODE RID",
		Short: "Show a bundle as a node holds it",
		Args:  cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := rid.Parse(args[1])
			if err != nil {
				return err
			}
			return a.at(cmd.Context(), args[0], func(api Admin) error {
				b, err := api.Bundle(cmd.Context(), r)
				if err != nil {
					return err
				}
				if a.output == "" {
					a.output = "json" // which is what contents are
				}
				_, err = a.structured(b)
				return err
			})
		},
		ValidArgsFunction: a.completeNodes,
	}
	return a.formatted(cmd)
}

func (a *App) put() *cobra.Command {
	return &cobra.Command{
		Use:     "put NODE RID FILE|-",
		Short:   "Have a node hold contents, and tell its subscribers",
		Example: `  echo '{"text":"hello"}' | kubectl koi put sensor orn:git.commit:hello -`,
		Args:    cobra.ExactArgs(3),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			r, err := rid.Parse(args[1])
			if err != nil {
				return err
			}
			in := a.In
			if args[2] != "-" {
				f, err := os.Open(args[2])
				if err != nil {
					return err
				}
				defer f.Close() // nothing was written to it
				in = f
			}
			contents, err := io.ReadAll(io.LimitReader(in, maxContents+1))
			switch {
			case err != nil:
				return err
			case len(contents) > maxContents:
				return fmt.Errorf("%s holds more than %d bytes", args[2], maxContents)
			case !json.Valid(contents):
				return fmt.Errorf("%s does not hold JSON", args[2])
			}
			return a.at(cmd.Context(), args[0], func(api Admin) error {
				if _, err := api.Put(cmd.Context(), r, contents); err != nil {
					return err
				}
				_, err := fmt.Fprintf(a.Out, "%s is held by %s\n", r, args[0])
				return err
			})
		},
		ValidArgsFunction: a.completeNodes,
	}
}

func (a *App) forget() *cobra.Command {
	return &cobra.Command{
		Use:   "forget NODE RID",
		Short: "Have a node forget a bundle, and tell its subscribers",
		Args:  cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := rid.Parse(args[1])
			if err != nil {
				return err
			}
			return a.at(cmd.Context(), args[0], func(api Admin) error {
				if err := api.Forget(cmd.Context(), r); err != nil {
					return err
				}
				_, err := fmt.Fprintf(a.Out, "%s is forgotten by %s\n", r, args[0])
				return err
			})
		},
		ValidArgsFunction: a.completeNodes,
	}
}

func (a *App) watch() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "watch NODE",
		Short: "Show what happens in a node, as it happens, until interrupted",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			err := a.at(cmd.Context(), args[0], func(api Admin) error {
				return api.Follow(cmd.Context(), "", a.show, adminclient.FollowOptions{
					// The way to the pod does not mend itself.
					OnError: func(err error) error { return err },
				})
			})
			if cmd.Context().Err() != nil {
				return nil // a person has seen enough
			}
			return err
		},
		ValidArgsFunction: a.completeNodes,
	}
	return a.formatted(cmd)
}

// show prints a change: on a line of its own, whatever the format.
func (a *App) show(c adminclient.Change) error {
	if a.output == "json" {
		return json.NewEncoder(a.Out).Encode(c)
	}
	if done, err := a.structured(c); done {
		if err == nil {
			_, err = fmt.Fprintln(a.Out, "---")
		}
		return err
	}
	_, err := fmt.Fprintf(a.Out, "%s  %-8s %-7s %s\n", time.Now().Format(time.TimeOnly), c.Kind, c.Event, oneLine(string(c.RID)))
	return err
}
