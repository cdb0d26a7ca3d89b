package local

import (
	"bytes"
	"embed"
	"fmt"
	"net/netip"
	"path/filepath"
	"text/template"

	"github.com/koi-net/koi-operator/hack/cluster/assets"
)

//go:embed manifests
var manifests embed.FS

// pauseImage is the image of every pod's first process. It exists here only.
const pauseImage = "koi-net.local/pause:1"

// daemon is one program of the cluster, ready to be started.
type daemon struct {
	name string // also of its log
	path string // the program; its file name is one of programs
	args []string
	env  []string
}

// settings are what the configuration files are filled with.
type settings struct {
	Run, PauseImage, CNIBin, NetName, PodCIDR, ClusterCIDR, Domain, DNSService, DNSHost, Node string
}

func (c *Cluster) settings(s *state) settings {
	return settings{
		Run: c.Run, PauseImage: pauseImage, CNIBin: s.Assets[assets.CNI().Name], NetName: netName, PodCIDR: podCIDR,
		ClusterCIDR: clusterCIDR, Domain: domain, DNSService: dnsService, DNSHost: dnsHost, Node: nodeName,
	}
}

// render fills one of the configuration files.
func render(name string, s settings) ([]byte, error) {
	t, err := template.ParseFS(manifests, "manifests/"+name)
	if err != nil {
		return nil, fmt.Errorf("configuration %s: %w", name, err)
	}
	var out bytes.Buffer
	if err := t.Option("missingkey=error").Execute(&out, s); err != nil {
		return nil, fmt.Errorf("configuration %s: %w", name, err)
	}
	return out.Bytes(), nil
}

// writeConfiguration writes the daemons' configuration files.
func (c *Cluster) writeConfiguration(s *state) error {
	files := map[string][]byte{"etc/resolv.conf": nil} // pods get the cluster's DNS and nothing else
	for file, name := range map[string]string{
		"etc/containerd.toml":           "containerd.toml",
		"etc/kubelet.yaml":              "kubelet.yaml",
		"etc/proxy.yaml":                "proxy.yaml",
		"etc/Corefile":                  "Corefile",
		"etc/addons.yaml":               "addons.yaml",
		"cni/net.d/10-koi-net.conflist": "cni.conflist",
	} {
		text, err := render(name, c.settings(s))
		if err != nil {
			return err
		}
		files[file] = text
	}
	return writeFiles(c.Run, files)
}

// daemons returns every daemon by name.
func (c *Cluster) daemons(s *state) map[string]daemon {
	kone := func(program string) string { return filepath.Join(s.Assets[assets.Kone().Name], program) }
	all := []daemon{
		{name: "etcd", path: kone("etcd"), args: []string{
			"--name=" + nodeName, "--data-dir=" + c.path("etcd"), "--unsafe-no-fsync", "--log-level=warn",
			"--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379",
			"--listen-peer-urls=http://127.0.0.1:2380", "--initial-advertise-peer-urls=http://127.0.0.1:2380",
			"--initial-cluster=" + nodeName + "=http://127.0.0.1:2380",
		}},
		{name: "apiserver", path: kone("kube-apiserver"), args: c.apiserverArgs(s.NodeIP)},
		{name: "containerd", path: filepath.Join(s.Assets[assets.Containerd().Name], "containerd"),
			args: []string{"--config", c.path("etc/containerd.toml")}},
		{name: "controller-manager", path: kone("kube-controller-manager"), args: append(c.componentArgs("controller-manager"),
			"--use-service-account-credentials=true", "--root-ca-file="+c.path("pki/ca.crt"),
			"--service-account-private-key-file="+c.path("pki/sa.key"),
			"--cluster-signing-cert-file="+c.path("pki/ca.crt"), "--cluster-signing-key-file="+c.path("pki/ca.key"),
			"--cluster-cidr="+clusterCIDR, "--service-cluster-ip-range="+serviceCIDR, "--allocate-node-cidrs=true",
			// The default of 20 requests a second takes five seconds for its service accounts alone.
			"--kube-api-qps=200", "--kube-api-burst=400")},
		{name: "scheduler", path: kone("kube-scheduler"), args: c.componentArgs("scheduler")},
		{name: "kubelet", path: kone("kubelet"), args: []string{
			"--config=" + c.path("etc/kubelet.yaml"), "--kubeconfig=" + c.path("kubeconfig/kubelet.conf"),
			"--root-dir=" + c.path("kubelet"), "--cert-dir=" + c.path("kubelet/pki"),
			"--hostname-override=" + nodeName, "--node-ip=" + s.NodeIP.String(),
		}},
		{name: "proxy", path: kone("kube-proxy"), args: []string{"--config=" + c.path("etc/proxy.yaml")}},
		{name: "coredns", path: kone("coredns"), args: []string{"-conf", c.path("etc/Corefile")}},
		{name: "netpol", path: kone("netpol"), args: []string{c.path("kubeconfig/netpol.conf")}},
		{name: "local-path", path: kone("local-path"), args: []string{c.path("kubeconfig/provisioner.conf"), nodeName, c.path("pv")}},
	}
	out := make(map[string]daemon, len(all))
	for _, d := range all {
		out[d.name] = d
	}
	return out
}

func (c *Cluster) apiserverArgs(node netip.Addr) []string {
	pki := func(name string) string { return c.path("pki", name) }
	return []string{
		"--etcd-servers=http://127.0.0.1:2379", "--bind-address=0.0.0.0", "--secure-port=" + apiPort,
		"--advertise-address=" + node.String(), "--service-cluster-ip-range=" + serviceCIDR,
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged=true",
		"--client-ca-file=" + pki("ca.crt"), "--tls-cert-file=" + pki("apiserver.crt"), "--tls-private-key-file=" + pki("apiserver.key"),
		"--kubelet-client-certificate=" + pki("apiserver-kubelet-client.crt"), "--kubelet-client-key=" + pki("apiserver-kubelet-client.key"),
		"--kubelet-certificate-authority=" + pki("ca.crt"), "--kubelet-preferred-address-types=InternalIP",
		"--service-account-issuer=https://kubernetes.default.svc." + domain,
		"--service-account-key-file=" + pki("sa.pub"), "--service-account-signing-key-file=" + pki("sa.key"),
		"--requestheader-client-ca-file=" + pki("front-proxy-ca.crt"), "--requestheader-allowed-names=front-proxy-client",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-", "--requestheader-group-headers=X-Remote-Group",
		"--requestheader-username-headers=X-Remote-User",
		"--proxy-client-cert-file=" + pki("front-proxy-client.crt"), "--proxy-client-key-file=" + pki("front-proxy-client.key"),
		"--enable-aggregator-routing=true", "--profiling=false",
	}
}

// componentArgs are the flags that the controller manager and the scheduler share.
func (c *Cluster) componentArgs(user string) []string {
	config := c.path("kubeconfig", user+".conf")
	return []string{
		"--kubeconfig=" + config, "--authentication-kubeconfig=" + config, "--authorization-kubeconfig=" + config,
		"--bind-address=127.0.0.1", "--leader-elect=false", "--profiling=false",
	}
}
