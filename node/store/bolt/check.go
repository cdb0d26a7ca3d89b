package bolt

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

// Check implements store.Store. It works on one snapshot, beside readers and
// the writer; the pages the snapshot holds are not reused meanwhile, so the
// file may grow. It stops at the first fault.
func (s *Store) Check(ctx context.Context) error {
	err := errSnapshotGone
	for try := 0; try < 10 && errors.Is(err, errSnapshotGone); try++ {
		err = s.check(ctx)
	}
	return err
}

func (s *Store) check(ctx context.Context) error {
	return s.View(ctx, func(r store.Reader) error {
		t := r.(*tx)
		if err := s.checkLayout(ctx, t); err != nil {
			return err
		}
		c := checker{tx: t}
		for _, step := range []func() error{c.bundles, c.types, c.inboxRows, c.queues, c.bodies, c.decisions, c.values, c.replay} {
			if err := step(); err != nil {
				return err
			}
		}
		return nil
	})
}

// checkLayout verifies the structure of the snapshot t reads, whose pages stay
// as they are while t is open.
func (s *Store) checkLayout(ctx context.Context, t *tx) error {
	f, err := os.Open(s.path)
	if err != nil {
		return fmt.Errorf("check the store: %w", err)
	}
	defer f.Close()
	size, err := s.Size()
	if err != nil {
		return err
	}
	heads, err := readHeads(f, size)
	if err != nil {
		return layoutError(s.path, err)
	}
	for _, l := range heads {
		if l.txid == uint64(t.btx.ID()) {
			if err := l.verify(ctx); err != nil {
				return layoutError(s.path, err)
			}
			return nil
		}
	}
	return errSnapshotGone
}

// errSnapshotGone: the head of the snapshot was overwritten by later commits
// before it was read.
var errSnapshotGone = errors.New("check the store: it changes faster than its head can be read; try again")

// checker reads every record, and holds what is derived against its source.
type checker struct {
	*tx
	rows uint64 // queue rows seen
}

// each decodes all records of a bucket.
func (c *checker) each(id bucket, prefix []byte, fn func(k, v []byte) error) error {
	var failed error
	err := c.scan(id, prefix, nil, func(k, v []byte) bool {
		failed = fn(k, v)
		if failed != nil && !errors.Is(failed, store.ErrDamaged) {
			failed = damaged(bucketNames[id], k, failed)
		}
		return failed == nil
	})
	if failed != nil {
		return failed
	}
	return err
}

func (c *checker) bundles() error {
	entries := 0
	err := c.each(bucketIndex, nil, func(k, v []byte) error {
		r, err := ridOfKey(k)
		if err != nil {
			return err
		}
		entries++
		_, err = c.record(r, k, v)
		return err
	})
	if err != nil {
		return err
	}
	// Each entry has contents that name its RID, so as many contents are no more
	// than those.
	contents := 0
	err = c.each(bucketContents, nil, func(k, v []byte) error {
		contents++
		r, _, err := decodeContents(k, v)
		if err != nil {
			return err
		}
		_, _, err = c.lookup(rid.RID(r))
		return err
	})
	if err == nil && contents != entries {
		err = fmt.Errorf("%w: %d contents for %d bundles", store.ErrDamaged, contents, entries)
	}
	return err
}

func (c *checker) types() error {
	counted := make(map[rid.Type]int)
	err := c.each(bucketIndex, nil, func(k, _ []byte) error {
		r, err := ridOfKey(k)
		counted[r.Type()]++
		return err
	})
	if err != nil {
		return err
	}
	noted, err := c.Types()
	if err != nil {
		return err
	}
	for typ := range noted {
		if _, known := counted[typ]; !known {
			counted[typ] = 0
		}
	}
	for typ, n := range counted {
		if noted[typ] != n {
			return damaged("types", []byte(typ), fmt.Errorf("it says %d, there are %d", noted[typ], n))
		}
	}
	return nil
}

func (c *checker) inboxRows() error {
	n := 0
	err := c.each(bucketInbox, nil, func(k, v []byte) error {
		n++
		_, err := decodeInbox(k, v)
		return err
	})
	if err != nil {
		return err
	}
	noted, err := c.InboxLen()
	if err == nil && noted != n {
		err = damaged("counters", keyInbox, fmt.Errorf("it says %d, there are %d", noted, n))
	}
	return err
}

func (c *checker) queues() error {
	return c.each(bucketPeers, nil, func(k, v []byte) error {
		p, err := decodePeer(k, v)
		if err != nil {
			return err
		}
		if len(k) < 2 || rid.RID(k[1:]).Type() == "" {
			return errFields
		}
		return c.queue(k, laneOf(k[0], p.id), p)
	})
}

