// Kubectl-koi is a kubectl plugin for KOI-nets: kubectl koi graph, edges, approve,
// reject, status, rids, get, put, forget, watch, report. docs/kubectl-koi.md is its
// handbook.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/koi-net/koi-operator/cmd/kubectl-koi/internal/cli"
)

// version is set by the linker.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	a := &cli.App{Version: version, In: os.Stdin, Out: os.Stdout, Err: os.Stderr}
	err := a.Root().ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}
