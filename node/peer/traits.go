package peer

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// Product is the name by which programs of our kind present themselves, alone or
// before "/" and a version, in User-Agent and Server headers.
const Product = "koi-node"

const (
	// snapshotVersion is the layout of a snapshot.
	snapshotVersion = 1
	// maxSnapshot bounds a snapshot, in bytes: some 7,000 peers with RIDs of
	// ordinary length. What is beyond is learned again.
	maxSnapshot = 1 << 20
	// freshIntroduction is how long a peer may take to process an introduction
	// that it was given, before unknown_node means that it forgot us.
	freshIntroduction = 2 * time.Second
)

// Traits is what is learned of signed peers: how they write floats, whether they
// are of our kind, and whether they know us. It remembers as many as 10,000; those
// unused for longest go first, and are learned of again. It is safe for
// concurrent use.
type Traits struct {
	changed chan struct{}
	now     func() time.Time

	mu    sync.Mutex
	peers *lru[rid.RID, trait]
	epoch uint64 // of our own profile; see Reintroduce
}

// trait is what is known of one peer.
type trait struct {
	style protocol.FloatStyle
	kin   bool
	// key is the peer's public key as it proved to have it; "" if it has not.
	key string
	// introduced is when our present profile was delivered to the peer; zero if
	// it was not. knows, which is true then as well: it took a signed call of
	// ours, so knows some profile.
	introduced time.Time
	knows      bool
}

// NewTraits returns a Traits that knows nobody.
func NewTraits() *Traits {
	return &Traits{changed: make(chan struct{}, 1), now: time.Now, peers: newLRU[rid.RID, trait]()}
}

// FloatStyle returns the style of floats to sign in for a node: the one it was
// found to use, or the current one.
func (t *Traits) FloatStyle(r rid.RID) protocol.FloatStyle {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.peers.get(r); p != nil {
		return p.style
	}
	return protocol.FloatsCurrent
}

// Kin reports whether a node is of our kind: a program by the name of Product,
// which takes what would stop a reference node. Nobody is before it was found so.
func (t *Traits) Kin(r rid.RID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.peers.get(r)
	return p != nil && p.kin
}

// Learn takes what a verified envelope showed of its sender: the style of its
// floats, as protocol.Envelope.Verify tells it, and the User-Agent or Server
// header that came with it.
//
// FloatsCurrent is no news, as most envelopes hold no float that would show it.
// The name of the reference's client or server shows that a node is not of our
// kind; other names, those of proxies among them, and none show nothing.
func (t *Traits) Learn(r rid.RID, style protocol.FloatStyle, product string) {
	t.learn(r, style == protocol.FloatsOlder, style, product)
}

// learn takes the style only where it was seen.
func (t *Traits) learn(r rid.RID, seen bool, style protocol.FloatStyle, product string) {
	kin, told := kinship(product)
	if r == "" || !seen && !told {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.peers.put(r)
	before := *p
	if seen {
		p.style = style
	}
	if told {
		p.kin = kin
	}
	if before != *p {
		t.signal()
	}
}

// kinship reads a User-Agent or Server header: whether it names a program of our
// kind, and whether it tells that at all.
func kinship(product string) (kin, told bool) {
	token, _, _ := strings.Cut(strings.TrimSpace(product), " ")
	name, _, _ := strings.Cut(token, "/")
	switch {
	case name == Product:
		return true, true
	case name == "uvicorn", strings.HasPrefix(name, "python-"):
		return false, true // the reference as a server, and as a client
	}
	return false, false
}

// Changed returns a channel on which something is to be received once a snapshot
// would differ from one made before. Changes that nobody waited for count as one.
func (t *Traits) Changed() <-chan struct{} { return t.changed }

// signal is called with t.mu held.
func (t *Traits) signal() {
	select {
	case t.changed <- struct{}{}:
	default:
	}
}

// Reintroduce forgets to whom we were introduced, because our own profile
// changed: every signed peer is told it with the next events it is sent.
func (t *Traits) Reintroduce() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.epoch++
	for _, p := range t.peers.all {
		p.introduced = time.Time{}
	}
}

// introduction returns whether our present profile was delivered to r, and the
// epoch to give to introduce once it is.
func (t *Traits) introduction(r rid.RID) (delivered bool, epoch uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.peers.get(r)
	return p != nil && !p.introduced.IsZero(), t.epoch
}

