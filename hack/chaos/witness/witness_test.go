package witness

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const noteType rid.Type = "orn:test.note"

// pair is a witness and another one that takes the part of a node.
func pair(t *testing.T, unsigned bool, mood func() Mood) (w, other *Witness, n Node) {
	t.Helper()
	var err error
	w, err = New(Config{Name: "w", Unsigned: unsigned, Kind: protocol.Full, State: []rid.Type{noteType}, Mood: mood, Pause: func() time.Duration { return time.Millisecond }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	if other, err = New(Config{Name: "other", Unsigned: unsigned, Kind: protocol.Full}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(other.Close)
	if n, err = other.Ask(t.Context(), w.url); err != nil || n.RID != w.RID() {
		t.Fatalf("%+v, %v", n, err)
	}
	other.know(n)
	known, err := w.Ask(t.Context(), other.url)
	if err != nil {
		t.Fatal(err)
	}
	w.know(known)
	return w, other, n
}

func event(t *testing.T, r rid.RID) protocol.Event {
	t.Helper()
	b, err := protocol.NewBundle(r, protocol.NewTimestamp(time.Now()), []byte(`{"v":1}`))
	if err != nil {
		t.Fatal(err)
	}
	return newEvent(b)
}

func TestWritesDownAndGivesOut(t *testing.T) {
	for name, unsigned := range map[string]bool{"unsigned": true, "signed": false} {
		t.Run(name, func(t *testing.T) {
			w, other, n := pair(t, unsigned, nil)
			e := event(t, "orn:test.note:1")
			if err := other.Broadcast(t.Context(), n, e, protocol.Event{RID: "orn:test.note:2", EventType: protocol.Forget}); err != nil {
				t.Fatal(err)
			}
			w.Trouble("it is killed")
			log, err := w.Take()
			if err != nil || len(log) != 2 || len(log[0].Events) != 2 || log[0].Events[0].RID != e.RID || log[0].At.IsZero() || log[1].Trouble != "it is killed" {
				t.Errorf("%+v, %v", log, err)
			}
			if log, err := w.Take(); err != nil || len(log) != 0 {
				t.Errorf("taken twice: %+v, %v", log, err)
			}
			w.Hold(protocol.Bundle{Manifest: *e.Manifest, Contents: e.Contents})
			bundles, err := other.Bundles(t.Context(), n, []rid.RID{e.RID, "orn:test.note:2"})
			if err != nil || len(bundles) != 1 || string(bundles[0].Contents) != `{"v":1}` {
				t.Errorf("%+v, %v", bundles, err)
			}
			manifests, err := other.Manifests(t.Context(), n, []rid.Type{noteType}, nil)
			if err != nil || len(manifests) != 1 {
				t.Errorf("%+v, %v", manifests, err)
			}
			w.Empty()
			if bundles, err := other.Bundles(t.Context(), n, []rid.RID{e.RID}); err != nil || len(bundles) != 0 {
				t.Errorf("%+v, %v", bundles, err)
			}
		})
	}
}

func TestMoods(t *testing.T) {
	var mood atomic.Int64
	w, other, n := pair(t, true, func() Mood { return Mood(mood.Load()) })
	for _, c := range []struct {
		mood            Mood
		taken, troubled bool // written down, and disturbed
	}{{Well, true, false}, {Slow, true, false}, {Refuse, true, true}, {HangUp, true, true}, {Reset, false, true}} {
		mood.Store(int64(c.mood))
		err := other.Broadcast(t.Context(), n, event(t, "orn:test.note:1"))
		var status *StatusError
		if (err != nil) != c.troubled || (c.mood == Refuse) != errors.As(err, &status) || status != nil && status.Code != http.StatusServiceUnavailable {
			t.Errorf("mood %d is answered %v", c.mood, err)
		}
		log, err := w.Take()
		taken, troubled := false, false
		for _, e := range log {
			taken, troubled = taken || len(e.Events) > 0, troubled || e.Trouble != ""
		}
		if err != nil || taken != c.taken || troubled != c.troubled {
			t.Errorf("mood %d: %+v, %v", c.mood, log, err)
		}
	}
}

func TestEdges(t *testing.T) {
	w, other, n := pair(t, true, nil)
	source := other.RID()
	say := func(status protocol.EdgeStatus, target rid.RID) {
		t.Helper()
		p := protocol.EdgeProfile{Source: source, Target: target, EdgeType: protocol.Webhook, Status: status, RIDTypes: []rid.Type{noteType}}
		b, err := protocol.NewBundle(rid.NewEdge(source, target), protocol.NewTimestamp(time.Now()), p.Contents())
		if err == nil {
			err = other.Broadcast(t.Context(), n, newEvent(b))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	say(protocol.Approved, "orn:koi-net.node:x+1")
	if s := w.Status(source); s != "" {
		t.Errorf("another's edge: %s", s)
	}
	say(protocol.Approved, w.RID())
	edge := rid.NewEdge(source, w.RID())
	if b, err := other.Bundles(t.Context(), n, []rid.RID{edge}); err != nil || len(b) != 1 || w.Status(source) != protocol.Approved {
		t.Errorf("%s, %+v, %v", w.Status(source), b, err)
	}
	if err := other.Broadcast(t.Context(), n, protocol.Event{RID: edge, EventType: protocol.Forget}); err != nil || w.Status(source) != "" {
		t.Errorf("%s, %v", w.Status(source), err)
	}
}

func TestIsNotToldLies(t *testing.T) {
	w, other, n := pair(t, false, nil)
	stranger, err := New(Config{Name: "stranger", Kind: protocol.Partial})
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	if err := stranger.Broadcast(t.Context(), n, event(t, "orn:test.note:1")); err == nil {
		t.Error("a stranger's word was taken")
	}
	if _, err := w.Take(); err == nil || !strings.Contains(err.Error(), "not known here") {
		t.Error(err)
	}
	other.cfg.Unsigned = true
	_ = other.Broadcast(t.Context(), n, event(t, "orn:test.note:1"))
	if _, err := w.Take(); err == nil || !strings.Contains(err.Error(), "without a signature") {
		t.Error(err)
	}
}

func TestNobodyThere(t *testing.T) {
	w, err := New(Config{Name: "w", Kind: protocol.Partial})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var status *StatusError
	if err := w.Broadcast(ctx, Node{URL: "http://127.0.0.1:1/koi-net", RID: "orn:koi-net.node:x+1"}); err == nil || errors.As(err, &status) {
		t.Errorf("nobody answered %v", err)
	}
}
