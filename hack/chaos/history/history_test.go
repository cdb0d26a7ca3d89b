package history

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/koi-net/koi-operator/node/rid"
)

const (
	a rid.RID = "orn:test.note:a"
	b rid.RID = "orn:test.note:b"
)

func model(t *testing.T, steps ...Step) *Model {
	t.Helper()
	m := &Model{}
	if err := m.Apply(steps...); err != nil {
		t.Fatal(err)
	}
	return m
}

// did makes steps of one RID.
func did(r rid.RID, changes ...Change) []Step {
	var out []Step
	for _, c := range changes {
		out = append(out, Step{r, c})
	}
	return out
}

func TestModel(t *testing.T) {
	m := model(t, did(a, 1, 2, 0, 3)...)
	if m.State(a) != 3 || m.State(b) != Forgotten {
		t.Errorf("a is %s, b is %s", m.State(a), m.State(b))
	}
	for name, s := range map[string]Step{"again": {a, 3}, "older": {a, 2}, "unknown forgotten": {b, 0}} {
		if err := m.Apply(s); err == nil {
			t.Errorf("%s: %v was taken", name, s)
		}
	}
	if got := m.Touched(); !slices.Equal(got, []rid.RID{a}) {
		t.Errorf("touched %v", got)
	}
	m.Settle()
	if len(m.Touched()) != 0 || m.State(a) != 3 {
		t.Errorf("settled: touched %v, a is %s", m.Touched(), m.State(a))
	}
	if err := m.Apply(Step{a, 2}); err == nil {
		t.Error("a version from before was taken")
	}
	if err := m.Apply(did(a, 0)...); err != nil {
		t.Fatal(err)
	}
	m.Settle()
	if len(m.Held()) != 0 || len(m.lines) != 0 {
		t.Errorf("holds %v, remembers %v", m.Held(), m.lines)
	}
}

