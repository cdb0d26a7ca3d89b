package assets

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"
)

// progressEvery is how often a running build says how far it is.
const progressEvery = 10 * time.Second

// errorLines bounds what is kept of a failing build's output.
const errorLines = 60

// Builder brings components into the cache.
type Builder struct {
	// Root is the root of the repository.
	Root string
	// Cache is the directory that the programs are kept in.
	Cache string
	// Progress receives one line for each step and every few seconds of a long one.
	Progress io.Writer
}

// NewBuilder returns a builder for the checkout around the working directory and
// the user's cache.
func NewBuilder(progress io.Writer) (*Builder, error) {
	root, err := Root()
	if err != nil {
		return nil, err
	}
	cache, err := CacheDir()
	if err != nil {
		return nil, err
	}
	return &Builder{Root: root, Cache: cache, Progress: &lineWriter{w: progress}}, nil
}

// Dir returns the cache directory of a component, whether it is built or not.
func (b *Builder) Dir(c Component) (string, error) {
	key, err := c.Key(b.Root)
	if err != nil {
		return "", err
	}
	return filepath.Join(b.Cache, key), nil
}

// Ensure builds the components that the cache lacks, side by side, and returns the
// directory of each by name. The first failure stops the others.
func (b *Builder) Ensure(ctx context.Context, components ...Component) (map[string]string, error) {
	dirs, missing, err := b.missing(components)
	if err != nil || len(missing) == 0 {
		return dirs, err
	}
	if err := os.MkdirAll(b.Cache, 0o755); err != nil {
		return nil, fmt.Errorf("make the cache directory: %w", err)
	}
	release, err := Lock(ctx, filepath.Join(b.Cache, "lock"), b.Progress)
	if err != nil {
		return nil, err
	}
	defer release()
	// Another run may have built them meanwhile.
	if dirs, missing, err = b.missing(components); err != nil || len(missing) == 0 {
		return dirs, err
	}
	if err := b.sweep(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var group sync.WaitGroup
	errs := make([]error, len(missing))
	for i, c := range missing {
		group.Go(func() {
			if errs[i] = b.build(ctx, c, dirs[c.Name]); errs[i] != nil {
				cancel(errs[i])
			}
		})
	}
	group.Wait()
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	return dirs, errors.Join(errs...)
}

// missing returns the directory of every component and the components not built yet.
func (b *Builder) missing(components []Component) (map[string]string, []Component, error) {
	dirs := make(map[string]string, len(components))
	var missing []Component
	for _, c := range components {
		dir, err := b.Dir(c)
		if err != nil {
			return nil, nil, err
		}
		dirs[c.Name] = dir
		if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
			missing = append(missing, c)
		} else if err != nil {
			return nil, nil, fmt.Errorf("look for %s in the cache: %w", c.Name, err)
		}
	}
	return dirs, missing, nil
}

// sweep removes what interrupted builds left behind. The caller holds the lock.
func (b *Builder) sweep() error {
	left, err := filepath.Glob(filepath.Join(b.Cache, ".building-*"))
	if err != nil {
		return err
	}
	for _, dir := range left {
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("remove an interrupted build: %w", err)
		}
	}
	return nil
}

// build compiles one component next to its place and renames it there.
func (b *Builder) build(ctx context.Context, c Component, dir string) error {
	start := time.Now()
	args, err := c.buildArgs(b.Root)
	if err != nil {
		return err
	}
	tmp := filepath.Join(b.Cache, ".building-"+c.Name)
	if err := os.MkdirAll(tmp, 0o755); err != nil {
		return fmt.Errorf("build %s: %w", c.Name, err)
	}
	defer os.RemoveAll(tmp)
	total := b.stale(ctx, c, args)
	version, err := c.Version(b.Root)
	if err != nil {
		return err
	}
	fmt.Fprintf(b.Progress, "%s: building %s\n", c.Name, strings.TrimSpace(fmt.Sprintf("%s (%d packages to compile)", version, total)))
	for _, pkg := range c.Packages {
		name := path.Base(pkg)
		if pkg == "." {
			name = c.Name
		}
		// -v names each package as it is compiled: the progress.
		cmd := b.goCommand(ctx, c, append([]string{"build", "-v", "-o", filepath.Join(tmp, name)}, append(args, pkg)...)...)
		if err := b.run(cmd, c.Name, total, start); err != nil {
			return err
		}
	}
	for _, link := range c.Links {
		if err := os.Symlink(c.Name, filepath.Join(tmp, link)); err != nil {
			return fmt.Errorf("build %s: %w", c.Name, err)
		}
	}
	if err := os.Rename(tmp, dir); err != nil {
		return fmt.Errorf("put %s into the cache: %w", c.Name, err)
	}
	fmt.Fprintf(b.Progress, "%s: built in %s\n", c.Name, time.Since(start).Round(time.Second/10))
	return nil
}

