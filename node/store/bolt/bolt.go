package bolt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	bbolt "go.etcd.io/bbolt"

	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

// Format is the layout version this package writes. Stores of format 1 are
// brought over to it when they are opened.
const Format = 2

// Bounds and their defaults.
const (
	// DefaultTimeout is how long Open waits for another process's lock.
	DefaultTimeout = 2 * time.Second
	// DefaultVerifyBytes is the file size up to which Open reads the whole
	// structure, for at most two seconds. Of a larger file, and of one read too
	// slowly, it looks at the head, the size, the sentinel, the free list, and the
	// pages nearest the roots of the trees; Check does the rest in its time.
	DefaultVerifyBytes = 256 << 20
	// DefaultBatchUpdates and DefaultBatchBytes bound one commit.
	DefaultBatchUpdates = 256
	DefaultBatchBytes   = 8 << 20
	// MinMaxSize is the smallest MaxSize that leaves room for work.
	MinMaxSize = 8 << 20

	// verifyTime bounds how long Open reads the structure, verifyPages how many
	// pages of a file that is too large to be read whole.
	verifyTime  = 2 * time.Second
	verifyPages = 512

	// allocSize is the step in which the file grows.
	allocSize = 1 << 20
	// mapSize is the address space mapped from the start, beyond what the file
	// takes already: a file that outgrows what is mapped has to wait for all
	// readers to end, a backup among them. It costs no memory and, but on Windows,
	// no disk.
	mapSize = 1 << 30 << (5 * (^uint(0) >> 63)) // 32 GiB where addresses have 64 bits
)

// Options tell Open what to open. Path is required; zero values mean defaults.
type Options struct {
	// Path is the store's file.
	Path string
	// NodeRID is whose store it is: a new one is made for it, an existing one
	// of another node is refused. Empty: taken as found, never made.
	NodeRID rid.RID
	// Create makes the store, and its directory, where there is no file at
	// Path. Whether a missing file is a first start is for the caller to say.
	Create bool
	// ReadOnly opens an existing store for reading alone: beside other readers, but
	// not beside a node, which writes. Nothing is written, not to the file and not
	// beside it: updates get store.ErrReadOnly, and so does Open where the store
	// was made by an earlier version and needs to be brought up to date first.
	ReadOnly bool
	// Timeout is how long to wait for the lock of another process.
	Timeout time.Duration
	// MaxSize bounds the file, in bytes; at least MinMaxSize, 0 for no bound.
	// It belongs below the size of the volume. Additions are refused a
	// sixteenth before it (at least 2 MiB), so that deletions always find room.
	// Whatever it is, additions are refused, too, where the volume has less room
	// left than a sixty-fourth of the file (at least 2 MiB), which others on the
	// volume may take from deletions all the same. Both end by themselves: as soon
	// as something was deleted, or the volume has grown.
	MaxSize int64
	// VerifyBytes: see DefaultVerifyBytes. Negative: the head, the size and the
	// sentinel, and nothing of the structure.
	VerifyBytes int64
	// BatchUpdates and BatchBytes bound how much shares one commit.
	BatchUpdates int
	BatchBytes   int64
	// Clock tells the time; default time.Now.
	Clock func() time.Time
	// Logger is told of a store made or brought up to date, and of a head that is
	// not valid; default: discarded.
	Logger *slog.Logger

	// volume is volumeRoom, or what a test says.
	volume func(path string) (left int64, known bool)
}

// Store is a store.Store in one bbolt file.
type Store struct {
	path    string
	options Options
	info    store.Info
	db      *bbolt.DB
	file    *os.File // the one that db has open

	updates chan *update
	closing chan struct{}
	closed  sync.Once
	closeBy error
	writer  sync.WaitGroup

	// The writer goroutine's own, read by Close once it has ended.
	broken error // why nothing can be written any more
	stuck  bool  // bbolt cannot be closed any more
}

var _ store.Store = (*Store)(nil)

