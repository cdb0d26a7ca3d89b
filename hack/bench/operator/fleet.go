package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/koi-net/koi-operator/node/admin"
	"github.com/koi-net/koi-operator/node/admin/client"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

// fleet is all simulated nodes. They negotiate edges among themselves, at once.
type fleet struct {
	mu    sync.Mutex
	nodes map[rid.RID]*simulated
	clock int64
}

func newFleet() *fleet { return &fleet{nodes: map[rid.RID]*simulated{}} }

// edgePair is an edge's identity.
type edgePair struct{ source, target rid.RID }

// simulated is a node behind the routes of the real admin API; fleet.mu guards
// what changes.
type simulated struct {
	// Backend is nil: what nobody asks here is not answered.
	admin.Backend

	fleet    *fleet
	settings settings
	feed     *admin.Feed
	server   *http.Server
	stopped  sync.WaitGroup
	edges    map[edgePair]client.Edge
	policies map[edgePair]client.Policy
}

// settings are what a node is started with.
type settings struct {
	name, ip, hash, token string
	rid                   rid.RID
	certificate           tls.Certificate
	provides              []rid.Type
	files                 map[string][]byte // for a process: the files it mounts, by path
}

// run starts a node at its address.
func (f *fleet) run(ctx context.Context, s settings) (running, error) {
	n := &simulated{
		fleet: f, settings: s, feed: admin.NewFeed("store-"+s.name, 64, nil),
		edges: map[edgePair]client.Edge{}, policies: map[edgePair]client.Policy{},
	}
	var listen net.ListenConfig
	l, err := listen.Listen(ctx, "tcp", net.JoinHostPort(s.ip, adminPort))
	if err != nil {
		return nil, fmt.Errorf("node %s: %w", s.name, err)
	}
	n.server = admin.HTTPServer(admin.New(admin.Config{Backend: n, Feed: n.feed, Token: s.token}), slog.New(slog.DiscardHandler))
	n.server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{s.certificate}, MinVersion: tls.VersionTLS12}
	f.mu.Lock()
	f.nodes[s.rid] = n
	f.mu.Unlock()
	n.stopped.Go(func() { _ = n.server.ServeTLS(l, "", "") }) // it ends when it is closed
	return n, nil
}

func (n *simulated) hash() string { return n.settings.hash }

func (n *simulated) stop() {
	n.feed.Close()
	_ = n.server.Close() // its listener is closed, whatever it says
	n.stopped.Wait()
}

// Status implements admin.Backend.
func (n *simulated) Status(context.Context) (client.Status, error) {
	n.fleet.mu.Lock()
	defer n.fleet.mu.Unlock()
	st := client.Status{
		Version: "bench", RID: n.settings.rid, NodeType: protocol.Full, ConfigHash: n.settings.hash,
		StoreID: "store-" + n.settings.name, Ready: true, Checks: n.Ready(),
	}
	for _, e := range n.edges {
		if e.Status == protocol.Approved {
			st.Edges.Approved++
		} else {
			st.Edges.Proposed++
		}
	}
	return st, nil
}

// Ready implements admin.Backend.
func (n *simulated) Ready() []client.Check {
	return []client.Check{{Name: "store", OK: true}, {Name: "identity", OK: true}, {Name: "listener", OK: true}}
}

// Nodes implements admin.Backend: a node knows the others ends of its edges.
func (n *simulated) Nodes(context.Context) ([]client.Node, error) {
	n.fleet.mu.Lock()
	defer n.fleet.mu.Unlock()
	known := map[rid.RID]bool{n.settings.rid: true}
	for p := range n.edges {
		known[p.source], known[p.target] = true, true
	}
	var all []client.Node
	for r := range known {
		all = append(all, client.Node{RID: r, Self: r == n.settings.rid, Verified: true, Profile: protocol.NodeProfile{NodeType: protocol.Full}})
	}
	slices.SortFunc(all, func(a, b client.Node) int { return strings.Compare(string(a.RID), string(b.RID)) })
	return all, nil
}

// Edges implements admin.Backend.
func (n *simulated) Edges(context.Context, bool) (client.EdgeList, error) {
	n.fleet.mu.Lock()
	defer n.fleet.mu.Unlock()
	var l client.EdgeList
	for p, e := range n.edges {
		if d, ok := n.policies[p]; ok {
			e.Decision = &d
		}
		l.Edges = append(l.Edges, e)
	}
	slices.SortFunc(l.Edges, func(a, b client.Edge) int { return strings.Compare(string(a.RID), string(b.RID)) })
	return l, nil
}

// Propose implements admin.Backend: the source approves what it provides.
func (n *simulated) Propose(_ context.Context, p client.Proposal) (client.Edge, error) {
	f := n.fleet
	f.mu.Lock()
	defer f.mu.Unlock()
	f.clock++
	k := edgePair{p.Source, n.settings.rid}
	e := client.Edge{
		RID: rid.NewEdge(p.Source, n.settings.rid), Source: p.Source, Target: n.settings.rid, EdgeType: protocol.Webhook,
		Status: protocol.Proposed, RIDTypes: p.RIDTypes, Timestamp: protocol.NewTimestamp(time.Unix(f.clock, 0)),
	}
	if p.EdgeType != "" {
		e.EdgeType = p.EdgeType
	}
	if source := f.nodes[p.Source]; source != nil {
		if !slices.ContainsFunc(p.RIDTypes, func(t rid.Type) bool { return !slices.Contains(source.settings.provides, t) }) {
			e.Status = protocol.Approved
		}
		source.edges[k] = e
		source.feed.Publish(client.Change{Kind: client.ChangeEdge, RID: e.RID, Edge: &e})
	}
	n.edges[k] = e
	n.feed.Publish(client.Change{Kind: client.ChangeEdge, RID: e.RID, Edge: &e})
	return e, nil
}

// SetPolicy implements admin.Backend.
func (n *simulated) SetPolicy(_ context.Context, p client.Policy) (client.Policy, error) {
	n.fleet.mu.Lock()
	defer n.fleet.mu.Unlock()
	n.policies[edgePair{p.Source, p.Target}] = p
	n.feed.Publish(client.Change{Kind: client.ChangePolicy})
	return p, nil
}

// DeletePolicy implements admin.Backend.
func (n *simulated) DeletePolicy(_ context.Context, source, target rid.RID) error {
	n.fleet.mu.Lock()
	defer n.fleet.mu.Unlock()
	delete(n.policies, edgePair{source, target})
	return nil
}

// ForgetEdge implements admin.Backend.
func (n *simulated) ForgetEdge(_ context.Context, source, target rid.RID) error {
	n.fleet.mu.Lock()
	defer n.fleet.mu.Unlock()
	k := edgePair{source, target}
	if _, ok := n.edges[k]; !ok {
		return store.ErrNotFound
	}
	for _, r := range []rid.RID{source, target} {
		if o := n.fleet.nodes[r]; o != nil {
			delete(o.edges, k)
			o.feed.Publish(client.Change{Kind: client.ChangeEdge, Event: protocol.Forget, RID: rid.NewEdge(source, target)})
		}
	}
	return nil
}

// Introduce implements admin.Backend.
func (n *simulated) Introduce(context.Context, client.Introduction) (client.Node, error) {
	return client.Node{}, errors.New("a simulated node meets nobody")
}

// Resync implements admin.Backend.
func (n *simulated) Resync(context.Context) error { return nil }

// Leave implements admin.Backend.
func (n *simulated) Leave(context.Context) error { return nil }
