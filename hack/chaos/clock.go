package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/koi-net/koi-operator/hack/chaos/history"
	"github.com/koi-net/koi-operator/node"
	"github.com/koi-net/koi-operator/node/admin/client"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// stepped is a clock that runs, and is set while it runs.
type stepped struct{ ahead atomic.Int64 }

func (c *stepped) now() time.Time          { return time.Now().Add(time.Duration(c.ahead.Load())) }
func (c *stepped) set(ahead time.Duration) { c.ahead.Store(int64(ahead)) }

// clocked is a node in this process that goes by such a clock.
type clocked struct {
	*node.Node
	clock stepped
	cfg   node.Config
	log   bytes.Buffer
	admin *client.Client

	stop  context.CancelFunc
	ended chan error
	mu    sync.Mutex
}

// Write takes the node's log.
func (c *clocked) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.log.Len() > 1<<20 {
		c.log.Reset()
	}
	return c.log.Write(p)
}

func (c *clocked) logged() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.log.String()
}

func newClocked(dir, name string, change func(*node.Config)) *clocked {
	c := &clocked{cfg: node.DefaultConfig()}
	c.cfg.Name, c.cfg.DataDir = name, filepath.Join(dir, name)
	c.cfg.Listen, c.cfg.AdminListen = "127.0.0.1:0", "127.0.0.1:0"
	c.cfg.RetryCap, c.cfg.PollInterval, c.cfg.CheckInterval = 100*time.Millisecond, 20*time.Millisecond, time.Second
	c.cfg.Clock = c.clock.now
	c.cfg.Logger = slog.New(slog.NewTextHandler(c, nil))
	change(&c.cfg)
	return c
}

// start starts it, on its data where it was started before.
func (c *clocked) start(ctx context.Context) error {
	cfg := c.cfg
	n, err := node.New(node.WithConfig(cfg))
	if err != nil {
		return err
	}
	c.Node, c.ended = n, make(chan error, 1)
	ctx, c.stop = context.WithCancel(context.WithoutCancel(ctx))
	ended := c.ended
	go func() { ended <- n.Run(ctx) }()
	select {
	case <-n.Ready():
	case err := <-ended:
		ended <- err
		return fmt.Errorf("%s did not come up: %w", c.cfg.Name, err)
	}
	if a := n.Addr(); a != nil {
		c.cfg.Listen = a.String() // for its other lives
	}
	c.admin, err = client.New(client.Options{URL: "http://" + n.AdminAddr().String()})
	return err
}

// end stops it in good order.
func (c *clocked) end() error {
	if c.stop == nil {
		return nil
	}
	c.stop()
	c.stop = nil
	if c.admin != nil {
		c.admin.CloseIdleConnections()
	}
	return <-c.ended
}

// Steps of clocks: within what nodes bear of each other, and far beyond it.
const (
	smallStep = 2 * time.Minute    // each clock, so that two are never 5 minutes apart
	farStep   = 2 * 24 * time.Hour // less than a queue keeps events for who does not poll
)

