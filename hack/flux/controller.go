package flux

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// Namespace is where Flux keeps its objects.
const Namespace = "flux-system"

// Controller is a running kustomize-controller.
type Controller struct {
	cmd    *exec.Cmd
	cancel context.CancelFunc
	group  sync.WaitGroup
	err    error
}

// StartController runs the program at path against the cluster of the kubeconfig, as
// its admin. It keeps what it fetches below dir and logs to log.
//
// Of Flux's defaults two are changed: what depends on another Kustomization asks for
// it every second, and a new commit ends the wait for the health of the one before.
func StartController(ctx context.Context, path, kubeconfig, dir string, log io.Writer) (*Controller, error) {
	temporary := filepath.Join(dir, "tmp")
	if err := os.MkdirAll(temporary, 0o700); err != nil {
		return nil, fmt.Errorf("start kustomize-controller: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	c := &Controller{cancel: cancel}
	c.cmd = exec.CommandContext(ctx, path,
		"--metrics-addr=0", "--health-addr=0", "--log-encoding=console", "--no-remote-bases",
		"--requeue-dependency=1s", "--feature-gates=CancelHealthCheckOnNewRevision=true")
	c.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "TMPDIR=" + temporary, "KUBECONFIG=" + kubeconfig, "RUNTIME_NAMESPACE=" + Namespace}
	c.cmd.Stdout, c.cmd.Stderr = log, log
	c.cmd.Cancel = func() error { return c.cmd.Process.Signal(syscall.SIGTERM) }
	c.cmd.WaitDelay = 10 * time.Second
	if err := c.cmd.Start(); err != nil {
		cancel()
		return nil, fmt.Errorf("start kustomize-controller: %w", err)
	}
	c.group.Go(func() {
		if err := c.cmd.Wait(); ctx.Err() == nil {
			c.err = errors.Join(errors.New("kustomize-controller ended by itself"), err)
		}
	})
	return c, nil
}

// Stop ends it, and waits. It returns an error where it had ended by itself.
func (c *Controller) Stop() error {
	c.cancel()
	c.group.Wait()
	return c.err
}
