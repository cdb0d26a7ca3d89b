package contact

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/koi-net/koi-operator/node/edge"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

// A standing proposal is one that somebody asked for, as opposed to those that
// follow from interests. It outlives restarts and goes before interests.
func proposalKey(source rid.RID) string { return "proposal/" + string(source) }

// Propose makes p a standing proposal and sends it.
func (m *Manager) Propose(ctx context.Context, p protocol.EdgeProfile) error {
	if p.Target != m.cfg.Self {
		return fmt.Errorf("propose: the target of an edge proposes it, and %s is not this node", p.Target)
	}
	p.Status = protocol.Proposed
	if p.EdgeType == "" {
		p.EdgeType = edge.UsualType(m.cfg.Profile().NodeType)
	}
	data, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("propose: %w", err)
	}
	err = m.cfg.Store.Update(ctx, func(tx store.Writer) error { return tx.PutValue(proposalKey(p.Source), data) })
	if err != nil {
		return fmt.Errorf("keep the proposal to %s: %w", p.Source, err)
	}
	m.Accepted(p.Source)
	m.mu.Lock()
	m.state(p.Source).proposedNow = true
	m.mu.Unlock()
	if err := m.propose(ctx, p, nil); err != nil {
		return err
	}
	m.Poke(p.Source)
	return nil
}

// Withdraw ends a standing proposal; interests decide again.
func (m *Manager) Withdraw(ctx context.Context, source rid.RID) error {
	err := m.cfg.Store.Update(ctx, func(tx store.Writer) error { return tx.PutValue(proposalKey(source), nil) })
	if err != nil {
		return fmt.Errorf("withdraw the proposal to %s: %w", source, err)
	}
	return nil
}

func (m *Manager) standingProposal(ctx context.Context, source rid.RID) (*protocol.EdgeProfile, error) {
	var data []byte
	err := m.cfg.Store.View(ctx, func(tx store.Reader) (err error) {
		data, err = tx.Value(proposalKey(source))
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the proposal to %s: %w", source, err)
	}
	var p protocol.EdgeProfile
	if err := json.Unmarshal(data, &p); err != nil {
		return nil, fmt.Errorf("read the proposal to %s: %w", source, err)
	}
	return &p, nil
}
