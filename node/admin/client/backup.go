package client

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

// Backup has the node write a copy of its store to w while it runs, and returns
// the bytes that w got. The copy is whole and as the node sent it where the error
// is nil, and no backup otherwise: an *Error where the node says why, or
// ErrBrokenOff. It has no timeout but ctx, and ends where the node sends nothing
// for the time of one call; how long w takes does not count.
func (c *Client) Backup(ctx context.Context, w io.Writer) (int64, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(c.timeout, func() {
		cancel(fmt.Errorf("%w: the node sent nothing for %s", ErrBrokenOff, c.timeout))
	})
	defer silence.Stop()

	req, err := c.request(ctx, http.MethodGet, c.base+"/backup", nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("TE", "trailers")
	resp, err := c.send(req)
	if err != nil {
		return 0, because(ctx, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		body, err := c.readBody(resp)
		if err != nil {
			return 0, because(ctx, err)
		}
		return 0, decodeError(resp.StatusCode, body)
	}
	sum := sha256.New()
	n, err := copyWatched(io.MultiWriter(w, sum), resp.Body, silence, c.timeout)
	if err != nil {
		return n, because(ctx, err)
	}
	return n, checkBackup(resp, n, sum.Sum(nil))
}

// copyWatched copies until the end; the timer runs while it reads.
func copyWatched(w io.Writer, r io.Reader, silence *time.Timer, allowed time.Duration) (n int64, err error) {
	buf := make([]byte, 64<<10)
	for {
		silence.Reset(allowed)
		got, readErr := r.Read(buf)
		silence.Stop()
		if got > 0 {
			wrote, err := w.Write(buf[:got])
			n += int64(wrote)
			if err != nil {
				return n, err
			}
		}
		switch {
		case errors.Is(readErr, io.EOF):
			return n, nil
		case readErr != nil:
			return n, fmt.Errorf("%w after %d bytes; the node's log says why: %w", ErrBrokenOff, n, readErr)
		}
	}
}

// checkBackup holds what came against the trailers.
func checkBackup(resp *http.Response, n int64, sum []byte) error {
	if text := resp.Trailer.Get(BackupErrorTrailer); text != "" {
		var detail ErrorDetail
		if err := json.Unmarshal([]byte(text), &detail); err != nil || detail.Code == "" {
			return fmt.Errorf("%w: %.*q", ErrBrokenOff, maxErrorText, text)
		}
		return &Error{Status: resp.StatusCode, Code: detail.Code, Message: detail.Message}
	}
	bytes, there := resp.Trailer.Get(BackupBytesTrailer), resp.Trailer.Get(BackupSumTrailer)
	switch {
	case bytes == "" || there == "":
		return fmt.Errorf("%w after %d bytes: the node did not say that it is whole", ErrBrokenOff, n)
	case bytes != strconv.FormatInt(n, 10):
		return fmt.Errorf("%w: %d bytes came of %.40q", ErrBrokenOff, n, bytes)
	case there != hex.EncodeToString(sum):
		return fmt.Errorf("%w: it is not what the node sent (its SHA-256 is another)", ErrBrokenOff)
	}
	return nil
}
