package node_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os/exec"
	"path/filepath"
	"regexp"
	"sync"
	"testing"
	"time"

	"github.com/koi-net/koi-operator/node/nodetest"
	"github.com/koi-net/koi-operator/node/peer"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

const (
	crashRounds  = 10
	crashSenders = 4
	crashBatch   = 5 // events in a body
)

var baseURL = regexp.MustCompile(`msg="node up".* baseURL=(\S+)`)

// daemon is a koi-node process.
type daemon struct {
	cmd  *exec.Cmd
	url  string
	done chan struct{} // closed when its log has ended
}

// startDaemon starts the program on dir and waits until it is up.
func startDaemon(t *testing.T, program, dir string) *daemon {
	t.Helper()
	d := &daemon{done: make(chan struct{})}
	d.cmd = exec.Command(program, "run", "--name", "crash", "--data-dir", dir, "--listen", "127.0.0.1:0",
		"--admin-listen", "", "--termination-log", "")
	log, err := d.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.kill)
	up := make(chan string, 1)
	var said bytes.Buffer
	go func() {
		defer close(d.done)
		for s := bufio.NewScanner(log); s.Scan(); {
			if m := baseURL.FindSubmatch(s.Bytes()); m != nil {
				up <- string(m[1])
			}
			said.Write(append(s.Bytes(), '\n'))
		}
		_, _ = io.Copy(io.Discard, log)
	}()
	select {
	case d.url = <-up:
	case <-d.done:
		t.Fatalf("koi-node did not come up on what the crash left:\n%s", said.String())
	case <-time.After(nodetest.Timeout):
		t.Fatal("koi-node did not come up")
	}
	return d
}

// kill is SIGKILL: nothing in the process gets to say goodbye. It may be
// called twice.
func (d *daemon) kill() {
	_ = d.cmd.Process.Kill() // gone already: all the better
	<-d.done
	_ = d.cmd.Wait() // "signal: killed"
}

// What was answered 200 survives SIGKILL, whatever the node was doing.
func TestAcknowledgedEventsSurviveSIGKILL(t *testing.T) {
	program := filepath.Join(t.TempDir(), "koi-node")
	if out, err := exec.Command("go", "build", "-o", program, "../cmd/koi-node").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	dir := t.TempDir()
	acknowledged := map[rid.RID]string{} // RID to hash
	rounds := 0
	for round := range crashRounds {
		d := startDaemon(t, program, dir)
		before := len(acknowledged)
		sendUntilKilled(t, d, round, acknowledged)
		if len(acknowledged) > before {
			rounds++
		}
	}
	if rounds < crashRounds/2 {
		t.Fatalf("only %d of %d rounds got anything acknowledged: the test tests nothing", rounds, crashRounds)
	}
	t.Logf("%d events acknowledged in %d rounds", len(acknowledged), crashRounds)

	d := startDaemon(t, program, dir)
	client := peer.NewClient(peer.ClientConfig{AllowLoopback: func() bool { return true }, Limits: protocol.DefaultLimits()})
	defer client.Close()
	nodetest.Eventually(t, "all acknowledged events are in the cache", func() (bool, string) {
		ans, err := client.FetchManifests(t.Context(), peer.Target{URL: d.url}, []rid.Type{noteType}, nil)
		if err != nil {
			return false, err.Error()
		}
		held := map[rid.RID]string{}
		for _, m := range ans.Manifests {
			held[m.RID] = m.SHA256Hash
		}
		missing := 0
		for r, hash := range acknowledged {
			if held[r] != hash {
				missing++
			}
		}
		return missing == 0, fmt.Sprintf("%d of %d missing or different", missing, len(acknowledged))
	})
}

// sendUntilKilled has several senders broadcast while the node is killed at
// some moment, and notes what was acknowledged.
func sendUntilKilled(t *testing.T, d *daemon, round int, acknowledged map[rid.RID]string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), nodetest.Timeout)
	defer cancel()
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	var mu sync.Mutex
	var senders sync.WaitGroup
	for sender := range crashSenders {
		senders.Go(func() {
			for i := 0; ; i++ {
				hashes, body := crashBody(t, fmt.Sprintf("%d-%d-%d", round, sender, i))
				if !broadcast(ctx, client, d.url, body) {
					return
				}
				mu.Lock()
				for r, h := range hashes {
					acknowledged[r] = h
				}
				mu.Unlock()
			}
		})
	}
	time.AfterFunc(time.Duration(10+rand.IntN(200))*time.Millisecond, func() { _ = d.cmd.Process.Kill() })
	senders.Wait()
	d.kill()
}

// crashBody makes a body of new notes.
func crashBody(t *testing.T, id string) (map[rid.RID]string, []byte) {
	hashes := map[rid.RID]string{}
	events := make([][]byte, 0, crashBatch)
	for i := range crashBatch {
		b, err := protocol.NewBundle(rid.RID(fmt.Sprintf("%s:%s-%d", noteType, id, i)), protocol.NewTimestamp(time.Now()), fmt.Appendf(nil, `{"id":"%s-%d"}`, id, i))
		if err != nil {
			t.Error(err)
			return nil, nil
		}
		hashes[b.Manifest.RID] = b.Manifest.SHA256Hash
		events = append(events, protocol.AppendEvent(nil, protocol.Event{
			RID: b.Manifest.RID, EventType: protocol.New, Manifest: &b.Manifest, Contents: b.Contents,
		}))
	}
	return hashes, protocol.EncodeBroadcast(events)
}

// broadcast reports whether the node acknowledged the body. Its answer counts
// once it was read whole.
func broadcast(ctx context.Context, c *http.Client, url string, body []byte) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/events/broadcast", bytes.NewReader(body))
	if err != nil {
		return false
	}
	res, err := c.Do(req)
	if err != nil {
		return false
	}
	defer func() { _ = res.Body.Close() }()
	_, err = io.Copy(io.Discard, res.Body)
	return err == nil && res.StatusCode == http.StatusOK
}
