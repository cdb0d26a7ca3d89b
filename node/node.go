package node

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/koi-net/koi-operator/node/admin"
	"github.com/koi-net/koi-operator/node/contact"
	"github.com/koi-net/koi-operator/node/graph"
	"github.com/koi-net/koi-operator/node/handlers"
	"github.com/koi-net/koi-operator/node/identity"
	"github.com/koi-net/koi-operator/node/peer"
	"github.com/koi-net/koi-operator/node/pipeline"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/scrub"
	"github.com/koi-net/koi-operator/node/server"
	"github.com/koi-net/koi-operator/node/store"
	"github.com/koi-net/koi-operator/node/store/bolt"
)

// StoreFile is the store's name in the data directory.
const StoreFile = "koi.db"

// BasePath is the path of a base URL that the node makes up itself.
const BasePath = "/koi-net"

// Node is one KOI-net node. Make it with New, run it once with Run.
type Node struct {
	cfg      Config
	log      *slog.Logger
	metrics  *prometheus.Registry
	identity identity.Identity
	store    store.Store // room
	room     *room
	repairs  *repairs
	scrubber *scrub.Scrubber // nil where it is turned off
	graph    *graph.Graph
	started  time.Time
	runToken string // names this process to who is polled, see peer.Polls.Lease

	traits    *peer.Traits
	client    *peer.Client
	processor *pipeline.Processor
	contact   *contact.Manager
	delivery  *peer.Delivery
	polls     *peer.Polls
	feed      *admin.Feed
	fetching  perPeer

	profile   atomic.Pointer[protocol.NodeProfile]
	own       atomic.Pointer[[]byte] // our own NEW as it goes out, once it is cached
	cached    atomic.Bool            // the own bundle is in the cache
	listening atomic.Bool
	ran       atomic.Bool
	closeOnce sync.Once
	closeErr  error

	mu        sync.Mutex
	addr      net.Addr // of the protocol's listener
	adminAddr net.Addr
	ready     chan struct{} // closed when the node is up
}

