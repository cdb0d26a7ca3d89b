package handlers

import (
	"time"

	"github.com/koi-net/koi-operator/node/edge"
	"github.com/koi-net/koi-operator/node/pipeline"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// Reasons for which the default handlers stop an object; they label the metric
// of processed objects.
const (
	ReasonAboutOneself     = "AboutOneself"
	ReasonOwnKnowledge     = "OwnKnowledge"
	ReasonUnknownForgotten = "ForgetOfUnknown"
	ReasonUnchanged        = "Unchanged"
	ReasonNotNewer         = "NotNewer"
	ReasonFromTheFuture    = "FromTheFuture"
	ReasonInvalidProfile   = "InvalidProfile"
	ReasonOurBaseURL       = "ClaimsOurBaseURL"
	ReasonInvalidKey       = "InvalidKey"   // a node's key is missing, or not the one its RID was made from
	ReasonHearsay          = "Hearsay"      // a node with a key, in others' words, or forgotten by them: the node itself is asked
	ReasonNoStanding       = "NoStanding"   // the word of whom it came from does not count for it
	ReasonForeignEdge      = "ForeignEdge"  // an edge's RID was not made from its ends
	ReasonUnsignedPeer     = "UnsignedPeer" // a node without a key, where those are denied
)

// Options are what the default handlers need to know of the node.
type Options struct {
	Self rid.RID
	// Profile is the node's own profile.
	Profile func() protocol.NodeProfile
	// Approval is what happens to proposals that no standing decision covers.
	Approval edge.Policy
	// Coordinator turns the handshake handler on.
	Coordinator bool
	// ClockSkew is how far ahead of our clock a manifest may be stamped.
	ClockSkew time.Duration
	// DenyUnsigned leaves out nodes without a key.
	DenyUnsigned bool
	// Heard, if set, is told what others say of a node with a key, so that the
	// node itself can be asked. It must not block.
	Heard func(r rid.RID, p protocol.NodeProfile)
	// Doubted, if set, is told that others forgot a node with a key that we have an
	// edge with, so that the node itself can be asked. It must not block.
	Doubted func(r rid.RID)
}

// Default returns the default handlers in the order in which they have to run.
func Default(o Options) []pipeline.Handler {
	hs := []pipeline.Handler{
		ownKnowledge(o),
		unknownForgotten(),
		mayForget(o),
		newerOnly(),
		mayChange(),
		notFromTheFuture(o),
		nodeProfile(o),
		edgeProfile(),
		negotiation(o),
		forgetNode(o),
		output(o),
	}
	if o.Coordinator {
		hs = append(hs, handshake(o))
	}
	return hs
}
