package bolt

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"

	bbolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/koi-net/koi-operator/node/store"
)

// update is one call of Update.
type update struct {
	fn   func(store.Writer) error
	done chan error // has room for the one answer
	// answered is the writer's own note.
	answered bool
}

func (u *update) answer(err error) {
	u.answered = true
	u.done <- err
}

// batch is one transaction on its way to a commit.
type batch struct {
	s      *Store
	shared *shared
	// taken are the updates the writer has accepted and not all answered.
	taken []*update
	// members ran without an error; they are answered by the commit.
	members []*update
	// refused returned an error without having changed anything. What they saw
	// is true only once the members are committed, so they wait for that.
	refused []refusal
	// running is the update whose function is running.
	running *update
}

type refusal struct {
	*update
	err error
}

// write is the writer goroutine: it ends when the store closes. retry are
// updates to run alone before anything else.
func (s *Store) write(retry []*update) {
	b := &batch{s: s}
	returned := false
	defer func() {
		if returned {
			s.writer.Done()
			return
		}
		// A function ended this goroutine (runtime.Goexit, as FailNow of a test
		// does). It alone fails; the writer goes on in another goroutine.
		b.rollback()
		b.running.answer(errors.New("the function of an update ended its goroutine"))
		var left []*update
		for _, u := range b.taken {
			if !u.answered {
				left = append(left, u)
			}
		}
		go s.write(left)
	}()
	defer faultsPanic()()
	b.taken = retry
	b.each(retry)
	for {
		select {
		case u := <-s.updates:
			b.collect(u)
		case <-s.closing:
			returned = true
			return
		}
	}
}

func (b *batch) refusedUpdates() []*update {
	var all []*update
	for _, r := range b.refused {
		all = append(all, r.update)
	}
	return all
}

// collect runs u and whatever else waits, up to the bounds of a batch, in one
// transaction, and commits it.
func (b *batch) collect(u *update) {
	b.taken = append(b.taken[:0], u)
	if err := b.begin(); err != nil {
		u.answer(err)
		return
	}
	for {
		if !b.run(u) {
			// Its changes are undone, and with them those of the members: they
			// run again without it, and it runs again after them, so that the
			// error it reports is one about a state that was.
			members := slices.Concat(b.members, b.refusedUpdates())
			b.rollback()
			b.together(members)
			b.alone(u)
			return
		}
		if len(b.members)+len(b.refused) >= b.s.options.BatchUpdates || b.shared.written >= b.s.options.BatchBytes {
			break
		}
		select {
		case u = <-b.s.updates:
			b.taken = append(b.taken, u)
			continue
		default:
		}
		break
	}
	b.finish()
}

// together runs updates that ran before in one transaction; where one fails
// now, each runs alone.
func (b *batch) together(updates []*update) {
	if len(updates) == 0 {
		return
	}
	if err := b.begin(); err == nil {
		for _, u := range updates {
			if !b.run(u) {
				b.rollback()
				b.each(updates)
				return
			}
		}
		b.finish()
		return
	}
	b.each(updates)
}

func (b *batch) each(updates []*update) {
	for _, u := range updates {
		b.alone(u)
	}
}

// alone gives u a transaction of its own and answers it.
func (b *batch) alone(u *update) {
	if err := b.begin(); err != nil {
		u.answer(err)
		return
	}
	if err := b.call(u); err != nil {
		b.rollback()
		u.answer(err)
		return
	}
	u.answer(b.commit())
}

// finish commits and answers. Where the commit of several fails, each gets a
// transaction of its own: one that is too large must not fail those that fit.
func (b *batch) finish() {
	members, refused := b.members, b.refused
	all := slices.Concat(members, b.refusedUpdates())
	err := b.commit()
	switch {
	case err == nil:
		for _, u := range members {
			u.answer(nil)
		}
		for _, r := range refused {
			r.answer(r.err)
		}
	case len(all) == 1:
		all[0].answer(err)
	default:
		b.each(all)
	}
}

