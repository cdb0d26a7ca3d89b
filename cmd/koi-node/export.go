package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/koi-net/koi-operator/node"
	"github.com/koi-net/koi-operator/node/admin/client"
	"github.com/koi-net/koi-operator/node/identity"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
	"github.com/koi-net/koi-operator/node/store/bolt"
	"github.com/koi-net/koi-operator/node/transfer"
)

// exportFlags are the settings of export besides those of the admin API.
type exportFlags struct {
	dataDir      string
	identityDir  string
	identity     string
	passwordFile string
	types        []rid.Type
	force        bool
}

func (a *app) exportCommand() *cobra.Command {
	o := exportFlags{}
	cmd := &cobra.Command{
		Use:   "export DIR",
		Short: "Write the cache as the Python library keeps it",
		Long: `Write the node's bundles into DIR, each in a file of its own, as a cache of the
Python library koi-net has them: DIR is what its cache_directory_path names.

The bundles are those of the store in --data-dir, while no node runs on it, or
with --admin those of a running node.

--identity NODEDIR also writes who the node is, for the Python library to be
that node: config.yaml and priv_key.pem in NODEDIR. The key is encrypted with the
password in --password-file or the variable PRIV_KEY_PASSWORD; one that is
encrypted already stays as it is where no password is given. Never run both: two
nodes of one RID would contradict each other.

Exit codes: 3 no store, or no node that has a cache, 10 StoreDamaged,
11 StoreLocked, 12 IdentityMismatch, 1 any other failure.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return endTransfer(a.export(cmd, args[0], o))
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&o.dataDir, "data-dir", node.DefaultConfig().DataDir, "directory of the store")
	f.StringVar(&o.identityDir, "identity-dir", "", "directory of the identity's files (default: identity in --data-dir)")
	f.Var(ridTypes(&o.types), "rid-type", "RID types to write (default: all)")
	f.BoolVar(&o.force, "force", false, "write into a directory that is not empty, and replace bundles of the same RIDs")
	f.StringVar(&o.identity, "identity", "", "directory to write the node's identity into as well")
	f.StringVar(&o.passwordFile, "password-file", "", "file with the password to encrypt the key with")
	a.admin.register(f, a.env)
	return cmd
}

// fromRunning reports whether the bundles are those of a running node: --admin
// says so, or its variable, unless --data-dir names a store.
func (a *app) fromRunning(cmd *cobra.Command) bool {
	url, set := a.env("KOI_ADMIN")
	return cmd.Flags().Changed("admin") || set && url != "" && !cmd.Flags().Changed("data-dir")
}

// knowledge is where the bundles come from.
type knowledge struct {
	self    rid.RID
	bundles iter.Seq2[protocol.Bundle, error]
	bundle  func(context.Context, rid.RID) (protocol.Bundle, error)
	close   func() error
}

func (a *app) export(cmd *cobra.Command, dir string, o exportFlags) (err error) {
	ctx := cmd.Context()
	var k knowledge
	if a.fromRunning(cmd) {
		k, err = a.running(ctx, o)
	} else {
		k, err = stored(ctx, o)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, k.close()) }()
	var id *transfer.IdentityExport
	if o.identity != "" {
		if id, err = a.identityFor(ctx, k, dir, o); err != nil {
			return withPassword(err)
		}
	}
	report, err := transfer.Export(ctx, dir, k.bundles, o.force)
	if errors.Is(err, transfer.ErrExists) {
		err = fmt.Errorf("%w (--force)", err)
	}
	if err != nil {
		return err
	}
	if id != nil {
		if report.Identity, err = id.Write(); err != nil {
			return fmt.Errorf("the cache was written to %s, the identity was not: %w", report.Cache, err)
		}
	}
	p := printer{cmd.OutOrStdout(), a.admin.output}
	return p.print(report, func() error { return printExport(p, report) })
}

func withPassword(err error) error {
	if errors.Is(err, transfer.ErrPassword) {
		return fmt.Errorf("%w; give one by --password-file or the variable %s", err, transfer.KeyVariable)
	}
	return err
}

// stored opens the store of a node that does not run.
func stored(ctx context.Context, o exportFlags) (knowledge, error) {
	path := filepath.Join(o.dataDir, node.StoreFile)
	st, err := bolt.Open(bolt.Options{Path: path})
	switch {
	case errors.Is(err, store.ErrLocked):
		return knowledge{}, fmt.Errorf("%w; or have the running node give its bundles: --admin URL", err)
	case errors.Is(err, store.ErrNotFound):
		return knowledge{}, fmt.Errorf("%w; --data-dir names the directory of a store, --admin URL a running node", err)
	case err != nil:
		return knowledge{}, err
	}
	return knowledge{
		self:    st.Info().NodeRID,
		bundles: transfer.Records(ctx, st, o.types),
		bundle: func(ctx context.Context, r rid.RID) (b protocol.Bundle, err error) {
			err = st.View(ctx, func(tx store.Reader) error {
				rec, err := tx.Bundle(r)
				b = rec.Bundle
				return err
			})
			return b, err
		},
		close: st.Close,
	}, nil
}

// running asks a running node.
func (a *app) running(ctx context.Context, o exportFlags) (knowledge, error) {
	c, err := a.admin.client()
	if err != nil {
		return knowledge{}, err
	}
	status, err := c.Status(ctx)
	if err != nil {
		c.CloseIdleConnections()
		return knowledge{}, err
	}
	return knowledge{
		self: status.RID, bundles: bundlesOf(ctx, c, o.types), bundle: c.Bundle,
		close: func() error { c.CloseIdleConnections(); return nil },
	}, nil
}

// bundlesOf yields the bundles of a running node. What is forgotten meanwhile is
// left out.
func bundlesOf(ctx context.Context, c *client.Client, types []rid.Type) iter.Seq2[protocol.Bundle, error] {
	return func(yield func(protocol.Bundle, error) bool) {
		for r, err := range c.AllRIDs(ctx, types) {
			var b protocol.Bundle
			if err == nil {
				b, err = c.Bundle(ctx, r)
			}
			if errors.Is(err, client.ErrNotFound) {
				continue
			}
			if !yield(b, err) || err != nil {
				return
			}
		}
	}
}

// identityFor prepares the identity, before anything is written.
func (a *app) identityFor(ctx context.Context, k knowledge, cache string, o exportFlags) (*transfer.IdentityExport, error) {
	dir := o.identityDir
	if dir == "" {
		dir = filepath.Join(o.dataDir, transfer.IdentityDir)
	}
	id, err := identity.Load(dir)
	if err != nil {
		return nil, err
	}
	if id.RID != k.self {
		return nil, fmt.Errorf("%w: %s is the identity of %s, and the bundles are those of %s: name the right --identity-dir", identity.ErrMismatch, dir, id.RID, k.self)
	}
	own, err := k.bundle(ctx, k.self)
	if err != nil {
		return nil, fmt.Errorf("the node's own bundle: %w", err)
	}
	var keyFile, password []byte
	if id.Key != nil {
		if keyFile, err = readBounded(filepath.Join(dir, identity.KeyFile), nil, maxPasswordFile); err != nil {
			return nil, err
		}
		if password, err = a.newPassword(o.passwordFile); err != nil {
			return nil, err
		}
	}
	return transfer.NewIdentityExport(o.identity, id, keyFile, password, own, cache)
}

// newPassword is the password to encrypt a key with, if one is given.
func (a *app) newPassword(file string) ([]byte, error) {
	if file == "" {
		text, _ := a.env(transfer.KeyVariable)
		return []byte(text), nil
	}
	text, err := readBounded(file, a.stdin, maxPasswordFile)
	if err != nil {
		return nil, fmt.Errorf("--password-file: %w", err)
	}
	return bytes.TrimSuffix(bytes.TrimSuffix(text, []byte("\n")), []byte("\r")), nil
}

func printExport(p printer, r transfer.Exported) error {
	if err := p.linef("%d bundles written to %s", r.Bundles, r.Cache); err != nil {
		return err
	}
	for _, path := range r.Identity {
		if err := p.linef("%s written", path); err != nil {
			return err
		}
	}
	if err := printTypes(p, r.Types, false); err != nil {
		return err
	}
	return printSkipped(p, "NOT WRITTEN", r.Skipped, r.SkippedTotal)
}
