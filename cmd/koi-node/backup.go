package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/koi-net/koi-operator/node"
	"github.com/koi-net/koi-operator/node/store"
	"github.com/koi-net/koi-operator/node/store/bolt"
)

// backupResult is what backup prints.
type backupResult struct {
	File  string `json:"file"`
	Bytes int64  `json:"bytes"`
}

func (a *app) backupCommand() *cobra.Command {
	var dataDir string
	var force bool
	var keep int
	cmd := &cobra.Command{
		Use:   "backup FILE|-",
		Short: "Copy a node's store, while the node runs",
		Long: `Have the node that --admin names write a copy of its store, as it is now, to
FILE, or to stdout for "-". The node goes on meanwhile. FILE appears when the copy
is whole and on disk, or not at all; it holds the knowledge and not the identity.

--data-dir copies the store of a node that does not run instead.

With --keep N, FILE is a directory: the copy becomes koi-TIME.backup in it, and of
such files the newest N stay.

Exit codes: 3 no store, 10 StoreDamaged, 11 StoreLocked (a node runs on it: leave
out --data-dir), 1 any other failure.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !cmd.Flags().Changed("keep") {
				return endTransfer(a.backup(cmd, args[0], dataDir, force))
			}
			if keep < 1 {
				return fmt.Errorf("--keep %d: keep at least one", keep)
			}
			if err := a.backup(cmd, filepath.Join(args[0], keptName(time.Now())), dataDir, false); err != nil {
				return endTransfer(err)
			}
			return endTransfer(prune(args[0], keep))
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&dataDir, "data-dir", "", "directory of a store that no node runs on, to copy instead")
	f.BoolVar(&force, "force", false, "replace FILE")
	f.IntVar(&keep, "keep", 0, "how many backups stay in the directory FILE, this one included")
	a.admin.register(f, a.env)
	cmd.MarkFlagsMutuallyExclusive("data-dir", "admin")
	cmd.MarkFlagsMutuallyExclusive("keep", "force")
	return cmd
}

// copier writes a copy of a store and returns its bytes.
type copier func(context.Context, io.Writer) (int64, error)

func (a *app) backup(cmd *cobra.Command, file, dataDir string, force bool) (err error) {
	if file != "-" {
		if err := mayWrite(file, force); err != nil {
			return err
		}
	}
	from, done, err := a.backupSource(cmd, dataDir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	if file == "-" {
		n, err := from(cmd.Context(), cmd.OutOrStdout())
		if err != nil {
			return fmt.Errorf("%w; what was written is no backup", err)
		}
		_, err = fmt.Fprintf(cmd.ErrOrStderr(), "%d bytes written\n", n)
		return err
	}
	n, err := writeWhole(cmd.Context(), file, force, from)
	if err != nil {
		return err
	}
	p := printer{cmd.OutOrStdout(), a.admin.output}
	return p.print(backupResult{file, n}, func() error {
		return p.linef("%d bytes (%s) written to %s", n, bytesText(n), file)
	})
}

// backupSource is the running node, or the store of one that does not run.
func (a *app) backupSource(cmd *cobra.Command, dataDir string) (copier, func() error, error) {
	if !cmd.Flags().Changed("data-dir") {
		c, err := a.admin.client()
		if err != nil {
			return nil, nil, err
		}
		return c.Backup, func() error { c.CloseIdleConnections(); return nil }, nil
	}
	st, err := openStopped(dataDir, "leave out --data-dir to have the running node write it (--admin URL names it)")
	if err != nil {
		return nil, nil, err
	}
	return st.Backup, st.Close, nil
}

// openStopped opens the store of a node that does not run, for reading alone.
// Until it is closed no node can begin with it. running says what to do where a
// node runs.
func openStopped(dataDir, running string) (store.Store, error) {
	st, err := bolt.Open(bolt.Options{Path: filepath.Join(dataDir, node.StoreFile), ReadOnly: true})
	switch {
	case errors.Is(err, store.ErrLocked):
		return nil, fmt.Errorf("%w; %s", err, running)
	case errors.Is(err, store.ErrNotFound):
		return nil, fmt.Errorf("%w; --data-dir names the directory of a store", err)
	case errors.Is(err, store.ErrReadOnly):
		return nil, fmt.Errorf("%w; start and stop the node once, which brings it up to date", err)
	}
	return st, err
}

// mayWrite refuses, before anything is copied, a file that would be refused then.
func mayWrite(file string, force bool) error {
	st, err := os.Lstat(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case st.IsDir():
		return fmt.Errorf("%s is a directory; name a file in it", file)
	case filepath.Base(file) == node.StoreFile:
		return fmt.Errorf("%s has the name of a node's store and is never replaced by a backup; name another file", file)
	case !force:
		return fmt.Errorf("%s: %w; name another file, or replace it with --force", file, fs.ErrExist)
	case !st.Mode().IsRegular():
		return fmt.Errorf("%s is not a regular file; name another", file)
	}
	return nil
}

// writeWhole writes a copy beside file and gives it the name when it is whole and
// on disk. After an error nothing of it is left.
func writeWhole(ctx context.Context, file string, force bool, from copier) (n int64, err error) {
	temp, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+".part-*")
	if err != nil {
		return 0, err
	}
	defer func() {
		if rm := os.Remove(temp.Name()); !errors.Is(rm, fs.ErrNotExist) { // where it was moved it is gone
			err = errors.Join(err, rm)
		}
	}()
	n, err = from(ctx, temp)
	if err == nil {
		err = temp.Sync()
	}
	if err = errors.Join(err, temp.Close()); err != nil {
		return 0, err
	}
	if err := giveName(temp.Name(), file, force); err != nil {
		return 0, err
	}
	return n, syncDir(filepath.Dir(file))
}

// giveName moves temp to file; without force it replaces nothing that came there
// meanwhile.
func giveName(temp, file string, force bool) error {
	if !force {
		err := os.Link(temp, file)
		if err == nil {
			return nil
		}
		// Some file systems have no hard links.
		if err := mayWrite(file, false); err != nil {
			return err
		}
	}
	return os.Rename(temp, file)
}

// syncDir has a directory's names reach the disk.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
