//go:build chaos

package main

import (
	"bytes"
	"errors"
	"flag"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/koi-net/koi-operator/hack/chaos/koinode"
)

// The bounded share: 180 rounds of kills, and about a minute and a quarter in all.
var (
	seed     = flag.Uint64("seed", 0, "repeat the choices of an earlier run")
	rounds   = flag.Int("rounds", 30, "rounds of each scenario that kills nodes")
	duration = flag.Duration("duration", 12*time.Second, "how long a soak lasts")
)

func TestChaos(t *testing.T) {
	program, err := koinode.Build(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	o := options{rounds: *rounds, duration: *duration, seed: *seed, program: program}
	if o.seed == 0 {
		o.seed = rand.Uint64() | 1
	}
	for _, s := range scenarios() {
		t.Run(s.name, func(t *testing.T) {
			var said bytes.Buffer
			err := s.run(t.Context(), &run{options: o, out: &said, until: time.Now().Add(o.duration)})
			t.Logf("seed %d\n%s", o.seed, said.String())
			switch {
			case errors.Is(err, errSkipped):
				t.Skip(err)
			case err != nil:
				t.Fatal(err)
			}
		})
	}
}
