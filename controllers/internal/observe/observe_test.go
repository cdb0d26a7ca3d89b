package observe

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"k8s.io/apimachinery/pkg/types"

	"github.com/koi-net/koi-operator/node/admin/client"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a node's admin API in memory.
type fake struct {
	mu      sync.Mutex
	status  client.Status
	edges   client.EdgeList
	nodes   []client.Node
	err     error
	asked   int
	closed  int
	changes chan client.ChangeKind
}

func newFake(version string) *fake {
	return &fake{status: client.Status{Version: version}, changes: make(chan client.ChangeKind, 10)}
}

func (f *fake) set(change func(*fake)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

func (f *fake) Status(context.Context) (client.Status, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked++
	return f.status, f.err
}

func (f *fake) Nodes(context.Context) ([]client.Node, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.nodes, f.err
}

func (f *fake) Edges(context.Context, bool) (client.EdgeList, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.edges, f.err
}

func (f *fake) Follow(ctx context.Context, _ string, fn func(client.Change) error, _ client.FollowOptions) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case k := <-f.changes:
			if err := fn(client.Change{Kind: k}); err != nil {
				return err
			}
		}
	}
}

func (f *fake) CloseIdleConnections() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed++
}

func (f *fake) Propose(context.Context, client.Proposal) (client.Edge, error) {
	return client.Edge{}, nil
}
func (f *fake) ForgetEdge(context.Context, rid.RID, rid.RID) error                  { return nil }
func (f *fake) SetPolicy(_ context.Context, p client.Policy) (client.Policy, error) { return p, nil }
func (f *fake) DeletePolicy(context.Context, rid.RID, rid.RID) error                { return nil }
func (f *fake) Leave(context.Context) error                                         { return nil }

// Current is so once it was asked.
func (f *fake) Current() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked > 0
}

var key = types.NamespacedName{Namespace: "n", Name: "a"}

// running is an Observer over fakes, by their endpoint's URL.
func running(t *testing.T, interval time.Duration, nodes map[string]*fake) (*Observer, <-chan struct{}) {
	t.Helper()
	o := New(Options{Interval: interval, Dial: func(e Endpoint) (Admin, error) {
		if f, ok := nodes[e.URL]; ok {
			return f, nil
		}
		return nil, errors.New("no such endpoint")
	}})
	events := o.Subscribe()
	heard := make(chan struct{}, 1000)
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case e := <-events:
				if e.Object.GetName() != "a" || e.Object.GetNamespace() != "n" {
					t.Errorf("an event for %s/%s", e.Object.GetNamespace(), e.Object.GetName())
				}
				heard <- struct{}{}
			}
		}
	})
	all.Go(func() {
		if err := o.Start(ctx); err != nil {
			t.Errorf("Start: %v", err)
		}
	})
	t.Cleanup(func() {
		cancel()
		all.Wait()
	})
	return o, heard
}

func hear(t *testing.T, heard <-chan struct{}) {
	t.Helper()
	select {
	case <-heard:
	case <-time.After(10 * time.Second):
		t.Fatal("no event")
	}
}

func silent(t *testing.T, heard <-chan struct{}, d time.Duration) {
	t.Helper()
	select {
	case <-heard:
		t.Fatal("an event without a change")
	case <-time.After(d):
	}
}

func TestFollow(t *testing.T) {
	f := newFake("1")
	o, heard := running(t, time.Hour, map[string]*fake{"u": f})
	if o.Snapshot(key) != nil || o.Admin(key) != nil {
		t.Error("a node that is not followed has a snapshot")
	}
	if err := o.Follow(key, Endpoint{URL: "u"}); err != nil {
		t.Fatal(err)
	}
	hear(t, heard)
	if s := o.Snapshot(key); s == nil || s.Status.Version != "1" || !s.Fresh(time.Now(), time.Minute) {
		t.Fatalf("%+v", s)
	}
	if o.Admin(key) != Admin(f) {
		t.Error("another client")
	}

	t.Log("a change that matters is told")
	f.set(func(f *fake) { f.status.Ready = true })
	f.changes <- client.ChangeStatus
	hear(t, heard)
	if !o.Snapshot(key).Status.Ready {
		t.Error("the snapshot is old")
	}

	t.Log("traffic is not")
	f.set(func(f *fake) { f.status.Bundles, f.status.StoreBytes = 7, 9 })
	f.changes <- client.ChangeStatus
	silent(t, heard, 300*time.Millisecond)

	t.Log("nor is what concerns bundles alone, which is not even asked for")
	f.changes <- client.ChangeBundle
	f.mu.Lock()
	asked := f.asked
	f.mu.Unlock()
	silent(t, heard, 300*time.Millisecond)
	f.mu.Lock()
	if f.asked != asked {
		t.Errorf("asked %d times more", f.asked-asked)
	}
	f.mu.Unlock()

	t.Log("Refresh asks at once")
	f.set(func(f *fake) { f.status.Version = "2" })
	o.Refresh(key)
	hear(t, heard)

	t.Log("Unfollow forgets")
	o.Unfollow(key)
	if o.Snapshot(key) != nil || o.Admin(key) != nil {
		t.Error("it is still there")
	}
	wait(t, "its connections are closed", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.closed == 1
	})
}

func TestSilenceAndReturn(t *testing.T) {
	f := newFake("1")
	o, heard := running(t, time.Hour, map[string]*fake{"u": f})
	if err := o.Follow(key, Endpoint{URL: "u"}); err != nil {
		t.Fatal(err)
	}
	hear(t, heard)
	at := o.Snapshot(key).At
	f.set(func(f *fake) { f.err = errors.New("refused") })
	o.Refresh(key)
	hear(t, heard)
	if s := o.Snapshot(key); s.Err == nil || !s.At.Equal(at) || s.Status.Version != "1" {
		t.Errorf("what was known is gone: %+v", s)
	}
	f.set(func(f *fake) { f.err = nil })
	hear(t, heard) // by itself
	if s := o.Snapshot(key); s.Err != nil || !s.At.After(at) {
		t.Errorf("%+v", s)
	}
}

