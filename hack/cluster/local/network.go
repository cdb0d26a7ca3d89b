package local

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
)

// The addresses of the cluster. They are fixed, as one cluster runs at a time.
const (
	nodeName    = "koi-local"
	clusterCIDR = "10.244.0.0/16"
	podCIDR     = "10.244.0.0/24"
	podGateway  = "10.244.0.1" // the host's end of every pod's interface pair
	serviceCIDR = "10.96.0.0/16"
	apiService  = "10.96.0.1"
	dnsService  = "10.96.0.10"
	dnsHost     = "10.244.255.53" // an address of lo that CoreDNS listens on
	domain      = "cluster.local"
	apiPort     = "6443"
	netName     = "koi-operator" // the CNI network, and the cgroup all pods are in
)

// ports are the TCP ports that the daemons listen on.
var ports = []string{"2379", "2380", apiPort, "10248", "10249", "10250", "10256", "10257", "10259"}

// nodeAddress returns the IPv4 address the node is known by: the one that traffic to
// elsewhere leaves from, else the first that is not local to the machine.
func nodeAddress() (netip.Addr, error) {
	// Connecting a UDP socket sends nothing; it asks the routing table.
	if conn, err := net.Dial("udp4", "192.0.2.1:9"); err == nil {
		defer conn.Close()
		if a, err := netip.ParseAddrPort(conn.LocalAddr().String()); err == nil && a.Addr().IsGlobalUnicast() {
			return a.Addr(), nil
		}
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return netip.Addr{}, fmt.Errorf("list the machine's addresses: %w", err)
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() && p.Addr().IsGlobalUnicast() {
			return p.Addr(), nil
		}
	}
	return netip.Addr{}, errors.New("the machine has no IPv4 address besides loopback: the node needs one")
}

// busyPorts returns those of the cluster's ports that something listens on.
func busyPorts() []string {
	var busy []string
	for _, port := range ports {
		l, err := net.Listen("tcp", ":"+port)
		if err != nil {
			busy = append(busy, port)
			continue
		}
		l.Close()
	}
	return busy
}

// foreignRoutes returns the machine's addresses that lie in the cluster's ranges.
func foreignRoutes() ([]string, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("list the machine's addresses: %w", err)
	}
	var out []string
	for _, a := range addrs {
		p, err := netip.ParsePrefix(a.String())
		if err != nil {
			continue
		}
		for _, cidr := range []string{clusterCIDR, serviceCIDR} {
			if netip.MustParsePrefix(cidr).Overlaps(p.Masked()) {
				out = append(out, a.String())
			}
		}
	}
	return out, nil
}

// podInterfaces returns the host ends of pods' interface pairs.
func podInterfaces() ([]string, error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list the network interfaces: %w", err)
	}
	var out []string
	for _, i := range all {
		if strings.HasPrefix(i.Name, "veth") && hasAddress(i, podGateway) {
			out = append(out, i.Name)
		}
	}
	return out, nil
}

// dnsAddress reports whether lo carries the address of the cluster's DNS.
func dnsAddress() (bool, error) {
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		return false, fmt.Errorf("look at the loopback interface: %w", err)
	}
	return hasAddress(*lo, dnsHost), nil
}

func hasAddress(i net.Interface, want string) bool {
	addrs, err := i.Addrs()
	if err != nil {
		return false // the interface has just gone
	}
	for _, a := range addrs {
		if strings.HasPrefix(a.String(), want+"/") {
			return true
		}
	}
	return false
}

// command runs a host tool to its end; what it printed becomes part of the error.
func command(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = daemonEnv("")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
