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
}

// Default returns the default handlers in the order in which they have to run.
func Default(o Options) []pipeline.Handler {
	hs := []pipeline.Handler{
		ownKnowledge(o),
		unknownForgotten(),
		newerOnly(o),
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
