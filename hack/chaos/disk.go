package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/koi-net/koi-operator/hack/chaos/history"
	"github.com/koi-net/koi-operator/hack/chaos/witness"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// full is a scenario in which a node runs out of room, and gets some again.
type full struct {
	bound bool // its own bound, not the volume's
}

// Sizes of the scenario.
const (
	smallDisk  = 24 << 20
	largerDisk = 64 << 20
	smallBound = 16 << 20
	bulkBytes  = 16 << 10 // contents of a note
	bulkNotes  = 10       // in a body
	bulkBodies = 2000     // more than fits
)

func (f full) run(ctx context.Context, r *run) (err error) {
	n := &koiNet{}
	defer func() { err = errors.Join(err, n.close()) }()
	s := shape{subscribed: true}
	enlarge := func() error { return errors.New("the volume has a size of its own") }
	if f.bound {
		s.args = []string{"--store-max-size", fmt.Sprint(smallBound)}
	} else {
		s.place = func(data string) (func() error, error) {
			undo, larger, err := mountSmall(data, smallDisk)
			enlarge = func() error { return larger(largerDisk) }
			return undo, err
		}
	}
	if err := n.start(ctx, r.program, s); err != nil {
		return fmt.Errorf("%w\n%s", err, n.logs())
	}
	d := &filling{net: n, stamp: time.Now()}
	if err := d.run(ctx, f, enlarge); err != nil {
		return fmt.Errorf("%w\n%s", err, n.logs())
	}
	r.say("full after %d notes of %d KiB, %d in the end; FORGETs were answered 507 %d times", d.fit, bulkBytes>>10, len(n.model.Held()), d.tried)
	return nil
}

// filling fills a node.
type filling struct {
	net     *koiNet
	version history.Change
	stamp   time.Time
	fit     int
	tried   int    // FORGETs that found no room at first
	refused parcel // the body that found no room
}

func (d *filling) run(ctx context.Context, f full, enlarge func() error) error {
	n := d.net
	if err := d.stands(ctx); err != nil {
		return err
	}
	// It dies, and comes up as full as it was.
	n.kill(n.first)
	if _, err := n.first.CheckStore(ctx); err != nil {
		return err
	}
	if err := n.first.Start(ctx); err != nil {
		return err
	}
	if err := d.stands(ctx); err != nil {
		return err
	}
	if f.bound {
		if err := d.forget(ctx); err != nil {
			return err
		}
	} else if err := enlarge(); err != nil {
		return err
	}
	err := until(ctx, "first is ready again", func(ctx context.Context) (bool, string) {
		ready, text, err := n.first.Ready(ctx)
		return ready && err == nil, fmt.Sprint(text, err)
	})
	if err != nil {
		return err
	}
	if err := n.source.Send(ctx, n.target, d.refused.body); err != nil {
		return fmt.Errorf("with room again, the body that found none: %w", err)
	}
	if err := n.model.apply(d.refused.steps); err != nil {
		return err
	}
	return n.rest(ctx, true)
}

// fill sends notes until the node has no room for a single one. What waits for
// others takes room as well, and what was let go is free for the next but one: it
// is full when it says so again and again while nothing waits.
func (d *filling) fill(ctx context.Context) error {
	const convinced = 5
	notes, said := bulkNotes, 0
	if d.refused.steps != nil {
		notes = 1 // it was full before
	}
	for range bulkBodies {
		p, err := d.bulk(notes)
		if err != nil {
			return err
		}
		err = d.net.source.Send(ctx, d.net.target, p.body)
		switch {
		case err == nil:
			said = 0
			if err := d.net.model.apply(p.steps); err != nil {
				return err
			}
			d.fit += len(p.steps)
			continue
		case !noRoom(err):
			return fmt.Errorf("a node that fills up: %w", err)
		}
		notes, d.refused = 1, p
		d.trouble()
		if said++; said == convinced {
			return nil
		}
		if err := delivered(ctx, d.net.first.Name, d.net.first.Admin()); err != nil {
			return err
		}
	}
	return fmt.Errorf("%d bodies of %d KiB and more were accepted, and there is no room for them", bulkBodies, bulkBytes>>10)
}

// noRoom reports whether an error is the answer of a node that is full.
func noRoom(err error) bool {
	var status *witness.StatusError
	return errors.As(err, &status) && status.Code == http.StatusInsufficientStorage
}

// bulk makes a body of large notes.
func (d *filling) bulk(notes int) (parcel, error) {
	var p parcel
	var events []protocol.Event
	for range notes {
		d.version++
		d.stamp = d.stamp.Add(time.Microsecond)
		r := rid.RID(fmt.Sprintf("%s:bulk-%d", noteType, uint64(d.version)))
		b, err := protocol.NewBundle(r, protocol.NewTimestamp(d.stamp), largeNote(r, d.version))
		if err != nil {
			return p, err
		}
		events = append(events, protocol.Event{RID: r, EventType: protocol.New, Manifest: &b.Manifest, Contents: b.Contents})
		p.steps = append(p.steps, history.Step{RID: r, Change: d.version})
	}
	var err error
	p.body, err = d.net.source.Body(d.net.target, events...)
	return p, err
}

// largeNote is a note with more in it; hold takes it for one.
func largeNote(r rid.RID, v history.Change) []byte {
	text := note(r, v)
	return append(bytes.TrimSuffix(text, []byte("}")), fmt.Sprintf(`,"bulk":%q}`, strings.Repeat("x", bulkBytes))...)
}

// stands checks that a full node refuses what is new, says why it is not ready,
// gives out what it has, and passes on what it accepted.
func (d *filling) stands(ctx context.Context) error {
	n := d.net
	if err := d.fill(ctx); err != nil {
		return err
	}
	err := until(ctx, "/readyz says that the store is full", func(ctx context.Context) (bool, string) {
		ready, text, err := n.first.Ready(ctx)
		return !ready && err == nil && strings.Contains(text, "store") && strings.Contains(text, "full"), fmt.Sprint(ready, text, err)
	})
	if err != nil {
		return err
	}
	return n.rest(ctx, true)
}

// forget forgets half of the notes. What a FORGET adds, the events for others, may
// find no room at first; who sends it tries again, as for any other body.
func (d *filling) forget(ctx context.Context) error {
	n := d.net
	i := 0
	for r := range n.model.Held() {
		if i++; i%2 == 0 {
			continue
		}
		body, err := n.source.Body(n.target, protocol.Event{RID: r, EventType: protocol.Forget})
		if err != nil {
			return err
		}
		err = until(ctx, fmt.Sprintf("the FORGET of note %d, which makes room, is accepted", i), func(ctx context.Context) (bool, string) {
			err := n.source.Send(ctx, n.target, body)
			if noRoom(err) {
				d.tried++
				d.trouble()
			}
			return err == nil, fmt.Sprint(err)
		})
		if err != nil {
			return err
		}
		if err := n.model.apply([]history.Step{{RID: r}}); err != nil {
			return err
		}
	}
	return nil
}

// trouble excuses that something is offered again: that it was delivered may have
// found no room to be noted.
func (d *filling) trouble() {
	d.net.webhook.Trouble("first is full")
	d.net.polling.Trouble("first is full")
}
