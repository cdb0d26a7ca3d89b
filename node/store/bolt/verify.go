package bolt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

// DefaultMaxFaults is how many faults a Report lists; the others are counted.
const DefaultMaxFaults = 100

// VerifyOptions tell Verify what to look for. Zero values mean defaults.
type VerifyOptions struct {
	// NodeRID is whose store it has to be; empty: anybody's.
	NodeRID rid.RID
	// Timeout is how long to wait for the lock of another process; default
	// DefaultTimeout.
	Timeout time.Duration
	// MaxFaults bounds Report.Faults; default DefaultMaxFaults.
	MaxFaults int
	// SkipHashes leaves out the manifests' hashes, which take most of the time.
	SkipHashes bool
}

// Fault is one thing that is wrong with a store file.
type Fault struct {
	// Bucket is where it lies, as doc.go lists them; empty for the file's structure.
	Bucket string `json:"bucket,omitempty"`
	// Key is the record's key, quoted and cut where it is long; empty where the
	// fault is not one of a single record.
	Key string `json:"key,omitempty"`
	// RID is what the record is about, where that can be told.
	RID rid.RID `json:"rid,omitempty"`
	// Cause says what is wrong. It wraps protocol.ErrHashMismatch for contents that
	// are those that were written, but not those of their manifest.
	Cause error `json:"-"`
}

// String says where and what in one line.
func (f Fault) String() string { return fmt.Sprintf("%s: %v", f.where(), f.Cause) }

func (f Fault) where() string {
	switch {
	case f.RID != "":
		return fmt.Sprintf("record of %s in %s", printable([]byte(f.RID)), f.Bucket)
	case f.Key != "":
		return fmt.Sprintf("record %s of %s", f.Key, f.Bucket)
	case f.Bucket != "":
		return "bucket " + f.Bucket
	}
	return "structure"
}

// err is the fault as an error that ends a check.
func (f Fault) err() error {
	if errors.Is(f.Cause, store.ErrDamaged) {
		return fmt.Errorf("%s: %w", f.where(), f.Cause)
	}
	return fmt.Errorf("%w: %s: %w", store.ErrDamaged, f.where(), f.Cause)
}

// MarshalJSON writes the cause as text.
func (f Fault) MarshalJSON() ([]byte, error) {
	type plain Fault
	return json.Marshal(struct {
		plain
		Cause string `json:"cause"`
	}{plain(f), fmt.Sprint(f.Cause)})
}

// Report is what Verify found.
type Report struct {
	// Info is the sentinel; zero where it cannot be read.
	Info store.Info `json:"info"`
	// Bundles, InboxRows and QueueRows count what is there and could be read.
	Bundles   int `json:"bundles"`
	InboxRows int `json:"inboxRows"`
	QueueRows int `json:"queueRows"`
	// OwnMismatches counts bundles of the node's own whose contents are not those
	// of their manifest. What a node's own programs give it is taken as it is, so
	// this is no fault of the store; other nodes may refuse them.
	OwnMismatches int `json:"ownMismatches"`
	// Size is that of the file in bytes; Free is how many of them are in no use:
	// what Compact would win, about.
	Size int64 `json:"size"`
	Free int64 `json:"free"`
	// Heads is how many of the file's two heads are valid. With one the store is
	// whole, at the state that head leads to: a crash during a commit leaves it so
	// until the next commit, and so does damage to the other head, where the last
	// commit may be missing.
	Heads int `json:"heads"`
	// Faults are the first that were found; MoreFaults counts those beyond the bound.
	Faults     []Fault `json:"faults"`
	MoreFaults int     `json:"moreFaults"`
}

// Err is nil where there are no faults, else it wraps store.ErrDamaged, names the
// first, and counts them.
func (r Report) Err() error {
	if len(r.Faults) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %d faults, the first: %s", store.ErrDamaged, len(r.Faults)+r.MoreFaults, r.Faults[0])
}

// Verify reads the whole store file at path, which no node may have open for
// writing meanwhile, and reports all that is wrong with it: its structure, the
// checksum of every record, what is derived from the records, and the manifest
// hash of each bundle. Nothing is written. Faults are in the Report; the error is
// that of a file that could not be looked at: store.ErrNotFound,
// store.ErrForeign, store.ErrLocked, that of ctx, or the system's.
func Verify(ctx context.Context, path string, o VerifyOptions) (Report, error) {
	defer faultsPanic()()
	if o.Timeout <= 0 {
		o.Timeout = DefaultTimeout
	}
	v := newVerification(o)
	r, err := openReadable(path, o.Timeout)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return v.report, fmt.Errorf("verify %s: %w", path, store.ErrNotFound)
	case errors.Is(err, store.ErrDamaged):
		if st, err := os.Stat(path); err == nil {
			v.report.Size = st.Size()
		}
		v.fault(Fault{Cause: err})
		return v.report, nil
	case err != nil:
		return v.report, err
	}
	err = v.run(ctx, r)
	return v.report, errors.Join(err, r.Close())
}

// verification is one run of Verify.
type verification struct {
	options VerifyOptions
	report  Report
	torn    map[string]bool
}

func newVerification(o VerifyOptions) *verification {
	if o.MaxFaults <= 0 {
		o.MaxFaults = DefaultMaxFaults
	}
	return &verification{options: o, report: Report{Faults: []Fault{}}}
}

func (v *verification) fault(f Fault) {
	if len(v.report.Faults) < v.options.MaxFaults {
		v.report.Faults = append(v.report.Faults, f)
	} else {
		v.report.MoreFaults++
	}
}

func (v *verification) run(ctx context.Context, r *readable) error {
	v.report.Size, v.report.Heads = r.l.size, r.l.heads
	if err := v.sentinel(ctx, r); err != nil {
		return err
	}
	a := &audit{layout: r.l, bad: func(bucket string, err error) { v.fault(Fault{Bucket: bucket, Cause: err}) }}
	if err := a.run(ctx); err != nil {
		return err
	}
	v.torn = a.torn
	v.report.Free = int64(a.free)*r.l.pageSize + r.l.size - int64(r.l.pages)*r.l.pageSize
	return v.records(ctx, r)
}

// sentinel reads whose store it is. One that is damaged is a fault; then the rest
// is taken to be of this format.
func (v *verification) sentinel(ctx context.Context, r *readable) error {
	err := r.sentinel(ctx)
	if errors.Is(err, store.ErrDamaged) {
		r.info = store.Info{}
		v.fault(Fault{Bucket: bucketSentinel.String(), Cause: err})
		return nil
	}
	if err == nil {
		err = r.accept(v.options.NodeRID)
	}
	v.report.Info = r.info
	return err
}

func (v *verification) records(ctx context.Context, r *readable) error {
	btx, err := beginRead(r.db, r.path)
	if err != nil {
		v.fault(Fault{Cause: err})
		return nil
	}
	t := &tx{shared: newShared(btx, time.Now), ctx: ctx}
	defer func() {
		t.over = true
		_ = btx.Rollback() // ends the snapshot; of a read-only transaction it cannot fail
	}()
	c := newChecker(t, r.l, r.info)
	c.bad, c.torn, c.hashes = v.fault, v.torn, !v.options.SkipHashes
	err = c.run()
	v.report.Bundles, v.report.InboxRows, v.report.QueueRows = c.seen.bundles, c.seen.inbox, c.seen.rows
	v.report.OwnMismatches = c.seen.mismatches
	return err
}
