package limits

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/koi-net/koi-operator/hack/bench/load"
	"github.com/koi-net/koi-operator/node/identity"
)

// Result is how often something was done.
type Result struct {
	// Done is how often, in Elapsed.
	Done    int
	Elapsed time.Duration
	// Each is how long one took, sorted; empty where that was not looked at.
	Each []time.Duration
}

// Rate is how often a second.
func (r Result) Rate() float64 { return float64(r.Done) / r.Elapsed.Seconds() }

// repeat does something over and over for a time.
func repeat(ctx context.Context, during time.Duration, once func() error) (Result, error) {
	var r Result
	began := time.Now()
	for last := began; r.Elapsed < during; {
		if ctx.Err() != nil {
			return r, context.Cause(ctx)
		}
		if err := once(); err != nil {
			return r, err
		}
		now := time.Now()
		r.Each = append(r.Each, now.Sub(last))
		last, r.Elapsed = now, now.Sub(began)
		r.Done++
	}
	slices.Sort(r.Each)
	return r, nil
}

// Sync writes 4 KiB into a file that has its length already and waits until they
// are on disk, as bbolt does with each commit's last page.
func Sync(ctx context.Context, dir string, during time.Duration) (r Result, err error) {
	const page, pages = 4 << 10, 1 << 10
	f, err := os.Create(filepath.Join(dir, "sync"))
	if err != nil {
		return r, fmt.Errorf("sync: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	block := make([]byte, page)
	for n := range pages {
		if _, err := f.WriteAt(block, int64(n*page)); err != nil {
			return r, fmt.Errorf("sync: %w", err)
		}
	}
	if err := f.Sync(); err != nil {
		return r, fmt.Errorf("sync: %w", err)
	}
	n := 0
	return repeat(ctx, during, func() error {
		block[0]++
		n = (n + 1) % pages
		if _, err := f.WriteAt(block, int64(n*page)); err != nil {
			return fmt.Errorf("sync: %w", err)
		}
		if err := syscall.Fdatasync(int(f.Fd())); err != nil {
			return fmt.Errorf("sync: %w", err)
		}
		return nil
	})
}

// JSON decodes an event with 1 KiB of contents by encoding/json into no type.
func JSON(ctx context.Context, during time.Duration) (Result, error) {
	event, err := anEvent()
	if err != nil {
		return Result{}, err
	}
	return repeat(ctx, during, func() error {
		var v any
		return json.Unmarshal(event, &v)
	})
}

func anEvent() ([]byte, error) {
	b, err := load.Note()
	if err != nil {
		return nil, err
	}
	return load.NewEvent(b), nil
}

// Sign signs digests with P-256.
func Sign(ctx context.Context, during time.Duration) (Result, error) {
	id, err := identity.Generate("limit", false)
	if err != nil {
		return Result{}, err
	}
	digest := sha256.Sum256([]byte("limit"))
	return repeat(ctx, during, func() error {
		_, err := id.SignDigest(digest)
		return err
	})
}

// Verify verifies signatures of digests by P-256.
func Verify(ctx context.Context, during time.Duration) (Result, error) {
	id, err := identity.Generate("limit", false)
	if err != nil {
		return Result{}, err
	}
	digest := sha256.Sum256([]byte("limit"))
	signature, err := id.SignDigest(digest)
	if err != nil {
		return Result{}, err
	}
	key, err := identity.ParsePublicKey(id.PublicKeyText())
	if err != nil {
		return Result{}, err
	}
	return repeat(ctx, during, func() error { return key.VerifyDigest(digest, signature) })
}
