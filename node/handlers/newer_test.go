package handlers_test

import (
	"testing"
	"time"

	"github.com/koi-net/koi-operator/node/handlers"
	"github.com/koi-net/koi-operator/node/pipeline"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// The answer of a source whose clock is behind counts, in its own words alone: what
// others relay may be its answer to an earlier proposal.
func TestEarlierAnswerToAProposal(t *testing.T) {
	for name, tt := range map[string]struct {
		from   func(s *signedWorld, source rid.RID) pipeline.Source
		status string
	}{
		"from the source":          {func(_ *signedWorld, source rid.RID) pipeline.Source { return pipeline.Source(source) }, "APPROVED"},
		"relayed by a coordinator": {func(s *signedWorld, _ rid.RID) pipeline.Source { return coord(s) }, "PROPOSED"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSignedWorld(t, nil)
			dora := s.introduce("dora")
			r := rid.NewEdge(dora, s.self)
			s.do(pipeline.Object{RID: r, Contents: between(dora, s.self, protocol.Proposed, protocol.Webhook, notes)})
			s.hears(tt.from(s, dora), protocol.Update, r, between(dora, s.self, protocol.Approved, protocol.Webhook, notes), -time.Hour)
			if got := s.status(dora, s.self); got != tt.status {
				t.Errorf("held: %s, want %s", got, tt.status)
			}
		})
	}
}

// One that comes without its contents is fetched, to be seen for what it is.
func TestEarlierAnswerWithoutContentsIsFetched(t *testing.T) {
	s := newSignedWorld(t, nil)
	dora := s.introduce("dora")
	r := rid.NewEdge(dora, s.self)
	s.do(pipeline.Object{RID: r, Contents: between(dora, s.self, protocol.Proposed, protocol.Webhook, notes)})
	b, err := protocol.NewBundle(r, protocol.NewTimestamp(now.Add(-time.Hour)), between(dora, s.self, protocol.Approved, protocol.Webhook, notes))
	if err != nil {
		t.Fatal(err)
	}
	for from, want := range map[pipeline.Source]string{
		pipeline.Source(dora): pipeline.ReasonNoContents, // it was to be fetched, and nobody fetches here
		coord(s):              handlers.ReasonNotNewer,
	} {
		out := s.do(pipeline.FromEvent(from, protocol.Event{RID: r, EventType: protocol.Update, Manifest: &b.Manifest}))
		if out.Stopped != want {
			t.Errorf("from %s: %+v, want %q", from, out, want)
		}
	}
}
