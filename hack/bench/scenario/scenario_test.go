package scenario

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/koi-net/koi-operator/hack/bench/load"
	"github.com/koi-net/koi-operator/hack/bench/report"
	"github.com/koi-net/koi-operator/hack/bench/subject"
	"github.com/koi-net/koi-operator/hack/interop/reference"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// everything is an environment in which every case is there.
func everything() *Env {
	all := reference.Releases()
	return &Env{Large: true, First: &reference.Environment{Release: all[0]}, Newest: &reference.Environment{Release: all[len(all)-1]}}
}

func TestCases(t *testing.T) {
	groups := map[string]bool{"large": true}
	for _, g := range Groups() {
		groups[g.Name] = true
		if g.Title == "" || g.About == "" || len(g.Columns) == 0 {
			t.Errorf("%s says too little", g.Name)
		}
	}
	for name, e := range map[string]*Env{"all": everything(), "ours alone": {}, "short": {Short: true}} {
		seen := map[string]bool{}
		for _, c := range Cases(e) {
			if seen[c.Name()] {
				t.Errorf("%s: there are two of %s", name, c.Name())
			}
			seen[c.Name()] = true
			if !groups[c.Group] {
				t.Errorf("%s: %s has no table", name, c.Name())
			}
			if e.First == nil && (strings.Contains(c.Node, "shipped") || strings.Contains(c.Node, "quiet")) {
				t.Errorf("%s: %s needs the reference", name, c.Name())
			}
		}
		if len(seen) < 20 || e.Large != seen["large/1,000,000 bundles/koi-node"] {
			t.Errorf("%s: %d cases", name, len(seen))
		}
	}
}

// Every target finds its figures where cases put them.
func TestTargetsFindTheirFigures(t *testing.T) {
	r := &report.Report{Groups: Groups()}
	for _, c := range Cases(everything()) {
		for _, l := range rowsOf(c) {
			row := report.Row{Group: l.Group, Load: l.Load, Node: c.Node, Values: map[string]float64{"copies": 1}}
			for _, g := range Groups() {
				for _, column := range g.Columns {
					if g.Name == row.Group {
						row.Values[column.Key] = 1
					}
				}
			}
			if c.Group == "large" {
				row.Node = oursUnsigned
			}
			r.Rows = append(r.Rows, row)
		}
	}
	for _, target := range Targets() {
		if _, ok := target.Got(r); !ok {
			t.Errorf("nothing is measured for %q", target.What)
		}
		if _, ok := target.Got(&report.Report{}); ok {
			t.Errorf("%q is measured where nothing was", target.What)
		}
	}
}

// rowsOf names the rows that a case makes.
func rowsOf(c Case) (rows []report.Row) {
	add := func(group, l string) { rows = append(rows, report.Row{Group: group, Load: l}) }
	switch c.Group {
	case stateGroup.Name:
		for _, call := range stateCalls() {
			add(c.Group, StateLoad(call.name, stateBundles, 1))
		}
	case graphGroup.Name:
		nodes := strings.TrimSuffix(c.Load, " nodes")
		for _, event := range []string{nodeEvent, edgeEvent} {
			add(c.Group, event+" at "+nodes+" nodes")
		}
	case startGroup.Name:
		add(c.Group, StartLoad(stateBundles))
	case "large":
		add(startGroup.Name, StartLoad(largeBundles))
		for _, call := range stateCalls() {
			add(stateGroup.Name, StateLoad(call.name, largeBundles, 1))
		}
	default:
		add(c.Group, c.Load)
	}
	return rows
}

func TestPace(t *testing.T) {
	p := pace{ours: 1, first: 2, firstQuiet: 3, newest: 4, newestQuiet: 5}
	e := everything()
	want := map[string]int{
		oursUnsigned: 1, oursSigned: 1,
		ReferenceName(e.First.Release, false): 2, ReferenceName(e.First.Release, true): 3,
		ReferenceName(e.Newest.Release, false): 4, ReferenceName(e.Newest.Release, true): 5,
	}
	for _, c := range e.contenders() {
		if p.of(c) != want[c.name] {
			t.Errorf("%s: %d, want %d", c.name, p.of(c), want[c.name])
		}
		if c.ours == oursSigned != (c.signed && c.name != oursSigned) {
			t.Errorf("%s is compared with %q", c.name, c.ours)
		}
	}
}

func TestThousands(t *testing.T) {
	for n, want := range map[int]string{0: "0", 999: "999", 1000: "1,000", 1_002_003: "1,002,003"} {
		if got := thousands(n); got != want {
			t.Errorf("%d is %s", n, got)
		}
	}
}