func TestAskedAnewWithinTheInterval(t *testing.T) {
	f := newFake("1")
	const interval = 400 * time.Millisecond
	o, heard := running(t, interval, map[string]*fake{"u": f})
	if err := o.Follow(key, Endpoint{URL: "u"}); err != nil {
		t.Fatal(err)
	}
	hear(t, heard)
	first := o.Snapshot(key).At
	wait(t, "it is asked again", func() bool { return o.Snapshot(key).At.After(first) })
}

func TestAnotherEndpoint(t *testing.T) {
	before, after := newFake("1"), newFake("2")
	o, heard := running(t, time.Hour, map[string]*fake{"u": before, "v": after})
	for _, e := range []Endpoint{{URL: "u"}, {URL: "u"}, {URL: "v"}} {
		if err := o.Follow(key, e); err != nil {
			t.Fatal(err)
		}
		wait(t, "a snapshot", func() bool { return o.Snapshot(key) != nil })
	}
	hear(t, heard)
	wait(t, "the other endpoint's snapshot", func() bool { return o.Snapshot(key).Status.Version == "2" })
	wait(t, "the first endpoint's end", func() bool {
		before.mu.Lock()
		defer before.mu.Unlock()
		return before.closed == 1
	})
	if err := o.Follow(key, Endpoint{URL: "w"}); err == nil {
		t.Error("an endpoint that cannot be dialled was taken")
	}
}

func TestRenewal(t *testing.T) {
	f := newFake("1")
	o, heard := running(t, time.Hour, map[string]*fake{"u": f})
	if _, ok := o.Endpoint(key); ok || o.Current(key, "") {
		t.Error("a node that is not followed has an endpoint")
	}
	e := Endpoint{URL: "u", Token: "new", PreviousToken: "old"}
	if err := o.Follow(key, e); err != nil {
		t.Fatal(err)
	}
	hear(t, heard)
	if got, ok := o.Endpoint(key); !ok || got != e {
		t.Errorf("%+v, %t", got, ok)
	}
	if !o.Current(key, "new") || o.Current(key, "old") {
		t.Error("which token it goes by is not told right")
	}
}

// When a change was noticed is kept until there is another one.
func TestChanged(t *testing.T) {
	at := func(s int) time.Time { return time.Unix(int64(s), 0) }
	said := func(version string, s int) *Snapshot {
		return newSnapshot(client.Status{Version: version}, client.EdgeList{}, nil, at(s))
	}
	old := said("1", 1)
	old.Changed = at(1)
	told := at(4)
	for name, tt := range map[string]struct {
		old, next *Snapshot
		noticed   *time.Time
		want      time.Time
	}{
		"first word":      {nil, said("1", 5), nil, at(5)},
		"the same again":  {old, said("1", 5), &told, at(1)},
		"told of":         {old, said("2", 5), &told, at(4)},
		"found by asking": {old, said("2", 5), nil, at(5)},
	} {
		if got := changed(tt.old, tt.next, tt.noticed); !got.Equal(tt.want) {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
}

func TestFollowBeforeStart(t *testing.T) {
	f := newFake("1")
	o := New(Options{Interval: time.Hour, Dial: func(Endpoint) (Admin, error) { return f, nil }})
	if err := o.Follow(key, Endpoint{URL: "u"}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- o.Start(ctx) }()
	wait(t, "a snapshot", func() bool { return o.Snapshot(key) != nil })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if o.Snapshot(key) != nil {
		t.Error("followed after the end")
	}
}

func TestSnapshot(t *testing.T) {
	a, b := rid.RID("orn:koi-net.node:a+1"), rid.RID("orn:koi-net.node:b+2")
	approve, reject := client.Policy{Source: a, Target: b, Verdict: client.Approve}, client.Policy{Source: b, Target: a, Verdict: client.Reject}
	s := newSnapshot(client.Status{RID: a},
		client.EdgeList{Edges: []client.Edge{{Source: a, Target: b, Decision: &approve}}, Refusals: []client.Policy{reject}},
		[]client.Node{{RID: a, Self: true}, {RID: b, Verified: true, Profile: protocol.NodeProfile{NodeType: protocol.Partial}}, {RID: "orn:koi-net.node:c+3"}},
		time.Unix(100, 0))
	if s.Edge(Pair{a, b}) == nil || s.Edge(Pair{b, a}) != nil {
		t.Error("Edge")
	}
	if d := s.Decision(Pair{a, b}); d == nil || d.Verdict != client.Approve {
		t.Errorf("%+v", d)
	}
	if d := s.Decision(Pair{b, a}); d == nil || d.Verdict != client.Reject {
		t.Errorf("%+v", d)
	}
	if len(s.Peers) != 2 || !s.Peers[b].Verified || s.Peers[b].Kind != protocol.Partial || !s.Peers[a].Verified {
		t.Errorf("%+v", s.Peers)
	}
	if !s.Fresh(time.Unix(110, 0), 10*time.Second) || s.Fresh(time.Unix(111, 0), 10*time.Second) {
		t.Error("Fresh")
	}
	var none *Snapshot
	if none.Fresh(time.Now(), time.Hour) || none.Edge(Pair{a, b}) != nil || none.Decision(Pair{a, b}) != nil {
		t.Error("a node that never answered said something")
	}
}

func wait(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 10 s", what)
		}
	}
}
