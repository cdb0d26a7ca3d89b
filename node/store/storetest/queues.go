package storetest

import (
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

var queueTests = []namedTest{
	{"each peer gets its row", testQueueFanOut},
	{"a row delivered to one stays for the others", testQueueDelete},
	{"rows page", testQueuePages},
	{"numbers only ever grow", testQueueNumbers},
	{"the two queues are apart", testQueuesApart},
	{"figures", testQueueStats},
	{"superseded rows go first", testQueueSuperseded},
	{"superseded rows outlive what superseded them", testQueueOutOfOrder},
	{"the oldest go next, and are marked", testQueueBound},
	{"a bound in bytes", testQueueBytes},
	{"an event beyond the bound", testQueueTooLarge},
	{"the mark stands until it is cleared", testQueueMark},
	{"a dropped queue leaves nothing", testQueueDrop},
	{"nonsense is refused", testQueueInvalid},
	{"one event for many peers is kept once", testQueueShared},
	{"a model agrees", testQueueModel},
}

// enqueue adds an event about note(n) and returns what was dropped.
func (e *env) enqueue(q store.Queue, n int, event string, limits store.QueueLimits, peers ...rid.RID) map[rid.RID]store.Drops {
	e.Helper()
	var dropped map[rid.RID]store.Drops
	e.update(func(w store.Writer) (err error) {
		dropped, err = w.Enqueue(q, peers, store.QueueRow{Seq: 99, Peer: peerC, RID: note(n), Event: []byte(event), Queued: when(n)}, limits)
		return err
	})
	return dropped
}

func (e *env) wantEvents(q store.Queue, peer rid.RID, want ...string) {
	e.Helper()
	if got := events(e, q, peer); !slices.Equal(got, want) {
		e.Errorf("%s of %s: %q, want %q", q, peer, got, want)
	}
}

func testQueueFanOut(e *env) {
	if dropped := e.enqueue(store.Outbox, 1, "one", store.QueueLimits{}, peerA, peerB, peerA); len(dropped) != 0 {
		e.Errorf("dropped: %v", dropped)
	}
	e.enqueue(store.Outbox, 2, "two", store.QueueLimits{}, peerB)
	e.enqueue(store.Outbox, 3, "three", store.QueueLimits{})
	look := func() {
		e.Helper()
		e.wantEvents(store.Outbox, peerA, "one")
		e.wantEvents(store.Outbox, peerB, "one", "two")
		e.wantEvents(store.Outbox, peerC)
		e.view(func(r store.Reader) error {
			for row, err := range r.QueueRows(store.Outbox, peerA, 0) {
				if err != nil {
					return err
				}
				if row.RID != note(1) || !row.Queued.Equal(when(1)) || row.Peer != peerA || row.Seq == 0 {
					e.Errorf("row: %+v", row)
				}
			}
			return nil
		})
		e.check()
	}
	look()
	e.reopen()
	look()
}

func testQueueDelete(e *env) {
	e.enqueue(store.PollQueue, 1, "one", store.QueueLimits{}, peerA, peerB)
	e.enqueue(store.PollQueue, 2, "two", store.QueueLimits{}, peerA, peerB)
	var seqs []uint64
	e.view(func(r store.Reader) error { seqs = rowSeqs(e, r, store.PollQueue, peerA); return nil })
	for range 2 {
		e.update(func(w store.Writer) error {
			return w.DeleteQueueRows(store.PollQueue, peerA, seqs[0], seqs[0], 12345)
		})
		e.wantEvents(store.PollQueue, peerA, "two")
		e.wantEvents(store.PollQueue, peerB, "one", "two")
	}
	e.update(func(w store.Writer) error { return w.DeleteQueueRows(store.PollQueue, peerC, seqs...) })
	e.update(func(w store.Writer) error { return w.DeleteQueueRows(store.PollQueue, peerB, seqs...) })
	e.wantEvents(store.PollQueue, peerA, "two")
	e.wantEvents(store.PollQueue, peerB)
	e.check()
	e.update(func(w store.Writer) error { return w.DeleteQueueRows(store.PollQueue, peerA, seqs...) })
	e.view(func(r store.Reader) error {
		if all, err := r.Queues(store.PollQueue); len(all) != 0 || err != nil {
			e.Errorf("Queues when all is delivered: %v, %v", all, err)
		}
		return nil
	})
	e.check()
}

func testQueuePages(e *env) {
	for n := range 20 {
		e.enqueue(store.Outbox, n, fmt.Sprint(n), store.QueueLimits{}, peerA, peerB)
	}
	e.view(func(r store.Reader) error {
		var after uint64
		n := 0
		for {
			page := 0
			for row, err := range r.QueueRows(store.Outbox, peerA, after) {
				if err != nil {
					return err
				}
				if string(row.Event) != fmt.Sprint(n) {
					e.Errorf("event %q, want %d", row.Event, n)
				}
				after = row.Seq
				n++
				if page++; page == 7 {
					break
				}
			}
			if page == 0 {
				break
			}
		}
		if n != 20 {
			e.Errorf("%d rows", n)
		}
		return nil
	})
}

func testQueueNumbers(e *env) {
	var last uint64
	for round := range 4 {
		e.enqueue(store.Outbox, round, "x", store.QueueLimits{}, peerA)
		var seqs []uint64
		e.view(func(r store.Reader) error { seqs = rowSeqs(e, r, store.Outbox, peerA); return nil })
		if len(seqs) != 1 || seqs[0] <= last {
			e.Fatalf("round %d: %v after %d", round, seqs, last)
		}
		last = seqs[0]
		e.update(func(w store.Writer) error { return w.DeleteQueueRows(store.Outbox, peerA, seqs...) })
		e.reopen()
	}
}

func testQueuesApart(e *env) {
	e.enqueue(store.Outbox, 1, "out", store.QueueLimits{}, peerA)
	e.enqueue(store.PollQueue, 1, "poll", store.QueueLimits{}, peerA)
	e.wantEvents(store.Outbox, peerA, "out")
	e.wantEvents(store.PollQueue, peerA, "poll")
	e.update(func(w store.Writer) error { return w.DropQueue(store.Outbox, peerA) })
	e.wantEvents(store.Outbox, peerA)
	e.wantEvents(store.PollQueue, peerA, "poll")
	e.check()
}

func testQueueStats(e *env) {
	if s := e.stats(store.Outbox, peerA); s != (store.QueueStats{}) {
		e.Errorf("figures of an unknown peer: %+v", s)
	}
	e.enqueue(store.Outbox, 1, "abc", store.QueueLimits{}, peerA, peerB)
	e.enqueue(store.Outbox, 2, "de", store.QueueLimits{}, peerA)
	want := store.QueueStats{Rows: 2, Bytes: 5, Oldest: when(1)}
	for range 2 {
		if s := e.stats(store.Outbox, peerA); s.Rows != want.Rows || s.Bytes != want.Bytes || !s.Oldest.Equal(want.Oldest) || s.ResyncNeeded {
			e.Errorf("figures: %+v, want %+v", s, want)
		}
		e.view(func(r store.Reader) error {
			all, err := r.Queues(store.Outbox)
			if err != nil || len(all) != 2 || all[peerA].Rows != 2 || all[peerB].Bytes != 3 || !all[peerB].Oldest.Equal(when(1)) {
				e.Errorf("Queues: %+v, %v", all, err)
			}
			return nil
		})
		e.reopen()
	}
	var seqs []uint64
	e.view(func(r store.Reader) error { seqs = rowSeqs(e, r, store.Outbox, peerA); return nil })
	e.update(func(w store.Writer) error { return w.DeleteQueueRows(store.Outbox, peerA, seqs[0]) })
	if s := e.stats(store.Outbox, peerA); s.Rows != 1 || s.Bytes != 2 || !s.Oldest.Equal(when(2)) {
		e.Errorf("figures: %+v", s)
	}
	e.check()
}

func testQueueSuperseded(e *env) {
	limits := store.QueueLimits{Rows: 4}
	e.enqueue(store.Outbox, 1, "1a", limits, peerA, peerB)
	e.enqueue(store.Outbox, 2, "2a", limits, peerA)
	e.enqueue(store.Outbox, 1, "1b", limits, peerA)
	e.enqueue(store.Outbox, 2, "2b", limits, peerA)
	e.wantEvents(store.Outbox, peerA, "1a", "2a", "1b", "2b") // within the bound nothing goes
	if dropped := e.enqueue(store.Outbox, 3, "3a", limits, peerA, peerB); len(dropped) != 1 || dropped[peerA] != (store.Drops{Superseded: 1}) {
		e.Errorf("dropped: %v", dropped)
	}
	e.wantEvents(store.Outbox, peerA, "2a", "1b", "2b", "3a")
	e.reopen() // what is superseded is known still
	e.enqueue(store.Outbox, 4, "4a", limits, peerA)
	e.wantEvents(store.Outbox, peerA, "1b", "2b", "3a", "4a")
	e.enqueue(store.Outbox, 3, "3b", limits, peerA) // supersedes and exceeds at once
	e.wantEvents(store.Outbox, peerA, "1b", "2b", "4a", "3b")
	if s := e.stats(store.Outbox, peerA); s.ResyncNeeded {
		e.Errorf("nothing but superseded rows went: %+v", s)
	}
	e.wantEvents(store.Outbox, peerB, "1a", "3a")
	e.check()
}

func testQueueOutOfOrder(e *env) {
	limits := store.QueueLimits{Rows: 2}
	e.enqueue(store.PollQueue, 1, "1a", limits, peerA)
	e.enqueue(store.PollQueue, 1, "1b", limits, peerA)
	e.update(func(w store.Writer) error {
		return w.DeleteQueueRows(store.PollQueue, peerA, rowSeqs(e, w, store.PollQueue, peerA)[1])
	})
	e.wantEvents(store.PollQueue, peerA, "1a")
	e.check()
	// The peer has had the newer one: the older one may go without a mark.
	e.enqueue(store.PollQueue, 2, "2a", limits, peerA)
	e.enqueue(store.PollQueue, 3, "3a", limits, peerA)
	e.wantEvents(store.PollQueue, peerA, "2a", "3a")
	if s := e.stats(store.PollQueue, peerA); s.ResyncNeeded {
		e.Errorf("figures: %+v", s)
	}
	e.check()
}

func testQueueBound(e *env) {
	limits := store.QueueLimits{Rows: 3}
	for n := range 3 {
		e.enqueue(store.PollQueue, n, fmt.Sprint(n), limits, peerA, peerB)
	}
	e.update(func(w store.Writer) error { return w.DropQueue(store.PollQueue, peerB) })
	if dropped := e.enqueue(store.PollQueue, 3, "3", limits, peerA, peerB); len(dropped) != 1 || dropped[peerA] != (store.Drops{Oldest: 1, Marked: true}) {
		e.Errorf("dropped: %+v", dropped)
	}
	e.wantEvents(store.PollQueue, peerA, "1", "2", "3")
	if s := e.stats(store.PollQueue, peerA); !s.ResyncNeeded || s.Rows != 3 {
		e.Errorf("figures: %+v", s)
	}
	if s := e.stats(store.PollQueue, peerB); s.ResyncNeeded || s.Rows != 1 {
		e.Errorf("figures of the other: %+v", s)
	}
	// A bound that has come down takes more than one; the mark stood already.
	if dropped := e.enqueue(store.PollQueue, 4, "4", store.QueueLimits{Rows: 1}, peerA); dropped[peerA] != (store.Drops{Oldest: 3}) {
		e.Errorf("dropped: %+v", dropped)
	}
	e.wantEvents(store.PollQueue, peerA, "4")
	e.check()
}

func testQueueBytes(e *env) {
	limits := store.QueueLimits{Bytes: 10}
	e.enqueue(store.Outbox, 1, "aaaa", limits, peerA)
	e.enqueue(store.Outbox, 2, "bbbb", limits, peerA)
	e.enqueue(store.Outbox, 3, "cc", limits, peerA)
	e.wantEvents(store.Outbox, peerA, "aaaa", "bbbb", "cc") // the bound itself is allowed
	e.enqueue(store.Outbox, 4, "d", limits, peerA)
	e.wantEvents(store.Outbox, peerA, "bbbb", "cc", "d")
	e.enqueue(store.Outbox, 5, "eeeeeeeeee", limits, peerA)
	e.wantEvents(store.Outbox, peerA, "eeeeeeeeee")
	if s := e.stats(store.Outbox, peerA); s.Bytes != 10 || !s.ResyncNeeded {
		e.Errorf("figures: %+v", s)
	}
	e.check()
}

func testQueueTooLarge(e *env) {
	limits := store.QueueLimits{Bytes: 10}
	e.enqueue(store.Outbox, 1, "aaaa", limits, peerA)
	large := store.Drops{TooLarge: 1, Marked: true}
	if dropped := e.enqueue(store.Outbox, 2, "bbbbbbbbbbb", limits, peerA, peerB); dropped[peerA] != large || dropped[peerB] != large {
		e.Errorf("dropped: %+v", dropped)
	}
	large.Marked = false
	if dropped := e.enqueue(store.Outbox, 2, "bbbbbbbbbbb", limits, peerA); dropped[peerA] != large {
		e.Errorf("dropped again: %+v", dropped)
	}
	e.wantEvents(store.Outbox, peerA, "aaaa") // and drives nothing out
	for _, peer := range []rid.RID{peerA, peerB} {
		if s := e.stats(store.Outbox, peer); !s.ResyncNeeded {
			e.Errorf("figures of %s: %+v", peer, s)
		}
	}
	e.check()
}

func testQueueMark(e *env) {
	mark := func(peer rid.RID, needed bool) {
		e.Helper()
		e.update(func(w store.Writer) error { return w.SetResyncNeeded(store.PollQueue, peer, needed) })
	}
	mark(peerA, true)
	mark(peerB, false)
	for range 2 {
		e.view(func(r store.Reader) error {
			all, err := r.Queues(store.PollQueue)
			if err != nil || len(all) != 1 || all[peerA] != (store.QueueStats{ResyncNeeded: true}) {
				e.Errorf("Queues: %+v, %v", all, err)
			}
			return nil
		})
		e.reopen()
	}
	if s := e.stats(store.Outbox, peerA); s.ResyncNeeded {
		e.Error("the other queue is marked too")
	}
	e.enqueue(store.PollQueue, 1, "x", store.QueueLimits{}, peerA)
	mark(peerA, false)
	if s := e.stats(store.PollQueue, peerA); s.ResyncNeeded || s.Rows != 1 {
		e.Errorf("figures: %+v", s)
	}
	e.update(func(w store.Writer) error { return w.DropQueue(store.PollQueue, peerA) })
	e.view(func(r store.Reader) error {
		if all, err := r.Queues(store.PollQueue); err != nil || len(all) != 0 {
			e.Errorf("Queues: %+v, %v", all, err)
		}
		return nil
	})
	e.check()
}

func testQueueDrop(e *env) {
	for n := range 50 {
		e.enqueue(store.Outbox, n%7, fmt.Sprint(n), store.QueueLimits{Rows: 40}, peerA, peerB)
	}
	e.update(func(w store.Writer) error {
		if err := w.SetResyncNeeded(store.Outbox, peerA, true); err != nil {
			return err
		}
		return w.DropQueue(store.Outbox, peerA)
	})
	e.wantEvents(store.Outbox, peerA)
	if s := e.stats(store.Outbox, peerA); s != (store.QueueStats{}) {
		e.Errorf("figures: %+v", s)
	}
	if s := e.stats(store.Outbox, peerB); s.Rows != 40 {
		e.Errorf("figures of the other: %+v", s)
	}
	e.check()
	e.update(func(w store.Writer) error { return w.DropQueue(store.Outbox, peerA) })
	e.enqueue(store.Outbox, 1, "again", store.QueueLimits{}, peerA)
	e.wantEvents(store.Outbox, peerA, "again")
	e.check()
}

func testQueueInvalid(e *env) {
	for name, fn := range map[string]func(store.Writer) error{
		"queue": func(w store.Writer) error {
			_, err := w.Enqueue("none", []rid.RID{peerA}, store.QueueRow{RID: note(1)}, store.QueueLimits{})
			return err
		},
		"peer": func(w store.Writer) error {
			_, err := w.Enqueue(store.Outbox, []rid.RID{peerA, "nobody"}, store.QueueRow{RID: note(1)}, store.QueueLimits{})
			return err
		},
		"RID": func(w store.Writer) error {
			_, err := w.Enqueue(store.Outbox, []rid.RID{peerA}, store.QueueRow{RID: "nothing"}, store.QueueLimits{})
			return err
		},
	} {
		if err := e.store().Update(e.Context(), fn); err == nil {
			e.Errorf("a bad %s was taken", name)
		}
	}
	e.wantEvents(store.Outbox, peerA)
}

func testQueueShared(e *env) {
	peers := make([]rid.RID, 200)
	for n := range peers {
		peers[n] = rid.RID(fmt.Sprintf("orn:koi-net.node:p+%04d", n))
	}
	event := make([]byte, 64<<10)
	e.update(func(w store.Writer) error {
		_, err := w.Enqueue(store.Outbox, peers, store.QueueRow{RID: note(1), Event: event}, store.QueueLimits{})
		return err
	})
	size, err := e.store().Size()
	if err != nil {
		e.Fatal(err)
	}
	if limit := int64(len(event) * len(peers) / 2); size > limit {
		e.Errorf("the store takes %d bytes, so the event is not kept once", size)
	}
	for n, peer := range peers {
		if s := e.stats(store.Outbox, peer); s.Rows != 1 || s.Bytes != int64(len(event)) {
			e.Fatalf("figures of peer %d: %+v", n, s)
		}
		e.update(func(w store.Writer) error { return w.DropQueue(store.Outbox, peer) })
		if n%50 == 0 {
			e.check()
		}
	}
	e.check()
}

// testQueueModel holds random operations against a plain model.
func testQueueModel(e *env) {
	rng := rand.New(rand.NewPCG(1, 2))
	type row struct {
		rid   rid.RID
		event string
	}
	type queue struct {
		rows   []row
		resync bool
	}
	peers := []rid.RID{peerA, peerB, peerC}
	model := map[rid.RID]*queue{peerA: {}, peerB: {}, peerC: {}}
	limits := store.QueueLimits{Rows: 6, Bytes: 40}
	add := func(q *queue, added row) (dropped store.Drops) {
		q.rows = append(q.rows, added)
		for {
			total := 0
			for _, r := range q.rows {
				total += len(r.event)
			}
			if len(q.rows) <= limits.Rows && int64(total) <= limits.Bytes {
				return dropped
			}
			victim := slices.IndexFunc(q.rows, func(r row) bool {
				last := 0
				for i := range q.rows {
					if q.rows[i].rid == r.rid {
						last = i
					}
				}
				return q.rows[last] != r
			})
			if victim >= 0 {
				dropped.Superseded++
			} else {
				dropped.Oldest++
				dropped.Marked = dropped.Marked || !q.resync
				victim, q.resync = 0, true
			}
			q.rows = slices.Delete(q.rows, victim, victim+1)
		}
	}
	for step := range 400 {
		peer := peers[rng.IntN(3)]
		switch op := rng.IntN(10); {
		case op < 6:
			to := peers[:1+rng.IntN(3)]
			r := row{note(rng.IntN(4)), fmt.Sprintf("%d:%0*d", step, rng.IntN(14), 0)}
			want := make(map[rid.RID]store.Drops)
			for _, p := range to {
				if n := add(model[p], r); n != (store.Drops{}) {
					want[p] = n
				}
			}
			e.update(func(w store.Writer) error {
				got, err := w.Enqueue(store.Outbox, to, store.QueueRow{RID: r.rid, Event: []byte(r.event)}, limits)
				if fmt.Sprint(got) != fmt.Sprint(want) {
					e.Errorf("step %d: dropped %+v, want %+v", step, got, want)
				}
				return err
			})
		case op < 9: // the oldest few are delivered
			q := model[peer]
			n := min(rng.IntN(3), len(q.rows))
			e.update(func(w store.Writer) error {
				return w.DeleteQueueRows(store.Outbox, peer, rowSeqs(e, w, store.Outbox, peer)[:n]...)
			})
			q.rows = q.rows[n:]
		default:
			if rng.IntN(2) == 0 {
				model[peer].resync = false
				e.update(func(w store.Writer) error { return w.SetResyncNeeded(store.Outbox, peer, false) })
			} else {
				*model[peer] = queue{}
				e.update(func(w store.Writer) error { return w.DropQueue(store.Outbox, peer) })
			}
		}
		for p, q := range model {
			var want []string
			total := 0
			for _, r := range q.rows {
				want = append(want, r.event)
				total += len(r.event)
			}
			if got := events(e, store.Outbox, p); !slices.Equal(got, want) {
				e.Fatalf("step %d: %s has %q, want %q", step, p, got, want)
			}
			if s := e.stats(store.Outbox, p); s.Rows != len(want) || s.Bytes != int64(total) || s.ResyncNeeded != q.resync {
				e.Fatalf("step %d: figures of %s: %+v, want %+v", step, p, s, q)
			}
		}
		if step%50 == 49 {
			e.check()
			e.reopen()
		}
	}
}
