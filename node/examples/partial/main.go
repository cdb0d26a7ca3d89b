// Command partial runs a partial node, which nobody can call: it polls for
// knowledge of the types it wants and prints what it hears.
//
//	go run ./node/examples/partial
//	go run ./node/examples/partial -types orn:example.markdown-note,orn:example.note-link
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/koi-net/koi-operator/node"
	"github.com/koi-net/koi-operator/node/pipeline"
	"github.com/koi-net/koi-operator/node/rid"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "partial:", err)
		os.Exit(1)
	}
}

func run() error {
	dir := flag.String("data-dir", "partial-data", "directory of the identity and the store")
	first := flag.String("first-contact", "http://127.0.0.1:8000/koi-net", "base URL of the coordinator")
	poll := flag.Duration("poll-interval", time.Second, "how often to poll")
	types := []rid.Type{"orn:example.note", "orn:example.word-count"}
	flag.Func("types", "RID types to listen to, comma-separated (default notes and word counts)", func(list string) error {
		types = nil
		for name := range strings.SplitSeq(list, ",") {
			types = append(types, rid.Type(name))
		}
		return nil
	})
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	n, err := node.New(node.WithName("partial"), node.AsPartial(), node.WithInterests(types...), node.WithFirstContact(*first),
		node.WithHandlers(pipeline.Handler{
			Name: "print", Phase: pipeline.PhaseFinal, RIDTypes: types, Origin: pipeline.ExternalOnly, Func: show,
		}),
		node.WithDataDir(*dir), node.WithLogger(slog.Default()), func(c *node.Config) { c.PollInterval = *poll })
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
