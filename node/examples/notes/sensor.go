package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sync/errgroup"

	"github.com/koi-net/koi-operator/node"
	"github.com/koi-net/koi-operator/node/rid"
)

// sensor keeps what is published like the vault.
type sensor struct {
	vault          *vault
	publish        func(ctx context.Context, r rid.RID) error // as the file is now, or not any more
	settle, rescan time.Duration
	log            *slog.Logger

	files map[string]*state
}

// state is what the sensor knows of a file.
type state struct {
	look
	since time.Time // when it was first seen to look so
	done  bool      // it is published as it looks
}

// parallel bounds the notes published at once: the node writes them together.
const parallel = 32

// publishTo has the node take in a note from its file, or forget it.
func publishTo(n *node.Node) func(context.Context, rid.RID) error {
	return func(ctx context.Context, r rid.RID) error {
		_, err := n.Deref(ctx, r, node.SkipCache, node.SkipNetwork)
		if !errors.Is(err, node.ErrNotFound) {
			return err
		}
		if err := n.Forget(ctx, r); !errors.Is(err, node.ErrNotFound) {
			return err
		}
		return nil // it was not published
	}
}

// run looks at the vault now, when it changes, and at every rescan.
func (s *sensor) run(ctx context.Context, n *node.Node) error {
	select {
	case <-n.Ready():
	case <-ctx.Done():
		return nil
	}
	if err := s.recall(ctx, n); err != nil {
		return err
	}
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch %s: %w", s.vault.dir, err)
	}
	changed := make(chan struct{}, 1)
	var g errgroup.Group
	g.Go(func() error {
		s.listen(w, changed)
		return nil
	})
	defer func() {
		_ = w.Close() // which ends listen
		_ = g.Wait()
	}()
	unwatched := map[string]bool{}
	enter := func(dir string) { // a directory that is watched already stays so
		err := w.Add(dir)
		if err != nil && !unwatched[dir] {
			s.log.Warn("directory is looked at by rescans only", "dir", dir, "error", err)
		}
		unwatched[dir] = err != nil
	}
	s.log.Info("watching", "dir", s.vault.dir, "vault", s.vault.name)
	s.loop(ctx, changed, enter)
	return nil
}

// recall begins with the notes in the cache: those whose files are gone were
// forgotten while we did not run.
func (s *sensor) recall(ctx context.Context, n *node.Node) error {
	s.files = map[string]*state{}
	for r, err := range n.RIDs(ctx, noteType) {
		if err != nil {
			return err
		}
		if file, ok := s.vault.file(r); ok {
			s.files[file] = &state{}
		}
	}
	return nil
}

// listen passes on that something changed, until the watcher is closed.
func (s *sensor) listen(w *fsnotify.Watcher, changed chan<- struct{}) {
	for {
		select {
		case _, open := <-w.Events:
			if !open {
				return
			}
		case err, open := <-w.Errors:
			if !open {
				return
			}
			s.log.Warn("a change may have gone unnoticed", "error", err)
		}
		select {
		case changed <- struct{}{}:
		default: // it is known already
		}
	}
}

func (s *sensor) loop(ctx context.Context, changed <-chan struct{}, enter func(dir string)) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var next time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-changed:
			if soon := time.Now().Add(s.settle); next.After(soon) {
				next = soon
			}
		case <-timer.C:
			wait, err := s.look(ctx, time.Now(), enter)
			if err != nil {
				s.log.Error("nothing is published or forgotten for now", "error", err)
			}
			next = time.Now().Add(wait)
		}
		timer.Reset(time.Until(next))
	}
}

// look compares the vault with what is published, publishes what has settled,
// and says when to look again.
func (s *sensor) look(ctx context.Context, now time.Time, enter func(dir string)) (time.Duration, error) {
	seen, err := s.vault.scan(enter)
	if err != nil {
		return s.rescan, err
	}
	for file := range seen {
		if s.files[file] == nil {
			s.files[file] = &state{done: true}
		}
	}
	wait := s.rescan
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for file, st := range s.files {
		if st.look != seen[file] {
			*st = state{look: seen[file], since: now}
		}
		switch left := s.settle - now.Sub(st.since); {
		case st.done && st.look == look{}:
			delete(s.files, file)
		case st.done:
		case left > 0:
			wait = min(wait, left)
		default:
			g.Go(func() error {
				st.done = s.tell(ctx, file)
				st.since = now.Add(s.rescan) // if that failed, then again
				return nil
			})
		}
	}
	return wait, g.Wait()
}

func (s *sensor) tell(ctx context.Context, file string) (done bool) {
	r, err := s.vault.rid(file)
	if err == nil {
		err = s.publish(ctx, r)
	}
	if err != nil && ctx.Err() == nil {
		s.log.Warn("note left as it is, for now", "file", file, "error", err)
	}
	return err == nil
}
