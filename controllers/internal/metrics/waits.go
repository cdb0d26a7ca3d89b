package metrics

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/koi-net/koi-operator/api/v1alpha1"
	"github.com/koi-net/koi-operator/controllers/internal/conditions"
)

// Kinds, a label of koi_operator_mirror_lag_seconds.
const (
	kindNode = "KoiNode"
	kindEdge = "KoiEdge"
)

// approvals times the generations of declared KoiEdges that are not approved
// yet: at most one wait for each edge.
type approvals struct {
	mu    sync.Mutex
	waits map[types.NamespacedName]wait
}

// wait is a generation's way to its approval.
type wait struct {
	uid        types.UID
	generation int64
	since      time.Time
	waited     bool // it was seen in another state than Approved
	person     bool // it waited for a person
}

// coarse is how exact a creation timestamp is, with room for the way to here.
const coarse = 2 * time.Second

func (a *approvals) begin(e *v1alpha1.KoiEdge, now time.Time) {
	if e.IsDiscovered() || e.Status.ObservedGeneration == e.Generation {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	key := types.NamespacedName{Namespace: e.Namespace, Name: e.Name}
	if w, ok := a.waits[key]; ok && w.uid == e.UID && w.generation == e.Generation {
		return
	}
	since := now
	if made := e.CreationTimestamp.Time; e.Generation == 1 && now.Sub(made) > coarse {
		since = made
	}
	a.waits[key] = wait{uid: e.UID, generation: e.Generation, since: since}
}

// stands takes in a state; ok says that it ends a wait, and decision who ended it.
func (a *approvals) stands(key types.NamespacedName, e *v1alpha1.KoiEdge, s *conditions.State, now time.Time) (decision string, d time.Duration, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	w, ok := a.waits[key]
	switch {
	case !ok || w.uid != e.UID || w.generation != e.Generation:
		return "", 0, false
	case s.Kind == conditions.Ready:
		// Rejected is the end of the wait, too, and a generation that was approved at
		// the first look changed nothing that needs approval.
		delete(a.waits, key)
		decision = byPolicy
		if w.person {
			decision = byPerson
		}
		return decision, now.Sub(w.since), w.waited && s.Reason == v1alpha1.ReasonApproved
	}
	w.waited = true
	w.person = w.person || s.Reason == v1alpha1.ReasonAwaitingApproval
	a.waits[key] = w
	return "", 0, false
}

func (a *approvals) forget(key types.NamespacedName) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.waits, key)
}

type object struct {
	kind string
	key  types.NamespacedName
}

// mirrored remembers for each object which word of its nodes it has shown, so
// that a write for another reason, long after, counts as no lag.
type mirrored struct {
	mu   sync.Mutex
	seen map[object]time.Time
}

// shows tells how old the newest word is, if it was not shown before.
func (m *mirrored) shows(o object, changed, now time.Time) (time.Duration, bool) {
	if changed.IsZero() {
		return 0, false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !changed.After(m.seen[o]) {
		return 0, false
	}
	m.seen[o] = changed
	return now.Sub(changed), true
}

func (m *mirrored) forget(o object) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.seen, o)
}
