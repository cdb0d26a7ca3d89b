package hostile_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/koi-net/koi-operator/node"
	"github.com/koi-net/koi-operator/node/admin/client"
	"github.com/koi-net/koi-operator/node/nodetest"
	"github.com/koi-net/koi-operator/node/nodetest/hostile"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// What a thousand hostile calls may leave behind, and what they may take meanwhile,
// node and attackers in one process: garbage that was not collected included, and
// under the race detector.
const (
	hostileCalls   = 1000
	heapLeft       = 8 << 20
	heapMeanwhile  = 256 << 20
	goroutinesLeft = 8
)

// heap is what is in use once the garbage is collected.
func heap() uint64 {
	runtime.GC()
	runtime.GC() // what the first one finalized
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// bounded runs what hostile peers do and checks that it leaves nothing behind.
// What it begins with has to have happened once before, or it would count.
func bounded(t *testing.T, attack func()) {
	t.Helper()
	base, routines := heap(), runtime.NumGoroutine()
	var most atomic.Uint64
	stop, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			most.Store(max(most.Load(), m.HeapAlloc))
			select {
			case <-tick.C:
			case <-stop:
				return
			}
		}
	}()
	attack()
	close(stop)
	<-watched
	if m := most.Load(); m > base+heapMeanwhile {
		t.Errorf("meanwhile the heap grew from %d KiB to %d KiB", base>>10, m>>10)
	}
	nodetest.Eventually(t, "the goroutines are gone", func() (bool, string) {
		n := runtime.NumGoroutine()
		if n <= routines+goroutinesLeft {
			return true, ""
		}
		stacks := make([]byte, 1<<16)
		return false, fmt.Sprintf("%d, were %d\n%s", n, routines, stacks[:runtime.Stack(stacks, true)])
	})
	nodetest.Eventually(t, "the memory is given back", func() (bool, string) {
		n := heap()
		return n <= base+heapLeft, fmt.Sprintf("%d KiB, were %d KiB", n>>10, base>>10)
	})
	t.Logf("heap %d KiB before, %d KiB at most, %d KiB after; goroutines %d before, %d after",
		base>>10, most.Load()>>10, heap()>>10, routines, runtime.NumGoroutine())
}

// hurried keeps a node from waiting for anybody, and from leaving anybody alone.
func hurried(c *node.Config) {
	c.RequestTimeout, c.RetryCap, c.PollInterval, c.Limits = 40*time.Millisecond, time.Millisecond, time.Millisecond, small
}

const heldType rid.Type = "orn:hostile.held"

// every calls the peer in all the ways a node does: it delivers to the peer, fetches
// from it, shakes hands with it anew, and, as a partial node, polls it.
type every struct {
	full *nodetest.Member
	peer *hostile.Peer
}

func startEvery(t *testing.T, opts ...node.Option) every {
	t.Helper()
	f := nodetest.NewFleet(t)
	n := f.Start("full", append(opts, node.WithProvides(noteType))...)
	p := hostile.NewPeer(t, heldType)
	p.Pause = 10 * time.Millisecond
	if err := p.Introduce(t.Context(), n.URL()); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Say(t.Context(), n.URL(), hostile.Proposal(n.RID(), p.RID(), time.Now(), noteType)); err != nil {
		t.Fatal(err)
	}
	heard(t, p, protocol.Update, rid.NewEdge(n.RID(), p.RID()))
	f.Start("partial", append(opts, node.AsPartial(), node.WithFirstContact(p.URL()))...)
	return every{n, p}
}

func calls(p *hostile.Peer) (n int) {
	for _, c := range []string{hostile.Broadcast, hostile.Poll, hostile.FetchRIDs, hostile.FetchManifests, hostile.FetchBundles, hostile.Self} {
		n += p.Calls(c)
	}
	return n
}

