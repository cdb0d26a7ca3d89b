package witness

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/koi-net/koi-operator/node/identity"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

const basePath = "/koi-net"

// Calling is how long one call of a witness may take.
const Calling = 20 * time.Second

// Mood is how a witness answers one broadcast.
type Mood int

// The moods. All but Well and Slow disturb the node that calls.
const (
	Well   Mood = iota
	Slow        // takes it after the Pause
	Refuse      // writes it down and answers 503
	HangUp      // writes it down and closes the connection without an answer
	Reset       // resets the connection and looks at nothing
)

// Config says what a witness is.
type Config struct {
	Name     string
	Unsigned bool
	Kind     protocol.NodeKind
	// State are the RID types it gives out state of: what it was given to Hold.
	State []rid.Type
	// Mood, if set, is asked for each broadcast; Pause is how long a Slow one and
	// every fetch take. They are called side by side.
	Mood  func() Mood
	Pause func() time.Duration
}

// Node is a node a witness speaks with.
type Node struct {
	URL string
	RID rid.RID
	Key string // its public key, "" where it has none
}

// Entry is what a witness wrote down: events that it was offered together, or
// that something disturbed whoever offers them.
type Entry struct {
	At      time.Time
	Events  []protocol.Event
	Trouble string // what disturbed; "" for events
}

// Witness is a node that looks on. Its methods may be called side by side.
type Witness struct {
	cfg    Config
	id     identity.Identity
	born   protocol.Timestamp
	url    string
	server *http.Server
	ended  chan struct{}
	client *http.Client

	mu    sync.Mutex
	nodes map[rid.RID]Node
	held  map[rid.RID]protocol.Bundle
	edges map[rid.RID]protocol.EdgeProfile // by source, as last heard of
	log   []Entry
	faults
}

// faults are what nodes did to a witness that no node may do.
type faults struct{ list []string }

// New starts a witness; Close ends it.
func New(cfg Config) (*Witness, error) {
	id, err := identity.Generate(cfg.Name, cfg.Unsigned)
	if err != nil {
		return nil, fmt.Errorf("the witness %s: %w", cfg.Name, err)
	}
	w := &Witness{
		cfg: cfg, id: id, born: protocol.NewTimestamp(time.Now()), ended: make(chan struct{}),
		client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}},
		nodes:  map[rid.RID]Node{}, held: map[rid.RID]protocol.Bundle{}, edges: map[rid.RID]protocol.EdgeProfile{},
	}
	if cfg.Kind != protocol.Full {
		close(w.ended)
		return w, nil
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("the witness %s: %w", cfg.Name, err)
	}
	w.url = "http://" + l.Addr().String() + basePath
	w.server = &http.Server{Handler: http.HandlerFunc(w.serve), ReadHeaderTimeout: Calling}
	go func() {
		defer close(w.ended)
		_ = w.server.Serve(l) // ends with Close
	}()
	return w, nil
}

// Close ends the witness and all that it has under way.
func (w *Witness) Close() {
	w.client.CloseIdleConnections()
	if w.server != nil {
		_ = w.server.Close() // nothing of it is wanted any more
	}
	<-w.ended
}

// RID is the witness's RID.
func (w *Witness) RID() rid.RID { return w.id.RID }

// Profile is what the witness says of itself.
func (w *Witness) Profile() protocol.NodeProfile {
	p := protocol.NodeProfile{
		BaseURL: w.url, NodeType: w.cfg.Kind, PublicKey: w.id.PublicKeyText(),
		Provides: protocol.Provides{State: w.cfg.State},
	}
	return p
}

// Bundle is the witness's own bundle.
func (w *Witness) Bundle() (protocol.Bundle, error) {
	return protocol.NewBundle(w.id.RID, w.born, w.Profile().Contents())
}

// Hold gives the witness bundles that it gives out when it is asked for them.
func (w *Witness) Hold(bundles ...protocol.Bundle) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, b := range bundles {
		w.held[b.Manifest.RID] = b
	}
}

