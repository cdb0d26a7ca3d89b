package server

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// Bounds of an answer's parts.
const (
	// partBytes is what an answer gathers before it is written to the peer; it
	// ends a page of store rows too. One bundle may exceed it.
	partBytes = 256 << 10
	// pageRows bounds the rows read in one store transaction.
	pageRows = 4000
	// itemRoom is free in the buffer when an item is begun; few take more.
	itemRoom = 4 << 10
	// keepBytes is the largest buffer kept for later answers and bodies.
	keepBytes = 1 << bitsOfLargest
)

var buffers = sync.Pool{New: func() any { return new([]byte) }}

// answer is an answer that is written part by part; JSON, where no other Content-Type
// is set. As long as nothing has gone out it may still become an error answer.
type answer struct {
	w       http.ResponseWriter
	ctl     *http.ResponseController
	pooled  *[]byte
	buf     []byte
	items   int  // in the list that is open
	sent    bool // the head has gone out
	expires time.Time
	// seal makes it an envelope; nil for an unsigned answer.
	seal       *seal
	generation string // of the request, for the metrics
	program    string // that asks, as its User-Agent says
	entered    bool   // it counts as one of the calls at once
}

func newAnswer(w http.ResponseWriter) *answer {
	p := buffers.Get().(*[]byte)
	return &answer{
		w:       w,
		ctl:     http.NewResponseController(w),
		pooled:  p,
		buf:     (*p)[:0],
		expires: time.Now().Add(AnswerTimeout),
	}
}

func (a *answer) recycle() {
	if cap(a.buf) <= keepBytes {
		*a.pooled = a.buf[:0]
		buffers.Put(a.pooled)
	}
	a.buf, a.pooled = nil, nil
}

func (a *answer) text(s string) { a.buf = append(a.buf, s...) }

// Write gathers p like text, and writes whole parts to the peer.
func (a *answer) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		room := min(len(p), max(1, partBytes-len(a.buf)))
		a.buf = append(a.buf, p[:room]...)
		p = p[room:]
		if err := a.spill(); err != nil {
			return n - len(p), err
		}
	}
	return n, nil
}

// list opens a list; text before it is the caller's.
func (a *answer) list(open string) {
	a.text(open)
	a.items = 0
}

// item begins the next element of the open list.
func (a *answer) item() {
	if cap(a.buf)-len(a.buf) < itemRoom {
		a.grow()
	}
	if a.items > 0 {
		a.buf = append(a.buf, ',')
	}
	a.items++
}

// grow makes room in three steps: a few items, some, a whole part. By its own
// measure a slice takes many more.
func (a *answer) grow() {
	for _, size := range [...]int{itemRoom, 16 * itemRoom, partBytes + 2*itemRoom} {
		if size >= len(a.buf)+itemRoom {
			a.buf = slices.Grow(a.buf, size-len(a.buf))
			return
		}
	}
	a.buf = slices.Grow(a.buf, len(a.buf)+itemRoom)
}

// payload opens the answer proper with its first list.
func (a *answer) payload(kind protocol.PayloadType, list string) {
	a.text("{")
	if a.seal != nil {
		a.text(`"payload":{"type":"` + string(kind) + `",`)
	}
	a.list(list)
}

// The items of lists, in the form of the answer's generation.

func (a *answer) rid(r rid.RID) {
	a.item()
	if a.seal != nil {
		a.buf = protocol.AppendSignedRID(a.buf, r)
		return
	}
	a.buf = protocol.AppendString(a.buf, string(r))
}

func (a *answer) ridOf(m *protocol.RawManifest) {
	a.item()
	if a.seal != nil {
		a.buf = protocol.AppendSignedRawRID(a.buf, m.RawRID)
		return
	}
	a.buf = protocol.AppendRawRID(a.buf, m.RawRID)
}

func (a *answer) manifest(m *protocol.RawManifest) {
	a.item()
	if a.seal != nil {
		a.buf = protocol.AppendSignedRawManifest(a.buf, m)
		return
	}
	a.buf = protocol.AppendRawManifest(a.buf, m)
}

func (a *answer) bundle(b *protocol.RawBundle) {
	a.item()
	if a.seal != nil {
		from := len(a.buf)
		a.buf = a.seal.restyle(protocol.AppendSignedRawBundle(a.buf, b), from)
		return
	}
	a.buf = protocol.AppendRawBundle(a.buf, b)
}

// event writes an event that protocol.AppendEvent wrote. On an error, that it did
// not, nothing is written.
func (a *answer) event(row []byte) error {
	before, items := len(a.buf), a.items
	a.item()
	if a.seal == nil {
		a.buf = append(a.buf, row...)
		return nil
	}
	from := len(a.buf)
	signed, err := protocol.AppendSignedRow(a.buf, row)
	if err != nil {
		a.buf, a.items = a.buf[:before], items
		return err
	}
	a.buf = a.seal.restyle(signed, from)
	return nil
}

// rids writes a whole list of RIDs.
func (a *answer) rids(open string, rids []rid.RID, end string) error {
	a.list(open)
	for _, r := range rids {
		a.rid(r)
		if err := a.spill(); err != nil {
			return err
		}
	}
	a.text(end)
	return nil
}

// spill writes what is gathered to the peer if that is a whole part.
func (a *answer) spill() error {
	if len(a.buf) < partBytes {
		return nil
	}
	return a.flush()
}

func (a *answer) flush() error {
	now := time.Now()
	if !now.Before(a.expires) {
		return errTooSlow
	}
	deadline := now.Add(StallTimeout)
	if deadline.After(a.expires) {
		deadline = a.expires
	}
	// A recorder in a test has no deadlines; a connection always has.
	_ = a.ctl.SetWriteDeadline(deadline)
	if !a.sent {
		a.sent = true
		if h := a.w.Header(); h.Get("Content-Type") == "" {
			h.Set("Content-Type", "application/json")
		}
		a.w.WriteHeader(http.StatusOK)
	}
	if a.seal != nil {
		a.seal.hash.Write(a.buf)
	}
	_, err := a.w.Write(a.buf)
	a.buf = a.buf[:0]
	if err != nil {
		return fmt.Errorf("%w: %w", errGone, err)
	}
	return nil
}

// finish writes the rest and waits until the connection has taken it, so that
// nil means that the whole answer is on its way.
func (a *answer) finish() error {
	if a.seal != nil {
		closed, err := a.seal.close(a.buf)
		if err != nil {
			return err
		}
		a.buf, a.seal = closed, nil
	}
	if !a.sent {
		a.w.Header().Set("Content-Length", strconv.Itoa(len(a.buf)))
	}
	if err := a.flush(); err != nil {
		return err
	}
	if err := a.ctl.Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return fmt.Errorf("%w: %w", errGone, err)
	}
	return nil
}
