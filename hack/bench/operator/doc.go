// Operator measures the operator at scale: a real etcd and kube-apiserver, the
// real koi-operator in a process of its own, with its Role and no more, and nodes
// that are simulated at their admin API, each at an address of its own in
// 127.0.0.0/8, where the operator finds them by the IP of their pod. The mirror
// path is measured a second time with real koi-node processes.
//
//	go run ./hack/bench/operator                      # 1,000 nodes, 5,000 edges; then 50 processes, 500 edges
//	go run ./hack/bench/operator -nodes 50 -edges 250 -processes 0
//
// Nobody here schedules or runs a container: a small stand-in for the kubelet
// makes a pod of each Deployment, and runs its node.
package main
