package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/koi-net/koi-operator/node/admin"
	"github.com/koi-net/koi-operator/node/admin/client"
	"github.com/koi-net/koi-operator/node/contact"
	"github.com/koi-net/koi-operator/node/graph"
	"github.com/koi-net/koi-operator/node/handlers"
	"github.com/koi-net/koi-operator/node/peer"
	"github.com/koi-net/koi-operator/node/pipeline"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

// backend serves the admin API from a running node.
type backend struct{ n *Node }

var _ admin.Backend = backend{}

// Status tells who the node is and how it fares.
func (b backend) Status(ctx context.Context) (client.Status, error) {
	n := b.n
	profile := n.Profile()
	st := client.Status{
		Version:      n.cfg.Version,
		RID:          n.identity.RID,
		NodeType:     profile.NodeType,
		BaseURL:      profile.BaseURL,
		PublicKey:    n.identity.PublicKeyText(),
		ConfigHash:   n.cfg.ConfigHash,
		StoreID:      n.store.Info().ID,
		Started:      n.started,
		Checks:       b.Ready(),
		Provides:     profile.Provides,
		Coordinator:  n.cfg.Coordinator,
		EdgeApproval: string(n.cfg.EdgeApproval),
	}
	st.Quarantined = n.processor.Quarantined()
	st.Damaged, st.DamagedBundles = n.repairs.count(), n.repairs.list(client.MaxDamagedListed)
	st.Ready = !slices.ContainsFunc(st.Checks, func(c client.Check) bool { return !c.OK })
	for _, t := range n.cfg.Interests {
		st.Interests = append(st.Interests, string(t))
	}
	if n.cfg.FirstContact != "" {
		fc := n.contact.FirstContact()
		st.FirstContact = &client.FirstContact{URL: n.cfg.FirstContact, RID: fc.RID, Reached: fc.Reached, Message: fc.Message}
	}
	for _, e := range n.graph.EdgesOf(n.identity.RID) {
		if e.Profile.Status == protocol.Approved {
			st.Edges.Approved++
		} else {
			st.Edges.Proposed++
		}
	}
	var err error
	if st.StoreBytes, err = n.store.Size(); err != nil {
		return st, err
	}
	return st, n.store.View(ctx, func(tx store.Reader) error { return b.storeStatus(tx, &st) })
}

func (b backend) storeStatus(tx store.Reader, st *client.Status) error {
	types, err := tx.Types()
	if err != nil {
		return err
	}
	st.Bundles = 0
	for _, count := range types {
		st.Bundles += count
	}
	if st.Inbox, err = tx.InboxLen(); err != nil {
		return err
	}
	st.Queues = nil
	for _, q := range []store.Queue{store.Outbox, store.PollQueue} {
		peers, err := tx.Queues(q)
		if err != nil {
			return err
		}
		for peer, s := range peers {
			row := client.QueueStatus{Peer: peer, Kind: string(q), Rows: s.Rows, Bytes: s.Bytes, ResyncNeeded: s.ResyncNeeded}
			if q == store.Outbox {
				row.LastError = b.n.delivery.Health(peer)
			}
			st.Queues = append(st.Queues, row)
		}
	}
	slices.SortFunc(st.Queues, func(a, c client.QueueStatus) int { return strings.Compare(string(a.Peer), string(c.Peer)) })
	return nil
}

// Ready returns what readiness is made of.
func (b backend) Ready() []client.Check {
	n := b.n
	checks := []client.Check{{Name: "store", OK: true}, {Name: "identity", OK: n.cached.Load()}, {Name: "listener", OK: n.listening.Load()}}
	if err := n.storeFailure(); err != nil {
		checks[0].OK, checks[0].Message = false, err.Error()
	}
	if !checks[1].OK {
		checks[1].Message = "the node's own bundle is not in its cache yet"
	}
	if !checks[2].OK {
		checks[2].Message = "the protocol's listener is not up yet"
	}
	return checks
}

