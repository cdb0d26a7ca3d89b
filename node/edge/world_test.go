package edge

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// The two ends of an edge.
const (
	atSource = iota
	atTarget
)

// Rests of a target, in its looks at the edge: after a refusal, and after the loss
// of an approved edge.
const (
	refusalRest  = 5
	withdrawRest = 1
)

// message is an edge event on its way.
type message struct {
	forget  bool
	profile protocol.EdgeProfile
	time    int  // the manifest's timestamp
	intro   bool // the sender's own bundle goes before it
	forged  bool // it is not its sender's word: somebody else's, or a self-approval
}

// world is the source and the target of one edge, a channel each way that loses,
// doubles and reorders, and what handlers and contact of a node make of the
// decisions of this package: the pure machines are all there is to it besides.
type world struct {
	negotiator Negotiation  // what the source knows: policy, decision, what it provides
	subscriber Subscription // what the target knows: what it wants
	held       [2]*protocol.EdgeProfile
	times      [2]int       // their timestamps
	clock      [2]int       // each end's own
	rest       int          // looks until the target may propose again
	queues     [2][]message // on their way to each end
	backup     [2]struct {
		held     *protocol.EdgeProfile
		time     int
		decision *Decision // of the source
	}

	// Not part of the state: what came to pass.
	sent  int
	trace func(format string, args ...any)
}

func (w *world) note(format string, args ...any) {
	if w.trace != nil {
		w.trace(format, args...)
	}
}

// clone returns a copy that shares nothing that changes. Profiles never do.
func (w *world) clone() *world {
	c := *w
	for end := range c.queues {
		c.queues[end] = slices.Clone(c.queues[end])
	}
	return &c
}

func (w *world) hold(end int, p *protocol.EdgeProfile, at int) { w.held[end], w.times[end] = p, at }

// stamp is the rule for what an end changes: later than what it holds and what it
// received, whatever its clock says.
func (w *world) stamp(end, received int) int {
	w.clock[atSource]++
	w.clock[atTarget]++
	return max(w.clock[end], w.times[end]+1, received+1)
}

func (w *world) send(to int, m message) {
	w.sent++
	w.note("    %s sends %s", name(1-to), m)
	w.queues[to] = append(w.queues[to], m)
}

// deliver has an end take a message.
func (w *world) deliver(end int, m message) error {
	w.note("    %s hears %s", name(end), m)
	if end == atSource {
		return w.hearSource(m)
	}
	return w.hearTarget(m)
}

// stale reports whether the Manifest phase stops a message.
func (w *world) stale(end int, m message) bool {
	held := w.held[end]
	switch {
	case held == nil:
		return false
	case reflect.DeepEqual(*held, m.profile):
		return true
	case end == atTarget && held.Status == protocol.Proposed && m.profile.Status == protocol.Approved:
		return false // the answer to a proposal, whatever the source's clock says
	}
	return m.time <= w.times[end]
}

func (w *world) hearSource(m message) error {
	if m.intro {
		w.negotiator.Known = true
	}
	if m.forget {
		if !m.forged {
			w.hold(atSource, nil, 0)
		}
		return nil
	}
	if w.stale(atSource, m) {
		return nil
	}
	in := w.negotiator
	in.Current, in.Received = w.held[atSource], m.profile
	out := Negotiate(in)
	if problem := promise(in, out); problem != "" {
		return fmt.Errorf("%s: in %+v, out %+v", problem, in, out)
	}
	if m.forged && out.Action != Drop {
		return fmt.Errorf("the target approved the edge itself and got %s", out.Action)
	}
	w.decided(out, m.time)
	return nil
}

// decided carries out what the source decided about a message, or anew.
func (w *world) decided(out Outcome, received int) {
	w.note("    source: %s %s", out.Action, out.Reason)
	switch out.Action {
	case Approve, Reaffirm:
		at := w.stamp(atSource, received)
		w.hold(atSource, &out.Profile, at)
		w.send(atTarget, message{profile: out.Profile, time: at})
	case Wait:
		w.hold(atSource, &out.Profile, received)
	case Refuse:
		w.hold(atSource, nil, 0)
		w.send(atTarget, message{forget: true})
	}
}

