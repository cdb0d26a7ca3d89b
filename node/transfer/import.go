package transfer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/koi-net/koi-operator/node/identity"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
	"github.com/koi-net/koi-operator/node/store/bolt"
)

// ErrIncomplete is wrapped where something could not be taken over and
// Options.Strict asks for all of it.
var ErrIncomplete = errors.New("not everything can be taken over")

const (
	// MaxListed bounds the problems a Report lists; the others are counted.
	MaxListed = 100
	// batchRecords and batchBytes bound what is written in one transaction.
	batchRecords = 256
	batchBytes   = 4 << 20
)

// Options say how a node is taken over.
type Options struct {
	Target Target
	// Password opens the key, where it is encrypted.
	Password []byte
	// Own and Foreign name RID types whose bundles are, and are not, the node's own
	// knowledge, against what its profile and its edges say.
	Own, Foreign []rid.Type
	// DryRun reads and checks everything and leaves nothing behind.
	DryRun bool
	// Strict takes everything over or nothing.
	Strict bool
	// Limits bound depth and size of contents; zero values mean defaults.
	Limits protocol.Limits
	// Clock tells the time; default time.Now.
	Clock func() time.Time
}

// Report says what was taken over, or would be.
type Report struct {
	Plan
	Target
	// SettingsFile is the file with the settings taken over.
	SettingsFile string `json:"settingsFile"`
	// Generation is "signed" or "unsigned".
	Generation string `json:"generation"`
	// StoreID is the new store's ID; "" in a dry run.
	StoreID string      `json:"storeID,omitempty"`
	Bundles int         `json:"bundles"`
	Types   []TypeCount `json:"types"`
	// Waiting counts the events that wait for other nodes.
	Waiting int `json:"waiting,omitempty"`
	// Skipped lists at most MaxListed of the SkippedTotal problems.
	Skipped      []Skipped `json:"skipped,omitempty"`
	SkippedTotal int       `json:"skippedTotal"`
	DryRun       bool      `json:"dryRun,omitempty"`
}

// TypeCount counts the bundles of one RID type.
type TypeCount struct {
	Type    rid.Type `json:"type"`
	Bundles int      `json:"bundles"`
	// Own are those that are the node's own knowledge; Provided those of nodes
	// it subscribes to. The others are open to whoever is known.
	Own      int `json:"own,omitempty"`
	Provided int `json:"provided,omitempty"`
}

// Skipped is a file, or an event in one, that is not taken over.
type Skipped struct {
	File   string  `json:"file"`
	RID    rid.RID `json:"rid,omitempty"`
	Reason string  `json:"reason"`
}

// Import takes a node over: identity, bundles, waiting events and settings. The
// source stays as it is. The Target appears whole or, after an error, not at all:
// ErrExists where it holds something, ErrPassword, ErrIncomplete, errors of
// identity where the key does not fit, and those of the file system and store.
func Import(ctx context.Context, p Plan, o Options) (r Report, err error) {
	im := newImporter(p, o)
	if err := im.target.free(); err != nil {
		return Report{}, err
	}
	files, err := p.identityFiles(o.Password)
	if err != nil {
		return Report{}, err
	}
	settings, err := p.SettingsYAML(im.target)
	if err != nil {
		return Report{}, err
	}
	places, err := im.stage()
	if err != nil {
		return Report{}, fmt.Errorf("take the node over to %s: %w", im.target.DataDir, err)
	}
	defer func() { err = errors.Join(err, places.remove()) }()
	if _, err := writeIdentity(places.identity, files, p.Key); err != nil {
		return Report{}, err
	}
	if err := writeSynced(places.data.path(SettingsFile), settings); err != nil {
		return Report{}, err
	}
	if err := im.knowledge(ctx, places.data.path(StoreFile)); err != nil {
		return Report{}, err
	}
	if o.Strict && im.report.SkippedTotal > 0 {
		return im.report, im.incomplete()
	}
	if o.DryRun {
		return im.report, nil
	}
	if err := places.settle(); err != nil {
		return Report{}, fmt.Errorf("take the node over to %s: %w", im.target.DataDir, err)
	}
	return im.report, nil
}