// introduce notes that the profile of an epoch was delivered to r.
func (t *Traits) introduce(r rid.RID, epoch uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.peers.put(r)
	p.knows = true
	if epoch == t.epoch {
		p.introduced = t.now()
	}
}

// justIntroduced reports whether r was introduced to so lately that it may not
// have taken it in yet.
func (t *Traits) justIntroduced(r rid.RID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.peers.get(r)
	return p != nil && !p.introduced.IsZero() && t.now().Sub(p.introduced) < freshIntroduction
}

// knowsUs notes that r took signed events of ours.
func (t *Traits) knowsUs(r rid.RID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.peers.put(r).knows = true
}

// forgotten notes that r does not know us, and reports whether that is news.
func (t *Traits) forgotten(r rid.RID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.peers.get(r)
	if p == nil {
		return false
	}
	knew := p.knows
	p.knows, p.introduced = false, time.Time{}
	return knew
}

// key returns the public key that r proved to have, "" if it did not.
func (t *Traits) key(r rid.RID) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.peers.get(r); p != nil {
		return p.key
	}
	return ""
}

// answered notes that r, which so knows us, answered a signed call; key is its
// own, with which the answer verified.
func (t *Traits) answered(r rid.RID, key string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.peers.put(r)
	p.key, p.knows = key, true
}

// snapshot is what Restore reads.
type snapshot struct {
	Version int             `json:"version"`
	Peers   []snapshotTrait `json:"peers"`
}

// snapshotTrait is one peer that is not as peers are taken to be.
type snapshotTrait struct {
	RID         rid.RID `json:"rid"`
	OlderFloats bool    `json:"olderFloats,omitempty"`
	Kin         bool    `json:"kin,omitempty"`
}

// Snapshot returns the float styles and kinships as JSON of at most 1 MiB, those
// used last first, for Restore. Who was introduced to is left out: a peer may
// forget it at any time.
func (t *Traits) Snapshot() []byte {
	var peers []snapshotTrait
	t.mu.Lock()
	for r, p := range t.peers.all {
		if older := p.style == protocol.FloatsOlder; older || p.kin {
			peers = append(peers, snapshotTrait{RID: r, OlderFloats: older, Kin: p.kin})
		}
	}
	t.mu.Unlock()
	const end = "]}"
	out := fmt.Appendf(nil, `{"version":%d,"peers":[`, snapshotVersion)
	for i, p := range peers {
		item, err := json.Marshal(p)
		if err != nil {
			continue // no value of these types fails to encode
		}
		if len(out)+1+len(item)+len(end) > maxSnapshot {
			break
		}
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, item...)
	}
	return append(out, end...)
}

// errSnapshot is wrapped by the errors of Restore.
var errSnapshot = errors.New("what was learned of peers cannot be restored")

// Restore takes in what Snapshot returned. What was learned since of a peer
// counts more. The error says why nothing was taken in: data is of another
// version, too large or damaged.
func (t *Traits) Restore(data []byte) error {
	if len(data) > maxSnapshot {
		return fmt.Errorf("%w: it has %d bytes, at most %d are taken", errSnapshot, len(data), maxSnapshot)
	}
	var s snapshot
	if err := json.Unmarshal(data, &s); err != nil {
		return fmt.Errorf("%w: %w", errSnapshot, err)
	}
	if s.Version != snapshotVersion {
		return fmt.Errorf("%w: it is of version %d, and %d is read here", errSnapshot, s.Version, snapshotVersion)
	}
	for _, p := range s.Peers {
		if _, err := rid.Parse(string(p.RID)); err != nil || p.RID.Type() != rid.NodeType {
			return fmt.Errorf("%w: %q is the RID of no node", errSnapshot, p.RID)
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	// The first was used last, so it comes last, unless there is no place for all.
	for _, p := range slices.Backward(s.Peers[:min(len(s.Peers), t.peers.most)]) {
		if t.peers.get(p.RID) != nil {
			continue
		}
		e := t.peers.put(p.RID)
		e.kin = p.Kin
		if p.OlderFloats {
			e.style = protocol.FloatsOlder
		}
	}
	return nil
}
