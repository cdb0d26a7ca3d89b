package limits

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/koi-net/koi-operator/hack/bench/load"
)

// HTTP has clients send bodies of a number of events to a server that reads them
// and answers null, as a node answers a broadcast, and does nothing else.
func HTTP(ctx context.Context, clients, events int, during time.Duration) (Result, error) {
	event, err := anEvent()
	if err != nil {
		return Result{}, err
	}
	rows := make([][]byte, events)
	for i := range rows {
		rows[i] = event
	}
	body, err := load.Speaker{}.Broadcast(rows)
	if err != nil {
		return Result{}, err
	}
	return exchange(ctx, "/events/broadcast", body, []byte("null"), clients, during)
}

// Answers has one client ask for an answer of a number of bytes that lies ready, as
// they do for bundles of a node.
func Answers(ctx context.Context, size int, during time.Duration) (Result, error) {
	answer := bytes.Repeat([]byte("x"), size)
	answer[0], answer[size-1] = '"', '"'
	return exchange(ctx, "/bundles/fetch", []byte("{}"), answer, 1, during)
}

// exchange has clients send a body, over and over, to a server that reads it and
// sends an answer.
func exchange(ctx context.Context, path string, body, answer []byte, clients int, during time.Duration) (r Result, err error) {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return r, fmt.Errorf("HTTP: %w", err)
	}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if _, err := io.Copy(io.Discard, req.Body); err == nil {
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write(answer) // whoever is gone needs none
		}
	})}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	defer func() {
		closed := server.Close()
		if e := <-served; !errors.Is(e, http.ErrServerClosed) {
			err = errors.Join(err, e)
		}
		err = errors.Join(err, closed)
	}()
	target, err := load.NewTarget("http://"+listener.Addr().String(), path)
	if err != nil {
		return r, err
	}
	o, err := load.Again(ctx, target, clients, [][]byte{body}, clients, during)
	return Result{Done: len(o.Samples), Elapsed: o.Elapsed, Each: o.Wholes()}, err
}
