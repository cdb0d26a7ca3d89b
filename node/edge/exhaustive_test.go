package edge

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// Bounds of the small world in which every order of everything is tried.
const (
	smallDepth  = 8 // things that happen
	smallEvents = 2 // of them, those that change what is wanted or known
	smallQueue  = 2 // messages on their way to one end; more are lost
)

// small is a state of the small world and how it came about.
type small struct {
	*world
	events int // left
	how    string
	from   *small
}

// then returns the state after something happened, or the broken promise.
func (s *small) then(what string, events int, do func(*world) error) (*small, error) {
	next := &small{world: s.clone(), events: s.events - events, how: what, from: s}
	err := do(next.world)
	for end := range next.queues {
		if len(next.queues[end]) > smallQueue {
			next.queues[end] = next.queues[end][:smallQueue]
		}
	}
	return next, err
}

// story is how a state came about.
func (s *small) story() string {
	if s.from == nil {
		return s.String()
	}
	return fmt.Sprintf("%s\n  %s\n%s", s.from.story(), s.how, s.world)
}

// key is the same for states that differ in nothing that matters: of times, only
// their order does.
func (s *small) key() string {
	var times []int
	note := func(t int) { times = append(times, t) }
	note(s.clock[0])
	for end := range s.held {
		note(s.times[end])
		for _, m := range s.queues[end] {
			note(m.time)
		}
	}
	slices.Sort(times)
	times = slices.Compact(times)
	rank := func(t int) int { return slices.Index(times, t) }
	var b strings.Builder
	fmt.Fprintf(&b, "%d %d %d %s %s %t %s", s.events, s.rest, rank(s.clock[0]), s.negotiator.Policy, s.negotiator.Decision, s.negotiator.Known, types(s.subscriber.Want))
	for end := range s.held {
		fmt.Fprintf(&b, "|%s@%d", brief(s.held[end]), rank(s.times[end]))
		for _, m := range s.queues[end] {
			m.time = rank(m.time)
			b.WriteString(";" + m.String())
		}
	}
	return b.String()
}

// happening is something that may happen in the small world, and whether it uses up
// one of its events.
type happening struct {
	what   string
	events int
	do     func(*world) error
}

// always returns a happening that breaks no promise.
func always(what string, do func(*world)) happening {
	return happening{what, 1, func(w *world) error { do(w); return nil }}
}

// happenings are all things that may happen in a state.
func (s *small) happenings() []happening {
	all := []happening{
		{"the target looks", 0, (*world).look},
		{"the target asks", 0, func(w *world) error { return w.ask(atTarget) }},
		{"the source asks", 0, func(w *world) error { return w.ask(atSource) }},
	}
	for end := range s.queues {
		for i, m := range s.queues[end] {
			without := func(w *world) { w.queues[end] = slices.Delete(slices.Clone(w.queues[end]), i, i+1) }
			all = append(all,
				happening{fmt.Sprintf("%s hears %s", name(end), m), 0, func(w *world) error { without(w); return w.deliver(end, m) }},
				happening{fmt.Sprintf("%s to %s is lost", m, name(end)), 0, func(w *world) error { without(w); return nil }},
				happening{fmt.Sprintf("%s to %s is doubled", m, name(end)), 0, func(w *world) error { w.queues[end] = append(w.queues[end], m); return nil }})
		}
	}
	if s.events == 0 {
		return all
	}
	all = append(all,
		always("the target restarts", func(w *world) { w.rest = 0 }),
		always("the target loses its volume", func(w *world) { w.hold(atTarget, nil, 0); w.rest = 0 }),
		always("the source loses its volume", func(w *world) {
			w.hold(atSource, nil, 0)
			w.negotiator.Known, w.negotiator.Decision = false, nil
		}),
		always("the target forgets the edge", func(w *world) { w.forget(atTarget) }),
		always("the source forgets the edge", func(w *world) { w.forget(atSource) }),
	)
	for _, want := range [][]rid.Type{{note}, {note, doc}} {
		all = append(all, always("the target wants "+types(want), func(w *world) { w.subscriber.Want = want }))
	}
	decide := func(what string, change func(*Negotiation)) {
		all = append(all, happening{what, 1, func(w *world) error { change(&w.negotiator); return w.reconsider() }})
	}
	for _, p := range []Policy{Automatic, Manual} {
		decide("the policy is "+string(p), func(n *Negotiation) { n.Policy = p })
	}
	for _, d := range []*Decision{nil, {}, {Approved: true, EdgeType: protocol.Webhook, RIDTypes: []rid.Type{note}}} {
		decide(fmt.Sprintf("the decision is %s", d), func(n *Negotiation) { n.Decision = d })
	}
	return all
}

// Every order of everything that can happen, up to a depth, in a small world: no
// promise is broken on the way, and from wherever it gets the ends come to agree.
func TestEveryOrder(t *testing.T) {
	start := &world{
		negotiator: Negotiation{Self: source, Provides: []rid.Type{note, doc}, Policy: Automatic, TargetKind: protocol.Full},
		subscriber: Subscription{
			Self: target, SelfKind: protocol.Full, Source: source,
			SourceProfile: protocol.NodeProfile{NodeType: protocol.Full, Provides: protocol.Provides{Event: []rid.Type{note, doc}}}, Want: []rid.Type{note},
		},
	}
	layer := []*small{{world: start, events: smallEvents}}
	seen := map[string]bool{layer[0].key(): true}
	depth := smallDepth
	if testing.Short() {
		depth -= 2
	}
	for range depth {
		var next []*small
		for _, s := range layer {
			for _, h := range s.happenings() {
				after, err := s.then(h.what, h.events, h.do)
				if err != nil {
					t.Fatalf("%v\n%s", err, after.story())
				}
				key := after.key()
				if seen[key] {
					continue
				}
				seen[key] = true
				if err := after.clone().fair(); err != nil {
					t.Fatalf("%v, after\n%s", err, after.story())
				}
				next = append(next, after)
			}
		}
		layer = next
	}
	if len(seen) < 1000 {
		t.Errorf("%d states only", len(seen))
	}
	t.Logf("%d states", len(seen))
}