// press makes calls to the peer until it had n more, each of the ways among them.
func (e every) press(t *testing.T, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), nodetest.Timeout)
	defer cancel()
	goal, began := calls(e.peer)+n, map[string]int{}
	for _, c := range []string{hostile.Broadcast, hostile.Poll, hostile.FetchBundles, hostile.Self} {
		began[c] = e.peer.Calls(c)
	}
	enough := func() bool {
		for c, n := range began {
			if e.peer.Calls(c) == n {
				return false
			}
		}
		return calls(e.peer) >= goal
	}
	var under sync.WaitGroup
	for _, call := range []func(){
		func() { _, _ = e.full.FetchBundle(ctx, "orn:hostile.held:x") },
		func() { _, _ = e.full.Admin.Introduce(ctx, client.Introduction{URL: e.peer.URL()}) },
		func() { _, _ = e.full.Node.Put(ctx, note(e.peer.Calls(hostile.Broadcast)), []byte(`{}`)) },
	} {
		under.Go(func() {
			for tick := time.NewTicker(time.Millisecond); ctx.Err() == nil && !enough(); {
				call()
				select {
				case <-tick.C:
				case <-ctx.Done():
				}
			}
		})
	}
	under.Wait()
	if !enough() {
		t.Errorf("%d calls of %d, in the ways %v", calls(e.peer)+n-goal, n, began)
	}
}

// Whatever peers answer, a thousand times: to deliveries, fetches, handshakes and
// polls.
func TestAThousandHostileAnswers(t *testing.T) {
	e := startEvery(t, hurried)
	all := hostile.Misbehaviours()
	for _, m := range all {
		e.peer.Misbehave(m)
		e.press(t, 4)
	}
	e.peer.Behave()
	before := calls(e.peer)
	bounded(t, func() {
		for _, m := range all {
			e.peer.Misbehave(m)
			e.press(t, hostileCalls/len(all)+1)
		}
		e.peer.Behave()
		r := note(1_000_000)
		e.full.Put(r, `{"after":"all"}`)
		heard(t, e.peer, protocol.New, r)
	})
	if n := calls(e.peer) - before; n < hostileCalls {
		t.Errorf("only %d calls", n)
	}
	if n := e.peer.Trapped(); n != 0 {
		t.Errorf("%d redirects were followed", n)
	}
	if st, err := e.full.Admin.Status(t.Context()); err != nil || !st.Ready {
		t.Errorf("status %+v, %v", st, err)
	}
}

// What is compressed is not looked at, in either direction.
func TestBombsAreNotInflated(t *testing.T) {
	e := startEvery(t)
	b, err := hostile.Honest("orn:hostile.held:x", time.Now(), `{"x":1}`)
	if err != nil {
		t.Fatal(err)
	}
	e.peer.Hold(protocol.Bundle{Manifest: *b.Manifest, Contents: b.Contents})
	e.peer.Misbehave(hostile.GzipBomb)
	if _, err := e.full.FetchBundle(t.Context(), b.RID); err == nil || !strings.Contains(err.Error(), "gzip") {
		t.Errorf("a bomb for an answer: %v", err)
	}
	e.peer.Behave()
	nodetest.Eventually(t, "it is fetched", func() (bool, string) {
		_, err := e.full.FetchBundle(t.Context(), b.RID)
		return err == nil, fmt.Sprint(err)
	})
	if a := assault(t, e.full, "gzip bomb"); !strings.Contains(a, " 415 ") {
		t.Errorf("a bomb for a request is answered %q", a)
	}
}

// address is where a node listens.
func address(t *testing.T, n *nodetest.Member) string {
	t.Helper()
	u, err := url.Parse(n.URL())
	if err != nil {
		t.Fatal(err)
	}
	return u.Host
}

// hits is how long a hostile caller stays.
const hits = 60 * time.Millisecond

