package contact

import (
	"context"
	"errors"
	"fmt"

	"github.com/koi-net/koi-operator/node/peer"
	"github.com/koi-net/koi-operator/node/pipeline"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

const (
	// maxHints bounds the nodes that are to be asked because of what others said
	// of them; what comes beyond is left to their next mention.
	maxHints = 1000
	// hintAttempts is how often a node is looked for where others say it is.
	hintAttempts = 8
)

// errUnconfirmed marks the failure to reach a node that is known by hearsay.
var errUnconfirmed = errors.New("known from others alone")

// Heard takes note of what others say of a node with a key. It is not believed:
// the node is asked for its own bundle where they say it is, and proves by its
// signature that it is the one.
func (m *Manager) Heard(r rid.RID, p protocol.NodeProfile) {
	if r == m.cfg.Self || p.BaseURL == "" || p.NodeType != protocol.Full {
		return // who cannot be called introduces itself
	}
	m.mu.Lock()
	_, again := m.hints[r]
	room := again || len(m.hints) < maxHints
	if room {
		m.hints[r] = hint{Target: peer.Target{RID: r, URL: p.BaseURL, Key: p.PublicKey}}
	}
	m.mu.Unlock()
	if room {
		m.Poke(r)
	}
}

// Doubted takes note that others forgot a node with a key that we have an edge
// with, as a coordinator of the reference does after four failed calls. It is not
// believed: the node is asked itself, and forgotten only if it does not answer. Or a
// restart would end an edge at one end alone, for which nobody would ever ask again.
func (m *Manager) Doubted(r rid.RID) {
	n, ok := m.cfg.Graph.Node(r)
	if !ok || r == m.cfg.Self {
		return
	}
	m.mu.Lock()
	_, again := m.hints[r]
	room := again || len(m.hints) < maxHints
	if room {
		m.hints[r] = hint{Target: Target(n), doubted: true}
	}
	m.mu.Unlock()
	if room {
		m.Poke(r)
	}
}

// hint is where a node is to be asked for its own word.
type hint struct {
	peer.Target
	doubted bool // others forgot it
}

func (m *Manager) hint(r rid.RID) (hint, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	t, ok := m.hints[r]
	return t, ok
}

func (m *Manager) dropHint(t hint) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.hints[t.RID] == t {
		delete(m.hints, t.RID)
	}
}

// confirmNode asks a node for its own bundle and takes it in as its word. Where
// it does not know us yet, the Caller introduces us on the way.
func (m *Manager) confirmNode(ctx context.Context, t peer.Target) error {
	if !m.cfg.Caller.Signs(t) {
		return nil // there is nothing it could prove
	}
	ans, err := m.cfg.Caller.FetchBundles(ctx, t, []rid.RID{t.RID})
	if err != nil {
		return fmt.Errorf("%w: ask %s who it is: %w", errUnconfirmed, t.RID, err)
	}
	for _, b := range ans.Bundles {
		if b.Manifest.RID == t.RID {
			_, err := m.cfg.Knowledge.Do(ctx, pipeline.FromBundle(pipeline.Source(t.RID), b))
			return err
		}
	}
	return fmt.Errorf("%w: %s does not give out its own bundle", errUnconfirmed, t.RID)
}

// followHint looks for a node where others say it is.
func (m *Manager) followHint(ctx context.Context, r rid.RID, st *state) error {
	t, hinted := m.hint(r)
	if !hinted {
		return nil
	}
	err := m.confirmNode(ctx, t.Target)
	switch {
	case err == nil:
		m.dropHint(t)
		return nil
	case st.attempts < hintAttempts:
		return err
	}
	m.dropHint(t)
	if !t.doubted {
		return nil
	}
	m.log.Info("a node that others forgot does not answer, and is forgotten", "node", r, "error", err)
	_, err = m.cfg.Knowledge.Do(ctx, pipeline.Object{RID: r, EventType: protocol.Forget})
	return err
}
