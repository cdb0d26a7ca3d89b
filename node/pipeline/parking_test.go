package pipeline

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/koi-net/koi-operator/node/rid"
)

// Lanes come back when their time or their node has come, once, and in the order
// of time.
func TestParking(t *testing.T) {
	start := time.Unix(1000, 0)
	p := parking{byNode: map[rid.RID]map[*lane]bool{}}
	rnd := rand.New(rand.NewPCG(1, 2))
	nodes := []rid.RID{"", "orn:koi-net.node:a+1", "orn:koi-net.node:b+2"}
	const lanes = 300
	left := map[*lane]bool{}
	for range lanes {
		l := &lane{}
		left[l] = true
		p.add(l, start.Add(time.Duration(rnd.IntN(100))*time.Second), nodes[rnd.IntN(len(nodes))])
	}
	take := func(l *lane) {
		t.Helper()
		if !left[l] || l.parked {
			t.Fatalf("a lane came back twice, or is still parked: %+v", l)
		}
		delete(left, l)
	}
	for _, l := range p.awaiting(nodes[1]) {
		if l.awaits != nodes[1] {
			t.Errorf("it awaits %s", l.awaits)
		}
		take(l)
	}
	for s := range 100 {
		now := start.Add(time.Duration(s) * time.Second)
		var before time.Time
		for _, l := range p.due(now) {
			if l.retryAt.After(now) || l.retryAt.Before(before) {
				t.Errorf("at %s came %s after %s", now, l.retryAt, before)
			}
			before = l.retryAt
			take(l)
		}
		if len(left) > 0 && p.untilFirst(now) <= 0 {
			t.Fatal("one that is due was left")
		}
	}
	if len(left) != 0 || len(p.byNode) != 0 || p.untilFirst(start) != time.Hour {
		t.Errorf("%d lanes and %d nodes are left", len(left), len(p.byNode))
	}
}
