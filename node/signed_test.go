package node_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/koi-net/koi-operator/node"
	"github.com/koi-net/koi-operator/node/admin/client"
	"github.com/koi-net/koi-operator/node/identity"
	"github.com/koi-net/koi-operator/node/nodetest"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

func unsigned(c *node.Config)     { c.Unsigned = true }
func denyUnsigned(c *node.Config) { c.UnsignedPeers = node.UnsignedDeny }

// verified waits until the member holds a node's profile as that node's own word.
func verified(t *testing.T, m *nodetest.Member, r rid.RID) {
	t.Helper()
	nodetest.Eventually(t, m.Name+" holds the word of "+string(r), func() (bool, string) {
		list, err := m.Admin.Nodes(t.Context())
		if err != nil {
			return false, err.Error()
		}
		for _, n := range list {
			if n.RID == r {
				return n.Verified, n.LastError
			}
		}
		return false, "not known"
	})
}

// With unsigned bodies denied everywhere, whatever comes to pass is signed.
func TestNetOfSignedNodes(t *testing.T) {
	for _, kind := range []string{"full", "partial"} {
		t.Run(kind, func(t *testing.T) {
			f := nodetest.NewFleet(t)
			coord := f.Start("coordinator", coordinator, denyUnsigned)
			sens := f.Start("sensor", sensor(coord), denyUnsigned)
			opts := []node.Option{reader(coord), denyUnsigned}
			if kind == "partial" {
				opts = append(opts, partial)
			}
			read := f.Start("reader", opts...)
			read.WaitEdge(sens.RID(), read.RID(), protocol.Approved)
			sens.Put(note(1), `{"text":"signed","n":1e16}`)
			read.WaitBundle(note(1), `{"text":"signed","n":1e+16}`)
			verified(t, read, sens.RID())
			verified(t, sens, coord.RID())
			sens.Forget(note(1))
			read.WaitForgotten(note(1))
		})
	}
}

// Nodes of both generations live under a coordinator of either; two with keys
// find each other, and believe each other's own word alone.
func TestMixedGenerations(t *testing.T) {
	for name, under := range map[string]node.Option{
		"under a signed coordinator":    func(*node.Config) {},
		"under an unsigned coordinator": unsigned,
	} {
		t.Run(name, func(t *testing.T) {
			f := nodetest.NewFleet(t)
			coord := f.Start("coordinator", coordinator, under)
			sens := f.Start("sensor", sensor(coord))
			old := f.Start("old", sensor(coord), unsigned)
			read := f.Start("reader", reader(coord))
			oldReader := f.Start("old-reader", reader(coord), unsigned)
			pairs := 0
			for _, source := range []*nodetest.Member{sens, old} {
				for _, target := range []*nodetest.Member{read, oldReader} {
					source.WaitEdge(source.RID(), target.RID(), protocol.Approved)
					target.WaitEdge(source.RID(), target.RID(), protocol.Approved)
					pairs++
					r := note(pairs)
					source.Put(r, `{"text":"from `+source.Name+`"}`)
					target.WaitBundle(r, `{"text":"from `+source.Name+`"}`)
				}
			}
			verified(t, read, sens.RID())
		})
	}
}

// stranger is a node that the test plays itself.
type stranger struct {
	t  *testing.T
	id identity.Identity
}

func newStranger(t *testing.T, name string) stranger {
	t.Helper()
	id, err := identity.Generate(name, false)
	if err != nil {
		t.Fatal(err)
	}
	return stranger{t, id}
}

func (s stranger) event(kind protocol.EventType, r rid.RID, contents string) protocol.Event {
	s.t.Helper()
	e := protocol.Event{RID: r, EventType: kind}
	if contents != "" {
		b, err := protocol.NewBundle(r, protocol.NewTimestamp(time.Now()), []byte(contents))
		if err != nil {
			s.t.Fatal(err)
		}
		e.Manifest, e.Contents = &b.Manifest, b.Contents
	}
	return e
}

func (s stranger) introduction() protocol.Event {
	p := protocol.NodeProfile{NodeType: protocol.Partial, PublicKey: s.id.PublicKeyText()}
	return s.event(protocol.New, s.id.RID, string(p.Contents()))
}

func (s stranger) seal(to rid.RID, events ...protocol.Event) []byte {
	s.t.Helper()
	body, err := protocol.EncodeEnvelope(protocol.EventsPayload(events), s.id.RID, to, protocol.FloatsCurrent, s.id.Sign)
	if err != nil {
		s.t.Fatal(err)
	}
	return body
}

// sendBody sends a body and returns status and answer.
func sendBody(t *testing.T, m *nodetest.Member, path string, body []byte) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, m.URL()+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	res, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(text)
}

// mustPost sends a body and waits until what it says is processed, so that its
// sender is known to what comes next.
func (m memberPoster) mustPost(path string, body []byte) {
	m.t.Helper()
	if code, text := sendBody(m.t, m.Member, path, body); code != http.StatusOK {
		m.t.Fatalf("POST %s: %d %s", path, code, text)
	}
	if err := m.Flush(m.t.Context()); err != nil {
		m.t.Fatal(err)
	}
}

type memberPoster struct {
	*nodetest.Member
	t *testing.T
}

