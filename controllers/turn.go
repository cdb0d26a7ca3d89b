package controllers

import (
	"sync"

	"k8s.io/apimachinery/pkg/types"
)

// turn lets one node at a time be upgraded: it is taken before a node goes over
// to a new image and left when that node is ready, deleted or refused it.
type turn struct {
	mu     sync.Mutex
	holder types.NamespacedName
}

// take tells whether it is the node's turn.
func (t *turn) take(key types.NamespacedName) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.holder == (types.NamespacedName{}) {
		t.holder = key
	}
	return t.holder == key
}

// others tells whether it is another node's turn.
func (t *turn) others(key types.NamespacedName) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.holder != (types.NamespacedName{}) && t.holder != key
}

// leave gives the turn back if the node holds it.
func (t *turn) leave(key types.NamespacedName) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.holder == key {
		t.holder = types.NamespacedName{}
	}
}
