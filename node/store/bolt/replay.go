package bolt

import (
	"errors"
	"time"

	"github.com/koi-net/koi-operator/node/store"
)

var keyReplay = []byte("replay")

// replayBytes is about what one key takes: an entry in replay, one in noted.
const replayBytes = 96

// Of a key the first 16 bytes are kept. Keys are digests of a cryptographic hash:
// with a million held, another body has one of them by chance once in 2^108.
// Whoever wants to keep somebody's body out must know its key before it is
// accepted and find a body of his own with those 16 bytes, which takes 2^128
// tries; two bodies of his own that agree, at 2^64, harm him alone.
func shortKey(key [32]byte) digest { return digest(key[:len(digest{})]) }

// Remembered implements store.Reader.
func (t *tx) Remembered(key [32]byte) (bool, error) {
	short := shortKey(key)
	seq, err := t.count(bucketReplay, short[:])
	return seq != 0, err
}

// ReplayLen implements store.Reader.
func (t *tx) ReplayLen() (int, error) {
	if t.over {
		return 0, errOver
	}
	n, err := t.replayLen()
	return int(n), err
}

func (t *tx) replayLen() (uint64, error) {
	if t.replay != nil {
		return *t.replay, nil
	}
	return t.count(bucketCounters, keyReplay)
}

// Remember implements store.Writer.
func (t *tx) Remember(key [32]byte, at time.Time, bounds store.ReplayBounds) (bool, error) {
	if seen, err := t.Remembered(key); seen || err != nil {
		return seen, err
	}
	if err := t.needSpare(replayBytes); err != nil {
		return false, err
	}
	if at.IsZero() {
		at = t.clock()
	}
	own, err := t.noteKey(notedAt(shortKey(key), at))
	if err != nil {
		return false, err
	}
	for range store.MaxReplayDrops {
		more, err := t.dropNoted(own, at, bounds)
		if err != nil || !more {
			return false, err
		}
	}
	return false, nil
}

// noteKey adds a key and returns the key of its row in noted.
func (t *tx) noteKey(n noted) (row []byte, err error) {
	held, err := t.replayLen()
	if err != nil {
		return nil, err
	}
	seq, err := t.nextSequence(bucketNoted)
	if err != nil {
		return nil, err
	}
	if err := t.put(bucketReplay, n.key[:], encodeCount(n.key[:], seq)); err != nil {
		return nil, err
	}
	row = seqKey(seq)
	if err := t.put(bucketNoted, row, encodeNoted(row, n)); err != nil {
		return nil, err
	}
	held++
	t.replay = &held
	return row, nil
}

// dropNoted drops the key noted first if it is due, and reports whether it was.
// own is the row just added, which never is.
func (t *tx) dropNoted(own []byte, now time.Time, bounds store.ReplayBounds) (bool, error) {
	held, err := t.replayLen()
	if err != nil {
		return false, err
	}
	tooMany := bounds.Rows > 0 && held > uint64(bounds.Rows)
	if !tooMany && bounds.Age <= 0 {
		return false, nil
	}
	row, first, err := t.firstNoted()
	if err != nil {
		return false, err
	}
	if !tooMany && !first.before(now.Add(-bounds.Age)) {
		return false, nil
	}
	if string(row) == string(own) {
		return false, damaged("counters", keyReplay, errNotThere)
	}
	if err := t.delete(bucketReplay, first.key[:]); err != nil {
		return false, err
	}
	if err := t.delete(bucketNoted, row); err != nil {
		return false, err
	}
	held--
	t.replay = &held
	return true, nil
}

var errNotThere = errors.New("it counts keys that are not there")

// firstNoted returns the row of the key noted first, once it is sure that the
// two belong together. It is called with one key held at least.
func (t *tx) firstNoted() (row []byte, first noted, err error) {
	var failed error
	err = t.scan(bucketNoted, nil, nil, func(k, v []byte) bool {
		row = append(row, k...)
		if first, failed = decodeNoted(k, v); failed != nil {
			failed = damaged("noted", k, failed)
		}
		return false
	})
	if failed != nil {
		err = failed
	}
	if err != nil {
		return nil, noted{}, err
	}
	if row == nil {
		return nil, noted{}, damaged("counters", keyReplay, errNotThere)
	}
	seq, err := t.count(bucketReplay, first.key[:])
	if err != nil {
		return nil, noted{}, err
	}
	if string(seqKey(seq)) != string(row) {
		return nil, noted{}, damaged("noted", row, errors.New("its key has another row, or none"))
	}
	return row, first, nil
}
