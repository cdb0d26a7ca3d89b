package admin

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/koi-net/koi-operator/node/admin/client"
)

// backupPart bounds what one deadline is given for.
const backupPart = 256 << 10

var errStopping = fmt.Errorf("%w: the node is stopping; take the backup again", ErrUnavailable)

// backup streams a copy of the store, one at a time: a snapshot keeps the room of
// what is deleted after it. The answer has begun long before it is known whether
// the copy is good, so that stands in the trailers. Who does not ask for trailers
// has the connection cut instead.
func (s *server) backup(w http.ResponseWriter, r *http.Request) {
	select {
	case s.backups <- struct{}{}:
		defer func() { <-s.backups }()
	default:
		s.fail(w, r, fmt.Errorf("%w: a backup is being taken; try again when it has ended", ErrConflict))
		return
	}
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	timer := time.AfterFunc(s.limits.BackupTime, func() {
		cancel(fmt.Errorf("%w: the backup took longer than %s", ErrUnavailable, s.limits.BackupTime))
	})
	defer timer.Stop()
	b := &backupStream{s: s, w: w, ctl: http.NewResponseController(w), sum: sha256.New()}
	noDeadline(b.ctl.SetReadDeadline)

	// A stop does not wait for who reads slowly.
	var watch sync.WaitGroup
	over := make(chan struct{})
	watch.Go(func() {
		select {
		case <-s.cfg.Feed.done:
			cancel(errStopping)
		case <-ctx.Done():
		case <-over:
			return
		}
		b.cut(context.Cause(ctx))
	})
	err := s.cfg.Backend.Backup(ctx, b)
	close(over)
	watch.Wait()

	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	switch {
	case r.Context().Err() != nil:
		s.log.DebugContext(r.Context(), "the client left before the backup was whole", "bytes", b.bytes)
	case err != nil && !b.begun:
		s.extend(b.ctl.SetWriteDeadline)
		s.fail(w, r, err)
	case err != nil:
		s.log.ErrorContext(r.Context(), "the backup failed", "bytes", b.bytes, "error", err)
		b.fail(r, err)
	default:
		b.end()
	}
}

// backupStream is the answer with a backup. It begins with the first bytes.
type backupStream struct {
	s     *server
	w     http.ResponseWriter
	ctl   *http.ResponseController
	begun bool
	bytes int64
	sum   hash.Hash

	mu  sync.Mutex // of the deadline
	why error      // it was cut
}

func (b *backupStream) begin() {
	b.begun = true
	h := b.w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Trailer", strings.Join([]string{client.BackupBytesTrailer, client.BackupSumTrailer, client.BackupErrorTrailer}, ", "))
	b.w.WriteHeader(http.StatusOK)
}

// Write sends p, each part of it within the time that a client has for one.
func (b *backupStream) Write(p []byte) (n int, err error) {
	if !b.begun {
		b.begin()
	}
	for n < len(p) && err == nil {
		if err = b.extend(); err != nil {
			return n, err
		}
		var sent int
		sent, err = b.w.Write(p[n:min(len(p), n+backupPart)])
		b.sum.Write(p[n : n+sent])
		n += sent
	}
	b.bytes += int64(n)
	return n, err
}

// extend gives the client its time for another part.
func (b *backupStream) extend() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.why == nil {
		b.s.extend(b.ctl.SetWriteDeadline)
	}
	return b.why
}

// cut ends a write that is under way, and all that follow.
func (b *backupStream) cut(why error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.why = why
	_ = b.ctl.SetWriteDeadline(time.Now()) // without deadlines the write ends by itself
}

func (b *backupStream) end() {
	if !b.begun {
		b.begin()
	}
	b.s.extend(b.ctl.SetWriteDeadline)
	b.w.Header().Set(client.BackupBytesTrailer, strconv.FormatInt(b.bytes, 10))
	b.w.Header().Set(client.BackupSumTrailer, hex.EncodeToString(b.sum.Sum(nil)))
}

// fail ends an answer that has begun.
func (b *backupStream) fail(r *http.Request, err error) {
	_, code := classify(err)
	text, encodeErr := json.Marshal(client.ErrorDetail{Code: code, Message: err.Error()})
	if encodeErr != nil || !takesTrailers(r) {
		panic(http.ErrAbortHandler) // the way to cut a connection in net/http
	}
	b.s.extend(b.ctl.SetWriteDeadline)
	b.w.Header().Set(client.BackupErrorTrailer, string(text))
}

func takesTrailers(r *http.Request) bool {
	for _, value := range r.Header.Values("TE") {
		for _, token := range strings.Split(value, ",") {
			if strings.EqualFold(strings.TrimSpace(token), "trailers") {
				return true
			}
		}
	}
	return false
}
