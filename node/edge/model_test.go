package edge

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/koi-net/koi-operator/node/protocol"
)

// modelSeeds is how many lives of an edge are tried.
const modelSeeds = 10_000

// weights say how often each kind of deed is done, relative to the others.
var weights = [kinds]int{
	lookTarget: 10, askTarget: 6, askSource: 6, hearSourceFirst: 16, hearTargetFirst: 16, loseMessage: 5, doubleMessage: 5,
	restartTarget: 2, loseTarget: 1, loseSource: 1, backUp: 1, restoreTarget: 1, restoreSource: 1, handshake: 2, forgetAtTarget: 2, forgetAtSource: 2,
	changeWant: 3, changeTerms: 3, changePolicy: 3, changeDecision: 3, changeProvides: 3, stepClock: 2, forge: 3,
}

// life is the life of an edge over a bad network: how it begins, and what happens.
type life struct {
	seed  uint64
	deeds []deed
}

func newLife(seed uint64) life {
	rnd := rand.New(rand.NewPCG(seed, 1))
	l := life{seed: seed}
	total := 0
	for _, w := range weights {
		total += w
	}
	for range 10 + rnd.IntN(70) {
		pick, k := rnd.IntN(total), kind(0)
		for pick >= weights[k] {
			pick -= weights[k]
			k++
		}
		l.deeds = append(l.deeds, deed{kind: k, arg: rnd.Uint64()})
	}
	return l
}

// begin is the world before anything happened.
func (l life) begin() *world {
	rnd := rand.New(rand.NewPCG(l.seed, 2))
	w := &world{}
	provides := some(rnd)
	w.negotiator = Negotiation{Self: source, Provides: provides, Policy: []Policy{Automatic, Automatic, Manual}[rnd.IntN(3)], TargetKind: []protocol.NodeKind{protocol.Full, protocol.Partial}[rnd.IntN(2)]}
	w.subscriber = Subscription{
		Self: target, SelfKind: w.negotiator.TargetKind, Source: source,
		SourceProfile: protocol.NodeProfile{NodeType: protocol.Full, Provides: protocol.Provides{Event: slices.Clone(provides)}}, Want: some(rnd),
	}
	for end := range w.clock {
		w.clock[end] = 1000 + rnd.IntN(200)
	}
	return w
}

// live lets everything happen, and then come to rest.
func (l life) live(trace func(string, ...any)) error {
	w := l.begin()
	w.trace = trace
	w.note("%s", w)
	for _, d := range l.deeds {
		if err := w.do(d); err != nil {
			return err
		}
	}
	return w.fair()
}

// smallest returns a life that fails and no longer does if any deed is left out.
func (l life) smallest() life {
	for n := len(l.deeds); n > 0; {
		shorter := false
		for i := 0; i+n <= len(l.deeds); {
			try := life{l.seed, slices.Concat(l.deeds[:i], l.deeds[i+n:])}
			if try.live(nil) != nil {
				l, shorter = try, true
			} else {
				i++
			}
		}
		if n > 1 || !shorter {
			n /= 2
		}
	}
	return l
}

// story is what comes to pass in a life.
func (l life) story() string {
	var out strings.Builder
	err := l.live(func(format string, args ...any) { fmt.Fprintf(&out, format+"\n", args...) })
	lines := strings.Split(out.String(), "\n")
	const most = 150
	if n := len(lines) - most; n > 0 {
		lines = slices.Concat(lines[:most/2], []string{fmt.Sprintf("  (%d lines)", n)}, lines[len(lines)-most/2:])
	}
	return fmt.Sprintf("%s\n%v", strings.Join(lines, "\n"), err)
}

// Two nodes over a bad network, while interests, policy, decisions, terms and what is
// provided change, ends restart, lose what they know or get it back from a backup,
// forget the edge, and somebody forges their word: never does the source approve what
// it may not, nor does the target take anybody else's word; and once the network is
// good and nobody changes anything they agree, and have no more to say.
func TestConvergence(t *testing.T) {
	for seed := range uint64(modelSeeds) {
		l := newLife(seed)
		if l.live(nil) != nil {
			t.Fatalf("seed %d, %d deeds. The least of it that fails:\n%s", seed, len(l.deeds), l.smallest().story())
		}
	}
}

// The same from every kind of deed's point of view: lives consist of all of them,
// and most of them matter.
func TestLivesAreFull(t *testing.T) {
	var done [kinds]int
	ends := map[string]int{}
	for seed := range uint64(1000) {
		l := newLife(seed)
		w := l.begin()
		for _, d := range l.deeds {
			done[d.kind]++
			if err := w.do(d); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.fair(); err != nil {
			t.Fatal(err)
		}
		end := "nothing"
		if w.held[atTarget] != nil {
			end = string(w.held[atTarget].Status)
		}
		ends[end]++
	}
	for k, n := range done {
		if n < 100 {
			t.Errorf("%s: %d times only", kind(k), n)
		}
	}
	for _, end := range []string{"nothing", string(protocol.Proposed), string(protocol.Approved)} {
		if ends[end] < 50 {
			t.Errorf("%d of 1000 lives end with %s: %v", ends[end], end, ends)
		}
	}
	t.Log(ends)
}
