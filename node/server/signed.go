package server

import (
	"crypto/sha256"
	"fmt"
	"hash"
	"sync"

	"github.com/koi-net/koi-operator/node/identity"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// Generations of a body, as a metric's label.
const (
	generationSigned   = "signed"
	generationUnsigned = "unsigned"
)

// Bounds of what is remembered of signed peers.
const (
	// maxKeys bounds the public keys kept ready to verify with.
	maxKeys = 4096
	// maxPolled bounds the polls that are remembered, so that nobody draws
	// events by sending somebody's poll again. It is a memory of the process:
	// to write down each poll would cost every idle peer's question a commit.
	// Fetches are not remembered, as they take nothing away.
	maxPolled = 65_536
)

// signing is the part of a server that deals with envelopes.
type signing struct {
	identity     identity.Identity
	peers        Peers
	denyUnsigned bool
	keys         *recent[string, identity.PublicKey]
	polled       *recent[[32]byte, struct{}]
}

// verify returns the sender of an envelope, or the protocol.ErrorResponse that
// says why it is not believed, in the reference's order: who is it, is that its
// key, is that its signature, are we meant.
func verify[P protocol.Payload](s *server, e protocol.Envelope[P], userAgent string) (Sender, error) {
	if s.identity.Unsigned() {
		// Envelopes go to nodes with a key: another node was meant.
		return Sender{}, protocol.ErrorResponse{Code: protocol.InvalidTarget}
	}
	if e.Source == s.identity.RID {
		// Nobody else has our key, and we do not call ourselves: it is forged, or
		// comes from a copy of this node. Its word must not count as our own.
		return Sender{}, protocol.ErrorResponse{Code: protocol.UnknownNode}
	}
	events, _ := any(e.Payload).(protocol.EventsPayload)
	text, known := s.keyOf(e.Source, events)
	if !known {
		return Sender{}, protocol.ErrorResponse{Code: protocol.UnknownNode}
	}
	key, err := s.key(e.Source, text)
	if err != nil {
		return Sender{}, protocol.ErrorResponse{Code: protocol.InvalidKey}
	}
	// Of a large text the hash is the dearer part of the work: it is made once, and
	// names the body besides. Signed, in the style that is tried first, gives that
	// name in both styles, so that it is also the one that a client remembers an
	// answer by: the answer to a poll could be sent to us again as a broadcast.
	var digest *[sha256.Size]byte
	style, err := e.Verify(func(text []byte, signature string) error {
		sum := sha256.Sum256(text)
		if digest == nil {
			digest = &sum
		}
		return key.VerifyDigest(sum, signature)
	})
	if err != nil {
		return Sender{}, protocol.ErrorResponse{Code: protocol.InvalidSignature}
	}
	if e.Target != s.identity.RID {
		return Sender{}, protocol.ErrorResponse{Code: protocol.InvalidTarget}
	}
	replay, err := identity.ReplayKeyOfDigest(*digest, e.Signature)
	if err != nil {
		return Sender{}, protocol.ErrorResponse{Code: protocol.InvalidSignature}
	}
	s.peers.Learn(e.Source, style, userAgent)
	return Sender{RID: e.Source, Replay: &replay}, nil
}

// keyOf returns the text of a sender's public key: from the profile held of it,
// or else from the one it introduces itself with in this very envelope.
func (s *server) keyOf(sender rid.RID, events protocol.EventsPayload) (text string, known bool) {
	held, known := s.peers.PublicKey(sender)
	if held != "" {
		return held, true
	}
	for _, e := range events {
		if e.RID != sender || e.EventType != protocol.New || e.Manifest == nil || len(e.Contents) == 0 {
			continue
		}
		if p, err := protocol.ParseNodeProfile(e.Contents); err == nil {
			return p.PublicKey, true
		}
	}
	// A profile without a key is none that a node with one could have.
	return "", known && !rid.IsKeyed(sender)
}

// key returns a public key ready to verify with, if it is the one the sender's
// RID was made from.
func (s *server) key(sender rid.RID, text string) (identity.PublicKey, error) {
	if text == "" || !(protocol.NodeProfile{PublicKey: text}).KeyMatches(sender) {
		return identity.PublicKey{}, identity.ErrPublicKey
	}
	if key, ok := s.keys.get(text); ok {
		return key, nil
	}
	key, err := identity.ParsePublicKey(text)
	if err != nil {
		return identity.PublicKey{}, err
	}
	s.keys.put(text, key)
	return key, nil
}

// seal turns an answer into an envelope while it is written.
type seal struct {
	identity identity.Identity
	target   rid.RID
	style    protocol.FloatStyle
	hash     hash.Hash // of the signed text as far as it was written
}

func newSeal(id identity.Identity, target rid.RID, style protocol.FloatStyle) *seal {
	return &seal{identity: id, target: target, style: style, hash: sha256.New()}
}

// restyle puts an item in the style of floats that the asker reads.
func (s *seal) restyle(buf []byte, from int) []byte {
	if s.style != protocol.FloatsOlder {
		return buf
	}
	if older := protocol.OlderFloats(buf[from:]); older != nil {
		return append(buf[:from], older...)
	}
	return buf
}

// close appends what follows the payload; rest is what was not hashed so far.
func (s *seal) close(rest []byte) ([]byte, error) {
	rest = protocol.AppendString(append(rest, `,"source_node":`...), string(s.identity.RID))
	rest = protocol.AppendString(append(rest, `,"target_node":`...), string(s.target))
	s.hash.Write(rest)
	s.hash.Write([]byte{'}'})
	signature, err := s.identity.SignDigest([sha256.Size]byte(s.hash.Sum(nil)))
	if err != nil {
		return nil, fmt.Errorf("signing the answer: %w", err)
	}
	rest = protocol.AppendString(append(rest, `,"signature":`...), signature)
	return append(rest, '}'), nil
}

// recent remembers at least the last most/2 and at most most keys that were put
// or found. It is safe for concurrent use.
type recent[K comparable, V any] struct {
	mu       sync.Mutex
	half     int
	now, old map[K]V
}

func newRecent[K comparable, V any](most int) *recent[K, V] {
	return &recent[K, V]{half: most / 2, now: map[K]V{}}
}

func (r *recent[K, V]) get(k K) (V, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	v, ok := r.now[k]
	if !ok {
		if v, ok = r.old[k]; ok {
			r.add(k, v)
		}
	}
	return v, ok
}

// put notes k and reports whether it was there.
func (r *recent[K, V]) put(k K, v V) (seen bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, seen = r.now[k]
	if !seen {
		_, seen = r.old[k]
	}
	r.add(k, v)
	return seen
}

// add is called with mu held.
func (r *recent[K, V]) add(k K, v V) {
	if len(r.now) >= r.half {
		r.old, r.now = r.now, make(map[K]V, r.half/16)
	}
	r.now[k] = v
}
