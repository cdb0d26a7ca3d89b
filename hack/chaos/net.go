package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/koi-net/koi-operator/hack/chaos/history"
	"github.com/koi-net/koi-operator/hack/chaos/koinode"
	"github.com/koi-net/koi-operator/hack/chaos/witness"
	"github.com/koi-net/koi-operator/node/admin/client"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

const (
	// patience is how long nodes may take until they are at rest.
	patience = 60 * time.Second
	// looking is the pause between two looks at something that is waited for.
	looking = 2 * time.Millisecond
	// fetchRIDs is how many bundles are asked for at once.
	fetchRIDs = 250
)

// koiNet is the nodes of one scenario and who looks on.
//
//	lanes ─► first ─┬─► full ────► relayed
//	                ├─► partial
//	                ├─► webhook
//	                └─► polling
//
// First, full and partial are koi-nodes, and are killed; the others are witnesses.
// Which of them there are is up to the scenario.
type koiNet struct {
	dir     string
	nodes   []*koinode.Node
	first   *koinode.Node
	full    *koinode.Node // nil where there is none; so below
	partial *koinode.Node

	source    *witness.Witness // on whose behalf the lanes speak
	witnesses []*witness.Witness
	webhook   *witness.Witness
	polling   *witness.Witness
	relayed   *witness.Witness
	target    witness.Node // first, as the source knows it

	model    ledger
	follow   map[*witness.Witness]*history.Follower
	relay    history.Relay
	stopPoll context.CancelFunc
	polls    sync.WaitGroup
	undo     func() error // what place made
}

// shape says which nodes a net has.
type shape struct {
	unsigned   bool
	subscribed bool // webhook and polling
	nodes      bool // full, partial and relayed
	mood       func() witness.Mood
	pause      func() time.Duration
	args       []string                                // of first, besides
	place      func(data string) (func() error, error) // makes first's data directory, and returns what undoes that
}

// trouble written down by witnesses, as to who is disturbed.
const (
	firstKilled = "first was killed"
	fullKilled  = "full was killed"
)

// start starts a net; close ends it, whatever start returns.
func (n *koiNet) start(ctx context.Context, program string, s shape) (err error) {
	if n.dir, err = os.MkdirTemp("", "koi-chaos-"); err != nil {
		return err
	}
	n.follow = map[*witness.Witness]*history.Follower{}
	common := []string{"--retry-cap", "200ms", "--poll-interval", "50ms"}
	if s.unsigned {
		common = append(common, "--unsigned")
	}
	gives := []string{"--provides-event", string(noteType), "--provides-state", string(noteType)}
	if n.first, err = n.node(program, "first", slices.Concat(gives, common, s.args)...); err != nil {
		return err
	}
	if s.place != nil {
		if n.undo, err = s.place(n.first.Data); err != nil {
			return err
		}
	}
	if err := n.first.Start(ctx); err != nil {
		return err
	}
	if n.source, err = n.witness("source", s, protocol.Full); err != nil {
		return err
	}
	if n.target, err = n.source.Meet(ctx, n.first.URL()); err != nil {
		return err
	}
	if s.subscribed {
		if n.webhook, err = n.witness("webhook", s, protocol.Full); err != nil {
			return err
		}
		if n.polling, err = n.witness("polling", s, protocol.Partial); err != nil {
			return err
		}
		for _, w := range []*witness.Witness{n.webhook, n.polling} {
			n.follow[w] = &history.Follower{}
			if err := n.subscribe(ctx, w, n.first); err != nil {
				return err
			}
		}
		n.poll(ctx)
	}
	if s.nodes {
		return n.startOthers(ctx, program, s, common)
	}
	return nil
}

func (n *koiNet) startOthers(ctx context.Context, program string, s shape, common []string) (err error) {
	follows := append([]string{"--first-contact", n.first.URL(), "--interest", "orn:koi-net.node," + string(noteType)}, common...)
	if n.full, err = n.node(program, "full", append(slices.Clone(follows), "--provides-event", string(noteType))...); err != nil {
		return err
	}
	if n.partial, err = n.node(program, "partial", append(slices.Clone(follows), "--partial")...); err != nil {
		return err
	}
	for _, node := range []*koinode.Node{n.full, n.partial} {
		if err := node.Start(ctx); err != nil {
			return err
		}
		if err := n.approved(ctx, node); err != nil {
			return err
		}
	}
	if n.relayed, err = n.witness("relayed", s, protocol.Full); err != nil {
		return err
	}
	return n.subscribe(ctx, n.relayed, n.full)
}

