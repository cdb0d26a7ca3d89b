package contact

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/koi-net/koi-operator/node/graph"
	"github.com/koi-net/koi-operator/node/peer"
	"github.com/koi-net/koi-operator/node/pipeline"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

// bundlesPerFetch keeps one answer well below the size limit of a body for
// contents of ordinary size; the Caller asks in parts where it is not enough.
const bundlesPerFetch = 100

// manifestsPerCheck keeps a question for manifests by RID below the size limit of a
// body, even where each RID is as long as it may be.
const manifestsPerCheck = 5_000

// catchUp compares a provider's state with the cache and takes in what is
// unknown or newer: once on contact, so that the node has something at once,
// and once more after approval, for what was published in between.
func (m *Manager) catchUp(ctx context.Context, n graph.Node, want *protocol.EdgeProfile, st *state) error {
	types, key := m.catchUpTypes(n, want)
	if len(types) == 0 || st.caughtUp == key {
		return nil
	}
	ans, err := m.cfg.Caller.FetchManifests(ctx, Target(n), types, nil)
	if err != nil {
		return fmt.Errorf("fetch the manifests of %s: %w", n.RID, err)
	}
	missing, err := m.unknownOrNewer(ctx, ans.Manifests, types)
	if err != nil {
		return err
	}
	for chunk := range slices.Chunk(missing, bundlesPerFetch) {
		if err := m.fetchBundles(ctx, Target(n), chunk); err != nil {
			return fmt.Errorf("catch up with %s: %w", n.RID, err)
		}
	}
	for chunk := range slices.Chunk(missing, manifestsPerCheck) {
		if err := m.forgottenMeanwhile(ctx, Target(n), chunk); err != nil {
			return fmt.Errorf("catch up with %s: %w", n.RID, err)
		}
	}
	st.caughtUp = key
	if len(missing) > 0 {
		m.log.Debug("caught up", "node", n.RID, "bundles", len(missing))
	}
	return nil
}

// catchUpTypes returns the state of interest and a key that changes when it
// is worth fetching again: with the terms, and with the edge's status.
func (m *Manager) catchUpTypes(n graph.Node, want *protocol.EdgeProfile) ([]rid.Type, string) {
	if want == nil {
		return nil, ""
	}
	var types []rid.Type
	for _, t := range want.RIDTypes {
		if slices.Contains(n.Profile.Provides.State, t) {
			types = append(types, t)
		}
	}
	status := "none"
	if e, ok := m.cfg.Graph.Edge(n.RID, m.cfg.Self); ok {
		status = string(e.Profile.Status) + e.Timestamp.String()
	}
	slices.Sort(types)
	return types, fmt.Sprint(types, status)
}

// unknownOrNewer picks what the cache lacks. What a provider lists beyond the
// types it was asked for is left out.
func (m *Manager) unknownOrNewer(ctx context.Context, list []protocol.Manifest, types []rid.Type) ([]rid.RID, error) {
	var missing []rid.RID
	err := m.cfg.Store.View(ctx, func(tx store.Reader) error {
		for _, theirs := range list {
			if theirs.RID == m.cfg.Self || !slices.Contains(types, theirs.RID.Type()) {
				continue
			}
			ours, err := tx.Manifest(theirs.RID)
			switch {
			case errors.Is(err, store.ErrNotFound), errors.Is(err, store.ErrDamaged):
				missing = append(missing, theirs.RID)
			case err != nil:
				return err
			case ours.SHA256Hash != theirs.SHA256Hash && theirs.Timestamp.Time().After(ours.Timestamp.Time()):
				missing = append(missing, theirs.RID)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("compare manifests: %w", err)
	}
	return missing, nil
}

// fetchBundles takes bundles in, without an event type: state is no news. What
// was not asked for is left out.
func (m *Manager) fetchBundles(ctx context.Context, t peer.Target, rids []rid.RID) error {
	ans, err := m.cfg.Caller.FetchBundles(ctx, t, rids)
	if err != nil {
		return err
	}
	objects := make([]pipeline.Object, 0, len(ans.Bundles))
	for _, b := range ans.Bundles {
		if !slices.Contains(rids, b.Manifest.RID) {
			continue
		}
		objects = append(objects, pipeline.FromBundle(m.source(t), b))
	}
	return m.cfg.Knowledge.Submit(ctx, objects...)
}

// forgottenMeanwhile forgets, of what was taken in, what its provider has forgotten
// since it gave it: its FORGET may have come before what was fetched was taken in,
// and told nothing then. One that comes from now on comes after it.
func (m *Manager) forgottenMeanwhile(ctx context.Context, t peer.Target, taken []rid.RID) error {
	ans, err := m.cfg.Caller.FetchManifests(ctx, t, nil, taken)
	if err != nil {
		return fmt.Errorf("ask what was forgotten meanwhile: %w", err)
	}
	if len(ans.NotFound) == 0 {
		return nil
	}
	asked := make(map[rid.RID]bool, len(taken))
	for _, r := range taken {
		asked[r] = true
	}
	var gone []pipeline.Object
	for _, r := range ans.NotFound {
		if asked[r] {
			asked[r] = false // once, however often it is listed
			gone = append(gone, pipeline.Object{RID: r, EventType: protocol.Forget, Source: m.source(t)})
		}
	}
	if len(gone) == 0 {
		return nil
	}
	return m.cfg.Knowledge.Submit(ctx, gone...)
}