// New checks the settings, opens or makes identity and store, and builds the
// node. Settings begin as DefaultConfig, without an admin API. Nothing is served
// or dialled before Run. The error wraps ErrBadConfig, identity.ErrDamaged,
// identity.ErrMismatch, or one of the store's errors; what was found is left
// untouched.
func New(options ...Option) (*Node, error) {
	cfg := DefaultConfig()
	cfg.AdminListen = ""
	for _, o := range options {
		o(&cfg)
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Metrics == nil {
		cfg.Metrics = prometheus.NewRegistry()
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	if cfg.IdentityDir == "" {
		cfg.IdentityDir = filepath.Join(cfg.DataDir, "identity")
	}
	if cfg.Coordinator {
		cfg.Provides.Event = withTypes(cfg.Provides.Event, rid.NodeType, rid.EdgeType)
		cfg.Provides.State = withTypes(cfg.Provides.State, rid.NodeType, rid.EdgeType)
	}
	n := &Node{cfg: cfg, log: cfg.Logger, metrics: cfg.Metrics, started: cfg.Clock(), runToken: rand.Text(), ready: make(chan struct{})}
	if err := n.open(); err != nil {
		return nil, err
	}
	if err := n.build(); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

func withTypes(have []rid.Type, more ...rid.Type) []rid.Type {
	have = slices.Clone(have)
	for _, t := range more {
		if !slices.Contains(have, t) {
			have = append(have, t)
		}
	}
	return have
}

// open finds or makes the identity and the store.
func (n *Node) open() error {
	if err := os.MkdirAll(n.cfg.DataDir, 0o700); err != nil {
		return bad("--data-dir: %v", err)
	}
	path := filepath.Join(n.cfg.DataDir, StoreFile)
	_, storeErr := os.Lstat(path)
	if err := n.firstStart(path, storeErr == nil); err != nil {
		return err
	}
	id, created, err := identity.LoadOrCreate(n.cfg.IdentityDir, n.cfg.Name, n.cfg.Unsigned)
	if err != nil {
		return err
	}
	n.identity = id
	if !created && storeErr != nil {
		// With the identity kept elsewhere this is how a lost volume looks; in
		// the data directory, a store that somebody moved away.
		n.log.Warn("the node was here before and its store is not: it begins with an empty one", "rid", id.RID, "store", path)
	}
	st, err := bolt.Open(bolt.Options{Path: path, NodeRID: id.RID, Create: true, MaxSize: n.cfg.MaxStoreSize, Clock: n.cfg.Clock, Logger: n.log})
	if err != nil {
		return err
	}
	if size, err := st.Size(); err == nil && n.cfg.MaxStoreSize > 0 && size > n.cfg.MaxStoreSize {
		n.log.Warn("the store's file is larger than --store-max-size: it is read and deleted from, and takes additions as far as what it holds is within the bound; raise the bound, or stop the node and run koi-node compact",
			"bytes", size, "bound", n.cfg.MaxStoreSize)
	}
	n.room, err = watchRoom(st, n.log, n.metrics)
	if err != nil {
		return errors.Join(err, st.Close())
	}
	n.store = n.room
	return nil
}

// firstStart refuses to make a new identity where a store shows that there was
// one, or without a name for it. Where an identity is there it has no say.
func (n *Node) firstStart(store string, there bool) error {
	if _, err := identity.Load(n.cfg.IdentityDir); !errors.Is(err, identity.ErrNotFound) {
		return nil // LoadOrCreate says what is wrong with it, if anything
	}
	switch {
	case there:
		return fmt.Errorf("%w: %s is the store of a node whose identity is not in %s: restore the identity's files, or move the store away to begin as a new node",
			identity.ErrMismatch, store, n.cfg.IdentityDir)
	case n.cfg.Name == "":
		return bad("--name is missing: it goes into the RID of the node that is made at this first start")
	}
	return nil
}

// build puts the parts together and reads the graph.
func (n *Node) build() (err error) {
	self := n.identity.RID
	n.graph = graph.New(self)
	if n.repairs, err = newRepairs(n); err != nil {
		return err
	}
	if n.cfg.ScrubInterval > 0 {
		n.scrubber, err = scrub.New(scrub.Config{
			Store: n.store, Self: self, Report: n.repairs.found,
			Interval: n.cfg.ScrubInterval, Rate: n.cfg.ScrubRate, Now: n.cfg.Clock, Logger: n.log, Metrics: n.metrics,
		})
		if err != nil {
			return err
		}
	}
	if err := n.loadGraph(context.Background()); err != nil {
		return err
	}
	n.feed = admin.NewFeed(n.store.Info().ID, 0, n.cfg.Clock)
	n.setProfile(n.cfg.BaseURL)
	n.traits = peer.NewTraits()
	if err := n.loadTraits(context.Background()); err != nil {
		return err
	}
	circuits, err := peer.NewCircuits(peer.CircuitsConfig{RetryCap: n.cfg.RetryCap, Logger: n.log, Metrics: n.metrics})
	if err != nil {
		return err
	}
	n.client = peer.NewClient(peer.ClientConfig{
		AllowCIDRs: n.cfg.AllowPeerCIDRs, AllowLoopback: n.allowLoopback, Timeout: n.cfg.RequestTimeout,
		Limits: n.cfg.Limits, UserAgent: n.product() + " run/" + n.runToken, Identity: n.identity, Introduction: n.introduction,
		DenyUnsigned: n.cfg.UnsignedPeers == UnsignedDeny, Forgotten: n.forgottenBy, Traits: n.traits, Circuits: circuits,
	})
	n.processor, err = pipeline.New(pipeline.Config{
		Self: self, Store: n.store, Graph: n.graph,
		Handlers: append(handlers.Default(handlers.Options{
			Self: self, Profile: n.Profile, Approval: n.cfg.EdgeApproval, Coordinator: n.cfg.Coordinator, ClockSkew: clockSkew,
			DenyUnsigned: n.cfg.UnsignedPeers == UnsignedDeny, Heard: n.heard, Doubted: n.doubted,
		}), n.cfg.Handlers...),
		Fetcher: n.fetcher(), Route: n.route, OnCommit: n.committed, OnDamaged: n.repairs.seen,
		QueueLimits: store.QueueLimits{Rows: n.cfg.QueueRows, Bytes: n.cfg.QueueBytes},
		Replay:      store.ReplayBounds{Rows: n.cfg.ReplayRows, Age: n.cfg.ReplayMaxAge},
		Workers:     n.cfg.Workers, MaxInbox: n.cfg.MaxInbox,
		Now: n.cfg.Clock, Logger: n.log, Metrics: n.metrics,
	})
	if err != nil {
		return err
	}
	n.contact, err = contact.New(contact.Config{
		Self: self, Profile: n.Profile, Interests: n.cfg.Interests,
		FirstContact: n.cfg.FirstContact, FirstContactRID: n.cfg.FirstContactRID,
		Graph: n.graph, Store: n.store, Caller: n.client, Knowledge: n.processor,
		CheckInterval: n.cfg.CheckInterval, RetryCap: n.cfg.RetryCap, Now: n.cfg.Clock, Logger: n.log,
	})
	if err != nil {
		return err
	}
	n.delivery, err = peer.NewDelivery(peer.DeliveryConfig{
		Store: n.store, Client: n.client, Directory: directory{n.graph}, Suits: n.suits, RetryCap: n.cfg.RetryCap, Circuits: circuits, Logger: n.log, Metrics: n.metrics,
	})
	if err != nil {
		return err
	}
	n.polls, err = peer.NewPolls(peer.PollsConfig{
		Store: n.store, Introduction: n.introduction, Suits: n.suits, QueueMaxAge: n.cfg.QueueMaxAge, Clock: n.cfg.Clock, Logger: n.log, Metrics: n.metrics,
	})
	if err != nil {
		return err
	}
	return n.metrics.Register(gauges{n})
}

func (n *Node) fetcher() fetcher { return fetcher{graph: n.graph, client: n.client, busy: &n.fetching} }

// heard passes on what others say of a node.
func (n *Node) heard(r rid.RID, p protocol.NodeProfile) { n.contact.Heard(r, p) }

// doubted passes on that others forgot a node.
func (n *Node) doubted(r rid.RID) { n.contact.Doubted(r) }

// forgottenBy passes on that a peer does not know us.
func (n *Node) forgottenBy(r rid.RID) { n.contact.ForgottenBy(r) }

// clockSkew is how far ahead of our clock a manifest may be stamped.
const clockSkew = 5 * time.Minute

func (n *Node) loadGraph(ctx context.Context) error {
	var edges []store.Record
	var faults []scrub.Fault
	err := n.store.View(ctx, func(tx store.Reader) error {
		for r, err := range tx.RIDs([]rid.Type{rid.NodeType, rid.EdgeType}, "") {
			if err != nil {
				return err
			}
			rec, err := tx.Bundle(r)
			switch {
			case errors.Is(err, store.ErrDamaged):
				// The net goes on without it until it is had again.
				faults = append(faults, scrub.Fault{RID: r, Reason: scrub.Damaged, Err: err})
			case err != nil:
				return err
			case r.Type() == rid.EdgeType:
				edges = append(edges, rec)
			default:
				n.apply(rec)
			}
		}
		return nil
	})
	for _, f := range faults {
		n.repairs.found(ctx, f)
	}
	if err != nil {
		return fmt.Errorf("read the graph: %w", err)
	}
	// A pair may have an edge under the RIDs of both generations: the newer counts.
	slices.SortStableFunc(edges, func(a, b store.Record) int {
		return a.Bundle.Manifest.Timestamp.Time().Compare(b.Bundle.Manifest.Timestamp.Time())
	})
	for _, e := range edges {
		n.apply(e)
	}
	return nil
}

func (n *Node) apply(rec store.Record) {
	if err := pipeline.Apply(n.graph, rec); err != nil {
		n.log.Warn("profile left out of the graph", "rid", rec.Bundle.Manifest.RID, "error", err)
	}
}

// RID returns the node's RID.
func (n *Node) RID() rid.RID { return n.identity.RID }

// Profile returns the node's own profile as it is published.
func (n *Node) Profile() protocol.NodeProfile { return *n.profile.Load() }

// Addr returns the address the protocol is served at, nil for a partial node
// or before Run has bound it.
func (n *Node) Addr() net.Addr {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.addr
}

// AdminAddr returns the address the admin API is served at, nil if there is
// none or before Run has bound it.
func (n *Node) AdminAddr() net.Addr {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.adminAddr
}

// Ready returns a channel that is closed when the node is up: its listeners
// are bound and its own bundle is cached.
func (n *Node) Ready() <-chan struct{} { return n.ready }

// Handle processes knowledge objects, the node's own unless their Source says
// otherwise, and returns how each ended: what the Python library's processor
// does with a RID, manifest, bundle, event or knowledge object. Run has to be
// under way.
func (n *Node) Handle(ctx context.Context, objects ...pipeline.Object) ([]pipeline.Outcome, error) {
	return n.processor.Do(ctx, objects...)
}

// Flush waits until everything accepted so far is processed. Run has to be
// under way.
func (n *Node) Flush(ctx context.Context) error { return n.processor.Flush(ctx) }

// Now tells the time by the node's clock.
func (n *Node) Now() time.Time { return n.cfg.Clock() }

// Close releases the store of a node whose Run was never called. Run closes it
// by itself.
func (n *Node) Close() error {
	n.closeOnce.Do(func() {
		if n.client != nil {
			n.client.Close()
		}
		n.closeErr = n.store.Close()
	})
	return n.closeErr
}

// Run serves until ctx ends, then stops: listeners first, then the work under
// way, then the store. What was accepted and not yet processed or delivered is
// on disk and goes on at the next start. It returns nil after a stop that ctx
// asked for. A node runs once.
func (n *Node) Run(ctx context.Context) error {
	if n.ran.Swap(true) {
		return errors.New("this node ran before: make a new one")
	}
	err := n.run(ctx)
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = nil // stopped before it was up
	}
	return errors.Join(err, n.Close())
}

func (n *Node) run(ctx context.Context) error {
	if ctx.Err() != nil {
		return nil // nothing was begun
	}
	ls, err := n.listen(ctx)
	if err != nil {
		return err
	}
	var polling *peer.Polling
	if n.cfg.Partial {
		if polling, err = n.polling(); err != nil {
			ls.close()
			return err
		}
	}
	// The parts outlive the listeners, so that requests under way can end well.
	workCtx, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWork()
	work, workCtx := errgroup.WithContext(workCtx)
	work.Go(func() error { return n.processor.Run(workCtx) })
	// What the node does by itself ends first.
	actCtx, stopActing := context.WithCancel(workCtx)
	defer stopActing()

	serveCtx, stopServing := context.WithCancel(ctx)
	defer stopServing()
	servers, serveCtx := errgroup.WithContext(serveCtx)
	err = n.publishSelf(serveCtx)
	republish := errors.Is(err, store.ErrFull)
	if republish {
		err = n.presentFormer(serveCtx, err)
	}
	if err == nil {
		err = n.reconsiderEdges(serveCtx)
	}
	if err == nil {
		work.Go(func() error { return n.delivery.Run(workCtx) })
		work.Go(func() error { return n.polls.Run(workCtx) })
		work.Go(func() error { return n.keepTraits(workCtx) })
		work.Go(func() error { return n.contact.Run(actCtx) })
		work.Go(func() error { return n.room.Run(actCtx) })
		work.Go(func() error { return n.repairs.Run(actCtx) })
		if republish {
			work.Go(func() error { return n.publishLater(actCtx) })
		}
		if n.scrubber != nil {
			work.Go(func() error { return n.scrubber.Run(actCtx) })
		}
		if polling != nil {
			work.Go(func() error { return polling.Run(actCtx) })
		}
		err = n.serve(serveCtx, servers, ls)
	}
	if err != nil {
		ls.close()
		stopServing()
		_ = servers.Wait() // what matters is err
		stopWork()
		return errors.Join(err, ignoreCanceled(work.Wait()))
	}
	// A part that fails ends the node; so does ctx.
	servers.Go(func() error {
		select {
		case <-serveCtx.Done():
		case <-workCtx.Done():
			return errors.New("stopping: a part of the node failed")
		}
		return nil
	})
	n.log.Info("node up", "rid", n.identity.RID, "listen", n.Addr(), "admin", n.AdminAddr(), "baseURL", n.Profile().BaseURL)
	close(n.ready)
	stopped := make(chan time.Time, 1)
	context.AfterFunc(serveCtx, func() { stopped <- time.Now() })
	err = ignoreCanceled(servers.Wait())
	stopActing()
	n.drain(workCtx, (<-stopped).Add(n.cfg.ShutdownTimeout))
	stopWork()
	if werr := ignoreCanceled(work.Wait()); werr != nil {
		err = werr
	}
	n.log.Info("node stopped", "rid", n.identity.RID)
	return err
}

// drain lets the work under way end, until the deadline. What waits for a peer to
// come back waits on disk, and nobody for it.
func (n *Node) drain(ctx context.Context, deadline time.Time) {
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	err := n.processor.Settle(ctx)
	if err == nil {
		err = n.delivery.Settle(ctx)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		n.log.Warn("stopping with work under way: it goes on at the next start", "after", n.cfg.ShutdownTimeout)
	}
}

func ignoreCanceled(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// publishSelf brings the own bundle up to date; a changed profile goes to the
// neighbours as an UPDATE.
func (n *Node) publishSelf(ctx context.Context) error {
	out, err := n.doUnlessFull(ctx, pipeline.Object{RID: n.identity.RID, Contents: n.Profile().Contents()})
	if err == nil {
		err = out[0].Err
	}
	if err != nil {
		return fmt.Errorf("publish the own profile: %w", err)
	}
	b, err := n.Bundle(ctx, n.identity.RID)
	if err != nil {
		return fmt.Errorf("publish the own profile: %w", err)
	}
	n.setIntroduction(b)
	n.cached.Store(true)
	return nil
}

// doUnlessFull is the processor's Do, but what waits in the inbox for room in the
// store is not waited for.
func (n *Node) doUnlessFull(ctx context.Context, o pipeline.Object) ([]pipeline.Outcome, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	var watch sync.WaitGroup
	defer watch.Wait()
	defer cancel(nil)
	watch.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(100 * time.Millisecond):
			}
			if err := n.processor.StoreFailure(); errors.Is(err, store.ErrFull) {
				cancel(err)
			}
		}
	})
	out, err := n.processor.Do(ctx, o)
	if cause := context.Cause(ctx); err != nil && errors.Is(cause, store.ErrFull) {
		err = cause
	}
	return out, err
}