// reconsider is what follows a change of what the source's decision rests on.
func (w *world) reconsider() error {
	in := w.negotiator
	in.Current = w.held[atSource]
	out := Reconsider(in)
	if out.Action == Approve {
		in.Received = *in.Current
		in.Current = nil
		if problem := promise(in, out); problem != "" {
			return fmt.Errorf("reconsidering: %s: in %+v, out %+v", problem, in, out)
		}
	}
	if out.Action != Keep {
		w.decided(out, 0)
	}
	return nil
}

func (w *world) hearTarget(m message) error {
	in := Reception{Self: target, FromSource: !m.forged, Current: w.held[atTarget]}
	if !m.forget {
		if w.stale(atTarget, m) {
			return nil
		}
		in.Received = &m.profile
	}
	out := Receive(in)
	w.note("    target: %s %s", out.Action, out.Reason)
	if m.forged && out.Action != Drop && out.Action != Keep {
		return fmt.Errorf("the target took somebody else's word for the source's: %s", out.Action)
	}
	switch out.Action {
	case Accept, Keep:
		if in.Received == nil {
			return nil
		}
		if out.Action == Accept && (out.Profile.Status != protocol.Approved || !SameTerms(out.Profile, *in.Current)) {
			return fmt.Errorf("the target accepts %v where it holds %v", out.Profile, *in.Current)
		}
		w.hold(atTarget, &out.Profile, m.time)
		w.rest = 0
	case Repropose:
		at := w.stamp(atTarget, m.time)
		w.hold(atTarget, &out.Profile, at)
		w.send(atSource, message{profile: out.Profile, time: at})
	case Refused:
		w.hold(atTarget, nil, 0)
		w.rest = refusalRest
	case Withdrawn:
		w.hold(atTarget, nil, 0)
		w.rest = withdrawRest
	}
	return nil
}

// propose is what a target does on its own account. What it sends is newer than
// what it holds, and than what it knows the source to hold.
func (w *world) propose(p protocol.EdgeProfile, known int) {
	p.Status = protocol.Proposed
	at := w.stamp(atTarget, known)
	w.hold(atTarget, &p, at)
	w.send(atSource, message{profile: p, time: at, intro: true})
}

// tell sends the other end what an end holds.
func (w *world) tell(end int) {
	w.send(1-end, message{profile: *w.held[end], time: w.times[end], intro: true})
}

// look is a target's look at the edge: it proposes what it wants and has not.
func (w *world) look() error {
	if w.rest > 0 {
		w.rest--
		return nil
	}
	in := w.subscriber
	in.Current = w.held[atTarget]
	p, _ := Subscribe(in)
	if p == nil {
		return nil
	}
	if p.Source != source || p.Target != target || p.Status != protocol.Proposed {
		return fmt.Errorf("the target proposes %v", *p)
	}
	w.propose(*p, 0)
	return nil
}

// ask is an end's question to the other one whether it still knows the edge.
func (w *world) ask(end int) error {
	if end == atSource && w.negotiator.TargetKind == protocol.Partial || w.held[end] == nil {
		return nil
	}
	if end == atTarget {
		// A node answers only whom it knows: who asks introduces itself.
		w.negotiator.Known = true
	}
	ours, theirs := *w.held[end], w.held[1-end]
	newer := w.times[1-end] > w.times[end]
	switch {
	case theirs == nil && end == atTarget && ours.Status == protocol.Approved:
		w.propose(ours, 0)
	case theirs == nil:
		w.tell(end)
	case reflect.DeepEqual(*theirs, ours):
	case end == atTarget && theirs.Status == protocol.Approved && (newer || ours.Status == protocol.Proposed), end == atSource && newer:
		return w.deliver(end, message{profile: *theirs, time: w.times[1-end]})
	case end == atTarget:
		// The source holds what is no answer. What it is told has to be newer.
		w.propose(ours, w.times[1-end])
	default:
		w.tell(end)
	}
	return nil
}