func (im *importer) incomplete() error {
	first, more := im.report.Skipped[0], ""
	if n := im.report.SkippedTotal - 1; n > 0 {
		more = fmt.Sprintf(" (and %d more)", n)
	}
	return fmt.Errorf("%w: %s: %s%s", ErrIncomplete, first.File, first.Reason, more)
}

// importer is one import under way.
type importer struct {
	plan       Plan
	options    Options
	target     Target
	now        time.Time
	provenance *provenance
	report     Report
	types      map[rid.Type]*TypeCount
	// nodes are those whose bundles are taken over, for the events that wait.
	nodes map[rid.RID]protocol.NodeProfile
}

func newImporter(p Plan, o Options) *importer {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	im := &importer{
		plan: p, options: o, target: o.Target.withDefaults(), now: o.Clock(), provenance: newProvenance(p, o.Own, o.Foreign),
		types: map[rid.Type]*TypeCount{}, nodes: map[rid.RID]protocol.NodeProfile{},
	}
	im.report = Report{
		Plan: p, Target: im.target, SettingsFile: filepath.Join(im.target.DataDir, SettingsFile),
		Generation: unsigned, DryRun: o.DryRun, Types: []TypeCount{},
	}
	if p.Signed() {
		im.report.Generation = "signed"
	}
	return im
}

// places are where the parts of a node are made.
type places struct {
	data *staging
	// apart is where the identity is made, where that is not part of data.
	apart    *staging
	identity string
}

func (im *importer) stage() (*places, error) {
	pl := &places{}
	if im.options.DryRun {
		temp, err := os.MkdirTemp("", "koi-node.import-*")
		if err != nil {
			return nil, err
		}
		pl.data = &staging{temp: temp, fresh: true}
		pl.identity = pl.data.path(IdentityDir)
		return pl, pl.made(os.Mkdir(pl.identity, 0o700))
	}
	var err error
	if pl.data, err = stage(im.target.DataDir); err != nil {
		return nil, err
	}
	id, err := filepath.Abs(im.target.IdentityDir)
	if err != nil {
		return nil, pl.made(err)
	}
	rel, err := filepath.Rel(pl.data.dir, id)
	if err == nil && pl.data.fresh && filepath.IsLocal(rel) {
		pl.identity = pl.data.path(rel)
		return pl, pl.made(os.MkdirAll(pl.identity, 0o700))
	}
	if pl.apart, err = stage(id); err != nil {
		return nil, pl.made(err)
	}
	pl.identity = pl.apart.temp
	return pl, nil
}

// made clears up after a step of stage that failed.
func (pl *places) made(err error) error {
	if err != nil {
		err = errors.Join(err, pl.remove())
	}
	return err
}

func (pl *places) remove() error {
	err := pl.data.remove()
	if pl.apart != nil {
		err = errors.Join(err, pl.apart.remove())
	}
	return err
}

// settle gives the parts their places: the store first, which no node runs on
// without its identity.
func (pl *places) settle() error {
	var m mover
	err := m.move(pl.data, StoreFile, SettingsFile)
	if err == nil && pl.apart != nil {
		err = m.move(pl.apart, presentIn(pl.identity, identity.KeyFile, identity.PasswordFile, identity.RIDFile)...)
	}
	if err != nil {
		err = errors.Join(err, m.undo())
	}
	return err
}

func presentIn(dir string, names ...string) []string {
	return slices.DeleteFunc(names, func(name string) bool { return !isFile(filepath.Join(dir, name)) })
}

// sink takes what is to be written in one transaction. That of a dry run takes
// nothing.
type sink func(ctx context.Context, fn func(store.Writer) error) error

func nowhere(ctx context.Context, _ func(store.Writer) error) error { return ctx.Err() }

// knowledge makes the store at path and fills it.
func (im *importer) knowledge(ctx context.Context, path string) (err error) {
	if im.options.DryRun {
		return im.fill(ctx, nowhere)
	}
	st, err := bolt.Open(bolt.Options{Path: path, NodeRID: im.plan.RID, Create: true, Clock: im.options.Clock})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	im.report.StoreID = st.Info().ID
	return im.fill(ctx, st.Update)
}

