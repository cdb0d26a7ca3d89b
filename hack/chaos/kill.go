package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/koi-net/koi-operator/hack/chaos/history"
	"github.com/koi-net/koi-operator/hack/chaos/koinode"
	"github.com/koi-net/koi-operator/hack/chaos/witness"
	"github.com/koi-net/koi-operator/node/rid"
)

// killing is a scenario in which nodes are killed in rounds.
type killing struct {
	name     string
	unsigned bool
	stretch  stretch
}

// stretch is the part of the way of an event on which nodes are killed.
type stretch int

const (
	// broadcast: one node, many senders; what was answered 200 is in the cache.
	broadcast stretch = iota
	// processing: much of what is sent has to be fetched from a slow source, so
	// that the inbox is full; two subscribers.
	processing
	// delivery: subscribers of all kinds, that are killed or do not answer well.
	delivery
)

// lanes is how many senders there are.
const lanes = 4

// killed counts what came to pass.
type killed struct {
	rounds, kills, early, checks, busy int
	acked, resent, accepted, refused   int
	rests                              int
}

func (k killed) String() string {
	return fmt.Sprintf("%d rounds, %d kills (%d of nodes that were starting), %d stores checked, of which %d had objects to process; "+
		"%d events acknowledged, %d bodies sent again, %d in doubt accepted, %d not; at rest %d times",
		k.rounds, k.kills, k.early, k.checks, k.busy, k.acked, k.resent, k.accepted, k.refused, k.rests)
}

