package subject

import (
	"context"
	"embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"iter"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/koi-net/koi-operator/hack/interop/reference"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// nodeName is the name in a node's RID.
const nodeName = "bench"

//go:embed *.py
var programs embed.FS

// richPackages are what the examples of 1.0 log with and its environment does
// not hold: packages of Python alone, which the newest release needs as well.
var richPackages = []string{"rich", "markdown_it", "mdurl", "pygments"}

// Reference is a node of the Python reference.
type Reference struct {
	environment, lender reference.Environment
	dir                 string
	quiet               bool
	provides            []rid.Type
	rid                 rid.RID
	listen              string
	*process
}

// NewReference prepares a node of a release in a directory. quiet silences its
// logging. lender is an environment that has the packages 1.0's examples log with.
// The node is run once, so that it has an identity.
func NewReference(ctx context.Context, environment, lender reference.Environment, dir string, quiet bool, provides []rid.Type) (*Reference, error) {
	r := &Reference{environment: environment, lender: lender, dir: dir, quiet: quiet, provides: provides}
	var err error
	if r.listen, err = freeAddress(); err != nil {
		return nil, err
	}
	if err := r.unpack(); err != nil {
		return nil, err
	}
	if err := r.Start(ctx); err != nil {
		return nil, err
	}
	r.Stop()
	return r, nil
}

// program is the script of the release's API.
func (r *Reference) program() string {
	if r.environment.Release.Signed {
		return "signed.py"
	}
	return "unsigned.py"
}

// unpack writes the scripts out, and puts what they log with beside them.
func (r *Reference) unpack() error {
	into := filepath.Join(r.dir, "program")
	if err := os.CopyFS(into, programs); err != nil {
		return fmt.Errorf("unpack the programs: %w", err)
	}
	if r.environment.Release.Signed || r.quiet {
		return nil
	}
	for _, name := range richPackages {
		found, err := filepath.Glob(filepath.Join(r.lender.Dir, "lib", "python3*", "site-packages", name))
		if err != nil || len(found) != 1 {
			return fmt.Errorf("the environment of %s has no package %s for 1.0's logging: %v", r.lender.Release.Version, name, found)
		}
		if err := os.Symlink(found[0], filepath.Join(into, name)); err != nil {
			return fmt.Errorf("unpack the programs: %w", err)
		}
	}
	return nil
}

// settings are what a script is told.
type settings struct {
	Name     string     `json:"name"`
	Port     uint16     `json:"port"`
	Quiet    bool       `json:"quiet"`
	Provides []rid.Type `json:"provides"`
}

// Start implements Node: it returns when the node has answered a request and
// cached its own bundle, without which several releases fail.
func (r *Reference) Start(ctx context.Context) error {
	at, err := netip.ParseAddrPort(r.listen)
	if err != nil {
		return err
	}
	text, err := json.Marshal(settings{Name: nodeName, Port: at.Port(), Quiet: r.quiet, Provides: r.provides})
	if err != nil {
		return err
	}
	cmd := r.environment.Command(context.WithoutCancel(ctx), filepath.Join(r.dir, "program", r.program()), string(text))
	cmd.Dir = r.dir
	cmd.Env = append(os.Environ(), "PRIV_KEY_PASSWORD=bench", "PYTHONNOUSERSITE=1", "NO_PROXY=127.0.0.1", "no_proxy=127.0.0.1")
	if r.process, err = start(cmd, filepath.Join(r.dir, "console.log")); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := r.until(ctx, "koi-net "+r.environment.Release.Version+" answers", 5*time.Millisecond, r.answers); err != nil {
		r.Stop()
		return err
	}
	name, err := os.ReadFile(filepath.Join(r.dir, "rid"))
	if err == nil {
		r.rid = rid.RID(strings.TrimSpace(string(name)))
		err = r.WaitFor(ctx, r.rid)
	}
	if err != nil {
		r.Stop()
	}
	return err
}

// answers sends a request that costs nothing; any answer will do.
func (r *Reference) answers(ctx context.Context) (bool, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.URL()+"/bundles/fetch", strings.NewReader(`{"rids":[]}`))
	if err != nil {
		return false, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	return resp.StatusCode < http.StatusInternalServerError, nil
}

// Stop implements Node. The node is killed: what it has cached is in files.
func (r *Reference) Stop() {
	if r.process != nil {
		http.DefaultClient.CloseIdleConnections()
		r.Kill()
		r.process = nil
	}
}

// RID implements Node.
func (r *Reference) RID() rid.RID { return r.rid }

// URL implements Node.
func (r *Reference) URL() string { return "http://" + r.listen + "/koi-net" }

// cache is the directory that the release keeps its bundles in.
func (r *Reference) cache() string {
	if r.environment.Release.Signed {
		return filepath.Join(r.dir, ".rid_cache")
	}
	return filepath.Join(r.dir, nodeName+"_cache")
}

// file is where the release keeps a bundle.
func (r *Reference) file(of rid.RID) string {
	return filepath.Join(r.cache(), base64.RawURLEncoding.EncodeToString([]byte(of))+".json")
}

// Seed implements Node. The reference does not note who it has a bundle from.
func (r *Reference) Seed(ctx context.Context, _ rid.RID, bundles iter.Seq2[protocol.Bundle, error]) error {
	for b, err := range bundles {
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		text, err := json.MarshalIndent(b, "", "  ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(r.file(b.Manifest.RID), text, 0o600); err != nil {
			return fmt.Errorf("fill the cache: %w", err)
		}
	}
	return nil
}

// Cached implements Node: it counts the files of the cache.
func (r *Reference) Cached(context.Context) (int, error) {
	dir, err := os.Open(r.cache())
	if err != nil {
		return 0, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	return len(names), err
}

// WaitCached implements Node.
func (r *Reference) WaitCached(ctx context.Context, bundles int) error {
	// A look at thousands of files takes milliseconds; one at a few takes none.
	step := min(max(time.Duration(bundles)*20*time.Microsecond, time.Millisecond), 50*time.Millisecond)
	return r.until(ctx, fmt.Sprintf("%d bundles are cached", bundles), step, func(ctx context.Context) (bool, error) {
		n, err := r.Cached(ctx)
		if err == nil && n < bundles {
			err = fmt.Errorf("%d are", n)
		}
		return n >= bundles, err
	})
}

// WaitFor implements Node. The release writes a bundle before it is done with it.
func (r *Reference) WaitFor(ctx context.Context, of rid.RID) error {
	return r.until(ctx, string(of)+" is cached", time.Millisecond, func(context.Context) (bool, error) {
		_, err := os.Stat(r.file(of))
		return err == nil, err
	})
}

// StoreBytes implements Node.
func (r *Reference) StoreBytes() (int64, error) { return DiskBytes(r.cache()) }
