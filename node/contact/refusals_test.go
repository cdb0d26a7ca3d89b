package contact

import (
	"testing"
	"time"

	"github.com/koi-net/koi-operator/node/protocol"
)

// A refusal whose rest is over is none any longer, looked at or not.
func TestRefusalsEnd(t *testing.T) {
	w := newWorld(t, nil)
	w.m.Rest(fromAlice, protocol.EdgeProfile{Source: alice, Target: self}, true)
	if got := w.m.Refusals(); len(got) != 1 {
		t.Errorf("refusals %+v, want one", got)
	}
	w.turn(2 * time.Hour)
	if got := w.m.Refusals(); len(got) != 0 {
		t.Errorf("refusals after the rest: %+v", got)
	}
}
