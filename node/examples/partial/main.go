// Command partial runs a partial node, which nobody can call: it polls for
// notes and their word counts, and prints what it hears.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/koi-net/koi-operator/node"
	"github.com/koi-net/koi-operator/node/pipeline"
	"github.com/koi-net/koi-operator/node/rid"
)

var wanted = []rid.Type{"orn:example.note", "orn:example.word-count"}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "partial:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	cfg := node.DefaultConfig()
	cfg.Name = "desk"
	cfg.Partial = true
	cfg.Interests = append([]rid.Type{rid.NodeType}, wanted...)
	cfg.AdminListen = ""
	flag.StringVar(&cfg.DataDir, "data-dir", "partial-data", "directory of the identity and the store")
	flag.StringVar(&cfg.FirstContact, "first-contact", "http://127.0.0.1:8000/koi-net", "base URL of the coordinator")
	flag.DurationVar(&cfg.PollInterval, "poll-interval", time.Second, "how often to poll")
	flag.Parse()
	cfg.Handlers = []pipeline.Handler{{
		Name: "print", Phase: pipeline.PhaseFinal, RIDTypes: wanted, Origin: pipeline.ExternalOnly, Func: show,
	}}

	n, err := node.New(node.WithConfig(cfg))
	if err != nil {
		return err
	}
	return n.Run(ctx)
}

// show prints an event once it is in the cache.
func show(_ context.Context, _ *pipeline.Context, o *pipeline.Object) error {
	_, err := fmt.Println(o.Normalized, o.RID, string(o.Contents))
	return err
}