// Empty takes away what the witness was given to hold.
func (w *Witness) Empty() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for r := range w.held {
		if r.Type() != rid.EdgeType {
			delete(w.held, r)
		}
	}
}

// Trouble writes down that something disturbs whoever offers events: it is about
// to be killed, say.
func (w *Witness) Trouble(what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.log = append(w.log, Entry{At: time.Now(), Trouble: what})
}

// Take returns what was written down since it was last called, and what nodes did
// that no node may do.
func (w *Witness) Take() ([]Entry, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	log := w.log
	w.log = nil
	if len(w.list) == 0 {
		return log, nil
	}
	err := fmt.Errorf("%s was treated badly: %s", w.cfg.Name, w.list[0])
	if n := len(w.list); n > 1 {
		err = fmt.Errorf("%w, and %d times more", err, n-1)
	}
	w.list = nil
	return log, err
}

// Status says how an edge to the witness stands, as its source said last; "" where
// it said nothing, or forgot it.
func (w *Witness) Status(source rid.RID) protocol.EdgeStatus {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.edges[source].Status
}

func (f *faults) add(format string, args ...any) {
	const most = 100
	if len(f.list) < most {
		f.list = append(f.list, fmt.Sprintf(format, args...))
	}
}

// offered writes events down, after or instead of what they say to the witness.
func (w *Witness) offered(events []protocol.Event, mood Mood) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.log = append(w.log, Entry{At: time.Now(), Events: events})
	if mood == Refuse || mood == HangUp {
		w.log = append(w.log, Entry{At: time.Now(), Trouble: "no success was answered"})
	}
	for _, e := range events {
		if e.RID.Type() == rid.EdgeType {
			w.edge(e)
		}
	}
}

// edge notes the word of an edge's source; mu is held.
func (w *Witness) edge(e protocol.Event) {
	if e.EventType == protocol.Forget {
		for source := range w.edges {
			if rid.NewEdge(source, w.id.RID) == e.RID {
				delete(w.edges, source)
				delete(w.held, e.RID)
			}
		}
		return
	}
	p, err := protocol.ParseEdgeProfile(e.Contents)
	if err != nil || p.Target != w.id.RID || e.Manifest == nil {
		return
	}
	w.edges[p.Source] = p
	w.held[e.RID] = protocol.Bundle{Manifest: *e.Manifest, Contents: e.Contents}
}

// find returns those of the RIDs, or else of the types, or else all that the
// witness holds, its own bundle included, and the RIDs that it does not.
func (w *Witness) find(types []rid.Type, rids []rid.RID) (found []protocol.Bundle, missing []rid.RID, err error) {
	own, err := w.Bundle()
	if err != nil {
		return nil, nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	all := map[rid.RID]protocol.Bundle{own.Manifest.RID: own}
	for r, b := range w.held {
		all[r] = b
	}
	for _, r := range rids {
		if b, ok := all[r]; ok {
			found = append(found, b)
		} else {
			missing = append(missing, r)
		}
	}
	if len(rids) == 0 {
		for r, b := range all {
			if len(types) == 0 || slices.Contains(types, r.Type()) {
				found = append(found, b)
			}
		}
	}
	return found, missing, nil
}

// verify says whether an envelope is what its sender, who has to be known, signed
// for the witness.
func verify[P protocol.Payload](w *Witness, e protocol.Envelope[P]) error {
	w.mu.Lock()
	n, known := w.nodes[e.Source]
	w.mu.Unlock()
	if !known {
		return fmt.Errorf("an envelope of %s, who is not known here", e.Source)
	}
	if e.Target != w.id.RID {
		return fmt.Errorf("an envelope for %s", e.Target)
	}
	_, err := e.Verify(func(text []byte, signature string) error { return identity.Verify(n.Key, text, signature) })
	return err
}

// know remembers whom the witness speaks with.
func (w *Witness) know(n Node) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.nodes[n.RID] = n
}

// pause waits as long as the witness takes for an answer.
func (w *Witness) pause(ctx context.Context) error {
	if w.cfg.Pause == nil {
		return nil
	}
	timer := time.NewTimer(w.cfg.Pause())
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

var errCall = errors.New("no such call")
