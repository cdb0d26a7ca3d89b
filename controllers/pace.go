package controllers

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/koi-net/koi-operator/controllers/internal/conditions"
)

// pace spaces repetitions of one request for one object: the first goes at
// once, the next after a second, then twice as long each time, up to a bound.
// Another request starts anew. What became of a request stands until it is made
// again: between two tries an edge fares as after the first.
type pace struct {
	mu   sync.Mutex
	last map[types.NamespacedName]paced
}

type paced struct {
	request string
	next    time.Time
	pause   time.Duration
	refused *conditions.State // nil where it was taken
}

func newPace() *pace { return &pace{last: map[types.NamespacedName]paced{}} }

// wait is how long to hold the request back, and with what it was refused when
// it was made last.
func (p *pace) wait(key types.NamespacedName, request string, now time.Time) (time.Duration, *conditions.State) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l, ok := p.last[key]; ok && l.request == request {
		return l.next.Sub(now), l.refused
	}
	return 0, nil
}

// refused notes what became of the request made last.
func (p *pace) refused(key types.NamespacedName, s *conditions.State) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l, ok := p.last[key]; ok {
		l.refused = s
		p.last[key] = l
	}
}

// step notes that the request is made now and returns the pause after it.
func (p *pace) step(key types.NamespacedName, request string, now time.Time, most time.Duration) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.last[key]
	if l.request == request {
		l.pause = min(2*l.pause, most)
	} else {
		l = paced{request: request, pause: min(time.Second, most)}
	}
	l.next = now.Add(l.pause)
	p.last[key] = l
	return l.pause
}

// forget drops what is known of an object.
func (p *pace) forget(key types.NamespacedName) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.last, key)
}
