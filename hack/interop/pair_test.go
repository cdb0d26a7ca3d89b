//go:build interop

package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/koi-net/koi-operator/hack/interop/reference"
	"github.com/koi-net/koi-operator/node/admin/client"
	"github.com/koi-net/koi-operator/node/rid"
)

// tablePair is the table of what is tried outside the nets with a coordinator
// and nodes of both sides.
const tablePair = "one of ours, one of theirs"

const (
	rowPlain   = "our plain node as first contact; edges where somebody asks for them"
	rowManual  = "a person at ours approves their edge, then rejects it"
	rowRefused = "theirs refuses an edge for what it does not provide"
	rowKeyless = "ours without a key: edges and events both ways"
	rowMixed   = "under our coordinator together with 1.0.0b5: alive, and never told of it"
)

var pairRows = []string{rowPlain, rowManual, rowRefused, rowKeyless, rowMixed}

// notTried is what the table says of what has no meaning for a release.
const notTried = "-"

// pair is a node of ours that is no coordinator, and one of theirs whose first contact it is.
type pair struct {
	*koiNet
	ours   *ours
	theirs *theirs
}

func newPair(t *testing.T, e reference.Environment, more ...string) *pair {
	t.Helper()
	p := &pair{koiNet: newNet(t, tablePair, e.Release.Version)}
	// Interested in nothing, neither looks for edges by itself.
	p.ours = newOurs(p.dir, role{name: "ours", full: true, provides: []rid.Type{ourType}}, more...)
	p.join(t, p.ours)
	p.theirs = newTheirs(e, p.dir, role{
		name: "theirs", full: true, provides: []rid.Type{theirType}, contact: &contact{url: p.ours.url(), rid: p.ours.rid()},
	})
	p.join(t, p.theirs)
	return p
}

// TestPair tries what two nodes do without a coordinator.
func TestPair(t *testing.T) {
	needReference(t)
	for _, e := range suite.environments {
		t.Run(e.Release.Version, func(t *testing.T) {
			t.Parallel()
			p := newPair(t, e, "--edge-approval", "Manual")
			if p.try(t, rowPlain, p.plain) {
				p.try(t, rowManual, p.manual)
				if e.Release.Version == "1.2.5" {
					p.tryFault(t, rowRefused, "no answer (TypeError)", p.failsToRefuse)
				} else {
					p.try(t, rowRefused, p.refused)
				}
			}
		})
		t.Run(e.Release.Version+"/keyless", func(t *testing.T) {
			if e.Release.Signed {
				suite.seen.add(tablePair, rowKeyless, e.Release.Version, notTried)
				return // theirs takes no word that is not signed
			}
			t.Parallel()
			p := newPair(t, e, "--unsigned")
			p.try(t, rowKeyless, p.keyless)
		})
		t.Run(e.Release.Version+"/mixed", func(t *testing.T) {
			if !e.Release.Signed {
				suite.seen.add(tablePair, rowMixed, e.Release.Version, notTried)
				return
			}
			t.Parallel()
			mixed(t, e)
		})
	}
}

// plain: theirs introduced itself; ours asks for an edge, and so comes to be known.
func (p *pair) plain(t *testing.T) {
	propose(t, p.ours, p.theirs, theirType)
	approved(t, p.theirs, p.ours)
	put(t, p.theirs, note(theirType, "plain"), contents)
	has(t, p.ours, note(theirType, "plain"), contents)
}

// manual: an edge to theirs waits for a person, who approves it and later rejects it.
func (p *pair) manual(t *testing.T) {
	propose(t, p.theirs, p.ours, ourType)
	status := func(m member, want string) {
		t.Helper()
		eventually(t, fmt.Sprintf("%s has the edge as %q", m.name(), want), func(ctx context.Context) (bool, string) {
			got, err := m.edge(ctx, p.ours.rid(), p.theirs.rid())
			return err == nil && got == want, got + errText(err)
		})
	}
	status(p.ours, "PROPOSED")
	status(p.theirs, "PROPOSED")
	decide := func(verdict string) {
		t.Helper()
		if _, err := p.ours.admin.SetPolicy(t.Context(), client.Policy{Source: p.ours.rid(), Target: p.theirs.rid(), Verdict: verdict}); err != nil {
			t.Fatal(err)
		}
	}
	decide(client.Approve)
	status(p.ours, "APPROVED")
	status(p.theirs, "APPROVED")
	put(t, p.ours, note(ourType, "manual"), contents)
	has(t, p.theirs, note(ourType, "manual"), contents)
	decide(client.Reject)
	status(p.ours, "")
	status(p.theirs, "")
	// Asking again does not help.
	propose(t, p.theirs, p.ours, ourType)
	status(p.theirs, "")
	status(p.ours, "")
}

