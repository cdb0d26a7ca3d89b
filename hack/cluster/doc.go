// Cluster runs a real Kubernetes on one machine, built from Go modules and a few
// Debian packages, with no container engine and no registry:
//
//	go run ./hack/cluster up          # etcd, API server, kubelet, containerd, DNS, volumes
//	go run ./hack/cluster kubeconfig  # where its kubeconfig is
//	go run ./hack/cluster load x.tar  # bring images in
//	go run ./hack/cluster down        # take everything back, and check that it is gone
//	go run ./hack/cluster assets      # etcd, kube-apiserver and kubectl alone, for envtest
//
// It is the command line over hack/cluster/assets (what is built) and
// hack/cluster/local (what runs). It imports nothing else.
package main
