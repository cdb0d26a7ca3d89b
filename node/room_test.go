package node_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/koi-net/koi-operator/node"
	"github.com/koi-net/koi-operator/node/nodetest"
	"github.com/koi-net/koi-operator/node/peer"
	"github.com/koi-net/koi-operator/node/pipeline"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// call makes one request and returns status and body.
func call(t *testing.T, method, url string, body []byte) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// large is the broadcast of new bundles of 64 KiB.
func large(t *testing.T, from, count int) (body []byte, rids []rid.RID) {
	t.Helper()
	var rows [][]byte
	for n := from; n < from+count; n++ {
		b, err := protocol.NewBundle(note(n), protocol.NewTimestamp(time.Now()), fmt.Appendf(nil, `{"n":%d,"text":"%s"}`, n, strings.Repeat("x", 64<<10)))
		if err != nil {
			t.Fatal(err)
		}
		rids = append(rids, note(n))
		rows = append(rows, protocol.AppendEvent(nil, protocol.Event{RID: note(n), EventType: protocol.New, Manifest: &b.Manifest, Contents: b.Contents}))
	}
	return protocol.EncodeBroadcast(rows), rids
}

// fillUp takes a node until its store is full, and sees that it goes on
// serving, says what is wrong, and is well again by itself when there is room.
func fillUp(t *testing.T, n *nodetest.Member) {
	admin := "http://" + n.AdminAddr().String()
	var taken []rid.RID
	var status int
	var answer string
	for from := 0; from < 5000; from += 4 {
		body, rids := large(t, from, 4)
		if status, answer = call(t, http.MethodPost, n.URL()+"/events/broadcast", body); status != http.StatusOK {
			break
		}
		taken = append(taken, rids...)
	}
	var refusal struct{ Detail string }
	if err := json.Unmarshal([]byte(answer), &refusal); status != http.StatusInsufficientStorage || err != nil || refusal.Detail == "" {
		t.Fatalf("a full store answers %d %s after %d bundles", status, answer, len(taken))
	}
	next := len(taken) + 100
	nodetest.Eventually(t, "/readyz says that the store is full", func() (bool, string) {
		// What has no room for the one may have some for a smaller one.
		next++
		body, rids := large(t, next, 1)
		if status, _ := call(t, http.MethodPost, n.URL()+"/events/broadcast", body); status == http.StatusOK {
			taken = append(taken, rids...)
		}
		status, text := call(t, http.MethodGet, admin+"/readyz", nil)
		return status == http.StatusServiceUnavailable && strings.Contains(text, "store") && strings.Contains(text, "full"), fmt.Sprint(status, text)
	})
	if st, err := n.Admin.Status(t.Context()); err != nil || st.Ready || st.Checks[0].OK || !strings.Contains(st.Checks[0].Message, "enlarge") {
		t.Errorf("status: %+v, %v", st.Checks, err)
	}
	if _, text := call(t, http.MethodGet, admin+"/metrics", nil); !strings.Contains(text, "koi_node_store_full 1") {
		t.Error("the metric does not say that the store is full")
	}
	// Everything accepted is there, and served.
	ans, err := fetchAll(t, n)
	if err != nil || len(ans) != len(taken) {
		t.Fatalf("%d bundles are served, %d were accepted, %v", len(ans), len(taken), err)
	}
	// What takes something away needs no room.
	var rows [][]byte
	for _, r := range taken[:len(taken)/2] {
		rows = append(rows, protocol.AppendEvent(nil, protocol.Event{RID: r, EventType: protocol.Forget}))
	}
	if status, text := call(t, http.MethodPost, n.URL()+"/events/broadcast", protocol.EncodeBroadcast(rows)); status != http.StatusOK {
		t.Fatalf("a full store forgets nothing: %d %s", status, text)
	}
	nodetest.Eventually(t, "the node is ready again, by itself", func() (bool, string) {
		status, text := call(t, http.MethodGet, admin+"/readyz", nil)
		return status == http.StatusOK, fmt.Sprint(status, text)
	})
	body, _ := large(t, 10_000, 1)
	if status, text := call(t, http.MethodPost, n.URL()+"/events/broadcast", body); status != http.StatusOK {
		t.Errorf("there is room, and a broadcast is answered %d %s", status, text)
	}
	if ans, err := fetchAll(t, n); err != nil || len(ans) != len(taken)-len(taken)/2+1 {
		t.Errorf("%d bundles are served, %v", len(ans), err)
	}
}

