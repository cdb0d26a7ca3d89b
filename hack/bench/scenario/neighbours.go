package scenario

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// neighbours are full nodes of the unsigned generation that know what they are
// asked for and take whatever they are told: one listener, a path for each.
type neighbours struct {
	url    string
	server *http.Server
	served chan error

	mu    sync.RWMutex
	known map[rid.RID][]byte
}

// listen starts to answer.
func listen(ctx context.Context) (*neighbours, error) {
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("neighbours: %w", err)
	}
	n := &neighbours{url: "http://" + l.Addr().String(), served: make(chan error, 1), known: map[rid.RID][]byte{}}
	n.server = &http.Server{Handler: http.HandlerFunc(n.answer), ReadHeaderTimeout: time.Minute}
	go func() { n.served <- n.server.Serve(l) }()
	return n, nil
}

// close ends all connections and waits.
func (n *neighbours) close() error {
	err := n.server.Close()
	if e := <-n.served; !errors.Is(e, http.ErrServerClosed) {
		err = errors.Join(err, e)
	}
	return err
}

// note passes bundles on, and has the neighbours know them.
func (n *neighbours) note(bundles iter.Seq2[protocol.Bundle, error]) iter.Seq2[protocol.Bundle, error] {
	return func(yield func(protocol.Bundle, error) bool) {
		for b, err := range bundles {
			n.mu.Lock()
			n.known[b.Manifest.RID] = protocol.AppendBundle(nil, b)
			n.mu.Unlock()
			if !yield(b, err) {
				return
			}
		}
	}
}

// answer serves one call.
func (n *neighbours) answer(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	answer := "null"
	if strings.HasSuffix(r.URL.Path, "/bundles/fetch") {
		asked, err := protocol.DecodeFetchBundles(body, protocol.DefaultLimits())
		if err != nil {
			http.Error(w, err.Error(), http.StatusUnprocessableEntity)
			return
		}
		answer = n.bundles(asked.RIDs)
	}
	_, _ = io.WriteString(w, answer) // whoever is gone needs none
}

// bundles makes the answer to a request for bundles.
func (n *neighbours) bundles(rids []rid.RID) string {
	n.mu.RLock()
	defer n.mu.RUnlock()
	var found []string
	var missing []rid.RID
	for _, r := range rids {
		if b, ok := n.known[r]; ok {
			found = append(found, string(b))
		} else {
			missing = append(missing, r)
		}
	}
	return fmt.Sprintf(`{"bundles":[%s],"not_found":%s,"deferred":[]}`, strings.Join(found, ","), protocol.AppendRIDs(nil, missing))
}
