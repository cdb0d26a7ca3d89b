// Command custom runs a full node with a handler of its own: it counts the
// words of every note it hears of and publishes the count. A count commits
// together with its note, and goes with it.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
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
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "custom:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	cfg := node.DefaultConfig()
	cfg.Name = "word-counter"
	cfg.Interests = []rid.Type{rid.NodeType, noteType}
	cfg.Provides = protocol.Provides{Event: []rid.Type{countType}, State: []rid.Type{countType}}
	cfg.AdminListen = ""
	flag.StringVar(&cfg.DataDir, "data-dir", "custom-data", "directory of the identity and the store")
	flag.StringVar(&cfg.Listen, "listen", "127.0.0.1:8002", "host:port of the protocol")
	flag.StringVar(&cfg.FirstContact, "first-contact", "http://127.0.0.1:8000/koi-net", "base URL of the coordinator")
	flag.Parse()
	cfg.Handlers = []pipeline.Handler{{
		Name: "count-words", Phase: pipeline.PhaseBundle, RIDTypes: []rid.Type{noteType}, Func: countWords,
	}}

	n, err := node.New(node.WithConfig(cfg))
	if err != nil {
		return err
	}
	return n.Run(ctx)
}

// countWords adds the count to what the note causes.
func countWords(_ context.Context, c *pipeline.Context, o *pipeline.Object) error {
	count := pipeline.Object{RID: rid.RID(fmt.Sprintf("%s:%s", countType, o.RID.Reference())), EventType: o.Normalized}
	if o.Normalized != protocol.Forget {
		var note struct{ Text string }
		if err := json.Unmarshal(o.Contents, &note); err != nil {
			return pipeline.Stop("UnreadableNote")
		}
		contents, err := json.Marshal(map[string]int{"words": len(strings.Fields(note.Text))})
		if err != nil {
			return err
		}
		count.Contents = contents
	}
	c.Handle(count)
	return nil
}