// Open opens the store at o.Path, or makes it (see Options.Create). A missing
// store is store.ErrNotFound unless it may be made. What is there and cannot
// be used is left as it is: store.ErrDamaged, store.ErrForeign, store.ErrLocked.
func Open(o Options) (store.Store, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	// A second round is needed where another process makes the store meanwhile.
	for range 3 {
		err = inspect(o.Path)
		if errors.Is(err, fs.ErrNotExist) {
			if !o.Create {
				return nil, fmt.Errorf("there is no store at %s, and none may be made there: %w", o.Path, store.ErrNotFound)
			}
			if err = create(o); err == nil || errors.Is(err, fs.ErrExist) {
				continue
			}
		}
		if err != nil {
			return nil, err
		}
		s, err := open(o)
		switch {
		case err == nil:
			return s, nil
		case !errors.Is(err, errReplaced):
			return nil, err
		}
	}
	return nil, fmt.Errorf("%w: something else makes, removes or replaces %s at the same time; try again", store.ErrForeign, o.Path)
}

func (o Options) withDefaults() (Options, error) {
	switch {
	case o.Path == "":
		return o, errors.New("open a store: the path is empty")
	case o.NodeRID != "" && o.NodeRID.Type() != rid.NodeType:
		return o, fmt.Errorf("open the store %s: %s is not the RID of a node", o.Path, printable([]byte(o.NodeRID)))
	case o.Create && o.NodeRID == "":
		return o, fmt.Errorf("open the store %s: a new store needs the RID of its node", o.Path)
	case o.ReadOnly && o.Create:
		return o, fmt.Errorf("open the store %s: a store that is only read cannot be made", o.Path)
	case o.MaxSize < 0 || o.MaxSize > 0 && o.MaxSize < MinMaxSize:
		return o, fmt.Errorf("open the store %s: a maximum size of %d bytes is too small, the least is %d", o.Path, o.MaxSize, MinMaxSize)
	}
	if o.Timeout <= 0 {
		o.Timeout = DefaultTimeout
	}
	if o.VerifyBytes == 0 {
		o.VerifyBytes = DefaultVerifyBytes
	}
	if o.BatchUpdates <= 0 {
		o.BatchUpdates = DefaultBatchUpdates
	}
	if o.BatchBytes <= 0 {
		o.BatchBytes = DefaultBatchBytes
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.volume == nil {
		o.volume = volumeRoom
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o, nil
}

// inspect refuses what is no file with anything in it. bbolt would make an
// empty file into a new store, and a node would lose its memory without a word.
func inspect(path string) error {
	st, err := os.Stat(path)
	switch {
	case err != nil:
		return fmt.Errorf("open the store: %w", err)
	case !st.Mode().IsRegular():
		return fmt.Errorf("%w: %s is not a regular file; name another path", store.ErrForeign, path)
	case st.Size() == 0:
		return fmt.Errorf("%w: %s is empty (0 bytes); %s", store.ErrDamaged, path, remedy)
	}
	return nil
}

const remedy = "restore it from a backup, or move it aside to begin with an empty store"

// create makes a new store beside Path and gives it its name only when it is
// whole and on disk. fs.ErrExist: another process was faster.
func create(o Options) (err error) {
	temp, drop, err := tempBeside(o.Path)
	if err != nil {
		return fmt.Errorf("make the store %s: %w", o.Path, err)
	}
	defer func() { drop(err != nil) }()

	info := store.Info{ID: uuid.NewString(), Format: Format, NodeRID: o.NodeRID, Created: o.Clock().UTC()}
	if err := fill(temp, info, o.Timeout); err != nil {
		return fmt.Errorf("make the store %s: %w", o.Path, mapError(o.Path, err))
	}
	if err := publish(temp, o.Path); err != nil {
		return fmt.Errorf("make the store %s: %w", o.Path, err)
	}
	if err := syncDir(filepath.Dir(o.Path)); err != nil {
		return fmt.Errorf("make the store %s: %w", o.Path, err)
	}
	o.Logger.Info("store created", "path", o.Path, "store", info.ID, "node", info.NodeRID)
	return nil
}

// fill writes an empty store into the empty file at path, and syncs it.
func fill(path string, info store.Info, timeout time.Duration) error {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: timeout, FreelistType: bbolt.FreelistMapType})
	if err != nil {
		return err
	}
	err = db.Update(func(btx *bbolt.Tx) error {
		for _, name := range bucketNames {
			if _, err := btx.CreateBucket([]byte(name)); err != nil {
				return err
			}
		}
		data, err := json.Marshal(info)
		if err != nil {
			return err
		}
		return btx.Bucket([]byte(bucketNames[bucketSentinel])).Put(keyInfo, encodeBytes(keyInfo, data))
	})
	return errors.Join(err, db.Close())
}

var keyInfo = []byte("info")