// A body that was accepted once does nothing when somebody sends it again, not
// even after a restart: a FORGET would delete what came after it.
func TestReplayedBodyHasNoEffect(t *testing.T) {
	f := nodetest.NewFleet(t)
	m := memberPoster{f.Start("node"), t}
	s := newStranger(t, "stranger")
	const path = "/events/broadcast"
	m.mustPost(path, s.seal(m.RID(), s.introduction(), s.event(protocol.New, note(1), `{"n":1}`)))
	m.WaitBundle(note(1), `{"n":1}`)
	forget := s.seal(m.RID(), s.event(protocol.Forget, note(1), ""))
	m.mustPost(path, forget)
	m.WaitForgotten(note(1))
	m.mustPost(path, s.seal(m.RID(), s.event(protocol.New, note(1), `{"n":2}`)))
	m.WaitBundle(note(1), `{"n":2}`)
	check := func(when string) {
		t.Helper()
		m.mustPost(path, forget)
		if _, err := m.Bundle(t.Context(), note(1)); err != nil {
			t.Errorf("%s the replayed FORGET had an effect: %v", when, err)
		}
	}
	check("at once")
	m.Member = m.Restart()
	check("after a restart")
	// Signed anew, the same words count.
	m.mustPost(path, s.seal(m.RID(), s.event(protocol.Forget, note(1), "")))
	m.WaitForgotten(note(1))
}

func TestUnsignedWordAboutKeyedNodeIsDropped(t *testing.T) {
	f := nodetest.NewFleet(t)
	m := memberPoster{f.Start("node"), t}
	s := newStranger(t, "stranger")
	m.mustPost("/events/broadcast", s.seal(m.RID(), s.introduction(), s.event(protocol.New, note(1), `{"n":1}`)))
	m.WaitBundle(note(1), `{"n":1}`)
	var rows [][]byte
	for _, e := range []protocol.Event{
		s.event(protocol.Forget, s.id.RID, ""), s.event(protocol.Forget, note(1), ""), s.event(protocol.New, note(2), `{"n":2}`),
	} {
		rows = append(rows, protocol.AppendEvent(nil, e))
	}
	m.mustPost("/events/broadcast", protocol.EncodeBroadcast(rows))
	m.WaitBundle(note(2), `{"n":2}`) // the rest of the batch is taken
	for _, r := range []rid.RID{s.id.RID, note(1)} {
		if _, err := m.Bundle(t.Context(), r); err != nil {
			t.Errorf("%s: %v", r, err)
		}
	}
	if code, text := sendBody(t, m.Member, "/events/poll", []byte(`{"rid":"`+string(s.id.RID)+`","limit":0}`)); code != 400 || !strings.Contains(text, "unknown_node") {
		t.Errorf("unsigned poll for a node with a key: %d %s", code, text)
	}
}

func TestDenyUnsigned(t *testing.T) {
	f := nodetest.NewFleet(t)
	m := f.Start("node", denyUnsigned)
	if code, text := sendBody(t, m, "/events/broadcast", []byte(`{"events":[]}`)); code != http.StatusForbidden || !strings.Contains(text, "signed") {
		t.Errorf("unsigned body: %d %s", code, text)
	}
}

// A node that lost its store knows nobody; those who only wait for its webhooks
// notice, introduce themselves, and have their edge again.
func TestPeerThatForgotUsIsWonBack(t *testing.T) {
	f := nodetest.NewFleet(t)
	soon := func(c *node.Config) { c.CheckInterval = 200 * time.Millisecond }
	sens := f.Start("sensor", func(c *node.Config) {
		c.Provides = protocol.Provides{Event: []rid.Type{noteType}, State: []rid.Type{noteType}}
	}, soon)
	read := f.Start("reader", reader(sens), soon)
	read.WaitEdge(sens.RID(), read.RID(), protocol.Approved)
	var dir string
	sens = sens.Restart(func(c *node.Config) {
		dir = c.DataDir
		if err := os.Remove(filepath.Join(dir, node.StoreFile)); err != nil {
			t.Fatal(err)
		}
	})
	sens.WaitEdge(sens.RID(), read.RID(), protocol.Approved)
	sens.Put(note(1), `{"text":"again"}`)
	read.WaitBundle(note(1), `{"text":"again"}`)
}

// A changed profile goes to the neighbours as an UPDATE.
func TestChangedProfileIsBroadcast(t *testing.T) {
	f := nodetest.NewFleet(t)
	coord := f.Start("coordinator", coordinator)
	sens := f.Start("sensor", sensor(coord))
	coord.WaitEdge(sens.RID(), coord.RID(), protocol.Approved)
	sens = sens.Restart(func(c *node.Config) { c.Provides.Event = append(c.Provides.Event, "orn:test.more") })
	nodetest.Eventually(t, "the coordinator knows the new profile", func() (bool, string) {
		b, err := coord.Bundle(context.Background(), sens.RID())
		if err != nil {
			return false, err.Error()
		}
		return strings.Contains(string(b.Contents), "orn:test.more"), string(b.Contents)
	})
}

// Somebody who knows a keyed node's URL and RID can introduce us to it by hand.
func TestIntroduceByHand(t *testing.T) {
	f := nodetest.NewFleet(t)
	a, b := f.Start("a", denyUnsigned), f.Start("b", denyUnsigned)
	if _, err := a.Admin.Introduce(t.Context(), client.Introduction{URL: b.URL(), RID: a.RID()}); err == nil {
		t.Error("another node than the one named was taken")
	}
	if _, err := a.Admin.Introduce(t.Context(), client.Introduction{URL: b.URL()}); err != nil {
		t.Fatal(err)
	}
	verified(t, a, b.RID())
	verified(t, b, a.RID())
}
