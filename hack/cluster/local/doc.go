// Package local runs a one-node Kubernetes on this machine as plain processes: etcd,
// API server, controller manager, scheduler, kubelet, kube-proxy, containerd, CoreDNS,
// a volume provisioner and a network policy agent. It needs Linux, root and three
// Debian packages (runc, iptables, iproute2); the rest comes from hack/cluster/assets.
//
// It owns the run directory ($KOI_RUN, default /var/lib/koi-operator) and everything
// that a cluster leaves on a machine outside it: processes, mounts, cgroups, interfaces,
// firewall chains, kernel settings. It imports the standard library, hack/cluster/assets
// and hack/image/oci.
//
// Invariants:
//   - what was there before Up is there, unchanged, after Down. Up notes what it is
//     about to change before it changes it, and Down takes back only what is noted or
//     what names the run directory, and then checks that nothing is left;
//   - one cluster per machine: the ports are fixed, and Up refuses where another
//     Kubernetes has left its firewall chains;
//   - the state is disposable. etcd does not sync its log, Down kills and deletes.
//
// The network is closed on purpose: pods reach each other, Services and the host, not
// the internet, and names outside the cluster do not resolve. What runs here does not
// depend on what the machine can reach.
package local
