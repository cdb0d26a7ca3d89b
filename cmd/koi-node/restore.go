package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/koi-net/koi-operator/node"
	"github.com/koi-net/koi-operator/node/identity"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
	"github.com/koi-net/koi-operator/node/store/bolt"
	"github.com/koi-net/koi-operator/node/transfer"
)

// restoreFlags are the settings of restore.
type restoreFlags struct {
	dataDir     string
	identityDir string
	replace     bool
	output      outputFormat
}

func (a *app) restoreCommand() *cobra.Command {
	o := restoreFlags{}
	cmd := &cobra.Command{
		Use:   "restore FILE|-",
		Short: "Put a backup in the place of a node's store",
		Long: `Put the backup in FILE (stdin for "-") in its place in --data-dir, for a node that
does not run. It is copied and verified first, and takes its place whole or not at
all. Where an identity is there, the backup has to be of that node.

A directory in the place of FILE stands for the newest koi-TIME.backup in it, as
backup --keep writes them.

A store that is there is refused; with --replace it is kept beside under another
name.

Exit codes: 3 no backup, 10 StoreDamaged (the backup is damaged, or another
node's), 11 StoreLocked, 12 IdentityMismatch, 1 any other failure.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return endTransfer(a.restore(cmd, args[0], o))
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&o.dataDir, "data-dir", node.DefaultConfig().DataDir, "directory of the store; made if missing")
	f.StringVar(&o.identityDir, "identity-dir", "", "directory of the identity's files (default: identity in --data-dir)")
	f.BoolVar(&o.replace, "replace", false, "put it in the place of a store that is there, which is kept under another name")
	registerOutput(f, &o.output)
	return cmd
}

func (a *app) restore(cmd *cobra.Command, file string, o restoreFlags) error {
	self, err := ridOf(o)
	if err != nil {
		return err
	}
	if file, err = newest(file); err != nil {
		return err
	}
	to := filepath.Join(o.dataDir, node.StoreFile)
	done, err := a.restoreFrom(cmd.Context(), file, to, bolt.RestoreOptions{NodeRID: self, Replace: o.replace})
	switch {
	case errors.Is(err, fs.ErrExist):
		return fmt.Errorf("%w (--replace keeps it under another name)", err)
	case errors.Is(err, store.ErrLocked):
		return fmt.Errorf("%w; a node that runs cannot be restored: stop it first", err)
	case err != nil:
		return err
	}
	p := printer{cmd.OutOrStdout(), o.output}
	return p.print(done, func() error { return printRestored(p, to, done, self) })
}

// ridOf is whose backup it has to be: the identity's; anybody's where there is none.
func ridOf(o restoreFlags) (rid.RID, error) {
	dir := o.identityDir
	if dir == "" {
		dir = filepath.Join(o.dataDir, transfer.IdentityDir)
	}
	id, err := identity.Load(dir)
	if errors.Is(err, identity.ErrNotFound) && o.identityDir == "" {
		return "", nil
	}
	return id.RID, err
}

func (a *app) restoreFrom(ctx context.Context, file, to string, o bolt.RestoreOptions) (bolt.Restored, error) {
	if file == "-" {
		return bolt.Restore(ctx, a.stdin, to, o)
	}
	return bolt.RestoreFile(ctx, file, to, o)
}

func printRestored(p printer, to string, done bolt.Restored, self rid.RID) error {
	if err := p.linef("%s restored: the store of %s, %d bytes (%s)", to, done.Info.NodeRID, done.Size, bytesText(done.Size)); err != nil {
		return err
	}
	if done.Replaced != "" {
		if err := p.linef("The store that was there is kept as %s", done.Replaced); err != nil {
			return err
		}
	}
	if self == "" {
		return p.linef("There is no identity beside it: put that of this node there before it is started")
	}
	return nil
}
