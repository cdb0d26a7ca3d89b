package nodetest

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/koi-net/koi-operator/node"
	"github.com/koi-net/koi-operator/node/admin/client"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

// Timeout bounds every wait of this package.
const Timeout = 20 * time.Second

// Fleet starts nodes for one test and stops them when it ends.
type Fleet struct {
	t   testing.TB
	dir string
}

// NewFleet returns an empty fleet.
func NewFleet(t testing.TB) *Fleet {
	return &Fleet{t: t, dir: t.TempDir()}
}

// Member is a node of a fleet.
type Member struct {
	*node.Node
	Name string
	// Admin is a client of its admin API; nil where an option took that away.
	Admin *client.Client

	fleet  *Fleet
	cfg    node.Config
	cancel context.CancelFunc
	done   chan error
}

// Start starts a full node of that name on free loopback ports, as changed by
// opts, and waits until it is up. A name that was stopped before starts again on
// its own data, at another address; see Member.Restart for the same one. A net
// begins with a coordinator:
//
//	first := fleet.Start("first", node.AsCoordinator())
//	sensor := fleet.Start("sensor", node.WithProvides(notes), node.WithFirstContact(first.URL()))
//	reader := fleet.Start("reader", node.WithInterests(notes), node.WithFirstContact(first.URL()), node.AsPartial())
func (f *Fleet) Start(name string, opts ...node.Option) *Member {
	f.t.Helper()
	cfg := node.DefaultConfig()
	cfg.Name = name
	cfg.DataDir = filepath.Join(f.dir, name)
	cfg.Listen, cfg.AdminListen = "127.0.0.1:0", "127.0.0.1:0"
	cfg.PollInterval = 50 * time.Millisecond
	cfg.RetryCap = 500 * time.Millisecond
	cfg.Logger = slog.New(slog.NewTextHandler(testWriter{f.t}, &slog.HandlerOptions{Level: slog.LevelWarn})).With("node", name)
	for _, o := range opts {
		o(&cfg)
	}
	return f.start(name, cfg)
}

func (f *Fleet) start(name string, cfg node.Config) *Member {
	f.t.Helper()
	n, err := node.New(node.WithConfig(cfg))
	if err != nil {
		f.t.Fatalf("start %s: %v", name, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	m := &Member{Node: n, Name: name, fleet: f, cfg: cfg, cancel: cancel, done: make(chan error, 1)}
	go func() { m.done <- n.Run(ctx) }()
	f.t.Cleanup(m.Stop)
	select {
	case <-n.Ready():
	case err := <-m.done:
		m.done <- err
		f.t.Fatalf("%s did not come up: %v", name, err)
	case <-time.After(Timeout):
		f.t.Fatalf("%s did not come up in %s", name, Timeout)
	}
	if n.AdminAddr() == nil {
		return m
	}
	m.Admin, err = client.New(client.Options{URL: "http://" + n.AdminAddr().String()})
	if err != nil {
		f.t.Fatalf("admin client of %s: %v", name, err)
	}
	return m
}

// Stop stops the node in good order and waits for its end. It may be called
// twice. For what a kill leaves behind, see Process.
func (m *Member) Stop() {
	m.cancel()
	select {
	case err := <-m.done:
		m.done <- err
		if err != nil {
			m.fleet.t.Errorf("%s ended with: %v", m.Name, err)
		}
	case <-time.After(Timeout):
		m.fleet.t.Errorf("%s did not stop in %s", m.Name, Timeout)
	}
}

// Restart stops the node and starts it again on its data, at the same address.
func (m *Member) Restart(opts ...node.Option) *Member {
	m.fleet.t.Helper()
	m.Stop()
	cfg := m.cfg
	cfg.Metrics = nil
	if a := m.Addr(); a != nil {
		cfg.Listen = a.String()
	}
	for _, o := range opts {
		o(&cfg)
	}
	return m.fleet.start(m.Name, cfg)
}

// URL is the node's base URL.
func (m *Member) URL() string { return m.Profile().BaseURL }

// Put publishes contents, the text of a JSON object, under r.
func (m *Member) Put(r rid.RID, contents string) {
	m.fleet.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Timeout)
	defer cancel()
	if _, err := m.Node.Put(ctx, r, json.RawMessage(contents)); err != nil {
		m.fleet.t.Fatalf("put %s at %s: %v", r, m.Name, err)
	}
}

// Forget forgets r, which has to be held.
func (m *Member) Forget(r rid.RID) {
	m.fleet.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Timeout)
	defer cancel()
	if err := m.Node.Forget(ctx, r); err != nil {
		m.fleet.t.Fatalf("at %s: %v", m.Name, err)
	}
}

// WaitBundle waits until the node holds r with these contents, as compact JSON
// with its keys in the order they were put in.
func (m *Member) WaitBundle(r rid.RID, contents string) {
	m.fleet.t.Helper()
	Eventually(m.fleet.t, m.Name+" holds "+string(r), func() (bool, string) {
		b, err := m.Bundle(context.Background(), r)
		if err != nil {
			return false, err.Error()
		}
		return string(b.Contents) == contents, string(b.Contents)
	})
}

// WaitForgotten waits until the node does not hold r.
func (m *Member) WaitForgotten(r rid.RID) {
	m.fleet.t.Helper()
	Eventually(m.fleet.t, m.Name+" forgot "+string(r), func() (bool, string) {
		_, err := m.Bundle(context.Background(), r)
		return errors.Is(err, store.ErrNotFound), "still there"
	})
}

// Edge returns the edge from source to target as the node knows it; it asks the
// admin API.
func (m *Member) Edge(source, target rid.RID) (client.Edge, bool) {
	m.fleet.t.Helper()
	if m.Admin == nil {
		m.fleet.t.Fatalf("edges of %s: it has no admin API", m.Name)
	}
	list, err := m.Admin.Edges(context.Background(), false)
	if err != nil {
		m.fleet.t.Fatalf("edges of %s: %v", m.Name, err)
	}
	for _, e := range list.Edges {
		if e.Source == source && e.Target == target {
			return e, true
		}
	}
	return client.Edge{}, false
}

// WaitEdge waits until the node knows the edge with that status.
func (m *Member) WaitEdge(source, target rid.RID, status protocol.EdgeStatus) {
	m.fleet.t.Helper()
	Eventually(m.fleet.t, m.Name+" has the edge "+string(status), func() (bool, string) {
		e, ok := m.Edge(source, target)
		if !ok {
			return false, "no edge"
		}
		return e.Status == status && !e.Refused, string(e.Status)
	})
}

// Eventually polls cond until it holds, and fails the test with what cond said
// last if that takes longer than Timeout.
func Eventually(t testing.TB, what string, cond func() (ok bool, seen string)) {
	t.Helper()
	deadline := time.Now().Add(Timeout)
	for {
		ok, seen := cond()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s; last seen: %s", what, Timeout, seen)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// testWriter writes a node's log to the test's.
type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimRight(string(p), "\n"))
	return len(p), nil
}