// forget is the end of the edge by the will of one end.
func (w *world) forget(end int) {
	if end == atTarget {
		w.subscriber.Terms, w.subscriber.EdgeType = nil, ""
		w.rest = refusalRest
	}
	if w.held[end] != nil {
		w.hold(end, nil, 0)
		w.send(1-end, message{forget: true})
	}
}

func name(end int) string { return [...]string{"source", "target"}[end] }

func (m message) String() string {
	var extra string
	if m.intro {
		extra = " after its introduction"
	}
	if m.forged {
		extra += " that is forged"
	}
	if m.forget {
		return "FORGET" + extra
	}
	return fmt.Sprintf("%s@%d%s", brief(&m.profile), m.time, extra)
}

func brief(p *protocol.EdgeProfile) string {
	if p == nil {
		return "nothing"
	}
	return fmt.Sprintf("%s %s %s", p.Status, p.EdgeType, types(p.RIDTypes))
}

// types are RID types in short.
func types(list []rid.Type) string {
	var out []string
	for _, t := range list {
		out = append(out, strings.TrimPrefix(string(t), "orn:test."))
	}
	slices.Sort(out)
	return "[" + strings.Join(out, " ") + "]"
}

func (d *Decision) String() string {
	switch {
	case d == nil:
		return "none"
	case !d.Approved:
		return "refused"
	}
	return fmt.Sprintf("approved %s %s", d.EdgeType, types(d.RIDTypes))
}

func (w *world) String() string {
	n, s := w.negotiator, w.subscriber
	return fmt.Sprintf("source holds %s@%d, target %s@%d, rest %d; source provides %s, policy %s, decision %s, known %t; target is %s and wants %s, of %s, terms %s %s",
		brief(w.held[atSource]), w.times[atSource], brief(w.held[atTarget]), w.times[atTarget], w.rest,
		types(n.Provides), n.Policy, n.Decision, n.Known, s.SelfKind, types(s.Want), types(s.SourceProfile.Provides.Event), types(s.Terms), s.EdgeType)
}

// fairLooks is how often both ends look at the edge until they have to agree:
// beyond the longest rest, and once more after the proposal that follows it.
const fairLooks = 2*refusalRest + 4

// Bounds of what two ends may say. maxTalk is for coming to an agreement, and
// maxChatter for fairLooks more looks, when all has been said: a proposal and its
// refusal each time that a rest is over, and the repetition of what stays
// unanswered, once at each look of each end.
const (
	maxTalk    = 12 * fairLooks
	maxChatter = 2 * fairLooks
)

// fair lets everything take its course over a good network, nobody changing
// anything, and says where the ends do not come to agree, or do not come to rest.
func (w *world) fair() error {
	w.note("  from here on the network is good and nobody changes anything")
	before := w.sent
	if err := w.looks(fairLooks); err != nil {
		return err
	}
	if n := w.sent - before; n > maxTalk {
		return fmt.Errorf("%d messages until they agreed: %s", n, w)
	}
	if err := w.agreement(); err != nil {
		return err
	}
	before = w.sent
	if err := w.looks(fairLooks); err != nil {
		return err
	}
	n := w.sent - before
	switch {
	case n > maxChatter:
		return fmt.Errorf("%d messages after they agreed: %s", n, w)
	case n > 0 && w.held[atSource] != nil && w.held[atTarget] != nil:
		return fmt.Errorf("%d messages after they agreed, and both hold the edge: %s", n, w)
	case w.held[atSource] == nil && n > 2*(fairLooks/refusalRest+1):
		return fmt.Errorf("%d messages about a refused edge that should rest: %s", n, w)
	}
	return w.agreement()
}

// looks has both ends look at the edge, and everything arrive that they say.
func (w *world) looks(n int) error {
	const most = 100
	for range n {
		for _, step := range []func() error{w.look, func() error { return w.ask(atTarget) }, func() error { return w.ask(atSource) }} {
			if err := step(); err != nil {
				return err
			}
			for i := 0; len(w.queues[atSource])+len(w.queues[atTarget]) > 0; i++ {
				if i == most {
					return fmt.Errorf("no end of messages: %s", w)
				}
				for end := range w.queues {
					if len(w.queues[end]) == 0 {
						continue
					}
					m := w.queues[end][0]
					w.queues[end] = w.queues[end][1:]
					if err := w.deliver(end, m); err != nil {
						return err
					}
				}
			}
		}
	}
	return nil
}

