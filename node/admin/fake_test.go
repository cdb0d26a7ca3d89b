package admin

import (
	"context"
	"fmt"
	"io"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/koi-net/koi-operator/node/admin/client"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

const (
	self  = rid.RID("orn:koi-net.node:self+1")
	other = rid.RID("orn:koi-net.node:other+2")
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

// fakeBackend keeps bundles in memory and writes down its calls.
type fakeBackend struct {
	mu      sync.Mutex
	calls   []string
	batches []int // sizes of Put
	bundles map[rid.RID]protocol.Bundle
	checks  []client.Check
	err     error                               // returned by every call
	putErr  func(items []client.PutItem) error  // returned by Put
	block   func(ctx context.Context, n string) // called at the start of every call
	backup  func(ctx context.Context, w io.Writer) error
}

func newFake() *fakeBackend {
	return &fakeBackend{
		bundles: map[rid.RID]protocol.Bundle{},
		checks:  []client.Check{{Name: "store", OK: true}, {Name: "listener", OK: true}},
	}
}

func (f *fakeBackend) call(ctx context.Context, format string, args ...any) error {
	if f.block != nil {
		f.block(ctx, format)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, fmt.Sprintf(format, args...))
	return f.err
}

func (f *fakeBackend) last() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.calls) == 0 {
		return ""
	}
	return f.calls[len(f.calls)-1]
}

func (f *fakeBackend) Status(ctx context.Context) (client.Status, error) {
	return client.Status{RID: self, Version: "v1", StoreID: "s1", Started: noon, Ready: true, Checks: f.checks, Bundles: 3}, f.call(ctx, "status")
}

func (f *fakeBackend) Ready() []client.Check { return f.checks }

func (f *fakeBackend) Nodes(ctx context.Context) ([]client.Node, error) {
	return []client.Node{{RID: self, Self: true, Verified: true, Profile: protocol.NodeProfile{NodeType: protocol.Full}}}, f.call(ctx, "nodes")
}

func (f *fakeBackend) Introduce(ctx context.Context, in client.Introduction) (client.Node, error) {
	return client.Node{RID: other, Profile: protocol.NodeProfile{BaseURL: in.URL}}, f.call(ctx, "introduce %s %s %s", in.URL, in.RID, in.PublicKey)
}

func (f *fakeBackend) Edges(ctx context.Context, own bool) (client.EdgeList, error) {
	list := client.EdgeList{
		Edges:    []client.Edge{{RID: rid.NewEdge(self, other), Source: self, Target: other, EdgeType: protocol.Poll, Status: protocol.Proposed, RIDTypes: []rid.Type{"orn:a.b"}}},
		Refusals: []client.Policy{{Source: self, Target: "orn:koi-net.node:bad+3", Verdict: client.Reject}},
	}
	return list, f.call(ctx, "edges own=%v", own)
}

func (f *fakeBackend) Propose(ctx context.Context, p client.Proposal) (client.Edge, error) {
	e := client.Edge{RID: rid.NewEdge(p.Source, self), Source: p.Source, Target: self, EdgeType: p.EdgeType, Status: protocol.Proposed, RIDTypes: p.RIDTypes}
	return e, f.call(ctx, "propose %s %s %v %s", p.Source, p.EdgeType, p.RIDTypes, p.SourceURL)
}

func (f *fakeBackend) SetPolicy(ctx context.Context, p client.Policy) (client.Policy, error) {
	err := f.call(ctx, "policy %s %s %s", p.Source, p.Target, p.Verdict)
	p.Decided = noon
	return p, err
}

func (f *fakeBackend) DeletePolicy(ctx context.Context, source, target rid.RID) error {
	return f.call(ctx, "deletePolicy %s %s", source, target)
}

func (f *fakeBackend) ForgetEdge(ctx context.Context, source, target rid.RID) error {
	return f.call(ctx, "forgetEdge %s %s", source, target)
}

func (f *fakeBackend) RIDs(ctx context.Context, types []rid.Type, after rid.RID, limit int) (client.RIDList, error) {
	if err := f.call(ctx, "rids %v %q %d", types, after, limit); err != nil {
		return client.RIDList{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []rid.RID
	for r := range f.bundles {
		if r > after && (len(types) == 0 || slices.Contains(types, r.Type())) {
			all = append(all, r)
		}
	}
	slices.Sort(all)
	if len(all) <= limit {
		return client.RIDList{RIDs: all}, nil
	}
	return client.RIDList{RIDs: all[:limit], Next: all[limit-1]}, nil
}

func (f *fakeBackend) Bundle(ctx context.Context, r rid.RID) (protocol.Bundle, error) {
	if err := f.call(ctx, "bundle %s", r); err != nil {
		return protocol.Bundle{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	b, ok := f.bundles[r]
	if !ok {
		return b, fmt.Errorf("bundle %s: %w", r, store.ErrNotFound)
	}
	return b, nil
}

func (f *fakeBackend) Put(ctx context.Context, items []client.PutItem) (client.PutResult, error) {
	var res client.PutResult
	if err := f.call(ctx, "put %d", len(items)); err != nil {
		return res, err
	}
	if f.putErr != nil {
		if err := f.putErr(items); err != nil {
			return res, err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.batches = append(f.batches, len(items))
	for _, it := range items {
		b, err := protocol.NewBundle(it.RID, protocol.NewTimestamp(noon), it.Contents)
		if err != nil {
			return res, err
		}
		if f.bundles[it.RID].Manifest.SHA256Hash == b.Manifest.SHA256Hash {
			res.Unchanged++
		} else {
			res.Accepted++
		}
		f.bundles[it.RID] = b
		if len(items) == 1 {
			res.Manifest = &b.Manifest
		}
	}
	return res, nil
}

func (f *fakeBackend) Forget(ctx context.Context, r rid.RID) error {
	if err := f.call(ctx, "forget %s", r); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.bundles[r]; !ok {
		return fmt.Errorf("bundle %s: %w", r, store.ErrNotFound)
	}
	delete(f.bundles, r)
	return nil
}

func (f *fakeBackend) Resync(ctx context.Context) error { return f.call(ctx, "resync") }
func (f *fakeBackend) Leave(ctx context.Context) error  { return f.call(ctx, "leave") }

func (f *fakeBackend) Backup(ctx context.Context, w io.Writer) error {
	if err := f.call(ctx, "backup"); err != nil {
		return err
	}
	return f.backup(ctx, w)
}

// fixture is a served API and a client for it.
type fixture struct {
	*client.Client
	backend *fakeBackend
	feed    *Feed
	url     string
}

func serve(t *testing.T, change func(*Config)) fixture {
	t.Helper()
	cfg := Config{Backend: newFake(), Feed: NewFeed("s1", 16, func() time.Time { return noon })}
	if change != nil {
		change(&cfg)
	}
	srv := httptest.NewUnstartedServer(nil)
	srv.Config = HTTPServer(New(cfg), nil)
	srv.Start()
	t.Cleanup(func() {
		cfg.Feed.Close()
		srv.Close()
	})
	c, err := client.New(client.Options{URL: srv.URL, Token: cfg.Token, Timeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.CloseIdleConnections)
	return fixture{Client: c, backend: cfg.Backend.(*fakeBackend), feed: cfg.Feed, url: srv.URL}
}