// run calls u's function and sorts u in. It returns false where the function
// failed after changes were made: the transaction is spoiled.
func (b *batch) run(u *update) bool {
	changes := b.shared.changes
	err := b.call(u)
	switch {
	case err == nil:
		b.members = append(b.members, u)
	case b.shared.changes == changes && b.shared.failed == nil:
		b.refused = append(b.refused, refusal{u, err})
	default:
		return false
	}
	return true
}

// call runs u's function and turns its panic into an error.
func (b *batch) call(u *update) (err error) {
	w := &tx{shared: b.shared}
	defer func() {
		w.over = true
		if r := recover(); r != nil {
			b.running = nil
			err = fmt.Errorf("the function of an update panicked: %v\n%s", r, debug.Stack())
		}
	}()
	b.running = u
	err = u.fn(w)
	b.running = nil
	if err == nil {
		err = b.shared.failed
	}
	return err
}

func (b *batch) begin() (err error) {
	b.members, b.refused, b.running = nil, nil, nil
	if err := b.s.broken; err != nil {
		return err
	}
	defer guard(&err, "beginning a transaction")
	btx, err := b.s.db.Begin(true)
	if err != nil {
		return mapError(b.s.path, err)
	}
	b.shared = newShared(btx, b.s.options.Clock)
	b.shared.room, b.shared.spare = b.s.room(btx)
	return nil
}

// room is how many bytes may still be added, or negative for no bound: what the
// file may grow by, and what there is on its volume, less what deletions need. spare
// leaves them half of it.
func (s *Store) room(btx *bbolt.Tx) (room, spare int64) {
	stats := s.db.Stats()
	free := int64(stats.FreePageN+stats.PendingPageN) * int64(s.db.Info().PageSize)
	used := btx.Size() - free
	room, spare = -1, -1
	if limit := s.options.MaxSize; limit > 0 {
		kept := keptOf(limit)
		spare = max(limit-allocSize-kept/2-used, 0)
		room = max(spare-kept/2, 0)
	}
	if left, known := s.options.volume(s.path); known {
		kept := max(btx.Size()/64, 1<<20)
		onVolume := max(left+free-allocSize-kept/2, 0)
		if room < 0 || onVolume < spare {
			spare = onVolume
		}
		if onVolume = max(onVolume-kept/2, 0); room < 0 || onVolume < room {
			room = onVolume
		}
	}
	return room, spare
}

// keptOf is what of a bound additions leave to deletions.
func keptOf(limit int64) int64 { return max(limit/16, 1<<20) }

// bound is how large a commit may make the file. What is free in it lies in pieces,
// and a deletion may need a larger one (what is left of a page with large contents is
// written in one piece): so additions leave some at its end, too. A file that
// is larger than its bound already is to be deleted from all the same.
func (s *Store) bound(adds bool, size int64) int {
	limit := s.options.MaxSize
	switch {
	case limit <= 0:
		return 0
	case adds:
		return int(limit - keptOf(limit))
	case size > limit-allocSize:
		return int(size + 2*allocSize + keptOf(limit))
	}
	return int(limit)
}

func (b *batch) commit() (err error) {
	shared := b.shared
	b.members, b.refused = nil, nil
	if shared.changes == 0 {
		b.rollback()
		return nil
	}
	if err := (&tx{shared: shared}).flush(); err != nil {
		b.rollback()
		return err
	}
	b.shared = nil
	defer func() {
		if r := recover(); r != nil {
			// bbolt may hold its locks or half a free list: nothing is sure now
			// but what is on disk.
			b.s.broken = fmt.Errorf("%w: %s: committing: %v; no more is written until it is opened again", store.ErrDamaged, b.s.path, r)
			err = b.s.broken
			b.s.rollback(shared.btx)
		}
	}()
	txid := shared.btx.ID()
	b.s.db.MaxSize = b.s.bound(shared.adds, shared.btx.Size())
	if err := shared.btx.Commit(); err != nil {
		err = mapError(b.s.path, err)
		if b.s.untouched(err, txid) {
			return err
		}
		if errors.Is(err, store.ErrFull) { // which ends by itself; this does not
			err = errors.New(err.Error())
		}
		b.s.broken = fmt.Errorf("no more is written until the store is opened again: %w", err)
		return b.s.broken
	}
	return nil
}