func fetchAll(t *testing.T, n *nodetest.Member) ([]rid.RID, error) {
	t.Helper()
	client := peer.NewClient(peer.ClientConfig{AllowLoopback: func() bool { return true }, Limits: protocol.DefaultLimits()})
	defer client.Close()
	return client.FetchRIDs(t.Context(), peer.Target{URL: n.URL()}, []rid.Type{noteType})
}

func TestStoreAtItsBound(t *testing.T) {
	fillUp(t, nodetest.NewFleet(t).Start("full", func(c *node.Config) { c.MaxStoreSize = 12 << 20 }))
}

// filled takes a node until its store is full, and returns what it has accepted.
func filled(t *testing.T, n *nodetest.Member) (taken []rid.RID) {
	t.Helper()
	for from := 0; from < 5000; from += 4 {
		body, rids := large(t, from, 4)
		status, text := call(t, http.MethodPost, n.URL()+"/events/broadcast", body)
		if status == http.StatusInsufficientStorage {
			return taken
		}
		if status != http.StatusOK {
			t.Fatal(status, text)
		}
		taken = append(taken, rids...)
	}
	t.Fatal("it is never full")
	return nil
}

// A bound below what is there already, and settings that change the node's profile,
// keep no node from starting: it serves, deletes, and catches up when there is room.
func TestStartBeyondTheBound(t *testing.T) {
	f := nodetest.NewFleet(t)
	n := f.Start("full", func(c *node.Config) { c.MaxStoreSize = 16 << 20 })
	taken := filled(t, n)
	log := new(syncBuffer)
	n = n.Restart(node.WithProvides(noteType), func(c *node.Config) {
		c.MaxStoreSize, c.Logger = 8<<20, slog.New(slog.NewTextHandler(log, nil))
	})
	for _, want := range []string{"--store-max-size", "koi-node compact", "changed profile"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log does not say %q:\n%s", want, log)
		}
	}
	if ans, err := fetchAll(t, n); err != nil || len(ans) != len(taken) {
		t.Fatalf("%d bundles are served, %d were accepted, %v", len(ans), len(taken), err)
	}
	body, _ := large(t, 10_000, 1)
	if status, text := call(t, http.MethodPost, n.URL()+"/events/broadcast", body); status != http.StatusInsufficientStorage {
		t.Errorf("an addition is answered %d %s", status, text)
	}
	var rows [][]byte
	for _, r := range taken[:len(taken)*3/4] {
		rows = append(rows, protocol.AppendEvent(nil, protocol.Event{RID: r, EventType: protocol.Forget}))
	}
	if status, text := call(t, http.MethodPost, n.URL()+"/events/broadcast", protocol.EncodeBroadcast(rows)); status != http.StatusOK {
		t.Fatalf("it forgets nothing: %d %s", status, text)
	}
	nodetest.Eventually(t, "it gives out its new profile", func() (bool, string) {
		b, err := n.Bundle(t.Context(), n.RID())
		return err == nil && strings.Contains(string(b.Contents), string(noteType)), fmt.Sprint(string(b.Contents), err)
	})
	if status, text := call(t, http.MethodPost, n.URL()+"/events/broadcast", body); status != http.StatusOK {
		t.Errorf("there is room, and an addition is answered %d %s", status, text)
	}
}

