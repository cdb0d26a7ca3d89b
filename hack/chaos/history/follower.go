package history

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/koi-net/koi-operator/node/rid"
)

// Follower holds what one subscriber is offered against the Model of the node that
// offers it. The zero value is ready to use; it is not safe for concurrent use.
type Follower struct {
	excuses int // disturbances since the last Settle
	lines   map[rid.RID]*trail
}

// trail is what a Follower knows of one RID.
type trail struct {
	seen []Change // for messages, since the last Settle
	// wheres are the places in the Model's line that fit what was seen. There may be
	// several: one FORGET looks like another.
	wheres map[where]bool
}

// where is a place in a line: the change that was offered last and the furthest
// that was offered, by their indexes, and how many steps back that took.
type where struct{ last, furthest, steps int }

// Disturbed notes that the node died, or that the subscriber answered with anything
// but success: the node may offer again what it offered.
func (f *Follower) Disturbed() { f.excuses++ }

// Offered notes that the subscriber was offered a change. The Model has to know of
// it, so a body in doubt is decided on first.
func (f *Follower) Offered(m *Model, s Step) error {
	if f.lines == nil {
		f.lines = map[rid.RID]*trail{}
	}
	t := f.lines[s.RID]
	if t == nil {
		t = &trail{wheres: map[where]bool{{last: -1, furthest: -1}: true}}
		f.lines[s.RID] = t
	}
	t.seen = append(t.seen, s.Change)
	var changes []Change
	if l := m.lines[s.RID]; l != nil {
		changes = l.changes
	}
	next := map[where]bool{}
	for w := range t.wheres {
		if i := w.last + 1; i < len(changes) && changes[i] == s.Change {
			next[where{i, max(i, w.furthest), w.steps}] = true
		}
		if w.steps >= f.excuses {
			continue
		}
		for j := 0; j <= w.furthest; j++ {
			if changes[j] == s.Change {
				next[where{j, w.furthest, w.steps + 1}] = true
			}
		}
	}
	if len(next) == 0 {
		return fmt.Errorf("%s: offered %s out of turn%s", s.RID, s.Change, told(changes, t.seen, f.excuses))
	}
	t.wheres = next
	return nil
}

// told describes what was done to an RID and what was seen of it, for a message.
func told(done, seen []Change, disturbances int) string {
	return fmt.Sprintf("\n    done:    %s\n    offered: %s\n    (since all was last at rest, with %d disturbances)", text(done), text(seen), disturbances)
}

// text lists changes, the last of them.
func text(changes []Change) string {
	const most = 40
	out, skipped := make([]string, 0, most), ""
	if n := len(changes) - most; n > 0 {
		changes, skipped = changes[n:], fmt.Sprintf("(%d) ", n)
	}
	for _, c := range changes {
		out = append(out, c.String())
	}
	if len(out) == 0 {
		return "nothing"
	}
	return skipped + strings.Join(out, " ")
}

// Settle says whether the subscriber was offered all that was done, and ended with
// what is; it is called when nothing waits at the node any more. Disturbances before
// it excuse nothing after it.
func (f *Follower) Settle(m *Model) error {
	var wrong []string
	for _, r := range m.Touched() {
		changes := m.lines[r].changes
		t := f.lines[r]
		if t == nil {
			t = &trail{}
		}
		end := func(w where) bool { return w.last == len(changes)-1 && w.furthest == w.last }
		if !slices.ContainsFunc(slices.Collect(maps.Keys(t.wheres)), end) {
			wrong = append(wrong, fmt.Sprintf("%s: not offered to the end%s", r, told(changes, t.seen, f.excuses)))
		}
	}
	f.excuses, f.lines = 0, nil
	return listed("lost", wrong)
}
