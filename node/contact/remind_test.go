package contact

import (
	"testing"
	"time"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// A partial node cannot be asked what it knows: it is told again of a proposal that
// it did not answer, ever less often, and of every edge when it introduces itself.
func TestPartialNodeIsReminded(t *testing.T) {
	w := newWorld(t, nil)
	w.keep(w.alice(protocol.Partial), "unsigned")
	w.keep(w.bundle(fromAlice, edgeContents(alice, self, protocol.Proposed), 0), string(self))
	own, edge := "send NEW "+string(self)+" to ["+string(alice)+"]", "send NEW "+string(fromAlice)+" to ["+string(alice)+"]"
	w.m.Poke(alice)
	w.expect("just proposed", w.turn(0))
	w.expect("soon", w.turn(9*time.Second))
	w.expect("unanswered", w.turn(2*time.Second), own, edge)
	w.expect("soon after", w.turn(15*time.Second))
	w.expect("later", w.turn(10*time.Second), own, edge)

	w.keep(w.bundle(fromAlice, edgeContents(alice, self, protocol.Approved), time.Second), "unsigned")
	w.expect("approved", w.turn(5*time.Minute))
	toAlice := rid.NewEdge(self, alice)
	w.keep(w.bundle(toAlice, edgeContents(self, alice, protocol.Approved), time.Second), string(self))
	w.m.Introduced(alice)
	w.expect("introduced itself", w.turn(0), own, edge, own, "send NEW "+string(toAlice)+" to ["+string(alice)+"]")
	w.expect("at rest", w.turn(5*time.Minute))
}
