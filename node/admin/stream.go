package admin

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/koi-net/koi-operator/node/admin/client"
)

// checkItem holds a bundle to put to its bounds; the backend checks contents.
func (s *server) checkItem(item client.PutItem) error {
	if err := checkRID("rid", item.RID); err != nil {
		return err
	}
	if most := s.limits.Protocol.ContentsBytes; len(item.Contents) > most {
		return fmt.Errorf("contents of %s: %w: %d bytes, the limit is %d", item.RID, errTooLarge, len(item.Contents), most)
	}
	if len(item.Contents) == 0 || item.Contents[0] != '{' {
		return invalid("contents of %s must be one JSON object", item.RID)
	}
	return nil
}

// putMany takes a stream of bundles and gives it to the backend in bounded
// batches. The first line that fails ends it; the lines before it stay.
func (s *server) putMany(w http.ResponseWriter, r *http.Request) {
	ctl := http.NewResponseController(w)
	p := putter{s: s, r: r, items: make([]client.PutItem, 0, s.limits.BatchItems)}
	lines := bufio.NewReaderSize(r.Body, 64<<10)
	for {
		s.extend(ctl.SetReadDeadline)
		line, err := readLine(lines, int(s.limits.Protocol.BodyBytes))
		if err != nil && !errors.Is(err, io.EOF) {
			if !errors.Is(err, errTooLarge) {
				err = invalid("the body cannot be read: %w", err)
			}
			p.line++
			s.abort(w, r, ctl, p.stop(err))
			return
		}
		if len(line) > 0 || err == nil {
			p.line++
		}
		if text := bytes.TrimSpace(line); len(text) > 0 {
			if err := p.add(text); err != nil {
				s.abort(w, r, ctl, err)
				return
			}
		}
		if err != nil {
			break
		}
	}
	noDeadline(ctl.SetReadDeadline)
	if err := p.flush(); err != nil {
		s.abort(w, r, ctl, err)
		return
	}
	s.extend(ctl.SetWriteDeadline)
	s.write(w, http.StatusOK, p.result)
}

// putter gathers the lines of one stream into batches.
type putter struct {
	s      *server
	r      *http.Request
	line   int // the line being read, from 1
	items  []client.PutItem
	lines  []int // the line of each item
	bytes  int
	result client.PutResult
}

func (p *putter) add(text []byte) error {
	var item client.PutItem
	if err := decodeObject(text, &item); err != nil {
		return p.stop(err)
	}
	if err := p.s.checkItem(item); err != nil {
		return p.stop(err)
	}
	p.items, p.lines, p.bytes = append(p.items, item), append(p.lines, p.line), p.bytes+len(item.Contents)
	if len(p.items) >= p.s.limits.BatchItems || p.bytes >= p.s.limits.BatchBytes {
		return p.flush()
	}
	return nil
}

// stop ends the stream at the current line: what came before is put, so that
// "accepted" means all lines before the one that failed.
func (p *putter) stop(err error) error {
	line := p.line
	if flushErr := p.flush(); flushErr != nil {
		return flushErr
	}
	return &lineError{line: line, result: p.result, err: fmt.Errorf("line %d: %w", line, err)}
}

func (p *putter) flush() error {
	if len(p.items) == 0 {
		return nil
	}
	res, err := p.s.cfg.Backend.Put(p.r.Context(), p.items)
	p.result.Accepted += res.Accepted
	p.result.Unchanged += res.Unchanged
	if err != nil {
		first, last := p.lines[0], p.lines[len(p.lines)-1]
		var at *ItemError
		if errors.As(err, &at) && at.Index >= 0 && at.Index < len(p.lines) {
			first, last, err = p.lines[at.Index], p.lines[at.Index], at.Err
		}
		where := "line " + strconv.Itoa(first)
		if last != first {
			where = fmt.Sprintf("lines %d to %d", first, last)
		}
		return &lineError{line: first, result: p.result, err: fmt.Errorf("%s: %w", where, err)}
	}
	// The backend may keep what it was given: only the small list is used again.
	clear(p.items)
	p.items, p.lines, p.bytes = p.items[:0], p.lines[:0], 0
	return nil
}

// abort answers an error in the midst of a stream. The rest of the body is
// passed over, within bounds, because a client that still writes might not see
// the answer otherwise.
func (s *server) abort(w http.ResponseWriter, r *http.Request, ctl *http.ResponseController, err error) {
	s.extend(ctl.SetReadDeadline)
	_, _ = io.Copy(io.Discard, io.LimitReader(r.Body, 4*s.limits.Protocol.BodyBytes))
	s.extend(ctl.SetWriteDeadline)
	s.fail(w, r, err)
}

// readLine returns the next line without its end, at most limit bytes of it.
func readLine(r *bufio.Reader, limit int) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		if len(line)+len(part) > limit {
			return nil, fmt.Errorf("%w: a line exceeds %d bytes", errTooLarge, limit)
		}
		line = append(line, part...)
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		return bytes.TrimSuffix(line, []byte("\n")), err
	}
}

// extend moves a deadline of the connection one line further. Writers without
// deadlines (tests, some proxies) go without.
func (s *server) extend(set func(time.Time) error) {
	_ = set(time.Now().Add(s.limits.LineTimeout))
}

// noDeadline takes a deadline off. net/http keeps reading in the background to
// notice a client that goes, and takes a read deadline for that.
func noDeadline(set func(time.Time) error) { _ = set(time.Time{}) }

// watch streams changes, one JSON line each, until the client goes, the feed
// is closed, or the client takes too long to read a line.
func (s *server) watch(w http.ResponseWriter, r *http.Request) {
	ctl := http.NewResponseController(w)
	h := w.Header()
	h.Set("Content-Type", "application/x-ndjson")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set(client.HeartbeatHeader, strconv.FormatFloat(s.limits.Heartbeat.Seconds(), 'f', -1, 64))
	w.WriteHeader(http.StatusOK)
	noDeadline(ctl.SetReadDeadline)
	// The answer's head tells the client that the watch is on.
	if err := ctl.Flush(); err != nil {
		return
	}
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	for c := range s.cfg.Feed.subscribe(r.Context(), r.URL.Query().Get("since"), s.limits.Heartbeat) {
		s.extend(ctl.SetWriteDeadline)
		if err := enc.Encode(c); err != nil {
			return
		}
		if err := ctl.Flush(); err != nil {
			return
		}
	}
}