// goCommand prepares the go command for a component, cut off from the caller's
// settings that would change the build.
func (b *Builder) goCommand(ctx context.Context, c Component, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = filepath.Join(b.Root, c.Dir)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off", "GOOS="+runtime.GOOS, "GOARCH="+runtime.GOARCH)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// stale counts the packages that have to be compiled, downloading modules on the
// way. It only feeds the progress lines: 0 where it cannot be told.
func (b *Builder) stale(ctx context.Context, c Component, args []string) int {
	list := append([]string{"list", "-deps", "-f", "{{if .Stale}}x{{end}}"}, append(args, c.Packages...)...)
	cmd := b.goCommand(ctx, c, list...)
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := b.run(cmd, c.Name, 0, time.Now()); err != nil {
		return 0 // the build itself will say what is wrong
	}
	return bytes.Count(out.Bytes(), []byte("x"))
}

// run runs a go command and reports its progress from its standard error.
func (b *Builder) run(cmd *exec.Cmd, name string, total int, start time.Time) error {
	pr, pw := io.Pipe()
	cmd.Stderr = pw
	p := &progress{total: total}
	var group sync.WaitGroup
	group.Go(func() {
		p.read(pr)
		// A line too long for the scanner must not block the command.
		_, _ = io.Copy(io.Discard, pr)
	})
	done := make(chan struct{})
	group.Go(func() {
		tick := time.NewTicker(progressEvery)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				fmt.Fprintf(b.Progress, "%s: %s, %s\n", name, p, time.Since(start).Round(time.Second))
			}
		}
	})
	err := cmd.Run()
	pw.Close()
	close(done)
	group.Wait()
	if err != nil {
		return fmt.Errorf("%s: go %s in %s: %w\n%s", name, cmd.Args[1], cmd.Dir, err, p.tail())
	}
	return nil
}

// progress follows the standard error of go build -v.
type progress struct {
	total int

	mu         sync.Mutex
	downloaded int
	compiled   int
	lines      []string
}

// read consumes lines until the end of r.
func (p *progress) read(r io.Reader) {
	for s := bufio.NewScanner(r); s.Scan(); {
		p.line(s.Text())
	}
}

// line sorts one line: a download, a compiled package, or a message to keep.
func (p *progress) line(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case strings.HasPrefix(text, "go: downloading "):
		p.downloaded++
	case text != "" && !strings.ContainsAny(text, " \t#:"):
		p.compiled++
	default:
		p.lines = append(p.lines, text)
		if len(p.lines) > errorLines {
			p.lines = p.lines[1:]
		}
	}
}

// tail returns the last messages, for an error.
func (p *progress) tail() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.lines, "\n")
}

// String tells how far the build is.
func (p *progress) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.total > 0 && p.compiled >= p.total-1:
		return "linking"
	case p.compiled > 0 && p.total > 0:
		return fmt.Sprintf("%d of %d packages", p.compiled, p.total)
	case p.compiled > 0:
		return fmt.Sprintf("%d packages", p.compiled)
	case p.downloaded > 0:
		return fmt.Sprintf("downloading modules (%d)", p.downloaded)
	default:
		return "starting"
	}
}

// lineWriter makes writes of whole lines from several goroutines safe.
type lineWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lineWriter) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}