func (n *koiNet) node(program, name string, args ...string) (*koinode.Node, error) {
	node, err := koinode.New(program, n.dir, name, args...)
	if err == nil {
		n.nodes = append(n.nodes, node)
	}
	return node, err
}

func (n *koiNet) witness(name string, s shape, kind protocol.NodeKind) (*witness.Witness, error) {
	cfg := witness.Config{Name: name, Unsigned: s.unsigned, Kind: kind}
	if name == "source" {
		cfg.State, cfg.Pause = []rid.Type{noteType}, s.pause
	} else {
		cfg.Mood, cfg.Pause = s.mood, s.pause
	}
	w, err := witness.New(cfg)
	if err == nil {
		n.witnesses = append(n.witnesses, w)
	}
	return w, err
}

// subscribe has a witness subscribe to a node's notes.
func (n *koiNet) subscribe(ctx context.Context, w *witness.Witness, to *koinode.Node) error {
	target, err := w.Meet(ctx, to.URL())
	if err != nil {
		return err
	}
	if err := w.Propose(ctx, target, noteType); err != nil {
		return err
	}
	err = until(ctx, "the edge of "+string(w.RID())+" is approved", func(ctx context.Context) (bool, string) {
		if w.Profile().NodeType == protocol.Partial {
			if _, err := w.Poll(ctx, target); err != nil {
				return false, err.Error()
			}
		}
		status := w.Status(target.RID)
		return status == protocol.Approved, string(status)
	})
	if err != nil {
		return err
	}
	return n.approvedAt(ctx, to, w.RID(), to)
}

// approved waits until both ends say that a node's edge from first is approved.
func (n *koiNet) approved(ctx context.Context, node *koinode.Node) error {
	if err := n.approvedAt(ctx, n.first, node.RID(), n.first); err != nil {
		return err
	}
	return n.approvedAt(ctx, n.first, node.RID(), node)
}

// approvedAt waits until an end of an edge says that it is approved. What others
// are told of an edge may be ahead of what the source itself goes by.
func (n *koiNet) approvedAt(ctx context.Context, source *koinode.Node, target rid.RID, end *koinode.Node) error {
	return until(ctx, fmt.Sprintf("%s has the edge from %s to %s", end.Name, source.Name, target), func(ctx context.Context) (bool, string) {
		list, err := end.Admin().Edges(ctx, false)
		if err != nil {
			return false, err.Error()
		}
		for _, e := range list.Edges {
			if e.Source == source.RID() && e.Target == target {
				return e.Status == protocol.Approved && slices.Contains(e.RIDTypes, noteType), fmt.Sprint(e.Status, e.RIDTypes)
			}
		}
		return false, "no edge"
	})
}

// poll has the polling witness poll all the time.
func (n *koiNet) poll(ctx context.Context) {
	ctx, n.stopPoll = context.WithCancel(ctx)
	target, w := n.target, n.polling
	n.polls.Go(func() {
		for tick := time.NewTicker(10 * time.Millisecond); ; {
			select {
			case <-tick.C:
				_, _ = w.Poll(ctx, target) // the node is killed now and then
			case <-ctx.Done():
				tick.Stop()
				return
			}
		}
	})
}

// close ends everything that was started, and leaves nothing behind.
func (n *koiNet) close() error {
	if n.stopPoll != nil {
		n.stopPoll()
		n.polls.Wait()
	}
	for _, node := range n.nodes {
		node.Kill()
	}
	for _, w := range n.witnesses {
		w.Close()
	}
	if n.undo != nil {
		if err := n.undo(); err != nil {
			return err
		}
	}
	if n.dir == "" {
		return nil
	}
	return os.RemoveAll(n.dir)
}

// logs are the ends of what the nodes logged.
func (n *koiNet) logs() string {
	var out strings.Builder
	for _, node := range n.nodes {
		fmt.Fprintf(&out, "--- the end of the log of %s, after %d starts\n%s\n", node.Name, node.Starts(), node.Log())
	}
	return out.String()
}

// kill kills a node, after whoever it speaks with was told that this is coming.
func (n *koiNet) kill(node *koinode.Node) {
	what := map[*koinode.Node]string{n.first: firstKilled, n.full: fullKilled}[node]
	if what != "" {
		for _, w := range []*witness.Witness{n.webhook, n.polling, n.relayed} {
			if w != nil {
				w.Trouble(what)
			}
		}
	}
	node.Kill()
}

