package controllers

import (
	"sync"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/koi-net/koi-operator/api/v1alpha1"
	"github.com/koi-net/koi-operator/controllers/internal/resources"
)

// configs remembers the configuration of each node, which follows from its spec and
// its first contact, and is not cheap to write. The zero value is ready.
type configs struct {
	mu   sync.Mutex
	made map[types.NamespacedName]madeConfig
}

type madeConfig struct {
	uid        types.UID
	generation int64
	contact    resources.Contact
	text       string
}

// of returns the node's configuration file.
func (c *configs) of(node *v1alpha1.KoiNode, contact resources.Contact) (string, error) {
	key := client.ObjectKeyFromObject(node)
	c.mu.Lock()
	m, known := c.made[key]
	c.mu.Unlock()
	if known && m.uid == node.UID && m.generation == node.Generation && m.contact == contact {
		return m.text, nil
	}
	text, err := resources.Config(node, contact)
	if err != nil {
		return "", err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.made == nil {
		c.made = map[types.NamespacedName]madeConfig{}
	}
	c.made[key] = madeConfig{uid: node.UID, generation: node.Generation, contact: contact, text: text}
	return text, nil
}

// forget drops what is remembered of a node that is no more.
func (c *configs) forget(key types.NamespacedName) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.made, key)
}