// clocks sets the clocks of nodes while they work: one that gives out notes, one
// that is told of them and one that polls for them. Small steps nobody may notice.
// Where the first runs far ahead the others keep back what it says until their time
// has come, and then they have it.
func clocks(ctx context.Context, r *run) (err error) {
	dir, err := os.MkdirTemp("", "koi-chaos-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	rnd := r.random("clocks")
	first := newClocked(dir, "first", node.WithProvides(noteType))
	defer func() { err = errors.Join(err, first.end()) }()
	if err := first.start(ctx); err != nil {
		return err
	}
	var others []*clocked
	defer func() {
		for _, o := range others {
			err = errors.Join(err, o.end())
		}
		if err != nil {
			err = fmt.Errorf("%w\n--- the log of first\n%s--- and of another\n%s", err, first.logged(), others[len(others)-1].logged())
		}
	}()
	for _, kind := range []protocol.NodeKind{protocol.Full, protocol.Partial} {
		o := newClocked(dir, string(kind), func(c *node.Config) {
			c.Partial = kind == protocol.Partial
			c.FirstContact = first.Profile().BaseURL
			c.Interests = append(c.Interests, noteType)
		})
		others = append(others, o)
		if err := o.start(ctx); err != nil {
			return err
		}
		if err := subscribed(ctx, first.Node, o.Node); err != nil {
			return err
		}
	}
	s := &clockwork{first: first, others: others, rnd: rnd, all: append([]*clocked{first}, others...)}
	small, far := 0, 0
	for round := 0; round < 3 || r.more(ctx, round); round++ {
		if round%3 < 2 {
			small++
			err = s.small(ctx)
		} else {
			far++
			err = s.far(ctx)
		}
		if err != nil {
			return fmt.Errorf("round %d: %w", round, err)
		}
	}
	r.say("%d rounds of small steps, %d of far ones; %d changes", small, far, s.version)
	return ctx.Err()
}

// subscribed waits until both ends say that the edge is approved.
func subscribed(ctx context.Context, source, target *node.Node) error {
	for _, n := range []*node.Node{source, target} {
		err := until(ctx, "the edge is approved", func(context.Context) (bool, string) {
			e, ok := n.Graph().Edge(source.RID(), target.RID())
			return ok && e.Profile.Status == protocol.Approved, fmt.Sprint(ok, e.Profile.Status)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// clockwork is the nodes of clocks and what the first was given.
type clockwork struct {
	first   *clocked
	others  []*clocked
	all     []*clocked
	rnd     *rand.Rand
	model   history.Model
	version history.Change
}

// change puts some notes, and forgets some where it may.
func (s *clockwork) change(ctx context.Context, n int, forgets bool) error {
	for range n {
		r := rid.RID(fmt.Sprintf("%s:clock-%d", noteType, s.rnd.IntN(10)))
		step := history.Step{RID: r}
		var err error
		if forgets && s.model.State(r) != history.Forgotten && s.rnd.IntN(4) == 0 {
			err = s.first.Forget(ctx, r)
		} else {
			s.version++
			step.Change = s.version
			_, err = s.first.Put(ctx, r, note(r, s.version))
		}
		if err == nil {
			err = s.model.Apply(step)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// small steps all clocks a little, forth and back, while notes change; one of the
// nodes starts anew now and then.
func (s *clockwork) small(ctx context.Context) error {
	for range 5 {
		for _, c := range s.all {
			c.clock.set(time.Duration(s.rnd.Int64N(int64(2*smallStep))) - smallStep)
		}
		if s.rnd.IntN(3) == 0 {
			c := s.all[s.rnd.IntN(len(s.all))]
			if err := errors.Join(c.end(), c.start(ctx)); err != nil {
				return err
			}
		}
		if err := s.change(ctx, 1+s.rnd.IntN(10), true); err != nil {
			return err
		}
		if s.rnd.IntN(2) == 0 {
			if err := s.same(ctx); err != nil {
				return err
			}
		}
	}
	return s.same(ctx)
}

// far has the first node run far ahead for a while. Nothing is forgotten then: a
// FORGET is not stamped, and overtakes what is kept back.
func (s *clockwork) far(ctx context.Context) error {
	s.first.clock.set(farStep)
	if err := s.change(ctx, 10, false); err != nil {
		return err
	}
	// It is put right, and what it changed meanwhile it changes again.
	s.first.clock.set(0)
	if err := s.change(ctx, 10, false); err != nil {
		return err
	}
	if err := s.holds(ctx, s.first); err != nil {
		return err
	}
	if err := delivered(ctx, "first", s.first.admin); err != nil {
		return err
	}
	for _, o := range s.others {
		if err := processed(ctx, o.cfg.Name, o.admin); err != nil {
			return err
		}
	}
	for _, c := range s.all {
		c.clock.set(farStep)
	}
	// Who waits for a time to come looks at the clock once a minute, or when it is
	// to process something.
	for _, c := range s.all {
		if err := c.Flush(ctx); err != nil {
			return err
		}
	}
	if err := s.same(ctx); err != nil {
		return err
	}
	// The way back is a step as well: what follows is stamped after what is held.
	for _, c := range s.all {
		c.clock.set(0)
	}
	return s.startOver(ctx)
}

// startOver forgets all notes, so that no stamp of the future is left.
func (s *clockwork) startOver(ctx context.Context) error {
	for r := range s.model.Held() {
		if err := s.first.Forget(ctx, r); err != nil {
			return err
		}
		if err := s.model.Apply(history.Step{RID: r}); err != nil {
			return err
		}
	}
	return s.same(ctx)
}

// same waits until all nodes hold what the first was given.
func (s *clockwork) same(ctx context.Context) error {
	for _, c := range s.all {
		if err := s.holds(ctx, c); err != nil {
			return err
		}
	}
	s.model.Settle()
	return nil
}

func (s *clockwork) holds(ctx context.Context, c *clocked) error {
	return until(ctx, c.cfg.Name+" holds what first was given", func(ctx context.Context) (bool, string) {
		held := map[rid.RID]history.Change{}
		for r, err := range c.RIDs(ctx, noteType) {
			if err != nil {
				return false, err.Error()
			}
			b, err := c.Bundle(ctx, r)
			if err == nil {
				err = hold(held, b)
			}
			if err != nil {
				return false, err.Error()
			}
		}
		err := s.model.Compare("what "+c.cfg.Name+" holds", held, nil, true)
		return err == nil, fmt.Sprint(err)
	})
}
