package node

import (
	"net"
	"net/http"
	"sync"
)

// unusedConns knows a server's connections on which nothing was sent yet.
// Shutdown would wait seconds for them, as it cannot tell whether a request is
// on its way; a client that meets a closed connection just opens another.
type unusedConns struct {
	mu      sync.Mutex
	conns   map[net.Conn]bool
	closing bool
}

// track is the server's ConnState hook.
func (u *unusedConns) track(c net.Conn, s http.ConnState) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if s != http.StateNew {
		delete(u.conns, c)
		return
	}
	if u.closing {
		_ = c.Close() // it came too late to be served
		return
	}
	if u.conns == nil {
		u.conns = map[net.Conn]bool{}
	}
	u.conns[c] = true
}

// close is the server's shutdown hook.
func (u *unusedConns) close() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.closing = true
	for c := range u.conns {
		_ = c.Close() // nothing was sent on it
	}
}
