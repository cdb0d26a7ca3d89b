package node_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/koi-net/koi-operator/node"
	"github.com/koi-net/koi-operator/node/admin/client"
	"github.com/koi-net/koi-operator/node/edge"
	"github.com/koi-net/koi-operator/node/identity"
	"github.com/koi-net/koi-operator/node/nodetest"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const noteType rid.Type = "orn:test.note"

func note(i int) rid.RID { return rid.RID(fmt.Sprintf("%s:%d", noteType, i)) }

func coordinator(c *node.Config) { c.Coordinator = true }

func sensor(first *nodetest.Member) func(*node.Config) {
	return func(c *node.Config) {
		c.Provides = protocol.Provides{Event: []rid.Type{noteType}, State: []rid.Type{noteType}}
		c.FirstContact = first.URL()
	}
}

func reader(first *nodetest.Member) func(*node.Config) {
	return func(c *node.Config) {
		c.Interests = []rid.Type{rid.NodeType, noteType}
		c.FirstContact = first.URL()
	}
}

func partial(c *node.Config) { c.Partial = true }

// The net of the samples: a sensor and a reader find each other by way of a
// coordinator and no other configuration.
func TestReaderFindsSensorThroughCoordinator(t *testing.T) {
	for _, kind := range []string{"full", "partial"} {
		t.Run(kind, func(t *testing.T) {
			f := nodetest.NewFleet(t)
			coord := f.Start("coordinator", coordinator)
			sens := f.Start("sensor", sensor(coord))
			sens.Put(note(1), `{"text":"before"}`)
			opts := []node.Option{reader(coord)}
			if kind == "partial" {
				opts = append(opts, partial)
			}
			read := f.Start("reader", opts...)

			read.WaitBundle(note(1), `{"text":"before"}`) // state, by catching up
			for _, m := range []*nodetest.Member{sens, read} {
				m.WaitEdge(sens.RID(), read.RID(), protocol.Approved)
			}
			coord.WaitEdge(sens.RID(), coord.RID(), protocol.Approved)
			coord.WaitEdge(read.RID(), coord.RID(), protocol.Approved)
			coord.WaitEdge(coord.RID(), read.RID(), protocol.Approved)

			sens.Put(note(2), `{"text":"after"}`) // events, by the edge
			read.WaitBundle(note(2), `{"text":"after"}`)
			sens.Put(note(2), `{"text":"changed"}`)
			read.WaitBundle(note(2), `{"text":"changed"}`)
			if err := sens.Admin.Forget(t.Context(), note(2)); err != nil {
				t.Fatal(err)
			}
			read.WaitForgotten(note(2))
		})
	}
}

func TestRestartKeepsCacheIdentityAndEdges(t *testing.T) {
	f := nodetest.NewFleet(t)
	coord := f.Start("coordinator", coordinator)
	sens := f.Start("sensor", sensor(coord))
	read := f.Start("reader", reader(coord), partial)
	sens.Put(note(1), `{"n":1}`)
	read.WaitBundle(note(1), `{"n":1}`)
	read.WaitEdge(sens.RID(), read.RID(), protocol.Approved)

	before := read.RID()
	read.Stop()
	sens.Put(note(2), `{"n":2}`) // waits for the reader in the poll queue
	sens = sens.Restart()        // which outlives the sensor's restart
	read = read.Restart()
	if read.RID() != before {
		t.Fatalf("RID after restart: %s, before: %s", read.RID(), before)
	}
	read.WaitBundle(note(1), `{"n":1}`)
	read.WaitBundle(note(2), `{"n":2}`)
	sens.Put(note(3), `{"n":3}`)
	read.WaitBundle(note(3), `{"n":3}`)
	read.WaitEdge(sens.RID(), read.RID(), protocol.Approved)
}

func TestWebhookWaitsForTargetThatIsDown(t *testing.T) {
	f := nodetest.NewFleet(t)
	coord := f.Start("coordinator", coordinator)
	sens := f.Start("sensor", sensor(coord))
	read := f.Start("reader", reader(coord))
	read.WaitEdge(sens.RID(), read.RID(), protocol.Approved)
	sens.WaitEdge(sens.RID(), read.RID(), protocol.Approved)
	read.Stop()
	for i := range 5 {
		sens.Put(note(i), fmt.Sprintf(`{"n":%d}`, i))
	}
	read = read.Restart()
	for i := range 5 {
		read.WaitBundle(note(i), fmt.Sprintf(`{"n":%d}`, i))
	}
}

