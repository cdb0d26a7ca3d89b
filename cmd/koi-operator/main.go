package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/koi-net/koi-operator/api/v1alpha1"
	"github.com/koi-net/koi-operator/controllers"
)

// version is set by -ldflags "-X main.version=...".
var version = "dev"

type flags struct {
	nodeImage     string
	resync        time.Duration
	namespaces    string
	leaderElect   bool
	metrics       string
	probes        string
	pprof         string
	logLevel      string
	logFormat     string
	ownNamespace  string
	workers       int
	qps           float64
	showVersion   bool
	gracefulStops time.Duration
}

func main() {
	if err := run(ctrl.SetupSignalHandler(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "koi-operator:", err)
		os.Exit(1)
	}
}

func parse(args []string) (flags, error) {
	var f flags
	fs := flag.NewFlagSet("koi-operator", flag.ContinueOnError)
	fs.StringVar(&f.nodeImage, "node-image", os.Getenv("KOI_NODE_IMAGE"), "image of nodes that name none (KOI_NODE_IMAGE)")
	fs.DurationVar(&f.resync, "resync-interval", time.Minute, "how long a change that no watch told of may go unnoticed")
	fs.StringVar(&f.namespaces, "watch-namespaces", "", "comma-separated namespaces to watch; empty: all")
	fs.BoolVar(&f.leaderElect, "leader-elect", false, "let one of several replicas lead")
	fs.StringVar(&f.metrics, "metrics-bind-address", "0", "host:port of /metrics; 0: off")
	fs.StringVar(&f.probes, "health-probe-bind-address", ":8081", "host:port of /healthz and /readyz; 0: off")
	fs.StringVar(&f.pprof, "pprof-bind-address", "", "host:port of /debug/pprof; empty: off")
	fs.StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error")
	fs.StringVar(&f.logFormat, "log-format", "json", "json or text")
	fs.StringVar(&f.ownNamespace, "namespace", os.Getenv("POD_NAMESPACE"), "namespace the operator runs in (POD_NAMESPACE)")
	fs.IntVar(&f.workers, "workers", 8, "objects of each kind reconciled side by side")
	fs.Float64Var(&f.qps, "kube-api-qps", 0, "requests a second to the API server at most; 0: as many as its own priority and fairness admits")
	fs.DurationVar(&f.gracefulStops, "shutdown-timeout", 15*time.Second, "how long work in hand may take when stopping")
	fs.BoolVar(&f.showVersion, "version", false, "print the version and exit")
	err := fs.Parse(args)
	return f, err
}

func run(ctx context.Context, args []string) error {
	f, err := parse(args)
	if err != nil {
		return err
	}
	if f.showVersion {
		fmt.Println(version)
		return nil
	}
	logger, err := newLogger(f)
	if err != nil {
		return err
	}
	logger = controllers.Quiet(logger)
	log.SetLogger(logger)

	scheme := runtime.NewScheme()
	if err := clientgoscheme.AddToScheme(scheme); err != nil {
		return err
	}
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return err
	}
	config, err := ctrl.GetConfig()
	if err != nil {
		return fmt.Errorf("find the cluster: %w", err)
	}
	limit(config, f.qps)
	mgr, err := ctrl.NewManager(config, ctrl.Options{
		Scheme:                        scheme,
		Logger:                        logger,
		Cache:                         controllers.CacheOptions(split(f.namespaces)),
		Metrics:                       server.Options{BindAddress: f.metrics},
		HealthProbeBindAddress:        f.probes,
		PprofBindAddress:              f.pprof,
		LeaderElection:                f.leaderElect,
		LeaderElectionID:              "koi-operator.koi-net.io",
		LeaderElectionNamespace:       f.ownNamespace,
		LeaderElectionReleaseOnCancel: true, // nothing runs on after the manager ends
		GracefulShutdownTimeout:       &f.gracefulStops,
	})
	if err != nil {
		return fmt.Errorf("set up the manager: %w", err)
	}
	if err := controllers.Setup(ctx, mgr, controllers.Options{
		NodeImage: f.nodeImage,
		Interval:  f.resync,
		Namespace: f.ownNamespace,
		Workers:   f.workers,
	}); err != nil {
		return err
	}
	if err := mgr.AddHealthzCheck("ping", healthz.Ping); err != nil {
		return err
	}
	if err := mgr.AddReadyzCheck("ping", healthz.Ping); err != nil {
		return err
	}
	logger.Info("starting", "version", version, "nodeImage", f.nodeImage)
	return mgr.Start(ctx)
}

// limit bounds the requests a client makes. client-go's default, 20 a second,
// would take ten minutes to bring up three hundred nodes.
func limit(config *rest.Config, qps float64) {
	if qps <= 0 {
		config.QPS = -1
		return
	}
	config.QPS, config.Burst = float32(qps), int(2*qps)+1
}

func newLogger(f flags) (logr.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(f.logLevel)); err != nil {
		return logr.Logger{}, fmt.Errorf("--log-level: %w", err)
	}
	options := &slog.HandlerOptions{Level: level}
	switch f.logFormat {
	case "json":
		return logr.FromSlogHandler(slog.NewJSONHandler(os.Stderr, options)), nil
	case "text":
		return logr.FromSlogHandler(slog.NewTextHandler(os.Stderr, options)), nil
	}
	return logr.Logger{}, fmt.Errorf("--log-format %q: give json or text", f.logFormat)
}

func split(s string) []string {
	return strings.FieldsFunc(s, func(c rune) bool { return c == ',' || c == ' ' })
}
