package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/koi-net/koi-operator/node"
	"github.com/koi-net/koi-operator/node/store"
	"github.com/koi-net/koi-operator/node/store/bolt"
)

// compacted is what compact prints.
type compacted struct {
	Before int64 `json:"before"`
	After  int64 `json:"after"`
	// Kept is where the old store is; empty where it was removed.
	Kept string `json:"kept,omitempty"`
}

func (a *app) compactCommand() *cobra.Command {
	var dataDir string
	var removeOld bool
	output := text
	cmd := &cobra.Command{
		Use:   "compact",
		Short: "Give room that a store no longer needs back to the disk",
		Long: `Write the store in --data-dir anew without the room that is in no use, while no
node runs on it, and put it in the place of the old one, which is kept beside
as koi.db.before-compact-TIME. The volume needs room for both.

Run it as the user the node runs as.

Exit codes: 3 no store, 10 StoreDamaged, 11 StoreLocked, 1 any other failure; the
store is then as it was.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			done, err := compact(cmd.Context(), dataDir, removeOld, time.Now())
			if err != nil {
				return endTransfer(err)
			}
			p := printer{cmd.OutOrStdout(), output}
			return p.print(done, func() error { return printCompacted(p, done) })
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&dataDir, "data-dir", node.DefaultConfig().DataDir, "directory of the store")
	f.BoolVar(&removeOld, "remove-old", false, "do not keep the old store")
	registerOutput(f, &output)
	return cmd
}

func compact(ctx context.Context, dataDir string, removeOld bool, now time.Time) (_ compacted, err error) {
	// The lock is held until the new store is in its place: what a node wrote
	// between would be lost.
	st, err := openStopped(dataDir, "stop the node first")
	if err != nil {
		return compacted{}, err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	path, err := filepath.EvalSymlinks(filepath.Join(dataDir, node.StoreFile))
	if err != nil {
		return compacted{}, err
	}
	was, err := os.Stat(path)
	if err != nil {
		return compacted{}, err
	}
	left, known := roomBeside(path)
	if err := hasRoom(path, was.Size(), left, known); err != nil {
		return compacted{}, err
	}
	// A node that starts tidies away what a crash leaves under such a name. There
	// is one name, so that of two compactions at once only one comes to the end.
	fresh := path + ".new-compacted"
	var done compacted
	done.Before, done.After, err = bolt.Compact(ctx, path, fresh)
	if errors.Is(err, fs.ErrExist) {
		return compacted{}, fmt.Errorf("%w: another compaction runs, or one was cut off; if none runs, remove that file", err)
	}
	if err != nil {
		return compacted{}, err
	}
	if err := stillThere(path, was); err != nil {
		return compacted{}, errors.Join(err, os.Remove(fresh))
	}
	if done.Kept, err = swap(fresh, path, removeOld, now); err != nil {
		return compacted{}, fmt.Errorf("put the compacted store in its place: %w", errors.Join(err, os.Remove(fresh)))
	}
	return done, syncDir(filepath.Dir(path))
}

// hasRoom refuses where the copy might not find room: it is at most as large as
// what is copied.
func hasRoom(path string, need, left int64, known bool) error {
	if !known || left >= need {
		return nil
	}
	return fmt.Errorf("%w: compacting %s may take %s beside it, and its volume has %s left; free some, or enlarge it", store.ErrFull, path, bytesText(need), bytesText(left))
}

// stillThere sees that nobody replaced the store meanwhile.
func stillThere(path string, was fs.FileInfo) error {
	is, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !os.SameFile(is, was) {
		return fmt.Errorf("%s was replaced while it was compacted; try again", path)
	}
	return nil
}

// swap puts fresh in the place of the store at path, which is kept under another
// name unless it is to be removed. But for file systems without hard links, there
// is a store at path at all times. After an error it is the old one.
func swap(fresh, path string, removeOld bool, now time.Time) (kept string, err error) {
	if removeOld {
		return "", os.Rename(fresh, path)
	}
	kept = path + ".before-compact-" + now.UTC().Format("20060102T150405Z")
	undo := func() error { return os.Remove(kept) }
	if err := os.Link(path, kept); err != nil {
		if _, there := os.Lstat(kept); !errors.Is(there, fs.ErrNotExist) {
			return "", err
		}
		if err := os.Rename(path, kept); err != nil {
			return "", err
		}
		undo = func() error { return os.Rename(kept, path) }
	}
	if err := os.Rename(fresh, path); err != nil {
		return "", errors.Join(err, undo())
	}
	return kept, nil
}

func printCompacted(p printer, c compacted) error {
	if err := p.linef("%d bytes (%s) before, %d bytes (%s) after", c.Before, bytesText(c.Before), c.After, bytesText(c.After)); err != nil {
		return err
	}
	if c.Kept == "" {
		return nil
	}
	return p.linef("The store as it was is kept as %s; remove it when the node runs well", c.Kept)
}
