package contact

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/koi-net/koi-operator/node/graph"
	"github.com/koi-net/koi-operator/node/peer"
	"github.com/koi-net/koi-operator/node/pipeline"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

// Caller makes requests to other nodes; node/peer has it.
type Caller interface {
	// Signs reports whether calls to t are signed, and so are its answers.
	Signs(t peer.Target) bool
	Broadcast(ctx context.Context, t peer.Target, events [][]byte, once *peer.Once) error
	FetchManifests(ctx context.Context, t peer.Target, types []rid.Type, rids []rid.RID) (protocol.ManifestsAnswer, error)
	FetchBundles(ctx context.Context, t peer.Target, rids []rid.RID) (protocol.BundlesAnswer, error)
	Self(ctx context.Context, url string) (protocol.Bundle, error)
}

// Target returns where to call a node of the graph.
func Target(n graph.Node) peer.Target {
	return peer.Target{RID: n.RID, URL: n.Profile.BaseURL, Key: n.Profile.PublicKey}
}

// Knowledge takes what was learned and what is to be said; the pipeline's
// Processor has it.
type Knowledge interface {
	Submit(ctx context.Context, objects ...pipeline.Object) error
	Do(ctx context.Context, objects ...pipeline.Object) ([]pipeline.Outcome, error)
	Send(ctx context.Context, e protocol.Event, targets ...rid.RID) error
}

// Config is what a Manager is made of. All fields without a default are required.
type Config struct {
	Self    rid.RID
	Profile func() protocol.NodeProfile
	// Interests are the RID types to subscribe to; edge.AllTypes stands for every type.
	Interests []rid.Type
	// FirstContact is the base URL of the first contact, FirstContactRID its
	// RID if known; both may be empty.
	FirstContact    string
	FirstContactRID rid.RID

	Graph     *graph.Graph
	Store     store.Store
	Caller    Caller
	Knowledge Knowledge

	// CheckInterval is how often the other end of an edge is asked for it.
	CheckInterval time.Duration
	// RetryBase (default 500 ms) and RetryCap (default 30 s) bound the back-off.
	RetryBase, RetryCap time.Duration
	// RefusalRest is how long a refused proposal rests (default 1 h).
	RefusalRest time.Duration
	// Parallel bounds the peers that are dealt with at once (default 8).
	Parallel int

	Now    func() time.Time
	Logger *slog.Logger
}

// Manager keeps contact. Make one with New; call Run once.
type Manager struct {
	cfg  Config
	log  *slog.Logger
	wake chan struct{}

	mu      sync.Mutex
	peers   map[rid.RID]*state // the first contact under firstContact
	agenda  agenda             // those of peers that are not running
	paused  bool
	first   FirstContact
	refused map[rid.RID]Refusal // by source
	hints   map[rid.RID]hint
}

// firstContact is the key of the first contact, which may have no RID yet.
const firstContact rid.RID = ""

// state is what is remembered of a peer between two looks at it. The first
// group is guarded by the Manager's mu, the second belongs to the look that runs.
type state struct {
	peer        rid.RID
	due         time.Time
	planned     bool // in the agenda, at index
	index       int
	running     bool
	poked       bool // while running
	reset       bool // forget the second group before the next look
	proposedNow bool // a proposal went out of turn
	introduced  bool // it introduced itself: what it was told before may be lost
	attempts    int  // consecutive failures

	proposed  time.Time // when a proposal last went out, zero before
	confirmed time.Time // when both ends last agreed on our edges
	caughtUp  string    // what the state was last fetched for; see catchUpTypes
	greeted   int       // introductions to a first contact that has no edge with us
	told      time.Time // when a partial node was last told of a proposal, zero where none waits
	tellings  int
	insisted  time.Time // when an approved edge was last proposed again; no reset forgets it
}

// FirstContact says how the node stands with its first contact.
type FirstContact struct {
	RID     rid.RID
	Reached bool
	Message string
}

// Refusal is a proposal of ours that its source answered by FORGET.
type Refusal struct {
	RID     rid.RID
	Profile protocol.EdgeProfile
	Until   time.Time // when it will be proposed again
}

