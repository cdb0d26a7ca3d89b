package node_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/koi-net/koi-operator/node/nodetest"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// broadcastBody makes the unsigned body of one broadcast of new bundles of 1 KiB.
func broadcastBody(b *testing.B, events int) []byte {
	b.Helper()
	rows := make([][]byte, events)
	for i := range rows {
		r, err := rid.New("orn:example.note", uuid.NewString())
		if err != nil {
			b.Fatal(err)
		}
		bundle, err := protocol.NewBundle(r, protocol.NewTimestamp(time.Now()), []byte(`{"text":"`+strings.Repeat("x", 1000)+`"}`))
		if err != nil {
			b.Fatal(err)
		}
		rows[i] = protocol.AppendEvent(nil, protocol.Event{
			RID: r, EventType: protocol.New, Manifest: &bundle.Manifest, Contents: bundle.Contents,
		})
	}
	return protocol.EncodeBroadcast(rows)
}

// A whole node behind its listener: bodies of new events from clients that wait
// for each answer, by which time the events are on disk.
func BenchmarkNodeBroadcast(b *testing.B) {
	for _, c := range []struct{ clients, events int }{{1, 1}, {64, 1}, {1, 100}, {16, 100}} {
		b.Run(fmt.Sprintf("clients=%d/events=%d", c.clients, c.events), func(b *testing.B) {
			n := nodetest.NewFleet(b).Start("bench")
			url := n.URL() + "/events/broadcast"
			bodies := make(chan []byte, b.N)
			for range b.N {
				bodies <- broadcastBody(b, c.events)
			}
			close(bodies)
			client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: c.clients}}
			defer client.CloseIdleConnections()
			b.ResetTimer()
			var clients sync.WaitGroup
			for range c.clients {
				clients.Go(func() {
					for body := range bodies {
						req, err := http.NewRequestWithContext(b.Context(), http.MethodPost, url, bytes.NewReader(body))
						if err != nil {
							b.Error(err)
							return
						}
						resp, err := client.Do(req)
						if err != nil {
							b.Error(err)
							return
						}
						_, err = io.Copy(io.Discard, resp.Body)
						_ = resp.Body.Close()
						if err != nil || resp.StatusCode != http.StatusOK {
							b.Errorf("%s, %v", resp.Status, err)
							return
						}
					}
				})
			}
			clients.Wait()
			nodetest.Eventually(b, "the inbox is empty", func() (bool, string) {
				st, err := n.Admin.Status(b.Context())
				return err == nil && st.Inbox == 0, fmt.Sprint(st.Inbox, err)
			})
			b.StopTimer()
			b.ReportMetric(float64(b.N*c.events)/b.Elapsed().Seconds(), "events/s")
		})
	}
}
