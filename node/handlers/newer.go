package handlers

import (
	"context"

	"github.com/koi-net/koi-operator/node/pipeline"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// newerOnly lets through what differs from the cache and is newer. Two things
// pass whatever they are stamped with: a node's own word where only others' is
// held, and the source's own answer to a proposal of ours, or a source whose clock is
// behind could never approve one. What others relay of that has to be newer: it may be
// the answer to an earlier proposal.
func newerOnly() pipeline.Handler {
	return pipeline.Handler{
		Name: "newer-only", Quick: true, Phase: pipeline.PhaseManifest,
		Func: func(_ context.Context, c *pipeline.Context, k *pipeline.Object) error {
			if k.Previous == nil || confirms(c.Self, k) {
				return nil
			}
			held := k.Previous.Bundle.Manifest
			switch {
			case held.SHA256Hash == k.Manifest.SHA256Hash:
				return pipeline.Stop(ReasonUnchanged)
			case answersProposal(c.Self, k):
				return nil
			case !k.Manifest.Timestamp.Time().After(held.Timestamp.Time()):
				return pipeline.Stop(ReasonNotNewer)
			}
			return nil
		},
	}
}

// confirms reports whether an object is a node's own word on what others said
// of it so far.
func confirms(self rid.RID, k *pipeline.Object) bool {
	return k.RID.Type() == rid.NodeType && rid.RID(k.Source) == k.RID && k.Previous != nil && !pipeline.Verified(self, *k.Previous)
}

// answersProposal reports whether an object is the approved form of an edge that
// self has proposed, in the words of its source, or of nobody that can be told. One
// without contents may be: the negotiation sees them, once they are fetched.
func answersProposal(self rid.RID, k *pipeline.Object) bool {
	if k.RID.Type() != rid.EdgeType || !k.Source.External() {
		return false
	}
	ours, err := protocol.ParseEdgeProfile(k.Previous.Bundle.Contents)
	if err != nil || ours.Target != self || ours.Status != protocol.Proposed {
		return false
	}
	if rid.RID(k.Source) != ours.Source && k.Source != pipeline.Unsigned {
		return false
	}
	if k.Contents == nil {
		return true
	}
	theirs, err := protocol.ParseEdgeProfile(k.Contents)
	return err == nil && theirs.Source == ours.Source && theirs.Target == self && theirs.Status == protocol.Approved
}

// notFromTheFuture sets aside what is stamped in the future until its time has
// come: a manifest dated years ahead would freeze its RID.
func notFromTheFuture(o Options) pipeline.Handler {
	return pipeline.Handler{
		Name: "not-from-the-future", Quick: true, Phase: pipeline.PhaseManifest, Origin: pipeline.ExternalOnly,
		Func: func(_ context.Context, c *pipeline.Context, k *pipeline.Object) error {
			if stamped := k.Manifest.Timestamp.Time(); stamped.After(c.Now.Add(o.ClockSkew)) {
				return pipeline.Quarantine(ReasonFromTheFuture, stamped.Add(-o.ClockSkew))
			}
			return nil
		},
	}
}
