package server

import (
	"context"
	"fmt"
	"iter"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

// sampler is a ResponseWriter that looks at the heap whenever it is given a part.
type sampler struct {
	recorder
	parts int
	peak  uint64
	began time.Time
	wait  time.Duration // for the first part
	first func()        // called with it
}

func (s *sampler) Write(p []byte) (int, error) {
	if s.parts == 0 {
		s.wait = time.Since(s.began)
		s.first()
	}
	s.parts++
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	s.peak = max(s.peak, m.HeapAlloc)
	return s.recorder.Write(p)
}

// stream has the handler answer a call into nothing, and returns what the heap
// grew by at most meanwhile.
func stream(t testing.TB, h http.Handler, path, body string, first func()) (w *sampler, grown uint64) {
	t.Helper()
	runtime.GC()
	var before runtime.MemStats
	runtime.ReadMemStats(&before)
	r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(body))
	w = &sampler{recorder: recorder{header: http.Header{}}, first: first, began: time.Now()}
	h.ServeHTTP(w, r)
	if w.status != http.StatusOK {
		t.Fatalf("%s: status %d", path, w.status)
	}
	return w, w.peak - min(w.peak, before.HeapAlloc)
}

// streamed are calls whose answers hold something of every bundle there is.
func streamed(t testing.TB, f *fixture) map[string]func(h http.Handler, first func()) (*sampler, uint64) {
	t.Helper()
	id, peer := newIdentity(t, "self"), newIdentity(t, "peer")
	f.Identity, f.Peers = id, discard{peer.RID: peer.PublicKeyText()}
	calls := make(map[string]func(http.Handler, func()) (*sampler, uint64))
	for path, call := range map[string]protocol.Payload{
		"/rids/fetch":      protocol.FetchRIDs{RIDTypes: []rid.Type{}},
		"/manifests/fetch": protocol.FetchManifests{RIDTypes: []rid.Type{}, RIDs: []rid.RID{}},
	} {
		signed, err := protocol.EncodeEnvelope(call, peer.RID, id.RID, protocol.FloatsCurrent, peer.Sign)
		if err != nil {
			t.Fatal(err)
		}
		for name, body := range map[string]string{"unsigned": "{}", "signed": string(signed)} {
			calls[name+path] = func(h http.Handler, first func()) (*sampler, uint64) {
				return stream(t, h, "/koi-net"+path, body, first)
			}
		}
	}
	return calls
}

// An answer of many megabytes takes no more memory than its parts, and its first
// part does not wait for the second page.
func TestLargeAnswersTakeLittleMemory(t *testing.T) {
	const bundles, bound = 50_000, 2 << 20 // the least answer is larger than that
	f := newFixture(t)
	f.fillNotes(t, bundles, 10)
	watch := &watched{Store: f.store}
	f.Store = watch
	calls := streamed(t, f)
	h := f.handler(t)
	for name, call := range calls {
		t.Run(name, func(t *testing.T) {
			begun := watch.begun
			pages := 0
			w, grown := call(h, func() { pages = watch.begun - begun })
			if least := bundles * 55; w.bytes < least || w.parts < w.bytes/partBytes/2 {
				t.Errorf("%d bytes in %d parts, want %d bytes at least", w.bytes, w.parts, least)
			}
			if grown > bound {
				t.Errorf("the heap grew by %d bytes for an answer of %d", grown, w.bytes)
			}
			if most := partBytes/(pageRows*50) + 1; pages > most {
				t.Errorf("the first part came after %d pages, want %d at most", pages, most)
			}
		})
	}
}

// A million bundles: what the heap grows by, and when the first part comes.
func BenchmarkStream1000000(b *testing.B) {
	bundles := 1_000_000
	if testing.Short() {
		bundles = 100_000
	}
	f := newFixture(b)
	f.fillNotes(b, bundles, 10)
	calls := streamed(b, f)
	h := f.handler(b)
	for name, call := range calls {
		b.Run(name, func(b *testing.B) {
			var wait time.Duration
			var peak uint64
			size := 0
			for b.Loop() {
				w, grown := call(h, func() {})
				peak, size, wait = max(peak, grown), w.bytes, wait+w.wait
			}
			b.SetBytes(int64(size))
			b.ReportMetric(float64(wait.Microseconds())/float64(b.N), "µs-to-first-part")
			b.ReportMetric(float64(peak)/(1<<20), "MiB-heap")
		})
	}
}

// ending is a store whose list of manifests ends with an error.
type ending struct {
	store.Store
	after int
	err   error
}

func (e ending) View(ctx context.Context, fn func(store.Reader) error) error {
	return e.Store.View(ctx, func(r store.Reader) error { return fn(endingReader{r, e}) })
}

type endingReader struct {
	store.Reader
	ending
}

func (e endingReader) RawManifests(types []rid.Type, after rid.RID) iter.Seq2[*protocol.RawManifest, error] {
	return func(yield func(*protocol.RawManifest, error) bool) {
		n := 0
		for m, err := range e.Reader.RawManifests(types, after) {
			if n == e.after {
				yield(nil, e.err)
				return
			}
			if n++; !yield(m, err) {
				return
			}
		}
	}
}

// Damage to one record leaves that out; damage that keeps the others from being
// read must not make a short list look whole.
func TestDamagedIndexIsNoShortList(t *testing.T) {
	f := newFixture(t)
	for i := range 5 {
		f.put(t, bundle(t, rid.RID(fmt.Sprintf("orn:test.note:%d", i)), `{}`))
	}
	f.Store = ending{f.store, 3, fmt.Errorf("page 7: %w", store.ErrDamaged)}
	h := f.handler(t)
	for _, path := range []string{"/rids/fetch", "/manifests/fetch"} {
		if w := do(h, "POST", "/koi-net"+path, "{}"); w.Code != http.StatusInternalServerError {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
}

// A page may end with damaged records, or hold nothing else.
func TestDamagedRecordsAcrossPages(t *testing.T) {
	f := newFixture(t)
	const n = pageRows + 50
	bad := make(map[rid.RID]bool)
	err := f.store.Update(t.Context(), func(w store.Writer) error {
		b := bundle(t, "orn:test.note:0", `{}`)
		for i := range n {
			b.Manifest.RID = rid.RID(fmt.Sprintf("orn:test.note:%06d", i))
			if i%7 == 0 || i >= pageRows-5 && i < pageRows+5 || i > n-5 {
				bad[b.Manifest.RID] = true
			}
			if err := w.PutBundle(store.Record{Bundle: b, Source: "unsigned"}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	f.Store = damaged{f.store, bad}
	got, err := protocol.DecodeRIDs(do(f.handler(t), "POST", "/koi-net/rids/fetch", "{}").Body.Bytes(), protocol.DefaultLimits())
	if err != nil || len(got) != n-len(bad) || len(unique(got)) != len(got) {
		t.Errorf("%d RIDs, %d different, want %d (%v)", len(got), len(unique(got)), n-len(bad), err)
	}
	for _, r := range got {
		if bad[r] {
			t.Errorf("%s is damaged and in the list", r)
		}
	}
}
