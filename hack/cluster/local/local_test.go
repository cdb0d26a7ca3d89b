package local

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/koi-net/koi-operator/hack/cluster/assets"
)

func TestBelongs(t *testing.T) {
	tests := []struct {
		name, cmdline, program string
	}{
		{"a daemon", "/cache/kone-1/etcd\x00--data-dir=/run/koi/etcd\x00", "etcd"},
		{"a shim", "/cache/containerd-1/containerd-shim-runc-v2\x00-namespace\x00k8s.io\x00-address\x00/run/koi/containerd.sock\x00", "containerd-shim-runc-v2"},
		{"an address in a URL", "/x/kubelet\x00--endpoint=unix:///run/koi/containerd.sock\x00", "kubelet"},
		{"another's etcd", "/usr/bin/etcd\x00--data-dir=/var/lib/etcd\x00", ""},
		{"another run directory that begins alike", "/x/etcd\x00--data-dir=/run/koi2/etcd\x00", ""},
		{"a program that reads our files", "tail\x00-f\x00/run/koi/log/etcd.log\x00", ""},
		{"a kernel thread or zombie", "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := belongs([]byte(tt.cmdline), "/run/koi")
			if !ok {
				got = ""
			}
			if got != tt.program {
				t.Errorf("got %q, want %q", got, tt.program)
			}
		})
	}
}

