//go:build interop

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"github.com/koi-net/koi-operator/hack/interop/reference"
	"github.com/koi-net/koi-operator/node/rid"
)

// tableFaults is the table of what a node of the reference does with what
// it should refuse, ignore or wait for.
const tableFaults = "faults of the reference: one thing, and the node"

// What the node does.
const (
	goesOn = "goes on"
	ends   = "ends"
)

// A fault is an event that ends a node of some releases for good. Ours never
// sends one; what is known of each release is asserted, so that a release that
// is mended, or a new fault, shows.
type fault struct {
	name string
	// away: there are no events, but nobody is where the node looks for its first contact.
	away bool
	// events are sent in order, as the node's first contact would.
	events func(self, source rid.RID) []string
	// ends are the releases that it ends.
	ends []string
}

// components are the releases whose worker does not survive an exception.
var components = []string{"1.3.2", "2.1.2"}

func faults() []fault {
	const manifest = `"manifest":{"rid":%q,"timestamp":%q,"sha256_hash":"44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"}`
	event := func(r, timestamp, contents string) string {
		return fmt.Sprintf(`{"rid":%q,"event_type":"NEW",`+manifest+`,"contents":%s}`, r, r, timestamp, contents)
	}
	return []fault{
		{
			name: "a node profile without a key",
			events: func(rid.RID, rid.RID) []string {
				return []string{event("orn:koi-net.node:keyless+0c5e11fd-2e8c-4c3e-a5d5-0b6a8b1f9f0a", "2026-01-01T00:00:00Z", `{"node_type":"PARTIAL","provides":{"event":[],"state":[]}}`)}
			},
			ends: components,
		},
		{
			name: "a time without a zone, after one with a zone",
			events: func(rid.RID, rid.RID) []string {
				return []string{
					event("orn:interop.ours:times", "2026-01-01T00:00:00Z", `{"a":1}`),
					// Another hash, or the node would not look at the time.
					fmt.Sprintf(`{"rid":"orn:interop.ours:times","event_type":"UPDATE","manifest":{"rid":"orn:interop.ours:times","timestamp":"2026-01-02T00:00:00","sha256_hash":"%064d"},"contents":{"a":2}}`, 1),
				}
			},
			ends: components,
		},
		{
			name: "an edge that is no edge",
			events: func(rid.RID, rid.RID) []string {
				return []string{event("orn:koi-net.edge:0000", "2026-01-01T00:00:00Z", `{"source":"nobody"}`)}
			},
			ends: components,
		},
		{
			name: "an event without manifest about an RID that its source has forgotten",
			events: func(_, _ rid.RID) []string {
				return []string{`{"rid":"orn:interop.ours:gone","event_type":"NEW"}`}
			},
			ends: components,
		},
		{
			name:   "nobody at its first contact when it starts",
			away:   true,
			events: func(_, _ rid.RID) []string { return nil },
			ends:   []string{"2.1.2"},
		},
	}
}

func faultRows() []string {
	var out []string
	for _, f := range faults() {
		out = append(out, f.name)
	}
	return out
}

// TestFaults shows what ours has to keep from theirs.
func TestFaults(t *testing.T) {
	needReference(t)
	for _, e := range suite.environments {
		t.Run(e.Release.Version, func(t *testing.T) {
			t.Parallel()
			n := newNet(t, tableFaults, e.Release.Version)
			source := newOurs(n.dir, role{name: "coordinator", full: true, coordinator: true})
			n.join(t, source)
			c := &contact{url: source.url(), rid: source.rid()}
			for i, f := range faults() {
				t.Run(f.name, func(t *testing.T) {
					c := c
					if f.away {
						c = &contact{url: fmt.Sprintf("http://127.0.0.1:%d/koi-net", freePort()), rid: source.rid()}
					}
					m := newTheirs(e, n.dir, role{name: fmt.Sprint("theirs-", i), full: true, interests: []rid.Type{rid.NodeType}, contact: c})
					n.join(t, m)
					if !f.away {
						eventually(t, "theirs knows ours", func(ctx context.Context) (bool, string) { return knows(ctx, m, source) })
					}
					n.suffer(t, m, source.rid(), f, e.Release)
				})
			}
		})
	}
}

// suffer gives a node the events and sees that it ends where that is known, and
// that it still works elsewhere.
func (n *koiNet) suffer(t *testing.T, m *theirs, source rid.RID, f fault, release reference.Release) {
	t.Helper()
	for _, event := range f.events(m.rid(), source) {
		if err := m.Receive(t.Context(), source, json.RawMessage(event)); err != nil {
			t.Logf("%s: %v", event, err) // 1.0 processes it at once, and says what failed
		}
	}
	if slices.Contains(f.ends, release.Version) {
		eventually(t, "the node ends, as is known of it", func(context.Context) (bool, string) { return !m.alive(), "it goes on" })
		n.noted(f.name, ends)
		return
	}
	// What follows shows that the events were dealt with.
	after := note(theirType, "after")
	put(t, m, after, contents)
	has(t, m, after, contents)
	n.noted(f.name, goesOn)
}

// noted notes what was seen without a subtest of its own.
func (n *koiNet) noted(row, what string) { suite.seen.add(n.table, row, n.column, what) }