// untouched reports whether the commit txid, which failed with err, left the state
// before it as it was, so that others may follow.
//
// bbolt writes the pages of a new state where the old one has none, and syncs them;
// then it writes the head that leads to them, and syncs that. Where there was no
// room for the pages, nothing of the old state has changed, and bbolt has read its
// free list again; what is written next writes all of its pages, whatever became
// of those. But once the new head is written, it is what is read, while nobody knows
// whether the disk has it, and the pages of the old state count as free: a commit
// that overwrites them would leave nothing to come back to. Nor is anything known
// after a write or a sync that failed for another reason, and a second sync may
// succeed without having written what the first did not.
func (s *Store) untouched(err error, txid int) bool {
	if !errors.Is(err, store.ErrFull) {
		return false
	}
	btx, err := beginRead(s.db, s.path)
	if err != nil {
		return false
	}
	state := btx.ID()
	_ = btx.Rollback() // of a read-only transaction it cannot fail
	return state < txid
}

func (b *batch) rollback() {
	if b.shared != nil {
		b.s.rollback(b.shared.btx)
		b.shared = nil
	}
	b.members, b.refused = nil, nil
}

func (s *Store) rollback(btx *bbolt.Tx) {
	defer func() {
		if r := recover(); r != nil {
			// The transaction keeps bbolt's writer lock, so the file can neither
			// be written nor closed.
			s.stuck = true
			s.broken = fmt.Errorf("%w: %s: undoing a transaction: %v; no more is written until it is opened again", store.ErrDamaged, s.path, r)
		}
	}()
	if err := btx.Rollback(); err != nil && !errors.Is(err, berrors.ErrTxClosed) && s.broken == nil {
		s.broken = fmt.Errorf("%s: undo a transaction: %w", s.path, err)
	}
}

// Update implements store.Store.
func (s *Store) Update(ctx context.Context, fn func(store.Writer) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.options.ReadOnly {
		return s.readOnly()
	}
	u := &update{fn: fn, done: make(chan error, 1)}
	select {
	case s.updates <- u:
		return <-u.done
	case <-ctx.Done():
		return fmt.Errorf("wait for the store's writer: %w", ctx.Err())
	case <-s.closing:
		return store.ErrClosed
	}
}

func (s *Store) readOnly() error {
	select {
	case <-s.closing:
		return store.ErrClosed
	default:
		return fmt.Errorf("%w: %s", store.ErrReadOnly, s.path)
	}
}

// mapError gives bbolt's and the system's errors the meaning callers decide on.
func mapError(path string, err error) error {
	switch {
	case errors.Is(err, berrors.ErrDatabaseNotOpen):
		return store.ErrClosed
	case errors.Is(err, berrors.ErrMaxSizeReached):
		return fmt.Errorf("%w: %s is at its configured size; enlarge it or delete something", store.ErrFull, path)
	case noSpace(err):
		return fmt.Errorf("%w: no space left for %s; enlarge the volume or delete something: %w", store.ErrFull, path, err)
	}
	return fmt.Errorf("store %s: %w", path, err)
}

// noSpace recognises a full volume or quota. bbolt passes some system errors on
// as text only.
func noSpace(err error) bool {
	for _, no := range []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG} {
		if errors.Is(err, no) || strings.Contains(err.Error(), no.Error()) {
			return true
		}
	}
	return false
}
