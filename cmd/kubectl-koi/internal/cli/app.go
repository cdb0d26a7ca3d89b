package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/client-go/kubernetes"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/koi-net/koi-operator/api/v1alpha1"
	"github.com/koi-net/koi-operator/cmd/kubectl-koi/internal/reach"
	adminclient "github.com/koi-net/koi-operator/node/admin/client"
)

// App is what the commands share.
type App struct {
	Version string
	In      io.Reader
	Out     io.Writer
	Err     io.Writer

	flags  *genericclioptions.ConfigFlags
	all    bool
	output string

	// What tests put in the place of a cluster.
	Clients func() (*Clients, error)
}

// Clients are the ways to a cluster.
type Clients struct {
	Namespace string
	Objects   client.Client
	Core      kubernetes.Interface
	// Node opens the way to a node's admin API; done ends it.
	Node func(ctx context.Context, n *v1alpha1.KoiNode) (api Admin, pod string, done func() error, err error)
}

// Admin is what the commands ask nodes.
type Admin interface {
	knowledge
	Status(ctx context.Context) (adminclient.Status, error)
}

// Root makes the command.
func (a *App) Root() *cobra.Command {
	a.flags = genericclioptions.NewConfigFlags(true).WithWarningPrinter(genericclioptions.IOStreams{In: a.In, Out: a.Out, ErrOut: a.Err})
	if a.Clients == nil {
		a.Clients = a.connect
	}
	root := &cobra.Command{
		Use:           "koi",
		Short:         "KOI-nets on Kubernetes: who is connected to whom, what waits, what a node knows",
		SilenceUsage:  true,
		SilenceErrors: true,
		// kubectl calls it as `kubectl koi`, and that is how people know it.
		Annotations: map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl koi"},
		Version:     a.Version,
	}
	root.SetIn(a.In)
	root.SetOut(a.Out)
	root.SetErr(a.Err)
	a.flags.AddFlags(root.PersistentFlags())
	root.AddCommand(a.graph(), a.edges(), a.decide("approve", v1alpha1.Approved), a.decide("reject", v1alpha1.Rejected), a.status(),
		a.rids(), a.get(), a.put(), a.forget(), a.watch(), a.report(), a.version())
	return root
}

func (a *App) version() *cobra.Command {
	return &cobra.Command{Use: "version", Short: "Show the version", Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error {
		_, err := fmt.Fprintln(a.Out, a.Version)
		return err
	}}
}

// connect reads the flags and the kubeconfig.
func (a *App) connect() (*Clients, error) {
	config, err := a.flags.ToRESTConfig()
	if err != nil {
		return nil, err
	}
	config.QPS, config.Burst = 50, 100
	config.UserAgent = "kubectl-koi/" + a.Version
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		return nil, err
	}
	mapper, err := a.flags.ToRESTMapper()
	if err != nil {
		return nil, err
	}
	objects, err := client.New(config, client.Options{Scheme: scheme, Mapper: mapper})
	if err != nil {
		return nil, err
	}
	core, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	namespace, _, err := a.flags.ToRawKubeConfigLoader().Namespace()
	if err != nil {
		return nil, err
	}
	return &Clients{Namespace: namespace, Objects: objects, Core: core, Node: through(config, core)}, nil
}

func through(config *rest.Config, core kubernetes.Interface) func(context.Context, *v1alpha1.KoiNode) (Admin, string, func() error, error) {
	r := &reach.Reacher{Config: config, Client: core, Timeout: 30 * time.Second}
	return func(ctx context.Context, n *v1alpha1.KoiNode) (Admin, string, func() error, error) {
		way, err := r.Node(ctx, n)
		if err != nil {
			return nil, "", nil, err
		}
		return way.Client, way.Pod, way.Close, nil
	}
}

// scope is the namespace to look into: "" for all of them.
func (a *App) scope(c *Clients) client.ListOption {
	if a.all {
		return client.InNamespace("")
	}
	return client.InNamespace(c.Namespace)
}

func (a *App) scoped(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().BoolVarP(&a.all, "all-namespaces", "A", false, "look into all namespaces")
	return cmd
}

// formatted gives a command -o; more are formats of its own.
func (a *App) formatted(cmd *cobra.Command, more ...string) *cobra.Command {
	formats := append([]string{"json", "yaml"}, more...)
	cmd.Flags().StringVarP(&a.output, "output", "o", "", "how to print it: "+strings.Join(formats, ", ")+"; the default is for people")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp))
	inner := cmd.PreRunE
	cmd.PreRunE = func(cmd *cobra.Command, args []string) error {
		for _, f := range append(formats, "") {
			if a.output == f {
				if inner != nil {
					return inner(cmd, args)
				}
				return nil
			}
		}
		return fmt.Errorf("--output %s: use one of %s", a.output, strings.Join(formats, ", "))
	}
	return cmd
}

// structured prints v as -o asks; false where a person is to read it.
func (a *App) structured(v any) (bool, error) {
	switch a.output {
	case "json":
		e := json.NewEncoder(a.Out)
		e.SetIndent("", "  ")
		return true, e.Encode(v)
	case "yaml":
		text, err := yaml.Marshal(v)
		if err == nil {
			_, err = a.Out.Write(text)
		}
		return true, err
	}
	return false, nil
}

// table prints rows under a head; empty cells as a dash.
func (a *App) table(head []string, rows [][]string) error {
	w := tabwriter.NewWriter(a.Out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, strings.Join(head, "\t"))
	for _, row := range rows {
		for i := range row {
			if row[i] == "" {
				row[i] = "-"
			}
			row[i] = oneLine(row[i])
		}
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	return w.Flush()
}

// oneLine keeps what others wrote from moving the cursor or breaking a table.
func oneLine(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, text)
}

// node reads a KoiNode.
func (c *Clients) node(ctx context.Context, name string) (*v1alpha1.KoiNode, error) {
	var n v1alpha1.KoiNode
	err := c.Objects.Get(ctx, client.ObjectKey{Namespace: c.Namespace, Name: name}, &n)
	if apierrors.IsNotFound(err) {
		var all v1alpha1.KoiNodeList
		names := []string{}
		if c.Objects.List(ctx, &all, client.InNamespace(c.Namespace)) == nil {
			for i := range all.Items {
				names = append(names, all.Items[i].Name)
			}
		}
		if len(names) == 0 {
			return nil, fmt.Errorf("there is no KoiNode %s in namespace %s, and no other; -n names another namespace", name, c.Namespace)
		}
		return nil, fmt.Errorf("there is no KoiNode %s in namespace %s; there are %s", name, c.Namespace, strings.Join(names, ", "))
	}
	return &n, explain(err)
}

// explain makes an error of the API server say what to do.
func explain(err error) error {
	switch {
	case err == nil:
		return nil
	case meta.IsNoMatchError(err):
		return fmt.Errorf("this cluster has no KoiNodes: koi-operator is not installed (%w)", err)
	case apierrors.IsForbidden(err):
		return fmt.Errorf("you may not do that; the ClusterRoles koi-viewer, koi-editor and koi-edge-approver are there to be bound (%w)", err)
	}
	return err
}
