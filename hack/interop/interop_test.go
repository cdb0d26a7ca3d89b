//go:build interop

package main

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/koi-net/koi-operator/hack/interop/reference"
	"github.com/koi-net/koi-operator/node/rid"
)

// What is tried under a coordinator of each side: the rows of the table.
const (
	rowHandshake    = "handshakes; edges with the coordinator approved at both ends"
	rowReturns      = "coordinator killed (ours) or restarted (theirs): newcomers meet everybody"
	rowEdges        = "edges between ours and theirs, both ways, approved at both ends"
	rowFetch        = "what was there before is fetched, both ways, with its hash"
	rowToTheirs     = "NEW, UPDATE, FORGET from ours: to their full node by webhook, to their partial by poll"
	rowToOurs       = "NEW, UPDATE, FORGET from theirs: to our full node by webhook, to our partial by poll"
	rowPartialOurs  = "NEW, UPDATE, FORGET from our partial node to their full one"
	rowPartialTheir = "NEW, UPDATE, FORGET from their partial node to our full one"
	rowAmong        = "theirs among themselves, brought together by the coordinator"
	rowTheirReturn  = "theirs restarted: what came meanwhile arrives, traffic both ways"
	rowOurReturn    = "ours killed: what came meanwhile arrives, traffic both ways"
	rowLostQueue    = "theirs killed with events in its poll queue: ours has them all the same"
	rowForgotten    = "ours away for long: known again, edges approved again, nothing missed"
	rowPartialAgain = "and their partial node, restarted, hears ours again"
	rowLeaves       = "ours leaves for good: theirs forget it"
)

// netRows are the rows in the order of the table.
var netRows = []string{
	rowHandshake, rowReturns, rowEdges, rowFetch, rowToTheirs, rowToOurs, rowPartialOurs, rowPartialTheir, rowAmong,
	rowTheirReturn, rowOurReturn, rowLostQueue, rowForgotten, rowPartialAgain, rowLeaves,
}

// sides are the coordinators.
var sides = []string{"our coordinator", "their coordinator"}

// TestInterop runs each release in every role beside ours.
func TestInterop(t *testing.T) {
	needReference(t)
	for _, e := range suite.environments {
		for _, side := range sides {
			t.Run(e.Release.Version+"/"+side, func(t *testing.T) {
				t.Parallel()
				begin(t, e, side).all(t)
			})
		}
	}
}

// begin starts the coordinator and a full node of each side, which have
// something to tell before they meet.
func begin(t *testing.T, e reference.Environment, side string) *sharedNet {
	t.Helper()
	s := &sharedNet{koiNet: newNet(t, side, e.Release.Version), release: e.Release}
	lead := role{name: "coordinator", full: true, coordinator: true, provides: nodeTypes, interests: []rid.Type{rid.NodeType}}
	if side == sides[0] {
		s.coordinator = newOurs(s.dir, lead)
	} else {
		s.coordinator = newTheirs(e, s.dir, lead)
	}
	s.join(t, s.coordinator)
	ourFull, ourPartial, theirFull, theirPartial := s.roles(&contact{
		url: s.coordinator.url(), rid: s.coordinator.rid(), ours: side == sides[0],
	})
	s.ourFull, s.ourPartial = newOurs(s.dir, ourFull), newOurs(s.dir, ourPartial)
	s.theirFull, s.theirPartial = newTheirs(e, s.dir, theirFull), newTheirs(e, s.dir, theirPartial)
	s.join(t, s.ourFull)
	put(t, s.ourFull, note(ourType, "early"), contents)
	s.join(t, s.theirFull)
	put(t, s.theirFull, note(theirType, "early"), contents)
	return s
}

// contents has what the versions write, hash and sign differently.
const contents = `{"text":"Grüße <&> \"\u2028\u007f\" 😀","whole":1.0,"tiny":1e-05,"small":0.001,"large":1e16,"half":0.5,` +
	`"negative":-7,"none":null,"list":[1,[],{"k":{}}],"b":1,"a":true,"é":"e"}`

