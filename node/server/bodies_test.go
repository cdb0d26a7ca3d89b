package server

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

func TestBlockSizes(t *testing.T) {
	var b blocks
	for n, want := range map[int64]int64{
		0: leastRoom, 1: leastRoom, leastRoom: leastRoom, leastRoom + 1: 2 * leastRoom, freeBytes: freeBytes, freeBytes + 1: 2 * freeBytes,
		130_000: 1 << 17, 1<<17 + 1: 1 << 18, keepBytes - 1: keepBytes, keepBytes: keepBytes, keepBytes + 1: keepBytes + 1, 16 << 20: 16 << 20,
	} {
		got := b.sizeOf(n)
		if got != want {
			t.Errorf("sizeOf(%d) = %d, want %d", n, got, want)
		}
		block := b.get(got)
		if len(*block) != 0 || int64(cap(*block)) != got {
			t.Errorf("a block of %d has %d of %d bytes", got, len(*block), cap(*block))
		}
		*block = append(*block, "used"...)
		b.put(block)
		again := b.get(got)
		if len(*again) != 0 || int64(cap(*again)) != got {
			t.Errorf("a block of %d, used again, has %d of %d bytes", got, len(*again), cap(*again))
		}
	}
}

// Bodies of any size, said or not, come through whole, and leave nothing held.
func TestBodiesOfAllSizes(t *testing.T) {
	s := &server{limits: protocol.Limits{BodyBytes: 2 << 20}, budget: &budget{limit: 4 << 20}}
	for _, size := range []int{0, 1, leastRoom - 1, leastRoom, leastRoom + 1, freeBytes - 1, freeBytes, freeBytes + 1, 100_000, 300_000, keepBytes - 1, keepBytes, keepBytes + 1, 2 << 20} {
		want := strings.Repeat("0123456789abcde", size/15+1)[:size]
		for _, known := range []bool{true, false} {
			r := httptest.NewRequest(http.MethodPost, "/", io.MultiReader(strings.NewReader(want)))
			r.ContentLength = -1
			if known {
				r.ContentLength = int64(size)
			}
			a := newAnswer(httptest.NewRecorder())
			raw, release, err := s.body(a, r)
			if err != nil || string(raw) != want {
				t.Errorf("%d bytes, known %t: %d, %v", size, known, len(raw), err)
			}
			if held := s.budget.used.Load(); size > freeBytes && held == 0 || size < freeBytes && held != 0 {
				t.Errorf("%d bytes, known %t: %d bytes of the budget are held", size, known, held)
			}
			release()
			release()
			a.recycle()
			if used := s.budget.used.Load(); used != 0 {
				t.Errorf("%d bytes, known %t: %d bytes of the budget are left behind", size, known, used)
			}
		}
	}
}

// keeper keeps what it is given, as a pipeline does.
type keeper struct {
	mu   sync.Mutex
	kept map[rid.RID]protocol.Event
}

func (k *keeper) Accept(_ context.Context, _ Sender, events []protocol.Event) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, e := range events {
		k.kept[e.RID] = e
	}
	return nil
}

// The memory of a body is used again; nothing of what was accepted may lie in it.
func TestAcceptedEventsAreTheirOwn(t *testing.T) {
	f := newSignedFixture(t)
	k := &keeper{kept: make(map[rid.RID]protocol.Event)}
	f.Inbox = k
	h := f.handler(t)
	want := make(map[rid.RID]protocol.Event)
	var wg sync.WaitGroup
	for round := range 12 {
		var events protocol.EventsPayload
		var rows [][]byte
		for i := range 100 {
			e := newEvent(t, rid.RID(fmt.Sprintf("orn:test.note:%d.%d", round, i)), fmt.Sprintf(`{"round":%d,"text":%q}`, round, strings.Repeat("é\n", 10*i)))
			events, rows, want[e.RID] = append(events, e), append(rows, protocol.AppendEvent(nil, e)), e
		}
		body := string(protocol.EncodeBroadcast(rows))
		if round%2 == 0 {
			body = f.envelope(f.peer, events)
		}
		wg.Go(func() {
			if w := do(h, "POST", "/koi-net/events/broadcast", body); w.Code != 200 {
				t.Errorf("round %d: %d %s", round, w.Code, w.Body)
			}
		})
		if round%4 == 3 {
			wg.Wait()
		}
	}
	wg.Wait()
	if len(k.kept) != len(want) {
		t.Errorf("%d events were accepted, want %d", len(k.kept), len(want))
	}
	for r, e := range want {
		if got := k.kept[r]; string(protocol.AppendEvent(nil, got)) != string(protocol.AppendEvent(nil, e)) {
			t.Fatalf("%s was accepted as %s, want %s", r, protocol.AppendEvent(nil, got), protocol.AppendEvent(nil, e))
		}
	}
}
