package peer

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

func TestKinship(t *testing.T) {
	const known rid.RID = "orn:koi-net.node:known+1"
	for product, want := range map[string]struct{ unknown, known bool }{
		"koi-node/1.2":        {true, true},
		"koi-node":            {true, true},
		"koi-node/1 nginx/2":  {true, true},
		" koi-node/1":         {true, true},
		"koi-nodes/1":         {false, true},
		"x-koi-node/1":        {false, true},
		"nginx koi-node/1":    {false, true},
		"":                    {false, true}, // a proxy left it out
		"nginx/1.2":           {false, true}, // or put its own
		"uvicorn":             {false, false},
		"python-httpx/0.28.1": {false, false},
	} {
		tr := NewTraits()
		tr.Learn(known, 0, "koi-node/1")
		tr.Learn(known, 0, product)
		tr.Learn(peerA, 0, product)
		if got := tr.Kin(peerA); got != want.unknown {
			t.Errorf("%q: an unknown node is kin: %t", product, got)
		}
		if got := tr.Kin(known); got != want.known {
			t.Errorf("%q: a node that was kin is: %t", product, got)
		}
	}
}

func TestLearnedFloatStyle(t *testing.T) {
	tr := NewTraits()
	if tr.FloatStyle(peerA) != protocol.FloatsCurrent || tr.peers.order.Len() != 0 {
		t.Error("a question left something behind")
	}
	tr.Learn(peerA, protocol.FloatsCurrent, "")
	if tr.peers.order.Len() != 0 {
		t.Error("no news left something behind")
	}
	tr.Learn(peerA, protocol.FloatsOlder, "")
	tr.Learn(peerA, protocol.FloatsCurrent, "") // which most envelopes seem to be in
	if tr.FloatStyle(peerA) != protocol.FloatsOlder || tr.FloatStyle(peerB) != protocol.FloatsCurrent {
		t.Error("the older style was not learned, or of another")
	}
	tr.Learn("", protocol.FloatsOlder, "koi-node/1")
	if tr.peers.order.Len() != 1 {
		t.Error("something was learned of nobody")
	}
}

// TestTraitsAreBounded: the peers used last are remembered.
func TestTraitsAreBounded(t *testing.T) {
	tr := NewTraits()
	name := func(i int) rid.RID { return rid.RID(fmt.Sprintf("orn:koi-net.node:n+%d", i)) }
	for i := range maxPeers {
		tr.Learn(name(i), protocol.FloatsOlder, "")
	}
	tr.FloatStyle(name(0)) // used
	tr.introduce(peerA, 0)
	tr.answered(peerB, "key")
	if n := tr.peers.order.Len(); n != maxPeers || len(tr.peers.items) != n {
		t.Errorf("%d peers are remembered, and %d", n, len(tr.peers.items))
	}
	for i, want := range map[int]protocol.FloatStyle{0: protocol.FloatsOlder, 1: protocol.FloatsCurrent, 2: protocol.FloatsCurrent, 3: protocol.FloatsOlder} {
		if tr.FloatStyle(name(i)) != want {
			t.Errorf("node %d: style %d", i, tr.FloatStyle(name(i)))
		}
	}
}

