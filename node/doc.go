// Package node runs a KOI-net node: it puts the parts below it together and
// owns their life cycle and every goroutine among them.
//
// New opens identity and store and refuses what it cannot use, untouched; Run
// serves until its context ends. The package imports everything below node/
// but nodetest and examples, and nothing of Kubernetes.
package node
