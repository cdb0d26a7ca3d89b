package edge

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// message is an edge event on its way. Time stands for the manifest's timestamp.
type message struct {
	forget  bool
	profile protocol.EdgeProfile
	time    int
}

// world is two nodes and what is between them: a channel each way that loses,
// doubles and reorders.
type world struct {
	rnd        *rand.Rand
	toSource   []message
	toTarget   []message
	reliable   bool
	held       [2]*protocol.EdgeProfile // by source and by target
	times      [2]int                   // their timestamps
	clock      int
	negotiator Negotiation
	subscriber Subscription
	resting    int // the target asks again after a refusal only when this is over
}

const (
	atSource = iota
	atTarget
)

func (w *world) hold(end int, p *protocol.EdgeProfile, at int) {
	w.held[end], w.times[end] = p, at
}

// stamp is the timestamp rule: later than what is held and what was received.
func (w *world) stamp(end, received int) int {
	w.clock++
	return max(w.clock, w.times[end]+1, received+1)
}

func (w *world) send(queue *[]message, m message) {
	*queue = append(*queue, m)
	if !w.reliable && w.rnd.IntN(4) == 0 {
		*queue = append(*queue, m)
	}
}

// deliver takes a message out of a queue; in bad times any of them, or none.
func (w *world) deliver(queue *[]message) (message, bool) {
	if len(*queue) == 0 {
		return message{}, false
	}
	i := 0
	if !w.reliable {
		i = w.rnd.IntN(len(*queue))
	}
	m := (*queue)[i]
	*queue = append((*queue)[:i:i], (*queue)[i+1:]...)
	if !w.reliable && w.rnd.IntN(3) == 0 {
		return message{}, false
	}
	return m, true
}

func (w *world) stepSource() error {
	m, ok := w.deliver(&w.toSource)
	if !ok {
		return nil
	}
	held := w.held[atSource]
	if held != nil && m.time <= w.times[atSource] {
		return nil // the manifest phase stops what is not newer
	}
	in := w.negotiator
	in.Current, in.Received = held, m.profile
	out := Negotiate(in)
	if problem := promise(in, out); problem != "" {
		return fmt.Errorf("%s: in %+v, out %+v", problem, in, out)
	}
	w.carryOut(out, m)
	return nil
}

func (w *world) carryOut(out Outcome, m message) {
	switch out.Action {
	case Approve, Reaffirm:
		at := w.stamp(atSource, m.time)
		w.hold(atSource, &out.Profile, at)
		w.send(&w.toTarget, message{profile: out.Profile, time: at})
	case Wait:
		w.hold(atSource, &out.Profile, m.time)
	case Refuse:
		w.hold(atSource, nil, 0)
		w.send(&w.toTarget, message{forget: true})
	}
}

func (w *world) stepTarget() {
	m, ok := w.deliver(&w.toTarget)
	if !ok {
		return
	}
	held := w.held[atTarget]
	in := Reception{Self: target, FromSource: true, Current: held}
	if !m.forget {
		if held != nil && m.time <= w.times[atTarget] {
			return
		}
		in.Received = &m.profile
	}
	switch out := Receive(in); out.Action {
	case Accept:
		w.hold(atTarget, &out.Profile, m.time)
	case Repropose:
		at := w.stamp(atTarget, m.time)
		w.hold(atTarget, &out.Profile, at)
		w.send(&w.toSource, message{profile: out.Profile, time: at})
	case Refused, Withdrawn:
		w.hold(atTarget, nil, 0)
		w.resting = 3
	}
}

// tick is the target's routine: propose what is wanted, repeat a proposal that
// stays unanswered, and ask whether an approved edge still stands.
func (w *world) tick() {
	if w.resting > 0 {
		w.resting--
		return
	}
	in := w.subscriber
	in.Current = w.held[atTarget]
	p, _ := Subscribe(in)
	switch {
	case p != nil:
	case in.Current == nil:
		return
	case in.Current.Status == protocol.Proposed:
		p = in.Current
	default:
		// bundles/fetch of the edge: the other end's own word. Not found or
		// other terms: propose again.
		theirs := w.held[atSource]
		if theirs != nil && SameTerms(*theirs, *in.Current) && theirs.Status == protocol.Approved {
			return
		}
		again := *in.Current
		again.Status = protocol.Proposed
		p = &again
	}
	at := w.stamp(atTarget, 0)
	w.hold(atTarget, p, at)
	w.send(&w.toSource, message{profile: *p, time: at})
}

