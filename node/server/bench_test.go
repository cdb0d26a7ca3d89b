package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

// benchNote is the RID of a note as a node makes it: with a UUID, in no order.
func benchNote(n int) rid.RID {
	x := uint64(n+1) * 0x9e3779b97f4a7c15
	return rid.RID(fmt.Sprintf("orn:example.note:%08x-%04x-4%03x-8%03x-%012x", x>>32, x>>16&0xffff, x&0xfff, x>>4&0xfff, x&0xffffffffffff))
}

// fillNotes writes notes of a kilobyte, or of a few bytes.
func (f *fixture) fillNotes(t testing.TB, count, size int) {
	t.Helper()
	contents := `{"text":"` + strings.Repeat("x", size) + `"}`
	b := bundle(t, "orn:example.note:1", contents)
	for from := 0; from < count; from += 10_000 {
		err := f.store.Update(context.Background(), func(w store.Writer) error {
			for n := from; n < min(from+10_000, count); n++ {
				b.Manifest.RID = benchNote(n)
				if err := w.PutBundle(store.Record{Bundle: b, Source: string(self)}); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// recorder is a ResponseWriter that counts what it is given and drops it.
type recorder struct {
	header http.Header
	status int
	bytes  int
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) WriteHeader(status int)      { r.status = status }
func (r *recorder) Write(p []byte) (int, error) { r.bytes += len(p); return len(p), nil }

// benchFetch asks for one call again and again, in either generation, of the
// handler itself and over a connection.
func benchFetch(b *testing.B, path string, call protocol.Payload, unsigned string, least int) {
	id, peer := newIdentity(b, "self"), newIdentity(b, "peer")
	f := newFixture(b)
	f.fillNotes(b, 10_000, 1000)
	f.Identity, f.Peers = id, discard{peer.RID: peer.PublicKeyText()}
	h := f.handler(b)
	signed, err := protocol.EncodeEnvelope(call, peer.RID, id.RID, protocol.FloatsCurrent, peer.Sign)
	if err != nil {
		b.Fatal(err)
	}
	for _, c := range []struct{ name, body string }{{"unsigned", unsigned}, {"signed", string(signed)}} {
		b.Run(c.name+"/handler", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				w := &recorder{header: http.Header{}}
				h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, path, strings.NewReader(c.body)))
				if w.status != http.StatusOK || w.bytes < least {
					b.Fatalf("status %d, %d bytes", w.status, w.bytes)
				}
			}
		})
	}
	s := httptest.NewUnstartedServer(nil)
	s.Config = HTTPServer(h, nil)
	s.Start()
	defer s.Close()
	for _, c := range []struct{ name, body string }{{"unsigned", unsigned}, {"signed", string(signed)}} {
		for _, clients := range []int{1, 4} {
			b.Run(fmt.Sprintf("%s/http/clients=%d", c.name, clients), func(b *testing.B) {
				benchHTTP(b, s.URL+path, c.body, clients, least)
			})
		}
	}
}

// benchHTTP has clients ask for one answer after another; theirs is a part of
// the time too.
func benchHTTP(b *testing.B, url, body string, clients, least int) {
	transport := &http.Transport{MaxIdleConnsPerHost: clients, ReadBufferSize: 64 << 10}
	defer transport.CloseIdleConnections()
	asked := make(chan struct{}, b.N)
	for range b.N {
		asked <- struct{}{}
	}
	close(asked)
	b.ResetTimer()
	var all sync.WaitGroup
	for range clients {
		all.Go(func() {
			buf := make([]byte, 256<<10)
			for range asked {
				n, err := ask(b.Context(), transport, url, body, buf)
				if err != nil || n < least {
					b.Errorf("%d bytes, %v", n, err)
					return
				}
			}
		})
	}
	all.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "requests/s")
}

func ask(ctx context.Context, transport *http.Transport, url, body string, buf []byte) (n int, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader([]byte(body)))
	if err != nil {
		return 0, err
	}
	res, err := transport.RoundTrip(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return 0, errors.New(res.Status)
	}
	for {
		m, err := res.Body.Read(buf)
		n += m
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

// All RIDs of a store of ten thousand bundles.
func BenchmarkFetchRIDs10000(b *testing.B) {
	benchFetch(b, "/koi-net/rids/fetch", protocol.FetchRIDs{RIDTypes: []rid.Type{}}, `{"rid_types":[]}`, 500_000)
}

// All manifests of a store of ten thousand bundles.
func BenchmarkFetchManifests10000(b *testing.B) {
	benchFetch(b, "/koi-net/manifests/fetch", protocol.FetchManifests{RIDTypes: []rid.Type{}, RIDs: []rid.RID{}}, `{"rid_types":[],"rids":[]}`, 1_500_000)
}

// A hundred bundles of 1 KiB of a store of ten thousand.
func BenchmarkFetchBundles100(b *testing.B) {
	var req protocol.FetchBundles
	for n := range 100 {
		req.RIDs = append(req.RIDs, benchNote(n*97))
	}
	benchFetch(b, "/koi-net/bundles/fetch", req, string(protocol.EncodeFetchBundles(req)), 100_000)
}