// presentFormer has a node whose store has no room for its changed profile run on
// with the former one: to serve, and to make room, it has to run. why is returned
// where there is none.
func (n *Node) presentFormer(ctx context.Context, why error) error {
	b, err := n.Bundle(ctx, n.identity.RID)
	if err != nil {
		return why
	}
	n.log.Error("the store has no room for the changed profile: the former one is given out until there is", "error", why)
	n.setIntroduction(b)
	n.cached.Store(true)
	return nil
}

// publishLater brings the own bundle up to date as soon as there is room for it,
// unless ctx ends before.
func (n *Node) publishLater(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(probeInterval):
		}
		err := n.publishSelf(ctx)
		switch {
		case err == nil:
			n.log.Info("the changed profile is given out")
			return nil
		case ctx.Err() != nil:
			return nil
		case !errors.Is(err, store.ErrFull):
			return err
		}
	}
}

// setProfile makes up the own profile.
func (n *Node) setProfile(baseURL string) {
	p := protocol.NodeProfile{
		BaseURL: baseURL, NodeType: protocol.Full, Provides: n.cfg.Provides, PublicKey: n.identity.PublicKeyText(),
	}
	if n.cfg.Partial {
		p.NodeType, p.BaseURL = protocol.Partial, ""
	}
	n.profile.Store(&p)
}