// Nodes lists the known nodes, this one first.
func (b backend) Nodes(context.Context) ([]client.Node, error) {
	known := b.n.graph.Nodes()
	out := make([]client.Node, 0, len(known))
	for _, k := range known {
		out = append(out, b.node(k))
	}
	slices.SortFunc(out, func(a, c client.Node) int {
		if a.Self != c.Self {
			if a.Self {
				return -1
			}
			return 1
		}
		return strings.Compare(string(a.RID), string(c.RID))
	})
	return out, nil
}

func (b backend) node(k graph.Node) client.Node {
	out := client.Node{
		RID: k.RID, Self: k.RID == b.n.identity.RID, Profile: k.Profile, Verified: k.Verified, Timestamp: k.Timestamp,
	}
	if k.Profile.BaseURL != "" {
		out.LastError = b.n.delivery.Health(k.RID)
	}
	return out
}

// Introduce makes a node known and this node known to it.
func (b backend) Introduce(ctx context.Context, in client.Introduction) (client.Node, error) {
	if err := validateURL("url", in.URL); err != nil || in.URL == "" {
		return client.Node{}, fmt.Errorf("%w: url: give the node's base URL, as in http://host:8000/koi-net", admin.ErrInvalid)
	}
	if p := (protocol.NodeProfile{PublicKey: in.PublicKey}); in.RID != "" && !p.KeyMatches(in.RID) {
		return client.Node{}, fmt.Errorf("%w: publicKey is not the key that %s was made from", admin.ErrInvalid, in.RID)
	}
	r, err := b.n.contact.Introduce(ctx, peer.Target{RID: in.RID, URL: in.URL, Key: in.PublicKey})
	switch {
	case errors.Is(err, contact.ErrAnotherNode):
		return client.Node{}, fmt.Errorf("%w: %w", admin.ErrConflict, err)
	case err != nil:
		return client.Node{}, fmt.Errorf("%w: %w", admin.ErrUnavailable, err)
	}
	if k, ok := b.n.graph.Node(r); ok {
		return b.node(k), nil
	}
	return client.Node{RID: r, Profile: protocol.NodeProfile{BaseURL: in.URL, NodeType: protocol.Full}}, nil
}

// Edges lists the known edges and the standing refusals of pairs without one.
func (b backend) Edges(ctx context.Context, own bool) (client.EdgeList, error) {
	self := b.n.identity.RID
	edges := b.n.graph.Edges()
	if own {
		edges = b.n.graph.EdgesOf(self)
	}
	var decisions []store.Decision
	err := b.n.store.View(ctx, func(tx store.Reader) (err error) {
		decisions, err = tx.Decisions()
		return err
	})
	if err != nil {
		return client.EdgeList{}, fmt.Errorf("read decisions: %w", err)
	}
	out := client.EdgeList{Edges: make([]client.Edge, 0, len(edges))}
	pairs := map[[2]rid.RID]*client.Policy{}
	for _, d := range decisions {
		pairs[[2]rid.RID{d.Source, d.Target}] = policy(d)
	}
	for _, e := range edges {
		pair := [2]rid.RID{e.Profile.Source, e.Profile.Target}
		out.Edges = append(out.Edges, edgeView(e, pairs[pair]))
		delete(pairs, pair)
	}
	for _, r := range b.n.contact.Refusals() {
		if _, there := b.n.graph.Edge(r.Profile.Source, r.Profile.Target); !there {
			e := edgeView(graph.Edge{RID: r.RID, Profile: r.Profile}, nil)
			e.Refused = true
			out.Edges = append(out.Edges, e)
		}
	}
	for _, p := range pairs {
		if p.Verdict == client.Reject {
			out.Refusals = append(out.Refusals, *p)
		}
	}
	slices.SortFunc(out.Edges, func(a, c client.Edge) int { return strings.Compare(string(a.RID), string(c.RID)) })
	slices.SortFunc(out.Refusals, func(a, c client.Policy) int {
		return strings.Compare(string(a.Source+a.Target), string(c.Source+c.Target))
	})
	return out, nil
}

func edgeView(e graph.Edge, decision *client.Policy) client.Edge {
	return client.Edge{
		RID: e.RID, Source: e.Profile.Source, Target: e.Profile.Target, EdgeType: e.Profile.EdgeType,
		Status: e.Profile.Status, RIDTypes: e.Profile.RIDTypes, Timestamp: e.Timestamp, Decision: decision,
	}
}

