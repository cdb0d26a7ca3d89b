package reference

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/koi-net/koi-operator/hack/cluster/assets"
)

// sideBySide is how many environments are installed at a time.
const sideBySide = 2

// environmentRecipe changes when the steps of install do.
const environmentRecipe = "venv without pip, pinned, --no-deps"

// ErrImpossible says that the reference cannot be installed here: no Python
// and no way to get one, or no packages. What wraps it says why.
var ErrImpossible = errors.New("the Python reference cannot be installed on this machine")

// Environment is an installed release.
type Environment struct {
	// Release is what is installed.
	Release Release
	// Dir is the virtual environment's directory.
	Dir string
	// Python is the interpreter that it was made with.
	Python Python
}

// Command prepares a run of the environment's interpreter.
func (e Environment) Command(ctx context.Context, args ...string) *exec.Cmd {
	return e.Python.Command(ctx, filepath.Join(e.Dir, "bin", "python"), args...)
}

// Install returns the environment of each release, in the order given,
// installing what the cache lacks. progress receives a line for each step.
// Errors wrap ErrImpossible, unless ctx ended.
func Install(ctx context.Context, progress io.Writer, releases ...Release) ([]Environment, error) {
	cache, err := assets.CacheDir()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrImpossible, err)
	}
	b := &builder{cache: cache, progress: &lines{w: progress}}
	all, err := b.install(ctx, releases)
	if err != nil && ctx.Err() == nil {
		return nil, fmt.Errorf("%w: %w", ErrImpossible, err)
	}
	return all, err
}

// builder fills the cache.
type builder struct {
	cache    string
	progress io.Writer
}

func (b *builder) install(ctx context.Context, releases []Release) ([]Environment, error) {
	if err := os.MkdirAll(b.cache, 0o755); err != nil {
		return nil, fmt.Errorf("make the cache directory: %w", err)
	}
	release, err := assets.Lock(ctx, filepath.Join(b.cache, "interop.lock"), b.progress)
	if err != nil {
		return nil, err
	}
	defer release()
	if err := b.sweep(); err != nil {
		return nil, err
	}
	python, err := b.find(ctx)
	if err != nil {
		return nil, err
	}
	all, missing := make([]Environment, len(releases)), []Environment(nil)
	for i, r := range releases {
		key, err := r.key(python)
		if err != nil {
			return nil, err
		}
		all[i] = Environment{Release: r, Dir: filepath.Join(b.cache, key), Python: python}
		if _, err := os.Stat(all[i].Dir); errors.Is(err, os.ErrNotExist) {
			missing = append(missing, all[i])
		} else if err != nil {
			return nil, fmt.Errorf("look for koi-net %s in the cache: %w", r.Version, err)
		}
	}
	return all, b.fill(ctx, python, missing)
}

// key names the directory of a release's environment: it changes with the
// packages, with the interpreter and with the way they are installed.
func (r Release) key(p Python) (string, error) {
	packages, err := r.Requirements()
	if err != nil {
		return "", err
	}
	h := sha256.New()
	fmt.Fprintf(h, "%s\x00%s\x00%s\x00%s\x00%s", environmentRecipe, p.Path, p.Version, p.Root, packages)
	return "koi-net-" + r.Version + "-" + hex.EncodeToString(h.Sum(nil)[:8]), nil
}

// fill installs environments, a few at a time; the first failure stops the others.
func (b *builder) fill(ctx context.Context, python Python, missing []Environment) error {
	if len(missing) == 0 {
		return nil
	}
	tools, done, err := b.temporary("pip")
	if err != nil {
		return err
	}
	defer done()
	if err := b.run(python.Command(ctx, python.Path, "-m", "venv", tools)); err != nil {
		return fmt.Errorf("make an environment for pip: %w", err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	slots := make(chan struct{}, sideBySide)
	var group sync.WaitGroup
	for _, e := range missing {
		group.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			if ctx.Err() != nil {
				return
			}
			if err := b.environment(ctx, filepath.Join(tools, "bin", "pip"), e); err != nil {
				cancel(fmt.Errorf("install koi-net %s: %w", e.Release.Version, err))
			}
		})
	}
	group.Wait()
	return context.Cause(ctx)
}

// environment installs one release next to its place and renames it there.
func (b *builder) environment(ctx context.Context, pip string, e Environment) error {
	start := time.Now()
	packages, err := e.Release.Requirements()
	if err != nil {
		return err
	}
	tmp, done, err := b.temporary("koi-net-" + e.Release.Version)
	if err != nil {
		return err
	}
	defer done()
	fmt.Fprintf(b.progress, "koi-net %s: installing %d packages on Python %s\n", e.Release.Version, bytes.Count(packages, []byte("\n")), e.Python.Version)
	dir := filepath.Join(tmp, "env")
	if err := b.run(e.Python.Command(ctx, e.Python.Path, "-m", "venv", "--without-pip", dir)); err != nil {
		return err
	}
	list := filepath.Join(tmp, "requirements.txt")
	if err := os.WriteFile(list, packages, 0o600); err != nil {
		return err
	}
	inside := filepath.Join(dir, "bin", "python")
	if err := b.run(e.Python.Command(ctx, pip, "--python", inside, "install", "--no-input", "--no-deps", "--requirement", list)); err != nil {
		return err
	}
	try := e.Python.Command(ctx, inside, "-c", "import koi_net, rid_lib, fastapi, uvicorn")
	try.Dir = tmp // some releases begin a log where they are imported
	if err := b.run(try); err != nil {
		return err
	}
	if err := os.Rename(dir, e.Dir); err != nil {
		return fmt.Errorf("put it into the cache: %w", err)
	}
	fmt.Fprintf(b.progress, "koi-net %s: installed in %s\n", e.Release.Version, time.Since(start).Round(time.Second/10))
	return nil
}

// temporary makes a directory in the cache, so that a rename reaches its place.
func (b *builder) temporary(name string) (dir string, done func(), err error) {
	dir, err = os.MkdirTemp(b.cache, ".interop-"+name+"-")
	if err != nil {
		return "", nil, fmt.Errorf("make a temporary directory: %w", err)
	}
	return dir, func() { os.RemoveAll(dir) }, nil
}

// sweep removes what interrupted installs left behind. The caller holds the lock.
func (b *builder) sweep() error {
	left, err := filepath.Glob(filepath.Join(b.cache, ".interop-*"))
	if err != nil {
		return err
	}
	for _, dir := range left {
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("remove an interrupted install: %w", err)
		}
	}
	return nil
}

// run runs a program to its end; an error carries the end of its output.
func (b *builder) run(cmd *exec.Cmd) error {
	if cmd.Dir == "" {
		cmd.Dir = b.cache // where it finds no configuration or module of anybody's
	}
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", cmd, err, lastLines(out, 15))
	}
	return nil
}

// lines makes writes of whole lines from several goroutines safe.
type lines struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}