func TestMountsBelow(t *testing.T) {
	const info = `22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:25 / /run/koi/kubelet/pods/1/volumes/secret rw - tmpfs tmpfs rw
31 22 0:26 / /run/koi/kubelet/pods/1/volumes/secret\040two rw - tmpfs tmpfs rw
32 22 0:27 / /run/koinonia rw - tmpfs tmpfs rw
33 30 0:28 / /run/koi/kubelet/pods/1/volumes/secret/inner rw - tmpfs tmpfs rw
`
	want := []string{
		"/run/koi/kubelet/pods/1/volumes/secret/inner",
		"/run/koi/kubelet/pods/1/volumes/secret two",
		"/run/koi/kubelet/pods/1/volumes/secret",
	}
	if got := mountsBelow(info, "/run/koi"); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestMissingPackages(t *testing.T) {
	has := func(names ...string) func(string) (string, error) {
		return func(name string) (string, error) {
			if slices.Contains(names, name) {
				return "/sbin/" + name, nil
			}
			return "", errors.New("not found")
		}
	}
	tests := []struct {
		name string
		find func(string) (string, error)
		want string
	}{
		{"a bare machine", has("mount"), "runc iptables iproute2"},
		{"no package twice", has("runc", "ip", "mount", "iptables"), "iptables"},
		{"all there", has("runc", "iptables", "iptables-save", "iptables-restore", "ip", "mount"), ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := strings.Join(missingPackages(tt.find), " "); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestDisabledControllers(t *testing.T) {
	const text = "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpuset\t3\t1\t1\ncpu\t1\t1\t1\nmemory\t0\t1\t0\npids\t8\t1\t1\n"
	if got := strings.Join(disabledControllers(text), " "); got != "memory" {
		t.Errorf("got %q, want memory", got)
	}
}

// TestConfiguration fills every file and looks for what must not be lost.
func TestConfiguration(t *testing.T) {
	c := &Cluster{Run: t.TempDir()}
	s := &state{Assets: map[string]string{assets.CNI().Name: "/cache/cni-1"}}
	if err := c.writeConfiguration(s); err != nil {
		t.Fatal(err)
	}
	tests := []struct{ file, want string }{
		{"etc/containerd.toml", `bin_dirs = ["/cache/cni-1"]`},
		{"etc/containerd.toml", `sandbox = "` + pauseImage + `"`},
		{"etc/kubelet.yaml", "cgroupRoot: /" + netName},
		{"etc/kubelet.yaml", "containerRuntimeEndpoint: unix://" + c.Run + "/containerd.sock"},
		{"etc/Corefile", "bind " + dnsHost},
		{"etc/addons.yaml", "provisioner: koi-net.io/local-path"},
		{"etc/addons.yaml", "clusterIP: " + dnsService},
		{"cni/net.d/10-koi-net.conflist", `"subnet": "` + podCIDR + `"`},
		{"etc/proxy.yaml", "kubeconfig: " + c.Run + "/kubeconfig/proxy.conf"},
	}
	for _, tt := range tests {
		text, err := os.ReadFile(filepath.Join(c.Run, tt.file))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(text), tt.want) {
			t.Errorf("%s lacks %q:\n%s", tt.file, tt.want, text)
		}
		if strings.Contains(string(text), "{{") || strings.Contains(string(text), "<no value>") {
			t.Errorf("%s is not filled:\n%s", tt.file, text)
		}
	}
}

// TestDaemonsNameTheRunDirectory: Down finds a daemon by its program and by the run
// directory on its command line.
func TestDaemonsNameTheRunDirectory(t *testing.T) {
	c := &Cluster{Run: "/run/koi"}
	s := &state{Assets: map[string]string{"kone": "/cache/kone-1", "containerd": "/cache/containerd-1"}, NodeIP: netip.MustParseAddr("192.0.2.1")}
	for name, d := range c.daemons(s) {
		line := strings.Join(append([]string{d.path}, d.args...), "\x00") + "\x00"
		if got, ok := belongs([]byte(line), c.Run); !ok || got != filepath.Base(d.path) {
			t.Errorf("%s would not be found again: %q", name, line)
		}
	}
}

func TestCredentials(t *testing.T) {
	dir := t.TempDir()
	if err := writeCredentials(dir, netip.MustParseAddr("192.0.2.7")); err != nil {
		t.Fatal(err)
	}
	read := func(name string) *x509.Certificate {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(dir, "pki", name))
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(b)
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	pool := x509.NewCertPool()
	pool.AddCert(read("ca.crt"))
	server := read("apiserver.crt")
	for _, host := range []string{"127.0.0.1", apiService, "192.0.2.7", "localhost", "kubernetes.default.svc." + domain} {
		if _, err := server.Verify(x509.VerifyOptions{DNSName: host, Roots: pool}); err != nil {
			t.Errorf("the API server's certificate does not do for %s: %v", host, err)
		}
	}
	if _, err := server.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err == nil {
		t.Error("the API server's certificate does for a client")
	}
	if _, err := read("front-proxy-client.crt").Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err == nil {
		t.Error("the front proxy's certificate is signed by the cluster's authority: it could pass for any user")
	}
	for user := range users {
		info, err := os.Stat(filepath.Join(dir, "kubeconfig", user+".conf"))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("kubeconfig of %s has mode %v", user, info.Mode())
		}
	}
	c := &Cluster{Run: dir}
	a, err := c.newAPI()
	if err != nil {
		t.Fatalf("the administrator's kubeconfig cannot be read back: %v", err)
	}
	a.close()
}

// TestStateSurvivesARound writes and reads the state, and tells a missing one from a
// damaged one.
func TestStateSurvivesARound(t *testing.T) {
	run := t.TempDir()
	if _, err := readState(run); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no state: %v", err)
	}
	before := &state{NodeIP: netip.MustParseAddr("192.0.2.1"), Sysctls: map[string]string{"kernel/panic": "0"}, Chains: []chain{{"iptables", "nat", "CNI-1"}}}
	if err := before.write(run); err != nil {
		t.Fatal(err)
	}
	after, err := readState(run)
	if err != nil {
		t.Fatal(err)
	}
	if after.NodeIP != before.NodeIP || after.Sysctls["kernel/panic"] != "0" || !slices.Equal(after.Chains, before.Chains) {
		t.Errorf("got %+v, want %+v", after, before)
	}
	if err := os.WriteFile(stateFile(run), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readState(run); err == nil || errors.Is(err, os.ErrNotExist) {
		t.Errorf("a damaged state reads as %v", err)
	}
}