// assaults are hostile calls by raw connections; what the node answered is read until
// the caller goes.
var assaults = map[string]func(c net.Conn){
	"drip body":    func(c net.Conn) { request(c, "Content-Length: 1000"); drip(c, `{"events":[`) },
	"drip headers": func(c net.Conn) { drip(c, "POST /koi-net/events/broadcast HTTP/1.1\r\nHost: x\r\nX: ") },
	"endless body": func(c net.Conn) { request(c, "Transfer-Encoding: chunked"); chunks(c, ` `) },
	"endless chunk": func(c net.Conn) {
		request(c, "Transfer-Encoding: chunked")
		send(c, "7fffffffffffffff\r\n")
		spout(c, ' ')
	},
	"huge":            func(c net.Conn) { request(c, "Content-Length: 1099511627776"); spout(c, ' ') },
	"just too large":  func(c net.Conn) { body(c, string(hostile.Oversize(small.BodyBytes))) },
	"too many events": func(c net.Conn) { body(c, string(hostile.TooMany(small.Events+1))) },
	"deep":            func(c net.Conn) { body(c, `{"events":`+strings.Repeat("[", 500_000)) },
	"deep and whole":  func(c net.Conn) { body(c, `{"events":`+strings.Repeat("[", 300_000)+strings.Repeat("]", 300_000)+"}") },
	"gzip bomb": func(c net.Conn) {
		request(c, fmt.Sprintf("Content-Encoding: gzip\r\nContent-Length: %d", len(bombBody)))
		send(c, bombBody)
	},
	"hang after headers":  func(c net.Conn) { request(c, "Content-Length: 100") },
	"hang before headers": func(net.Conn) {},
	"truncated": func(c net.Conn) {
		request(c, "Content-Length: 100")
		send(c, `{"ev`)
		_ = c.(*net.TCPConn).CloseWrite()
	},
	"reset": func(c net.Conn) {
		request(c, "Content-Length: 100")
		_ = c.(*net.TCPConn).SetLinger(0)
		_ = c.Close()
	},
	"header bomb":  func(c net.Conn) { send(c, "POST /koi-net/events/broadcast HTTP/1.1\r\nHost: x\r\nX: "); spout(c, 'x') },
	"many headers": func(c net.Conn) { send(c, "POST /koi-net/events/broadcast HTTP/1.1\r\nHost: x\r\n"); lines(c) },
	"no HTTP":      func(c net.Conn) { send(c, "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"); spout(c, 0) },
	"two lengths":  func(c net.Conn) { request(c, "Content-Length: 2\r\nContent-Length: 3"); send(c, "{}}") },
	"length and chunks": func(c net.Conn) {
		request(c, "Content-Length: 4\r\nTransfer-Encoding: chunked")
		send(c, "1\r\n{\r\n0\r\n\r\n")
	},
	"slow reader": func(c net.Conn) {
		const all = `{"rid_types":[],"rids":[]}`
		_ = c.(*net.TCPConn).SetReadBuffer(4 << 10)
		send(c, fmt.Sprintf("POST /koi-net/manifests/fetch HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(all), all))
		time.Sleep(hits)
		_ = c.Close() // with nearly all of it unread
	},
}

// bombBody is a GiB of blanks.
var bombBody = func() string {
	var member, all bytes.Buffer
	z := gzip.NewWriter(&member)
	_, _ = z.Write(bytes.Repeat([]byte(" "), 1<<20))
	_ = z.Close()
	for range 1024 {
		all.Write(member.Bytes())
	}
	return all.String()[:min(all.Len(), int(small.BodyBytes))]
}()

func send(c net.Conn, text string) { _, _ = io.WriteString(c, text) }

func request(c net.Conn, headers string) {
	send(c, "POST /koi-net/events/broadcast HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"+headers+"\r\n\r\n")
}

func body(c net.Conn, text string) {
	request(c, fmt.Sprintf("Content-Length: %d", len(text)))
	send(c, text)
}

// spout writes a byte as often as it is read.
func spout(c net.Conn, b byte) {
	piece := bytes.Repeat([]byte{b}, 32<<10)
	for {
		if _, err := c.Write(piece); err != nil {
			return
		}
	}
}

func chunks(c net.Conn, text string) {
	piece := fmt.Sprintf("%x\r\n%s\r\n", 4096*len(text), strings.Repeat(text, 4096))
	for {
		if _, err := io.WriteString(c, piece); err != nil {
			return
		}
	}
}

func lines(c net.Conn) {
	for i := 0; ; i++ {
		if _, err := fmt.Fprintf(c, "X-%d: x\r\n", i); err != nil {
			return
		}
	}
}

func drip(c net.Conn, text string) {
	for _, b := range []byte(text) {
		if _, err := c.Write([]byte{b}); err != nil {
			return
		}
		time.Sleep(hits / 20)
	}
}

// assault makes one hostile call and returns the first of what the node answered.
func assault(t *testing.T, n *nodetest.Member, name string) string {
	c, err := net.Dial("tcp", address(t, n))
	if err != nil {
		t.Error(err)
		return ""
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(hits))
	if name == "gzip bomb" || strings.HasPrefix(name, "too ") {
		_ = c.SetDeadline(time.Now().Add(nodetest.Timeout)) // its answer matters
	}
	var first [256]byte
	got, done := 0, make(chan struct{})
	go func() {
		defer close(done)
		got, _ = io.ReadAtLeast(c, first[:], 32)
	}()
	assaults[name](c)
	<-done
	return string(first[:got])
}

// served says whether the node takes a good body, and answers it.
func served(t *testing.T, p *hostile.Peer, n *nodetest.Member, r rid.RID) {
	t.Helper()
	nodetest.Eventually(t, "the node takes a good body", func() (bool, string) {
		a, err := p.Say(t.Context(), n.URL(), honest(t, r, `{"good":1}`))
		return err == nil && a.Status == http.StatusOK, fmt.Sprint(a.Status, err)
	})
	n.WaitBundle(r, `{"good":1}`)
}

// loaded starts a node whose answers are long enough for a reader to be slow.
func loaded(t *testing.T) (*nodetest.Member, *hostile.Peer) {
	t.Helper()
	n := nodetest.NewFleet(t).Start("node", func(c *node.Config) { c.Limits = small; c.ShutdownTimeout = 10 * time.Millisecond })
	p := hostile.NewPeer(t)
	var events []protocol.Event
	for i := range small.Events {
		events = append(events, honest(t, rid.RID(fmt.Sprintf("%s:held-%s-%d", noteType, strings.Repeat("x", 400), i)), `{}`))
	}
	if a, err := p.Say(t.Context(), n.URL(), events...); err != nil || a.Status != http.StatusOK {
		t.Fatalf("answer %d %s (%v)", a.Status, a.Body, err)
	}
	if err := n.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	return n, p
}

// Whatever callers send, a thousand times, twenty side by side.
func TestAThousandHostileCalls(t *testing.T) {
	n, p := loaded(t)
	storm := func(rounds int) {
		var under sync.WaitGroup
		for name := range assaults {
			under.Go(func() {
				for range rounds {
					assault(t, n, name)
				}
			})
		}
		under.Wait()
	}
	storm(2)
	served(t, p, n, note(1))
	held, err := n.Admin.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	bounded(t, func() {
		var under sync.WaitGroup
		under.Go(func() { storm(hostileCalls / len(assaults)) })
		for i := range 10 {
			served(t, p, n, note(100+i)) // meanwhile
		}
		under.Wait()
		served(t, p, n, note(2))
	})
	st, err := n.Admin.Status(t.Context())
	if err != nil || !st.Ready || st.Bundles != held.Bundles+11 || st.Inbox != 0 {
		t.Errorf("status %+v, %v; it held %d bundles", st, err, held.Bundles)
	}
}

// A thousand connections at a time that want nothing, or want it slowly. Those that
// owe it the body of their request are more than the calls it serves side by side,
// those that do not read their answers are fewer.
func TestAThousandConnections(t *testing.T) {
	n, p := loaded(t)
	served(t, p, n, note(1))
	at := address(t, n)
	bounded(t, func() {
		var open []net.Conn
		defer func() {
			for _, c := range open {
				_ = c.Close()
			}
		}()
		for i := range hostileCalls {
			c, err := net.Dial("tcp", at)
			if err != nil {
				t.Fatal(err)
			}
			open = append(open, c)
			switch i % 10 {
			case 0, 5, 6, 7:
				request(c, "Content-Length: 100") // and no body
			case 1:
				_ = c.(*net.TCPConn).SetReadBuffer(4 << 10)
				const all = `{"rid_types":[],"rids":[]}`
				send(c, fmt.Sprintf("POST /koi-net/manifests/fetch HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(all), all)) // and nobody reads
			case 2, 3, 4:
				send(c, "POST /koi-net/events/broadcast HTTP/1.1\r\nHost: x\r\nX-Half")
			}
		}
		for i := range 20 {
			served(t, p, n, note(10+i))
		}
	})
	served(t, p, n, note(2))
}

// A partial node bears it all from who it polls, and has what it missed when that
// behaves.
func TestNodeBearsEveryPolled(t *testing.T) {
	for _, m := range hostile.Misbehaviours() {
		t.Run(string(m), func(t *testing.T) {
			t.Parallel()
			p := hostile.NewPeer(t, noteType)
			p.Pause = 10 * time.Millisecond
			n := nodetest.NewFleet(t).Start("reader", impatient, node.AsPartial(), node.WithFirstContact(p.URL()), node.WithInterests(noteType))
			offered(t, p, n, note(1), `{"offered":1}`)
			p.Misbehave(m)
			before := p.Calls(hostile.Poll)
			nodetest.Eventually(t, "the node polls", func() (bool, string) { return p.Calls(hostile.Poll) > before+2, "" })
			if st, err := n.Admin.Status(t.Context()); err != nil || !st.Ready {
				t.Errorf("status %+v, %v", st, err)
			}
			p.Behave()
			offered(t, p, n, note(2), `{"offered":2}`)
		})
	}
}

// Who announces what it does not give out well holds nobody up, and is asked again
// until it does.
func TestNodeBearsEveryFetched(t *testing.T) {
	for _, m := range hostile.Misbehaviours() {
		t.Run(string(m), func(t *testing.T) {
			t.Parallel()
			n := nodetest.NewFleet(t).Start("node", impatient)
			p := hostile.NewPeer(t, heldType)
			p.Pause = 10 * time.Millisecond
			if err := p.Introduce(t.Context(), n.URL()); err != nil {
				t.Fatal(err)
			}
			n.WaitBundle(p.RID(), string(p.Bundle().Contents))
			held := honest(t, "orn:hostile.held:1", `{"held":1}`)
			p.Hold(protocol.Bundle{Manifest: *held.Manifest, Contents: held.Contents})
			p.Misbehave(m)
			bare := held
			bare.Contents = nil
			if a, err := p.Say(t.Context(), n.URL(), bare); err != nil || a.Status != http.StatusOK {
				t.Fatalf("answer %d (%v)", a.Status, err)
			}
			nodetest.Eventually(t, "the node fetches", func() (bool, string) { return p.Calls(hostile.FetchBundles) > 0, "" })
			served(t, p, n, note(1)) // meanwhile
			p.Behave()
			nodetest.Eventually(t, "the node has it", func() (bool, string) {
				b, err := n.Bundle(t.Context(), held.RID)
				if err == nil {
					return string(b.Contents) == `{"held":1}`, string(b.Contents)
				}
				if st, err := n.Admin.Status(t.Context()); err != nil || st.Inbox > 0 {
					return false, fmt.Sprintf("%d objects wait (%v)", st.Inbox, err)
				}
				// It gave up: what is announced anew is fetched anew.
				_, err = p.Say(t.Context(), n.URL(), bare)
				return false, fmt.Sprint(errors.Join(err))
			})
		})
	}
}
