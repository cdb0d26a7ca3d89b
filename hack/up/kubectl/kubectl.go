package kubectl

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
)

// Client runs kubectl against one cluster.
type Client struct {
	// Path is the program.
	Path string
	// Kubeconfig names the cluster; empty leaves it to kubectl's own rules.
	Kubeconfig string
	// CacheDir is where kubectl keeps what it learned of the cluster's API; empty is
	// its default, ~/.kube/cache.
	CacheDir string
}

// Run runs kubectl and returns what it printed. An error carries its messages.
func (c *Client) Run(ctx context.Context, args ...string) ([]byte, error) {
	return c.Pipe(ctx, nil, args...)
}

// Pipe is Run with an input.
func (c *Client) Pipe(ctx context.Context, stdin io.Reader, args ...string) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, c.Path, args...)
	cmd.Env = os.Environ()
	if c.Kubeconfig != "" {
		cmd.Env = append(cmd.Env, "KUBECONFIG="+c.Kubeconfig)
	}
	if c.CacheDir != "" {
		cmd.Env = append(cmd.Env, "KUBECACHEDIR="+c.CacheDir)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return stdout.Bytes(), fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.Bytes(), nil
}

// Get runs kubectl with -o json added and decodes what it printed.
func (c *Client) Get(ctx context.Context, into any, args ...string) error {
	out, err := c.Run(ctx, append(args, "-o", "json")...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(out, into); err != nil {
		return fmt.Errorf("kubectl %s: read its answer: %w", strings.Join(args, " "), err)
	}
	return nil
}

// Apply applies manifests on the server's side, so that a second time changes nothing.
func (c *Client) Apply(ctx context.Context, manifests []byte, args ...string) error {
	// Fields that someone else set are taken over: these manifests say how it is to be.
	args = append([]string{"apply", "--server-side", "--force-conflicts", "--field-manager=koi-up", "-f", "-"}, args...)
	_, err := c.Pipe(ctx, bytes.NewReader(manifests), args...)
	return err
}
