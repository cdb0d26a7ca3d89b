package flux

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Branch is the branch a Repository has.
const Branch = "main"

// Repository is a Git repository that is served over HTTP, and a checkout of it in
// which commits are made.
type Repository struct {
	// URL is where it is fetched from, on the loopback address.
	URL string
	// Dir is the checkout.
	Dir string

	home   string
	server *web
}

// NewRepository makes an empty repository below dir and serves it.
func NewRepository(ctx context.Context, dir string) (*Repository, error) {
	r := &Repository{Dir: filepath.Join(dir, "checkout"), home: dir}
	const name = "koi.git"
	root := filepath.Join(dir, "served")
	if err := os.MkdirAll(root, 0o755); err != nil {
		return nil, fmt.Errorf("make the Git repository: %w", err)
	}
	bare := filepath.Join(root, name)
	for _, args := range [][]string{
		{"init", "--quiet", "--bare", "--initial-branch=" + Branch, bare},
		{"clone", "--quiet", bare, r.Dir},
		{"-C", r.Dir, "symbolic-ref", "HEAD", "refs/heads/" + Branch},
	} {
		if _, err := git(ctx, dir, args...); err != nil {
			return nil, err
		}
	}
	programs, err := git(ctx, dir, "--exec-path")
	if err != nil {
		return nil, err
	}
	r.server, err = serve(ctx, &cgi.Handler{
		Path: filepath.Join(programs, "git-http-backend"),
		Env:  append(gitEnv(dir), "GIT_PROJECT_ROOT="+root, "GIT_HTTP_EXPORT_ALL=1"),
	})
	if err != nil {
		return nil, err
	}
	r.URL = r.server.url + "/" + name
	return r, nil
}

// Commit commits and pushes whatever the checkout has, and returns the commit.
func (r *Repository) Commit(ctx context.Context, message string) (string, error) {
	for _, args := range [][]string{
		{"add", "--all"},
		{"-c", "user.name=koi", "-c", "user.email=koi@example.org", "commit", "--quiet", "--message", message},
		{"push", "--quiet", "origin", "HEAD:" + Branch},
	} {
		if _, err := git(ctx, r.home, append([]string{"-C", r.Dir}, args...)...); err != nil {
			return "", err
		}
	}
	return git(ctx, r.home, "-C", r.Dir, "rev-parse", "HEAD")
}

// Stop ends serving it.
func (r *Repository) Stop() error { return r.server.stop() }

// gitEnv keeps Git from the machine's settings, and from asking anybody.
func gitEnv(home string) []string {
	return []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0"}
}

// git runs Git and returns what it printed, less the space around it.
func git(ctx context.Context, home string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Env = gitEnv(home)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("git %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(said.String()))
	}
	return strings.TrimSpace(out.String()), nil
}

// web is a server on the loopback address.
type web struct {
	url    string
	server *http.Server
	group  sync.WaitGroup
	err    error
}

func serve(ctx context.Context, h http.Handler) (*web, error) {
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen on the loopback address: %w", err)
	}
	w := &web{url: "http://" + l.Addr().String(), server: &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}}
	w.group.Go(func() {
		if err := w.server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			w.err = err
		}
	})
	return w, nil
}

// stop closes it with its connections, and waits.
func (w *web) stop() error {
	err := w.server.Close()
	w.group.Wait()
	return errors.Join(err, w.err)
}
