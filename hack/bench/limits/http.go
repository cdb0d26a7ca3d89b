package limits

import (
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
func HTTP(ctx context.Context, clients, events int, during time.Duration) (r Result, err error) {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return r, fmt.Errorf("HTTP: %w", err)
	}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if _, err := io.Copy(io.Discard, req.Body); err == nil {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, "null") // whoever is gone needs none
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
	event, err := anEvent()
	if err != nil {
		return r, err
	}
	rows := make([][]byte, events)
	for i := range rows {
		rows[i] = event
	}
	body, err := load.Speaker{}.Broadcast(rows)
	if err != nil {
		return r, err
	}
	target, err := load.NewTarget("http://"+listener.Addr().String(), "/events/broadcast")
	if err != nil {
		return r, err
	}
	o, err := load.Again(ctx, target, clients, [][]byte{body}, clients, during)
	return Result{Done: len(o.Samples), Elapsed: o.Elapsed, Each: o.Wholes()}, err
}
