// Command notes is a sensor: it publishes the Markdown notes of a directory and
// keeps what it published like the directory, as notes come, change and go.
//
//	go run ./node/examples/coordinator
//	go run ./node/examples/notes -dir ~/notes
//	go run ./node/examples/partial -types orn:example.markdown-note,orn:example.note-link
//
// A note is a file whose name ends in .md or .markdown, in the directory or in
// one below it. What begins with a dot, a '~' or a '#' (editors' files, .git) is
// none; nor is what a symbolic link finds outside the directory. Its RID is
//
//	orn:example.markdown-note:<vault>/<path>
//
// where vault names the directory (-vault) and the path is percent-encoded. Its
// contents are {"title", "text", "tags", "modified"}: title, tags and "draft:
// true", which keeps a note from being published, come from YAML front matter; a
// title may also be the first heading, or the file's name.
//
// The sensor looks at the directory when something in it changes (fsnotify), and
// every -rescan, should a change go unnoticed. What it finds it compares with the
// node's cache, so it makes up for what happened while it did not run. A file is
// published once it has looked the same for -settle, not half-written.
//
// A handler indexes the links between notes: for each it publishes
//
//	orn:example.note-link:<hash of both RIDs>   {"from": RID, "to": RID}
//
// in the transaction that changes the note. A Dereferencer resolves RIDs of notes
// from the files; the sensor itself publishes by it.
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
	"github.com/koi-net/koi-operator/node/pipeline"
	"github.com/koi-net/koi-operator/node/rid"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "notes:", err)
		os.Exit(1)
	}
}

func run() error {
	notes := flag.String("dir", ".", "directory of the notes")
	name := flag.String("vault", "", "what the notes' RIDs call the directory (default its own name)")
	settle := flag.Duration("settle", 300*time.Millisecond, "how long a file has to look the same before it is published")
	rescan := flag.Duration("rescan", time.Minute, "how often to look at the directory without being told of a change")
	maxBytes := flag.Int64("max-bytes", 1<<20, "largest note published, in bytes")
	maxEntries := flag.Int("max-entries", 20_000, "most notes and directories to look after")
	dir := flag.String("data-dir", "notes-data", "directory of the identity and the store")
	listen := flag.String("listen", "127.0.0.1:8003", "host:port of the protocol")
	first := flag.String("first-contact", "http://127.0.0.1:8000/koi-net", "base URL of the coordinator")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	v, err := openVault(*notes, *name, *maxBytes, *maxEntries)
	if err != nil {
		return err
	}
	defer v.close()
	n, err := node.New(node.WithName("notes"), node.WithProvides(noteType, linkType), node.WithFirstContact(*first),
		node.WithDeref(v.deref, noteType),
		node.WithHandlers(pipeline.Handler{
			Name: "index-links", Phase: pipeline.PhaseBundle, RIDTypes: []rid.Type{noteType}, Origin: pipeline.InternalOnly, Func: v.indexLinks,
		}),
		node.WithDataDir(*dir), node.WithListen(*listen), node.WithLogger(slog.Default()))
	if err != nil {
		return err
	}
	s := &sensor{vault: v, publish: publishTo(n), settle: *settle, rescan: *rescan, log: slog.Default()}
	g, ctx := errgroup.WithContext(ctx) // whichever fails ends the other
	g.Go(func() error { return n.Run(ctx) })
	g.Go(func() error { return s.run(ctx, n) })
	return g.Wait()
}