// agreement says what is wrong with an end state.
func (w *world) agreement() error {
	ours, theirs := w.held[atTarget], w.held[atSource]
	in := w.subscriber
	in.Current = nil
	want, _ := Subscribe(in)
	n := w.negotiator
	n.Known, n.Current = true, nil
	if ours == nil {
		if want == nil {
			return nil // and what the source may hold is of no use to anybody
		}
		n.Received = *want
		if out := Negotiate(n); out.Action != Refuse || theirs != nil {
			return fmt.Errorf("the target gave up, and would get %s: %s", out.Action, w)
		}
		return nil
	}
	if want != nil && !TypesSubset(want.RIDTypes, ours.RIDTypes) {
		return fmt.Errorf("the target has less than it wants: %s", w)
	}
	n.Received = with(*ours, func(p *protocol.EdgeProfile) { p.Status = protocol.Proposed })
	n.Current = theirs
	switch out := Negotiate(n); {
	case out.Action == Refuse && theirs == nil && ours.Status == protocol.Proposed:
		return nil
	case out.Action == Wait && theirs != nil && theirs.Status == protocol.Proposed && ours.Status == protocol.Proposed && SameTerms(*ours, *theirs):
		return nil
	case out.Action == Reaffirm && ours.Status == protocol.Approved && SameTerms(*ours, *theirs) && (n.Decision == nil || n.Decision.Covers(*ours)):
		return nil
	default:
		return fmt.Errorf("no agreement (%s, %s): %s", out.Action, out.Reason, w)
	}
}

// deed is something that happens in a world. Who does it with the same arg in the
// same world gets the same.
type deed struct {
	kind kind
	arg  uint64
}

type kind int

const (
	lookTarget kind = iota
	askTarget
	askSource
	hearSourceFirst // of several messages the first, or in bad times any
	hearTargetFirst
	loseMessage
	doubleMessage
	restartTarget // what only its memory held is gone
	loseTarget    // so is its volume
	loseSource
	backUp
	restoreTarget
	restoreSource
	handshake // the source forgets the target, as a newcomer has it do
	forgetAtTarget
	forgetAtSource
	changeWant
	changeTerms
	changePolicy
	changeDecision
	changeProvides
	stepClock
	forge
	kinds
)

func (k kind) String() string {
	return [...]string{
		"the target looks", "the target asks", "the source asks", "the source hears", "the target hears", "a message is lost", "a message is doubled",
		"the target restarts", "the target loses its volume", "the source loses its volume", "both are backed up", "the target is restored", "the source is restored",
		"the target shakes hands anew", "the target forgets the edge", "the source forgets the edge", "the target wants", "the target's terms are", "the source's policy is",
		"the decision is", "the source provides", "a clock is set", "somebody forges",
	}[k]
}

var allTypes = []rid.Type{note, doc, other, rid.NodeType}

// some are some of the types.
func some(rnd *rand.Rand) []rid.Type {
	var out []rid.Type
	for _, t := range allTypes {
		if rnd.IntN(2) == 0 {
			out = append(out, t)
		}
	}
	return out
}

func someKind(rnd *rand.Rand) protocol.EdgeKind {
	return []protocol.EdgeKind{protocol.Webhook, protocol.Poll}[rnd.IntN(2)]
}

