package peer

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

// targets is a Directory of whole targets.
type targets map[rid.RID]Target

func (d targets) Target(r rid.RID) (Target, bool) { t, ok := d[r]; return t, ok }

func words(refs []string) (out []string) {
	for _, ref := range refs {
		out = append(out, "FORGET orn:t:"+ref)
	}
	return out
}

// TestSignedDelivery: a signed peer gets our NEW and then the events, in order.
func TestSignedDelivery(t *testing.T) {
	s, p, c := newStore(t), newTestPeer(t), newCaller(t, nil)
	queue(t, s, store.Outbox, p.id.RID, refs(5)...)
	metrics := prometheus.NewRegistry()
	start(t, DeliveryConfig{Store: s, Client: c.Client, Directory: targets{p.id.RID: p.target()}, BatchRows: 3, Metrics: metrics})
	eventually(t, "all delivered", func() bool { return rows(t, s, store.Outbox, p.id.RID) == 0 })
	all := words(refs(5))
	expectTaken(t, p, append([]string{"NEW self"}, all[:3]...), all[3:])
	want := `
# HELP koi_delivery_requests_total Requests that push events to peers, by outcome (ok; unknown_node, invalid_key, invalid_signature, invalid_target; 3xx, 4xx, 5xx, network, timeout, circuit_open, forbidden, denied, bad_answer, unknown_server, bad_event, stopped) and generation (signed, unsigned).
# TYPE koi_delivery_requests_total counter
koi_delivery_requests_total{generation="signed",outcome="ok"} 2
`
	eventually(t, "counted", func() bool {
		return testutil.GatherAndCompare(metrics, strings.NewReader(want), "koi_delivery_requests_total") == nil
	})
}

// TestDeliveryRepeatsTheSameBatch: what is tried again is the very same request,
// though events were queued behind it; the next batch, and a batch of the same
// events, are new ones.
func TestDeliveryRepeatsTheSameBatch(t *testing.T) {
	s, p, c := newStore(t), newTestPeer(t), newCaller(t, nil)
	p.knows(c.id)
	fail := true
	p.before = func(w http.ResponseWriter, _ *http.Request, _ []byte) bool {
		if fail {
			w.WriteHeader(503)
		}
		return fail
	}
	queue(t, s, store.Outbox, p.id.RID, "1", "2")
	d, _ := start(t, DeliveryConfig{Store: s, Client: c.Client, Directory: targets{p.id.RID: p.target()}})
	eventually(t, "tried", func() bool { return len(p.called()) >= 1 })
	queue(t, s, store.Outbox, p.id.RID, "3")
	d.Notify(p.id.RID)
	before := len(p.called())
	eventually(t, "tried again", func() bool { return len(p.called()) >= before+2 })
	p.set(func() { fail = false })
	eventually(t, "delivered", func() bool { return rows(t, s, store.Outbox, p.id.RID) == 0 })
	queue(t, s, store.Outbox, p.id.RID, "3")
	d.Notify(p.id.RID)
	eventually(t, "delivered", func() bool { return rows(t, s, store.Outbox, p.id.RID) == 0 })
	expectTaken(t, p, append([]string{"NEW self"}, words([]string{"1", "2"})...), words([]string{"3"}), words([]string{"3"}))
	sent := p.sent()
	n := len(sent)
	if !same(sent[:n-2]...) {
		t.Error("the attempts at one batch differ")
	}
	if same(sent[n-2:]...) {
		t.Error("two batches are the same")
	}
}

