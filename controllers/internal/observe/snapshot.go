package observe

import (
	"crypto/sha256"
	"encoding/json"
	"time"

	"github.com/koi-net/koi-operator/node/admin/client"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// Snapshot is what a node said last. It is shared and never changed.
type Snapshot struct {
	Status client.Status
	// Edges are those in which the node is an end, by their pair.
	Edges map[Pair]client.Edge
	// Decisions are the standing decisions the node holds, with or without an edge.
	Decisions map[Pair]client.Policy
	// Peers are the nodes at the other ends of Edges.
	Peers map[rid.RID]Peer
	// At is when the node was asked for the above.
	At time.Time
	// Changed is when it was noticed that the node has something new to say, of
	// which the above is the first word.
	Changed time.Time
	// Err is why it could not be asked since, nil while it answers.
	Err error

	digest [sha256.Size]byte
}

// Pair is an edge's identity.
type Pair struct {
	Source rid.RID // provides
	Target rid.RID // subscribes
}

// Peer is what a node knows of another.
type Peer struct {
	Kind      protocol.NodeKind
	BaseURL   string
	PublicKey string
	Verified  bool
	// Silent: the last request to it failed, and Why says how.
	Silent bool
	Why    string `json:"-"` // of the digest: its words change while nothing else does
}

// Fresh tells whether the node answered within the last interval.
func (s *Snapshot) Fresh(now time.Time, interval time.Duration) bool {
	return s != nil && !s.At.IsZero() && now.Sub(s.At) <= interval
}

// Edge returns what the node says about an edge, nil if it knows none.
func (s *Snapshot) Edge(p Pair) *client.Edge {
	if s == nil {
		return nil
	}
	if e, ok := s.Edges[p]; ok {
		return &e
	}
	return nil
}

// Others are the nodes that the node has edges with.
func (s *Snapshot) Others() []rid.RID {
	if s == nil {
		return nil
	}
	out := make([]rid.RID, 0, len(s.Peers))
	for r := range s.Peers {
		if r != s.Status.RID {
			out = append(out, r)
		}
	}
	return out
}

// peer returns what the node knows of a node that it has an edge with.
func (s *Snapshot) peer(r rid.RID) (Peer, bool) {
	if s == nil || s.Status.RID == r {
		return Peer{}, false
	}
	p, ok := s.Peers[r]
	return p, ok
}

// Decision returns the node's standing decision for a pair, nil if it has none.
func (s *Snapshot) Decision(p Pair) *client.Policy {
	if s == nil {
		return nil
	}
	if d, ok := s.Decisions[p]; ok {
		return &d
	}
	return nil
}

func newSnapshot(status client.Status, edges client.EdgeList, nodes []client.Node, at time.Time) *Snapshot {
	s := &Snapshot{
		Status:    status,
		Edges:     make(map[Pair]client.Edge, len(edges.Edges)),
		Decisions: make(map[Pair]client.Policy),
		Peers:     make(map[rid.RID]Peer),
		At:        at,
	}
	for _, p := range edges.Refusals {
		s.Decisions[Pair{p.Source, p.Target}] = p
	}
	for _, e := range edges.Edges {
		pair := Pair{e.Source, e.Target}
		s.Edges[pair] = e
		if e.Decision != nil {
			s.Decisions[pair] = *e.Decision
		}
		s.Peers[e.Source], s.Peers[e.Target] = Peer{}, Peer{}
	}
	for _, n := range nodes {
		if _, ok := s.Peers[n.RID]; ok {
			s.Peers[n.RID] = Peer{
				Kind:      n.Profile.NodeType,
				BaseURL:   n.Profile.BaseURL,
				PublicKey: n.Profile.PublicKey,
				Verified:  n.Verified || n.Self,
				Silent:    n.LastError != "",
				Why:       n.LastError,
			}
		}
	}
	s.digest = digest(s, edges)
	return s
}

// digest sums up what the controllers act on, so that traffic wakes nobody.
func digest(s *Snapshot, edges client.EdgeList) [sha256.Size]byte {
	st := s.Status
	st.Bundles, st.Inbox, st.Queues, st.StoreBytes = 0, 0, nil, 0
	peers := make(map[string]Peer, len(s.Peers))
	for r, p := range s.Peers {
		peers[string(r)] = p
	}
	text, err := json.Marshal(struct {
		Status client.Status
		Edges  client.EdgeList
		Peers  map[string]Peer
	}{st, edges, peers})
	if err != nil {
		// It came from JSON; should it ever fail, a fresh digest wakes once too often.
		text = []byte(s.At.String())
	}
	return sha256.Sum256(text)
}