// syncBuffer takes a log.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// What waits for peers leaves a full store, pushed and polled: that takes away.
func TestFullStoreDelivers(t *testing.T) {
	f := nodetest.NewFleet(t)
	n := f.Start("full", node.WithProvides(noteType), func(c *node.Config) { c.MaxStoreSize = 16 << 20 })
	pushed := f.Start("pushed", node.WithInterests(noteType), node.WithFirstContact(n.URL()))
	polling := f.Start("polling", node.AsPartial(), node.WithInterests(noteType), node.WithFirstContact(n.URL()))
	for _, m := range []*nodetest.Member{pushed, polling} {
		n.WaitEdge(n.RID(), m.RID(), protocol.Approved)
		m.WaitEdge(n.RID(), m.RID(), protocol.Approved)
		m.Stop()
	}
	taken := filled(t, n)
	waiting := func() (rows int) {
		st, err := n.Admin.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, q := range st.Queues {
			rows += q.Rows
		}
		return rows
	}
	if rows := waiting(); rows < 2*len(taken) {
		t.Fatalf("%d events wait, want each of %d twice", rows, len(taken))
	}
	pushed, polling = pushed.Restart(), polling.Restart()
	for _, m := range []*nodetest.Member{pushed, polling} {
		nodetest.Eventually(t, m.Name+" has it all", func() (bool, string) {
			all, err := m.Admin.RIDs(t.Context(), []rid.Type{noteType}, "", 0)
			return err == nil && len(all.RIDs) == len(taken), fmt.Sprint(len(all.RIDs), err)
		})
	}
	nodetest.Eventually(t, "nothing waits any more", func() (bool, string) {
		rows := waiting()
		return rows == 0, fmt.Sprint(rows)
	})
}

func TestVolumeFull(t *testing.T) {
	notRun := t.Skipf
	if os.Getenv("CI") == "true" {
		notRun = t.Fatalf
	}
	if os.Geteuid() != 0 {
		notRun("NOT RUN: mounting a small volume needs root")
	}
	dir := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "mount", "-t", "tmpfs", "-o", "size=16m", "koi-test", dir).CombinedOutput(); err != nil {
		notRun("NOT RUN: no small volume can be mounted: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	fillUp(t, nodetest.NewFleet(t).Start("full", node.WithDataDir(dir)))
}

// A stop lets the work under way end, within its bound.
func TestStopDrains(t *testing.T) {
	for _, c := range []struct {
		name   string
		hold   time.Duration // by the handler
		bound  time.Duration
		stored bool
	}{
		{"work that ends", 300 * time.Millisecond, 10 * time.Second, true},
		{"work that does not", time.Hour, 500 * time.Millisecond, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := lifeConfig(t)
			cfg.ShutdownTimeout = c.bound
			began := make(chan struct{}, 1)
			waits := handler(func(ctx context.Context) error {
				began <- struct{}{}
				select {
				case <-time.After(c.hold):
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			})
			f := nodetest.NewFleet(t)
			n := f.Start("life", node.WithConfig(cfg), node.WithHandlers(waits))
			body, _ := large(t, 1, 1)
			if status, text := call(t, http.MethodPost, n.URL()+"/events/broadcast", body); status != http.StatusOK {
				t.Fatal(status, text)
			}
			<-began
			stop := time.Now()
			n.Stop()
			if took := time.Since(stop); took > c.bound+5*time.Second {
				t.Errorf("the stop took %s", took)
			}
			// What was cut off is on disk, and goes on.
			again := f.Start("life", node.WithConfig(cfg))
			if c.stored {
				if _, err := again.Bundle(t.Context(), note(1)); err != nil {
					t.Error(err)
				}
			}
			nodetest.Eventually(t, "the bundle is there", func() (bool, string) {
				_, err := again.Bundle(t.Context(), note(1))
				return err == nil, fmt.Sprint(err)
			})
		})
	}
}

// handler is a handler of notes that may wait.
func handler(fn func(context.Context) error) pipeline.Handler {
	return pipeline.Handler{
		Name: "waits", Phase: pipeline.PhaseBundle, RIDTypes: []rid.Type{noteType},
		Func: func(ctx context.Context, _ *pipeline.Context, _ *pipeline.Object) error { return fn(ctx) },
	}
}