func (c *checker) queue(key []byte, l lane, p peerState) error {
	var rows, bytes, waiting uint64
	err := c.each(bucketRows, l[:], func(k, v []byte) error {
		full, err := c.queueRow(k, v)
		if err != nil {
			return err
		}
		r, err := decodeRow(k, v)
		if err != nil {
			return err
		}
		if r.size != len(full.Event) || r.rid != digestOf(full.RID) {
			return errors.New("its event is another")
		}
		latest, err := c.count(bucketLatest, l.latest(r.rid))
		if err != nil {
			return err
		}
		if latest != full.Seq {
			mark, err := c.get(bucketSuperseded, k)
			if err != nil {
				return err
			}
			if mark == nil {
				return errors.New("it is neither the latest of its RID nor superseded")
			}
			waiting++
		}
		rows++
		bytes += uint64(r.size)
		return nil
	})
	if err != nil {
		return err
	}
	c.rows += rows
	if rows != p.rows || bytes != p.bytes {
		return damaged("peers", key, fmt.Errorf("it says %d rows of %d bytes, there are %d of %d", p.rows, p.bytes, rows, bytes))
	}
	marks := uint64(0)
	err = c.each(bucketSuperseded, l[:], func([]byte, []byte) error { marks++; return nil })
	if err == nil && marks != waiting {
		err = damaged("superseded", l[:], fmt.Errorf("%d marks, %d superseded rows", marks, waiting))
	}
	return err
}

// bodies sees that events are referred to as often as their counts say.
func (c *checker) bodies() error {
	var refs uint64
	err := c.each(bucketBodies, nil, func(k, v []byte) error {
		if _, _, _, err := decodeItem(k, v); err != nil {
			return err
		}
		n, err := c.count(bucketRefs, k)
		if err == nil && n == 0 {
			err = errors.New("no row refers to it")
		}
		refs += n
		return err
	})
	if err == nil && refs != c.rows {
		err = fmt.Errorf("%w: bodies count %d references, there are %d rows", store.ErrDamaged, refs, c.rows)
	}
	if err != nil {
		return err
	}
	rows := uint64(0)
	err = c.each(bucketRows, nil, func(k, _ []byte) error {
		rows++
		_, err := seqOf(k)
		return err
	})
	if err == nil && rows != c.rows {
		err = fmt.Errorf("%w: %d queue rows belong to no peer", store.ErrDamaged, rows-c.rows)
	}
	return err
}

func (c *checker) decisions() error {
	return c.each(bucketDecisions, nil, func(k, v []byte) error {
		d, err := decodeDecision(k, v)
		if err != nil {
			return err
		}
		key := append(binary.AppendUvarint(nil, uint64(len(d.Source))), string(d.Source)+string(d.Target)...)
		if string(key) != string(k) {
			return errFields
		}
		return nil
	})
}

func (c *checker) values() error {
	return c.each(bucketValues, nil, func(k, v []byte) error {
		_, err := unseal(k, v)
		return err
	})
}

// replay sees that keys and their rows in the order of noting are one to one:
// each key's row names it, so rows are as many as keys only where each has its own.
func (c *checker) replay() error {
	keys, rows := 0, 0
	err := c.each(bucketReplay, nil, func(k, v []byte) error {
		keys++
		return c.replayKey(k, v)
	})
	if err != nil {
		return err
	}
	err = c.each(bucketNoted, nil, func(_, _ []byte) error { rows++; return nil })
	if err == nil && rows != keys {
		err = fmt.Errorf("%w: %d keys of accepted bodies, %d rows to them", store.ErrDamaged, keys, rows)
	}
	if err != nil {
		return err
	}
	noted, err := c.ReplayLen()
	if err == nil && noted != keys {
		err = damaged("counters", keyReplay, fmt.Errorf("it says %d, there are %d", noted, keys))
	}
	return err
}

func (c *checker) replayKey(k, v []byte) error {
	seq, err := decodeCount(k, v)
	if err != nil {
		return err
	}
	row := seqKey(seq)
	value, err := c.get(bucketNoted, row)
	if err != nil {
		return err
	}
	if value == nil {
		return errors.New("there is no row to it")
	}
	n, err := decodeNoted(row, value)
	if err != nil {
		return damaged("noted", row, err)
	}
	if string(n.key[:]) != string(k) {
		return errors.New("its row is that of another")
	}
	return nil
}
