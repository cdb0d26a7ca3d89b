package handlers

import (
	"context"

	"github.com/koi-net/koi-operator/node/pipeline"
)

// newerOnly lets through what differs from the cache and is newer, and refuses
// manifests stamped in the future: one dated years ahead would freeze its RID.
func newerOnly(o Options) pipeline.Handler {
	return pipeline.Handler{
		Name: "newer-only", Phase: pipeline.PhaseManifest,
		Func: func(_ context.Context, c *pipeline.Context, k *pipeline.Object) error {
			stamped := k.Manifest.Timestamp.Time()
			if k.Source.External() && stamped.After(c.Now.Add(o.ClockSkew)) {
				return pipeline.Stop(ReasonFromTheFuture)
			}
			if k.Previous == nil {
				return nil
			}
			held := k.Previous.Bundle.Manifest
			switch {
			case held.SHA256Hash == k.Manifest.SHA256Hash:
				return pipeline.Stop(ReasonUnchanged)
			case !stamped.After(held.Timestamp.Time()):
				return pipeline.Stop(ReasonNotNewer)
			}
			return nil
		},
	}
}
