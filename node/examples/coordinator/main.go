// Command coordinator runs the node that others shake hands with first. It
// introduces them to each other.
//
//	go run ./node/examples/coordinator
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/koi-net/koi-operator/node"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "coordinator:", err)
		os.Exit(1)
	}
}

func run() error {
	dir := flag.String("data-dir", "coordinator-data", "directory of the identity and the store")
	listen := flag.String("listen", "127.0.0.1:8000", "host:port of the protocol")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	n, err := node.New(node.WithName("coordinator"), node.AsCoordinator(),
		node.WithDataDir(*dir), node.WithListen(*listen), node.WithLogger(slog.Default()))
	if err != nil {
		return err
	}
	return n.Run(ctx)
}