// New returns a Manager.
func New(cfg Config) (*Manager, error) {
	if cfg.Self == "" || cfg.Profile == nil || cfg.Graph == nil || cfg.Store == nil || cfg.Caller == nil || cfg.Knowledge == nil {
		return nil, errors.New("contact: Self, Profile, Graph, Store, Caller and Knowledge are required")
	}
	for _, d := range []struct {
		v   *time.Duration
		def time.Duration
	}{
		{&cfg.CheckInterval, 5 * time.Minute}, {&cfg.RetryBase, 500 * time.Millisecond},
		{&cfg.RetryCap, 30 * time.Second}, {&cfg.RefusalRest, time.Hour},
	} {
		if *d.v <= 0 {
			*d.v = d.def
		}
	}
	if cfg.Parallel <= 0 {
		cfg.Parallel = 8
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	m := &Manager{
		cfg: cfg, log: cfg.Logger, wake: make(chan struct{}, 1),
		peers: map[rid.RID]*state{}, refused: map[rid.RID]Refusal{}, hints: map[rid.RID]hint{},
		first: FirstContact{RID: cfg.FirstContactRID},
	}
	return m, nil
}

// Run keeps contact until ctx ends and waits for what is under way.
func (m *Manager) Run(ctx context.Context) error {
	m.Resync()
	var tasks sync.WaitGroup
	defer tasks.Wait()
	slots := make(chan struct{}, m.cfg.Parallel)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		peer, wait := m.next()
		if wait > 0 {
			timer.Reset(wait)
			select {
			case <-ctx.Done():
				return nil
			case <-m.wake:
			case <-timer.C:
			}
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case slots <- struct{}{}:
		}
		tasks.Go(func() {
			defer func() { <-slots }()
			m.look(ctx, peer)
		})
	}
}

// Poke has the peer looked at now, because something about it changed.
func (m *Manager) Poke(peer rid.RID) {
	if peer == m.cfg.Self {
		return
	}
	m.mu.Lock()
	st := m.state(peer)
	st.poked = true
	if now := m.cfg.Now(); !st.running && st.due.After(now) {
		m.agenda.plan(st, now)
	}
	m.mu.Unlock()
	m.signal()
}

// Resync has every known node looked at anew: proposals, both ends of each
// edge, and all state of interest.
func (m *Manager) Resync() {
	m.mu.Lock()
	clear(m.refused)
	for _, n := range m.cfg.Graph.Nodes() {
		if n.RID != m.cfg.Self {
			m.state(n.RID)
		}
	}
	if m.cfg.FirstContact != "" {
		m.state(firstContact)
	}
	now := m.cfg.Now()
	for _, st := range m.peers {
		st.attempts, st.poked, st.reset = 0, true, true
		if !st.running && st.due.After(now) {
			m.agenda.plan(st, now)
		}
	}
	m.mu.Unlock()
	m.signal()
}

// Pause stops all contact for good: the node is leaving.
func (m *Manager) Pause() {
	m.mu.Lock()
	m.paused = true
	m.mu.Unlock()
}

// FirstContact returns how the node stands with its first contact.
func (m *Manager) FirstContact() FirstContact {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.first
}

// Refusals returns our proposals that were refused and rest.
func (m *Manager) Refusals() []Refusal {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]Refusal, 0, len(m.refused))
	now := m.cfg.Now()
	for source, r := range m.refused {
		if !r.Until.After(now) {
			delete(m.refused, source) // it may be proposed again
			continue
		}
		out = append(out, r)
	}
	return out
}

