package reference

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// The Debian release that Python is taken from, and what is taken.
const (
	debianSuite    = "trixie"
	debianPackages = "python3,python3-venv"
	// debianRecipe changes when the steps below do.
	debianRecipe = "download, unpack, usr alone"
)

// debianKey names the directory of the interpreter in the cache.
func debianKey() string {
	sum := sha256.Sum256([]byte(strings.Join([]string{debianRecipe, debianSuite, debianPackages, runtime.GOARCH}, "\x00")))
	return "python-" + debianSuite + "-" + hex.EncodeToString(sum[:8])
}

// possible says why Python cannot be made from Debian's packages here, or run.
func possible() error {
	if runtime.GOOS != "linux" {
		return fmt.Errorf("that needs Linux, this is %s", runtime.GOOS)
	}
	if os.Geteuid() != 0 {
		return errors.New("that needs root, for debootstrap and a mount")
	}
	// The programs' /lib has to be the one that is put in place.
	if to, err := os.Readlink("/lib"); err != nil || strings.TrimPrefix(to, "/") != "usr/lib" {
		return errors.New("that needs a system whose /lib is a link to usr/lib")
	}
	for program, pkg := range map[string]string{"debootstrap": "debootstrap", "dpkg-deb": "dpkg", "unshare": "util-linux", "mount": "mount"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("that needs %s: apt-get install %s", program, pkg)
		}
	}
	return nil
}

// debian returns the interpreter made from Debian's packages, made now if the
// cache lacks it. The caller holds the lock.
func (b *builder) debian(ctx context.Context) (Python, error) {
	b.installDebootstrap(ctx)
	if err := possible(); err != nil {
		return Python{}, err
	}
	root := filepath.Join(b.cache, debianKey())
	if _, err := os.Stat(root); errors.Is(err, os.ErrNotExist) {
		if err := b.unpackDebian(ctx, root); err != nil {
			return Python{}, err
		}
	} else if err != nil {
		return Python{}, fmt.Errorf("look for Python in the cache: %w", err)
	}
	return check(ctx, Python{Path: "/usr/bin/python3", Root: root})
}

// installDebootstrap installs debootstrap where root and apt-get may and it is
// missing. Whether it worked shows in possible.
func (b *builder) installDebootstrap(ctx context.Context) {
	if _, err := exec.LookPath("debootstrap"); err == nil || os.Geteuid() != 0 {
		return
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return
	}
	fmt.Fprintln(b.progress, "missing on this machine: running apt-get install debootstrap")
	apt := func(args ...string) error {
		cmd := exec.CommandContext(ctx, "apt-get", append([]string{"-q", "-o", "DPkg::Lock::Timeout=120"}, args...)...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		return b.run(cmd)
	}
	install := []string{"install", "--yes", "--no-install-recommends", "debootstrap"}
	if apt(install...) == nil {
		return
	}
	if err := errors.Join(apt("update"), apt(install...)); err != nil {
		fmt.Fprintln(b.progress, err)
	}
}

// unpackDebian downloads a small Debian with Python and unpacks it, which is
// all that Python needs: no package is configured, nothing of it runs as a system.
func (b *builder) unpackDebian(ctx context.Context, root string) error {
	start := time.Now()
	fmt.Fprintf(b.progress, "python: taking it from Debian %s\n", debianSuite)
	tmp, done, err := b.temporary("python")
	if err != nil {
		return err
	}
	defer done()
	packages, tree := filepath.Join(tmp, "packages"), filepath.Join(tmp, "tree")
	if err := b.run(exec.CommandContext(ctx, "debootstrap", "--variant=minbase", "--include="+debianPackages, "--download-only", debianSuite, packages)); err != nil {
		return err
	}
	for _, dir := range []string{"bin", "sbin", "lib", "lib64"} {
		if err := os.MkdirAll(filepath.Join(tree, "usr", dir), 0o755); err != nil {
			return fmt.Errorf("unpack Python: %w", err)
		}
		if err := os.Symlink("usr/"+dir, filepath.Join(tree, dir)); err != nil {
			return fmt.Errorf("unpack Python: %w", err)
		}
	}
	files, err := filepath.Glob(filepath.Join(packages, "var/cache/apt/archives/*.deb"))
	if err != nil || len(files) == 0 {
		return fmt.Errorf("debootstrap downloaded no package to %s (%w)", packages, err)
	}
	for _, file := range files {
		if err := b.run(exec.CommandContext(ctx, "dpkg-deb", "--extract", file, tree)); err != nil {
			return err
		}
	}
	final := filepath.Join(tmp, "final")
	if err := os.Mkdir(final, 0o755); err != nil {
		return fmt.Errorf("unpack Python: %w", err)
	}
	if err := os.Rename(filepath.Join(tree, "usr"), filepath.Join(final, "usr")); err != nil {
		return fmt.Errorf("unpack Python: %w", err)
	}
	if _, err := check(ctx, Python{Path: "/usr/bin/python3", Root: final}); err != nil {
		return fmt.Errorf("the unpacked Python does not run: %w", err)
	}
	if err := os.Rename(final, root); err != nil {
		return fmt.Errorf("put Python into the cache: %w", err)
	}
	fmt.Fprintf(b.progress, "python: there in %s\n", time.Since(start).Round(time.Second/10))
	return nil
}
