package history

import (
	"fmt"
	"slices"

	"github.com/koi-net/koi-operator/node/rid"
)

// Relay holds what a subscriber is offered by a node in the middle, which follows
// another node, against the Model of the latter. The node in the middle may miss a
// version in favour of a newer one, by catching up. The zero value is ready to use;
// it is not safe for concurrent use.
type Relay struct {
	near, far int // disturbances since the last Settle
	lines     map[rid.RID]*course
}

// course is what a Relay knows of one RID.
type course struct {
	base  Change // its state at the last Settle
	last  Change
	steps int // back
	seen  []Change
}

// DisturbedNear notes that the node in the middle died, or that the subscriber did
// not answer it with success: it may offer again what it offered.
func (f *Relay) DisturbedNear() { f.near++ }

// DisturbedFar notes that the node the Model is of died, or had no success with the
// node in the middle: what it offers again may be applied again after a FORGET.
func (f *Relay) DisturbedFar() { f.far++ }

// Offered notes that the subscriber was offered a change.
func (f *Relay) Offered(m *Model, s Step) error {
	if f.lines == nil {
		f.lines = map[rid.RID]*course{}
	}
	c := f.lines[s.RID]
	if c == nil {
		c = &course{base: m.base(s.RID), last: m.base(s.RID)}
		f.lines[s.RID] = c
	}
	c.seen = append(c.seen, s.Change)
	before := c.seen[:len(c.seen)-1]
	switch {
	case m.knows(s) && f.follows(c, before, s.Change):
	case c.steps < f.near && slices.Contains(before, s.Change):
		c.steps++
	default:
		return fmt.Errorf("%s: offered %s out of turn%s", s.RID, s.Change, f.told(c, m, s.RID))
	}
	c.last = s.Change
	return nil
}

// follows reports whether a node may apply a change after what it applied before.
func (f *Relay) follows(c *course, before []Change, next Change) bool {
	switch {
	case next == Forgotten:
		return c.last != Forgotten
	case c.last == Forgotten:
		newest := c.base
		for _, b := range before {
			newest = max(newest, b)
		}
		return next > newest || f.near+f.far > 0
	}
	return next > c.last
}

func (f *Relay) told(c *course, m *Model, r rid.RID) string {
	var changes []Change
	if l := m.lines[r]; l != nil {
		changes = l.changes
	}
	return told(changes, c.seen, f.near+f.far)
}

// Settle says whether the subscriber was last offered what is; it is called when
// nothing waits at either node any more, before the Model settles.
func (f *Relay) Settle(m *Model) error {
	var wrong []string
	for _, r := range m.Touched() {
		c := f.lines[r]
		if c == nil {
			c = &course{last: m.base(r)}
		}
		if c.last != m.State(r) {
			wrong = append(wrong, fmt.Sprintf("%s: not offered to the end%s", r, f.told(c, m, r)))
		}
	}
	f.near, f.far, f.lines = 0, 0, nil
	return listed("lost", wrong)
}
