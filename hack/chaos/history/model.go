package history

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/koi-net/koi-operator/node/rid"
)

// Change is one thing done to an RID: a version it was given, counted from 1 and
// never used twice, or its being forgotten, which is the version 0.
type Change uint64

// Forgotten is the Change by which an RID is forgotten, and the state of one that
// is not held.
const Forgotten Change = 0

func (c Change) String() string {
	if c == Forgotten {
		return "forgotten"
	}
	return fmt.Sprintf("v%d", uint64(c))
}

// Step is one event of a body.
type Step struct {
	RID    rid.RID
	Change Change
}

// Model is what was done at a node. The zero value is ready to use. It is not safe
// for concurrent use.
type Model struct {
	lines map[rid.RID]*line
}

// line is the history of one RID since the last Settle.
type line struct {
	base    Change // its state then
	changes []Change
}

func (l *line) state() Change {
	if l == nil {
		return Forgotten
	}
	if n := len(l.changes); n > 0 {
		return l.changes[n-1]
	}
	return l.base
}

// Apply notes the steps of a body that was accepted. A step that changes nothing,
// the FORGET of what is not held, is an error of the one who makes the bodies: it is
// not passed on, so no subscriber could be held against it.
func (m *Model) Apply(steps ...Step) error {
	if m.lines == nil {
		m.lines = map[rid.RID]*line{}
	}
	for _, s := range steps {
		l := m.lines[s.RID]
		if l == nil {
			l = &line{}
			m.lines[s.RID] = l
		}
		if s.Change == l.state() || s.Change != Forgotten && s.Change < slices.Max(append([]Change{l.base}, l.changes...)) {
			return fmt.Errorf("%s is %s and cannot become %s", s.RID, l.state(), s.Change)
		}
		l.changes = append(l.changes, s.Change)
	}
	return nil
}

// State is what the node holds of r: a version, or Forgotten.
func (m *Model) State(r rid.RID) Change { return m.lines[r].state() }

// Held returns the versions of everything the node holds.
func (m *Model) Held() map[rid.RID]Change {
	held := map[rid.RID]Change{}
	for r, l := range m.lines {
		if s := l.state(); s != Forgotten {
			held[r] = s
		}
	}
	return held
}

// Touched returns the RIDs that changed since the last Settle, in their order.
func (m *Model) Touched() []rid.RID {
	var out []rid.RID
	for r, l := range m.lines {
		if len(l.changes) > 0 {
			out = append(out, r)
		}
	}
	slices.Sort(out)
	return out
}

// Settle forgets how the present states came about. Whoever follows the Model
// settles at the same time.
func (m *Model) Settle() {
	for r, l := range m.lines {
		l.base, l.changes = l.state(), nil
		if l.base == Forgotten {
			// Its versions are never used again, so nothing is lost with it.
			delete(m.lines, r)
		}
	}
}

// knows reports whether a change was done to an RID since the last Settle, or is
// the state it had then.
func (m *Model) knows(s Step) bool {
	l := m.lines[s.RID]
	return l != nil && (s.Change == l.base || slices.Contains(l.changes, s.Change))
}

// base is the state an RID had at the last Settle.
func (m *Model) base(r rid.RID) Change {
	if l := m.lines[r]; l != nil {
		return l.base
	}
	return Forgotten
}

// Verdict says whether a body in doubt was accepted.
type Verdict int

// The verdicts.
const (
	Refused  Verdict = iota // it left no trace
	Accepted                // all of it is in effect
)

// Decide says whether a body in doubt was accepted, from what the node holds of its
// RIDs: all of it is in effect, or none. held tells the version of an RID, or
// Forgotten. A body of which some is in effect was torn, and that is the error.
// The Model is left as it is.
func (m *Model) Decide(steps []Step, held func(rid.RID) Change) (Verdict, error) {
	after := map[rid.RID]Change{}
	for _, s := range steps {
		after[s.RID] = s.Change
	}
	var with, without, strange []string
	for _, r := range slices.Sorted(maps.Keys(after)) {
		is, was, would := held(r), m.State(r), after[r]
		text := fmt.Sprintf("%s: was %s, is %s, the body makes it %s", r, was, is, would)
		switch {
		case is == was && was == would: // it tells nothing
		case is == would:
			with = append(with, text)
		case is == was:
			without = append(without, text)
		default:
			strange = append(strange, text)
		}
	}
	switch {
	case len(strange) > 0:
		return Refused, fmt.Errorf("neither what it was nor what the body in doubt makes of it: %s", strings.Join(strange, "; "))
	case len(with) > 0 && len(without) > 0:
		return Refused, fmt.Errorf("a torn body: in effect %s; not in effect %s", strings.Join(with, "; "), strings.Join(without, "; "))
	case len(with) > 0:
		return Accepted, nil
	case len(without) > 0:
		return Refused, nil
	}
	return Refused, fmt.Errorf("the body in doubt changes nothing that could be seen: %v", steps)
}

// mostShown bounds the differences in a message.
const mostShown = 10

// Compare holds what a cache has against the model: about the RIDs given, or about
// everything where whole. what describes the cache.
func (m *Model) Compare(what string, held map[rid.RID]Change, about []rid.RID, whole bool) error {
	if whole {
		about = slices.Concat(slices.Collect(maps.Keys(held)), slices.Collect(maps.Keys(m.lines)))
	}
	about = slices.Clone(about)
	slices.Sort(about)
	var wrong []string
	for _, r := range slices.Compact(about) {
		is, should := held[r], m.State(r)
		switch {
		case is == should:
		case is == Forgotten:
			wrong = append(wrong, fmt.Sprintf("%s is missing, %s was acknowledged", r, should))
		case should == Forgotten:
			wrong = append(wrong, fmt.Sprintf("%s is held as %s, and was forgotten or never accepted", r, is))
		default:
			wrong = append(wrong, fmt.Sprintf("%s is %s and should be %s", r, is, should))
		}
	}
	return listed(what, wrong)
}

// listed makes an error of what is wrong, nil if nothing is.
func listed(what string, wrong []string) error {
	if len(wrong) == 0 {
		return nil
	}
	more := ""
	if n := len(wrong) - mostShown; n > 0 {
		more = fmt.Sprintf("\n  and %d more", n)
	}
	return fmt.Errorf("%s: %d differences:\n  %s%s", what, len(wrong), strings.Join(wrong[:min(len(wrong), mostShown)], "\n  "), more)
}
