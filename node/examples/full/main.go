// Command full runs a full node that publishes a note every few seconds.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/koi-net/koi-operator/node"
	"github.com/koi-net/koi-operator/node/pipeline"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

const noteType rid.Type = "orn:example.note"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "full:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	cfg := node.DefaultConfig()
	cfg.Name = "notes"
	cfg.Provides = protocol.Provides{Event: []rid.Type{noteType}, State: []rid.Type{noteType}}
	cfg.AdminListen = ""
	flag.StringVar(&cfg.DataDir, "data-dir", "full-data", "directory of the identity and the store")
	flag.StringVar(&cfg.Listen, "listen", "127.0.0.1:8001", "host:port of the protocol")
	flag.StringVar(&cfg.FirstContact, "first-contact", "http://127.0.0.1:8000/koi-net", "base URL of the coordinator")
	every := flag.Duration("every", 5*time.Second, "how often to publish a note")
	flag.Parse()

	n, err := node.New(node.WithConfig(cfg))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	published := make(chan error, 1)
	go func() {
		defer cancel() // without notes there is no point in going on
		published <- publish(ctx, n, *every)
	}()
	err = n.Run(ctx)
	cancel()
	return errors.Join(err, <-published)
}

// publish hands the node a new note at every interval.
func publish(ctx context.Context, n *node.Node, every time.Duration) error {
	for i := 1; ; i++ {
		select {
		case <-time.After(every):
		case <-ctx.Done():
			return nil
		}
		contents, err := json.Marshal(map[string]string{"text": fmt.Sprintf("this is note %d", i)})
		if err != nil {
			return err
		}
		_, err = n.Handle(ctx, pipeline.Object{RID: rid.RID(fmt.Sprintf("%s:%d", noteType, i)), Contents: contents})
		if err != nil && ctx.Err() == nil {
			return err
		}
	}
}