func TestNeighboursAnswer(t *testing.T) {
	n, err := listen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := n.close(); err != nil {
			t.Error(err)
		}
	}()
	var known rid.RID
	for b, err := range n.note(load.Notes(1)) {
		if err != nil {
			t.Fatal(err)
		}
		known = b.Manifest.RID
	}
	for path, want := range map[string]string{"/bundles/fetch": `"not_found":["a:1"]`, "/events/broadcast": "null"} {
		target, err := load.NewTarget(n.url+"/7", path)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := load.Ask(t.Context(), target, protocol.EncodeFetchBundles(protocol.FetchBundles{RIDs: []rid.RID{known, "a:1"}}))
		if err != nil || !strings.Contains(string(answer), want) {
			t.Errorf("%s: %s, %v", path, answer, err)
		}
		if want == "null" {
			continue
		}
		b, err := protocol.DecodeBundles(answer, protocol.DefaultLimits())
		if err != nil || len(b.Bundles) != 1 || b.Bundles[0].Manifest.RID != known {
			t.Errorf("%+v, %v", b, err)
		}
	}
	target, err := load.NewTarget(n.url, "/bundles/fetch")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := load.Ask(t.Context(), target, []byte("{")); err == nil {
		t.Error("a body that is none is answered")
	}
}

// The loads on a real node of ours, small.
func TestLoadsOnOurs(t *testing.T) {
	e := &Env{Dir: t.TempDir(), Short: true}
	e.Program = filepath.Join(e.Dir, "koi-node")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", e.Program, "github.com/koi-net/koi-operator/cmd/koi-node").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	small := broadcastLoad{clients: 2, events: 3, short: pace{ours: 4}}
	for _, c := range e.contenders() {
		run := func(name string, group report.Group, measure func(ctx context.Context, dir string) ([]report.Row, error)) {
			t.Run(name+"/"+c.name, func(t *testing.T) {
				rows, err := Case{run: measure}.Run(t.Context(), e)
				if err != nil || len(rows) == 0 {
					t.Fatalf("%v, %v", rows, err)
				}
				for _, row := range rows {
					for _, column := range group.Columns {
						if _, ok := row.Values[column.Key]; !ok || row.Group != group.Name || row.Node != c.name {
							t.Errorf("%+v: no %s", row, column.Key)
						}
					}
				}
			})
		}
		run("broadcast", broadcastGroup, func(ctx context.Context, dir string) ([]report.Row, error) { return e.broadcast(ctx, c, small, dir) })
		run("graph", graphGroup, func(ctx context.Context, dir string) ([]report.Row, error) { return e.graph(ctx, c, 5, 3, dir) })
		run("state", stateGroup, func(ctx context.Context, dir string) ([]report.Row, error) { return e.smallState(ctx, c, dir) })
	}
	if left, err := os.ReadDir(e.Dir); err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// smallState asks for the state of a small cache, and restarts the node.
func (e *Env) smallState(ctx context.Context, c contender, dir string) ([]report.Row, error) {
	n, err := c.prepare(ctx, dir)
	if err != nil {
		return nil, err
	}
	speaker, err := c.speaker(ctx, n)
	if err != nil {
		return nil, err
	}
	sample, err := fill(ctx, n, 200)
	if err != nil {
		return nil, err
	}
	if _, err := e.starts(ctx, c, n, 200); err != nil {
		return nil, err
	}
	if err := n.Start(ctx); err != nil {
		return nil, err
	}
	defer n.Stop()
	if err := readable(ctx, n, speaker, 200); err != nil {
		return nil, err
	}
	var rows []report.Row
	for _, call := range stateCalls() {
		values, err := ask(ctx, n, speaker, call, 2, sample, 3, time.Millisecond)
		if err != nil {
			return nil, err
		}
		rows = append(rows, report.Row{Group: stateGroup.Name, Load: call.name, Node: c.name, Values: values})
	}
	return rows, nil
}

func TestACaseEndsInTime(t *testing.T) {
	e := &Env{Dir: t.TempDir()}
	c := Case{Deadline: time.Millisecond, run: func(ctx context.Context, dir string) ([]report.Row, error) {
		if _, err := os.Stat(dir); err != nil {
			t.Error(err)
		}
		return nil, pause(ctx, time.Minute)
	}}
	if _, err := c.Run(t.Context(), e); err == nil {
		t.Error("it did not end")
	}
	if left, err := os.ReadDir(e.Dir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if _, err := c.Run(t.Context(), &Env{Dir: "/nonexistent"}); err == nil {
		t.Error("it ran without a directory")
	}
}

var _ subject.Node = (*subject.Ours)(nil)
var _ subject.Node = (*subject.Reference)(nil)
