package peer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
	"github.com/koi-net/koi-operator/node/store/bolt"
)

const (
	peerA rid.RID = "orn:koi-net.node:a+1"
	peerB rid.RID = "orn:koi-net.node:b+1"
)

func openStore(t *testing.T, path string) store.Store {
	t.Helper()
	s, err := bolt.Open(bolt.Options{Path: path, NodeRID: "orn:koi-net.node:self+1", Create: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func newStore(t *testing.T) store.Store { return openStore(t, filepath.Join(t.TempDir(), "koi.db")) }

// queue puts one event for each of the references into a peer's queue.
func queue(t *testing.T, s store.Store, q store.Queue, peer rid.RID, refs ...string) {
	t.Helper()
	queueAt(t, s, q, peer, time.Now(), refs...)
}

func queueAt(t *testing.T, s store.Store, q store.Queue, peer rid.RID, at time.Time, refs ...string) {
	t.Helper()
	err := s.Update(context.Background(), func(w store.Writer) error {
		for _, ref := range refs {
			r := rid.RID("orn:t:" + ref)
			if _, err := w.Enqueue(q, []rid.RID{peer}, store.QueueRow{RID: r, Event: testEvent(r), Queued: at}, store.QueueLimits{}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func rows(t *testing.T, s store.Store, q store.Queue, peer rid.RID) int {
	t.Helper()
	var stats store.QueueStats
	err := s.View(context.Background(), func(r store.Reader) (err error) {
		stats, err = r.QueueStats(q, peer)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return stats.Rows
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("still not: %s", what)
		}
	}
}

// receiver is a peer that records the events it takes.
type receiver struct {
	*httptest.Server
	mu       sync.Mutex
	answer   func(refs []string) (status int, body string) // nil: takes all
	taken    []string
	batches  []int
	requests int
	inFlight int
	most     int // in flight at once
}

func newReceiver(t *testing.T, answer func([]string) (int, string)) *receiver {
	t.Helper()
	r := &receiver{answer: answer}
	r.Server = httptest.NewServer(r)
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, _ := io.ReadAll(req.Body)
	events, err := protocol.DecodeBroadcast(body, protocol.DefaultLimits())
	if err != nil {
		w.WriteHeader(422)
		return
	}
	var refs []string
	for _, e := range events {
		refs = append(refs, e.RID.Reference())
	}
	r.mu.Lock()
	r.requests++
	r.inFlight++
	r.most = max(r.most, r.inFlight)
	answer := r.answer
	r.mu.Unlock()
	status, text := 200, "null"
	if answer != nil {
		status, text = answer(refs)
	}
	r.mu.Lock()
	r.inFlight--
	if status == 200 {
		r.taken = append(r.taken, refs...)
		r.batches = append(r.batches, len(refs))
	}
	r.mu.Unlock()
	w.WriteHeader(status)
	io.WriteString(w, text)
}

func (r *receiver) set(answer func([]string) (int, string)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = answer
}

func (r *receiver) has() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.taken)
}

func (r *receiver) asked() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.requests
}

// directory is a Directory that tests change.
type directory struct {
	mu   sync.Mutex
	urls map[rid.RID]string
}

func (d *directory) Target(r rid.RID) (Target, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	u, ok := d.urls[r]
	return Target{RID: r, URL: u}, ok
}

func (d *directory) set(r rid.RID, url string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.urls == nil {
		d.urls = map[rid.RID]string{}
	}
	d.urls[r] = url
}

// start runs a Delivery with short pauses until the test ends.
func start(t *testing.T, c DeliveryConfig) (d *Delivery, stop func()) {
	t.Helper()
	if c.Client == nil {
		c.Client = localClient(t, ClientConfig{Timeout: 5 * time.Second})
	}
	if c.RetryBase == 0 {
		c.RetryBase, c.RetryCap = time.Millisecond, 20*time.Millisecond
	}
	d, err := NewDelivery(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("Run: %v", err)
			}
		})
	}
	t.Cleanup(stop)
	return d, stop
}

func refs(n int) (out []string) {
	for i := range n {
		out = append(out, fmt.Sprintf("%04d", i))
	}
	return out
}

func TestDeliversInOrder(t *testing.T) {
	s, r, dir := newStore(t), newReceiver(t, nil), &directory{}
	dir.set(peerA, r.URL)
	want := refs(250)
	queue(t, s, store.Outbox, peerA, want[:120]...) // found at the start
	d, _ := start(t, DeliveryConfig{Store: s, Directory: dir})
	queue(t, s, store.Outbox, peerA, want[120:]...)
	d.Notify(peerA)
	eventually(t, "all delivered", func() bool { return rows(t, s, store.Outbox, peerA) == 0 })
	if got := r.has(); !slices.Equal(got, want) {
		t.Errorf("taken %v", got)
	}
	if r.most != 1 || slices.Max(r.batches) > DefaultBatchRows {
		t.Errorf("%d requests at once, batches %v", r.most, r.batches)
	}
	if err := d.Settle(context.Background()); err != nil {
		t.Error(err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.peers) != 0 {
		t.Errorf("%d outlets are left of peers without rows", len(d.peers))
	}
}

func TestBatchBytes(t *testing.T) {
	s, r, dir := newStore(t), newReceiver(t, nil), &directory{}
	dir.set(peerA, r.URL)
	queue(t, s, store.Outbox, peerA, refs(10)...)
	one := len(testEvent("orn:t:0000")) + 1
	start(t, DeliveryConfig{Store: s, Directory: dir, BatchBytes: 3 * one})
	eventually(t, "all delivered", func() bool { return rows(t, s, store.Outbox, peerA) == 0 })
	if !slices.Equal(r.batches, []int{3, 3, 3, 1}) {
		t.Errorf("batches %v", r.batches)
	}
	queue(t, s, store.Outbox, peerB, refs(3)...)
	dir.set(peerB, r.URL)
	d, _ := start(t, DeliveryConfig{Store: s, Directory: dir, BatchBytes: 1}) // each is too large, and goes alone
	d.Notify(peerB)
	eventually(t, "all delivered", func() bool { return rows(t, s, store.Outbox, peerB) == 0 })
}

func TestRetries(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		body   string
	}{
		"fault":              {500, "Internal Server Error"},
		"overload":           {503, ""},
		"store full":         {507, `{"detail":"full"}`},
		"too many":           {429, ""},
		"too slow":           {408, ""},
		"not there":          {404, `{"detail":"Not Found"}`},
		"moved":              {307, ""},
		"unknown node":       {400, `{"type":"error_response","error":"unknown_node"}`},
		"another generation": {422, `{"detail":[{"type":"missing","loc":["body","payload"],"msg":"Field required","input":{}}]}`},
	} {
		t.Run(name, func(t *testing.T) {
			s, dir := newStore(t), &directory{}
			r := newReceiver(t, func([]string) (int, string) { return c.status, c.body })
			dir.set(peerA, r.URL)
			queue(t, s, store.Outbox, peerA, "1", "2")
			d, _ := start(t, DeliveryConfig{Store: s, Directory: dir})
			eventually(t, "tried three times", func() bool { return r.asked() >= 3 })
			if n := rows(t, s, store.Outbox, peerA); n != 2 {
				t.Errorf("%d rows are left", n)
			}
			eventually(t, "the failure is told", func() bool { return strings.Contains(d.Health(peerA), fmt.Sprint(c.status)) })
			r.set(nil)
			eventually(t, "delivered", func() bool { return rows(t, s, store.Outbox, peerA) == 0 })
			eventually(t, "healthy again", func() bool { return d.Health(peerA) == "" })
			if got := r.has(); !slices.Equal(got, []string{"1", "2"}) {
				t.Errorf("taken %v", got)
			}
		})
	}
}

// TestBadEventIsFound: a batch that the peer refuses for one event in it loses
// that event alone, whichever way the peer says so.
func TestBadEventIsFound(t *testing.T) {
	for name, answer := range map[string]func(i int) (int, string){
		"422": func(i int) (int, string) {
			return 422, fmt.Sprintf(`{"detail":[{"type":"value_error","loc":["body","events",%d,"contents"],"msg":"no","input":1}]}`, i)
		},
		"422 of broken JSON": func(int) (int, string) {
			return 422, `{"detail":[{"type":"json_invalid","loc":["body",17],"msg":"JSON decode error","input":{}}]}`
		},
		"422 in another shape": func(int) (int, string) { return 422, "no" },
		"400":                  func(int) (int, string) { return 400, `{"detail":"There was an error parsing the body"}` },
		"413":                  func(int) (int, string) { return 413, "" },
	} {
		t.Run(name, func(t *testing.T) {
			s, dir := newStore(t), &directory{}
			bad := []string{"0037", "0038", "0099"}
			r := newReceiver(t, func(refs []string) (int, string) {
				for i, ref := range refs {
					if slices.Contains(bad, ref) {
						return answer(i)
					}
				}
				return 200, "null"
			})
			dir.set(peerA, r.URL)
			all := refs(150)
			queue(t, s, store.Outbox, peerA, all...)
			var mu sync.Mutex
			var dropped []string
			start(t, DeliveryConfig{Store: s, Directory: dir, Dropped: func(row store.QueueRow, reason error) {
				mu.Lock()
				defer mu.Unlock()
				dropped = append(dropped, row.RID.Reference())
				if reason == nil {
					t.Error("dropped without a reason")
				}
			}})
			eventually(t, "the outbox is empty", func() bool { return rows(t, s, store.Outbox, peerA) == 0 })
			good := slices.DeleteFunc(slices.Clone(all), func(ref string) bool { return slices.Contains(bad, ref) })
			if got := r.has(); !slices.Equal(got, good) {
				t.Errorf("taken %v", got)
			}
			eventually(t, "the drops are told", func() bool {
				mu.Lock()
				defer mu.Unlock()
				return slices.Equal(dropped, bad)
			})
			if n := r.asked(); n > 60 {
				t.Errorf("it took %d requests", n)
			}
		})
	}
}

// TestRefusingPeerIsSlowedDown: a peer that refuses everything is not asked at
// full speed for each of its rows.
func TestRefusingPeerIsSlowedDown(t *testing.T) {
	s, dir := newStore(t), &directory{}
	r := newReceiver(t, func([]string) (int, string) { return 400, "" })
	dir.set(peerA, r.URL)
	queue(t, s, store.Outbox, peerA, refs(50)...)
	d, _ := start(t, DeliveryConfig{Store: s, Directory: dir, BatchRows: 1, RetryBase: time.Hour, RetryCap: time.Hour})
	eventually(t, "it backs off", func() bool { return d.Health(peerA) != "" })
	if n := rows(t, s, store.Outbox, peerA); n != 50-dropBurst-1 {
		t.Errorf("%d rows are left", n)
	}
}

// TestSlowPeersDelayNobody: more hanging peers than there are places for
// failing ones, and a healthy one behind them.
func TestSlowPeersDelayNobody(t *testing.T) {
	s, dir := newStore(t), &directory{}
	hang := make(chan struct{})
	slow := newReceiver(t, func([]string) (int, string) { <-hang; return 200, "null" })
	t.Cleanup(func() { close(hang) })
	dead := httptest.NewServer(http.NotFoundHandler())
	dead.Close()
	fast := newReceiver(t, nil)
	for i := range 6 {
		p := rid.RID(fmt.Sprintf("orn:koi-net.node:slow%d+1", i))
		dir.set(p, slow.URL)
		if i%2 == 0 {
			dir.set(p, dead.URL)
		}
		queue(t, s, store.Outbox, p, refs(3)...)
	}
	dir.set(peerA, fast.URL)
	client := localClient(t, ClientConfig{Timeout: time.Minute})
	d, _ := start(t, DeliveryConfig{Store: s, Directory: dir, Client: client, Concurrency: 8})
	eventually(t, "the slow ones hang", func() bool { return slow.asked() == 3 })
	for i := range 20 {
		queue(t, s, store.Outbox, peerA, fmt.Sprint(i))
		d.Notify(peerA)
		eventually(t, "delivered past the slow peers", func() bool { return rows(t, s, store.Outbox, peerA) == 0 })
	}
}

// TestFailingPeersShareAPart: peers that failed before leave places to others,
// even when each of them hangs.
func TestFailingPeersShareAPart(t *testing.T) {
	s, dir := newStore(t), &directory{}
	hang := make(chan struct{})
	var first sync.Map
	b := broadcasterFunc(func(ctx context.Context, base string, _ [][]byte) error {
		if base == "healthy" {
			return nil
		}
		if _, seen := first.LoadOrStore(base, true); !seen {
			return errors.New("refused")
		}
		select {
		case <-hang:
		case <-ctx.Done():
		}
		return errors.New("timed out")
	})
	for i := range 20 {
		p := rid.RID(fmt.Sprintf("orn:koi-net.node:hang%d+1", i))
		dir.set(p, fmt.Sprint(i))
		queue(t, s, store.Outbox, p, "1")
	}
	dir.set(peerA, "healthy")
	d, _ := start(t, DeliveryConfig{Store: s, Directory: dir, Client: b, Concurrency: 8})
	eventually(t, "the failing ones take their part", func() bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.slow == 2 && len(d.failing) == 18
	})
	queue(t, s, store.Outbox, peerA, "1")
	d.Notify(peerA)
	eventually(t, "the healthy one is served", func() bool { return rows(t, s, store.Outbox, peerA) == 0 })
	close(hang)
}

// broadcasterFunc is a Broadcaster that looks at URLs alone.
type broadcasterFunc func(ctx context.Context, base string, events [][]byte) error

func (f broadcasterFunc) Broadcast(ctx context.Context, t Target, events [][]byte, _ *Once) error {
	return f(ctx, t.URL, events)
}

func (broadcasterFunc) Signs(Target) bool { return false }

func TestParkedUntilTheURLIsKnown(t *testing.T) {
	s, r, dir := newStore(t), newReceiver(t, nil), &directory{}
	queue(t, s, store.Outbox, peerA, "1")
	d, _ := start(t, DeliveryConfig{Store: s, Directory: dir})
	eventually(t, "the peer is parked", func() bool { return d.Health(peerA) != "" })
	if err := d.Settle(context.Background()); err != nil {
		t.Error(err)
	}
	dir.set(peerA, r.URL)
	d.Notify(peerA)
	eventually(t, "delivered", func() bool { return rows(t, s, store.Outbox, peerA) == 0 })
}

func TestNotifyKeepsBackoffKickEndsIt(t *testing.T) {
	s, dir := newStore(t), &directory{}
	r := newReceiver(t, func([]string) (int, string) { return 500, "" })
	dir.set(peerA, r.URL)
	queue(t, s, store.Outbox, peerA, "1")
	d, _ := start(t, DeliveryConfig{Store: s, Directory: dir, RetryBase: time.Hour, RetryCap: time.Hour})
	eventually(t, "it backs off", func() bool { return d.Health(peerA) != "" })
	r.set(nil)
	for range 10 {
		d.Notify(peerA)
	}
	if err := d.Settle(context.Background()); err != nil {
		t.Fatal(err)
	}
	if n := r.asked(); n != 1 {
		t.Errorf("%d requests: Notify cut the back-off short", n)
	}
	d.Kick(peerA)
	eventually(t, "delivered", func() bool { return rows(t, s, store.Outbox, peerA) == 0 })
}

// TestStopKeepsRows: what was in flight when Run ended goes out at the next start.
func TestStopKeepsRows(t *testing.T) {
	path := filepath.Join(t.TempDir(), "koi.db")
	s, dir := openStore(t, path), &directory{}
	hang := make(chan struct{})
	r := newReceiver(t, func([]string) (int, string) { <-hang; return 500, "" })
	dir.set(peerA, r.URL)
	queue(t, s, store.Outbox, peerA, "1", "2")
	_, stop := start(t, DeliveryConfig{Store: s, Directory: dir})
	eventually(t, "a request is in flight", func() bool { return r.asked() == 1 })
	stop()
	close(hang)
	if n := rows(t, s, store.Outbox, peerA); n != 2 {
		t.Errorf("%d rows are left", n)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, path)
	r.set(nil)
	start(t, DeliveryConfig{Store: s, Directory: dir})
	eventually(t, "delivered", func() bool { return rows(t, s, store.Outbox, peerA) == 0 })
	if got := r.has(); !slices.Equal(got, []string{"1", "2"}) {
		t.Errorf("taken %v", got)
	}
}

func TestBackoff(t *testing.T) {
	half, most := func() float64 { return 0 }, func() float64 { return 0.999999999 }
	for failures, seconds := range map[int]int{0: 0, 1: 1, 2: 2, 3: 4, 5: 16, 6: 30, 1000: 30} {
		want := time.Duration(seconds) * time.Second
		if got := backoff(failures, time.Second, 30*time.Second, half); got != want/2 {
			t.Errorf("%d failures: at least %s, want %s", failures, got, want/2)
		}
		if got := backoff(failures, time.Second, 30*time.Second, most); got > want || got < want*9/10 {
			t.Errorf("%d failures: at most %s, want %s", failures, got, want)
		}
	}
}

// TestNotifiedDuringARequest: rows that come while a request is in flight are
// not forgotten.
func TestNotifiedDuringARequest(t *testing.T) {
	s, dir := newStore(t), &directory{}
	dir.set(peerA, "somewhere")
	var d *Delivery
	running := make(chan struct{})
	var calls int // one request at a time
	b := broadcasterFunc(func(context.Context, string, [][]byte) error {
		<-running
		if calls++; calls < 4 {
			queue(t, s, store.Outbox, peerA, fmt.Sprint(calls))
			d.Notify(peerA)
		}
		return nil
	})
	queue(t, s, store.Outbox, peerA, "0")
	d, _ = start(t, DeliveryConfig{Store: s, Directory: dir, Client: b})
	close(running)
	eventually(t, "all delivered", func() bool { return rows(t, s, store.Outbox, peerA) == 0 })
}

// TestKickedDuringARequest: the peer shows itself while a request to it is
// about to fail; the next one does not wait for a back-off.
func TestKickedDuringARequest(t *testing.T) {
	s, dir := newStore(t), &directory{}
	dir.set(peerA, "somewhere")
	var d *Delivery
	running := make(chan struct{})
	var calls int
	b := broadcasterFunc(func(context.Context, string, [][]byte) error {
		<-running
		if calls++; calls == 1 {
			d.Kick(peerA)
			return errors.New("connection reset")
		}
		return nil
	})
	queue(t, s, store.Outbox, peerA, "0")
	d, _ = start(t, DeliveryConfig{Store: s, Directory: dir, Client: b, RetryBase: time.Hour, RetryCap: time.Hour})
	close(running)
	eventually(t, "delivered", func() bool { return rows(t, s, store.Outbox, peerA) == 0 })
}

// TestHeardShortensABackoff: to what one failure costs, however often it is called.
func TestHeardShortensABackoff(t *testing.T) {
	s, dir := newStore(t), &directory{}
	r := newReceiver(t, func([]string) (int, string) { return 500, "" })
	dir.set(peerA, r.URL)
	queue(t, s, store.Outbox, peerA, "1")
	d, _ := start(t, DeliveryConfig{Store: s, Directory: dir, RetryBase: time.Hour, RetryCap: 1000 * time.Hour})
	d.Heard(peerB)
	eventually(t, "it backs off", func() bool { return d.Health(peerA) != "" })
	if err := d.Settle(context.Background()); err != nil {
		t.Fatal(err)
	}
	set := func(failed, until time.Duration) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.peers[peerA].failed, d.peers[peerA].until = time.Now().Add(failed), time.Now().Add(until)
	}
	set(-time.Minute, 500*time.Hour)
	for range 10 {
		d.Heard(peerA)
	}
	d.mu.Lock()
	left := time.Until(d.waiting[0].until)
	d.mu.Unlock()
	if left < 58*time.Minute || left > time.Hour {
		t.Errorf("%s are left of the back-off", left)
	}
	if n := r.asked(); n != 1 {
		t.Errorf("%d requests", n)
	}
	set(-time.Hour, 500*time.Hour)
	r.set(nil)
	d.Heard(peerA)
	eventually(t, "delivered", func() bool { return rows(t, s, store.Outbox, peerA) == 0 })
	d.Heard(peerA)
}
