// Command coordinator runs the node that others shake hands with first. It
// introduces them to each other.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/koi-net/koi-operator/node"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "coordinator:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	cfg := node.DefaultConfig()
	cfg.Name = "coordinator"
	cfg.Coordinator = true
	cfg.AdminListen = ""
	flag.StringVar(&cfg.DataDir, "data-dir", "coordinator-data", "directory of the identity and the store")
	flag.StringVar(&cfg.Listen, "listen", "127.0.0.1:8000", "host:port of the protocol")
	flag.Parse()

	n, err := node.New(node.WithConfig(cfg))
	if err != nil {
		return err
	}
	go func() {
		select {
		case <-n.Ready():
			fmt.Println("coordinator at", n.Profile().BaseURL)
		case <-ctx.Done():
		}
	}()
	return n.Run(ctx)
}