// all tries everything in order: each step builds on the ones before.
func (s *sharedNet) all(t *testing.T) {
	for _, step := range []struct {
		row string
		run func(*testing.T)
	}{
		{rowHandshake, s.met},
		{rowReturns, s.coordinatorReturns},
		{rowEdges, s.edges},
	} {
		if !s.try(t, step.row, step.run) {
			t.FailNow() // nothing of what follows can hold
		}
	}
	if _, mine := s.coordinator.(*ours); mine || !s.release.Signed {
		s.try(t, rowFetch, s.fetched)
	} else {
		s.tryFault(t, rowFetch, "yes, unless theirs asks too early (once)", s.fetchedOnce)
	}
	s.events(t)
	s.try(t, rowTheirReturn, s.theirsReturn)
	s.try(t, rowOurReturn, s.oursReturn)
	s.try(t, rowLostQueue, s.queueLost)
	s.try(t, rowForgotten, s.forgotten)
	if s.release.Version == "1.3.2" {
		s.tryFault(t, rowPartialAgain, "no (it does not catch up)", s.partialNotAgain)
	} else {
		s.try(t, rowPartialAgain, s.partialAgain)
	}
	s.try(t, rowLeaves, s.leaves)
}

// handshakes: the coordinator subscribed to every node of the other side, and
// they to it. What theirs make of each other is not ours to judge.
func (s *sharedNet) handshakes(t *testing.T) {
	_, mine := s.coordinator.(*ours)
	for _, m := range s.members[1:] {
		if _, same := m.(*ours); mine || same {
			approved(t, m, s.coordinator)
			approved(t, s.coordinator, m)
		}
	}
}

// met: the handshakes, and theirs came to know a coordinator of theirs: one of 2.x
// that does not reach its first contact at its start ends, so that must have been
// before the coordinator is restarted.
func (s *sharedNet) met(t *testing.T) {
	s.handshakes(t)
	if _, mine := s.coordinator.(*ours); mine {
		return
	}
	for _, m := range s.members[1:] {
		if _, mine := m.(*ours); mine {
			continue
		}
		eventually(t, m.name()+" and its coordinator know each other", func(ctx context.Context) (bool, string) {
			there, seen := knows(ctx, s.coordinator, m)
			back, seenToo := knows(ctx, m, s.coordinator)
			return there && back, seen + "; " + seenToo
		})
	}
}

// coordinatorReturns: who joins after the coordinator came back meets everybody.
func (s *sharedNet) coordinatorReturns(t *testing.T) {
	if _, mine := s.coordinator.(*ours); mine {
		s.coordinator.kill()
	} else if err := s.coordinator.stop(t.Context()); err != nil {
		t.Error(err)
	}
	if err := s.coordinator.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.join(t, s.ourPartial, s.theirPartial)
	s.meet(t)
	s.handshakes(t)
}