func TestSnapshot(t *testing.T) {
	tr := NewTraits()
	if got := string(tr.Snapshot()); got != `{"version":1,"peers":[]}` {
		t.Errorf("of nothing: %s", got)
	}
	tr.Learn(peerA, protocol.FloatsOlder, "")
	tr.Learn(peerB, 0, "koi-node/1")
	tr.introduce("orn:koi-net.node:c+1", 0)
	data := tr.Snapshot()
	if want := `{"version":1,"peers":[{"rid":"` + string(peerB) + `","kin":true},{"rid":"` + string(peerA) + `","olderFloats":true}]}`; string(data) != want {
		t.Errorf("snapshot %s", data)
	}
	back := NewTraits()
	back.Learn(peerA, 0, "koi-node/1") // learned before it is restored
	if err := back.Restore(data); err != nil {
		t.Fatal(err)
	}
	if !back.Kin(peerA) || back.FloatStyle(peerA) != protocol.FloatsCurrent || !back.Kin(peerB) {
		t.Error("what was restored differs")
	}
	for name, bad := range map[string]string{
		"no JSON":         "{",
		"another version": `{"version":2,"peers":[]}`,
		"no version":      `{}`,
		"no RID":          `{"version":1,"peers":[{"rid":"x"}]}`,
		"no node":         `{"version":1,"peers":[{"rid":"orn:t:1","kin":true}]}`,
		"too large":       `{"version":1,"peers":[]}` + strings.Repeat(" ", maxSnapshot),
	} {
		tr := NewTraits()
		if err := tr.Restore([]byte(bad)); err == nil || tr.peers.order.Len() != 0 {
			t.Errorf("%s: %v, %d peers", name, err, tr.peers.order.Len())
		}
	}
}

// TestSnapshotIsBounded: what fits is there, those used last first.
func TestSnapshotIsBounded(t *testing.T) {
	tr := NewTraits()
	name := func(i int) rid.RID {
		return rid.RID(fmt.Sprintf("orn:koi-net.node:%s+%d", strings.Repeat("<", 500), i)) // escaped as six bytes each
	}
	for i := range 1000 {
		tr.Learn(name(i), 0, "koi-node/1")
	}
	data := tr.Snapshot()
	if len(data) > maxSnapshot || len(data) < maxSnapshot-4000 {
		t.Errorf("%d bytes", len(data))
	}
	back := NewTraits()
	if err := back.Restore(data); err != nil {
		t.Fatal(err)
	}
	if n := back.peers.order.Len(); !back.Kin(name(999)) || back.Kin(name(0)) || n < 300 {
		t.Errorf("%d peers are restored, not those used last", n)
	}
	var order []rid.RID
	for r := range back.peers.all {
		order = append(order, r)
	}
	if len(order) < 2 || order[1] != name(998) {
		t.Error("the order was not restored")
	}
}

func TestTraitsChanged(t *testing.T) {
	tr := NewTraits()
	changed := func() bool {
		select {
		case <-tr.Changed():
			return true
		default:
			return false
		}
	}
	for _, step := range []struct {
		what string
		do   func()
		want bool
	}{
		{"nothing", func() {}, false},
		{"a style", func() { tr.Learn(peerA, protocol.FloatsOlder, "") }, true},
		{"the same style", func() { tr.Learn(peerA, protocol.FloatsOlder, "") }, false},
		{"kin", func() { tr.Learn(peerA, 0, "koi-node/1"); tr.Learn(peerB, 0, "koi-node/1") }, true},
		{"the same kin", func() { tr.Learn(peerA, 0, "koi-node/2") }, false},
		{"kin no more", func() { tr.Learn(peerA, 0, "uvicorn") }, true},
		{"not kin, as everybody", func() { tr.Learn("orn:koi-net.node:c+1", 0, "uvicorn") }, false},
		{"an introduction", func() { tr.introduce(peerA, 0); tr.answered(peerA, "key"); tr.Reintroduce(); tr.forgotten(peerA) }, false},
	} {
		step.do()
		if got := changed(); got != step.want {
			t.Errorf("%s: changed %t", step.what, got)
		}
	}
}

func FuzzRestore(f *testing.F) {
	tr := NewTraits()
	tr.Learn(peerA, protocol.FloatsOlder, "koi-node/1")
	f.Add(tr.Snapshot())
	f.Add([]byte(`{"version":1,"peers":[{"rid":"orn:koi-net.node:a+b+c"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		tr := NewTraits()
		if err := tr.Restore(data); err != nil {
			return
		}
		again := tr.Snapshot()
		if !json.Valid(again) {
			t.Fatalf("snapshot %s", again)
		}
		back := NewTraits()
		if err := back.Restore(again); err != nil {
			t.Fatal(err)
		}
		if string(back.Snapshot()) != string(again) {
			t.Errorf("%s\n%s", back.Snapshot(), again)
		}
	})
}
