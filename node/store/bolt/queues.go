package bolt

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"iter"
	"time"

	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

// queueByte is how a queue's name stands in keys.
func queueByte(q store.Queue) (byte, error) {
	switch q {
	case store.Outbox:
		return 'o', nil
	case store.PollQueue:
		return 'p', nil
	}
	return 0, fmt.Errorf("there is no queue %q", string(q))
}

func peerKey(q store.Queue, peer rid.RID) ([]byte, error) {
	b, err := queueByte(q)
	if err != nil {
		return nil, err
	}
	if peer.Type() == "" {
		return nil, fmt.Errorf("%w %s as a peer", rid.ErrInvalid, printable([]byte(peer)))
	}
	return append([]byte{b}, peer...), nil
}

func digestOf(r rid.RID) digest {
	sum := sha256.Sum256([]byte(r))
	return digest(sum[:16])
}

// lane makes the keys of one peer's rows in one queue.
type lane [9]byte

func laneOf(queue byte, id uint64) (l lane) {
	l[0] = queue
	binary.BigEndian.PutUint64(l[1:], id)
	return l
}

func (l lane) row(seq uint64) []byte {
	return binary.BigEndian.AppendUint64(append(make([]byte, 0, len(l)+8), l[:]...), seq)
}

func (l lane) latest(d digest) []byte {
	return append(append(make([]byte, 0, len(l)+len(d)), l[:]...), d[:]...)
}

// seqOf takes the sequence number off a row's key.
func seqOf(key []byte) (uint64, error) {
	if len(key) != len(lane{})+8 {
		return 0, errFields
	}
	return binary.BigEndian.Uint64(key[len(lane{}):]), nil
}

// peer returns the figures of a peer, or nil where it has none.
func (t *tx) peer(key []byte) (*peerState, error) {
	if t.over {
		return nil, errOver
	}
	if p := t.peers[string(key)]; p != nil {
		return p, nil
	}
	v, err := t.get(bucketPeers, key)
	if err != nil || v == nil {
		return nil, err
	}
	p, err := decodePeer(key, v)
	if err != nil {
		return nil, damaged("peers", key, err)
	}
	return &p, nil
}

// ownPeer is peer for a change: it makes the entry where there is none, and
// has it written at the end of the transaction.
func (t *tx) ownPeer(key []byte) (*peerState, error) {
	p, err := t.peer(key)
	if err != nil {
		return nil, err
	}
	if p == nil {
		id, err := t.nextSequence(bucketPeers)
		if err != nil {
			return nil, err
		}
		p = &peerState{id: id}
	}
	if t.peers == nil {
		t.peers = make(map[string]*peerState)
		t.stale = make(map[string]struct{})
	}
	t.changes++
	t.peers[string(key)] = p
	t.stale[string(key)] = struct{}{}
	return p, nil
}

// QueueRows implements store.Reader.
func (t *tx) QueueRows(q store.Queue, peer rid.RID, after uint64) iter.Seq2[store.QueueRow, error] {
	return func(yield func(store.QueueRow, error) bool) {
		stopped := false
		err := t.queueRows(q, peer, after, func(row store.QueueRow) bool {
			stopped = !yield(row, nil)
			return !stopped
		})
		if err != nil && !stopped {
			yield(store.QueueRow{}, err)
		}
	}
}

func (t *tx) queueRows(q store.Queue, peer rid.RID, after uint64, fn func(store.QueueRow) bool) error {
	key, err := peerKey(q, peer)
	if err != nil {
		return err
	}
	p, err := t.peer(key)
	if err != nil || p == nil {
		return err
	}
	l := laneOf(key[0], p.id)
	var failed error
	err = t.scan(bucketRows, l[:], l.row(after), func(k, v []byte) bool {
		row, err := t.queueRow(k, v)
		if err != nil {
			failed = err
			return false
		}
		row.Peer = peer
		return fn(row)
	})
	if failed != nil {
		return failed
	}
	return err
}

// queueRow puts a row and its body together.
func (t *tx) queueRow(k, v []byte) (store.QueueRow, error) {
	seq, err := seqOf(k)
	if err == nil {
		_, err = decodeRow(k, v)
	}
	if err != nil {
		return store.QueueRow{}, damaged("rows", k, err)
	}
	key := seqKey(seq)
	body, err := t.get(bucketBodies, key)
	if err != nil {
		return store.QueueRow{}, err
	}
	if body == nil {
		return store.QueueRow{}, damaged("rows", k, fmt.Errorf("its event is missing"))
	}
	r, queued, event, err := decodeItem(key, body)
	if err != nil {
		return store.QueueRow{}, damaged("bodies", key, err)
	}
	return store.QueueRow{Seq: seq, RID: r, Event: event, Queued: queued}, nil
}

// queuedAt reads of a row's body the time alone.
func (t *tx) queuedAt(k []byte) (time.Time, error) {
	seq, err := seqOf(k)
	if err != nil {
		return time.Time{}, damaged("rows", k, err)
	}
	key := seqKey(seq)
	body, err := t.get(bucketBodies, key)
	if err != nil {
		return time.Time{}, err
	}
	payload, err := unseal(key, body)
	d := decoder{rest: payload}
	d.take(d.uvarint()) // the RID
	queued := d.time()
	if err == nil && d.bad {
		err = errFields
	}
	if err != nil {
		return time.Time{}, damaged("bodies", key, err)
	}
	return queued, nil
}

