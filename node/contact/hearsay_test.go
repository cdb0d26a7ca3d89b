package contact

import (
	"testing"
	"time"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

var (
	keyedSelf = rid.RID("orn:koi-net.node:self+" + rid.KeyID("ours"))
	dora      = rid.RID("orn:koi-net.node:dora+" + rid.KeyID("key of dora"))
)

func dorasProfile(at string) protocol.NodeProfile {
	return protocol.NodeProfile{
		NodeType: protocol.Full, BaseURL: at, PublicKey: "key of dora", Provides: protocol.Provides{Event: []rid.Type{notes}},
	}
}

func newKeyedWorld(t *testing.T) *world {
	return newWorld(t, func(c *Config) { c.Self = keyedSelf })
}

// A node that others spoke of is asked for its own word before anything else is
// said to it.
func TestHearsayIsConfirmed(t *testing.T) {
	w := newKeyedWorld(t)
	w.keep(w.bundle(dora, dorasProfile(url).Contents(), 0), string(alice))
	w.m.Poke(dora)
	w.down = true
	w.expect("away", w.turn(0), "fetch ["+string(dora)+"]")
	w.down = false
	w.held[dora] = w.bundle(dora, dorasProfile(url).Contents(), 0)
	w.expect("back", w.turn(2*time.Second), "fetch ["+string(dora)+"]", "learn "+string(dora))
	if n, _ := w.graph.Node(dora); !n.Verified {
		t.Error("its own word does not make it verified")
	}
	w.m.Poke(dora) // as its commit does
	edge := rid.NewEdge(dora, keyedSelf)
	w.expect("then", w.turn(0), "send NEW "+string(keyedSelf)+" to ["+string(dora)+"]", "propose "+string(edge))
}

// What others say of a node that is known sends us to ask it there; what is held
// stays until it has answered itself.
func TestHintIsFollowedAndDropped(t *testing.T) {
	const there = "http://10.0.0.9:8000/koi-net"
	w := newKeyedWorld(t)
	w.m.cfg.Interests = nil
	w.keep(w.bundle(dora, dorasProfile(url).Contents(), 0), string(dora))
	w.m.Heard(dora, dorasProfile(there))
	w.down = true
	asked := 0
	for range 30 {
		asked += len(w.turn(2 * time.Minute))
	}
	if asked != hintAttempts+1 {
		t.Errorf("asked %d times where nobody is, want %d", asked, hintAttempts+1)
	}
	w.down = false
	w.held[dora] = w.bundle(dora, dorasProfile(there).Contents(), time.Second)
	w.m.Heard(dora, dorasProfile(there))
	w.expect("heard again", w.turn(0), "fetch ["+string(dora)+"] at "+there, "learn "+string(dora))
	w.expect("at rest", w.turn(time.Second))
}

func TestHintsAreBounded(t *testing.T) {
	w := newKeyedWorld(t)
	for i := range maxHints + 10 {
		r := rid.RID("orn:koi-net.node:x+" + rid.KeyID(string(rune(i))))
		w.m.Heard(r, dorasProfile(url))
	}
	if got := len(w.m.hints); got != maxHints {
		t.Errorf("%d hints, want %d", got, maxHints)
	}
	for name, p := range map[string]protocol.NodeProfile{
		"partial": {NodeType: protocol.Partial}, "ourselves": dorasProfile(url),
	} {
		w := newKeyedWorld(t)
		r := dora
		if name == "ourselves" {
			r = keyedSelf
		}
		if w.m.Heard(r, p); len(w.m.hints) != 0 {
			t.Errorf("%s: a hint was kept", name)
		}
	}
}

// A first contact of the signed generation that tells who it is gets a signed
// handshake, and is asked for its word.
func TestSignedHandshake(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Self, c.FirstContact, c.Interests = keyedSelf, url, nil })
	own := w.bundle(dora, dorasProfile(url).Contents(), 0)
	w.own, w.held[dora] = &own, own
	w.m.Resync()
	w.expect("first", w.turn(0), "broadcast FORGET "+string(keyedSelf)+", NEW "+string(keyedSelf)+" to "+url, "fetch ["+string(dora)+"]", "learn "+string(dora))
	if fc := w.m.FirstContact(); !fc.Reached || fc.RID != dora {
		t.Errorf("first contact %+v", fc)
	}

	// Met already by hearsay, it may hold edges of ours: it is not told to forget us.
	w.keep(own, string(alice))
	w.m.Forgotten(dora)
	w.expect("by hearsay", w.turn(0), "broadcast NEW "+string(keyedSelf)+" to "+url, "fetch ["+string(dora)+"]", "learn "+string(dora))

	liar := dorasProfile(url)
	liar.PublicKey = "another key"
	own = w.bundle(dora, liar.Contents(), 0)
	w.graph.DeleteNode(dora)
	w.m.Forgotten(dora)
	w.expect("a key that is not its own", w.turn(0))
	if fc := w.m.FirstContact(); fc.Message == "" {
		t.Error("nothing says why there is no handshake")
	}
}

// What others forgot is asked itself: it stays where it answers, and goes where it
// does not.
func TestDoubtIsSettledByTheNode(t *testing.T) {
	w := newKeyedWorld(t)
	w.m.cfg.Interests = nil
	w.keep(w.bundle(dora, dorasProfile(url).Contents(), 0), string(dora))
	w.held[dora] = w.bundle(dora, dorasProfile(url).Contents(), 0)
	w.m.Doubted(dora)
	w.expect("it answers", w.turn(0), "fetch ["+string(dora)+"]", "learn "+string(dora))
	if len(w.m.hints) != 0 {
		t.Error("the doubt stays")
	}
	w.down = true
	w.m.Doubted(dora)
	var said []string
	for range 30 {
		said = append(said, w.turn(2*time.Minute)...)
	}
	if len(said) != hintAttempts+2 || said[len(said)-1] != "forget "+string(dora) {
		t.Errorf("it does not answer: %q", said)
	}
	w.m.Doubted(keyedSelf)
	w.m.Doubted("orn:koi-net.node:nobody+1")
	if len(w.m.hints) != 0 {
		t.Error("who is not there is doubted")
	}
}