func TestManualApproval(t *testing.T) {
	f := nodetest.NewFleet(t)
	coord := f.Start("coordinator", coordinator)
	sens := f.Start("sensor", sensor(coord), func(c *node.Config) { c.EdgeApproval = edge.Manual })
	read := f.Start("reader", reader(coord))

	sens.WaitEdge(sens.RID(), read.RID(), protocol.Proposed)
	policy := client.Policy{Source: sens.RID(), Target: read.RID(), Verdict: client.Approve}
	got, err := sens.Admin.SetPolicy(t.Context(), policy)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.RIDTypes) != 1 || got.RIDTypes[0] != noteType || got.EdgeType != protocol.Webhook {
		t.Errorf("terms taken from the proposal: %+v", got)
	}
	read.WaitEdge(sens.RID(), read.RID(), protocol.Approved)

	policy.Verdict = client.Reject
	if _, err := sens.Admin.SetPolicy(t.Context(), policy); err != nil {
		t.Fatal(err)
	}
	nodetest.Eventually(t, "the reader's proposal is refused", func() (bool, string) {
		e, ok := read.Edge(sens.RID(), read.RID())
		return ok && e.Refused, fmt.Sprint(e)
	})
	if _, ok := sens.Edge(sens.RID(), read.RID()); ok {
		t.Error("the sensor still has the edge it refused")
	}
}

func TestPolicyBeforehandApprovesUnderManual(t *testing.T) {
	f := nodetest.NewFleet(t)
	coord := f.Start("coordinator", coordinator)
	sens := f.Start("sensor", sensor(coord), func(c *node.Config) { c.EdgeApproval = edge.Manual })
	read := f.Start("reader", func(c *node.Config) {
		reader(coord)(c)
		c.Interests = []rid.Type{rid.NodeType}
	})
	_, err := sens.Admin.SetPolicy(t.Context(), client.Policy{
		Source: sens.RID(), Target: read.RID(), Verdict: client.Approve, EdgeType: protocol.Webhook, RIDTypes: []rid.Type{noteType},
	})
	if err != nil {
		t.Fatal(err)
	}
	read.WaitEdge(coord.RID(), read.RID(), protocol.Approved)
	if _, err := read.Admin.Propose(t.Context(), client.Proposal{Source: sens.RID(), SourceURL: sens.URL(), RIDTypes: []rid.Type{noteType}}); err != nil {
		t.Fatal(err)
	}
	read.WaitEdge(sens.RID(), read.RID(), protocol.Approved)
	if err := read.Admin.ForgetEdge(t.Context(), sens.RID(), read.RID()); err != nil {
		t.Fatal(err)
	}
	nodetest.Eventually(t, "the sensor forgot the edge", func() (bool, string) {
		_, ok := sens.Edge(sens.RID(), read.RID())
		return !ok, "still there"
	})
}

func TestLeaveIsForgottenByNeighbours(t *testing.T) {
	f := nodetest.NewFleet(t)
	coord := f.Start("coordinator", coordinator)
	sens := f.Start("sensor", sensor(coord))
	coord.WaitEdge(sens.RID(), coord.RID(), protocol.Approved)
	if err := sens.Admin.Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	coord.WaitForgotten(sens.RID())
	nodetest.Eventually(t, "the edges went with the node", func() (bool, string) {
		_, a := coord.Edge(sens.RID(), coord.RID())
		_, b := coord.Edge(coord.RID(), sens.RID())
		return !a && !b, fmt.Sprint(a, b)
	})
}

// A refused batch leaves no trace, however good its other events are.
func TestRefusedBatchLeavesNoTrace(t *testing.T) {
	f := nodetest.NewFleet(t)
	n := f.Start("node")
	good, err := protocol.NewBundle(note(1), protocol.NewTimestamp(n.Now()), []byte(`{"a":1}`))
	if err != nil {
		t.Fatal(err)
	}
	event := protocol.AppendEvent(nil, protocol.Event{RID: note(1), EventType: protocol.New, Manifest: &good.Manifest, Contents: good.Contents})
	for name, bad := range map[string]string{
		"event type": `{"rid":"orn:test.note:2","event_type":"CHANGED"}`,
		"rid":        `{"rid":"note two","event_type":"NEW"}`,
		"contents":   `{"rid":"orn:test.note:2","event_type":"NEW","contents":[1]}`,
	} {
		t.Run(name, func(t *testing.T) {
			body := fmt.Sprintf(`{"events":[%s,%s]}`, event, bad)
			res, err := http.Post(n.URL()+"/events/broadcast", "application/json", strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = res.Body.Close() }()
			if res.StatusCode != http.StatusUnprocessableEntity {
				t.Fatalf("status %d, want 422", res.StatusCode)
			}
			var detail struct {
				Detail []struct {
					Loc []any
					Msg string
				}
			}
			if err := json.NewDecoder(res.Body).Decode(&detail); err != nil || len(detail.Detail) == 0 || len(detail.Detail[0].Loc) < 3 {
				t.Fatalf("answer %+v (%v) does not say where", detail, err)
			}
			st, err := n.Admin.Status(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if st.Inbox != 0 || st.Bundles != 1 {
				t.Errorf("inbox %d, bundles %d: want 0 and the node's own", st.Inbox, st.Bundles)
			}
		})
	}
}

func TestHashMismatchAndForeignManifestAreDropped(t *testing.T) {
	f := nodetest.NewFleet(t)
	n := f.Start("node")
	b, err := protocol.NewBundle(note(1), protocol.NewTimestamp(n.Now()), []byte(`{"a":1}`))
	if err != nil {
		t.Fatal(err)
	}
	m := b.Manifest
	m.RID = note(9)
	events := []protocol.Event{
		{RID: note(1), EventType: protocol.New, Manifest: &b.Manifest, Contents: []byte(`{"a":2}`)},
		{RID: note(2), EventType: protocol.New, Manifest: &m, Contents: b.Contents},
		{RID: note(3), EventType: protocol.Forget},
		{RID: n.RID(), EventType: protocol.Forget},
	}
	var raw [][]byte
	for _, e := range events {
		raw = append(raw, protocol.AppendEvent(nil, e))
	}
	res, err := http.Post(n.URL()+"/events/broadcast", "", bytes.NewReader(protocol.EncodeBroadcast(raw)))
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusOK {
		t.Fatalf("status %d: one bad event must not hold a queue up", res.StatusCode)
	}
	if err := n.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		if _, err := n.Bundle(t.Context(), note(i)); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%s: %v, want not found", note(i), err)
		}
	}
	if _, err := n.Bundle(t.Context(), n.RID()); err != nil {
		t.Errorf("own bundle after another's FORGET: %v", err)
	}
}

