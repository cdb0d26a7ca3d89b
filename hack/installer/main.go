package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/koi-net/koi-operator/hack/cluster/assets"
	"github.com/koi-net/koi-operator/hack/image/product"
	"github.com/koi-net/koi-operator/hack/up/deploy"
)

// head says at the top of the file what it is.
const head = `# The custom resource definitions and the operator of koi-operator, in one file:
# kubectl apply --server-side -f install.yaml
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "installer:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	operator := flag.String("operator", product.Reference(product.Registry, "koi-operator", "dev"), "image of the operator")
	node := flag.String("node", product.Reference(product.Registry, "koi-node", "dev"), "image of the nodes that name none")
	out := flag.String("o", filepath.Join("dist", "install.yaml"), "the file")
	flag.Parse()
	root, err := assets.Root()
	if err != nil {
		return err
	}
	rendered, err := render(ctx, root)
	if err != nil {
		return err
	}
	text, err := install(rendered, *operator, *node)
	if err != nil {
		return err
	}
	path := *out
	if !filepath.IsAbs(path) {
		path = filepath.Join(root, path)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		return err
	}
	fmt.Println(path)
	return nil
}

// render is what kustomize makes of config/default.
func render(ctx context.Context, root string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "go", "tool", "-modfile=hack/tools/kustomize/go.mod", "kustomize", "build", "config/default")
	cmd.Dir = root
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("kustomize build config/default: %w\n%s", err, said.String())
	}
	return out.Bytes(), nil
}

// install makes the file of what kustomize made.
func install(rendered []byte, operator, node string) ([]byte, error) {
	text, err := deploy.SetImages(rendered, map[string]string{"koi-operator": operator, "koi-node": node})
	if err != nil {
		return nil, fmt.Errorf("config/default: %w", err)
	}
	return append([]byte(head), text...), nil
}
