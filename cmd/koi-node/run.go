package main

import (
	"context"
	"fmt"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"

	"github.com/koi-net/koi-operator/node"
	"github.com/koi-net/koi-operator/node/rid"
)

// daemon is what run needs of a node.
type daemon interface {
	// Run serves until ctx ends, drains, and returns nil; or why it cannot.
	Run(ctx context.Context) error
	RID() rid.RID
}

// nodeMaker opens store and identity and makes a node of them.
type nodeMaker func(node.Config) (daemon, error)

func (a *app) runCommand() *cobra.Command {
	s := newSettings()
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run a node until it is told to stop",
		Long: `Run a node until SIGINT or SIGTERM.

Each flag can also be given as a variable (--base-url as KOI_BASE_URL) or as a
key of the YAML file named by --config (base-url: ...). A flag wins over a
variable, a variable over the file. Lists may be repeated or comma-separated.

Exit codes: 10 StoreDamaged, 11 StoreLocked, 12 IdentityMismatch, 13 BadConfig,
1 any other failure; the files found are left as they are.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if err := cobra.NoArgs(cmd, args); err != nil {
				return endRun(fmt.Errorf("%w: %w", node.ErrBadConfig, err), s.terminationLog)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := s.load(cmd.Flags(), a.env); err != nil {
				return endRun(err, s.terminationLog)
			}
			return endRun(a.serve(cmd.Context(), s), s.terminationLog)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	s.register(cmd.Flags())
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		return endRun(fmt.Errorf("%w: %w", node.ErrBadConfig, err), s.terminationLog)
	})
	return cmd
}

func (a *app) serve(ctx context.Context, s *settings) error {
	cfg := s.config
	cfg.Version = a.version
	cfg.Logger = s.logger(a.stderr)
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	cfg.Metrics = metrics
	n, err := a.newNode(cfg)
	if err != nil {
		return err
	}
	cfg.Logger.Debug("node made", "rid", n.RID(), "version", a.version)
	return runBounded(ctx, n, cfg.ShutdownTimeout+stopGrace)
}

// stopGrace is what a node has, beyond its drain, to close its files.
const stopGrace = 5 * time.Second

// runBounded runs a node, and waits for its end no longer than bound once it was
// told to stop: what hangs then, a disk or a handler, must not hold the process.
func runBounded(ctx context.Context, n daemon, bound time.Duration) error {
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-done:
		return err
	case <-time.After(bound):
		return fmt.Errorf("the node did not stop within %s and was left as it was; what it accepted is on disk and goes on at the next start", bound)
	}
}

func (a *app) versionCommand() *cobra.Command {
	out := text
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p := printer{cmd.OutOrStdout(), out}
			return p.print(struct {
				Version  string `json:"version"`
				Go       string `json:"go"`
				Platform string `json:"platform"`
			}{a.version, runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}, func() error {
				return p.linef("koi-node %s (%s, %s/%s)", a.version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			})
		},
	}
	registerOutput(cmd.Flags(), &out)
	return cmd
}
