package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// ErrSilent says that a watch brought no line for three heartbeats.
var ErrSilent = errors.New("watch fell silent")

// ErrWatchEnded says that the node ended a watch, as it does when it stops.
var ErrWatchEnded = errors.New("watch ended by the node")

// maxWatchLine bounds one change: an edge with its RID types.
const maxWatchLine = 8 << 20

// maxHeartbeat bounds the interval a node may name.
const maxHeartbeat = 5 * time.Minute

// Watch calls fn for each change after the token since ("": from now on),
// heartbeats and resets included, until ctx ends, fn fails or the connection
// does. It always returns an error: ctx's, fn's, ErrSilent, ErrWatchEnded, or
// that of the connection. It does not reconnect; see Follow.
func (c *Client) Watch(ctx context.Context, since string, fn func(Change) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// Until the head of the answer is there, a watch is a call like any other.
	silence := time.AfterFunc(c.timeout, func() {
		cancel(fmt.Errorf("%w: no answer within %s", ErrSilent, c.timeout))
	})
	defer silence.Stop()

	target := c.base + "/watch"
	if since != "" {
		target += "?since=" + url.QueryEscape(since)
	}
	req, err := c.request(ctx, http.MethodGet, target, nil)
	if err != nil {
		return err
	}
	resp, err := c.send(req)
	if err != nil {
		return because(ctx, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		body, err := c.readBody(resp)
		if err != nil {
			return because(ctx, err)
		}
		return decodeError(resp.StatusCode, body)
	}

	allowed := 3 * heartbeatOf(resp.Header)
	if !silence.Stop() {
		return because(ctx, ErrSilent)
	}
	silence = time.AfterFunc(allowed, func() { cancel(fmt.Errorf("%w for %s", ErrSilent, allowed)) })
	defer silence.Stop()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(make([]byte, 0, 4<<10), maxWatchLine)
	for lines.Scan() {
		// The clock measures the node's silence, not how long fn takes.
		silence.Stop()
		var change Change
		if err := json.Unmarshal(lines.Bytes(), &change); err != nil {
			return fmt.Errorf("watch: %w", err)
		}
		if err := fn(change); err != nil {
			return err
		}
		silence.Reset(allowed)
	}
	if err := lines.Err(); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return because(ctx, fmt.Errorf("watch: %w", err))
	}
	return because(ctx, ErrWatchEnded)
}

// because returns what ended ctx where that is why err came about.
func because(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

func heartbeatOf(h http.Header) time.Duration {
	seconds, err := strconv.ParseFloat(h.Get(HeartbeatHeader), 64)
	if err != nil || !(seconds > 0) {
		return DefaultHeartbeat
	}
	if seconds > maxHeartbeat.Seconds() {
		return maxHeartbeat
	}
	return time.Duration(seconds * float64(time.Second))
}

// FollowOptions say how Follow reconnects. Zero fields mean the default.
type FollowOptions struct {
	// MinBackoff and MaxBackoff bound the pause between attempts, which doubles
	// and is jittered; defaults 500 ms and 30 s. A watch that brought a line
	// starts again at MinBackoff.
	MinBackoff, MaxBackoff time.Duration
	// OnError is told why a watch ended before Follow tries again; an error it
	// returns ends Follow.
	OnError func(error) error
}

// Follow is Watch over and over: it resumes after the last change fn has taken
// in. Where the node cannot resume, fn sees a ChangeReset. It ends with ctx's
// error, with fn's, or with OnError's.
func (c *Client) Follow(ctx context.Context, since string, fn func(Change) error, o FollowOptions) error {
	if o.MinBackoff <= 0 {
		o.MinBackoff = 500 * time.Millisecond
	}
	if o.MaxBackoff < o.MinBackoff {
		o.MaxBackoff = max(30*time.Second, o.MinBackoff)
	}
	pause := o.MinBackoff
	for {
		var stop error
		err := c.Watch(ctx, since, func(change Change) error {
			if stop = fn(change); stop != nil {
				return stop
			}
			since, pause = change.Token, o.MinBackoff
			return nil
		})
		switch {
		case stop != nil:
			return stop
		case ctx.Err() != nil:
			return ctx.Err()
		}
		if o.OnError != nil {
			if err := o.OnError(err); err != nil {
				return err
			}
		}
		// Half of the pause is fixed, half is random: nodes that come back are
		// not asked by all their watchers at once.
		wait := time.NewTimer(pause/2 + rand.N(pause/2+1))
		select {
		case <-ctx.Done():
			wait.Stop()
			return ctx.Err()
		case <-wait.C:
		}
		pause = min(2*pause, o.MaxBackoff)
	}
}
