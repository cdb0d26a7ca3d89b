package deploy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/koi-net/koi-operator/hack/up/kubectl"
)

// Names of what is installed.
const (
	// SystemNamespace is the operator's.
	SystemNamespace = "koi-operator-system"
	// Operator is the Deployment of the operator.
	Operator = "koi-operator"
	// Namespace is that of the samples.
	Namespace = "koi-net"
)

// namespaceManifest makes the samples' namespace, under the strictest pod security:
// what runs in it shows that the generated pods meet it.
const namespaceManifest = `apiVersion: v1
kind: Namespace
metadata:
  name: ` + Namespace + `
  labels:
    app.kubernetes.io/managed-by: koi-up
    pod-security.kubernetes.io/enforce: restricted
`

// Deployer installs and removes.
type Deployer struct {
	// Kubectl talks to the cluster.
	Kubectl *kubectl.Client
	// Root is the root of the repository.
	Root string
	// Progress receives a line for each step and each change.
	Progress io.Writer
}

// Install applies the custom resource definitions and the operator with the images
// given by name (koi-node, koi-operator), and waits until the operator runs.
func (d *Deployer) Install(ctx context.Context, images map[string]string) error {
	manifests, err := d.render(ctx, "config/default")
	if err != nil {
		return err
	}
	if manifests, err = SetImages(manifests, images); err != nil {
		return fmt.Errorf("config/default: %w", err)
	}
	fmt.Fprintln(d.Progress, "installing the custom resource definitions and the operator")
	if err := d.Kubectl.Apply(ctx, manifests); err != nil {
		return err
	}
	if _, err := d.Kubectl.Run(ctx, "wait", "--for=condition=Established", "--timeout=60s",
		"crd/koinodes.koi-net.io", "crd/koiedges.koi-net.io"); err != nil {
		return err
	}
	if err := d.rollout(ctx, SystemNamespace, Operator, 3*time.Minute); err != nil {
		return err
	}
	fmt.Fprintln(d.Progress, "the operator runs")
	return nil
}

// render returns the manifests of a directory below the root: kustomized where it has
// a kustomization, else its files.
func (d *Deployer) render(ctx context.Context, dir string) ([]byte, error) {
	path := filepath.Join(d.Root, dir)
	if _, err := os.Stat(filepath.Join(path, "kustomization.yaml")); err == nil {
		return d.Kubectl.Run(ctx, "kustomize", path)
	}
	files, err := filepath.Glob(filepath.Join(path, "*.yaml"))
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%s holds no manifests", path)
	}
	var out bytes.Buffer
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("read the manifests: %w", err)
		}
		fmt.Fprintf(&out, "---\n%s\n", text)
	}
	return out.Bytes(), nil
}

// rollout waits for a Deployment. Where it takes longer than a few seconds it says
// what its pods wait for; where it fails, why.
func (d *Deployer) rollout(ctx context.Context, namespace, name string, limit time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("deployment %s/%s is not available after %s", namespace, name, limit))
	defer cancel()
	said := ""
	for begun := time.Now(); ; {
		_, err := d.Kubectl.Run(ctx, "rollout", "status", "deployment/"+name, "-n", namespace, "--timeout=5s")
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return errors.Join(context.Cause(ctx), errors.New(d.describePods(context.WithoutCancel(ctx), namespace)))
		}
		if pods := d.describePods(ctx, namespace); pods != said {
			said = pods
			fmt.Fprintf(d.Progress, "waiting for %s since %s: %s\n", name, time.Since(begun).Round(time.Second), pods)
		}
	}
}

// describePods says in a line how the pods of a namespace are.
func (d *Deployer) describePods(ctx context.Context, namespace string) string {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := d.Kubectl.Run(ctx, "get", "pods", "-n", namespace, "--no-headers")
	if err != nil {
		return err.Error()
	}
	var lines []string
	for line := range strings.Lines(string(out)) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	if len(lines) == 0 {
		return "no pods yet"
	}
	return strings.Join(lines, "; ")
}

// Samples applies config/samples into a namespace of its own.
func (d *Deployer) Samples(ctx context.Context) error {
	manifests, err := d.render(ctx, "config/samples")
	if err != nil {
		return err
	}
	fmt.Fprintf(d.Progress, "applying config/samples in namespace %s\n", Namespace)
	if err := d.Kubectl.Apply(ctx, []byte(namespaceManifest)); err != nil {
		return err
	}
	return d.Kubectl.Apply(ctx, manifests, "-n", Namespace)
}

// WaitReady waits until every KoiNode and every KoiEdge of the samples is Ready, and
// every node that upgrades by itself runs the node image given. It prints a line for
// every change.
func (d *Deployer) WaitReady(ctx context.Context, nodeImage string, limit time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("the KOI-net does not stand after %s", limit))
	defer cancel()
	said := map[string]string{}
	for {
		var list objectList
		err := d.Kubectl.Get(ctx, &list, "get", "koinodes,koiedges", "-n", Namespace)
		if err == nil {
			for _, o := range list.Items {
				if line := o.String(); said[o.key()] != line {
					said[o.key()] = line
					fmt.Fprintln(d.Progress, line)
				}
			}
			if list.standing(nodeImage) {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err, errors.New("pods: "+d.describePods(context.WithoutCancel(ctx), Namespace)))
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// Remove deletes the samples and the operator from a cluster that stays. Where other
// KOI-nets are left, the operator and the definitions stay with them.
func (d *Deployer) Remove(ctx context.Context) error {
	samples, err := d.render(ctx, "config/samples")
	if err != nil {
		return err
	}
	fmt.Fprintln(d.Progress, "deleting the samples")
	if err := d.delete(ctx, samples, "-n", Namespace); err != nil {
		return err
	}
	if err := d.delete(ctx, []byte(namespaceManifest)); err != nil {
		return err
	}
	// Not an error where the definitions are gone already.
	others, err := d.Kubectl.Run(ctx, "get", "koinodes,koiedges", "--all-namespaces", "-o", "name")
	if err == nil && len(bytes.TrimSpace(others)) > 0 {
		fmt.Fprintf(d.Progress, "the operator stays, as there are other KOI-nets:\n%s", others)
		return nil
	}
	operator, err := d.render(ctx, "config/default")
	if err != nil {
		return err
	}
	fmt.Fprintln(d.Progress, "deleting the operator and the custom resource definitions")
	return d.delete(ctx, operator)
}

func (d *Deployer) delete(ctx context.Context, manifests []byte, args ...string) error {
	args = append([]string{"delete", "--ignore-not-found", "--timeout=120s", "-f", "-"}, args...)
	_, err := d.Kubectl.Pipe(ctx, bytes.NewReader(manifests), args...)
	if err != nil && strings.Contains(err.Error(), "no matches for kind") {
		return nil // its definition is gone, and it with it
	}
	return err
}
