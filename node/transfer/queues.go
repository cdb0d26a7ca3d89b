package transfer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

// maxQueuesFile bounds the file in which a node of 1.0 or 1.1 keeps its queues.
const maxQueuesFile = 64 << 20

// queueLimits bound what is taken over for one peer; they are the node's own.
var queueLimits = store.QueueLimits{Rows: 100_000, Bytes: 256 << 20}

// waiting is an event that waits for a peer.
type waiting struct {
	queue store.Queue
	peer  rid.RID
	event protocol.Event
}

// parseQueues reads the events that waited when the node was stopped, in their
// order for each peer. What cannot be read is told in problems and left out.
// Events that stand there twice, as 1.0.0b5 writes them when it was restarted,
// are taken once.
func parseQueues(text []byte) (rows []waiting, problems []error, err error) {
	var file struct {
		Webhook map[string][]json.RawMessage `json:"webhook"`
		Poll    map[string][]json.RawMessage `json:"poll"`
	}
	if err := json.Unmarshal(text, &file); err != nil {
		return nil, nil, err
	}
	for _, q := range []struct {
		queue store.Queue
		peers map[string][]json.RawMessage
	}{{store.Outbox, file.Webhook}, {store.PollQueue, file.Poll}} {
		for _, peer := range slices.Sorted(maps.Keys(q.peers)) {
			r, err := optionalNode(peer)
			if err != nil || r == "" {
				problems = append(problems, fmt.Errorf("events for %q: it is no node", clip(peer)))
				continue
			}
			for i, raw := range once(q.peers[peer]) {
				e, err := event(raw)
				if err != nil {
					problems = append(problems, fmt.Errorf("event %d for %s: %w", i+1, r, err))
					continue
				}
				rows = append(rows, waiting{q.queue, r, e})
			}
		}
	}
	return rows, problems, nil
}

// once leaves out what stands in a list for the second time.
func once(list []json.RawMessage) []json.RawMessage {
	seen := make(map[string]bool, len(list))
	return slices.DeleteFunc(list, func(raw json.RawMessage) bool {
		key := string(raw)
		again := seen[key]
		seen[key] = true
		return again
	})
}

func event(raw json.RawMessage) (protocol.Event, error) {
	var body bytes.Buffer
	body.WriteString(`{"events":[`)
	body.Write(raw)
	body.WriteString(`]}`)
	l := protocol.DefaultLimits()
	l.BodyBytes = maxQueuesFile + 64
	list, err := protocol.DecodeEvents(body.Bytes(), l)
	if err != nil {
		return protocol.Event{}, err
	}
	e := list[0] // the list holds the one it was made of
	switch {
	case e.Manifest != nil && e.Manifest.RID != e.RID:
		return protocol.Event{}, errors.New("its manifest is that of another RID")
	case e.Manifest != nil && e.Contents != nil:
		err = protocol.VerifyHash(e.Contents, e.Manifest.SHA256Hash)
	}
	return e, err
}

// enqueue writes waiting events for the peers that are known. A partial peer
// fetches its events, whatever the queue they waited in.
func enqueue(w store.Writer, rows []waiting, known map[rid.RID]protocol.NodeProfile) error {
	for _, row := range rows {
		p, ok := known[row.peer]
		if !ok {
			continue
		}
		q := row.queue
		if p.NodeType == protocol.Partial || p.BaseURL == "" {
			q = store.PollQueue
		}
		out := store.QueueRow{RID: row.event.RID, Event: protocol.AppendEvent(nil, row.event)}
		if _, err := w.Enqueue(q, []rid.RID{row.peer}, out, queueLimits); err != nil {
			return err
		}
	}
	return nil
}
