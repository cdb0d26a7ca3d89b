package scrub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

// Defaults of Config.
const (
	DefaultInterval = 24 * time.Hour
	DefaultRate     = 16 << 20
)

const (
	// pageBytes and pageRows bound what is read in one transaction.
	pageBytes = 4 << 20
	pageRows  = 500
	// keepEvery is how often the place is written, at most.
	keepEvery = 5 * time.Minute
	// placeKey names the value that holds it.
	placeKey = "scrub"
)

// Reasons of faults; they label a metric.
const (
	Damaged      = "damaged"       // the record fails its checksum, or is not whole
	HashMismatch = "hash-mismatch" // the contents are not those of the manifest
	// Structure is counted and logged alone: what lies behind the damage cannot be
	// read, and it is no single bundle's.
	Structure = "structure"
)

// Fault is a bundle that is not what it should be.
type Fault struct {
	RID    rid.RID
	Reason string
	// Record is what could be read: nil for a damaged record.
	Record *store.Record
	Err    error
}

// Config is what a Scrubber is made of. Store and Report are required.
type Config struct {
	Store store.Store
	// Self is the node whose own bundles are not held against their manifests:
	// see Check.
	Self rid.RID
	// Report is told of each fault, once a round. It may block.
	Report func(context.Context, Fault)
	// Interval is how long a round takes at least (default DefaultInterval).
	Interval time.Duration
	// Rate bounds the contents read, in bytes a second (default DefaultRate).
	// Where a round would need more, it takes longer.
	Rate    int64
	Now     func() time.Time
	Logger  *slog.Logger
	Metrics prometheus.Registerer
}

// Scrubber reads a store over and over. Make one with New; call Run once.
type Scrubber struct {
	cfg     Config
	checked prometheus.Counter
	faults  *prometheus.CounterVec
	last    prometheus.Gauge
	wait    func(context.Context, time.Duration) error
}

// place is where a round is.
type place struct {
	After rid.RID   `json:"after"` // the last RID that was looked at, "" before the first
	Began time.Time `json:"began"`
	// Ended is when the last whole round ended; zero before the first.
	Ended time.Time `json:"ended,omitzero"`
}

// New checks cfg and returns a Scrubber.
func New(cfg Config) (*Scrubber, error) {
	if cfg.Store == nil || cfg.Report == nil {
		return nil, errors.New("scrub: Store and Report are required")
	}
	if cfg.Interval <= 0 {
		cfg.Interval = DefaultInterval
	}
	if cfg.Rate <= 0 {
		cfg.Rate = DefaultRate
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Scrubber{
		cfg: cfg, wait: wait,
		checked: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "koi_scrub_bundles_total", Help: "Bundles read again to see that they are whole."}),
		faults: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "koi_scrub_faults_total", Help: "Bundles found damaged, by reason."}, []string{"reason"}),
		last: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "koi_scrub_round_ended_seconds", Help: "When the last whole round ended, as Unix time; 0 before the first."}),
	}
	if cfg.Metrics == nil {
		return s, nil
	}
	for _, c := range []prometheus.Collector{s.checked, s.faults, s.last} {
		if err := cfg.Metrics.Register(c); err != nil {
			return nil, fmt.Errorf("scrub: %w", err)
		}
	}
	return s, nil
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// Run goes round and round until ctx ends. What cannot be read ends a round, and
// nothing else.
func (s *Scrubber) Run(ctx context.Context) error {
	at := s.place(ctx)
	if !at.Ended.IsZero() {
		s.last.Set(float64(at.Ended.Unix()))
	}
	for {
		err := s.round(ctx, &at)
		if err == nil {
			at.Ended = s.cfg.Now()
			s.last.Set(float64(at.Ended.Unix()))
		} else {
			if ctx.Err() != nil || errors.Is(err, errEnd) {
				return nil
			}
			s.broken(err)
		}
		rest := at.Began.Add(s.cfg.Interval).Sub(s.cfg.Now())
		at = place{Began: s.cfg.Now().Add(max(rest, 0)), Ended: at.Ended}
		s.keep(ctx, at)
		if s.wait(ctx, max(rest, s.cfg.Interval/100)) != nil {
			return nil
		}
	}
}

// errEnd ends a Run: whoever waits is told to stop.
var errEnd = errors.New("the scrub ends")

// broken tells of what kept a round from its end.
func (s *Scrubber) broken(err error) {
	if errors.Is(err, store.ErrDamaged) {
		s.faults.WithLabelValues(Structure).Inc()
		s.cfg.Logger.Error("the store's structure is damaged: bundles behind the damage cannot be read; restore a backup", "error", err)
		return
	}
	s.cfg.Logger.Error("the bundles cannot be read to their end; the next round tries again", "error", err)
}

