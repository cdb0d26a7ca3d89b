package hostile

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/koi-net/koi-operator/node/protocol"
)

// Answer is what a node answered.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte // at most 1 MiB of it
}

// Code returns the error code of a refused envelope, "" for any other answer.
func (a Answer) Code() protocol.ErrorCode {
	e, err := protocol.DecodeErrorResponse(a.Body, protocol.DefaultLimits())
	if a.Status != http.StatusBadRequest || err != nil {
		return ""
	}
	return e.Code
}

const maxAnswer = 1 << 20

// Post sends a body to a call of the node at a base URL. An error means that no
// answer came; a node may also cut the connection of who sends too much.
func (p *Peer) Post(ctx context.Context, baseURL, call string, body []byte) (Answer, error) {
	return p.send(ctx, baseURL+call, bytes.NewReader(body), int64(len(body)))
}

// Say broadcasts events to the node at a base URL, unsigned.
func (p *Peer) Say(ctx context.Context, baseURL string, events ...protocol.Event) (Answer, error) {
	return p.Post(ctx, baseURL, Broadcast, Events(events...))
}

// Introduce shakes hands with the node at a base URL, as a newcomer should: it
// broadcasts FORGET and NEW of itself.
func (p *Peer) Introduce(ctx context.Context, baseURL string) error {
	a, err := p.Say(ctx, baseURL, Forget(p.RID()), newEvent(p.Bundle()))
	if err == nil && a.Status != http.StatusOK {
		err = fmt.Errorf("the node answered %d: %s", a.Status, a.Body)
	}
	if err != nil {
		return fmt.Errorf("introducing a hostile peer: %w", err)
	}
	return nil
}

// Trickle sends a body a byte each pause (slow loris), until it was answered, cut
// off or all sent. The pause may be longer than anybody waits.
func (p *Peer) Trickle(ctx context.Context, baseURL, call string, body []byte, pause time.Duration) (Answer, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	return p.send(ctx, baseURL+call, &trickle{ctx: ctx, rest: body, pause: pause}, int64(len(body)))
}

// Flood sends a body without an end and without saying how long it is, until it
// is answered or cut off.
func (p *Peer) Flood(ctx context.Context, baseURL, call string) (Answer, error) {
	return p.send(ctx, baseURL+call, io.MultiReader(bytes.NewReader([]byte(`{"events":[`)), forever(' ')), -1)
}

func (p *Peer) send(ctx context.Context, url string, body io.Reader, size int64) (Answer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, body)
	if err != nil {
		return Answer{}, err
	}
	req.ContentLength = size
	req.Header.Set("Content-Type", "application/json")
	res, err := p.server.Client().Do(req)
	if err != nil {
		return Answer{}, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return Answer{}, fmt.Errorf("the answer of %s: %w", url, err)
	}
	return Answer{Status: res.StatusCode, Header: res.Header, Body: text}, nil
}

// trickle is a body that comes a byte at a time.
type trickle struct {
	ctx   context.Context
	rest  []byte
	pause time.Duration
}

func (t *trickle) Read(p []byte) (int, error) {
	if len(t.rest) == 0 {
		return 0, io.EOF
	}
	if len(p) == 0 {
		return 0, nil
	}
	timer := time.NewTimer(t.pause)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.ctx.Done():
		return 0, t.ctx.Err()
	}
	p[0], t.rest = t.rest[0], t.rest[1:]
	return 1, nil
}
