package cli

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"github.com/spf13/cobra"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/koi-net/koi-operator/api/v1alpha1"
)

// Bounds of a report.
const (
	logBytes     = 2 << 20 // of each container
	operatorName = "koi-operator"
)

func (a *App) report() *cobra.Command {
	var file string
	var force bool
	cmd := &cobra.Command{
		Use:   "report",
		Short: "Gather what a maintainer asks for into a file, secrets left out",
		Long: `Write a tar.gz with the KoiNodes and KoiEdges, what the nodes are made of, their
Events, the last lines of their logs and of the operator's, and what each node says of
itself. No Secret is read into it; values of environment variables and annotations that
repeat whole objects are taken out. What could not be had is listed in errors.txt.

Look through it before you pass it on: contents of bundles are not in it, but names and
addresses are.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			c, err := a.Clients()
			if err != nil {
				return err
			}
			flags := os.O_WRONLY | os.O_CREATE | os.O_EXCL
			if force {
				flags = os.O_WRONLY | os.O_CREATE | os.O_TRUNC
			}
			if file == "" {
				file = "koi-report-" + time.Now().UTC().Format("20060102T150405Z") + ".tar.gz"
			}
			f, err := os.OpenFile(file, flags, 0o600)
			if err != nil {
				return err
			}
			if err := errors.Join(a.write(cmd.Context(), c, f), f.Close()); err != nil {
				return errors.Join(err, os.Remove(file))
			}
			_, err = fmt.Fprintln(a.Out, file)
			return err
		},
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "where to write it (default: koi-report-TIME.tar.gz here)")
	cmd.Flags().BoolVar(&force, "force", false, "replace the file")
	return a.scoped(cmd)
}

// bundle is a report that is being written.
type bundle struct {
	tar    *tar.Writer
	now    time.Time
	failed []string
}

func (b *bundle) add(name string, data []byte) error {
	err := b.tar.WriteHeader(&tar.Header{Name: path.Join("koi-report", name), Mode: 0o600, Size: int64(len(data)), ModTime: b.now})
	if err == nil {
		_, err = b.tar.Write(data)
	}
	return err
}

// miss notes what could not be had; a report is made of what can be.
func (b *bundle) miss(what string, err error) {
	b.failed = append(b.failed, what+": "+oneLine(err.Error()))
}

func (a *App) write(ctx context.Context, c *Clients, w io.Writer) error {
	zipped := gzip.NewWriter(w)
	b := &bundle{tar: tar.NewWriter(zipped), now: time.Now()}
	if err := a.gather(ctx, c, b); err != nil {
		return err
	}
	if len(b.failed) > 0 {
		if err := b.add("errors.txt", []byte(strings.Join(b.failed, "\n")+"\n")); err != nil {
			return err
		}
	}
	return errors.Join(b.tar.Close(), zipped.Close())
}

func (a *App) gather(ctx context.Context, c *Clients, b *bundle) error {
	var nodes v1alpha1.KoiNodeList
	owned := client.MatchingLabels{"app.kubernetes.io/managed-by": operatorName}
	pods := &corev1.PodList{}
	for _, part := range []struct {
		file    string
		list    client.ObjectList
		options []client.ListOption
	}{
		{"koinodes.yaml", &nodes, nil},
		{"koiedges.yaml", &v1alpha1.KoiEdgeList{}, nil},
		{"deployments.yaml", &appsv1.DeploymentList{}, []client.ListOption{owned}},
		{"pods.yaml", pods, []client.ListOption{client.MatchingLabels{"app.kubernetes.io/name": "koi-node"}}},
		{"configmaps.yaml", &corev1.ConfigMapList{}, []client.ListOption{owned}},
		{"services.yaml", &corev1.ServiceList{}, []client.ListOption{owned}},
		{"claims.yaml", &corev1.PersistentVolumeClaimList{}, []client.ListOption{owned}},
		{"events.yaml", &corev1.EventList{}, nil},
	} {
		if err := c.Objects.List(ctx, part.list, append(part.options, a.scope(c))...); err != nil {
			b.miss(part.file, err)
			continue
		}
		text, err := clean(part.list)
		if err != nil {
			return fmt.Errorf("%s: %w", part.file, err)
		}
		if err := b.add(part.file, text); err != nil {
			return err
		}
	}
	if err := c.logs(ctx, b, pods.Items); err != nil {
		return err
	}
	var operators corev1.PodList
	if err := c.Objects.List(ctx, &operators, client.MatchingLabels{"app.kubernetes.io/name": operatorName}); err != nil {
		b.miss("the operator's logs", err)
	} else if err := c.logs(ctx, b, operators.Items); err != nil {
		return err
	}
	for i := range nodes.Items {
		if err := c.ask(ctx, b, &nodes.Items[i]); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// ask adds what a node says of itself.
func (c *Clients) ask(ctx context.Context, b *bundle, n *v1alpha1.KoiNode) error {
	name := path.Join("nodes", n.Namespace, n.Name+".json")
	api, _, done, err := c.Node(ctx, n)
	if err != nil {
		b.miss(name, err)
		return nil
	}
	st, err := api.Status(ctx)
	_ = done() // the way is not needed any more
	if err != nil {
		b.miss(name, err)
		return nil
	}
	text, err := json.MarshalIndent(st, "", "  ")
	if err != nil {
		return err
	}
	return b.add(name, text)
}

// logs adds the last lines of each container, and of the one before it.
func (c *Clients) logs(ctx context.Context, b *bundle, pods []corev1.Pod) error {
	for i := range pods {
		p := &pods[i]
		for _, s := range p.Status.ContainerStatuses {
			for _, previous := range []bool{false, true} {
				if previous && s.RestartCount == 0 {
					continue
				}
				name := path.Join("logs", p.Namespace, p.Name, s.Name)
				if previous {
					name += ".previous"
				}
				text, err := c.log(ctx, p, s.Name, previous)
				if err != nil {
					b.miss(name, err)
					continue
				}
				if err := b.add(name+".log", text); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (c *Clients) log(ctx context.Context, p *corev1.Pod, container string, previous bool) ([]byte, error) {
	in, err := c.Core.CoreV1().Pods(p.Namespace).GetLogs(p.Name, &corev1.PodLogOptions{
		Container: container, Previous: previous, TailLines: ptr.To[int64](5000), LimitBytes: ptr.To[int64](logBytes),
	}).Stream(ctx)
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(in, logBytes))
	return text, errors.Join(err, in.Close())
}

// clean makes YAML of a list without what may hold a secret or only repeats.
func clean(list client.ObjectList) ([]byte, error) {
	err := meta.EachListItem(list, func(o runtime.Object) error {
		m, err := meta.Accessor(o)
		if err != nil {
			return err
		}
		m.SetManagedFields(nil)
		annotations := m.GetAnnotations()
		delete(annotations, corev1.LastAppliedConfigAnnotation)
		m.SetAnnotations(annotations)
		switch o := o.(type) {
		case *corev1.Pod:
			blank(&o.Spec)
		case *appsv1.Deployment:
			blank(&o.Spec.Template.Spec)
		case *v1alpha1.KoiNode:
			if o.Spec.PodTemplate != nil {
				o.Spec.PodTemplate = &runtime.RawExtension{Raw: []byte(`"left out"`)}
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return yaml.Marshal(list)
}

// blank takes the values of environment variables out of a pod, but for those the
// operator sets, which are no secrets.
func blank(spec *corev1.PodSpec) {
	for _, all := range [][]corev1.Container{spec.InitContainers, spec.Containers} {
		for i := range all {
			for j := range all[i].Env {
				if e := &all[i].Env[j]; e.Value != "" && (all[i].Name != "node" || e.Name != "KOI_CONFIG_HASH") {
					e.Value = "left out"
				}
			}
		}
	}
}