func policy(d store.Decision) *client.Policy {
	p := &client.Policy{Source: d.Source, Target: d.Target, Verdict: client.Reject, Decided: d.Decided}
	if d.Approved {
		p.Verdict, p.EdgeType, p.RIDTypes = client.Approve, d.EdgeType, d.RIDTypes
	}
	return p
}

// Propose proposes an edge with this node as its target.
func (b backend) Propose(ctx context.Context, in client.Proposal) (client.Edge, error) {
	n, self := b.n, b.n.identity.RID
	switch {
	case in.Source == self:
		return client.Edge{}, fmt.Errorf("%w: source is this node itself; the target of an edge proposes it", admin.ErrInvalid)
	case len(in.RIDTypes) == 0:
		return client.Edge{}, fmt.Errorf("%w: ridTypes is empty: name the RID types to subscribe to", admin.ErrInvalid)
	case in.EdgeType == protocol.Webhook && n.cfg.Partial:
		return client.Edge{}, fmt.Errorf("%w: a partial node cannot be called: use edge type %s", admin.ErrInvalid, protocol.Poll)
	}
	if _, known := n.graph.Node(in.Source); !known {
		if in.SourceURL == "" {
			return client.Edge{}, fmt.Errorf("%w: node %s is not known here: give its sourceURL, or wait until it is introduced", admin.ErrConflict, in.Source)
		}
		if _, err := b.Introduce(ctx, client.Introduction{URL: in.SourceURL, RID: in.Source, PublicKey: in.SourcePublicKey}); err != nil {
			return client.Edge{}, err
		}
		if _, known := n.graph.Node(in.Source); !known {
			return client.Edge{}, fmt.Errorf("%w: %s was told of us and has not introduced itself yet: try again", admin.ErrConflict, in.Source)
		}
	}
	p := protocol.EdgeProfile{Source: in.Source, Target: self, EdgeType: in.EdgeType, RIDTypes: in.RIDTypes}
	if err := n.contact.Propose(ctx, p); err != nil {
		return client.Edge{}, err
	}
	n.delivery.Kick(in.Source) // a person waits for it
	e, ok := n.graph.Edge(in.Source, self)
	if !ok {
		return client.Edge{}, fmt.Errorf("%w: the edge from %s was forgotten at once", admin.ErrConflict, in.Source)
	}
	return edgeView(e, nil), nil
}

// SetPolicy makes a standing decision on an edge of which this node is the
// source, and acts on it.
func (b backend) SetPolicy(ctx context.Context, in client.Policy) (client.Policy, error) {
	n := b.n
	if in.Source != n.identity.RID {
		return client.Policy{}, fmt.Errorf("%w: only the source of an edge decides on it, and that is %s, not this node", admin.ErrInvalid, in.Source)
	}
	current, there := n.graph.Edge(in.Source, in.Target)
	d := store.Decision{Source: in.Source, Target: in.Target, Decided: n.Now().UTC()}
	switch in.Verdict {
	case client.Reject:
	case client.Approve:
		d.Approved, d.EdgeType, d.RIDTypes = true, in.EdgeType, in.RIDTypes
		if (d.EdgeType == "" || len(d.RIDTypes) == 0) && !there {
			return client.Policy{}, fmt.Errorf("%w: there is no proposal from %s to approve: give edgeType and ridTypes to approve one beforehand", admin.ErrConflict, in.Target)
		}
		if d.EdgeType == "" {
			d.EdgeType = current.Profile.EdgeType
		}
		if len(d.RIDTypes) == 0 {
			d.RIDTypes = current.Profile.RIDTypes
		}
	default:
		return client.Policy{}, fmt.Errorf("%w: verdict %q: use %s or %s", admin.ErrInvalid, in.Verdict, client.Approve, client.Reject)
	}
	if err := b.decide(ctx, d); err != nil {
		return client.Policy{}, err
	}
	if err := b.reconsider(ctx, in.Source, in.Target); err != nil {
		return client.Policy{}, err
	}
	return *policy(d), nil
}

