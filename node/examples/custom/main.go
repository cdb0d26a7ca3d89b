// Command custom runs a full node that makes knowledge of knowledge: a handler
// counts the words of every note it hears of, and the node publishes the count.
// A count commits together with its note, and goes with it.
//
//	go run ./node/examples/custom
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/koi-net/koi-operator/node"
	"github.com/koi-net/koi-operator/node/pipeline"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

const (
	noteType  rid.Type = "orn:example.note"
	countType rid.Type = "orn:example.word-count"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "custom:", err)
		os.Exit(1)
	}
}

func run() error {
	dir := flag.String("data-dir", "custom-data", "directory of the identity and the store")
	listen := flag.String("listen", "127.0.0.1:8002", "host:port of the protocol")
	first := flag.String("first-contact", "http://127.0.0.1:8000/koi-net", "base URL of the coordinator")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	n, err := node.New(node.WithName("custom"), node.WithInterests(noteType), node.WithProvides(countType),
		node.WithHandlers(pipeline.Handler{
			Name: "count-words", Phase: pipeline.PhaseBundle, RIDTypes: []rid.Type{noteType}, Func: countWords,
		}),
		node.WithFirstContact(*first), node.WithDataDir(*dir), node.WithListen(*listen), node.WithLogger(slog.Default()))
	if err != nil {
		return err
	}
	return n.Run(ctx)
}

// countWords adds the count to what the note causes.
func countWords(_ context.Context, c *pipeline.Context, o *pipeline.Object) error {
	r, err := rid.New(countType, o.RID.Reference())
	if err != nil {
		return nil // the note's RID was as long as RIDs may be: it has no count
	}
	if o.Normalized == protocol.Forget {
		c.Forget(r)
		return nil
	}
	var note struct{ Text string }
	if err := json.Unmarshal(o.Contents, &note); err != nil {
		return pipeline.Stop("UnreadableNote")
	}
	return c.Put(r, map[string]int{"words": len(strings.Fields(note.Text))})
}