// Queues implements store.Reader.
func (t *tx) Queues(q store.Queue) (map[rid.RID]store.QueueStats, error) {
	b, err := queueByte(q)
	if err != nil {
		return nil, err
	}
	if t.over {
		return nil, errOver
	}
	if len(t.stale) > 0 {
		if err := t.flush(); err != nil {
			return nil, err
		}
	}
	all := make(map[rid.RID]store.QueueStats)
	var failed error
	err = t.scan(bucketPeers, []byte{b}, nil, func(k, v []byte) bool {
		p, err := decodePeer(k, v)
		if err != nil {
			failed = damaged("peers", k, err)
			return false
		}
		peer := rid.RID(k[1:])
		all[peer], failed = t.stats(b, p)
		return failed == nil
	})
	if failed != nil {
		err = failed
	}
	if err != nil {
		return nil, err
	}
	return all, nil
}

// QueueStats implements store.Reader.
func (t *tx) QueueStats(q store.Queue, peer rid.RID) (store.QueueStats, error) {
	key, err := peerKey(q, peer)
	if err != nil {
		return store.QueueStats{}, err
	}
	p, err := t.peer(key)
	if err != nil || p == nil {
		return store.QueueStats{}, err
	}
	return t.stats(key[0], *p)
}

func (t *tx) stats(queue byte, p peerState) (store.QueueStats, error) {
	s := store.QueueStats{Rows: int(p.rows), Bytes: int64(p.bytes), ResyncNeeded: p.resync}
	if p.rows == 0 {
		return s, nil
	}
	l := laneOf(queue, p.id)
	var failed error
	err := t.scan(bucketRows, l[:], nil, func(k, _ []byte) bool {
		s.Oldest, failed = t.queuedAt(k)
		return false
	})
	if failed != nil {
		err = failed
	}
	return s, err
}

// Enqueue implements store.Writer.
func (t *tx) Enqueue(q store.Queue, peers []rid.RID, event store.QueueRow, limits store.QueueLimits) (map[rid.RID]store.Drops, error) {
	size := len(event.Event)
	tooLarge := limits.Bytes > 0 && int64(size) > limits.Bytes
	if event.RID.Type() == "" {
		return nil, fmt.Errorf("%w %s of an event", rid.ErrInvalid, printable([]byte(event.RID)))
	}
	keys := make(map[rid.RID][]byte, len(peers))
	for _, peer := range peers {
		key, err := peerKey(q, peer)
		if err != nil {
			return nil, err
		}
		keys[peer] = key
	}
	if len(keys) == 0 {
		return nil, nil
	}
	if tooLarge { // it would drive out everything else and still not fit
		dropped := make(map[rid.RID]store.Drops, len(keys))
		for peer, key := range keys {
			p, err := t.ownPeer(key)
			if err != nil {
				return nil, err
			}
			dropped[peer] = store.Drops{TooLarge: 1, Marked: !p.resync}
			p.resync = true
		}
		return dropped, nil
	}
	need := t.needRoom
	if t.freed && size <= smallAddition {
		need = t.needSpare
	}
	if err := need(size + len(event.RID) + 128*len(keys)); err != nil {
		return nil, err
	}
	if event.Queued.IsZero() {
		event.Queued = t.clock()
	}
	seq, err := t.nextSequence(bucketBodies)
	if err != nil {
		return nil, err
	}
	body := seqKey(seq)
	if err := t.put(bucketBodies, body, encodeItem(body, event.RID, event.Queued, event.Event)); err != nil {
		return nil, err
	}
	if err := t.put(bucketRefs, body, encodeCount(body, uint64(len(keys)))); err != nil {
		return nil, err
	}
	var dropped map[rid.RID]store.Drops
	r := row{size: size, rid: digestOf(event.RID)}
	for _, peer := range peers { // in the order given, so that files come out alike
		key := keys[peer]
		if key == nil {
			continue // given twice
		}
		delete(keys, peer)
		lost, err := t.enqueueFor(key, seq, r, limits)
		if err != nil {
			return nil, err
		}
		if lost != (store.Drops{}) {
			if dropped == nil {
				dropped = make(map[rid.RID]store.Drops)
			}
			dropped[peer] = lost
		}
	}
	return dropped, nil
}

