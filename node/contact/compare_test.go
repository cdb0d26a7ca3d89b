package contact

import (
	"slices"
	"testing"
	"time"

	"github.com/koi-net/koi-operator/node/protocol"
)

// The target of an edge holds an approval that the source knows nothing of, as after
// the source's backup was restored, or the source holds an answer that is stamped
// earlier than the proposal. Both come to an end, whoever's clock is ahead.
func TestEndsThatDisagree(t *testing.T) {
	introduced := "send NEW " + string(self) + " to [" + string(alice) + "]"
	again := []string{introduced, "propose " + string(fromAlice)}
	told := []string{introduced, "send NEW " + string(fromAlice) + " to [" + string(alice) + "]"}
	taken := []string{"take " + string(fromAlice) + " from unsigned"}
	other := protocol.EdgeProfile{Source: alice, Target: self, EdgeType: protocol.Webhook, Status: protocol.Proposed, RIDTypes: nil}.Contents()
	approved, proposed := edgeContents(alice, self, protocol.Approved), edgeContents(alice, self, protocol.Proposed)
	for name, tt := range map[string]struct {
		ours, theirs []byte
		want         []string
	}{
		"approved here, proposed there": {approved, proposed, again},
		"proposed here, approved there": {proposed, approved, taken},
		"other terms proposed there":    {proposed, other, told},
	} {
		for when, at := range map[string]time.Duration{"earlier": -time.Hour, "at once": 0, "later": 2 * time.Second} {
			t.Run(name+", "+when, func(t *testing.T) {
				w := newWorld(t, func(c *Config) { c.Interests = nil })
				w.keep(w.alice(protocol.Full), "unsigned")
				w.keep(w.bundle(fromAlice, tt.ours, 0), "unsigned")
				w.held[fromAlice] = w.bundle(fromAlice, tt.theirs, at)
				w.m.Poke(alice)
				w.expect("first", w.turn(5*time.Second), append([]string{"fetch [" + string(fromAlice) + "]"}, tt.want...)...)
				if e, _ := w.graph.Edge(alice, self); name == "approved here, proposed there" && e.Profile.Status != protocol.Proposed {
					t.Errorf("it is %s here", e.Profile.Status)
				}
			})
		}
	}
}

// A source that approves, and denies it when it is asked, does not have us propose
// over and over.
func TestDisagreementDoesNotSpin(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Interests = nil })
	w.keep(w.alice(protocol.Full), "unsigned")
	w.held[fromAlice] = w.bundle(fromAlice, edgeContents(alice, self, protocol.Proposed), 0)
	proposals := 0
	for i := range 100 {
		// Approved here again, with each look, and every look is asked for.
		w.keep(w.bundle(fromAlice, edgeContents(alice, self, protocol.Approved), time.Duration(i)*2*time.Second), "unsigned")
		w.m.ForgottenBy(alice)
		if slices.Contains(w.turn(2*time.Second), "propose "+string(fromAlice)) {
			proposals++
		}
	}
	if most := int(200*time.Second/w.m.cfg.RetryCap) + 1; proposals == 0 || proposals > most {
		t.Errorf("%d proposals in 200 s, want at most %d", proposals, most)
	}
}
