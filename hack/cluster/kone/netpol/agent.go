package netpol

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	networkinglisters "k8s.io/client-go/listers/networking/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
)

// agent keeps the firewall as the API server's objects want it.
type agent struct {
	pods       corelisters.PodLister
	namespaces corelisters.NamespaceLister
	policies   networkinglisters.NetworkPolicyLister
	applied    *ruleset
}

// Run enforces policies until the context ends. Its argument is a kubeconfig.
func Run(ctx context.Context, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("usage: netpol KUBECONFIG")
	}
	config, err := clientcmd.BuildConfigFromFlags("", args[0])
	if err != nil {
		return fmt.Errorf("read the kubeconfig: %w", err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("make a client: %w", err)
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	defer factory.Shutdown()
	core, networking := factory.Core().V1(), factory.Networking().V1()
	a := &agent{pods: core.Pods().Lister(), namespaces: core.Namespaces().Lister(), policies: networking.NetworkPolicies().Lister()}
	// One pending change stands for any number of them.
	changed := make(chan struct{}, 1)
	note := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	handler := cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { note() }, UpdateFunc: func(any, any) { note() }, DeleteFunc: func(any) { note() },
	}
	for _, informer := range []cache.SharedIndexInformer{
		core.Pods().Informer(), core.Namespaces().Informer(), networking.NetworkPolicies().Informer(),
	} {
		if _, err := informer.AddEventHandler(handler); err != nil {
			return fmt.Errorf("watch: %w", err)
		}
	}
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	var retry <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-retry:
		}
		retry = nil
		if err := a.sync(ctx); err != nil {
			klog.ErrorS(err, "Cannot enforce the policies, trying again")
			retry = time.After(time.Second)
		}
	}
}

// sync brings the firewall up to date.
func (a *agent) sync(ctx context.Context) error {
	w, err := a.world()
	if err != nil {
		return err
	}
	want := w.rules()
	if a.applied != nil && a.applied.rules == want.rules && slices.Equal(a.applied.chains, want.chains) {
		return nil
	}
	var before ruleset
	if a.applied != nil {
		before = *a.applied
	}
	if err := iptables(ctx, "iptables-restore", want.script(before), "-w", "5", "--noflush"); err != nil {
		return err
	}
	for _, hook := range []string{"FORWARD", "INPUT"} {
		// Others put rules in front, kube-proxy for one: being there is enough.
		if iptables(ctx, "iptables", "", "-w", "5", "-C", hook, "-j", root) == nil {
			continue
		}
		if err := iptables(ctx, "iptables", "", "-w", "5", "-I", hook, "1", "-j", root); err != nil {
			return err
		}
	}
	a.applied = &want
	klog.InfoS("Enforced the policies", "chains", len(want.chains))
	return nil
}

// world gathers what the informers hold.
func (a *agent) world() (world, error) {
	pods, err := a.pods.List(labels.Everything())
	if err != nil {
		return world{}, fmt.Errorf("list pods: %w", err)
	}
	policies, err := a.policies.List(labels.Everything())
	if err != nil {
		return world{}, fmt.Errorf("list policies: %w", err)
	}
	namespaces, err := a.namespaces.List(labels.Everything())
	if err != nil {
		return world{}, fmt.Errorf("list namespaces: %w", err)
	}
	w := world{pods: pods, policies: policies, namespaces: make(map[string]labels.Set, len(namespaces))}
	for _, n := range namespaces {
		w.namespaces[n.Name] = n.Labels
	}
	return w, nil
}

// iptables runs one of its tools.
func iptables(ctx context.Context, tool, input string, args ...string) error {
	cmd := exec.CommandContext(ctx, tool, args...)
	cmd.Stdin = strings.NewReader(input)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", tool, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
