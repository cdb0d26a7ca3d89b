// Command full runs a full node that publishes a note every few seconds.
//
//	go run ./node/examples/full
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/koi-net/koi-operator/node"
	"github.com/koi-net/koi-operator/node/rid"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "full:", err)
		os.Exit(1)
	}
}

func run() error {
	dir := flag.String("data-dir", "full-data", "directory of the identity and the store")
	listen := flag.String("listen", "127.0.0.1:8001", "host:port of the protocol")
	first := flag.String("first-contact", "http://127.0.0.1:8000/koi-net", "base URL of the coordinator")
	every := flag.Duration("every", 5*time.Second, "how often to publish a note")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	n, err := node.New(node.WithName("full"), node.WithProvides("orn:example.note"), node.WithFirstContact(*first),
		node.WithDataDir(*dir), node.WithListen(*listen), node.WithLogger(slog.Default()))
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx) // whichever fails ends the other
	g.Go(func() error { return n.Run(ctx) })
	g.Go(func() error { return publish(ctx, n, *every) })
	return g.Wait()
}

// publish puts a new note at every interval.
func publish(ctx context.Context, n *node.Node, every time.Duration) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for i := 1; ; i++ {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		note := map[string]string{"text": fmt.Sprintf("this is note %d", i)}
		if _, err := n.Put(ctx, rid.RID(fmt.Sprintf("orn:example.note:%d", i)), note); err != nil && ctx.Err() == nil {
			return err
		}
	}
}
