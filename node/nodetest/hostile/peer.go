package hostile

import (
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/koi-net/koi-operator/node/identity"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// The calls, as paths below a base URL. Self is the GET of the base URL itself.
const (
	Broadcast      = "/events/broadcast"
	Poll           = "/events/poll"
	FetchRIDs      = "/rids/fetch"
	FetchManifests = "/manifests/fetch"
	FetchBundles   = "/bundles/fetch"
	Self           = ""
)

const basePath = "/koi-net"

// maxBody bounds what a Peer reads of a request.
const maxBody = 64 << 20

// Peer is a node of the unsigned generation on loopback. It is safe for
// concurrent use.
type Peer struct {
	// Identity is who the peer is: a node of the unsigned generation. For
	// envelopes, generate others.
	Identity identity.Identity
	// Profile is what the peer says of itself: a full node that provides the
	// types NewPeer was given. Change it before anybody asks.
	Profile protocol.NodeProfile
	// Pause lies between the bytes of a SlowBody; NewPeer sets a second.
	Pause time.Duration

	t      testing.TB
	server *httptest.Server
	born   time.Time
	done   chan struct{} // closed when the test ends

	mu       sync.Mutex
	behave   map[string]Misbehaviour // by call; absent: as it should
	calls    map[string]int
	held     map[rid.RID]protocol.Bundle
	offered  []protocol.Event
	received []protocol.Event
}

// NewPeer starts a Peer that provides the given types. It ends with the test,
// whatever is under way.
func NewPeer(t testing.TB, provides ...rid.Type) *Peer {
	t.Helper()
	id, err := identity.Generate("hostile", true)
	if err != nil {
		t.Fatal(err)
	}
	p := &Peer{
		Identity: id, Pause: time.Second, t: t, born: time.Now(), done: make(chan struct{}),
		behave: map[string]Misbehaviour{}, calls: map[string]int{}, held: map[rid.RID]protocol.Bundle{},
	}
	p.server = httptest.NewServer(http.HandlerFunc(p.serve))
	p.Profile = protocol.NodeProfile{
		BaseURL: p.server.URL + basePath, NodeType: protocol.Full,
		Provides: protocol.Provides{Event: provides, State: provides},
	}
	t.Cleanup(func() {
		close(p.done)
		p.server.CloseClientConnections()
		p.server.Close()
	})
	return p
}

// RID is the peer's RID.
func (p *Peer) RID() rid.RID { return p.Identity.RID }

// URL is the peer's base URL.
func (p *Peer) URL() string { return p.server.URL + basePath }

// Bundle is the peer's own bundle.
func (p *Peer) Bundle() protocol.Bundle {
	b, err := protocol.NewBundle(p.RID(), protocol.NewTimestamp(p.born), p.Profile.Contents())
	if err != nil {
		p.t.Errorf("the profile given to a hostile peer: %v", err)
	}
	return b
}

// Misbehave makes the peer answer the given calls (none: all of them) so, until
// Behave.
func (p *Peer) Misbehave(m Misbehaviour, calls ...string) {
	if len(calls) == 0 {
		calls = []string{Broadcast, Poll, FetchRIDs, FetchManifests, FetchBundles, Self}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range calls {
		p.behave[c] = m
	}
}

// Behave makes the peer answer as it should again. What it is in the middle of
// takes its course.
func (p *Peer) Behave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.behave)
}

// Hold makes the peer give out bundles when asked for them.
func (p *Peer) Hold(bundles ...protocol.Bundle) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, b := range bundles {
		p.held[b.Manifest.RID] = b
	}
}

// Offer makes the peer's next answer to a poll hold the events.
func (p *Peer) Offer(events ...protocol.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.offered = append(p.offered, events...)
}

// Received returns the events that were broadcast to the peer and taken.
func (p *Peer) Received() []protocol.Event {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]protocol.Event(nil), p.received...)
}

// Calls says how often a call was made, however it was answered.
func (p *Peer) Calls(call string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.calls[call]
}

// Trapped says how often somebody followed a RedirectToTrap.
func (p *Peer) Trapped() int { return p.Calls(trap) }

// trap is the path that RedirectToTrap leads to.
const trap = "/trap"

func (p *Peer) serve(w http.ResponseWriter, r *http.Request) {
	call := r.URL.Path
	if call != trap {
		call = call[min(len(basePath), len(call)):]
	}
	p.mu.Lock()
	p.calls[call]++
	m := p.behave[call]
	p.mu.Unlock()
	if m != "" && call != trap {
		p.misbehave(m, w, r)
		return
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody))
	if err != nil {
		return // who asked is gone
	}
	w.Header().Set("Content-Type", "application/json")
	if answer := p.answer(call, body); answer != nil {
		_, _ = w.Write(answer) // as above
		return
	}
	w.WriteHeader(http.StatusNotFound)
}

// answer is what a node of the unsigned generation answers; nil for no call.
func (p *Peer) answer(call string, body []byte) []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	limits := protocol.DefaultLimits()
	switch call {
	case Broadcast:
		if events, err := protocol.DecodeBroadcast(body, limits); err == nil {
			p.received = append(p.received, events...)
		}
		return []byte("null")
	case Poll:
		out := Events(p.offered...)
		p.offered = nil
		return out
	case FetchRIDs:
		q, _ := protocol.DecodeFetchRIDs(body, limits) // what cannot be read asks for everything
		rids := []rid.RID{}
		for _, b := range p.all(q.RIDTypes) {
			rids = append(rids, b.Manifest.RID)
		}
		return p.text(map[string]any{"rids": rids})
	case FetchManifests:
		q, _ := protocol.DecodeFetchManifests(body, limits)
		found, missing := p.find(q.RIDs)
		if len(q.RIDs) == 0 {
			found = p.all(q.RIDTypes)
		}
		manifests := []protocol.Manifest{}
		for _, b := range found {
			manifests = append(manifests, b.Manifest)
		}
		return p.text(map[string]any{"manifests": manifests, "not_found": missing})
	case FetchBundles:
		q, _ := protocol.DecodeFetchBundles(body, limits)
		found, missing := p.find(q.RIDs)
		return p.text(map[string]any{"bundles": found, "manifests": found, "not_found": missing, "deferred": []rid.RID{}})
	case Self:
		return p.text(p.Bundle())
	}
	return nil
}

func (p *Peer) text(answer any) []byte {
	text, err := json.Marshal(answer)
	if err != nil {
		p.t.Errorf("what a hostile peer was given to hold: %v", err)
	}
	return text
}

// all returns what the peer gives out, its own bundle included, of the types
// (none: all).
func (p *Peer) all(types []rid.Type) []protocol.Bundle {
	out := []protocol.Bundle{}
	for _, b := range append(slices.Collect(maps.Values(p.held)), p.Bundle()) {
		if len(types) == 0 || slices.Contains(types, b.Manifest.RID.Type()) {
			out = append(out, b)
		}
	}
	return out
}

// find returns those of the bundles that the peer gives out.
func (p *Peer) find(rids []rid.RID) (found []protocol.Bundle, missing []rid.RID) {
	found, missing = []protocol.Bundle{}, []rid.RID{}
	for _, r := range rids {
		b, ok := p.held[r]
		switch {
		case r == p.RID():
			found = append(found, p.Bundle())
		case ok:
			found = append(found, b)
		default:
			missing = append(missing, r)
		}
	}
	return found, missing
}