// meet waits until their partial node knows our full one. It asks the
// coordinator for the other nodes once, and never again if that fails, as it
// may while a coordinator of 1.2 writes down who asks: then it starts over.
func (s *sharedNet) meet(t *testing.T) {
	for range 2 {
		for deadline := time.Now().Add(patience / 3); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
			if known, _ := knows(t.Context(), s.theirPartial, s.ourFull); known {
				return
			}
		}
		t.Log("their partial node lost its only attempt to hear of the others, and starts over")
		s.theirPartial.kill()
		if err := s.theirPartial.(*theirs).startOver(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// edges: each side subscribed to what the other provides.
func (s *sharedNet) edges(t *testing.T) {
	// Ours and 2.1 do not look for partial nodes by themselves: somebody has to ask for these.
	propose(t, s.ourFull, s.theirPartial, theirType)
	propose(t, s.theirFull, s.ourPartial, ourType)
	for _, e := range [][2]member{
		{s.ourFull, s.theirFull}, {s.ourFull, s.theirPartial}, {s.theirFull, s.ourFull}, {s.theirFull, s.ourPartial},
		{s.ourPartial, s.theirFull}, {s.theirPartial, s.ourFull},
	} {
		approved(t, e[0], e[1])
	}
}

// fetched: what was known before anybody subscribed arrived.
func (s *sharedNet) fetched(t *testing.T) {
	for _, m := range []member{s.theirFull, s.theirPartial} {
		has(t, m, note(ourType, "early"), contents)
		sameHash(t, s.ourFull, m, note(ourType, "early"))
	}
	s.fetchedByOurs(t)
}

func (s *sharedNet) fetchedByOurs(t *testing.T) {
	for _, m := range []member{s.ourFull, s.ourPartial} {
		has(t, m, note(theirType, "early"), contents)
		sameHash(t, s.theirFull, m, note(theirType, "early"))
	}
}

// fetchedOnce is fetched where theirs may ask too early: their coordinator
// tells of a newcomer after up to a second, and meanwhile the newcomer, to
// which ours has to answer that it does not know it, asks once.
func (s *sharedNet) fetchedOnce(t *testing.T) {
	s.fetchedByOurs(t)
	for _, m := range []member{s.theirFull, s.theirPartial} {
		early := note(ourType, "early")
		eventually(t, m.name()+" has what was there before, or was not known when it asked", func(ctx context.Context) (bool, string) {
			b, err := m.get(ctx, early)
			return err == nil && (b != nil || m.(*theirs).wasUnknown()), "neither"
		})
	}
}

// events: NEW, UPDATE and FORGET reach every subscriber.
func (s *sharedNet) events(t *testing.T) {
	ways := []struct {
		row  string
		from member
		of   rid.Type
		to   []member
	}{
		{rowToTheirs, s.ourFull, ourType, []member{s.theirFull, s.theirPartial}},
		{rowToOurs, s.theirFull, theirType, []member{s.ourFull, s.ourPartial}},
		{rowPartialOurs, s.ourPartial, ourType, []member{s.theirFull}},
		{rowPartialTheir, s.theirPartial, theirType, []member{s.ourFull}},
		{rowAmong, s.theirFull, theirType, []member{s.theirPartial}},
	}
	for i, w := range ways {
		s.try(t, w.row, func(t *testing.T) {
			r := note(w.of, fmt.Sprint("event-", i))
			for _, text := range []string{contents, `{"changed":true}`} {
				put(t, w.from, r, text)
				for _, m := range w.to {
					has(t, m, r, text)
				}
			}
			if err := w.from.forget(t.Context(), r); err != nil {
				t.Error(err)
			}
			hasNot(t, w.from, r)
			for _, m := range w.to {
				hasNot(t, m, r)
			}
		})
	}
}

// traffic sees that full nodes of both sides still hear each other.
func (s *sharedNet) traffic(t *testing.T, name string) {
	t.Helper()
	put(t, s.ourFull, note(ourType, name), contents)
	put(t, s.theirFull, note(theirType, name), contents)
	has(t, s.theirFull, note(ourType, name), contents)
	has(t, s.ourFull, note(theirType, name), contents)
	has(t, s.ourPartial, note(theirType, name), contents)
}

// theirsReturn: what a node of ours has for one of theirs waits until that is back.
func (s *sharedNet) theirsReturn(t *testing.T) {
	for _, name := range []string{"changed", "forgotten"} {
		put(t, s.ourFull, note(ourType, name), contents)
		has(t, s.theirFull, note(ourType, name), contents)
		has(t, s.theirPartial, note(ourType, name), contents)
	}
	for _, m := range []member{s.theirFull, s.theirPartial} {
		if err := m.stop(t.Context()); err != nil {
			t.Error(err)
		}
	}
	put(t, s.ourFull, note(ourType, "meanwhile"), contents)
	put(t, s.ourFull, note(ourType, "changed"), `{"changed":"meanwhile"}`)
	if err := s.ourFull.forget(t.Context(), note(ourType, "forgotten")); err != nil {
		t.Error(err)
	}
	s.restart(t, s.theirFull, s.theirPartial)
	for _, m := range []member{s.theirFull, s.theirPartial} {
		has(t, m, note(ourType, "meanwhile"), contents)
		has(t, m, note(ourType, "changed"), `{"changed":"meanwhile"}`)
		hasNot(t, m, note(ourType, "forgotten"))
	}
	s.traffic(t, "they-are-back")
}

// restart starts members that were there before, side by side.
func (s *sharedNet) restart(t *testing.T, members ...member) {
	t.Helper()
	startAll(t, members)
}

// oursReturn: what came while ours were dead is fetched when they are back.
func (s *sharedNet) oursReturn(t *testing.T) {
	put(t, s.theirFull, note(theirType, "changed"), contents)
	has(t, s.ourFull, note(theirType, "changed"), contents)
	has(t, s.ourPartial, note(theirType, "changed"), contents)
	s.ourFull.kill()
	s.ourPartial.kill()
	put(t, s.theirFull, note(theirType, "meanwhile"), contents)
	put(t, s.theirFull, note(theirType, "changed"), `{"changed":"meanwhile"}`)
	s.restart(t, s.ourFull, s.ourPartial)
	for _, m := range []member{s.ourFull, s.ourPartial} {
		has(t, m, note(theirType, "meanwhile"), contents)
		has(t, m, note(theirType, "changed"), `{"changed":"meanwhile"}`)
	}
	s.traffic(t, "we-are-back")
	put(t, s.ourPartial, note(ourType, "we-are-back-too"), contents)
	has(t, s.theirFull, note(ourType, "we-are-back-too"), contents)
}

// queueLost: the reference keeps what waits to be polled in memory.
func (s *sharedNet) queueLost(t *testing.T) {
	if err := s.ourPartial.stop(t.Context()); err != nil {
		t.Error(err)
	}
	put(t, s.theirFull, note(theirType, "queued"), contents)
	has(t, s.ourFull, note(theirType, "queued"), contents) // so it is queued as well
	s.theirFull.kill()
	s.restart(t, s.theirFull)
	s.restart(t, s.ourPartial)
	has(t, s.ourPartial, note(theirType, "queued"), contents)
}

// forgotten: ours is away until a node of theirs forgets it, where the release does that.
func (s *sharedNet) forgotten(t *testing.T) {
	s.ourFull.kill()
	last := 0
	if s.release.Forgets() {
		eventually(t, "their nodes forget ours", func(ctx context.Context) (bool, string) {
			last++
			put(t, s.theirFull, note(theirType, fmt.Sprint("away-", last)), contents)
			full, seen := knows(ctx, s.theirFull, s.ourFull)
			partial, seenToo := knows(ctx, s.theirPartial, s.ourFull)
			return !full && !partial, seen + "; " + seenToo
		})
	} else {
		for ; last < 6; last++ {
			put(t, s.theirFull, note(theirType, fmt.Sprint("away-", last+1)), contents)
		}
		if known, seen := knows(t.Context(), s.theirFull, s.ourFull); !known {
			t.Errorf("this release is not known to forget: %s", seen)
		}
	}
	s.restart(t, s.ourFull)
	approved(t, s.ourFull, s.theirFull)
	approved(t, s.theirFull, s.ourFull)
	for i := range last {
		has(t, s.ourFull, note(theirType, fmt.Sprint("away-", i+1)), contents)
	}
	s.traffic(t, "remembered")
}

// partialAgain: nobody can reach a partial node that forgot us; it has to look
// for us itself, which it does when it starts.
func (s *sharedNet) partialAgain(t *testing.T) {
	if err := s.theirPartial.stop(t.Context()); err != nil {
		t.Error(err)
	}
	s.restart(t, s.theirPartial)
	approved(t, s.ourFull, s.theirPartial)
	put(t, s.ourFull, note(ourType, "partial-again"), contents)
	has(t, s.theirPartial, note(ourType, "partial-again"), contents)
}

// partialNotAgain: at its start 1.3.2 asks nobody for the nodes it does not know.
func (s *sharedNet) partialNotAgain(t *testing.T) {
	if err := s.theirPartial.stop(t.Context()); err != nil {
		t.Error(err)
	}
	s.restart(t, s.theirPartial)
	// It processes in order, so what it does at its start is over once it has this.
	put(t, s.theirPartial, note(theirType, "partial-not-again"), contents)
	has(t, s.theirPartial, note(theirType, "partial-not-again"), contents)
	if known, _ := knows(t.Context(), s.theirPartial, s.ourFull); known {
		t.Error("the release is known not to learn of us again, and it did")
	}
}

// leaves: a node of ours that goes for good says so. A release without
// signatures forgets the node and keeps its edges.
func (s *sharedNet) leaves(t *testing.T) {
	if err := s.ourFull.(*ours).admin.Leave(t.Context()); err != nil {
		t.Error(err)
	}
	left := ""
	if !s.release.Signed {
		left = "APPROVED"
	}
	eventually(t, "their full node forgets ours and its edges", func(ctx context.Context) (bool, string) {
		known, seen := knows(ctx, s.theirFull, s.ourFull)
		to, err := s.theirFull.edge(ctx, s.ourFull.rid(), s.theirFull.rid())
		from, errToo := s.theirFull.edge(ctx, s.theirFull.rid(), s.ourFull.rid())
		return !known && to == left && from == left && err == nil && errToo == nil, fmt.Sprintf("%s; edges %q, %q", seen, to, from)
	})
}
