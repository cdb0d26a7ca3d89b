//go:build interop

package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/koi-net/koi-operator/hack/interop/reference"
	"github.com/koi-net/koi-operator/node/rid"
)

// patience bounds the wait for what nodes tell each other.
const patience = 30 * time.Second

// What the nodes of the tests know about.
const (
	ourType   rid.Type = "orn:interop.ours"
	theirType rid.Type = "orn:interop.theirs"
)

// nodeTypes are what coordinators provide.
var nodeTypes = []rid.Type{rid.NodeType, rid.EdgeType}

// koiNet is a net of processes.
type koiNet struct {
	dir     string
	members []member
	// table and column are where what is tried is noted.
	table, column string
}

// newNet returns an empty net, whose members end with the test and whose logs
// show when it failed.
func newNet(t *testing.T, table, column string) *koiNet {
	n := &koiNet{dir: t.TempDir(), table: table, column: column}
	if *keep != "" {
		n.dir = filepath.Join(*keep, strings.NewReplacer("/", "-", " ", "-").Replace(t.Name()))
	}
	t.Cleanup(func() {
		for _, m := range n.members {
			m.kill()
		}
		if t.Failed() {
			for _, m := range n.members {
				t.Logf("--- the end of the log of %s (%s)\n%s", m.name(), m.rid(), m.log())
			}
		}
	})
	return n
}

// join starts members side by side.
func (n *koiNet) join(t *testing.T, members ...member) {
	t.Helper()
	n.members = append(n.members, members...)
	startAll(t, members)
}

// startAll starts members side by side, and ends the test where one does not start.
func startAll(t *testing.T, members []member) {
	t.Helper()
	errs := make(chan error, len(members))
	for _, m := range members {
		go func() { errs <- m.start(t.Context()) }()
	}
	for range members {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if t.Failed() {
		t.FailNow()
	}
}

// try runs one thing that is tried as a subtest and notes in the table whether it holds.
func (n *koiNet) try(t *testing.T, row string, f func(t *testing.T)) bool {
	t.Helper()
	return n.tryFault(t, row, holds, f)
}

// tryFault is try for what a fault of the reference prevents: f sees that the
// fault shows, and the table names it.
func (n *koiNet) tryFault(t *testing.T, row, fault string, f func(t *testing.T)) bool {
	t.Helper()
	ok := t.Run(row, f)
	if !ok {
		fault = "NO"
	}
	suite.seen.add(n.table, row, n.column, fault)
	return ok
}

// eventually waits until cond holds, and fails the test with what it said last
// if that takes too long.
func eventually(t *testing.T, what string, cond func(ctx context.Context) (ok bool, seen string)) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		ok, seen := cond(t.Context())
		if ok {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("%s: not within %s; last seen: %s", what, patience, seen)
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// approved waits until both ends of an edge hold it as approved.
func approved(t *testing.T, source, target member) {
	t.Helper()
	eventually(t, fmt.Sprintf("the edge %s > %s is approved at both ends", source.name(), target.name()), func(ctx context.Context) (bool, string) {
		var seen []string
		ok := true
		for _, m := range []member{source, target} {
			status, err := m.edge(ctx, source.rid(), target.rid())
			ok = ok && err == nil && status == "APPROVED"
			seen = append(seen, fmt.Sprintf("%s: %q %v", m.name(), status, errText(err)))
		}
		return ok, strings.Join(seen, ", ")
	})
}

// has waits until a member's cache holds contents under an RID.
func has(t *testing.T, m member, r rid.RID, contents string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s has %s", m.name(), r), func(ctx context.Context) (bool, string) {
		b, err := m.get(ctx, r)
		if err != nil || b == nil {
			return false, fmt.Sprintf("nothing %s", errText(err))
		}
		return sameJSON(t, string(b.contents), contents), string(b.contents)
	})
}

// hasNot waits until a member's cache holds nothing under an RID.
func hasNot(t *testing.T, m member, r rid.RID) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s has forgotten %s", m.name(), r), func(ctx context.Context) (bool, string) {
		b, err := m.get(ctx, r)
		if b == nil {
			return err == nil, errText(err)
		}
		return false, string(b.contents)
	})
}

// sameHash sees that two caches hold the same manifest hash.
func sameHash(t *testing.T, a, b member, r rid.RID) {
	t.Helper()
	x, err := a.get(t.Context(), r)
	if err != nil || x == nil {
		t.Errorf("%s has no %s: %s", a.name(), r, errText(err))
		return
	}
	y, err := b.get(t.Context(), r)
	if err != nil || y == nil {
		t.Errorf("%s has no %s: %s", b.name(), r, errText(err))
		return
	}
	if x.hash != y.hash {
		t.Errorf("%s: hash %s at %s, %s at %s", r, x.hash, a.name(), y.hash, b.name())
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return "(" + err.Error() + ")"
}

// note makes an RID of a type.
func note(of rid.Type, name string) rid.RID { return rid.RID(string(of) + ":" + name) }

// put makes a member know something, and fails the test where it does not take it.
func put(t *testing.T, m member, r rid.RID, contents string) {
	t.Helper()
	if err := m.put(t.Context(), r, contents); err != nil {
		t.Errorf("%s takes %s: %v", m.name(), r, err)
	}
}

// propose makes a member propose an edge as soon as it knows the source.
func propose(t *testing.T, m, source member, types ...rid.Type) {
	t.Helper()
	eventually(t, m.name()+" proposes an edge to "+source.name(), func(ctx context.Context) (bool, string) {
		if known, seen := knows(ctx, m, source); !known {
			return false, seen
		}
		err := m.propose(ctx, source.rid(), types...)
		return err == nil, errText(err)
	})
}

// sharedNet is the net of most tests: a coordinator of one side, and a full and
// a partial node of each.
type sharedNet struct {
	*koiNet
	coordinator             member
	ourFull, ourPartial     member
	theirFull, theirPartial member
	release                 reference.Release
}

// Every node of the net subscribes to what the other side provides; the
// reference's partial node also to what its full one does.
func (s *sharedNet) roles(c *contact) (ourFull, ourPartial, theirFull, theirPartial role) {
	ourFull = role{name: "our-full", full: true, provides: []rid.Type{ourType}, interests: []rid.Type{rid.NodeType, theirType}, contact: c}
	ourPartial = role{name: "our-partial", provides: []rid.Type{ourType}, interests: []rid.Type{rid.NodeType, theirType}, contact: c}
	theirFull = role{name: "their-full", full: true, provides: []rid.Type{theirType}, interests: []rid.Type{rid.NodeType, ourType}, contact: c}
	theirPartial = role{name: "their-partial", provides: []rid.Type{theirType}, interests: []rid.Type{rid.NodeType, ourType, theirType}, contact: c}
	return
}
