package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	_ "time/tzdata" // CronJobs name time zones, and the machine may have none

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"          // --logging-format=json
	_ "k8s.io/component-base/metrics/prometheus/clientgo" // client metrics
	_ "k8s.io/component-base/metrics/prometheus/version"  // version metric
	kubectl "k8s.io/kubectl/pkg/cmd"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	kcm "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"

	"github.com/koi-net/koi-operator/hack/cluster/kone/localpath"
	"github.com/koi-net/koi-operator/hack/cluster/kone/netpol"
)

// components are the programs with a command of cobra's.
var components = map[string]func() *cobra.Command{
	"kube-apiserver":          apiserver.NewAPIServerCommand,
	"kube-controller-manager": kcm.NewControllerManagerCommand,
	"kube-scheduler":          func() *cobra.Command { return scheduler.NewSchedulerCommand() },
	"kubelet":                 func() *cobra.Command { return kubelet.NewKubeletCommand(context.Background()) },
	"kube-proxy":              proxy.NewProxyCommand,
}

// agents are the cluster's own.
var agents = map[string]func(context.Context, []string) error{
	"local-path": localpath.Run,
	"netpol":     netpol.Run,
}

func main() { os.Exit(run()) }

func run() int {
	name := filepath.Base(os.Args[0])
	if name == "kone" {
		if len(os.Args) < 2 {
			fmt.Fprintln(os.Stderr, "usage: kone PROGRAM [flags]")
			return 2
		}
		os.Args = os.Args[1:]
		name = os.Args[0]
	}
	if component, ok := components[name]; ok {
		return cli.Run(component())
	}
	if agent, ok := agents[name]; ok {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		return report(agent(ctx, os.Args[1:]))
	}
	switch name {
	case "etcd":
		etcdmain.Main(os.Args)
		return 0
	case "coredns":
		runCoreDNS()
		return 0
	case "kubectl":
		return report(cli.RunNoErrOutput(kubectl.NewDefaultKubectlCommand()))
	}
	fmt.Fprintln(os.Stderr, "kone: there is no program called", name)
	return 2
}

// report prints an error and returns the exit code.
func report(err error) int {
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		return 1
	}
	return 0
}
