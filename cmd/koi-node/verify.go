package main

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/koi-net/koi-operator/node"
	"github.com/koi-net/koi-operator/node/store"
	"github.com/koi-net/koi-operator/node/store/bolt"
)

// errTwoFiles: verify was told of two files.
var errTwoFiles = errors.New("give FILE or --data-dir, not both")

func (a *app) verifyCommand() *cobra.Command {
	var dataDir string
	output := text
	cmd := &cobra.Command{
		Use:   "verify [FILE]",
		Short: "See whether a store or a backup is whole",
		Long: `Read all of the store in --data-dir, while no node runs on it, or of the backup in
FILE, and list what is wrong with it: its structure, the checksum of every record,
what is derived from the records, and the hash of each bundle. Nothing is written.

Exit codes: 0 it is sound, 1 it has faults, 3 no such store, 10 StoreDamaged (it
is no store of this program), 11 StoreLocked.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path := filepath.Join(dataDir, node.StoreFile)
			if len(args) > 0 {
				if cmd.Flags().Changed("data-dir") {
					return errTwoFiles
				}
				path = args[0]
			}
			return endTransfer(verify(cmd, path, output))
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&dataDir, "data-dir", node.DefaultConfig().DataDir, "directory of the store")
	registerOutput(f, &output)
	return cmd
}

func verify(cmd *cobra.Command, path string, output outputFormat) error {
	report, err := bolt.Verify(cmd.Context(), path, bolt.VerifyOptions{})
	switch {
	case errors.Is(err, store.ErrLocked):
		return fmt.Errorf("%w; or take a backup of the running node (koi-node backup FILE) and verify that", err)
	case err != nil:
		return err
	}
	p := printer{cmd.OutOrStdout(), output}
	if err := p.print(report, func() error { return printReport(p, path, report) }); err != nil {
		return err
	}
	if n := len(report.Faults) + report.MoreFaults; n > 0 {
		// No StoreDamaged: the store was looked at, and a node may still run on it.
		return &exitError{exitFailed, fmt.Errorf("%s has %d faults: %s", path, n, remedyFor(report))}
	}
	return nil
}

// remedyFor says what to do about the faults of a report.
func remedyFor(r bolt.Report) string {
	if r.MoreFaults > 0 {
		return remedyRestore
	}
	for _, f := range r.Faults {
		if f.Bucket != contentsBucket || f.RID == "" {
			return remedyRestore
		}
	}
	return remedyFetch
}

// contentsBucket is the bucket with the bundles' contents, as package bolt's doc.go
// lists it.
const contentsBucket = "contents"

const (
	remedyRestore = "restore a backup (koi-node restore)"
	remedyFetch   = "start the node: it serves none of these bundles and fetches them again from the nodes that provide them; put what is its own again, or restore a backup (koi-node restore)"
)

func printReport(p printer, path string, r bolt.Report) error {
	for _, f := range r.Faults {
		if err := p.linef("%s", f); err != nil {
			return err
		}
	}
	if r.MoreFaults > 0 {
		if err := p.linef("and %d more", r.MoreFaults); err != nil {
			return err
		}
	}
	if r.Heads == 1 {
		if err := p.linef("Note: one of its two heads is not valid: a crash during a commit leaves it so, and so does damage, where the last commit may be missing"); err != nil {
			return err
		}
	}
	if r.OwnMismatches > 0 {
		if err := p.linef("Note: %d of the node's own bundles do not have the hash of their manifest; other nodes may refuse them: put them again", r.OwnMismatches); err != nil {
			return err
		}
	}
	if len(r.Faults) > 0 {
		return nil
	}
	return p.linef("%s is sound: the store of %s, %d bundles, %s, of which %s are in no use",
		path, r.Info.NodeRID, r.Bundles, bytesText(r.Size), bytesText(r.Free))
}
