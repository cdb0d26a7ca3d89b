package node_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"os/exec"
	"path/filepath"
	"regexp"
	"sync"
	"testing"
	"time"

	"github.com/koi-net/koi-operator/node"
	"github.com/koi-net/koi-operator/node/nodetest"
	"github.com/koi-net/koi-operator/node/nodetest/hostile"
	"github.com/koi-net/koi-operator/node/peer"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
	"github.com/koi-net/koi-operator/node/store/bolt"
)

const (
	crashRounds  = 10
	crashSenders = 4
	crashBatch   = 5 // events in a body
	bareType     = noteType + ".bare"
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

// crashRun is what the rounds of a crash test have in common.
type crashRun struct {
	t    *testing.T
	dir  string
	peer *hostile.Peer // who is asked for what was announced without contents

	mu           sync.Mutex
	acknowledged map[rid.RID]string // RID to hash, "" for what was forgotten
	processed    int                // of what a round acknowledged, what was in the cache when the node was killed
	waiting      int                // and what waited in the inbox
}

// What was answered 200 survives SIGKILL, whatever the node was doing: events that
// go into the cache in the transaction that accepts them, and events that wait in
// the inbox, because their contents have to be fetched.
func TestAcknowledgedEventsSurviveSIGKILL(t *testing.T) {
	program := filepath.Join(t.TempDir(), "koi-node")
	if out, err := exec.Command("go", "build", "-o", program, "../cmd/koi-node").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	r := &crashRun{t: t, dir: t.TempDir(), peer: hostile.NewPeer(t, bareType), acknowledged: map[rid.RID]string{}}
	rounds := 0
	for round := range crashRounds {
		d := startDaemon(t, program, r.dir)
		if round == 0 {
			r.introduce(d)
		}
		before := maps.Clone(r.acknowledged)
		r.sendUntilKilled(d, round)
		if len(r.acknowledged) > len(before) {
			rounds++
		}
		r.findAll(before)
	}
	if rounds < crashRounds/2 || r.processed == 0 || r.waiting == 0 {
		t.Fatalf("%d of %d rounds got anything acknowledged, %d events of it into the cache at once, %d into the inbox: the test tests nothing",
			rounds, crashRounds, r.processed, r.waiting)
	}
	t.Logf("%d events acknowledged in %d rounds; when the node was killed %d were processed, %d waited", len(r.acknowledged), crashRounds, r.processed, r.waiting)

	d := startDaemon(t, program, r.dir)
	client := peer.NewClient(peer.ClientConfig{AllowLoopback: func() bool { return true }, Limits: protocol.DefaultLimits()})
	defer client.Close()
	nodetest.Eventually(t, "all acknowledged events are in effect", func() (bool, string) {
		ans, err := client.FetchManifests(t.Context(), peer.Target{URL: d.url}, []rid.Type{noteType, bareType}, nil)
		if err != nil {
			return false, err.Error()
		}
		held := map[rid.RID]string{}
		for _, m := range ans.Manifests {
			held[m.RID] = m.SHA256Hash
		}
		missing := 0
		for r, hash := range r.acknowledged {
			if held[r] != hash {
				missing++
			}
		}
		return missing == 0, fmt.Sprintf("%d of %d missing or different", missing, len(r.acknowledged))
	})
}

// introduce makes the peer known to the node, which remembers it.
func (r *crashRun) introduce(d *daemon) {
	r.t.Helper()
	if err := r.peer.Introduce(r.t.Context(), d.url); err != nil {
		r.t.Fatal(err)
	}
	nodetest.Eventually(r.t, "the node knows the peer", func() (bool, string) {
		a, err := r.peer.Post(r.t.Context(), d.url, hostile.FetchBundles, protocol.EncodeFetchBundles(protocol.FetchBundles{RIDs: []rid.RID{r.peer.RID()}}))
		if err != nil {
			return false, err.Error()
		}
		got, err := protocol.DecodeBundles(a.Body, protocol.DefaultLimits())
		return err == nil && len(got.Bundles) == 1, fmt.Sprintf("%s, %v", a.Body, err)
	})
}

// sendUntilKilled has several senders broadcast while the node is killed at
// some moment, and notes what was acknowledged.
func (r *crashRun) sendUntilKilled(d *daemon, round int) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), nodetest.Timeout)
	defer cancel()
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	var senders sync.WaitGroup
	for sender := range crashSenders {
		senders.Go(func() {
			for i := 0; ; i++ {
				hashes, body := r.body(fmt.Sprintf("%d-%d-%d", round, sender, i), sender == 0)
				if !broadcast(ctx, client, d.url, body) {
					return
				}
				r.mu.Lock()
				for r0, h := range hashes {
					r.acknowledged[r0] = h
				}
				r.mu.Unlock()
			}
		})
	}
	time.AfterFunc(time.Duration(10+rand.IntN(200))*time.Millisecond, func() { _ = d.cmd.Process.Kill() })
	senders.Wait()
	d.kill()
}

// findAll looks at what the kill left: everything acknowledged is in the cache, or
// waits in the inbox.
func (r *crashRun) findAll(before map[rid.RID]string) {
	r.t.Helper()
	st, err := bolt.Open(bolt.Options{Path: filepath.Join(r.dir, node.StoreFile)})
	if err != nil {
		r.t.Fatal(err)
	}
	defer st.Close()
	if err := st.Check(r.t.Context()); err != nil {
		r.t.Error(err)
	}
	err = st.View(r.t.Context(), func(tx store.Reader) error {
		inbox := map[rid.RID]bool{}
		for row, err := range tx.Inbox(0) {
			if err != nil {
				return err
			}
			inbox[row.RID] = true
		}
		for r0, hash := range r.acknowledged {
			m, err := tx.Manifest(r0)
			switch {
			case inbox[r0]:
				r.waiting++
			case hash == "" && errors.Is(err, store.ErrNotFound):
			case err != nil || m.SHA256Hash != hash:
				r.t.Errorf("%s was acknowledged, and is neither in effect nor in the inbox: %v", r0, err)
			default:
				if _, ok := before[r0]; !ok {
					r.processed++
				}
			}
		}
		return nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
}

// body makes a body of new notes; or, bare, of some that are announced without
// contents, one of which is forgotten at once.
func (r *crashRun) body(id string, bare bool) (map[rid.RID]string, []byte) {
	hashes := map[rid.RID]string{}
	var events [][]byte
	for i := range crashBatch {
		t := noteType
		if bare {
			t = bareType
		}
		b, err := protocol.NewBundle(rid.RID(fmt.Sprintf("%s:%s-%d", t, id, i)), protocol.NewTimestamp(time.Now()), fmt.Appendf(nil, `{"id":"%s-%d"}`, id, i))
		if err != nil {
			r.t.Error(err)
			return nil, nil
		}
		hashes[b.Manifest.RID] = b.Manifest.SHA256Hash
		e := protocol.Event{RID: b.Manifest.RID, EventType: protocol.New, Manifest: &b.Manifest, Contents: b.Contents}
		if bare {
			r.peer.Hold(b)
			e.Contents = nil
		}
		events = append(events, protocol.AppendEvent(nil, e))
		if bare && i == 0 {
			hashes[e.RID] = ""
			events = append(events, protocol.AppendEvent(nil, protocol.Event{RID: e.RID, EventType: protocol.Forget}))
		}
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