func (im *importer) fill(ctx context.Context, to sink) error {
	if im.plan.CacheFound {
		err := withCache(im.plan.Cache, func(cache fs.FS) error { return im.bundles(ctx, to, cache) })
		if err != nil {
			return err
		}
	}
	if err := im.queues(ctx, to); err != nil {
		return err
	}
	for _, t := range slices.Sorted(maps.Keys(im.types)) {
		im.report.Types = append(im.report.Types, *im.types[t])
	}
	return ctx.Err()
}

// bundles takes the cache over.
func (im *importer) bundles(ctx context.Context, to sink, cache fs.FS) error {
	list, err := entries(cache)
	if err != nil {
		return err
	}
	for e := range edges(cache, list) {
		im.provenance.learn(e)
	}
	var batch []store.Record
	size := 0
	flush := func() error {
		err := put(ctx, to, batch)
		batch, size = batch[:0], 0
		return err
	}
	for e, b := range bundles(ctx, cache, list, im.options.Limits) {
		rec, ok := im.record(e, b)
		if !ok {
			continue
		}
		batch, size = append(batch, rec), size+len(b.Contents)
		if len(batch) == batchRecords || size >= batchBytes {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}

func put(ctx context.Context, to sink, batch []store.Record) error {
	return to(ctx, func(w store.Writer) error {
		for _, rec := range batch {
			if err := w.PutBundle(rec); err != nil {
				return err
			}
		}
		return nil
	})
}

// record makes a bundle a record, or says why it is left out.
func (im *importer) record(e entry, b protocol.Bundle) (store.Record, bool) {
	err := e.problem
	if err == nil {
		err = sound(b, im.plan)
	}
	source := ""
	if err == nil {
		source = im.provenance.source(b)
		err = frozen(b, source, im.plan.RID, im.now)
	}
	if err != nil {
		im.skip(filepath.Join(im.plan.Cache, e.name), e.rid, err)
		return store.Record{}, false
	}
	im.count(b, source)
	return store.Record{Bundle: b, Source: source}, true
}

func (im *importer) count(b protocol.Bundle, source string) {
	r := b.Manifest.RID
	c := im.types[r.Type()]
	if c == nil {
		c = &TypeCount{Type: r.Type()}
		im.types[r.Type()] = c
	}
	im.report.Bundles++
	c.Bundles++
	switch source {
	case string(im.plan.RID):
		c.Own++
	case unsigned:
	default:
		c.Provided++
	}
	if r.Type() == rid.NodeType && r != im.plan.RID {
		im.nodes[r], _ = protocol.ParseNodeProfile(b.Contents) // it is sound
	}
}

// skip notes a problem.
func (im *importer) skip(file string, r rid.RID, reason error) {
	im.report.SkippedTotal++
	if len(im.report.Skipped) < MaxListed {
		im.report.Skipped = append(im.report.Skipped, Skipped{File: file, RID: r, Reason: strings.ToValidUTF8(reason.Error(), "\uFFFD")})
	}
}

// queues takes over the events that wait for others.
func (im *importer) queues(ctx context.Context, to sink) error {
	if im.plan.Queues == "" {
		return nil
	}
	text, err := readPath(im.plan.Queues, maxQueuesFile)
	if err != nil {
		im.skip(im.plan.Queues, "", err)
		return nil
	}
	rows, problems, err := parseQueues(text)
	if err != nil {
		problems = append(problems, fmt.Errorf("no queues of events: %w", err))
	}
	for _, err := range problems {
		im.skip(im.plan.Queues, "", err)
	}
	known := rows[:0]
	for _, row := range rows {
		if _, ok := im.nodes[row.peer]; !ok {
			im.skip(im.plan.Queues, row.event.RID, fmt.Errorf("an event for %s, of which the cache knows nothing", row.peer))
			continue
		}
		known = append(known, row)
	}
	for chunk := range slices.Chunk(known, batchRecords) {
		if err := to(ctx, func(w store.Writer) error { return enqueue(w, chunk, im.nodes) }); err != nil {
			return err
		}
	}
	im.report.Waiting = len(known)
	return nil
}
