package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/koi-net/koi-operator/node/admin/client"
	"github.com/koi-net/koi-operator/node/rid"
)

// maxPut bounds the contents read for put; the node's own bound is lower.
const maxPut = 64 << 20

func (a *app) ridsCommand() *cobra.Command {
	var types []rid.Type
	cmd := &cobra.Command{
		Use:               "rids",
		Short:             "List the RIDs in the node's cache",
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.do(func(cmd *cobra.Command, c *client.Client, p printer, _ []string) error {
			return printRIDs(cmd, c, p, types)
		}),
	}
	cmd.Flags().Var(ridTypes(&types), "type", "RID types to list (default: all)")
	return cmd
}

// printRIDs writes RIDs as they come, since there may be millions.
func printRIDs(cmd *cobra.Command, c *client.Client, p printer, types []rid.Type) (err error) {
	w := bufio.NewWriter(p.w)
	defer func() { err = errors.Join(err, w.Flush()) }()
	asJSON := p.format == jsonOutput
	sep := `{"rids":[`
	for r, err := range c.AllRIDs(cmd.Context(), types) {
		if err != nil {
			return err
		}
		if !asJSON {
			fmt.Fprintln(w, clean(string(r)))
			continue
		}
		item, err := compactJSON(r)
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "%s\n  %s", sep, item)
		sep = ","
	}
	if asJSON {
		if sep != "," {
			fmt.Fprint(w, sep)
		}
		fmt.Fprintln(w, "]}")
	}
	return nil
}

func (a *app) getCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "get RID",
		Short:             "Print a bundle of the node's cache as JSON",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.do(func(cmd *cobra.Command, c *client.Client, p printer, args []string) error {
			r, err := rid.Parse(args[0])
			if err != nil {
				return err
			}
			b, err := c.Bundle(cmd.Context(), r)
			if err != nil {
				return err
			}
			p.format = jsonOutput
			return p.print(b, nil)
		}),
	}
}

func (a *app) putCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "put RID FILE|- | put -f FILE|-",
		Short: "Give the node knowledge: one bundle, or one on each line",
		Long: `Give the node knowledge of its own.

put RID FILE reads the contents, one JSON object. put -f FILE reads many
bundles, one JSON object {"rid": ..., "contents": {...}} on each line. The file
- is the standard input. Contents that are there already change nothing.`,
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case file == "" && len(args) != 2:
				return fmt.Errorf("put takes a RID and a file (or -), or -f and a file; %d arguments given", len(args))
			case file != "" && len(args) != 0:
				return errors.New("put -f takes no other arguments: the RIDs are in the file")
			}
			return nil
		},
		RunE: a.do(func(cmd *cobra.Command, c *client.Client, p printer, args []string) error {
			if file != "" {
				return putLines(cmd, c, p, file)
			}
			return putOne(cmd, c, p, args[0], args[1])
		}),
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "file with many bundles, one on each line")
	return cmd
}

func putOne(cmd *cobra.Command, c *client.Client, p printer, id, path string) error {
	r, err := rid.Parse(id)
	if err != nil {
		return err
	}
	contents, err := readBounded(path, cmd.InOrStdin(), maxPut)
	if err != nil {
		return err
	}
	contents = bytes.TrimSpace(contents)
	if len(contents) == 0 || contents[0] != '{' || !json.Valid(contents) {
		return fmt.Errorf("%s: the contents must be one JSON object", source(path))
	}
	res, err := c.Put(cmd.Context(), r, contents)
	if err != nil {
		return err
	}
	return p.print(res, func() error {
		if res.Unchanged > 0 {
			return p.linef("%s unchanged", r)
		}
		return p.linef("%s accepted", r)
	})
}

// source names what a FILE argument stands for.
func source(path string) string {
	if path == "-" {
		return "standard input"
	}
	return path
}

func putLines(cmd *cobra.Command, c *client.Client, p printer, path string) error {
	from := cmd.InOrStdin()
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		from = f
	}
	// The reader hides what else a file can do: the request is streamed.
	res, err := c.PutStream(cmd.Context(), io.MultiReader(from))
	if err != nil {
		return fmt.Errorf("%s: %w (before that: %d accepted, %d unchanged)", source(path), err, res.Accepted, res.Unchanged)
	}
	return p.print(res, func() error { return p.linef("%d accepted, %d unchanged", res.Accepted, res.Unchanged) })
}

func (a *app) forgetCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "forget RID",
		Short:             "Have the node forget a RID and tell its subscribers",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.do(func(cmd *cobra.Command, c *client.Client, p printer, args []string) error {
			r, err := rid.Parse(args[0])
			if err != nil {
				return err
			}
			if err := c.Forget(cmd.Context(), r); err != nil {
				return err
			}
			return p.print(struct {
				Forgotten rid.RID `json:"forgotten"`
			}{r}, func() error { return p.linef("%s forgotten", r) })
		}),
	}
}
