package reference

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// Minor versions of Python 3 that every environment installs on: the syntax of
// the reference needs 12, and some of the packages have no build for 14.
const (
	minMinor = 12
	maxMinor = 13
)

// pythonVariable names an interpreter to use instead of searching one; the
// value "debian" asks for the one from Debian's packages.
const pythonVariable = "KOI_PYTHON"

// Python is an interpreter.
type Python struct {
	// Path is the program, as seen from within Root.
	Path string
	// Version is what it says of itself, such as 3.13.5.
	Version string
	// Root is a directory whose usr takes the place of /usr for the program, or empty.
	Root string
}

// Command prepares a program that lives in the interpreter's world: itself, or
// one of an environment made with it.
func (p Python) Command(ctx context.Context, program string, args ...string) *exec.Cmd {
	if p.Root == "" {
		return exec.CommandContext(ctx, program, args...)
	}
	// A mount in a namespace of its own ends with the last process in it.
	const enter = `mount --bind "$0" /usr && exec "$@"`
	return exec.CommandContext(ctx, "unshare", append([]string{
		"--mount", "--propagation", "private", "sh", "-c", enter, p.Root + "/usr", program}, args...)...)
}

// probe prints the version, and fails where a part that is needed is missing.
const probe = `import ssl, sys, venv, ensurepip; print("%d.%d.%d" % sys.version_info[:3])`

// check asks an interpreter for its version and returns it if it will do.
func check(ctx context.Context, p Python) (Python, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	out, err := p.Command(ctx, p.Path, "-c", probe).CombinedOutput()
	if err != nil {
		return p, fmt.Errorf("%s: %w: %s", p.Path, err, lastLines(out, 1))
	}
	p.Version = strings.TrimSpace(string(out))
	var minor int
	if _, err := fmt.Sscanf(p.Version, "3.%d.", &minor); err != nil {
		return p, fmt.Errorf("%s calls itself Python %q", p.Path, p.Version)
	}
	if minor < minMinor || minor > maxMinor {
		return p, fmt.Errorf("%s is Python %s, not 3.%d to 3.%d", p.Path, p.Version, minMinor, maxMinor)
	}
	return p, nil
}

// errNoPython says that the machine has no interpreter that will do.
var errNoPython = errors.New("no Python 3.12 or 3.13")

// search looks for an interpreter on the machine: the one that the variable
// names, else by name on the path.
func search(ctx context.Context, env func(string) string, look func(string) (string, error)) (Python, error) {
	names := []string{"python3.13", "python3.12", "python3"}
	switch set := env(pythonVariable); set {
	case "":
	case "debian":
		return Python{}, errNoPython
	default:
		names = []string{set}
	}
	errs := []error{errNoPython}
	for _, name := range names {
		path, err := look(name)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
			continue
		}
		p, err := check(ctx, Python{Path: path})
		if err == nil {
			return p, nil
		}
		errs = append(errs, err)
	}
	return Python{}, errors.Join(errs...)
}

// lastLines returns the end of a program's output.
func lastLines(out []byte, n int) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return strings.Join(lines, "\n")
}

// find returns the machine's interpreter, or makes one from Debian's packages
// where there is none and nobody asked for a certain one.
func (b *builder) find(ctx context.Context) (Python, error) {
	p, err := search(ctx, os.Getenv, exec.LookPath)
	if err == nil {
		return p, nil
	}
	if set := os.Getenv(pythonVariable); set != "" && set != "debian" {
		return Python{}, fmt.Errorf("%s=%s: %w", pythonVariable, set, err)
	}
	p, debianErr := b.debian(ctx)
	if debianErr != nil {
		return Python{}, fmt.Errorf("%w; and none can be made from Debian's packages: %w", err, debianErr)
	}
	return p, nil
}
