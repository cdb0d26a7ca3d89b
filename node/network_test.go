package node_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/koi-net/koi-operator/node"
	"github.com/koi-net/koi-operator/node/graph"
	"github.com/koi-net/koi-operator/node/nodetest"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

// The calls of the protocol, made by hand to a node that is known.
func TestPeerCalls(t *testing.T) {
	sensor, other := strangers(t)
	sensor.Put(note(1), `{"n":1}`)
	p, err := other.Peer(sensor.RID())
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	if rids, err := p.FetchRIDs(ctx, noteType); err != nil || !slices.Equal(rids, []rid.RID{note(1)}) {
		t.Errorf("rids %v, %v", rids, err)
	}
	if ans, err := p.FetchManifests(ctx, []rid.Type{noteType}, nil); err != nil || len(ans.Manifests) != 1 {
		t.Errorf("manifests %+v, %v", ans, err)
	}
	ans, err := p.FetchBundles(ctx, note(1), note(2))
	if err != nil || len(ans.Bundles) != 1 || !slices.Equal(ans.NotFound, []rid.RID{note(2)}) {
		t.Errorf("bundles %+v, %v", ans, err)
	}
	b, err := protocol.NewBundle("orn:test.other:1", protocol.Now(other.Now()), []byte(`{"from":"other"}`))
	if err != nil {
		t.Fatal(err)
	}
	event := protocol.Event{RID: b.Manifest.RID, EventType: protocol.New, Manifest: &b.Manifest, Contents: b.Contents}
	if err := p.Broadcast(ctx, event); err != nil {
		t.Error(err)
	}
	sensor.WaitBundle(b.Manifest.RID, `{"from":"other"}`)
	if _, err := p.Poll(ctx, 0); err != nil {
		t.Error(err)
	}
	if _, err := other.Peer("orn:koi-net.node:nobody+1"); !errors.Is(err, node.ErrUnknownPeer) {
		t.Errorf("an unknown node: %v", err)
	}
}

func TestFetchLeavesTheCache(t *testing.T) {
	sensor, other := strangers(t)
	sensor.Put(note(1), `{"n":1}`)
	b, err := other.FetchBundle(t.Context(), note(1))
	if err != nil || string(b.Contents) != `{"n":1}` {
		t.Errorf("bundle %s, %v", b.Contents, err)
	}
	m, err := other.FetchManifest(t.Context(), note(1))
	if err != nil || m != b.Manifest {
		t.Errorf("manifest %+v, %v", m, err)
	}
	if has, err := other.Has(t.Context(), note(1)); has || err != nil {
		t.Errorf("it is in the cache: %v, %v", has, err)
	}
	if _, err := other.FetchBundle(t.Context(), note(2)); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("what nobody has: %v", err)
	}
}

// An event that is pushed reaches its node without an edge, by webhook or, as
// here to a partial node, when that polls.
func TestPushAndPoll(t *testing.T) {
	f := nodetest.NewFleet(t)
	coord := f.Start("coordinator", coordinator)
	desk := f.Start("desk", partial, func(c *node.Config) {
		c.FirstContact, c.PollInterval = coord.URL(), node.DefaultConfig().PollInterval*1000
	})
	nodetest.Eventually(t, "the coordinator knows the desk", func() (bool, string) {
		_, ok := coord.Graph().Node(desk.RID())
		return ok, ""
	})
	e := protocol.Event{RID: note(1), EventType: protocol.New}
	b, err := protocol.NewBundle(note(1), protocol.Now(coord.Now()), []byte(`{"n":1}`))
	if err != nil {
		t.Fatal(err)
	}
	e.Manifest, e.Contents = &b.Manifest, b.Contents
	if err := coord.Push(t.Context(), e, desk.RID(), "orn:koi-net.node:nobody+1"); err != nil {
		t.Fatal(err)
	}
	nodetest.Eventually(t, "the desk polls it", func() (bool, string) {
		if err := desk.PollNeighbors(t.Context()); err != nil {
			return false, err.Error()
		}
		has, err := desk.Has(context.Background(), note(1))
		return has, errText(err)
	})
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestGraphView(t *testing.T) {
	f := nodetest.NewFleet(t)
	coord := f.Start("coordinator", coordinator)
	sens := f.Start("sensor", sensor(coord))
	read := f.Start("reader", reader(coord))
	read.WaitEdge(sens.RID(), read.RID(), protocol.Approved)
	sens.WaitEdge(sens.RID(), read.RID(), protocol.Approved)
	g := sens.Graph()
	if got := g.Subscribers(noteType); !slices.Equal(got, []rid.RID{read.RID()}) {
		t.Errorf("subscribers %v", got)
	}
	if got := g.Neighbors(graph.Query{Direction: graph.Out, Status: protocol.Approved, Type: noteType}); !slices.Equal(got, []rid.RID{read.RID()}) {
		t.Errorf("neighbors %v", got)
	}
	if got := read.Graph().Providers(noteType); !slices.Equal(got, []rid.RID{sens.RID()}) {
		t.Errorf("providers %v", got)
	}
	sens.Put(note(1), `{"n":1}`)
	if err := sens.Settle(t.Context()); err != nil {
		t.Error(err)
	}
	read.WaitBundle(note(1), `{"n":1}`)
}
