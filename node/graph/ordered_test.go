package graph

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/koi-net/koi-operator/node/rid"
)

// TestOrdered holds an ordered set against a map: while it grows, while it comes and
// goes, while it shrinks to nothing, from either end and from anywhere.
func TestOrdered(t *testing.T) {
	for name, pick := range map[string]func(*rand.Rand, int) int{
		"anywhere": func(rng *rand.Rand, _ int) int { return rng.IntN(5000) },
		"upwards":  func(_ *rand.Rand, step int) int { return step % 5000 },
		"down":     func(_ *rand.Rand, step int) int { return 4999 - step%5000 },
		"few":      func(rng *rand.Rand, _ int) int { return rng.IntN(3) },
	} {
		t.Run(name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(1, 2))
			var o ordered
			model := map[rid.RID]struct{}{}
			for phase, grows := range []int{9, 5, 1, 9, 0} { // of ten steps
				for step := range 12_000 {
					r := rid.RID(fmt.Sprintf("orn:t:%04d", pick(rng, step)))
					if rng.IntN(10) < grows {
						o.add(r)
						model[r] = struct{}{}
					} else {
						o.remove(r)
						delete(model, r)
					}
					if step%500 == 0 {
						check(t, &o, model)
					}
				}
				check(t, &o, model)
				if grows == 0 && name != "anywhere" && o.size != 0 {
					t.Errorf("phase %d: %d are left", phase, o.size)
				}
			}
		})
	}
	var none *ordered
	if none.list() != nil {
		t.Error("a set that is not there has members")
	}
	for range none.all {
		t.Error("a set that is not there has a member")
	}
}

func check(t *testing.T, o *ordered, model map[rid.RID]struct{}) {
	t.Helper()
	want := slices.Sorted(maps.Keys(model))
	if got := o.list(); !slices.Equal(got, want) || o.size != len(want) {
		t.Fatalf("%d members, counted %d, want %d", len(got), o.size, len(want))
	}
	if got := slices.Collect(o.all); !slices.Equal(got, want) {
		t.Fatal("all yields others")
	}
	for range o.all {
		break
	}
	for _, c := range o.chunks {
		if len(c) == 0 || len(c) > chunkSize {
			t.Fatalf("a run of %d", len(c))
		}
	}
	if most := 4*len(want)/chunkSize + 2; len(o.chunks) > most {
		t.Fatalf("%d runs of %d members", len(o.chunks), len(want))
	}
}