func TestDecide(t *testing.T) {
	body := []Step{{a, 2}, {b, 1}, {b, 0}, {"orn:test.note:c", 1}}
	for name, c := range map[string]struct {
		held map[rid.RID]Change
		want Verdict
		err  string
	}{
		"all of it":     {map[rid.RID]Change{a: 2, "orn:test.note:c": 1}, Accepted, ""},
		"none of it":    {map[rid.RID]Change{a: 1}, Refused, ""},
		"torn":          {map[rid.RID]Change{a: 2}, Refused, "torn"},
		"half an RID":   {map[rid.RID]Change{a: 2, b: 1, "orn:test.note:c": 1}, Refused, "neither"},
		"lost meantime": {map[rid.RID]Change{"orn:test.note:c": 1}, Refused, "neither"},
	} {
		m := model(t, did(a, 1)...)
		got, err := m.Decide(body, func(r rid.RID) Change { return c.held[r] })
		if got != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	m := model(t, did(a, 1)...)
	if _, err := m.Decide(did(b, 1, 0), m.State); err == nil {
		t.Error("what cannot be seen was decided on")
	}
}

func TestCompare(t *testing.T) {
	m := model(t, append(did(a, 1, 2), did(b, 1, 0)...)...)
	for name, c := range map[string]struct {
		held  map[rid.RID]Change
		about []rid.RID
		whole bool
		want  string
	}{
		"same":             {map[rid.RID]Change{a: 2}, nil, true, ""},
		"missing":          {nil, nil, true, "missing"},
		"older":            {map[rid.RID]Change{a: 1}, nil, true, "is v1 and should be v2"},
		"back again":       {map[rid.RID]Change{a: 2, b: 1}, nil, true, "was forgotten"},
		"never heard of":   {map[rid.RID]Change{a: 2, "orn:test.note:c": 1}, nil, true, "never accepted"},
		"not asked for":    {map[rid.RID]Change{"orn:test.note:c": 1}, []rid.RID{b}, false, ""},
		"asked for":        {map[rid.RID]Change{b: 1}, []rid.RID{b, b}, false, "1 differences"},
		"missing, unasked": {nil, nil, false, ""},
	} {
		err := m.Compare("the cache", c.held, c.about, c.whole)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	many := &Model{}
	for i := range 100 {
		if err := many.Apply(Step{rid.RID(fmt.Sprintf("orn:test.note:%d", i)), 1}); err != nil {
			t.Fatal(err)
		}
	}
	if err := many.Compare("the cache", nil, nil, true); err == nil || !strings.Contains(err.Error(), "100 differences") || !strings.Contains(err.Error(), "and 90 more") {
		t.Error(err)
	}
}

// offer offers a recorded history and says what is wrong with it. -1 in it is a
// disturbance.
func follow(m *Model, r rid.RID, seen []int) error {
	var f Follower
	for _, c := range seen {
		if c < 0 {
			f.Disturbed()
		} else if err := f.Offered(m, Step{r, Change(c)}); err != nil {
			return err
		}
	}
	return f.Settle(m)
}

func TestFollower(t *testing.T) {
	for name, c := range map[string]struct {
		done []Change
		seen []int
		want string
	}{
		"in turn":                             {[]Change{1, 2, 0, 3}, []int{1, 2, 0, 3}, ""},
		"nothing":                             {nil, nil, ""},
		"again after a death":                 {[]Change{1, 2, 3}, []int{1, 2, -1, 1, 2, 3}, ""},
		"the last again after a death":        {[]Change{1, 2, 3}, []int{1, 2, -1, 2, 3}, ""},
		"late, then again":                    {[]Change{1, 2, 3}, []int{1, -1, 2, 1, 2, 3}, ""},
		"forgotten twice, either may be it":   {[]Change{1, 0, 2, 0}, []int{1, 0, 2, -1, 0, 2, 0}, ""},
		"two deaths":                          {[]Change{1, 2, 3}, []int{1, 2, -1, 1, -1, 1, 2, 3}, ""},
		"two deaths, one step back used late": {[]Change{1, 2}, []int{-1, -1, 1, 2, 1, 2, 1, 2}, ""},

		"lost":                        {[]Change{1, 2, 3}, []int{1, 3}, "out of turn"},
		"lost after a death":          {[]Change{1, 2, 3}, []int{1, -1, 3}, "out of turn"},
		"the last lost":               {[]Change{1, 2, 3}, []int{1, 2}, "to the end"},
		"all lost":                    {[]Change{1}, nil, "to the end"},
		"a FORGET lost":               {[]Change{1, 0, 2}, []int{1, 2}, "out of turn"},
		"swapped":                     {[]Change{1, 2, 3}, []int{1, 3, 2}, "out of turn"},
		"swapped at the end":          {[]Change{1, 2, 3}, []int{2, 1, 3}, "out of turn"},
		"doubled":                     {[]Change{1, 2, 3}, []int{1, 2, 2, 3}, "out of turn"},
		"older after newer":           {[]Change{1, 2, 3}, []int{1, 2, 3, 1}, "out of turn"},
		"older after newer, no more":  {[]Change{1, 2, 3}, []int{1, 2, 3, -1, 1}, "to the end"},
		"a step back too many":        {[]Change{1, 2, 3}, []int{1, 2, -1, 1, 1, 2, 3}, "out of turn"},
		"ahead in the step back":      {[]Change{1, 2, 3, 4}, []int{1, 2, 3, -1, 1, 3, 4}, "out of turn"},
		"forgotten again":             {[]Change{1, 0}, []int{1, 0, 0}, "out of turn"},
		"what was never done":         {[]Change{1}, []int{1, 7}, "out of turn"},
		"back before it was offered":  {[]Change{1, 2}, []int{-1, 2, 1}, "out of turn"},
		"an RID nobody ever heard of": {nil, []int{1}, "out of turn"},
	} {
		err := follow(model(t, did(a, c.done...)...), a, c.seen)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSettleExcusesNothingLater(t *testing.T) {
	m := model(t, did(a, 1, 2)...)
	var f Follower
	f.Disturbed()
	for _, c := range []Change{1, 2} {
		if err := f.Offered(m, Step{a, c}); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Settle(m); err != nil {
		t.Fatal(err)
	}
	m.Settle()
	if err := m.Apply(Step{a, 3}); err != nil {
		t.Fatal(err)
	}
	if err := f.Offered(m, Step{a, 2}); err == nil {
		t.Error("what was at rest came again")
	}
}

// relayed does the same for a Relay: -1 is a disturbance near, -2 one far.
func relayed(m *Model, r rid.RID, seen []int) error {
	var f Relay
	for _, c := range seen {
		switch c {
		case -1:
			f.DisturbedNear()
		case -2:
			f.DisturbedFar()
		default:
			if err := f.Offered(m, Step{r, Change(c)}); err != nil {
				return err
			}
		}
	}
	return f.Settle(m)
}

func TestRelay(t *testing.T) {
	for name, c := range map[string]struct {
		done []Change
		seen []int
		want string
	}{
		"in turn":                      {[]Change{1, 2, 0, 3}, []int{1, 2, 0, 3}, ""},
		"caught up":                    {[]Change{1, 2, 3}, []int{3}, ""},
		"caught up after a FORGET":     {[]Change{1, 0, 2}, []int{1, 2}, ""},
		"offered again":                {[]Change{1, 2, 0, 3}, []int{1, 2, 0, -1, 1, 2, 0, 3}, ""},
		"back after a FORGET":          {[]Change{1, 0, 2, 0, 3}, []int{1, 0, 2, -2, 0, 2, 0, 3}, ""},
		"all of it again":              {[]Change{1, 0}, []int{1, 0, -2, 1, 0}, ""},
		"forgotten before it was seen": {[]Change{1, 0}, nil, ""},

		"older over newer":                    {[]Change{1, 2, 3}, []int{3, 2, 3}, "out of turn"},
		"older over newer, death far away":    {[]Change{1, 2, 3}, []int{3, -2, 2, 3}, "out of turn"},
		"older over newer, never applied":     {[]Change{1, 2, 3}, []int{3, -1, 2, 3}, "out of turn"},
		"doubled":                             {[]Change{1, 2}, []int{1, 2, 2}, "out of turn"},
		"back after a FORGET, out of the dim": {[]Change{1, 0, 2}, []int{1, 0, 1, 0, 2}, "out of turn"},
		"forgotten twice":                     {[]Change{1, 0}, []int{1, 0, 0}, "out of turn"},
		"forgotten and never there":           {[]Change{1, 0}, []int{0}, "out of turn"},
		"left behind":                         {[]Change{1, 2}, []int{1}, "to the end"},
		"left behind forgotten":               {[]Change{1, 0, 2}, []int{1, 0}, "to the end"},
		"not forgotten":                       {[]Change{1, 0}, []int{1}, "to the end"},
		"not brought to the end again":        {[]Change{1, 2}, []int{1, 2, -1, 1}, "to the end"},
		"what was never done":                 {[]Change{1}, []int{1, 2}, "out of turn"},
		"a step back too many":                {[]Change{1, 2, 3}, []int{1, 2, 3, -1, 1, 2, 1, 2, 3}, "out of turn"},
		"back to what was not offered":        {[]Change{1, 2, 3}, []int{1, 3, -1, 2, 3}, "out of turn"},
	} {
		err := relayed(model(t, did(a, c.done...)...), a, c.seen)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// work is a random history of some RIDs.
func work(rnd *rand.Rand) (*Model, []Step) {
	m := &Model{}
	var steps []Step
	for v := range 5 + rnd.IntN(30) {
		s := Step{[]rid.RID{a, b}[rnd.IntN(2)], Change(v + 1)}
		if m.State(s.RID) != Forgotten && rnd.IntN(3) == 0 {
			s.Change = Forgotten
		}
		if err := m.Apply(s); err != nil {
			panic(err)
		}
		steps = append(steps, s)
	}
	return m, steps
}

// delivery is what a node that keeps its promise offers: in turn, and after a
// disturbance, nil, from some change on that may not have been confirmed.
func delivery(rnd *rand.Rand, steps []Step) []*Step {
	var out []*Step
	for i := 0; i < len(steps); i++ {
		out = append(out, &steps[i])
		if rnd.IntN(8) == 0 {
			out = append(out, nil)
			i -= rnd.IntN(min(i+1, 6) + 1)
		}
	}
	return out
}

func check(m *Model, seen []*Step) error {
	var f Follower
	for _, s := range seen {
		if s == nil {
			f.Disturbed()
		} else if err := f.Offered(m, *s); err != nil {
			return err
		}
	}
	return f.Settle(m)
}

// middle is a node that follows what it is offered as a node of ours does, and
// offers what it applies in turn, again from some change on when it died.
func middle(rnd *rand.Rand, seen []*Step) (*Relay, []*Step) {
	held := map[rid.RID]Change{}
	f, applied := &Relay{}, []Step(nil)
	for _, s := range seen {
		switch {
		case s == nil:
			f.DisturbedFar()
		case s.Change == Forgotten && held[s.RID] != Forgotten, s.Change > held[s.RID]:
			held[s.RID] = s.Change
			applied = append(applied, *s)
		}
	}
	return f, delivery(rnd, applied)
}

// What a node that keeps its promise does passes, whatever it is; a change of it
// that breaks the promise does not.
func TestHistories(t *testing.T) {
	caught := map[string]int{}
	for seed := range uint64(3000) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		m, steps := work(rnd)
		seen := delivery(rnd, steps)
		if err := check(m, seen); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		f, relay := middle(rnd, seen)
		for _, s := range relay {
			if s == nil {
				f.DisturbedNear()
			} else if err := f.Offered(m, *s); err != nil {
				t.Fatalf("seed %d, relayed: %v", seed, err)
			}
		}
		if err := f.Settle(m); err != nil {
			t.Fatalf("seed %d, relayed: %v", seed, err)
		}
		// Without disturbances every change of the record breaks the promise.
		plain := make([]*Step, len(steps))
		for i := range steps {
			plain[i] = &steps[i]
		}
		for name, broken := range mutations(rnd, plain) {
			if err := check(m, broken); err == nil {
				t.Fatalf("seed %d: %s passes:\n%s\n%s", seed, name, show(plain), show(broken))
			}
			caught[name]++
		}
	}
	for _, name := range []string{"lost", "swapped", "older after newer", "doubled", "half of it again"} {
		if caught[name] < 1000 {
			t.Errorf("%s: tried %d times only", name, caught[name])
		}
	}
	t.Log(caught)
}

// mutations are ways to break a history without disturbances.
func mutations(rnd *rand.Rand, seen []*Step) map[string][]*Step {
	out := map[string][]*Step{}
	i := rnd.IntN(len(seen))
	out["lost"] = slices.Delete(slices.Clone(seen), i, i+1)
	out["doubled"] = slices.Insert(slices.Clone(seen), i, seen[i])
	// The next and the one before of the same RID.
	for j := i + 1; j < len(seen); j++ {
		if seen[j].RID == seen[i].RID {
			swapped := slices.Clone(seen)
			swapped[i], swapped[j] = swapped[j], swapped[i]
			out["swapped"] = swapped
			out["older after newer"] = slices.Insert(slices.Clone(seen), j+1, seen[i])
			out["half of it again"] = slices.Concat(seen[:j+1], seen[i:])
			break
		}
	}
	return out
}

func show(seen []*Step) string {
	by := map[rid.RID][]Change{}
	for _, s := range seen {
		by[s.RID] = append(by[s.RID], s.Change)
	}
	var out []string
	for _, r := range slices.Sorted(maps.Keys(by)) {
		out = append(out, fmt.Sprintf("%s: %s", r, text(by[r])))
	}
	return strings.Join(out, "\n")
}
