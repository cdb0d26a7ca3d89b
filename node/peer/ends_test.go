package peer

import (
	"context"
	"fmt"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"

	"github.com/koi-net/koi-operator/node/identity"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/server"
	"github.com/koi-net/koi-operator/node/store"
)

var _ server.Poller = (*Polls)(nil)

// acquaintances is what a served node knows of others, and what it took from them.
type acquaintances struct {
	traits *Traits

	mu    sync.Mutex
	keys  map[rid.RID]string
	taken []string
	names map[[32]byte]int
}

func (a *acquaintances) PublicKey(r rid.RID) (string, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	key, ok := a.keys[r]
	return key, ok
}

func (a *acquaintances) FloatStyle(r rid.RID) protocol.FloatStyle { return a.traits.FloatStyle(r) }

func (a *acquaintances) Learn(r rid.RID, style protocol.FloatStyle, userAgent string) {
	a.traits.Learn(r, style, userAgent)
}

func (*acquaintances) Suits(rid.RID, rid.RID) bool { return true }

func (a *acquaintances) Accept(_ context.Context, from server.Sender, events []protocol.Event) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if from.Replay != nil {
		a.names[*from.Replay]++
	}
	for _, e := range events {
		a.taken = append(a.taken, fmt.Sprintf("%s %s %s", from.RID, e.EventType, e.RID))
		if p, err := protocol.ParseNodeProfile(e.Contents); err == nil && e.RID == from.RID {
			a.keys[e.RID] = p.PublicKey
		}
	}
	return nil
}

// serveNode serves a store and its poll queues as a full node does.
func serveNode(t *testing.T, id identity.Identity, s store.Store, polls *Polls) (*acquaintances, string) {
	t.Helper()
	a := &acquaintances{traits: NewTraits(), keys: map[rid.RID]string{}, names: map[[32]byte]int{}}
	h, err := server.New(server.Config{
		Store: s, Inbox: a, Polls: polls, Peers: a, Identity: id, Product: Product + "/test", BasePath: "/koi-net",
		Self: func() (protocol.Bundle, bool) { return protocol.Bundle{}, false },
	})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return a, srv.URL + "/koi-net"
}

// TestBothEnds has the client call the server of our kind, knowing no more of it
// than its RID: it is introduced, drains its queue, and gets what it asks for.
func TestBothEnds(t *testing.T) {
	ctx := context.Background()
	s, c, id := newStore(t), newCaller(t, nil), newIdentity(t, "server")
	own := profileEvent(t, id)
	all := refs(57)
	queue(t, s, store.PollQueue, c.id.RID, all...)
	floats := testBundle(t, "orn:t:float", `{"x":1e+17,"y":[1e-7,0.5,-0.0]}`)
	err := s.Update(ctx, func(w store.Writer) error {
		return w.PutBundle(store.Record{Bundle: floats, Source: "unsigned"})
	})
	if err != nil {
		t.Fatal(err)
	}
	a, url := serveNode(t, id, s, newPolls(t, PollsConfig{Store: s, Rows: 10, Introduction: func() ([]byte, bool) { return own, true }}))
	target := Target{RID: id.RID, URL: url}

	want := []string{id.RID.Reference()}
	want = append(want, all...)
	var got []string
	for round := 0; ; round++ {
		polled, err := c.Poll(ctx, target, 0)
		if err != nil || round > 10 || polled.Source != id.RID {
			t.Fatalf("round %d: %s, %v", round, polled.Source, err)
		}
		if len(polled.Events) == 0 {
			break
		}
		for _, e := range polled.Events {
			got = append(got, e.RID.Reference())
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("polled %v", got)
	}
	if n := rows(t, s, store.PollQueue, c.id.RID); n != 0 {
		t.Errorf("%d rows are left", n)
	}

	for _, style := range []protocol.FloatStyle{protocol.FloatsCurrent, protocol.FloatsOlder} {
		a.traits.Learn(c.id.RID, style, "")
		answer, err := c.FetchBundles(ctx, target, []rid.RID{"orn:t:float", "orn:t:none"})
		if err != nil || len(answer.Bundles) != 1 || string(answer.Bundles[0].Contents) != string(floats.Contents) || len(answer.NotFound) != 1 {
			t.Errorf("style %d: %v, %v", style, answer, err)
		}
	}
	manifests, err := c.FetchManifests(ctx, target, []rid.Type{"orn:t"}, nil)
	if err != nil || len(manifests.Manifests) != 1 || manifests.Manifests[0] != floats.Manifest {
		t.Errorf("%v, %v", manifests, err)
	}
	if rids, err := c.FetchRIDs(ctx, target, nil); err != nil || len(rids) != 1 {
		t.Errorf("%v, %v", rids, err)
	}

	batch, once := [][]byte{bundleEvent(t, "orn:t:float", `{"x":1e+17}`)}, new(Once)
	for range 2 { // the second is a replay
		if err := c.Broadcast(ctx, target, batch, once); err != nil {
			t.Error(err)
		}
	}
	if err := c.Broadcast(ctx, target, batch, new(Once)); err != nil {
		t.Error(err)
	}
	sender := string(c.id.RID)
	if want := append([]string{sender + " NEW " + sender}, slices.Repeat([]string{sender + " NEW orn:t:float"}, 3)...); !slices.Equal(a.taken, want) {
		t.Errorf("taken %v", a.taken)
	}
	var counts []int
	for _, n := range a.names {
		counts = append(counts, n)
	}
	slices.Sort(counts)
	if !slices.Equal(counts, []int{1, 1, 2}) {
		t.Errorf("names of bodies are seen %v times", counts)
	}
	if !c.traits.Kin(id.RID) || !a.traits.Kin(c.id.RID) {
		t.Error("two nodes of our kind do not know it of each other")
	}
	if told := c.told(); told != nil {
		t.Errorf("forgotten by %v", told)
	}
}