// until looks at something until it is so.
func until(ctx context.Context, what string, look func(context.Context) (ok bool, seen string)) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(looking)
	defer tick.Stop()
	last := ""
	for {
		ok, seen := look(ctx)
		if ok {
			return nil
		}
		if ctx.Err() == nil {
			last = seen
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return fmt.Errorf("%s: not within %s; last seen: %s", what, patience, last)
			}
			return ctx.Err()
		}
	}
}

// processed waits until a node has processed all that it accepted.
func processed(ctx context.Context, name string, admin *client.Client) error {
	return until(ctx, name+" has processed all", func(ctx context.Context) (bool, string) {
		st, err := admin.Status(ctx)
		if err != nil {
			return false, err.Error()
		}
		return st.Inbox == 0, fmt.Sprintf("%d objects wait", st.Inbox)
	})
}

// delivered waits until nothing waits at a node for anybody.
func delivered(ctx context.Context, name string, admin *client.Client) error {
	return until(ctx, name+" has delivered all", func(ctx context.Context) (bool, string) {
		st, err := admin.Status(ctx)
		if err != nil {
			return false, err.Error()
		}
		var waiting []string
		for _, q := range st.Queues {
			if q.Rows > 0 {
				waiting = append(waiting, fmt.Sprintf("%d in the %s of %s (%s)", q.Rows, q.Kind, q.Peer, q.LastError))
			}
		}
		return st.Inbox == 0 && len(waiting) == 0, strings.Join(waiting, ", ")
	})
}

// held asks first for RIDs, and says which versions it holds.
func (n *koiNet) held(ctx context.Context, rids []rid.RID) (map[rid.RID]history.Change, error) {
	return n.heldBy(ctx, n.source, n.target, rids)
}

func (n *koiNet) heldBy(ctx context.Context, w *witness.Witness, node witness.Node, rids []rid.RID) (map[rid.RID]history.Change, error) {
	out := map[rid.RID]history.Change{}
	for chunk := range slices.Chunk(rids, fetchRIDs) {
		bundles, err := w.Bundles(ctx, node, chunk)
		if err != nil {
			return nil, fmt.Errorf("what %s holds: %w", node.RID, err)
		}
		for _, b := range bundles {
			if err := hold(out, b); err != nil {
				return nil, fmt.Errorf("what %s holds: %w", node.RID, err)
			}
		}
	}
	return out, nil
}

// hold notes the version of one bundle, which has to be as it was sent.
func hold(out map[rid.RID]history.Change, b protocol.Bundle) error {
	r := b.Manifest.RID
	v, err := version(b.Contents)
	if err == nil && !bytes.Equal(note(r, v), b.Contents) && !bytes.Equal(largeNote(r, v), b.Contents) {
		err = fmt.Errorf("contents nobody sent: %.100s", b.Contents)
	}
	if err == nil {
		err = protocol.VerifyHash(b.Contents, b.Manifest.SHA256Hash)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", r, err)
	}
	out[r] = v
	return nil
}

// all asks a full node for everything that it holds of the notes.
func (n *koiNet) all(ctx context.Context, w *witness.Witness, node witness.Node) (map[rid.RID]history.Change, error) {
	manifests, err := w.Manifests(ctx, node, []rid.Type{noteType}, nil)
	if err != nil {
		return nil, fmt.Errorf("what %s holds: %w", node.RID, err)
	}
	var rids []rid.RID
	for _, m := range manifests {
		rids = append(rids, m.RID)
	}
	return n.heldBy(ctx, w, node, rids)
}

// allOf asks a node's admin API for everything that it holds of the notes.
func allOf(ctx context.Context, node *koinode.Node) (map[rid.RID]history.Change, error) {
	out := map[rid.RID]history.Change{}
	for r, err := range node.Admin().AllRIDs(ctx, []rid.Type{noteType}) {
		if err != nil {
			return nil, fmt.Errorf("what %s holds: %w", node.Name, err)
		}
		b, err := node.Admin().Bundle(ctx, r)
		if err == nil {
			err = hold(out, b)
		}
		if err != nil {
			return nil, fmt.Errorf("what %s holds: %w", node.Name, err)
		}
	}
	return out, nil
}

