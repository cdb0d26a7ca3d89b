package node_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/koi-net/koi-operator/node"
	"github.com/koi-net/koi-operator/node/nodetest"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// The ends of the captured conversation.
const (
	capturedCoordinator rid.RID = "orn:koi-net.node:coordinator+2f8beb8c-02bb-452a-9cfd-6720ab9bfa7d"
	capturedPartial     rid.RID = "orn:koi-net.node:partial+0529319c-d7fd-48ac-b65d-6dfc9a497e51"
)

// captured is one request of the reference's partial node and the answer of
// the reference's coordinator.
type captured struct {
	Name, Path, Body, Answer string
}

func readCapture(t *testing.T) []captured {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", "v1.0.0b5.json"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Exchanges []captured }
	if err := json.Unmarshal(raw, &file); err != nil {
		t.Fatal(err)
	}
	return file.Exchanges
}

// post sends a request as the reference does: without a Content-Type.
func post(t *testing.T, url, body string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	answer, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("POST %s: %d %s (%v)", url, res.StatusCode, answer, err)
	}
	return string(answer)
}

// eventsOf reads a poll answer: the events, and of each what a peer acts upon.
func eventsOf(t *testing.T, answer string) (events []protocol.Event, shapes []string) {
	t.Helper()
	var list struct{ Events []json.RawMessage }
	if err := json.Unmarshal([]byte(answer), &list); err != nil {
		t.Fatalf("%s: %v", answer, err)
	}
	for _, raw := range list.Events {
		e, err := protocol.DecodeEvent(raw)
		if err != nil {
			t.Fatalf("%s: %v", raw, err)
		}
		events = append(events, e)
		shape := fmt.Sprintf("%s %s", e.EventType, e.RID)
		if e.RID.Type() == rid.EdgeType {
			p, err := protocol.ParseEdgeProfile(e.Contents)
			if err != nil {
				t.Fatalf("%s: %v", raw, err)
			}
			shape = fmt.Sprintf("%s edge %s to %s %s %s %v", e.EventType, p.Source, p.Target, p.EdgeType, p.Status, p.RIDTypes)
		}
		shapes = append(shapes, shape)
	}
	return events, shapes
}

// A partial node of the reference 1.0.0b5 says to our coordinator, word for
// word, what it said to its own, and hears the same events in the same order.
func TestReferencePartialNodeShakesHands(t *testing.T) {
	identityDir := t.TempDir()
	if err := os.WriteFile(filepath.Join(identityDir, "rid"), []byte(capturedCoordinator+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	coord := nodetest.NewFleet(t).Start("coordinator", coordinator, func(c *node.Config) {
		c.IdentityDir, c.Unsigned = identityDir, true
		// The capture's time, passing slowly: our proposal is to be older than the
		// answer that was captured.
		c.Clock = func() time.Time {
			return time.Date(2026, 11, 22, 5, 20, 2, 0, time.UTC).Add(time.Since(began) / 100)
		}
	})
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	if coord.RID() != capturedCoordinator {
		t.Fatalf("the coordinator is %s", coord.RID())
	}

	var got, want []string
	proposal := map[rid.RID]rid.RID{} // the captured RID of an edge to the one it has here
	for _, e := range readCapture(t) {
		url := coord.URL() + strings.TrimPrefix(e.Path, node.BasePath)
		switch e.Path {
		case node.BasePath + "/events/broadcast":
			body := e.Body
			for theirs, ours := range proposal { // a node answers under the RID a proposal came with
				body = strings.ReplaceAll(body, string(theirs), string(ours))
			}
			if answer := post(t, url, body); answer != e.Answer {
				t.Errorf("%s: answer %q, the reference's %q", e.Name, answer, e.Answer)
			}
		case node.BasePath + "/events/poll":
			theirs, shapes := eventsOf(t, e.Answer)
			want = append(want, shapes...)
			var ours []protocol.Event
			nodetest.Eventually(t, e.Name+" brings as many events", func() (bool, string) {
				events, shapes := eventsOf(t, post(t, url, e.Body))
				ours, got = append(ours, events...), append(got, shapes...)
				return len(got) >= len(want), fmt.Sprint(got)
			})
			for i, their := range theirs {
				if i < len(ours) && their.EventType == protocol.New && their.RID.Type() == rid.EdgeType {
					proposal[their.RID] = ours[i].RID
				}
			}
		case node.BasePath + "/rids/fetch":
			if theirs, ours := ridsOf(t, e.Answer), ridsOf(t, post(t, url, e.Body)); !slices.Equal(ours, theirs) {
				t.Errorf("%s: RIDs %v, the reference's %v", e.Name, ours, theirs)
			}
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("events polled:\n%s\nthe reference's:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if len(want) < 3 {
		t.Fatalf("the capture holds %d events: it is not the one this test was written for", len(want))
	}
	coord.WaitEdge(capturedPartial, capturedCoordinator, protocol.Approved)
	coord.WaitEdge(capturedCoordinator, capturedPartial, protocol.Approved)
}

func ridsOf(t *testing.T, answer string) []rid.RID {
	t.Helper()
	var list struct{ RIDs []rid.RID }
	if err := json.Unmarshal([]byte(answer), &list); err != nil {
		t.Fatalf("%s: %v", answer, err)
	}
	slices.Sort(list.RIDs)
	return list.RIDs
}
