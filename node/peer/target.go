package peer

import (
	"errors"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// Errors of calls in one of the generations.
var (
	// ErrUnsignedPeer is wrapped where a call would have to go out unsigned and
	// ClientConfig.DenyUnsigned forbids it. No request is made.
	ErrUnsignedPeer = errors.New("unsigned peer")
	// ErrUnknownServer is wrapped where an answer could not be verified because the
	// peer's public key is not known: it has to introduce itself, or its profile
	// has to be fetched in another way. So it is where its key is known and its
	// RID is not, which has to be given.
	ErrUnknownServer = errors.New("unknown server")
)

// Target is a node to call.
type Target struct {
	RID rid.RID // "" where only the URL is known
	URL string
	Key string // its public key as its profile carries it; "" if it has none or it is not known yet
}

// Received is what a verified or unsigned answer brought.
type Received struct {
	Events []protocol.Event
	Source rid.RID   // the node that signed it; "" for an unsigned answer
	Replay *[32]byte // names the signed answer for good; nil for an unsigned one
}

// Directory knows where nodes are.
type Directory interface {
	// Target returns where to call a node, false where that is not known.
	Target(r rid.RID) (Target, bool)
}

// generation names the generation of a call for the metrics.
func generation(signed bool) string {
	if signed {
		return "signed"
	}
	return "unsigned"
}

// shown is a RID for an error: a peer chooses what is in it.
func shown(r rid.RID) string {
	const most = 200
	if len(r) > most {
		return string(r[:most]) + "…"
	}
	return string(r)
}
