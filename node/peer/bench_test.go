package peer

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
	"github.com/koi-net/koi-operator/node/store/bolt"
)

func benchStore(b *testing.B) store.Store {
	b.Helper()
	s, err := bolt.Open(bolt.Options{Path: filepath.Join(b.TempDir(), "koi.db"), NodeRID: "orn:koi-net.node:self+1", Create: true})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close() })
	return s
}

// benchEvents are events of a kibibyte about n notes.
func benchEvents(b *testing.B, n int) []store.QueueRow {
	b.Helper()
	text, err := json.Marshal(map[string]string{"text": string(make([]byte, 150))}) // escaped to six times that
	if err != nil {
		b.Fatal(err)
	}
	rows := make([]store.QueueRow, n)
	for i := range rows {
		r := rid.RID(fmt.Sprintf("orn:example.note:%06d", i))
		bundle := testBundle(b, r, string(text))
		rows[i] = store.QueueRow{RID: r, Event: protocol.AppendEvent(nil, protocol.Event{
			RID: r, EventType: protocol.New, Manifest: &bundle.Manifest, Contents: bundle.Contents,
		})}
	}
	return rows
}

func benchQueue(b *testing.B, s store.Store, q store.Queue, peers []rid.RID, rows []store.QueueRow) {
	b.Helper()
	for len(rows) > 0 {
		n := min(len(rows), 1000)
		err := s.Update(b.Context(), func(w store.Writer) error {
			for _, row := range rows[:n] {
				if _, err := w.Enqueue(q, peers, row, store.QueueLimits{Rows: 100_000, Bytes: 256 << 20}); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
		rows = rows[n:]
	}
}

func benchPeers(n int) []rid.RID {
	peers := make([]rid.RID, n)
	for i := range peers {
		peers[i] = rid.RID(fmt.Sprintf("orn:koi-net.node:peer%04d+1", i))
	}
	return peers
}

// taker is a Broadcaster whose peers take everything at once.
type taker struct{}

func (taker) Signs(Target) bool { return false }

func (taker) Broadcast(context.Context, Target, [][]byte, *Once) error { return nil }

// benchDelivery delivers to the peers all that is queued between two rounds.
func benchDelivery(b *testing.B, client Broadcaster, url string, peers []rid.RID, rows []store.QueueRow) {
	s, dir := benchStore(b), &directory{}
	for _, p := range peers {
		dir.set(p, url)
	}
	d, err := NewDelivery(DeliveryConfig{Store: s, Client: client, Directory: dir})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	var took time.Duration
	for b.Loop() {
		b.StopTimer()
		benchQueue(b, s, store.Outbox, peers, rows)
		began := time.Now()
		b.StartTimer()
		for _, p := range peers {
			d.Notify(p)
		}
		if err := d.Settle(ctx); err != nil {
			b.Fatal(err)
		}
		took += time.Since(began)
	}
	b.ReportMetric(float64(b.N*len(peers)*len(rows))/took.Seconds(), "events/s")
	cancel()
	if err := <-done; err != nil {
		b.Fatal(err)
	}
	var queues map[rid.RID]store.QueueStats
	err = s.View(context.Background(), func(r store.Reader) (err error) {
		queues, err = r.Queues(store.Outbox)
		return err
	})
	if err != nil || len(queues) != 0 {
		b.Fatalf("left: %d peers' rows, %v", len(queues), err)
	}
}

// benchServer answers every call at once.
func benchServer(b *testing.B) string {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, "null")
	}))
	b.Cleanup(srv.Close)
	return srv.URL + "/koi-net"
}

// BenchmarkDeliveryFanOut1000 delivers one event to 1,000 webhook subscribers:
// by the delivery alone, and with HTTP on loopback.
func BenchmarkDeliveryFanOut1000(b *testing.B) {
	peers, rows := benchPeers(1000), benchEvents(b, 1)
	b.Run("delivery", func(b *testing.B) { benchDelivery(b, taker{}, "somewhere", peers, rows) })
	b.Run("http", func(b *testing.B) { benchDelivery(b, localClient(b, ClientConfig{}), benchServer(b), peers, rows) })
}

// BenchmarkDeliveryThroughput delivers 10,000 events to each of 10 subscribers.
func BenchmarkDeliveryThroughput(b *testing.B) {
	peers, rows := benchPeers(10), benchEvents(b, 10_000)
	b.Run("delivery", func(b *testing.B) { benchDelivery(b, taker{}, "somewhere", peers, rows) })
	b.Run("http", func(b *testing.B) { benchDelivery(b, localClient(b, ClientConfig{}), benchServer(b), peers, rows) })
}

// BenchmarkPollLease takes an answer off a queue of 10,000 rows: of 100 events that
// are not confirmed, so that each gets the same, and of all, confirmed by the next.
func BenchmarkPollLease(b *testing.B) {
	const held = 10_000
	peer, rows := benchPeers(1), benchEvents(b, held)
	for _, c := range []struct {
		name    string
		limit   int
		confirm bool
	}{{"offer100", 100, false}, {"offerAll", 0, false}, {"confirm100", 100, true}} {
		b.Run(c.name, func(b *testing.B) {
			s := benchStore(b)
			benchQueue(b, s, store.PollQueue, peer, rows)
			p, err := NewPolls(PollsConfig{Store: s})
			if err != nil {
				b.Fatal(err)
			}
			left, events := held, 0
			for b.Loop() {
				if c.confirm {
					if left -= c.limit; left < 0 {
						b.StopTimer()
						benchQueue(b, s, store.PollQueue, peer, rows)
						left = held
						b.StartTimer()
					}
				}
				l, err := p.Lease(b.Context(), peer[0], "", c.limit)
				if err != nil {
					b.Fatal(err)
				}
				events += len(l.Events())
				if c.confirm {
					l.Written()
				}
				l.Release()
			}
			b.ReportMetric(float64(events)/b.Elapsed().Seconds(), "events/s")
		})
	}
}