// do makes a deed happen.
func (w *world) do(d deed) error {
	rnd := rand.New(rand.NewPCG(d.arg, 0))
	w.note("  %s", d.kind)
	switch d.kind {
	case lookTarget:
		return w.look()
	case askTarget:
		return w.ask(atTarget)
	case askSource:
		return w.ask(atSource)
	case hearSourceFirst, hearTargetFirst:
		end := int(d.kind - hearSourceFirst)
		if m, ok := w.take(end, rnd); ok {
			return w.deliver(end, m)
		}
	case loseMessage:
		_, _ = w.take(rnd.IntN(2), rnd)
	case doubleMessage:
		end := rnd.IntN(2)
		if n := len(w.queues[end]); n > 0 {
			w.queues[end] = append(w.queues[end], w.queues[end][rnd.IntN(n)])
		}
	case restartTarget:
		w.rest = 0
	case loseTarget:
		w.hold(atTarget, nil, 0)
		w.rest = 0
		w.subscriber.Terms, w.subscriber.EdgeType = nil, ""
	case loseSource:
		w.hold(atSource, nil, 0)
		w.negotiator.Known, w.negotiator.Decision = false, nil
	case backUp:
		for end := range w.backup {
			w.backup[end].held, w.backup[end].time, w.backup[end].decision = w.held[end], w.times[end], w.negotiator.Decision
		}
	case restoreTarget:
		w.hold(atTarget, w.backup[atTarget].held, w.backup[atTarget].time)
		w.rest = 0
	case restoreSource:
		w.hold(atSource, w.backup[atSource].held, w.backup[atSource].time)
		w.negotiator.Decision = w.backup[atSource].decision
		return w.reconsider()
	case handshake:
		w.hold(atSource, nil, 0)
	case forgetAtTarget:
		w.forget(atTarget)
	case forgetAtSource:
		w.forget(atSource)
	default:
		return w.change(d.kind, rnd)
	}
	return nil
}

// change makes one of the deeds happen that change what the ends want.
func (w *world) change(k kind, rnd *rand.Rand) error {
	switch k {
	case changeWant:
		w.subscriber.Want = some(rnd)
		w.note("    %s", types(w.subscriber.Want))
	case changeTerms:
		w.subscriber.Terms, w.subscriber.EdgeType = nil, ""
		if terms := some(rnd); len(terms) > 0 && rnd.IntN(3) > 0 {
			w.subscriber.Terms = terms
			if rnd.IntN(2) == 0 && w.subscriber.SelfKind == protocol.Full {
				w.subscriber.EdgeType = someKind(rnd)
			}
			w.rest = 0 // a person asked for it
		}
		w.note("    %s %s", types(w.subscriber.Terms), w.subscriber.EdgeType)
	case changePolicy:
		w.negotiator.Policy = []Policy{Automatic, Manual}[rnd.IntN(2)]
		w.note("    %s", w.negotiator.Policy)
		return w.reconsider()
	case changeDecision:
		w.negotiator.Decision = []*Decision{nil, {}, {Approved: true, EdgeType: someKind(rnd), RIDTypes: some(rnd)}, {Approved: true, EdgeType: someKind(rnd), RIDTypes: allTypes}}[rnd.IntN(4)]
		w.note("    %s", w.negotiator.Decision)
		return w.reconsider()
	case changeProvides:
		w.negotiator.Provides = some(rnd)
		if rnd.IntN(2) == 0 { // and the target hears of it, or not yet
			w.subscriber.SourceProfile.Provides.Event = slices.Clone(w.negotiator.Provides)
		}
		w.note("    %s", types(w.negotiator.Provides))
		return w.reconsider()
	case stepClock:
		w.clock[rnd.IntN(2)] += rnd.IntN(200) - 100
	case forge:
		p := with(profile(protocol.Approved, someKind(rnd), some(rnd)...), func(*protocol.EdgeProfile) {})
		m := message{profile: p, time: w.clock[0] + w.clock[1] + 50, forged: true, forget: rnd.IntN(4) == 0}
		end := rnd.IntN(2)
		if end == atSource && rnd.IntN(2) == 0 && w.held[atTarget] != nil {
			m.profile = with(*w.held[atTarget], func(p *protocol.EdgeProfile) { p.Status = protocol.Approved })
		}
		w.queues[end] = append(w.queues[end], m)
	default:
		return errors.New("nobody can do that")
	}
	return nil
}

// take takes any message out of a queue.
func (w *world) take(end int, rnd *rand.Rand) (message, bool) {
	if len(w.queues[end]) == 0 {
		return message{}, false
	}
	i := rnd.IntN(len(w.queues[end]))
	m := w.queues[end][i]
	w.queues[end] = slices.Delete(slices.Clone(w.queues[end]), i, i+1)
	return m, true
}
