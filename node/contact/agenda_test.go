package contact

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/koi-net/koi-operator/node/rid"
)

// TestAgenda holds the agenda against a scan of all that is planned.
func TestAgenda(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	var a agenda
	planned := map[*state]bool{}
	all := make([]*state, 50)
	for i := range all {
		all[i] = &state{peer: rid.RID(fmt.Sprint(i))}
	}
	now := time.Unix(1_800_000_000, 0)
	for step := range 20_000 {
		if st := all[rng.IntN(len(all))]; rng.IntN(2) == 0 {
			a.plan(st, now.Add(time.Duration(rng.IntN(2000)-500)*time.Second))
			planned[st] = true
		}
		now = now.Add(time.Second)
		first := now.Add(time.Hour)
		for st := range planned {
			if st.due.Before(first) {
				first = st.due
			}
		}
		switch st, wait := a.take(now); {
		case st == nil && wait != first.Sub(now):
			t.Fatalf("step %d: wait %s, want %s", step, wait, first.Sub(now))
		case st != nil && (!planned[st] || !st.due.Equal(first) || first.After(now) || wait != 0):
			t.Fatalf("step %d: took what is due at %s, the first is at %s", step, st.due, first)
		case st != nil:
			delete(planned, st)
		}
		if len(a) != len(planned) {
			t.Fatalf("step %d: %d are planned, %d should be", step, len(a), len(planned))
		}
	}
}

// BenchmarkPoke has one peer of many looked at.
func BenchmarkPoke(b *testing.B) {
	for _, n := range []int{100, 10_000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			m := &Manager{cfg: Config{Now: time.Now}, wake: make(chan struct{}, 1), peers: map[rid.RID]*state{}}
			later := time.Now().Add(time.Hour)
			for i := range n {
				m.agenda.plan(m.state(rid.RID(fmt.Sprint(i))), later)
			}
			for b.Loop() {
				m.Poke("7")
				if r, wait := m.next(); r != "7" || wait != 0 {
					b.Fatal(r, wait)
				}
				m.next()
				m.peers["7"].running = false
				m.agenda.plan(m.peers["7"], later)
			}
		})
	}
}
