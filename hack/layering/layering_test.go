package layering

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/koi-net/koi-operator"

// pkg is what go list says of a package of this module; tests are left out.
type pkg struct {
	ImportPath string
	Dir        string
	GoFiles    []string
	Imports    []string
	Deps       []string
}

// short is the path within the module.
func (p pkg) short() string {
	return strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
}

func (p pkg) below(dir string) bool { return p.short() == dir || strings.HasPrefix(p.short(), dir+"/") }

func packages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Dir,GoFiles,Imports,Deps", module+"/...")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if len(all) < 20 {
		t.Fatalf("go list found %d packages only", len(all))
	}
	return all
}

func under(path string, prefixes ...string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool { return path == p || strings.HasPrefix(path, p+"/") })
}

func TestLayers(t *testing.T) {
	for _, p := range packages(t) {
		for _, d := range p.Deps {
			switch {
			case p.below("node") && (under(d, "k8s.io", "sigs.k8s.io") || under(d, module+"/controllers", module+"/api")):
				t.Errorf("%s depends on %s: nothing under node/ may know Kubernetes", p.short(), d)
			case p.below("controllers") && under(d, module+"/node") &&
				!slices.Contains([]string{module + "/node/admin/client", module + "/node/protocol", module + "/node/rid"}, d):
				t.Errorf("%s depends on %s: controllers reach a node through node/admin/client, node/protocol and node/rid", p.short(), d)
			case p.below("api") && under(d, module+"/node", module+"/controllers"):
				t.Errorf("%s depends on %s: api stays light for those who import it", p.short(), d)
			}
		}
		for _, d := range p.Imports {
			// The benchmark measures bbolt alone, beside the store.
			if d == "go.etcd.io/bbolt" && p.short() != "node/store/bolt" && p.short() != "hack/bench/limits" {
				t.Errorf("%s imports bbolt: only node/store/bolt may", p.short())
			}
		}
	}
}

// Pure packages are values and decisions: they do no I/O.
func TestPurePackages(t *testing.T) {
	pure := []string{"node/rid", "node/protocol", "node/edge", "controllers/internal/conditions", "controllers/internal/resources"}
	io := []string{"os", "net", "net/http", "os/exec", "syscall", "database", "sigs.k8s.io/controller-runtime/pkg/client", "k8s.io/client-go"}
	seen := 0
	for _, p := range packages(t) {
		if !slices.Contains(pure, p.short()) {
			continue
		}
		seen++
		for _, d := range p.Imports {
			// net/url and net/netip are values.
			if under(d, io...) && d != "net/url" && d != "net/netip" {
				t.Errorf("%s imports %s: it has to stay pure", p.short(), d)
			}
		}
	}
	if seen != len(pure) {
		t.Errorf("found %d of the pure packages %v", seen, pure)
	}
}

// Only node/peer calls peers, because only it has the dial policy. The admin
// client calls a node's owner's listener.
func TestOnlyPeerDials(t *testing.T) {
	forbidden := map[string][]string{
		"http": {"Transport", "DefaultTransport", "DefaultClient", "Client", "Get", "Head", "Post", "PostForm"},
		"net":  {"Dial", "DialTimeout", "Dialer"},
	}
	for _, p := range packages(t) {
		if !p.below("node") || p.below("node/peer") || p.below("node/admin/client") {
			continue
		}
		for _, name := range p.GoFiles {
			fset := token.NewFileSet()
			file, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(file, func(n ast.Node) bool {
				sel, ok := n.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				if x, ok := sel.X.(*ast.Ident); ok && x.Obj == nil && slices.Contains(forbidden[x.Name], sel.Sel.Name) {
					t.Errorf("%s: %s.%s: only node/peer builds a transport towards peers", fset.Position(n.Pos()), x.Name, sel.Sel.Name)
				}
				return true
			})
		}
	}
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	for _, p := range packages(t) {
		if p.below("cmd") || p.below("node/examples") || len(p.GoFiles) == 0 {
			continue
		}
		if !slices.Contains(p.GoFiles, "doc.go") {
			t.Errorf("%s has no doc.go: say what it owns, what it may import, and its invariants", p.short())
		}
	}
}