// TestDeliveryAfterPartOfABatchIsGone: the rest of a batch whose rows were dropped
// at a bound meanwhile goes out, and so does what is behind it.
func TestDeliveryAfterPartOfABatchIsGone(t *testing.T) {
	for name, gone := range map[string][]uint64{"a part": {1}, "all": {1, 2}} {
		t.Run(name, func(t *testing.T) {
			s, p, c := newStore(t), newTestPeer(t), newCaller(t, nil)
			p.knows(c.id)
			fail := true
			p.before = func(w http.ResponseWriter, _ *http.Request, _ []byte) bool {
				if fail {
					w.WriteHeader(503)
				}
				return fail
			}
			queue(t, s, store.Outbox, p.id.RID, "1", "2")
			d, _ := start(t, DeliveryConfig{Store: s, Client: c.Client, Directory: targets{p.id.RID: p.target()}, RetryBase: time.Hour, RetryCap: time.Hour})
			eventually(t, "failed", func() bool { return d.Health(p.id.RID) != "" })
			err := s.Update(context.Background(), func(w store.Writer) error {
				return w.DeleteQueueRows(store.Outbox, p.id.RID, gone...)
			})
			if err != nil {
				t.Fatal(err)
			}
			queue(t, s, store.Outbox, p.id.RID, "3")
			p.set(func() { fail = false })
			d.Kick(p.id.RID)
			eventually(t, "delivered", func() bool { return rows(t, s, store.Outbox, p.id.RID) == 0 })
			var got []string
			for _, b := range p.took() {
				got = append(got, b...)
			}
			want := append([]string{"NEW self"}, words([]string{"1", "2", "3"}[len(gone):])...)
			if !slices.Equal(got, want) {
				t.Errorf("taken %v, want %v", got, want)
			}
		})
	}
}

// TestDeliveryLeavesOutWhatDoesNotSuit: such rows go with those around them, and
// alone where there are no others, unsent.
func TestDeliveryLeavesOutWhatDoesNotSuit(t *testing.T) {
	s, dir := newStore(t), &directory{}
	proceed := make(chan struct{})
	r := newReceiver(t, func([]string) (int, string) { <-proceed; return 200, "null" })
	dir.set(peerA, r.URL)
	const odd = 2*maxUnsuitable + 7
	var all []string
	for i := range odd {
		all = append(all, fmt.Sprintf("odd%04d", i))
	}
	queue(t, s, store.Outbox, peerA, "1", "oddx", "2")
	queue(t, s, store.Outbox, peerA, all...)
	queue(t, s, store.Outbox, peerA, "3")
	queue(t, s, store.Outbox, peerB, all...)
	metrics := prometheus.NewRegistry()
	d, _ := start(t, DeliveryConfig{
		Store: s, Directory: dir, Metrics: metrics,
		Suits: func(peer, r rid.RID) bool {
			return (peer == peerA || peer == peerB) && !strings.HasPrefix(r.Reference(), "odd")
		},
		Dropped: func(row store.QueueRow, err error) { t.Errorf("%s was dropped: %v", row.RID, err) },
	})
	b, err := d.batch(context.Background(), peerB, attempt{most: 3})
	if err != nil || len(b.unsuitable) > maxUnsuitable {
		t.Errorf("%d rows are taken off at once: %v", len(b.unsuitable), err)
	}
	close(proceed)
	dir.set(peerB, r.URL)
	d.Notify(peerB)
	eventually(t, "the outbox is empty", func() bool {
		return rows(t, s, store.Outbox, peerA) == 0 && rows(t, s, store.Outbox, peerB) == 0
	})
	if got := r.has(); !slices.Equal(got, []string{"1", "2", "3"}) {
		t.Errorf("taken %v", got)
	}
	if n := r.asked(); n > 2 {
		t.Errorf("%d requests", n)
	}
	want := fmt.Sprintf(`
# HELP koi_delivery_dropped_total Events that were not delivered and never will be, by reason (refused by the peer; unsuitable for it, so not sent).
# TYPE koi_delivery_dropped_total counter
koi_delivery_dropped_total{reason="unsuitable"} %d
`, 2*odd+1)
	eventually(t, "counted", func() bool {
		return testutil.GatherAndCompare(metrics, strings.NewReader(want), "koi_delivery_dropped_total") == nil
	})
}

