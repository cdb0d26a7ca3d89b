package hostile_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/koi-net/koi-operator/node"
	"github.com/koi-net/koi-operator/node/nodetest"
	"github.com/koi-net/koi-operator/node/nodetest/hostile"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const noteType rid.Type = "orn:hostile.note"

func note(i int) rid.RID { return rid.RID(fmt.Sprintf("%s:%d", noteType, i)) }

// impatient keeps a node from waiting long for anybody.
func impatient(c *node.Config) {
	c.RequestTimeout, c.RetryCap = 200*time.Millisecond, 100*time.Millisecond
}

func honest(t *testing.T, r rid.RID, contents string) protocol.Event {
	t.Helper()
	e, err := hostile.Honest(r, time.Now(), contents)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestPeerThatBehavesIsANode(t *testing.T) {
	f := nodetest.NewFleet(t)
	p := hostile.NewPeer(t, noteType)
	held := honest(t, note(1), `{"held":1}`)
	p.Hold(protocol.Bundle{Manifest: *held.Manifest, Contents: held.Contents})
	n := f.Start("reader", impatient, node.WithFirstContact(p.URL()), node.WithInterests(noteType))
	n.WaitBundle(p.RID(), string(p.Bundle().Contents))
	n.WaitBundle(note(1), `{"held":1}`) // what it holds is caught up with
	nodetest.Eventually(t, "the node introduces itself", func() (bool, string) {
		return slices.ContainsFunc(p.Received(), func(e protocol.Event) bool {
			return e.RID == n.RID() && e.EventType == protocol.New
		}), fmt.Sprint(p.Received())
	})
}

func TestPartialNodePollsPeer(t *testing.T) {
	f := nodetest.NewFleet(t)
	p := hostile.NewPeer(t, noteType)
	n := f.Start("reader", impatient, node.AsPartial(), node.WithFirstContact(p.URL()), node.WithInterests(noteType))
	offered(t, p, n, note(1), `{"offered":1}`)
}

// offered has a polling node take an event. Like a node of the reference, the peer
// forgets what it answered, also where the answer comes too late for a node that is
// this impatient: then the event is offered anew.
func offered(t *testing.T, p *hostile.Peer, n *nodetest.Member, r rid.RID, contents string) {
	t.Helper()
	e := honest(t, r, contents)
	p.Offer(e)
	polls := p.Calls(hostile.Poll)
	nodetest.Eventually(t, fmt.Sprintf("the node has %s", r), func() (bool, string) {
		if b, err := n.Bundle(t.Context(), r); err == nil {
			return string(b.Contents) == contents, string(b.Contents)
		}
		if now := p.Calls(hostile.Poll); now > polls+10 {
			p.Offer(e)
			polls = now
		}
		return false, fmt.Sprintf("%d polls", p.Calls(hostile.Poll))
	})
}

// subscribed starts a node with a peer that subscribes to its notes.
func subscribed(t *testing.T) (*nodetest.Member, *hostile.Peer) {
	t.Helper()
	n := nodetest.NewFleet(t).Start("sensor", impatient, node.WithProvides(noteType))
	p := hostile.NewPeer(t)
	p.Pause = 10 * time.Millisecond
	if err := p.Introduce(t.Context(), n.URL()); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Say(t.Context(), n.URL(), hostile.Proposal(n.RID(), p.RID(), time.Now(), noteType)); err != nil {
		t.Fatal(err)
	}
	n.WaitEdge(n.RID(), p.RID(), protocol.Approved)
	heard(t, p, protocol.Update, rid.NewEdge(n.RID(), p.RID()))
	return n, p
}

func heard(t *testing.T, p *hostile.Peer, event protocol.EventType, r rid.RID) {
	t.Helper()
	nodetest.Eventually(t, fmt.Sprintf("the peer hears %s of %s", event, r), func() (bool, string) {
		return slices.ContainsFunc(p.Received(), func(e protocol.Event) bool { return e.RID == r && e.EventType == event }), fmt.Sprint(p.Received())
	})
}

// Whatever a subscriber does, the node works on, and once the subscriber behaves
// it hears what it missed.
func TestNodeBearsEveryMisbehaviour(t *testing.T) {
	for _, m := range hostile.Misbehaviours() {
		t.Run(string(m), func(t *testing.T) {
			t.Parallel()
			n, p := subscribed(t)
			p.Misbehave(m)
			before := p.Calls(hostile.Broadcast)
			n.Put(note(1), `{"n":1}`)
			nodetest.Eventually(t, "the node tries to tell the peer", func() (bool, string) {
				return p.Calls(hostile.Broadcast) > before, ""
			})
			n.Put(note(2), `{"n":2}`)
			if st, err := n.Admin.Status(t.Context()); err != nil || !st.Ready {
				t.Errorf("status %+v, %v", st, err)
			}
			p.Behave()
			if !m.Succeeds() {
				heard(t, p, protocol.New, note(1))
			}
			n.Put(note(3), `{"n":3}`)
			heard(t, p, protocol.New, note(3))
			if n := p.Trapped(); n != 0 {
				t.Errorf("%d redirects were followed", n)
			}
		})
	}
}

// The same from a first contact, which is asked for much more.
func TestNodeBearsEveryFirstContact(t *testing.T) {
	for _, m := range hostile.Misbehaviours() {
		t.Run(string(m), func(t *testing.T) {
			t.Parallel()
			p := hostile.NewPeer(t, noteType)
			p.Pause = 10 * time.Millisecond
			p.Misbehave(m)
			held := honest(t, note(1), `{"held":1}`)
			p.Hold(protocol.Bundle{Manifest: *held.Manifest, Contents: held.Contents})
			n := nodetest.NewFleet(t).Start("reader", impatient, node.WithFirstContact(p.URL()), node.WithInterests(noteType))
			nodetest.Eventually(t, "the node calls its first contact", func() (bool, string) {
				return p.Calls(hostile.Self) > 0, ""
			})
			n.Put(note(2), `{"n":2}`)
			p.Behave()
			n.WaitBundle(note(1), `{"held":1}`)
			if n := p.Trapped(); n != 0 {
				t.Errorf("%d redirects were followed", n)
			}
		})
	}
}

// small keeps the largest of the bodies small.
var small = protocol.Limits{BodyBytes: 1 << 20, Events: 1000, Depth: 64, ContentsBytes: 1 << 16, RIDs: 1000, RIDTypes: 100}

func TestNodeRefusesBodies(t *testing.T) {
	n := nodetest.NewFleet(t).Start("node", func(c *node.Config) { c.Limits = small })
	p := hostile.NewPeer(t)
	good := honest(t, note(1), `{"n":1}`)
	for _, b := range hostile.Bodies(small, good) {
		t.Run(b.Name, func(t *testing.T) {
			a, err := p.Post(t.Context(), n.URL(), hostile.Broadcast, b.Bytes)
			// Who sends too much may be cut off before the answer was read.
			if b.Status == http.StatusRequestEntityTooLarge && err != nil {
				return
			}
			if err != nil || a.Status != b.Status {
				t.Errorf("answer %d %.200s (%v), want %d", a.Status, a.Body, err, b.Status)
			}
		})
	}
	if err := n.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	for r, err := range n.RIDs(t.Context()) {
		if err != nil || r != n.RID() {
			t.Errorf("the node holds %s, %v", r, err)
		}
	}
}

func TestNodeLeavesAlone(t *testing.T) {
	clock := nodetest.NewClock(time.Now())
	n := nodetest.NewFleet(t).Start("node", clock.Option(), node.WithProvides(noteType))
	p, victim := hostile.NewPeer(t), hostile.NewPeer(t)
	for _, x := range []*hostile.Peer{p, victim} {
		if err := x.Introduce(t.Context(), n.URL()); err != nil {
			t.Fatal(err)
		}
	}
	n.Put(note(0), `{"own":1}`)
	now := clock.Now()
	const impostor rid.RID = "orn:koi-net.node:impostor+00000000-0000-0000-0000-000000000000"
	for name, tt := range map[string]struct {
		event protocol.Event
		holds bool // its RID, afterwards
	}{
		"wrong hash":         {hostile.WrongHash(note(11), now), false},
		"another's manifest": {hostile.OthersManifest(note(12), note(13), now), false},
		"from the future":    {hostile.Future(note(14), now.AddDate(10, 0, 0)), false},
		"own forgotten":      {hostile.Forget(note(0)), true},
		"node forgotten":     {hostile.Forget(n.RID()), true},
		"self-approved":      {hostile.SelfApproved(n.RID(), p.RID(), now, noteType), false},
		"impostor":           {hostile.Impostor(impostor, n.URL(), now), false},
	} {
		t.Run(name, func(t *testing.T) {
			beside := honest(t, rid.RID(fmt.Sprintf("%s:beside %s", noteType, name)), `{"good":1}`)
			a, err := p.Say(t.Context(), n.URL(), tt.event, beside)
			if err != nil || a.Status != http.StatusOK {
				t.Fatalf("answer %d %s (%v): one event must not hold the others up", a.Status, a.Body, err)
			}
			n.WaitBundle(beside.RID, `{"good":1}`)
			if err := n.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			if holds, err := n.Has(t.Context(), tt.event.RID); err != nil || holds != tt.holds {
				t.Errorf("holds it: %t, %v; want %t", holds, err, tt.holds)
			}
		})
	}
	if holds, err := n.Has(t.Context(), note(13)); err != nil || holds {
		t.Errorf("holds the other RID: %t, %v", holds, err)
	}
}

// What time makes good is good once the node's clock says so.
func TestFutureComes(t *testing.T) {
	clock := nodetest.NewClock(time.Now())
	n := nodetest.NewFleet(t).Start("node", clock.Option())
	p := hostile.NewPeer(t)
	stamped := clock.Now().Add(time.Hour)
	clock.Advance(time.Hour)
	if _, err := p.Say(t.Context(), n.URL(), hostile.Future(note(1), stamped)); err != nil {
		t.Fatal(err)
	}
	n.WaitBundle(note(1), `{"from":"the future"}`)
}

func TestSlowSendersHoldNobodyUp(t *testing.T) {
	n := nodetest.NewFleet(t).Start("node", func(c *node.Config) { c.ShutdownTimeout = 10 * time.Millisecond })
	p := hostile.NewPeer(t)
	ctx, cancel := context.WithCancel(t.Context())
	var slow sync.WaitGroup
	defer slow.Wait()
	defer cancel()
	for range 32 {
		slow.Go(func() {
			body := hostile.Events(honest(t, note(1), `{"slow":1}`))
			if a, err := p.Trickle(ctx, n.URL(), hostile.Broadcast, body, time.Hour); err == nil {
				t.Errorf("a body of which nothing came was answered %d", a.Status)
			}
		})
	}
	for i := range 32 {
		r := note(100 + i)
		if a, err := p.Say(t.Context(), n.URL(), honest(t, r, `{"quick":1}`)); err != nil || a.Status != http.StatusOK {
			t.Fatalf("answer %d (%v)", a.Status, err)
		}
		n.WaitBundle(r, `{"quick":1}`)
	}
	if _, err := n.Bundle(t.Context(), note(1)); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("%v, want not found", err)
	}
}

func TestSlowButHonest(t *testing.T) {
	n := nodetest.NewFleet(t).Start("node")
	p := hostile.NewPeer(t)
	body := hostile.Events(honest(t, note(1), `{"slow":1}`))
	a, err := p.Trickle(t.Context(), n.URL(), hostile.Broadcast, body, time.Millisecond)
	if err != nil || a.Status != http.StatusOK {
		t.Fatalf("answer %d (%v)", a.Status, err)
	}
	n.WaitBundle(note(1), `{"slow":1}`)
}

func TestFlood(t *testing.T) {
	n := nodetest.NewFleet(t).Start("node", func(c *node.Config) { c.Limits = small })
	a, err := hostile.NewPeer(t).Flood(t.Context(), n.URL(), hostile.Broadcast)
	if err == nil && a.Status != http.StatusRequestEntityTooLarge {
		t.Errorf("answer %d %s", a.Status, a.Body)
	}
}
