package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"text/tabwriter"

	"github.com/koi-net/koi-operator/hack/cluster/assets"
	"github.com/koi-net/koi-operator/hack/image/product"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	version := flag.String("version", "", "tag of the images; default: dev- and a hash of the content")
	registry := flag.String("registry", product.Registry, "prefix of the images' names")
	archs := flag.String("arch", "", "architectures, comma-separated; default: this machine's")
	flag.Parse()
	root, err := assets.Root()
	if err != nil {
		return err
	}
	options := product.Options{Root: root, Version: *version, Registry: *registry, Names: flag.Args(), Progress: os.Stderr}
	if *archs != "" {
		options.Archs = strings.Split(*archs, ",")
	}
	built, err := product.Build(ctx, options)
	if err != nil {
		return err
	}
	const mib = 1 << 20
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "IMAGE\tARCH\tDIGEST\tPROGRAM\tIMAGE COMPRESSED\tUNPACKED\tARCHIVE")
	for _, b := range built {
		fmt.Fprintf(w, "%s\t%s\t%s\t%.1f MiB\t%.1f MiB\t%.1f MiB\t%s\n", b.Reference, b.Arch, b.Digest,
			float64(b.Program)/mib, float64(b.Compressed)/mib, float64(b.Unpacked)/mib, b.File)
	}
	return w.Flush()
}