// refused: theirs answers a proposal for what it does not provide with FORGET.
func (p *pair) refused(t *testing.T) {
	if err := p.ours.propose(t.Context(), p.theirs.rid(), "orn:interop.nobody"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "ours knows that its proposal was refused", func(ctx context.Context) (bool, string) {
		list, err := p.ours.admin.Edges(ctx, true)
		if err != nil {
			return false, err.Error()
		}
		return slices.ContainsFunc(list.Edges, func(e client.Edge) bool { return e.Source == p.theirs.rid() && e.Refused }), fmt.Sprint(list.Edges)
	})
}

// failsToRefuse: 1.2.5 calls a function of its own with an argument that it does not have.
func (p *pair) failsToRefuse(t *testing.T) {
	if err := p.ours.propose(t.Context(), p.theirs.rid(), "orn:interop.nobody"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "theirs fails to refuse", func(context.Context) (bool, string) {
		return strings.Contains(p.theirs.log(), "push() got an unexpected keyword argument 'flush'"), p.theirs.log()
	})
}

// keyless: a node without a key speaks like the releases before signatures.
func (p *pair) keyless(t *testing.T) {
	propose(t, p.ours, p.theirs, theirType)
	approved(t, p.theirs, p.ours)
	propose(t, p.theirs, p.ours, ourType)
	approved(t, p.ours, p.theirs)
	put(t, p.theirs, note(theirType, "keyless"), contents)
	put(t, p.ours, note(ourType, "keyless"), contents)
	has(t, p.ours, note(theirType, "keyless"), contents)
	has(t, p.theirs, note(ourType, "keyless"), contents)
}

// mixed: one event about a node without a key ends a node of some releases, so
// our coordinator keeps the two generations apart; a node of ours hears both.
func mixed(t *testing.T, e reference.Environment) {
	const oldType rid.Type = "orn:interop.old"
	n := newNet(t, tablePair, e.Release.Version)
	coordinator := newOurs(n.dir, role{name: "coordinator", full: true, coordinator: true, interests: []rid.Type{rid.NodeType}})
	n.join(t, coordinator)
	c := &contact{url: coordinator.url(), rid: coordinator.rid(), ours: true}
	us := newOurs(n.dir, role{name: "ours", full: true, provides: []rid.Type{ourType}, interests: []rid.Type{rid.NodeType, theirType, oldType}, contact: c})
	old := func(name string) *theirs {
		return newTheirs(suite.environments[0], n.dir, role{name: name, full: true, provides: []rid.Type{oldType}, interests: []rid.Type{rid.NodeType, ourType}, contact: c})
	}
	full := newTheirs(e, n.dir, role{name: "full", full: true, provides: []rid.Type{theirType}, interests: []rid.Type{rid.NodeType, ourType}, contact: c})
	partial := newTheirs(e, n.dir, role{name: "partial", provides: []rid.Type{theirType}, interests: []rid.Type{rid.NodeType, ourType}, contact: c})
	first, second := old("old"), old("old-too")
	n.try(t, rowMixed, func(t *testing.T) {
		// One is there when the signed nodes arrive, one comes after them.
		n.join(t, us, first)
		n.join(t, full, partial)
		n.join(t, second)
		for _, m := range []member{first, second, full} {
			approved(t, m, us)
		}
		for _, m := range []member{first, second, full, partial} {
			approved(t, us, m)
			approved(t, coordinator, m)
			approved(t, m, coordinator)
		}
		put(t, us, note(ourType, "for-all"), contents)
		for i, m := range []member{first, second, full} {
			r := note([]rid.Type{oldType, oldType, theirType}[i], "from-"+m.name())
			put(t, m, r, contents)
			has(t, us, r, contents)
		}
		for _, m := range []member{first, second, full, partial} {
			has(t, m, note(ourType, "for-all"), contents)
		}
		for _, m := range []*theirs{full, partial} {
			for _, other := range []member{first, second} {
				if known, seen := knows(t.Context(), m, other); known {
					t.Errorf("%s was told of a node without a key: %s", m.name(), seen)
				}
			}
			if !m.alive() {
				t.Errorf("%s has ended", m.name())
			}
		}
	})
}