// decide writes a decision, unless the same one is there.
func (b backend) decide(ctx context.Context, d store.Decision) error {
	changed := false
	err := b.n.store.Update(ctx, func(tx store.Writer) error {
		old, err := tx.Decision(d.Source, d.Target)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		changed = err != nil || old.Approved != d.Approved || old.EdgeType != d.EdgeType || !slices.Equal(old.RIDTypes, d.RIDTypes)
		if !changed {
			return nil
		}
		return tx.PutDecision(d)
	})
	if err != nil {
		return fmt.Errorf("keep the decision on %s to %s: %w", d.Source, d.Target, err)
	}
	if changed {
		b.n.feed.Publish(client.Change{Kind: client.ChangePolicy})
	}
	return nil
}

// reconsider brings the edge of a pair in line with what is decided now.
func (b backend) reconsider(ctx context.Context, source, target rid.RID) error {
	o, err := b.n.reconsidered(ctx, source, target)
	if o == nil || err != nil {
		return err
	}
	return b.process(ctx, *o)
}

// process submits one internal object and reports its failure.
func (b backend) process(ctx context.Context, o pipeline.Object) error {
	out, err := b.n.processor.Do(ctx, o)
	if err != nil {
		return err
	}
	return out[0].Err
}

// DeletePolicy ends a standing decision: a proposal that waits is left to the
// policy, and an approved edge stays.
func (b backend) DeletePolicy(ctx context.Context, source, target rid.RID) error {
	err := b.n.store.Update(ctx, func(tx store.Writer) error {
		if _, err := tx.Decision(source, target); err != nil {
			return err
		}
		return tx.DeleteDecision(source, target)
	})
	if err != nil {
		return fmt.Errorf("decision on %s to %s: %w", source, target, err)
	}
	b.n.feed.Publish(client.Change{Kind: client.ChangePolicy})
	return b.reconsider(ctx, source, target)
}

// ForgetEdge forgets an edge of which this node is an end and tells the other
// end. Where this node is the target, it proposes the edge again after a rest
// only, and a standing proposal ends.
func (b backend) ForgetEdge(ctx context.Context, source, target rid.RID) error {
	n, self := b.n, b.n.identity.RID
	if source != self && target != self {
		return fmt.Errorf("%w: this node is no end of the edge from %s to %s", admin.ErrInvalid, source, target)
	}
	if target == self {
		if err := n.contact.Withdraw(ctx, source); err != nil {
			return err
		}
	}
	e, ok := n.graph.Edge(source, target)
	if !ok && target == self {
		// Its source may have forgotten it a moment ago: it stays gone for as long.
		n.contact.Rest(rid.NewEdge(source, target), protocol.EdgeProfile{Source: source, Target: target, Status: protocol.Proposed}, true)
	}
	if !ok {
		return fmt.Errorf("edge from %s to %s: %w", source, target, store.ErrNotFound)
	}
	if target == self {
		n.contact.Rest(e.RID, e.Profile, true)
	}
	return b.process(ctx, pipeline.Object{RID: e.RID, EventType: protocol.Forget})
}

// RIDs lists a page of the cache.
func (b backend) RIDs(ctx context.Context, types []rid.Type, after rid.RID, limit int) (client.RIDList, error) {
	list := client.RIDList{RIDs: []rid.RID{}}
	err := b.n.store.View(ctx, func(tx store.Reader) error {
		for r, err := range tx.RIDs(types, after) {
			if err != nil {
				return err
			}
			if len(list.RIDs) == limit {
				list.Next = list.RIDs[limit-1]
				return nil
			}
			list.RIDs = append(list.RIDs, r)
		}
		return nil
	})
	if err != nil {
		return client.RIDList{}, fmt.Errorf("list the cache: %w", err)
	}
	return list, nil
}

// Bundle reads the cache.
func (b backend) Bundle(ctx context.Context, r rid.RID) (protocol.Bundle, error) {
	return b.n.Bundle(ctx, r)
}

