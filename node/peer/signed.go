package peer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/koi-net/koi-operator/node/identity"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// errIntroduction is wrapped where a peer refuses our introduction, which says
// nothing about the events that were to follow it.
var errIntroduction = errors.New("the peer does not take our introduction")

// errBadEvent is wrapped where an event cannot be written into an envelope.
var errBadEvent = errors.New("unusable event")

// unknownPauses returns the pauses before a call is repeated that a peer answered
// with unknown_node: an introduction that it took may not be processed yet.
func unknownPauses() []time.Duration {
	return []time.Duration{100 * time.Millisecond, 300 * time.Millisecond, time.Second}
}

// sealer writes an envelope in a style of floats.
type sealer func(style protocol.FloatStyle, sign func(text []byte) (string, error)) ([]byte, error)

func (c *Client) sealPayload(t Target, p protocol.Payload) sealer {
	return func(style protocol.FloatStyle, sign func([]byte) (string, error)) ([]byte, error) {
		return protocol.EncodeEnvelope(p, c.identity.RID, t.RID, style, sign)
	}
}

func (c *Client) sealEvents(t Target, rows [][]byte) sealer {
	return func(style protocol.FloatStyle, sign func([]byte) (string, error)) ([]byte, error) {
		var failed error
		body, err := protocol.EncodeEventsEnvelope(rows, c.identity.RID, t.RID, style, func(text []byte) (base string, err error) {
			base, failed = sign(text)
			return base, failed
		})
		if err != nil && failed == nil {
			return nil, fmt.Errorf("%w: %w", errBadEvent, err)
		}
		return body, err
	}
}

// sign runs a sealer and returns the hash of the text it signed besides.
func (c *Client) sign(seal sealer, style protocol.FloatStyle, once *Once) (body []byte, text [sha256.Size]byte, err error) {
	body, err = seal(style, func(message []byte) (string, error) {
		text = sha256.Sum256(message)
		return once.sign(text, func() (string, error) { return c.identity.Sign(message) })
	})
	return body, text, err
}

// send makes one signed request: in the style of floats that the peer is known
// to use, and where it cannot verify that, in the other one, if that is another.
func (c *Client) send(ctx context.Context, t Target, path string, seal sealer, once *Once) (answer, error) {
	style := c.traits.FloatStyle(t.RID)
	body, text, err := c.sign(seal, style, once)
	if err != nil {
		return answer{}, err
	}
	a, refusal := c.post(ctx, t.URL, path, body)
	if !refusedAs(refusal, protocol.InvalidSignature) {
		return a, refusal
	}
	other := protocol.FloatsOlder
	if style == other {
		other = protocol.FloatsCurrent
	}
	body, otherText, err := c.sign(seal, other, once)
	if err != nil || otherText == text {
		return answer{}, refusal // there is no other way to sign it
	}
	a, err = c.post(ctx, t.URL, path, body)
	if err == nil {
		c.traits.learn(t.RID, true, other, "")
	}
	return a, err
}

// refusedAs reports whether an error is a peer's refusal of an envelope with the code.
func refusedAs(err error, code protocol.ErrorCode) bool {
	var refusal protocol.ErrorResponse
	return errors.As(err, &refusal) && refusal.Code == code
}

// addressable reports, as an error, where a signed call cannot be made because
// an envelope has to name the node it is for.
func addressable(t Target) error {
	if t.RID == "" {
		return fmt.Errorf("%s: %w: its RID is not known, and a signed call has to name it: give the RID that belongs to the public key", t.URL, ErrUnknownServer)
	}
	return nil
}

// lost notes that a peer does not know us and tells of it where that is news.
func (c *Client) lost(r rid.RID) {
	if c.traits.forgotten(r) && c.forgotten != nil {
		c.forgotten(r)
	}
}

// ownNew returns our own NEW, nil where there is none yet.
func (c *Client) ownNew() []byte {
	if c.introduction == nil {
		return nil
	}
	event, ok := c.introduction()
	if !ok {
		return nil
	}
	return event
}