// Two nodes over a bad network, while interests, policy and decisions change:
// never does the source approve what it may not, and once the network is good
// and nobody changes anything they agree.
func TestConvergence(t *testing.T) {
	deadline := time.Now().Add(time.Second)
	seed := uint64(0)
	for ; seed < 20_000 && time.Now().Before(deadline); seed++ {
		if err := converge(seed); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
	if seed < 200 {
		t.Errorf("only %d runs in a second", seed)
	}
}

func converge(seed uint64) error {
	rnd := rand.New(rand.NewPCG(seed, 1))
	all := []rid.Type{note, doc, other, rid.NodeType}
	some := func() []rid.Type {
		var out []rid.Type
		for _, t := range all {
			if rnd.IntN(2) == 0 {
				out = append(out, t)
			}
		}
		return out
	}
	kinds := []protocol.NodeKind{protocol.Full, protocol.Partial}
	w := &world{rnd: rnd}
	w.negotiator = Negotiation{Self: source, Provides: some(), Policy: Automatic, Known: true, TargetKind: kinds[rnd.IntN(2)]}
	w.subscriber = Subscription{Self: target, SelfKind: w.negotiator.TargetKind, Source: source,
		SourceProfile: protocol.NodeProfile{NodeType: protocol.Full, Provides: protocol.Provides{Event: some()}}, Want: some()}
	reconsider := func() error {
		in := w.negotiator
		in.Current = w.held[atSource]
		out := Reconsider(in)
		if out.Action == Approve {
			in.Received = *in.Current
			if problem := promise(in, out); problem != "" {
				return fmt.Errorf("reconsidering: %s: %+v", problem, out)
			}
		}
		if out.Action != Keep {
			w.carryOut(out, message{})
		}
		return nil
	}
	steps := 20 + rnd.IntN(60)
	for range steps {
		var err error
		switch rnd.IntN(12) {
		case 0:
			w.subscriber.Want = some()
		case 1:
			w.negotiator.Policy = []Policy{Automatic, Manual}[rnd.IntN(2)]
			err = reconsider()
		case 2:
			w.negotiator.Decision = []*Decision{nil, nil, {}, {Approved: true, EdgeType: protocol.Webhook, RIDTypes: some()}, {Approved: true, EdgeType: protocol.Poll, RIDTypes: all}}[rnd.IntN(5)]
			err = reconsider()
		case 3:
			w.hold(atTarget, nil, 0) // it lost its volume
		case 4:
			w.hold(atSource, nil, 0)
		case 5:
			w.negotiator.Provides = some()
			err = reconsider()
		case 6, 7:
			w.tick()
		case 8, 9:
			err = w.stepSource()
		default:
			w.stepTarget()
		}
		if err != nil {
			return err
		}
	}

	w.reliable, w.resting = true, 0
	for range 30 {
		w.tick()
		for len(w.toSource)+len(w.toTarget) > 0 {
			if err := w.stepSource(); err != nil {
				return err
			}
			w.stepTarget()
		}
	}
	w.resting = 0
	w.tick()
	return w.agreement()
}

// agreement says what is wrong with the end state, in which the target has just
// sent anything it still wants to say.
func (w *world) agreement() error {
	ours, theirs := w.held[atTarget], w.held[atSource]
	in := w.subscriber
	in.Current = nil
	want, _ := Subscribe(in)
	state := fmt.Sprintf("source holds %+v, target %+v, wants %+v; %+v", theirs, ours, want, w.negotiator)
	if ours == nil {
		if want != nil {
			return fmt.Errorf("the target gave up: %s", state)
		}
		return nil
	}
	if want != nil && !TypesSubset(want.RIDTypes, ours.RIDTypes) {
		return fmt.Errorf("the target has less than it wants: %s", state)
	}
	n := w.negotiator
	n.Received = with(*ours, func(p *protocol.EdgeProfile) { p.Status = protocol.Proposed })
	n.Current = theirs
	switch out := Negotiate(n); {
	case out.Action == Refuse && theirs == nil && ours.Status == protocol.Proposed:
		return nil
	case out.Action == Wait && theirs != nil && theirs.Status == protocol.Proposed && ours.Status == protocol.Proposed && SameTerms(*ours, *theirs):
		return nil
	case out.Action == Reaffirm && ours.Status == protocol.Approved:
		return nil
	default:
		return fmt.Errorf("no agreement (%s, %s): %s", out.Action, out.Reason, state)
	}
}
