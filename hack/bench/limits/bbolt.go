package limits

import (
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"sync"
	"time"

	bbolt "go.etcd.io/bbolt"

	"github.com/koi-net/koi-operator/hack/bench/load"
	"github.com/koi-net/koi-operator/node/protocol"
)

// Settings of a node's store, so that bbolt alone does not fare worse for others.
const (
	growBy    = 1 << 20
	mapBytes  = 1 << 30 << (5 * (^uint(0) >> 63)) // 32 GiB where addresses have 64 bits
	oneCommit = 256                               // most requests that share one
)

var bucketName = []byte("bundles")

// row is what is written for one event: the bundle under its RID.
type row struct{ key, value []byte }

// Bbolt writes requests of a number of rows each, of the same bytes that a load
// of new events makes a node keep: bundles with contents of 1 KiB under random
// keys. Each of writers goes on when its request is on disk; requests that wait
// while a commit is under way share the next one.
func Bbolt(ctx context.Context, dir string, writers, requests, rows int) (r Result, err error) {
	data, err := makeRows(requests * rows)
	if err != nil {
		return r, err
	}
	db, err := bbolt.Open(filepath.Join(dir, "alone.db"), 0o600, &bbolt.Options{
		FreelistType: bbolt.FreelistMapType, InitialMmapSize: min(mapBytes, math.MaxInt),
	})
	if err != nil {
		return r, fmt.Errorf("bbolt: %w", err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	db.AllocSize = growBy
	if err := db.Update(func(tx *bbolt.Tx) error { _, err := tx.CreateBucket(bucketName); return err }); err != nil {
		return r, fmt.Errorf("bbolt: %w", err)
	}
	todo := make(chan []row, requests)
	for n := range requests {
		todo <- data[n*rows : (n+1)*rows]
	}
	close(todo)
	began := time.Now()
	err = write(ctx, db, writers, todo)
	return Result{Done: requests * rows, Elapsed: time.Since(began)}, err
}

// waiting is a request that waits for its commit.
type waiting struct {
	rows []row
	done chan error
}

// write has writers send what is to do to one goroutine that commits.
func write(ctx context.Context, db *bbolt.DB, writers int, todo <-chan []row) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	requests := make(chan waiting, writers)
	var group, committer sync.WaitGroup
	committer.Go(func() {
		for first := range requests {
			commit(db, first, requests)
		}
	})
	for range writers {
		group.Go(func() {
			done := make(chan error, 1)
			for rows := range todo {
				if ctx.Err() != nil {
					return
				}
				requests <- waiting{rows, done}
				if err := <-done; err != nil {
					cancel(fmt.Errorf("bbolt: %w", err))
					return
				}
			}
		})
	}
	group.Wait()
	close(requests)
	committer.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// commit puts a request and those that wait into one transaction.
func commit(db *bbolt.DB, first waiting, more <-chan waiting) {
	batch := []waiting{first}
	for len(batch) < oneCommit && len(more) > 0 {
		w, ok := <-more
		if !ok {
			break
		}
		batch = append(batch, w)
	}
	err := db.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketName)
		for _, w := range batch {
			for _, r := range w.rows {
				if err := b.Put(r.key, r.value); err != nil {
					return err
				}
			}
		}
		return nil
	})
	for _, w := range batch {
		w.done <- err
	}
}

func makeRows(n int) ([]row, error) {
	out := make([]row, n)
	for i := range out {
		b, err := load.Note()
		if err != nil {
			return nil, err
		}
		out[i] = row{key: []byte(b.Manifest.RID), value: protocol.AppendBundle(nil, b)}
	}
	return out, nil
}