// introduce delivers our own NEW alone.
func (c *Client) introduce(ctx context.Context, t Target) error {
	_, epoch := c.traits.introduction(t.RID)
	own := c.ownNew()
	if own == nil {
		return fmt.Errorf("%w: it is not cached yet", errIntroduction)
	}
	if _, err := c.send(ctx, t, pathBroadcast, c.sealEvents(t, [][]byte{own}), nil); err != nil {
		return fmt.Errorf("%w: %w", errIntroduction, err)
	}
	c.traits.introduce(t.RID, epoch)
	return nil
}

// word is what events say about this node.
type word struct {
	introduces bool // its own NEW is among them, with a bundle
	current    bool // the last of them is that, with our present bundle
	leaves     bool // the last of them is its own FORGET
	farewell   bool // there is nothing else than that
}

// wordOf reads rows that protocol.AppendEvent wrote. own is our present NEW.
func (c *Client) wordOf(events [][]byte, own []byte) word {
	var w word
	farewells := 0
	for _, e := range events {
		if rest, ok := bytes.CutPrefix(e, c.prefixNew); ok {
			if bytes.HasPrefix(rest, []byte("null")) || bytes.HasSuffix(rest, []byte(`,"contents":null}`)) {
				continue // who does not know us learns nothing from it
			}
			w.introduces, w.leaves = true, false
			w.current = own == nil || bytes.Equal(e, own)
		} else if bytes.HasPrefix(e, c.prefixForget) {
			w.current, w.leaves = false, true
			farewells++
		}
	}
	w.farewell = farewells > 0 && farewells == len(events)
	return w
}

// ownPrefix is how protocol.AppendEvent begins an event about r, up to the
// manifest.
func ownPrefix(r rid.RID, kind protocol.EventType) []byte {
	dst := protocol.AppendString([]byte(`{"rid":`), string(r))
	dst = protocol.AppendString(append(dst, `,"event_type":`...), string(kind))
	return append(dst, `,"manifest":`...)
}

// broadcastSigned sends events, with our introduction in front where the peer was
// not given it or turns out not to know us.
func (c *Client) broadcastSigned(ctx context.Context, t Target, events [][]byte, once *Once) error {
	if err := addressable(t); err != nil {
		return err
	}
	delivered, epoch := c.traits.introduction(t.RID)
	own := c.ownNew()
	says := c.wordOf(events, own)
	may := own != nil && !says.introduces && !says.farewell
	front := may && once.introduces(!delivered)
	push := func() error {
		rows := events
		if front {
			rows = append([][]byte{own}, events...)
		}
		once.sent(front)
		_, err := c.send(ctx, t, pathBroadcast, c.sealEvents(t, rows), once)
		return err
	}

	err := push()
	if refusedAs(err, protocol.UnknownNode) {
		if says.farewell {
			c.traits.forgotten(t.RID)
			return nil // it has forgotten us already
		}
		c.lost(t.RID)
		if may && !front {
			front = true
			err = push()
		}
	}
	if front && judge(err) == refused {
		// The introduction may be at fault, or the room it takes. Each alone tells.
		if err := c.introduce(ctx, t); err != nil {
			return err
		}
		front = false
		err = push()
	}
	switch {
	case err != nil:
		return err
	case says.leaves:
		c.traits.forgotten(t.RID)
	case says.current, front:
		c.traits.introduce(t.RID, epoch)
	default:
		c.traits.knowsUs(t.RID)
	}
	return nil
}

