// Kone is the Kubernetes of the local cluster in one program: API server, controller
// manager, scheduler, kubelet, kube-proxy, kubectl, etcd, CoreDNS, a volume provisioner
// and a network policy agent. It acts by the name it is called by (a symbolic link), or
// by its first argument. Each runs as a process of its own; one program means one link
// instead of ten, a third of the disk, and text pages that are shared.
//
// It is a Go module apart from the product's: Kubernetes pins its libraries to its own
// release. CoreDNS stays at the newest release that moves none of those.
package main