func TestRefusesWhatItCannotUse(t *testing.T) {
	fresh := func(t *testing.T) node.Config {
		cfg := node.DefaultConfig()
		cfg.Name, cfg.DataDir = "n", t.TempDir()
		cfg.Listen, cfg.AdminListen = "127.0.0.1:0", "127.0.0.1:0"
		return cfg
	}
	tests := map[string]struct {
		prepare func(t *testing.T, cfg *node.Config)
		want    error
	}{
		"partial coordinator":  {func(_ *testing.T, c *node.Config) { c.Partial, c.Coordinator = true, true }, node.ErrBadConfig},
		"bad first contact":    {func(_ *testing.T, c *node.Config) { c.FirstContact = "coordinator:8000" }, node.ErrBadConfig},
		"admin unprotected":    {func(_ *testing.T, c *node.Config) { c.AdminListen = ":0" }, node.ErrBadConfig},
		"bad type":             {func(_ *testing.T, c *node.Config) { c.Interests = []rid.Type{"orn:"} }, node.ErrBadConfig},
		"zero-length store":    {emptyStore, store.ErrDamaged},
		"another node's store": {foreignStore, store.ErrForeign},
		"another name":         {otherName, identity.ErrMismatch},
		"lost identity":        {lostIdentity, identity.ErrMismatch},
		"no name":              {func(_ *testing.T, c *node.Config) { c.Name = "" }, node.ErrBadConfig},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			cfg := fresh(t)
			tt.prepare(t, &cfg)
			n, err := node.New(node.WithConfig(cfg))
			if err == nil {
				_ = n.Close()
			}
			if !errors.Is(err, tt.want) {
				t.Fatalf("New: %v, want %v", err, tt.want)
			}
		})
	}
}

func make1(t *testing.T, cfg node.Config) {
	t.Helper()
	n, err := node.New(node.WithConfig(cfg))
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
}

func emptyStore(t *testing.T, cfg *node.Config) {
	make1(t, *cfg)
	if err := os.Truncate(filepath.Join(cfg.DataDir, node.StoreFile), 0); err != nil {
		t.Fatal(err)
	}
}

func foreignStore(t *testing.T, cfg *node.Config) {
	make1(t, *cfg)
	// Another node's identity beside the old store.
	cfg.IdentityDir = t.TempDir()
	id, err := identity.Generate(cfg.Name, false)
	if err == nil {
		err = identity.Save(cfg.IdentityDir, id)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func lostIdentity(t *testing.T, cfg *node.Config) {
	make1(t, *cfg)
	dir := filepath.Join(cfg.DataDir, "identity")
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := os.Lstat(dir); err == nil {
			t.Error("a new identity was written")
		}
	})
}

func otherName(t *testing.T, cfg *node.Config) {
	make1(t, *cfg)
	cfg.Name = "other"
}

func TestPortsAndStatus(t *testing.T) {
	f := nodetest.NewFleet(t)
	n := f.Start("solo", func(c *node.Config) { c.ConfigHash = "abc" })
	st, err := n.Admin.Status(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if !st.Ready || st.RID != n.RID() || st.ConfigHash != "abc" || st.StoreID == "" || st.PublicKey == "" {
		t.Errorf("status: %+v", st)
	}
	if !strings.HasPrefix(st.BaseURL, "http://127.0.0.1:") || !strings.HasSuffix(st.BaseURL, node.BasePath) {
		t.Errorf("base URL %q", st.BaseURL)
	}
	res, err := http.Get(n.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	var own protocol.Bundle
	if err := json.NewDecoder(res.Body).Decode(&own); err != nil || own.Manifest.RID != n.RID() {
		t.Errorf("GET base URL: %+v, %v", own, err)
	}
}