// exchange makes a signed call that is answered. A peer that does not know us is
// introduced to us, and asked again when it may have taken that in.
func (c *Client) exchange(ctx context.Context, t Target, path string, p protocol.Payload) (answer, error) {
	seal := c.sealPayload(t, p)
	a, err := c.send(ctx, t, path, seal, nil)
	wait := c.traits.justIntroduced(t.RID) // it was told of us a moment ago: ask once more first
	introduced := false
	for _, pause := range c.pauses {
		if !refusedAs(err, protocol.UnknownNode) {
			break
		}
		if !wait && !introduced {
			c.lost(t.RID)
			if e := c.introduce(ctx, t); e != nil {
				return answer{}, fmt.Errorf("%w; and it could not be told of this node: %w", err, e)
			}
			introduced = true
		}
		wait = false
		if e := sleep(ctx, pause); e != nil {
			return answer{}, fmt.Errorf("%w; not asked again: %w", err, e)
		}
		a, err = c.send(ctx, t, path, seal, nil)
	}
	return a, err
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// askSigned makes a signed call and returns its answer, verified. An old answer of
// the peer to another such call cannot be told from the one asked for.
func askSigned[A protocol.Payload](ctx context.Context, c *Client, t Target, q query[A]) (protocol.Envelope[A], error) {
	var none protocol.Envelope[A]
	if err := addressable(t); err != nil {
		return none, err
	}
	key := t.Key
	if key == "" {
		key = c.traits.key(t.RID)
	}
	if _, brings := any(none.Payload).(protocol.EventsPayload); key == "" && !brings {
		return none, fmt.Errorf("%s: %w %q: its answer cannot be verified without its public key: let it introduce itself, or fetch its profile", t.URL, ErrUnknownServer, shown(t.RID))
	}
	if key != "" && !ownKey(t.RID, key) {
		return none, fmt.Errorf("%s: %w: the public key known of %q is not the one its RID was made from", t.URL, ErrBadAnswer, shown(t.RID))
	}
	a, err := c.exchange(ctx, t, q.path, q.request)
	if err != nil {
		return none, err
	}
	env, err := open[A](c, t, key, a)
	if err != nil {
		return none, fmt.Errorf("%s%s: %w", t.URL, q.path, err)
	}
	return env, nil
}

func ownKey(r rid.RID, key string) bool {
	return protocol.NodeProfile{PublicKey: key}.KeyMatches(r)
}

// open reads a signed answer, verifies it and learns from it. key is the peer's,
// "" where the answer is to bring it.
func open[A protocol.Payload](c *Client, t Target, key string, a answer) (protocol.Envelope[A], error) {
	var none protocol.Envelope[A]
	env, err := decode(a.body, c.limits, protocol.DecodeEnvelope[A])
	switch {
	case err != nil:
		return none, err
	case env.Source != t.RID:
		return none, fmt.Errorf("%w: it comes from %q, and %q was asked", ErrBadAnswer, shown(env.Source), shown(t.RID))
	case env.Target != c.identity.RID:
		return none, fmt.Errorf("%w: it is for %q, not for this node", ErrBadAnswer, shown(env.Target))
	}
	if key == "" {
		events, _ := any(env.Payload).(protocol.EventsPayload)
		if key, err = introducedKey(t.RID, events); err != nil {
			return none, err
		}
	}
	public, err := identity.ParsePublicKey(key)
	if err != nil {
		return none, fmt.Errorf("%w: the key of %q: %w", ErrBadAnswer, shown(t.RID), err)
	}
	style, err := env.Verify(public.Verify)
	if err != nil {
		return none, fmt.Errorf("%w: it is not signed by %q: %w", ErrBadAnswer, shown(t.RID), err)
	}
	seen := c.traits.FloatStyle(t.RID) != style && protocol.OlderFloats(env.Signed) != nil
	c.traits.learn(t.RID, seen, style, a.product)
	c.traits.answered(t.RID, key)
	return env, nil
}

// introducedKey returns the public key in a server's own NEW among the events of
// its answer, the one way in which who does not know it can verify that.
func introducedKey(server rid.RID, events []protocol.Event) (string, error) {
	foreign := false
	for _, e := range events {
		if e.RID != server || e.EventType != protocol.New || e.Manifest == nil || len(e.Contents) == 0 {
			continue
		}
		p, err := protocol.ParseNodeProfile(e.Contents)
		if err != nil || p.PublicKey == "" {
			continue
		}
		if ownKey(server, p.PublicKey) {
			return p.PublicKey, nil
		}
		foreign = true
	}
	if foreign {
		return "", fmt.Errorf("%w: the public key in the profile of %q is not the one its RID was made from", ErrBadAnswer, shown(server))
	}
	return "", fmt.Errorf("%w %q: its answer brings no NEW event of its own with its public key: let it introduce itself, or fetch its profile", ErrUnknownServer, shown(server))
}