// allowLoopback: only a node that is itself on loopback may call others there.
func (n *Node) allowLoopback() bool {
	u := n.Profile().BaseURL
	if u == "" {
		u = n.cfg.FirstContact
	}
	parsed, err := url.Parse(u)
	return err == nil && isLoopback(parsed.Hostname())
}

// route says how events reach a node: partial nodes fetch them, full nodes get
// them unless their edge from us says otherwise.
func (n *Node) route(r rid.RID) (store.Queue, bool) {
	k, ok := n.graph.Node(r)
	if !ok {
		return "", false
	}
	if k.Profile.NodeType == protocol.Partial || k.Profile.BaseURL == "" {
		return store.PollQueue, true
	}
	if e, ok := n.graph.Edge(n.identity.RID, r); ok && e.Profile.EdgeType == protocol.Poll {
		return store.PollQueue, true
	}
	return store.Outbox, true
}

// self is the own bundle for GET on the base URL.
func (n *Node) self() (protocol.Bundle, bool) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	b, err := n.Bundle(ctx, n.identity.RID)
	return b, err == nil
}

func (n *Node) storeFailure() error {
	if _, err := n.store.Size(); err != nil {
		return fmt.Errorf("the store cannot be read: %w", err)
	}
	if err := n.room.Full(); err != nil {
		return err
	}
	if err := n.processor.StoreFailure(); !errors.Is(err, store.ErrFull) {
		return err
	}
	return nil // for one body, or for a moment: room says when it is full
}