// read holds what the witnesses wrote down against the model.
func (n *koiNet) read() error { return n.readWith(func(*witness.Witness, witness.Entry) {}) }

// readWith is read for one who looks at it besides.
func (n *koiNet) readWith(look func(*witness.Witness, witness.Entry)) error {
	n.model.mu.Lock()
	defer n.model.mu.Unlock()
	for w, f := range n.follow {
		log, err := w.Take()
		if err != nil {
			return err
		}
		for _, e := range log {
			look(w, e)
		}
		err = each(log, f.Disturbed, func(s history.Step) error { return f.Offered(&n.model.Model, s) })
		if err != nil {
			return fmt.Errorf("%s: %w", w.RID(), err)
		}
	}
	if n.relayed == nil {
		return nil
	}
	log, err := n.relayed.Take()
	if err != nil {
		return err
	}
	for _, e := range log {
		switch e.Trouble {
		case "":
		case firstKilled:
			n.relay.DisturbedFar()
			continue
		case fullKilled:
			n.relay.DisturbedNear()
			n.relay.DisturbedFar()
			continue
		default:
			n.relay.DisturbedNear()
			continue
		}
		err := steps(e.Events, func(s history.Step) error { return n.relay.Offered(&n.model.Model, s) })
		if err != nil {
			return fmt.Errorf("%s: %w", n.relayed.RID(), err)
		}
	}
	return nil
}

// each goes through what a witness wrote down.
func each(log []witness.Entry, disturbed func(), offered func(history.Step) error) error {
	for _, e := range log {
		if e.Trouble != "" {
			disturbed()
			continue
		}
		if err := steps(e.Events, offered); err != nil {
			return err
		}
	}
	return nil
}

// steps goes through the notes of events; the other events are about nodes and edges.
func steps(events []protocol.Event, offered func(history.Step) error) error {
	for _, e := range events {
		if e.RID.Type() != noteType {
			continue
		}
		s := history.Step{RID: e.RID}
		if e.EventType != protocol.Forget {
			found := map[rid.RID]history.Change{}
			if e.Manifest == nil {
				return fmt.Errorf("%s of %s without a manifest", e.EventType, e.RID)
			}
			if err := hold(found, protocol.Bundle{Manifest: *e.Manifest, Contents: e.Contents}); err != nil {
				return err
			}
			s.Change = found[e.RID]
		}
		if err := offered(s); err != nil {
			return err
		}
	}
	return nil
}

// rest waits until nothing is under way any more, and holds everything that was
// touched since the last rest against the model; all there is where whole.
func (n *koiNet) rest(ctx context.Context, whole bool) error {
	if err := delivered(ctx, n.first.Name, n.first.Admin()); err != nil {
		return err
	}
	touched := n.model.Touched()
	if err := n.compareFirst(ctx, touched, whole); err != nil {
		return err
	}
	if n.full != nil {
		// What they hold may still be on its way in, from what they caught up with.
		for _, node := range []*koinode.Node{n.full, n.partial} {
			err := until(ctx, node.Name+" holds what first holds", func(ctx context.Context) (bool, string) {
				held, err := allOf(ctx, node)
				if err == nil {
					err = n.model.Compare("what "+node.Name+" holds", held, nil, true)
				}
				return err == nil, fmt.Sprint(err)
			})
			if err != nil {
				return err
			}
		}
		if err := delivered(ctx, n.full.Name, n.full.Admin()); err != nil {
			return err
		}
	}
	if err := n.read(); err != nil {
		return err
	}
	n.source.Empty() // what had to be fetched was
	return n.settle()
}

func (n *koiNet) compareFirst(ctx context.Context, touched []rid.RID, whole bool) error {
	held, err := n.held(ctx, touched)
	if err == nil && whole {
		held, err = n.all(ctx, n.source, n.target)
	}
	if err != nil {
		return err
	}
	return n.model.Compare("what first holds", held, touched, whole)
}

func (n *koiNet) settle() error {
	n.model.mu.Lock()
	defer n.model.mu.Unlock()
	for _, w := range slices.Collect(maps.Keys(n.follow)) {
		if err := n.follow[w].Settle(&n.model.Model); err != nil {
			return fmt.Errorf("%s: %w", w.RID(), err)
		}
	}
	if n.relayed != nil {
		if err := n.relay.Settle(&n.model.Model); err != nil {
			return fmt.Errorf("%s: %w", n.relayed.RID(), err)
		}
	}
	n.model.Settle()
	return nil
}
