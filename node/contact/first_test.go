package contact

import (
	"testing"
	"time"

	"github.com/koi-net/koi-operator/node/protocol"
)

// A first contact that wants no edge with us is told of us now and then, ever
// less often, and never again to forget us; once it is forgotten itself the
// handshake begins anew.
func TestFirstContactWithoutAnEdge(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.FirstContact, c.Interests = url, nil })
	own := w.alice(protocol.Full)
	w.own = &own
	handshake := "broadcast FORGET " + string(self) + ", NEW " + string(self) + " to " + url
	introduction := "broadcast NEW " + string(self) + " to " + url

	w.m.Resync()
	w.expect("first", w.turn(0), handshake, "learn "+string(alice))
	w.expect("at rest", w.turn(5*time.Second))
	w.expect("no edge yet", w.turn(7*time.Second), introduction)
	w.expect("soon after", w.turn(11*time.Second))
	w.expect("later", w.turn(10*time.Second), introduction)
	for range 5 {
		w.expect("at every check", w.turn(70*time.Second), introduction)
	}

	w.graph.DeleteNode(alice)
	w.m.Forgotten(alice)
	w.expect("forgotten", w.turn(0), handshake, "learn "+string(alice))
}