// Put publishes contents: they are cached and sent to subscribers.
func (b backend) Put(ctx context.Context, items []client.PutItem) (client.PutResult, error) {
	objects := make([]pipeline.Object, len(items))
	for i, it := range items {
		contents, err := b.contents(it)
		if err != nil {
			return client.PutResult{}, &admin.ItemError{Index: i, Err: err}
		}
		objects[i] = pipeline.Object{RID: it.RID, Contents: contents}
	}
	outcomes, err := b.n.processor.Do(ctx, objects...)
	if err != nil {
		return client.PutResult{}, err
	}
	var res client.PutResult
	for i, out := range outcomes {
		switch {
		case out.Err != nil:
			return res, &admin.ItemError{Index: i, Err: fmt.Errorf("%s: %w", items[i].RID, out.Err)}
		case out.Stopped == "":
			res.Accepted++
		case out.Stopped == handlers.ReasonUnchanged:
			res.Unchanged++
		default:
			return res, &admin.ItemError{Index: i, Err: fmt.Errorf("%w: %s: a handler stopped it: %s", admin.ErrConflict, items[i].RID, out.Stopped)}
		}
		res.Manifest = out.Manifest
	}
	if len(items) != 1 {
		res.Manifest = nil
	}
	return res, nil
}

func (b backend) contents(it client.PutItem) ([]byte, error) {
	switch it.RID.Type() {
	case rid.NodeType, rid.EdgeType:
		return nil, fmt.Errorf("%w: %s: nodes and edges are not put; use introduce and propose", admin.ErrInvalid, it.RID)
	}
	c, err := normalContents(it.RID, it.Contents, b.n.cfg.Limits)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", admin.ErrInvalid, err)
	}
	return c, nil
}

// Forget removes a bundle and tells subscribers.
func (b backend) Forget(ctx context.Context, r rid.RID) error {
	switch r.Type() {
	case rid.NodeType:
		if r == b.n.identity.RID {
			return fmt.Errorf("%w: a node does not forget itself; use leave", admin.ErrInvalid)
		}
	case rid.EdgeType:
		if e, ok := b.n.graph.EdgeByRID(r); ok && (e.Profile.Source == b.n.identity.RID || e.Profile.Target == b.n.identity.RID) {
			return b.ForgetEdge(ctx, e.Profile.Source, e.Profile.Target)
		}
	}
	if _, err := b.n.Bundle(ctx, r); err != nil {
		if done, forgetErr := b.n.forgetDamaged(ctx, r); done || forgetErr != nil {
			return forgetErr
		}
		if !errors.Is(err, store.ErrDamaged) {
			return err
		}
	}
	return b.process(ctx, pipeline.Object{RID: r, EventType: protocol.Forget})
}

// Resync has every peer contacted anew.
func (b backend) Resync(context.Context) error {
	b.n.contact.Resync()
	return nil
}

// Backup writes a copy of the store, as it is now.
func (b backend) Backup(ctx context.Context, w io.Writer) error {
	began := time.Now()
	size, err := b.n.store.Backup(ctx, w)
	if err != nil {
		return fmt.Errorf("back up the store: %w", err)
	}
	b.n.log.Info("the store was backed up", "bytes", size, "took", time.Since(began))
	return nil
}

// leaveParallel bounds the neighbours told at once that we leave.
const leaveParallel = 16

// Leave tells all neighbours that can be called to forget this node. It does
// its best until ctx ends; who cannot be reached finds out later.
func (b backend) Leave(ctx context.Context) error {
	n, self := b.n, b.n.identity.RID
	n.contact.Pause()
	event := protocol.AppendEvent(nil, protocol.Event{RID: self, EventType: protocol.Forget})
	told := map[string]bool{}
	slots := make(chan struct{}, leaveParallel)
	failures := make(chan error)
	for _, e := range n.graph.EdgesOf(self) {
		other := e.Profile.Source
		if other == self {
			other = e.Profile.Target
		}
		k, ok := n.graph.Node(other)
		if !ok || !k.Callable() || told[k.Profile.BaseURL] {
			continue
		}
		told[k.Profile.BaseURL] = true
		go func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			failures <- n.client.Broadcast(ctx, contact.Target(k), [][]byte{event}, nil)
		}()
	}
	var errs []error
	for range told {
		errs = append(errs, <-failures)
	}
	return errors.Join(errs...)
}
