package apply

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"reflect"
	"sync"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/koi-net/koi-operator/api/v1alpha1"
)

// settled remembers which state of an object was found to be what is desired, so
// that a look at a world in which nothing happened need not take its managed
// fields apart again: that is most of what such a look costs. The zero value is
// ready.
type settled struct {
	mu    sync.Mutex
	nodes map[types.NamespacedName]map[reflect.Type]finding // by the KoiNode they were made for
}

// finding is one comparison that found nothing to do.
type finding struct {
	name    string
	uid     types.UID
	version string // resourceVersion: any change, whoever made it, makes another
	desired [sha256.Size]byte
}

// is tells whether this state of live is known to be what is desired.
func (s *settled) is(live client.Object, desired [sha256.Size]byte) bool {
	key := types.NamespacedName{Namespace: live.GetNamespace(), Name: live.GetLabels()[v1alpha1.LabelNode]}
	s.mu.Lock()
	defer s.mu.Unlock()
	f, known := s.nodes[key][reflect.TypeOf(live)]
	return known && f.name == live.GetName() && f.uid == live.GetUID() && f.version == live.GetResourceVersion() && f.desired == desired
}

func (s *settled) note(node *v1alpha1.KoiNode, live client.Object, desired [sha256.Size]byte) {
	key := client.ObjectKeyFromObject(node)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.nodes == nil {
		s.nodes = map[types.NamespacedName]map[reflect.Type]finding{}
	}
	if s.nodes[key] == nil {
		s.nodes[key] = map[reflect.Type]finding{}
	}
	s.nodes[key][reflect.TypeOf(live)] = finding{name: live.GetName(), uid: live.GetUID(), version: live.GetResourceVersion(), desired: desired}
}

// Forget drops what is remembered for a KoiNode that is no more.
func (a *Applier) Forget(node types.NamespacedName) {
	a.settled.mu.Lock()
	defer a.settled.mu.Unlock()
	delete(a.settled.nodes, node)
}

// sumOf sums up what is desired.
func sumOf(want client.Object) ([sha256.Size]byte, error) {
	text, err := json.Marshal(want)
	if err != nil {
		return [sha256.Size]byte{}, fmt.Errorf("encode %s: %w", describe(want), err)
	}
	return sha256.Sum256(text), nil
}
