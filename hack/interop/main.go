package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/koi-net/koi-operator/hack/interop/reference"
)

const usage = `usage: go run ./hack/interop install

  install   install every release of the Python reference that the tests run,
            and print the directory of each environment

Environments are cached in $KOI_CACHE (default ~/.cache/koi-operator). KOI_PYTHON
names the Python to use (3.12 or 3.13; "debian" takes one from Debian's packages).
`

// errUsage asks for the usage text.
var errUsage = errors.New("usage")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	switch {
	case errors.Is(err, errUsage):
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "interop:", err)
		os.Exit(1)
	}
}

// run carries out one command. Results go to stdout, progress to stderr.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	if len(args) != 1 || args[0] != "install" {
		return errUsage
	}
	environments, err := reference.Install(ctx, stderr, reference.Releases()...)
	if err != nil {
		return err
	}
	for _, e := range environments {
		fmt.Fprintf(stdout, "koi-net %-8s %s\n", e.Release.Version, e.Dir)
	}
	return nil
}