// run runs the rounds. The error says in which round and with which seed it came.
func (k killing) run(ctx context.Context, r *run) (err error) {
	rnd := r.random(k.name)
	n := &koiNet{}
	defer func() { err = errors.Join(err, n.close()) }()
	if err := n.start(ctx, r.program, k.shape(r.random(k.name+" moods"))); err != nil {
		return fmt.Errorf("%w\n%s", err, n.logs())
	}
	senders := make([]*lane, lanes)
	for i := range senders {
		senders[i] = newLane(fmt.Sprintf("lane%d", i), n.source, &n.model, k.unsigned, k.stretch != broadcast)
	}
	var done killed
	for round := 0; r.more(ctx, round); round++ {
		rnd := rand.New(rand.NewPCG(rnd.Uint64(), uint64(round)))
		if err := k.round(ctx, n, senders, rnd, &done); err != nil {
			return fmt.Errorf("round %d: %w\n%s", round, err, n.logs())
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := n.rest(ctx, true); err != nil {
		return fmt.Errorf("at the end: %w\n%s", err, n.logs())
	}
	for _, l := range senders {
		done.acked += l.acked
		done.resent += l.resent
	}
	r.say("%s", done)
	return done.enough()
}

// enough says whether the rounds showed anything.
func (k killed) enough() error {
	if k.acked < k.rounds {
		return fmt.Errorf("%d events acknowledged in %d rounds: that shows nothing", k.acked, k.rounds)
	}
	return nil
}

func (k killing) shape(rnd *rand.Rand) shape {
	s := shape{unsigned: k.unsigned, subscribed: k.stretch != broadcast, nodes: k.stretch == delivery}
	var mu sync.Mutex
	draw := func(n int) int {
		mu.Lock()
		defer mu.Unlock()
		return rnd.IntN(n)
	}
	s.pause = func() time.Duration { return time.Duration(draw(8000)) * time.Microsecond }
	if k.stretch == delivery {
		s.mood = func() witness.Mood {
			switch draw(20) {
			case 0:
				return witness.Refuse
			case 1:
				return witness.HangUp
			case 2:
				return witness.Reset
			case 3, 4:
				return witness.Slow
			}
			return witness.Well
		}
	}
	return s
}

// victims are who is killed in a round.
func (k killing) victims(n *koiNet, rnd *rand.Rand) []*koinode.Node {
	if k.stretch != delivery {
		return []*koinode.Node{n.first}
	}
	all := []*koinode.Node{n.first, n.full, n.partial}
	rnd.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all[:1+rnd.IntN(len(all))]
}

func (k killing) round(ctx context.Context, n *koiNet, senders []*lane, rnd *rand.Rand, done *killed) error {
	done.rounds++
	if err := k.traffic(ctx, n, senders, rnd, done); err != nil {
		return err
	}
	if err := k.resolve(ctx, n, senders, rnd, done); err != nil {
		return err
	}
	if k.stretch == broadcast || rnd.IntN(4) == 0 {
		done.rests++
		return n.rest(ctx, false)
	}
	return n.read()
}

// traffic has the lanes send while nodes are killed, and starts those again.
func (k killing) traffic(ctx context.Context, n *koiNet, senders []*lane, rnd *rand.Rand, done *killed) error {
	sending, stop := context.WithCancel(ctx)
	defer stop()
	var under sync.WaitGroup
	errs := make([]error, len(senders))
	for i, l := range senders {
		l.rnd = rand.New(rand.NewPCG(rnd.Uint64(), 0))
		under.Go(func() { errs[i] = l.run(sending, n.target) })
	}
	var deaths sync.WaitGroup
	victims := k.victims(n, rnd)
	for _, v := range victims {
		after := time.Duration(2+rnd.IntN(150)) * time.Millisecond
		deaths.Go(func() {
			select {
			case <-time.After(after):
			case <-ctx.Done():
			}
			n.kill(v)
		})
	}
	deaths.Wait()
	if !slices.Contains(victims, n.first) {
		time.Sleep(time.Duration(rnd.IntN(50)) * time.Millisecond)
	}
	stop()
	under.Wait()
	done.kills += len(victims)
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return k.revive(ctx, n, victims, rnd, done)
}

// revive starts nodes that were killed; some die once more while they start.
func (k killing) revive(ctx context.Context, n *koiNet, dead []*koinode.Node, rnd *rand.Rand, done *killed) error {
	for _, v := range dead {
		if rnd.IntN(3) == 0 {
			left, err := v.CheckStore(ctx)
			if err != nil {
				return err
			}
			done.checks++
			if left.Inbox > 0 {
				done.busy++
			}
		}
		if rnd.IntN(8) == 0 {
			done.early++
			done.kills++
			if err := v.Begin(); err != nil {
				return err
			}
			time.Sleep(time.Duration(rnd.IntN(60)) * time.Millisecond)
			n.kill(v)
		}
		if err := v.Begin(); err != nil {
			return err
		}
	}
	for _, v := range dead {
		if err := v.WaitUp(ctx); err != nil {
			return err
		}
	}
	return nil
}

// resolve brings bodies in doubt to an end, and holds what first has against all
// that was acknowledged.
func (k killing) resolve(ctx context.Context, n *koiNet, senders []*lane, rnd *rand.Rand, done *killed) error {
	for _, l := range senders {
		if l.doubt == nil || rnd.IntN(2) == 0 || k.unsigned && !l.doubt.repeatable {
			continue
		}
		// Sent again as it was it has its effect once, whether it was accepted
		// before or not.
		p := *l.doubt
		l.doubt = nil
		gone, err := l.send(ctx, n.target, p)
		if err != nil {
			return err
		}
		if gone {
			return fmt.Errorf("lane %s: the node is gone, and nobody killed it", l.name)
		}
	}
	if err := processed(ctx, n.first.Name, n.first.Admin()); err != nil {
		return err
	}
	for _, l := range senders {
		if l.doubt == nil {
			continue
		}
		p := *l.doubt
		l.doubt = nil
		if err := decide(ctx, n, l, p, done); err != nil {
			return err
		}
	}
	return n.compareFirst(ctx, n.model.Touched(), false)
}

// decide finds out whether a body was accepted.
func decide(ctx context.Context, n *koiNet, l *lane, p parcel, done *killed) error {
	var rids []rid.RID
	for _, s := range p.steps {
		rids = append(rids, s.RID)
	}
	held, err := n.held(ctx, rids)
	if err != nil {
		return err
	}
	verdict, err := n.model.Decide(p.steps, func(r rid.RID) history.Change { return held[r] })
	if err != nil {
		return err
	}
	if verdict == history.Refused {
		done.refused++
		return nil
	}
	done.accepted++
	return l.accepted(p)
}
