//go:build interop

package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/koi-net/koi-operator/hack/cluster/assets"
	"github.com/koi-net/koi-operator/hack/interop/reference"
)

// installing bounds what has to be downloaded and unpacked.
const installing = 12 * time.Minute

// nodeVariable names a koi-node to test instead of the one of this checkout.
const nodeVariable = "KOI_NODE"

var (
	writeDoc = flag.Bool("doc", false, "write what was seen into docs/interop.md instead of comparing the two")
	keep     = flag.String("keep", "", "empty directory to keep what the nodes write, their logs above all")
)

// suite is what the tests share.
var suite struct {
	root         string
	koiNode      string
	environments []reference.Environment
	skip         error // why nothing can be run
	seen         results
}

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(runTests(m))
}

// runTests prepares what the tests share, runs them, and prints what they saw.
func runTests(m *testing.M) int {
	dir, err := os.MkdirTemp("", "koi-interop-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeout(context.Background(), installing)
	defer cancel()
	if suite.root, err = assets.Root(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	suite.environments, err = reference.Install(ctx, os.Stderr, reference.Releases()...)
	if err != nil {
		if os.Getenv("CI") != "" {
			fmt.Fprintln(os.Stderr, "FAIL: in CI these tests have to run:", err)
			return 1
		}
		suite.skip = err
		return m.Run()
	}
	if suite.koiNode, err = buildNode(ctx, dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	start := time.Now()
	code := m.Run()
	table, _ := suite.seen.table()
	fmt.Printf("\nWhat was seen, in %s:\n\n%s\n", time.Since(start).Round(time.Second), table)
	if code == 0 {
		if err := suite.seen.document(filepath.Join(suite.root, "docs", "interop.md"), *writeDoc); err != nil {
			fmt.Fprintln(os.Stderr, "FAIL:", err)
			return 1
		}
	}
	return code
}

// buildNode builds the koi-node of this checkout.
func buildNode(ctx context.Context, dir string) (string, error) {
	if given := os.Getenv(nodeVariable); given != "" {
		return filepath.Abs(given)
	}
	bin := filepath.Join(dir, "koi-node")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", bin, "./cmd/koi-node")
	cmd.Dir = suite.root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build koi-node: %w\n%s", err, out)
	}
	return bin, nil
}

// needReference skips a test that cannot be run here.
func needReference(t *testing.T) {
	t.Helper()
	if suite.skip != nil {
		t.Skipf("SKIPPED, NOT PASSED: %v", suite.skip)
	}
}