// TestDeliveryKeepsTheUnsuitableOfAFailedBatch: what does not suit now may later.
func TestDeliveryKeepsTheUnsuitableOfAFailedBatch(t *testing.T) {
	s, dir := newStore(t), &directory{}
	r := newReceiver(t, func([]string) (int, string) { return 500, "" })
	dir.set(peerA, r.URL)
	queue(t, s, store.Outbox, peerA, "1", "odd", "2")
	var mu sync.Mutex
	suits := false
	d, _ := start(t, DeliveryConfig{Store: s, Directory: dir, Suits: func(_, r rid.RID) bool {
		mu.Lock()
		defer mu.Unlock()
		return suits || r.Reference() != "odd"
	}})
	eventually(t, "failed", func() bool { return d.Health(peerA) != "" })
	if n := rows(t, s, store.Outbox, peerA); n != 3 {
		t.Errorf("%d rows are left", n)
	}
	mu.Lock()
	suits = true
	mu.Unlock()
	r.set(nil)
	eventually(t, "delivered", func() bool { return rows(t, s, store.Outbox, peerA) == 0 })
	if got := r.has(); len(got) != 3 && len(got) != 2 || got[0] != "1" || got[len(got)-1] != "2" {
		t.Errorf("taken %v", got)
	}
}

