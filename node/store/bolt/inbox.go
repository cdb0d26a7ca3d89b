package bolt

import (
	"encoding/binary"
	"iter"

	"github.com/koi-net/koi-operator/node/store"
)

var keyInbox = []byte("inbox")

// Inbox implements store.Reader.
func (t *tx) Inbox(after uint64) iter.Seq2[store.InboxRow, error] {
	return func(yield func(store.InboxRow, error) bool) {
		var failed error
		stopped := false
		err := t.scan(bucketInbox, nil, seqKey(after), func(k, v []byte) bool {
			row, err := decodeInbox(k, v)
			if err != nil {
				failed = damaged("inbox", k, err)
				return false
			}
			stopped = !yield(row, nil)
			return !stopped
		})
		if failed != nil {
			err = failed
		}
		if err != nil && !stopped {
			yield(store.InboxRow{}, err)
		}
	}
}

func decodeInbox(k, v []byte) (store.InboxRow, error) {
	if len(k) != 8 {
		return store.InboxRow{}, errFields
	}
	r, accepted, data, err := decodeItem(k, v)
	if err != nil {
		return store.InboxRow{}, err
	}
	return store.InboxRow{Seq: binary.BigEndian.Uint64(k), RID: r, Data: data, Accepted: accepted}, nil
}

// InboxLen implements store.Reader.
func (t *tx) InboxLen() (int, error) {
	if t.over {
		return 0, errOver
	}
	n, err := t.inboxLen()
	return int(n), err
}

func (t *tx) inboxLen() (uint64, error) {
	if t.inbox != nil {
		return *t.inbox, nil
	}
	return t.count(bucketCounters, keyInbox)
}

// AppendInbox implements store.Writer.
func (t *tx) AppendInbox(rows ...store.InboxRow) ([]uint64, error) {
	n, err := t.inboxLen()
	if err != nil {
		return nil, err
	}
	seqs := make([]uint64, 0, len(rows))
	for _, row := range rows {
		need, size := t.needRoom, len(row.Data)+len(row.RID)
		if row.Frees && size <= smallAddition {
			need = t.needSpare
		}
		if err := need(size); err != nil {
			return nil, err
		}
		seq, err := t.nextSequence(bucketInbox)
		if err != nil {
			return nil, err
		}
		if row.Accepted.IsZero() {
			row.Accepted = t.clock()
		}
		key := seqKey(seq)
		if err := t.put(bucketInbox, key, encodeItem(key, row.RID, row.Accepted, row.Data)); err != nil {
			return nil, err
		}
		seqs = append(seqs, seq)
		n++
		t.inbox = &n
	}
	return seqs, nil
}

// DeleteInbox implements store.Writer.
func (t *tx) DeleteInbox(seqs ...uint64) error {
	n, err := t.inboxLen()
	if err != nil {
		return err
	}
	for _, seq := range seqs {
		key := seqKey(seq)
		v, err := t.get(bucketInbox, key)
		if err != nil {
			return err
		}
		if v == nil {
			continue
		}
		if n == 0 {
			return damaged("counters", keyInbox, errFields)
		}
		if err := t.delete(bucketInbox, key); err != nil {
			return err
		}
		n--
		t.inbox = &n
	}
	return nil
}