// polling asks the full nodes we know for events, or the first contact while
// we know none.
func (n *Node) polling() (*peer.Polling, error) {
	return peer.NewPolling(peer.PollingConfig{
		Client: n.client, Interval: n.cfg.PollInterval, RetryCap: n.cfg.RetryCap, Targets: n.pollTargets,
		Accept: n.accept,
		Logger: n.log, Metrics: n.metrics,
	})
}

func (n *Node) pollTargets() []peer.Target {
	var out []peer.Target
	seen := map[rid.RID]bool{}
	for _, e := range n.graph.EdgesOf(n.identity.RID) {
		other := e.Profile.Source
		if other == n.identity.RID {
			other = e.Profile.Target
		}
		if k, ok := n.graph.Node(other); ok && k.Callable() && !seen[other] {
			seen[other] = true
			out = append(out, contact.Target(k))
		}
	}
	if len(out) == 0 && n.cfg.FirstContact != "" {
		t := peer.Target{RID: n.cfg.FirstContactRID}
		if k, ok := n.graph.Node(n.contact.FirstContact().RID); ok {
			t = contact.Target(k)
		}
		t.URL = n.cfg.FirstContact
		out = append(out, t)
	}
	return out
}

// acceptor hands a broadcast to the pipeline.
type acceptor struct{ p *pipeline.Processor }

