package main

import "github.com/koi-net/koi-operator/node"

// newNode is the nodeMaker of the real program.
func newNode(cfg node.Config) (daemon, error) {
	n, err := node.New(node.WithConfig(cfg))
	if err != nil {
		return nil, err // not n: a nil *Node in an interface is not nil
	}
	return n, nil
}
