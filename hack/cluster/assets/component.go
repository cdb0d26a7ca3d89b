package assets

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
)

// Component is a set of programs built from one module into one cache directory.
type Component struct {
	// Name names the component in the cache and in progress lines.
	Name string
	// Dir is the directory the build runs in, relative to the repository root.
	Dir string
	// Packages are the main packages to build; each becomes a file named after its
	// last path element.
	Packages []string
	// Links are symbolic links to the one program, which acts by the name it is called by.
	Links []string
	// Tags are the build tags, comma-separated.
	Tags string
	// Stamp is the module whose required version is stamped into the programs.
	Stamp string
	// StampFlags turns that version into linker flags. Nil stamps nothing.
	StampFlags func(version string) (string, error)
}

// Kone is Kubernetes, etcd, CoreDNS, the volume provisioner and the network policy
// agent in one program: they share most of their packages, so that one link and one
// third of the disk do for all. It is everything that envtest needs.
var kone = Component{
	Name:     "kone",
	Dir:      "hack/cluster/kone",
	Packages: []string{"."},
	Links: []string{
		"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler",
		"kubelet", "kube-proxy", "kubectl", "coredns", "local-path", "netpol",
	},
	Stamp:      "k8s.io/kubernetes",
	StampFlags: kubernetesStamp,
}

// Kone returns the component that holds etcd, kube-apiserver and kubectl.
func Kone() Component { return kone }

// Containerd returns the container runtime: daemon, shim and ctr. It stays apart
// from kone because it wants newer Kubernetes libraries, and because one shim runs
// for each pod and has to be small.
func Containerd() Component {
	const module = "github.com/containerd/containerd/v2"
	return Component{
		Name: "containerd",
		Dir:  "hack/cluster/containerd",
		Packages: []string{
			module + "/cmd/containerd", module + "/cmd/containerd-shim-runc-v2", module + "/cmd/ctr",
		},
		Tags:  "no_btrfs,no_zfs,no_devmapper,no_tracing",
		Stamp: module,
		StampFlags: func(version string) (string, error) {
			return "-X " + module + "/version.Version=" + version, nil
		},
	}
}

// CNI returns the network plugins that give a pod its interface and address.
func CNI() Component {
	const plugins = "github.com/containernetworking/plugins/plugins/"
	return Component{
		Name:     "cni",
		Dir:      "hack/cluster/cni",
		Packages: []string{plugins + "main/ptp", plugins + "main/loopback", plugins + "ipam/host-local", plugins + "meta/portmap"},
	}
}

// Pause returns the program of the pod sandbox image.
func Pause() Component {
	return Component{Name: "pause", Dir: "hack/cluster/pause", Packages: []string{"."}}
}

// All returns every component, the longest build first.
func All() []Component { return []Component{Kone(), Containerd(), CNI(), Pause()} }

// kubernetesStamp makes the components report the release they were built from;
// without it a node calls itself v0.0.0-master and charts' version tests fail.
func kubernetesStamp(version string) (string, error) {
	parts := strings.SplitN(strings.TrimPrefix(version, "v"), ".", 3)
	if len(parts) != 3 {
		return "", fmt.Errorf("kubernetes version %q is not vMAJOR.MINOR.PATCH", version)
	}
	const pkg = "k8s.io/component-base/version."
	return fmt.Sprintf("-X %[1]sgitVersion=%[2]s -X %[1]sgitMajor=%[3]s -X %[1]sgitMinor=%[4]s -X %[1]sgitTreeState=clean",
		pkg, version, parts[0], parts[1]), nil
}

// Version returns the version of the stamped module that the component's go.mod
// requires, or "" where nothing is stamped.
func (c Component) Version(root string) (string, error) {
	if c.Stamp == "" {
		return "", nil
	}
	file := filepath.Join(root, c.Dir, "go.mod")
	text, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("read the versions of %s: %w", c.Name, err)
	}
	// Both forms: "require MODULE VERSION" and a line inside "require ( ... )".
	m := regexp.MustCompile(`(?m)^(?:require)?\s+` + regexp.QuoteMeta(c.Stamp) + `\s+(v\S+)`).FindSubmatch(text)
	if m == nil {
		return "", fmt.Errorf("%s does not require %s", file, c.Stamp)
	}
	return string(m[1]), nil
}

// buildArgs returns the arguments of go build, without output and packages. They are
// the same on every run: the Go build cache keys on them, and Kubernetes takes
// minutes to compile.
func (c Component) buildArgs(root string) ([]string, error) {
	args := []string{"-mod=readonly", "-buildvcs=false", "-trimpath"}
	if c.Tags != "" {
		args = append(args, "-tags="+c.Tags)
	}
	ldflags := "-s -w"
	if c.StampFlags != nil {
		version, err := c.Version(root)
		if err != nil {
			return nil, err
		}
		stamp, err := c.StampFlags(version)
		if err != nil {
			return nil, err
		}
		ldflags += " " + stamp
	}
	return append(args, "-ldflags="+ldflags), nil
}

// Key returns the name of the component's cache directory: it changes with the
// toolchain, the flags and every source file that goes into the build.
func (c Component) Key(root string) (string, error) {
	args, err := c.buildArgs(root)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	fmt.Fprintln(h, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	fmt.Fprintf(h, "%q %q %q\n", args, c.Packages, c.Links)
	files, err := sources(os.DirFS(filepath.Join(root, c.Dir)))
	if err != nil {
		return "", fmt.Errorf("list the sources of %s: %w", c.Name, err)
	}
	for _, name := range files {
		text, err := os.ReadFile(filepath.Join(root, c.Dir, name))
		if err != nil {
			return "", fmt.Errorf("read a source of %s: %w", c.Name, err)
		}
		fmt.Fprintf(h, "%s %d\n", name, len(text))
		h.Write(text)
	}
	return c.Name + "-" + hex.EncodeToString(h.Sum(nil))[:16], nil
}

// sources lists the files that a build of the directory depends on, in order.
func sources(dir fs.FS) ([]string, error) {
	var out []string
	err := fs.WalkDir(dir, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		base := path.Base(name)
		if base == "go.mod" || base == "go.sum" || strings.HasSuffix(base, ".go") && !strings.HasSuffix(base, "_test.go") {
			out = append(out, name)
		}
		return nil
	})
	slices.Sort(out)
	return out, err
}