func (a acceptor) Accept(ctx context.Context, from server.Sender, events []protocol.Event) error {
	err := a.p.Accept(ctx, pipeline.Received{Source: sourceOf(from.RID), Replay: from.Replay, Events: events})
	if errors.Is(err, pipeline.ErrBusy) {
		return fmt.Errorf("%w: %w", server.ErrBusy, err)
	}
	return err
}

// directory tells the delivery where nodes are.
type directory struct{ g *graph.Graph }

// Target leaves out a node that others alone have spoken of: what is meant for
// it waits until it has said itself where it is.
func (d directory) Target(r rid.RID) (peer.Target, bool) {
	k, ok := d.g.Node(r)
	return contact.Target(k), ok && k.Callable()
}

// listeners are the node's bound sockets; those it has not are nil.
type listeners struct{ protocol, admin, metrics net.Listener }

func (l listeners) close() {
	for _, ln := range []net.Listener{l.protocol, l.admin, l.metrics} {
		if ln != nil {
			_ = ln.Close() // nothing was served
		}
	}
}

// listen binds the sockets and completes the base URL.
func (n *Node) listen(ctx context.Context) (ls listeners, err error) {
	defer func() {
		if err != nil {
			ls.close()
		}
	}()
	var lc net.ListenConfig
	bind := func(flag, addr string) (net.Listener, error) {
		ln, err := lc.Listen(ctx, "tcp", addr)
		if err != nil {
			return nil, bad("%s: %v", flag, err)
		}
		return ln, nil
	}
	if !n.cfg.Partial {
		if ls.protocol, err = bind("--listen", n.cfg.Listen); err != nil {
			return ls, err
		}
	}
	if n.cfg.AdminListen != "" {
		if ls.admin, err = bind("--admin-listen", n.cfg.AdminListen); err != nil {
			return ls, err
		}
	}
	if n.cfg.MetricsListen != "" {
		if ls.metrics, err = bind("--metrics-listen", n.cfg.MetricsListen); err != nil {
			return ls, err
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if ls.admin != nil {
		n.adminAddr = ls.admin.Addr()
	}
	if ls.protocol == nil {
		return ls, nil
	}
	n.addr = ls.protocol.Addr()
	if n.cfg.BaseURL == "" {
		n.setProfile("http://" + reachable(n.addr) + BasePath)
	}
	return ls, nil
}

// reachable turns a bound address into one that can be called; a wildcard
// becomes the machine's name.
func reachable(a net.Addr) string {
	tcp, ok := a.(*net.TCPAddr)
	if !ok || !tcp.IP.IsUnspecified() {
		return a.String()
	}
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "localhost"
	}
	return net.JoinHostPort(host, fmt.Sprint(tcp.Port))
}

// serve starts the listeners' servers in g; they stop when ctx ends.
func (n *Node) serve(ctx context.Context, g *errgroup.Group, ls listeners) error {
	if ls.protocol != nil {
		base, err := url.Parse(n.Profile().BaseURL)
		if err != nil {
			return bad("--base-url: %v", err)
		}
		h, err := server.New(server.Config{
			Store: n.store, Inbox: acceptor{n.processor}, Polls: n.polls, Self: n.self, BasePath: base.Path,
			Identity: n.identity, Peers: peers{n}, DenyUnsigned: n.cfg.UnsignedPeers == UnsignedDeny, Product: n.product(),
			Limits: n.cfg.Limits, NoDocs: !n.cfg.Docs, Concurrency: n.cfg.PeerConcurrency, OnDamaged: n.repairs.seen, Logger: n.log, Metrics: n.metrics,
		})
		if err != nil {
			return err
		}
		n.serveOn(ctx, g, server.HTTPServer(h, n.log), ls.protocol)
	}
	if ls.admin != nil {
		srv, err := n.adminServer()
		if err != nil {
			return err
		}
		n.serveOn(ctx, g, srv, ls.admin)
	}
	if ls.metrics != nil {
		n.serveOn(ctx, g, admin.HTTPServer(admin.MetricsHandler(n.metrics), n.log), ls.metrics)
	}
	n.listening.Store(true)
	return nil
}

// adminServer makes the server of the admin API, with what protects it.
func (n *Node) adminServer() (*http.Server, error) {
	cfg := admin.Config{
		Backend: backend{n}, Feed: n.feed, Token: n.cfg.AdminToken, Metrics: n.metrics, Logger: n.log,
		Limits: admin.Limits{Protocol: n.cfg.Limits},
	}
	files := admin.KeyFiles{Token: n.cfg.AdminTokenFile, Cert: n.cfg.AdminTLSCertFile, Key: n.cfg.AdminTLSKeyFile}
	keys, err := admin.OpenKeys(files, nil, n.log)
	if err != nil {
		return nil, bad("admin API: %v", err)
	}
	if files.Token != "" {
		cfg.Keys = keys
	}
	srv := admin.HTTPServer(admin.New(cfg), n.log)
	srv.RegisterOnShutdown(n.feed.Close)
	if files.Cert != "" {
		srv.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: keys.Certificate}
	}
	return srv, nil
}

func (n *Node) serveOn(ctx context.Context, g *errgroup.Group, srv *http.Server, ln net.Listener) {
	var unused unusedConns
	srv.ConnState = unused.track
	g.Go(func() error {
		var err error
		if srv.TLSConfig != nil {
			err = srv.ServeTLS(ln, "", "") // it has its certificate
		} else {
			err = srv.Serve(ln)
		}
		if errors.Is(err, http.ErrServerClosed) {
			return nil
		}
		return fmt.Errorf("serve %s: %w", ln.Addr(), err)
	})
	g.Go(func() error {
		<-ctx.Done()
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), n.cfg.ShutdownTimeout)
		defer cancel()
		unused.close()
		if err := srv.Shutdown(stop); err != nil {
			return srv.Close() // who has not finished by now is cut off
		}
		return nil
	})
}
