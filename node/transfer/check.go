package transfer

import (
	"errors"
	"net/url"
	"strings"
	"time"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// clockSkew is how far ahead of the clock a manifest may be stamped, as for what
// comes from peers.
const clockSkew = 5 * time.Minute

// Why a bundle that is whole is left out all the same: a node would not take it
// from a peer either.
var (
	errForeignKey  = errors.New("the public key in it is not the one its RID was made from")
	errNoKey       = errors.New("it has no public key, and its RID was made from one")
	errOurURL      = errors.New("it claims this node's base URL")
	errForeignEdge = errors.New("its RID was not made from the ends of the edge")
	errFuture      = errors.New("it is stamped in the future, and would take no change until then")
)

// sound holds a bundle of a node's cache against the rules by which the node
// would take it from a peer.
func sound(b protocol.Bundle, p Plan) error {
	switch b.Manifest.RID.Type() {
	case rid.NodeType:
		return soundNode(b, p)
	case rid.EdgeType:
		_, err := edgeOf(b)
		return err
	}
	return nil
}

func soundNode(b protocol.Bundle, p Plan) error {
	r := b.Manifest.RID
	profile, err := protocol.ParseNodeProfile(b.Contents)
	if err == nil {
		err = profile.Validate()
	}
	switch {
	case err != nil:
		return err
	case !profile.KeyMatches(r):
		return errForeignKey
	case rid.IsKeyed(r) && profile.PublicKey == "":
		return errNoKey
	case r != p.RID && profile.NodeType == protocol.Full && p.Profile.NodeType == protocol.Full && sameURL(profile.BaseURL, p.Profile.BaseURL):
		return errOurURL
	}
	return nil
}

func sameURL(a, b string) bool { return strings.TrimRight(a, "/") == strings.TrimRight(b, "/") }

// edgeOf returns the profile of an edge whose bundle is sound.
func edgeOf(b protocol.Bundle) (protocol.EdgeProfile, error) {
	e, err := protocol.ParseEdgeProfile(b.Contents)
	if err == nil {
		err = e.Validate()
	}
	if err != nil {
		return protocol.EdgeProfile{}, err
	}
	if r := b.Manifest.RID; r != rid.NewEdge(e.Source, e.Target) && r != rid.LegacyEdge(e.Source, e.Target) {
		return protocol.EdgeProfile{}, errForeignEdge
	}
	return e, nil
}

// frozen reports a bundle whose provider could not change it for a long time.
func frozen(b protocol.Bundle, source string, self rid.RID, now time.Time) error {
	if source != string(self) && b.Manifest.Timestamp.Time().After(now.Add(clockSkew)) {
		return errFuture
	}
	return nil
}

func pathOf(base string) string {
	u, err := url.Parse(base)
	if err != nil {
		return ""
	}
	return strings.TrimRight(u.Path, "/")
}