// TestBrokenRowIsDropped: a row that cannot be written into an envelope holds up
// nobody.
func TestBrokenRowIsDropped(t *testing.T) {
	s, p, c := newStore(t), newTestPeer(t), newCaller(t, nil)
	queue(t, s, store.Outbox, p.id.RID, "1")
	err := s.Update(context.Background(), func(w store.Writer) error {
		_, err := w.Enqueue(store.Outbox, []rid.RID{p.id.RID}, store.QueueRow{RID: "orn:t:broken", Event: []byte("{}")}, store.QueueLimits{})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	queue(t, s, store.Outbox, p.id.RID, "2")
	dropped := make(chan rid.RID, 1)
	start(t, DeliveryConfig{Store: s, Client: c.Client, Directory: targets{p.id.RID: p.target()},
		Dropped: func(row store.QueueRow, _ error) { dropped <- row.RID }})
	eventually(t, "the outbox is empty", func() bool { return rows(t, s, store.Outbox, p.id.RID) == 0 })
	if r := <-dropped; r != "orn:t:broken" {
		t.Errorf("dropped %s", r)
	}
	var got []string
	for _, b := range p.took() {
		got = append(got, b...)
	}
	if !slices.Equal(got, []string{"NEW self", "FORGET orn:t:1", "FORGET orn:t:2"}) {
		t.Errorf("taken %v", got)
	}
}

// TestPollsIntroduce: peers with a key are told who we are, until an answer that
// says so was written.
func TestPollsIntroduce(t *testing.T) {
	s, self := newStore(t), newIdentity(t, "self")
	own := profileEvent(t, self)
	keyed := newIdentity(t, "partial").RID
	there := true
	config := PollsConfig{Store: s, Introduction: func() ([]byte, bool) { return own, there }}
	p := newPolls(t, config)
	queue(t, s, store.PollQueue, keyed, refs(5)...)
	queue(t, s, store.PollQueue, peerA, "1")

	take := func(p *Polls, peer rid.RID, limit int) (Lease, []string) {
		t.Helper()
		l, err := p.Lease(context.Background(), peer, "", limit)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, raw := range l.Events() {
			if string(raw) == string(own) {
				got = append(got, "own")
				continue
			}
			e, err := protocol.DecodeEvent(raw)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, e.RID.Reference())
		}
		return l, got
	}
	written := func(l Lease) { l.Written(); l.Release() }

	l, got := take(p, peerA, 0)
	expect(t, "a peer without a key", got, "1")
	l.Release()

	there = false
	l, got = take(p, keyed, 1)
	expect(t, "before there is one", got, "0000")
	written(l)
	there = true

	l, got = take(p, keyed, 3)
	expect(t, "at first", got, "own", "0001", "0002")
	l.Release()
	l, got = take(p, keyed, 1)
	expect(t, "not written, one asked for", got, "own")
	_, second := take(p, keyed, 0)
	expect(t, "while that is being written", second)
	written(l)
	if len(p.leases) != 0 {
		t.Errorf("%d leases are left of answers without events", len(p.leases))
	}
	l, got = take(p, keyed, 1)
	expect(t, "after it was written", got, "0001")
	written(l)
	l, got = take(p, keyed, 1)
	expect(t, "further on", got, "0002")
	written(l)

	p.Reintroduce(keyed)
	l, got = take(p, keyed, 0)
	expect(t, "to one that has lost it", got, "own", "0003", "0004")
	written(l)
	l, got = take(p, keyed, 0)
	expect(t, "when all is taken", got)
	written(l)
	if n := rows(t, s, store.PollQueue, keyed); n != 0 {
		t.Errorf("%d rows are left", n)
	}

	p = newPolls(t, config) // a restart
	l, got = take(p, keyed, 0)
	expect(t, "after a restart", got, "own")
	written(l)
	l, got = take(p, keyed, 0)
	expect(t, "and then", got)
	written(l)
	if len(p.leases) != 0 {
		t.Errorf("%d leases are left of empty queues", len(p.leases))
	}

	// Bounds of an answer, the introduction included.
	queue(t, s, store.PollQueue, keyed, refs(5)...)
	one := len(testEvent("orn:t:0000")) + 1
	for _, c := range []struct{ rows, bytes, limit, want int }{
		{4, 1 << 20, 0, 4}, {1, 1 << 20, 0, 1}, {100, len(own) + 1 + 2*one, 0, 3}, {100, 1, 0, 1}, {100, 1 << 20, 0, 6},
	} {
		p := newPolls(t, PollsConfig{Store: s, Introduction: config.Introduction, Rows: c.rows, Bytes: c.bytes})
		l, got := take(p, keyed, c.limit)
		l.Release()
		if len(got) != c.want || got[0] != "own" {
			t.Errorf("%+v: %v", c, got)
		}
	}
}

// TestPollsForgetWhoWasIntroduced: the memory of it is bounded.
func TestPollsForgetWhoWasIntroduced(t *testing.T) {
	s := newStore(t)
	p := newPolls(t, PollsConfig{Store: s, Introduction: func() ([]byte, bool) { return []byte("own"), true }})
	p.introduced.most = 2
	node := func(i int) rid.RID { return rid.RID(fmt.Sprintf("orn:koi-net.node:n+%064d", i)) }
	told := func(i int) bool {
		t.Helper()
		l, err := p.Lease(context.Background(), node(i), "", 0)
		if err != nil {
			t.Fatal(err)
		}
		n := len(l.Events())
		l.Written()
		l.Release()
		return n == 1
	}
	for i, want := range []bool{true, true, true} {
		if told(i) != want {
			t.Errorf("node %d: told %t", i, !want)
		}
	}
	if told(2) || told(1) || !told(0) {
		t.Error("not the two that polled last are remembered")
	}
}

// TestPollsLeaveOutWhatDoesNotSuit: such rows are never offered, and leave with
// those that are confirmed.
func TestPollsLeaveOutWhatDoesNotSuit(t *testing.T) {
	s := newStore(t)
	metrics := prometheus.NewRegistry()
	p := newPolls(t, PollsConfig{Store: s, Rows: 3, Metrics: metrics, Suits: func(peer, r rid.RID) bool {
		return peer == peerA && !strings.HasPrefix(r.Reference(), "odd")
	}})
	queue(t, s, store.PollQueue, peerA, "odd1", "1", "odd2", "2", "odd3", "odd4", "odd5", "odd6", "3")
	for _, step := range []struct {
		limit int
		want  []string
		left  int // rows before the next poll
	}{
		{1, []string{"1"}, 9}, {0, []string{"2"}, 7}, {0, nil, 4}, {0, []string{"3"}, 1}, {0, nil, 0},
	} {
		l, got := lease(t, p, step.limit)
		expect(t, fmt.Sprint(step), got, step.want...)
		if n := rows(t, s, store.PollQueue, peerA); n != step.left {
			t.Errorf("%v: %d rows", step, n)
		}
		l.Release() // not written: offered again
		l, got = lease(t, p, step.limit)
		expect(t, fmt.Sprint("again ", step), got, step.want...)
		l.Written()
		l.Release()
	}
	if len(p.leases) != 0 {
		t.Errorf("%d leases are left", len(p.leases))
	}
	want := `
# HELP koi_polls_confirmed_total Events that polling peers have taken.
# TYPE koi_polls_confirmed_total counter
koi_polls_confirmed_total 3
# HELP koi_polls_unsuitable_total Events dropped because they would not suit the polling peer they waited for.
# TYPE koi_polls_unsuitable_total counter
koi_polls_unsuitable_total 6
`
	if err := testutil.GatherAndCompare(metrics, strings.NewReader(want), "koi_polls_confirmed_total", "koi_polls_unsuitable_total"); err != nil {
		t.Error(err)
	}
}

// TestSignedPolling: a partial node that has the RID of its first contact alone
// drains what waits there, however it asks and whatever is unwritten at first.
func TestSignedPolling(t *testing.T) {
	for _, limit := range []int{0, 1, 7} {
		t.Run(fmt.Sprint("limit ", limit), func(t *testing.T) {
			s, c := newStore(t), newCaller(t, nil)
			peer := newTestPeer(t)
			own := profileEvent(t, peer.id)
			peer.polls = newPolls(t, PollsConfig{Store: s, Rows: 10, Introduction: func() ([]byte, bool) { return own, true }})
			all := refs(45)
			queue(t, s, store.PollQueue, c.id.RID, all...)
			in := &sink{}
			metrics := prometheus.NewRegistry()
			var mu sync.Mutex
			target := peer.unknown()
			p := runPolling(t, PollingConfig{
				Client: c.Client, Accept: in.accept, Limit: limit, Metrics: metrics,
				Targets: func() []Target { mu.Lock(); defer mu.Unlock(); return []Target{target} },
				// One turn must do: the key comes with the first answer.
				Interval: time.Hour,
			})
			eventually(t, "drained", func() bool { return rows(t, s, store.PollQueue, c.id.RID) == 0 })
			got, _ := in.has()
			source := string(peer.id.RID) + " "
			want := []string{source + peer.id.RID.Reference()}
			for _, ref := range all {
				want = append(want, source+ref)
			}
			if !slices.Equal(got, want) {
				t.Errorf("got %v", got)
			}
			// That its key is known now makes it no other node.
			mu.Lock()
			target = peer.target()
			mu.Unlock()
			before := len(peer.called())
			p.Wake()
			eventually(t, "polled again", func() bool { return len(peer.called()) > before })
			p.mu.Lock()
			defer p.mu.Unlock()
			if len(p.sources) != 1 {
				t.Errorf("%d sources", len(p.sources))
			}
			n, err := testutil.GatherAndCount(metrics, "koi_polling_requests_total")
			if err != nil || n != 1 {
				t.Errorf("%d kinds of outcomes: %v", n, err)
			}
		})
	}
}

// TestPollingFailure: a server that cannot be verified is a failure that is told.
func TestPollingFailure(t *testing.T) {
	c, peer := newCaller(t, nil), newTestPeer(t)
	peer.knows(c.id)
	p := runPolling(t, PollingConfig{
		Client: c.Client, Targets: func() []Target { return []Target{peer.unknown()} }, Interval: time.Hour,
		Accept: func(context.Context, Received) error { return errors.New("nothing is to be accepted") },
	})
	eventually(t, "it is told", func() bool { return strings.Contains(p.Health(peer.id.RID), ErrUnknownServer.Error()) })
}

// BenchmarkBroadcast sends 100 events of 1 KiB at a time.
func BenchmarkBroadcast(b *testing.B) {
	rows := make([][]byte, 100)
	size := 0
	for i := range rows {
		rows[i] = bundleEvent(b, rid.RID(fmt.Sprintf("orn:bench.doc:%d", i)),
			fmt.Sprintf(`{"title":"number %d","weight":%d.5,"tags":["a","b","c"],"text":%q}`, i, i, strings.Repeat("lorem ipsum ", 70)))
		size += len(rows[i])
	}
	for _, signed := range []bool{false, true} {
		b.Run(generation(signed), func(b *testing.B) {
			p, c := newTestPeer(b), newCaller(b, nil)
			p.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "null") })
			target := Target{RID: peerA, URL: p.URL}
			if signed {
				target = Target{RID: p.id.RID, URL: p.URL, Key: p.id.PublicKeyText()}
			}
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if err := c.Broadcast(context.Background(), target, rows, new(Once)); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(len(rows)*b.N)/b.Elapsed().Seconds(), "events/s")
		})
	}
}