// round reads on from a place to the end.
func (s *Scrubber) round(ctx context.Context, at *place) error {
	if d := at.Began.Sub(s.cfg.Now()); d > 0 { // a restart: the last round is not long ago
		if s.wait(ctx, d) != nil {
			return errEnd
		}
	}
	kept := s.cfg.Now()
	for {
		p, err := s.page(ctx, at.After)
		s.checked.Add(float64(p.rows))
		for _, f := range p.faults {
			s.faults.WithLabelValues(f.Reason).Inc()
			s.cfg.Report(ctx, f)
		}
		if err != nil {
			return err
		}
		if p.rows < pageRows && p.bytes < pageBytes {
			return ctx.Err()
		}
		at.After = p.last
		if s.cfg.Now().Sub(kept) >= keepEvery {
			s.keep(ctx, *at)
			kept = s.cfg.Now()
		}
		if s.wait(ctx, s.pause(p)) != nil {
			return errEnd
		}
	}
}

// pause spreads a round over its interval, and keeps within the rate.
func (s *Scrubber) pause(p page) time.Duration {
	least := time.Duration(float64(p.bytes) / float64(s.cfg.Rate) * float64(time.Second))
	if p.total == 0 {
		return least
	}
	return max(least, s.cfg.Interval/2*time.Duration(p.rows)/time.Duration(max(p.total, p.rows)))
}

// page is what one transaction read.
type page struct {
	rows, bytes int
	total       int // bundles in the store
	last        rid.RID
	faults      []Fault
}

func (s *Scrubber) page(ctx context.Context, after rid.RID) (p page, err error) {
	err = s.cfg.Store.View(ctx, func(tx store.Reader) error {
		types, err := tx.Types()
		if err != nil {
			return err
		}
		for _, n := range types {
			p.total += n
		}
		for r, err := range tx.RIDs(nil, after) {
			if err != nil {
				return err
			}
			p.rows++
			p.last = r
			rec, err := tx.Bundle(r)
			p.bytes += len(rec.Bundle.Contents)
			if f := Check(s.cfg.Self, r, rec, err); f != nil {
				p.faults = append(p.faults, *f)
			} else if err != nil {
				return err
			}
			if p.rows == pageRows || p.bytes >= pageBytes {
				return nil
			}
		}
		return nil
	})
	return p, err
}

// Check holds a record that was read, or the error of that, against what it should
// be. It returns nil for one that is whole, and for an error of another kind. The
// contents of self's own bundles may be others than those of their manifest: what
// a node's own programs give it is taken as it is.
func Check(self, r rid.RID, rec store.Record, err error) *Fault {
	switch {
	case errors.Is(err, store.ErrDamaged):
		return &Fault{RID: r, Reason: Damaged, Err: err}
	case err != nil, rec.Source == string(self):
		return nil
	}
	if err := protocol.VerifyHash(rec.Bundle.Contents, rec.Bundle.Manifest.SHA256Hash); err != nil {
		return &Fault{RID: r, Reason: HashMismatch, Record: &rec, Err: err}
	}
	return nil
}

// place reads where a former run was; one that cannot be read begins anew.
func (s *Scrubber) place(ctx context.Context) place {
	at := place{Began: s.cfg.Now()}
	err := s.cfg.Store.View(ctx, func(tx store.Reader) error {
		data, err := tx.Value(placeKey)
		if err != nil {
			return err
		}
		var was place
		if json.Unmarshal(data, &was) == nil && !was.Began.IsZero() && was.Began.Sub(s.cfg.Now()) <= s.cfg.Interval {
			at = was
		}
		return nil
	})
	if err != nil && !errors.Is(err, store.ErrNotFound) && ctx.Err() == nil {
		s.cfg.Logger.Warn("the place of the scrub cannot be read: it begins anew", "error", err)
	}
	return at
}

// keep writes where the round is. Where it cannot be written it stays where it was,
// and a restart reads some again.
func (s *Scrubber) keep(ctx context.Context, at place) {
	data, err := json.Marshal(at)
	if err == nil {
		err = s.cfg.Store.Update(ctx, func(tx store.Writer) error { return tx.PutValue(placeKey, data) })
	}
	if err != nil && ctx.Err() == nil {
		s.cfg.Logger.Debug("the place of the scrub is not kept", "error", err)
	}
}