// publish gives the file its name without ever replacing another.
func publish(temp, path string) error {
	err := os.Link(temp, path)
	switch {
	case err == nil || errors.Is(err, fs.ErrExist):
		return err
	case errors.Is(err, fs.ErrNotExist): // tidied away by whoever was faster
		return fs.ErrExist
	}
	// Some file systems have no hard links.
	if _, statErr := os.Lstat(path); !errors.Is(statErr, fs.ErrNotExist) {
		return fs.ErrExist
	}
	return os.Rename(temp, path)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// errReplaced: the file at the path is another than the one that was opened.
var errReplaced = errors.New("it was replaced while it was opened")

// open opens an existing file: first for reading alone, to look at it while a
// shared lock keeps writers out, then for writing.
func open(o Options) (*Store, error) {
	defer faultsPanic()()
	began := time.Now()
	r, err := look(o)
	if err != nil {
		return nil, err
	}
	if o.ReadOnly {
		return newReader(o, r)
	}
	if err := r.Close(); err != nil {
		return nil, err
	}
	db, f, err := openWritable(o, max(o.Timeout-time.Since(began), 100*time.Millisecond))
	if err != nil {
		return nil, err
	}
	s := newStore(o, db, f)
	// Between the two locks another process may have had the file.
	var missing []bucket
	if s.info, missing, err = s.readInfo(); err == nil && s.info != r.info {
		err = fmt.Errorf("%w: %s: %w", store.ErrForeign, o.Path, errReplaced)
	}
	if err == nil {
		err = s.settle()
	}
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	removeUnfinished(o.Path)
	s.writer.Add(1)
	go s.write(nil)
	if err := s.bringUpToDate(missing); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func newStore(o Options, db *bbolt.DB, f *os.File) *Store {
	return &Store{
		path: o.Path, options: o, db: db, file: f,
		updates: make(chan *update),
		closing: make(chan struct{}),
	}
}

// newReader makes a store for reading alone of a file that r has open.
func newReader(o Options, r *readable) (*Store, error) {
	s := newStore(o, r.db, r.f)
	var missing []bucket
	var err error
	if s.info, missing, err = s.readInfo(); err == nil && (len(missing) > 0 || s.info.Format < Format) {
		err = fmt.Errorf("%w: %s was made by an earlier version: open it for writing once, which brings it up to date", store.ErrReadOnly, o.Path)
	}
	if err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return s, nil
}

// settle has what the file holds reach the disk before anything is written. A
// process that was killed, or whose last sync failed, leaves a state that is read
// back and may not be on disk, while the pages of the state before it count as
// free: overwritten first, they would be missed after a loss of power. After a
// failed sync the kernel may hold as written what is not, so the head, which is
// what leads to the state, is written once more.
func (s *Store) settle() error {
	l, err := layoutOf(s.file)
	if err != nil {
		return layoutError(s.path, err)
	}
	if l.heads == 1 {
		s.options.Logger.Warn("one of the store's two heads is not valid: it goes on from the other, as after a crash during a commit", "path", s.path, "store", s.info.ID)
	}
	if _, err := s.file.WriteAt(l.head, l.at); err != nil && !noSpace(err) {
		return fmt.Errorf("open the store %s: %w", s.path, err)
	}
	if err := s.file.Sync(); err != nil {
		return fmt.Errorf("open the store: %w", mapError(s.path, err))
	}
	return nil
}

// bringUpToDate gives a store the buckets that came later than it was made, and
// this format. Empty buckets are small enough to lie in the page that lists them,
// and the commit finds its pages among those the last one let go, so that even a
// full store can be opened.
func (s *Store) bringUpToDate(missing []bucket) error {
	if len(missing) > 0 {
		err := s.Update(context.Background(), func(w store.Writer) error {
			t := w.(*tx)
			for _, id := range missing {
				if err := t.createBucket(id); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("bring the store %s up to date: %w", s.path, err)
		}
	}
	if s.info.Format < Format {
		return s.upgrade(context.Background())
	}
	if len(missing) > 0 {
		s.options.Logger.Info("store brought up to date", "path", s.path, "store", s.info.ID)
	}
	return nil
}

// unfinished marks files of a creation that has not come to its end.
const unfinished = ".new-"

// removeUnfinished removes what a crash in create left behind. It is called
// with the store open, when nothing of it can be wanted any more.
func removeUnfinished(path string) {
	dir, prefix := filepath.Dir(path), filepath.Base(path)+unfinished
	entries, err := os.ReadDir(dir)
	if err != nil {
		return // tried again at the next open
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), prefix) {
			_ = os.Remove(filepath.Join(dir, e.Name()))
		}
	}
}

func decodeInfo(path string, sentinel []byte) (store.Info, error) {
	payload, err := unseal(keyInfo, sentinel)
	var info store.Info
	if err == nil {
		err = json.Unmarshal(payload, &info)
	}
	if err != nil {
		return store.Info{}, fmt.Errorf("%w: %s: the sentinel: %w; %s", store.ErrDamaged, path, err, remedy)
	}
	return info, nil
}

// readInfo reads the sentinel through bbolt and sees that all buckets are there.
// missing are those that came later than the store was made.
func (s *Store) readInfo() (info store.Info, missing []bucket, err error) {
	defer guard(&err, s.path)
	err = s.db.View(func(btx *bbolt.Tx) error {
		t := &tx{shared: newShared(btx, s.options.Clock)}
		v, err := t.get(bucketSentinel, keyInfo)
		if err == nil {
			info, err = decodeInfo(s.path, v)
		}
		if err == nil {
			missing, err = t.missing(info.Format)
		}
		if err != nil {
			return fmt.Errorf("%s: %w; %s", s.path, err, remedy)
		}
		return nil
	})
	return info, missing, err
}

// missing returns the buckets that a store made earlier lacks: there was no replay
// memory at first, and format 1 kept bundles in others. Each of these groups is
// there as a whole, or not at all; any other bucket that is not there is damage.
func (t *tx) missing(format int) ([]bucket, error) {
	var absent []bucket
	for id := range bucketCount {
		if t.btx.Bucket([]byte(bucketNames[id])) == nil {
			absent = append(absent, id)
		}
	}
	later := make(map[bucket]bool)
	if counter, err := t.get(bucketCounters, keyReplay); err != nil {
		return nil, err
	} else if counter == nil && contains(absent, replayBuckets) {
		mark(later, replayBuckets)
	}
	if format == 1 {
		for _, name := range []string{bundles1, manifests1} {
			if t.btx.Bucket([]byte(name)) == nil {
				return nil, fmt.Errorf("%w: bucket %s is missing", store.ErrDamaged, name)
			}
		}
		if contains(absent, bundleBuckets) {
			mark(later, bundleBuckets)
		}
	}
	for _, id := range absent {
		if !later[id] {
			return nil, fmt.Errorf("%w: bucket %s is missing", store.ErrDamaged, id)
		}
	}
	return absent, nil
}

func contains(all, some []bucket) bool {
	return !slices.ContainsFunc(some, func(id bucket) bool { return !slices.Contains(all, id) })
}

func mark(set map[bucket]bool, ids []bucket) {
	for _, id := range ids {
		set[id] = true
	}
}

// Info implements store.Store.
func (s *Store) Info() store.Info { return s.info }

// View implements store.Store.
func (s *Store) View(ctx context.Context, fn func(store.Reader) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	defer faultsPanic()()
	btx, err := beginRead(s.db, s.path)
	if err != nil {
		return err
	}
	t := &tx{shared: newShared(btx, s.options.Clock), ctx: ctx}
	defer func() {
		t.over = true
		_ = btx.Rollback() // ends the snapshot; of a read-only transaction it cannot fail
	}()
	return fn(t)
}

func beginRead(db *bbolt.DB, path string) (btx *bbolt.Tx, err error) {
	defer guard(&err, path)
	if btx, err = db.Begin(false); err != nil {
		return nil, mapError(path, err)
	}
	return btx, nil
}

// Size implements store.Store.
func (s *Store) Size() (int64, error) {
	st, err := os.Stat(s.path)
	if err != nil {
		return 0, fmt.Errorf("size of the store: %w", err)
	}
	return st.Size(), nil
}

// Close implements store.Store. Updates that have not begun get
// store.ErrClosed; those that have, and views, are waited for. Closing twice
// is no error.
func (s *Store) Close() error {
	s.closed.Do(func() {
		close(s.closing)
		s.writer.Wait()
		if s.stuck {
			s.closeBy = fmt.Errorf("close the store: %w", s.broken)
			return
		}
		if err := s.db.Close(); err != nil {
			s.closeBy = fmt.Errorf("close the store %s: %w", s.path, err)
		}
	})
	return s.closeBy
}
