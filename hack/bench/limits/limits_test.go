package limits

import (
	"context"
	"errors"
	"testing"
	"time"

	bbolt "go.etcd.io/bbolt"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const moment = 20 * time.Millisecond

func TestEveryLimitIsMeasured(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	for name, measure := range map[string]func() (Result, error){
		"sync":   func() (Result, error) { return Sync(ctx, dir, moment) },
		"json":   func() (Result, error) { return JSON(ctx, moment) },
		"sign":   func() (Result, error) { return Sign(ctx, moment) },
		"verify": func() (Result, error) { return Verify(ctx, moment) },
		"http":   func() (Result, error) { return HTTP(ctx, 3, 2, moment) },
		"answer": func() (Result, error) { return Answers(ctx, 1000, moment) },
	} {
		r, err := measure()
		if err != nil || r.Done == 0 || r.Elapsed <= 0 || len(r.Each) != r.Done || r.Rate() <= 0 {
			t.Errorf("%s: %d in %s, %d of them timed, %v", name, r.Done, r.Elapsed, len(r.Each), err)
		}
	}
}

func TestBboltCommitsEveryRow(t *testing.T) {
	for _, writers := range []int{1, 8} {
		dir := t.TempDir()
		r, err := Bbolt(t.Context(), dir, writers, 20, 5)
		if err != nil || r.Done != 100 {
			t.Fatalf("%d rows, %v", r.Done, err)
		}
		db, err := bbolt.Open(dir+"/alone.db", 0o600, &bbolt.Options{ReadOnly: true, Timeout: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		if err := db.View(func(tx *bbolt.Tx) error {
			if n := tx.Bucket(bucketName).Stats().KeyN; n != 100 {
				t.Errorf("%d rows are there", n)
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
	}
}

func TestTheEndOfTheContextEndsAMeasurement(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for name, measure := range map[string]func() (Result, error){
		"sync":  func() (Result, error) { return Sync(ctx, t.TempDir(), time.Hour) },
		"json":  func() (Result, error) { return JSON(ctx, time.Hour) },
		"bbolt": func() (Result, error) { return Bbolt(ctx, t.TempDir(), 2, 10, 1) },
		"http":  func() (Result, error) { return HTTP(ctx, 1, 1, time.Hour) },
	} {
		if _, err := measure(); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Sync(t.Context(), "/nonexistent", moment); err == nil {
		t.Error("a file was made in a directory that is not there")
	}
}