// enqueueFor adds the row for one peer and brings the peer back within limits.
// It returns what was dropped.
func (t *tx) enqueueFor(key []byte, seq uint64, r row, limits store.QueueLimits) (dropped store.Drops, err error) {
	p, err := t.ownPeer(key)
	if err != nil {
		return dropped, err
	}
	l := laneOf(key[0], p.id)
	rowKey, latestKey := l.row(seq), l.latest(r.rid)
	former, err := t.count(bucketLatest, latestKey)
	if err != nil {
		return dropped, err
	}
	if former != 0 {
		if err := t.put(bucketSuperseded, l.row(former), []byte{}); err != nil {
			return dropped, err
		}
	}
	if err := t.put(bucketLatest, latestKey, encodeCount(latestKey, seq)); err != nil {
		return dropped, err
	}
	if err := t.put(bucketRows, rowKey, encodeRow(rowKey, r)); err != nil {
		return dropped, err
	}
	p.rows++
	p.bytes += uint64(r.size)

	for exceeds(*p, limits) {
		victim, superseded, err := t.victim(l)
		if err != nil {
			return dropped, err
		}
		found, err := t.deleteRow(l, p, victim)
		if err != nil {
			return dropped, err
		}
		if !found {
			return dropped, damaged("peers", key, fmt.Errorf("it counts rows that are not there"))
		}
		if superseded {
			dropped.Superseded++
			continue
		}
		dropped.Oldest++
		dropped.Marked = dropped.Marked || !p.resync
		p.resync = true
	}
	return dropped, nil
}

func exceeds(p peerState, limits store.QueueLimits) bool {
	return limits.Rows > 0 && p.rows > uint64(limits.Rows) || limits.Bytes > 0 && p.bytes > uint64(limits.Bytes)
}

// victim is the row to drop at a bound: the oldest superseded one, else the oldest.
func (t *tx) victim(l lane) (seq uint64, superseded bool, err error) {
	for _, id := range []bucket{bucketSuperseded, bucketRows} {
		var failed error
		err := t.scan(id, l[:], nil, func(k, _ []byte) bool {
			if seq, failed = seqOf(k); failed != nil {
				failed = damaged(bucketNames[id], k, failed)
			}
			return false
		})
		if failed != nil {
			err = failed
		}
		if err != nil || seq != 0 {
			return seq, id == bucketSuperseded, err
		}
	}
	return 0, false, nil
}

// deleteRow removes one row with all that points to it, and its body with the
// last row. It reports whether the row was there.
func (t *tx) deleteRow(l lane, p *peerState, seq uint64) (bool, error) {
	key := l.row(seq)
	v, err := t.get(bucketRows, key)
	if err != nil || v == nil {
		return false, err
	}
	r, err := decodeRow(key, v)
	if err != nil {
		return false, damaged("rows", key, err)
	}
	if p.rows == 0 || p.bytes < uint64(r.size) {
		return false, damaged("rows", key, fmt.Errorf("its peer's figures do not count it"))
	}
	latestKey := l.latest(r.rid)
	latest, err := t.count(bucketLatest, latestKey)
	if err != nil {
		return false, err
	}
	if latest == seq {
		err = t.delete(bucketLatest, latestKey)
	} else {
		err = t.delete(bucketSuperseded, key)
	}
	if err != nil {
		return false, err
	}
	if err := t.delete(bucketRows, key); err != nil {
		return false, err
	}
	p.rows--
	p.bytes -= uint64(r.size)

	body := seqKey(seq)
	refs, err := t.count(bucketRefs, body)
	switch {
	case err != nil:
		return false, err
	case refs > 1:
		return true, t.put(bucketRefs, body, encodeCount(body, refs-1))
	}
	if err := t.delete(bucketRefs, body); err != nil {
		return false, err
	}
	return true, t.delete(bucketBodies, body)
}

// DeleteQueueRows implements store.Writer.
func (t *tx) DeleteQueueRows(q store.Queue, peer rid.RID, seqs ...uint64) error {
	key, err := peerKey(q, peer)
	if err != nil {
		return err
	}
	if p, err := t.peer(key); err != nil || p == nil || len(seqs) == 0 {
		return err
	}
	p, err := t.ownPeer(key)
	if err != nil {
		return err
	}
	l := laneOf(key[0], p.id)
	for _, seq := range seqs {
		if _, err := t.deleteRow(l, p, seq); err != nil {
			return err
		}
	}
	return nil
}

// DropQueue implements store.Writer.
func (t *tx) DropQueue(q store.Queue, peer rid.RID) error {
	key, err := peerKey(q, peer)
	if err != nil {
		return err
	}
	if p, err := t.peer(key); err != nil || p == nil {
		return err
	}
	p, err := t.ownPeer(key)
	if err != nil {
		return err
	}
	l := laneOf(key[0], p.id)
	var failed error
	err = t.scan(bucketRows, l[:], nil, func(k, _ []byte) bool {
		var seq uint64
		if seq, failed = seqOf(k); failed != nil {
			failed = damaged("rows", k, failed)
			return false
		}
		_, failed = t.deleteRow(l, p, seq)
		return failed == nil
	})
	if failed != nil {
		return failed
	}
	if err != nil {
		return err
	}
	p.resync = false
	return nil
}

// SetResyncNeeded implements store.Writer.
func (t *tx) SetResyncNeeded(q store.Queue, peer rid.RID, needed bool) error {
	key, err := peerKey(q, peer)
	if err != nil {
		return err
	}
	p, err := t.peer(key)
	if err != nil || !needed && p == nil || p != nil && p.resync == needed {
		return err
	}
	if p, err = t.ownPeer(key); err != nil {
		return err
	}
	p.resync = needed
	return nil
}