// Rest keeps an edge from being proposed again for a while, because it was
// forgotten. Where its source refused it, or a person here wanted it gone, that
// is RefusalRest. Where the source had approved it, it may have lost it to a
// handshake of ours that was relayed to it, so RetryCap will do.
func (m *Manager) Rest(r rid.RID, p protocol.EdgeProfile, refused bool) {
	d := m.cfg.RetryCap
	if refused {
		d = m.cfg.RefusalRest
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	p.Status = protocol.Proposed // whatever it was: it is approved no more
	m.refused[p.Source] = Refusal{RID: r, Profile: p, Until: m.cfg.Now().Add(d)}
}

// Forgotten drops what is remembered of a node: should it come back, it is met
// as for the first time. With the first contact a new handshake begins.
func (m *Manager) Forgotten(peer rid.RID) {
	m.mu.Lock()
	delete(m.refused, peer)
	if st := m.peers[peer]; st != nil {
		st.reset = true
	}
	first := peer == m.first.RID && m.cfg.FirstContact != ""
	m.mu.Unlock()
	if first {
		m.Poke(firstContact)
	}
}

// ForgottenBy says that a peer turned out not to know us any more: our edges with
// it are looked at anew, now.
func (m *Manager) ForgottenBy(peer rid.RID) {
	m.mu.Lock()
	m.state(peer).reset = true
	m.mu.Unlock()
	m.Poke(peer)
}

// Introduced says that a node has introduced itself. Words to it that crossed its
// handshake may have been lost, as nobody is told anything while it is forgotten:
// a full node is asked for our edges in any case, a partial one is told of them.
func (m *Manager) Introduced(peer rid.RID) {
	m.mu.Lock()
	m.state(peer).introduced = true
	m.mu.Unlock()
	m.Poke(peer)
}

// Accepted ends the rest of a proposal: its source approved one.
func (m *Manager) Accepted(source rid.RID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.refused, source)
}

func (m *Manager) resting(source rid.RID) (time.Duration, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, ok := m.refused[source]
	if !ok {
		return 0, false
	}
	left := r.Until.Sub(m.cfg.Now())
	if left <= 0 {
		delete(m.refused, source)
		return 0, false
	}
	return left, true
}

// state returns the peer's state, making it, to be looked at, if needed; mu is held.
func (m *Manager) state(peer rid.RID) *state {
	st := m.peers[peer]
	if st == nil {
		st = &state{peer: peer}
		m.peers[peer] = st
		m.agenda.plan(st, m.cfg.Now())
	}
	return st
}

func (m *Manager) signal() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// next takes the peer that is due, or says how long to wait for one.
func (m *Manager) next() (rid.RID, time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.paused {
		return "", time.Hour
	}
	st, wait := m.agenda.take(m.cfg.Now())
	if st == nil {
		return "", max(wait, time.Millisecond)
	}
	st.running, st.poked = true, false
	return st.peer, 0
}

// look deals with one peer and says when it is to be looked at again.
func (m *Manager) look(ctx context.Context, peer rid.RID) {
	m.mu.Lock()
	st := m.state(peer)
	if st.reset {
		st.reset = false
		st.confirmed, st.proposed, st.caughtUp, st.greeted = time.Time{}, time.Time{}, "", 0
	}
	if st.proposedNow {
		st.proposedNow = false
		st.proposed = m.cfg.Now()
	}
	introduced := st.introduced
	st.introduced = false
	m.mu.Unlock()
	var again time.Duration
	var err error
	if peer == firstContact {
		again, err = m.shakeHands(ctx, st)
	} else {
		again, err = m.visit(ctx, peer, st, introduced)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	defer m.signal()
	st.running = false
	switch {
	case err != nil:
		again = m.backoff(st.attempts, errors.Is(err, errUnconfirmed))
		st.attempts++
		m.log.Debug("contact failed, to be tried again", "node", peer, "in", again, "error", err)
	case again == 0:
		if !st.poked {
			delete(m.peers, peer)
			return
		}
	default:
		st.attempts = 0
	}
	if st.poked && err == nil {
		again = 0
	}
	m.agenda.plan(st, m.cfg.Now().Add(again))
}

// longSilent is after how many failures in a row a node is asked no more often than
// one that answers: with the defaults after about ten minutes.
const longSilent = 25

// backoff returns the pause after a number of failures. A node that we know by
// hearsay alone may never have been there, and one that was silent for long may never
// come back: they are tried ever less often. Who comes back says so, and is asked
// at once.
func (m *Manager) backoff(attempts int, hearsay bool) time.Duration {
	most := m.cfg.RetryCap
	if hearsay || attempts >= longSilent {
		most = max(most, m.cfg.CheckInterval)
	}
	return jitter(min(m.cfg.RetryBase<<min(attempts, 16), most), 0.5)
}

// jitter spreads d by up to the given share to either side.
func jitter(d time.Duration, share float64) time.Duration {
	return time.Duration(float64(d) * (1 + share*(2*rand.Float64()-1)))
}
