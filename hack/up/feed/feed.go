package feed

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// batch bounds how many bundles go into one call.
const batch = 1000

// Feed puts the commits that a node lacks and returns how many those were.
func Feed(ctx context.Context, node Node, commits []Commit) (int, error) {
	lacking, err := missing(ctx, node, commits)
	if err != nil {
		return 0, err
	}
	for rest := lacking; len(rest) > 0; {
		n := min(batch, len(rest))
		text, err := lines(rest[:n])
		if err != nil {
			return 0, err
		}
		if err := node.Put(ctx, bytes.NewReader(text)); err != nil {
			return 0, err
		}
		rest = rest[n:]
	}
	return len(lacking), nil
}

// Await waits until a node holds all commits and prints how many it has at every change.
func Await(ctx context.Context, node Node, commits []Commit, limit time.Duration, progress io.Writer) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("node %s does not hold all commits after %s", node.Name, limit))
	defer cancel()
	for said := -1; ; {
		lacking, err := missing(ctx, node, commits)
		if err == nil {
			if have := len(commits) - len(lacking); have != said {
				said = have
				fmt.Fprintf(progress, "node %s holds %d of %d commits\n", node.Name, have, len(commits))
			}
			if len(lacking) == 0 {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// missing returns the commits that a node does not hold.
func missing(ctx context.Context, node Node, commits []Commit) ([]Commit, error) {
	rids, err := node.RIDs(ctx, CommitType)
	if err != nil {
		return nil, err
	}
	return without(commits, rids), nil
}

// without returns the commits whose RID is not among rids.
func without(commits []Commit, rids []string) []Commit {
	have := make(map[string]bool, len(rids))
	for _, r := range rids {
		have[r] = true
	}
	var out []Commit
	for _, c := range commits {
		if !have[c.RID] {
			out = append(out, c)
		}
	}
	return out
}
