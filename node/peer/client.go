package peer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/koi-net/koi-operator/node/identity"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// Errors of answers.
var (
	// ErrTooLarge is wrapped where an answer exceeds the bound.
	ErrTooLarge = errors.New("answer too large")
	// ErrBadAnswer is wrapped where an answer is not what the call asks for.
	ErrBadAnswer = errors.New("unusable answer")
)

// Bounds of a request, besides ClientConfig.
const (
	dialTimeout    = 10 * time.Second
	tlsTimeout     = 10 * time.Second
	idleTimeout    = 30 * time.Second
	maxIdleConns   = 256
	maxHeaderBytes = 64 << 10
	maxErrorBytes  = 4 << 10 // of the body of an error answer, kept for its reader
	defaultTimeout = 30 * time.Second
	defaultPerHost = 8
)

// StatusError is a peer's answer with a status other than 2xx.
type StatusError struct {
	Code int
	// Body is the beginning of the answer's body, at most 4 KiB. It is the
	// peer's text: quote it where it is shown.
	Body []byte
	// RetryAfter is what the peer asked for, 0 if nothing.
	RetryAfter time.Duration
}

func (e *StatusError) Error() string {
	text := fmt.Sprintf("the peer answered %d %s", e.Code, http.StatusText(e.Code))
	const most = 200
	switch {
	case len(e.Body) > most:
		text += fmt.Sprintf(": %q…", e.Body[:most])
	case len(e.Body) > 0:
		text += fmt.Sprintf(": %q", e.Body)
	}
	return text
}

// ClientConfig says whom a client may call and within which bounds.
type ClientConfig struct {
	// AllowCIDRs limit whom it may dial; none means no further limit.
	AllowCIDRs []netip.Prefix
	// AllowLoopback is asked at every dial; nil means never.
	AllowLoopback func() bool
	// Timeout bounds one request, the answer's body included (default 30 s).
	Timeout time.Duration
	// Limits bound what is decoded. A zero field stands for its default.
	Limits protocol.Limits
	// AnswerBytes bounds one answer's body. Default: 1 MiB more than twice
	// Limits.BodyBytes, as bundles come twice in an unsigned answer.
	AnswerBytes int64
	// ConnsPerHost bounds the connections to one host (default 8).
	ConnsPerHost int
	// UserAgent is sent with every request (default Product).
	UserAgent string
	// Identity is this node, which polls are made for; where it has a key, calls
	// to nodes with a key are signed with it.
	Identity identity.Identity
	// Introduction returns our own NEW with our bundle, as protocol.AppendEvent
	// writes it, false while there is none. Signed peers are told it, so that they
	// understand who calls; nil means that they are not. It must not block.
	Introduction func() (event []byte, ok bool)
	// DenyUnsigned makes calls that could not be signed fail with
	// ErrUnsignedPeer, before a request is made.
	DenyUnsigned bool
	// Forgotten, if set, is told of a signed peer that does not know this node,
	// although it did or was given our introduction. It must not block.
	Forgotten func(r rid.RID)
	// Traits takes what is learned of signed peers; nil makes its own.
	Traits *Traits
	// Circuits keep calls from peers that do not answer; nil makes its own.
	Circuits *Circuits
}

// Client makes KOI-net calls to other nodes: signed where both sides have a key,
// else unsigned (see Signs). Its errors wrap ErrBadURL, ErrForbiddenAddress,
// ErrTooLarge, ErrBadAnswer, ErrUnknownServer, ErrUnsignedPeer, a *StatusError (with
// a protocol.ErrorResponse where the peer refuses an envelope), ErrCircuitOpen where
// the call was not made because the ones before it failed, or what the network said. It is safe for concurrent use.
//
// A signed answer is one of the node that was asked, for us, verified with the key
// its RID was made from. What a call asks for is not in its answer, so an old
// answer, sent again, cannot be told from the right one; Received.Replay tells it
// for polls.
type Client struct {
	http         *http.Client
	limits       protocol.Limits
	most         int64
	timeout      time.Duration
	agent        string
	identity     identity.Identity
	introduction func() ([]byte, bool)
	denyUnsigned bool
	forgotten    func(rid.RID)
	traits       *Traits
	circuits     *Circuits
	pauses       []time.Duration // see exchange
	// How our own NEW and FORGET begin; see ownPrefix.
	prefixNew, prefixForget []byte
}

// NewClient returns a client; Close ends its idle connections.
func NewClient(c ClientConfig) *Client { return newClient(c, nil) }

// newClient takes a resolver for tests.
func newClient(c ClientConfig, resolver *net.Resolver) *Client {
	if c.Limits.BodyBytes <= 0 {
		c.Limits.BodyBytes = protocol.DefaultLimits().BodyBytes
	}
	if c.Timeout <= 0 {
		c.Timeout = defaultTimeout
	}
	if c.AnswerBytes <= 0 {
		c.AnswerBytes = 2*c.Limits.BodyBytes + 1<<20
	}
	if c.ConnsPerHost <= 0 {
		c.ConnsPerHost = defaultPerHost
	}
	if c.UserAgent == "" {
		c.UserAgent = Product
	}
	if c.Traits == nil {
		c.Traits = NewTraits()
	}
	if c.Circuits == nil {
		c.Circuits, _ = NewCircuits(CircuitsConfig{}) // nothing is registered, so nothing fails
	}
	dialer := &net.Dialer{
		Timeout:        dialTimeout,
		Resolver:       resolver,
		ControlContext: guard(c.AllowCIDRs, c.AllowLoopback),
	}
	limits := c.Limits
	limits.BodyBytes = c.AnswerBytes
	return &Client{
		http: &http.Client{
			Transport: &http.Transport{
				Proxy:                  nil, // with a proxy the guard would see the proxy's address
				DialContext:            dialer.DialContext,
				TLSHandshakeTimeout:    tlsTimeout,
				DisableCompression:     true, // a small answer could become a huge one
				MaxIdleConns:           maxIdleConns,
				MaxIdleConnsPerHost:    c.ConnsPerHost,
				MaxConnsPerHost:        c.ConnsPerHost,
				IdleConnTimeout:        idleTimeout,
				MaxResponseHeaderBytes: maxHeaderBytes,
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		limits:       limits,
		most:         c.AnswerBytes,
		timeout:      c.Timeout,
		agent:        c.UserAgent,
		identity:     c.Identity,
		introduction: c.Introduction,
		denyUnsigned: c.DenyUnsigned,
		forgotten:    c.Forgotten,
		traits:       c.Traits,
		circuits:     c.Circuits,
		pauses:       unknownPauses(),
		prefixNew:    ownPrefix(c.Identity.RID, protocol.New),
		prefixForget: ownPrefix(c.Identity.RID, protocol.Forget),
	}
}

// guard checks every address right before a connection is opened to it: what a
// name resolved to some time ago does not matter.
func guard(cidrs []netip.Prefix, loopback func() bool) func(context.Context, string, string, syscall.RawConn) error {
	return func(_ context.Context, _, address string, _ syscall.RawConn) error {
		ap, err := netip.ParseAddrPort(address)
		if err != nil {
			return fmt.Errorf("%w %q: %w", ErrForbiddenAddress, address, err)
		}
		return Allowed(ap.Addr(), Policy{
			AllowLoopback: loopback != nil && loopback(),
			AllowCIDRs:    cidrs,
		})
	}
}

// Close ends the client's idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Paths of the calls below a base URL.
const (
	pathBroadcast = "/events/broadcast"
	pathPoll      = "/events/poll"
	pathRIDs      = "/rids/fetch"
	pathManifests = "/manifests/fetch"
	pathBundles   = "/bundles/fetch"
)

// Signs reports whether calls to t are signed, and so are its answers: we have a
// key, and so has t, by what is known of it or by its RID.
func (c *Client) Signs(t Target) bool {
	return c.identity.Key != nil && (t.Key != "" || rid.IsKeyed(t.RID))
}

// Broadcast sends events, each as protocol.AppendEvent wrote it. nil means that
// the peer answered 2xx and so took them over. once makes repeated broadcasts of
// one batch the same for the peer; with nil each is a new one.
//
// The first events to a signed peer have our introduction in front, unless it is
// among them; so have those it refuses because it does not know us, which are sent
// once more. A farewell, which is our own FORGET alone, is never introduced, and
// taken as delivered where the peer does not know us.
func (c *Client) Broadcast(ctx context.Context, t Target, events [][]byte, once *Once) error {
	if c.Signs(t) {
		return c.broadcastSigned(ctx, t, events, once)
	}
	if err := c.mayCallUnsigned(t); err != nil {
		return err
	}
	_, err := c.post(ctx, t.URL, pathBroadcast, protocol.EncodeBroadcast(events))
	return err
}

// Poll asks for at most limit events (0: all) that wait for this node. A signed
// peer whose key is not known is believed if its own NEW, with its key, is among
// the events; its further answers are verified with that key.
func (c *Client) Poll(ctx context.Context, t Target, limit int) (Received, error) {
	request := protocol.PollRequest{RID: c.identity.RID, Limit: limit}
	q := query[protocol.EventsPayload]{
		path: pathPoll, request: request,
		unsigned: func() []byte { return protocol.EncodePoll(request) },
		decode: func(body []byte, l protocol.Limits) (protocol.EventsPayload, error) {
			return protocol.DecodeEvents(body, l)
		},
	}
	if !c.Signs(t) {
		events, err := askUnsigned(ctx, c, t, q)
		return Received{Events: events}, err
	}
	env, err := askSigned(ctx, c, t, q)
	if err != nil {
		return Received{}, err
	}
	key, err := identity.ReplayKey(env.Signed, env.Signature)
	if err != nil {
		return Received{}, fmt.Errorf("%s: %w: %w", t.URL, ErrBadAnswer, err)
	}
	return Received{Events: env.Payload, Source: env.Source, Replay: &key}, nil
}

// FetchRIDs asks which RIDs of the types (none: all) the peer has. RIDs of
// other types are left out of what it answers.
func (c *Client) FetchRIDs(ctx context.Context, t Target, types []rid.Type) ([]rid.RID, error) {
	request := protocol.FetchRIDs{RIDTypes: types}
	rids, err := ask(ctx, c, t, query[protocol.RIDsPayload]{
		path: pathRIDs, request: request,
		unsigned: func() []byte { return protocol.EncodeFetchRIDs(request) },
		decode: func(body []byte, l protocol.Limits) (protocol.RIDsPayload, error) {
			return protocol.DecodeRIDs(body, l)
		},
	})
	if err != nil {
		return nil, err
	}
	return keepBy(rids, askedTypes(types)), nil
}

// FetchManifests asks for the manifests of rids or, if there are none, of all
// RIDs of the types (none: all). What was not asked for is left out.
func (c *Client) FetchManifests(ctx context.Context, t Target, types []rid.Type, rids []rid.RID) (protocol.ManifestsAnswer, error) {
	request := protocol.FetchManifests{RIDTypes: types, RIDs: rids}
	answer, err := ask(ctx, c, t, query[protocol.ManifestsAnswer]{
		path: pathManifests, request: request,
		unsigned: func() []byte { return protocol.EncodeFetchManifests(request) },
		decode:   protocol.DecodeManifests,
	})
	if err != nil {
		return protocol.ManifestsAnswer{}, err
	}
	asked := askedTypes(types)
	if len(rids) > 0 {
		asked = askedRIDs(rids)
	}
	answer.Manifests = keepBy(answer.Manifests, func(m protocol.Manifest) bool { return asked(m.RID) })
	answer.NotFound = keepBy(answer.NotFound, asked)
	return answer, nil
}

// FetchBundles asks for the bundles of rids. Where they are too large for one
// answer it asks for them in parts. What was not asked for is left out.
func (c *Client) FetchBundles(ctx context.Context, t Target, rids []rid.RID) (protocol.BundlesAnswer, error) {
	answer, err := c.fetchBundles(ctx, t, rids)
	if !errors.Is(err, ErrTooLarge) || len(rids) < 2 {
		return answer, err
	}
	answer, err = c.FetchBundles(ctx, t, rids[:len(rids)/2])
	if err != nil {
		return protocol.BundlesAnswer{}, err
	}
	rest, err := c.FetchBundles(ctx, t, rids[len(rids)/2:])
	if err != nil {
		return protocol.BundlesAnswer{}, err
	}
	answer.Bundles = append(answer.Bundles, rest.Bundles...)
	answer.NotFound = append(answer.NotFound, rest.NotFound...)
	answer.Deferred = append(answer.Deferred, rest.Deferred...)
	return answer, nil
}

func (c *Client) fetchBundles(ctx context.Context, t Target, rids []rid.RID) (protocol.BundlesAnswer, error) {
	request := protocol.FetchBundles{RIDs: rids}
	answer, err := ask(ctx, c, t, query[protocol.BundlesAnswer]{
		path: pathBundles, request: request,
		unsigned: func() []byte { return protocol.EncodeFetchBundles(request) },
		decode:   protocol.DecodeBundles,
	})
	if err != nil {
		return protocol.BundlesAnswer{}, err
	}
	asked := askedRIDs(rids)
	answer.Bundles = keepBy(answer.Bundles, func(b protocol.Bundle) bool { return asked(b.Manifest.RID) })
	answer.NotFound = keepBy(answer.NotFound, asked)
	answer.Deferred = keepBy(answer.Deferred, asked)
	return answer, nil
}

// Self asks a node for its own bundle, which only nodes of our kind answer;
// others answer a *StatusError with code 404 or 405. The answer is not signed:
// what it says is to be held against the node's RID, or verified by a signed call.
// So it is asked for even where unsigned peers are denied.
func (c *Client) Self(ctx context.Context, url string) (protocol.Bundle, error) {
	a, err := c.do(ctx, http.MethodGet, url, "", nil)
	if err != nil {
		return protocol.Bundle{}, err
	}
	b, err := decode(a.body, c.limits, protocol.DecodeBundle)
	if err != nil {
		return protocol.Bundle{}, err
	}
	if b.Manifest.RID.Type() != rid.NodeType {
		return protocol.Bundle{}, fmt.Errorf("%w: %q is not a node's bundle", ErrBadAnswer, shown(b.Manifest.RID))
	}
	return b, nil
}

// query is a call that is answered with an A, in both generations.
type query[A protocol.Payload] struct {
	path     string
	request  protocol.Payload
	unsigned func() []byte // writes the request's unsigned form
	decode   func(body []byte, l protocol.Limits) (A, error)
}

// ask makes a call in the generation that the peer speaks.
func ask[A protocol.Payload](ctx context.Context, c *Client, t Target, q query[A]) (A, error) {
	if !c.Signs(t) {
		return askUnsigned(ctx, c, t, q)
	}
	env, err := askSigned(ctx, c, t, q)
	return env.Payload, err
}

func askUnsigned[A protocol.Payload](ctx context.Context, c *Client, t Target, q query[A]) (A, error) {
	var none A
	if err := c.mayCallUnsigned(t); err != nil {
		return none, err
	}
	a, err := c.post(ctx, t.URL, q.path, q.unsigned())
	if err != nil {
		return none, err
	}
	return decode(a.body, c.limits, q.decode)
}

// mayCallUnsigned returns why an unsigned call to t must not be made.
func (c *Client) mayCallUnsigned(t Target) error {
	switch {
	case !c.denyUnsigned:
		return nil
	case t.RID == "":
		return fmt.Errorf("%s: %w: its RID is not known, and unsigned calls are denied: give its RID, or allow unsigned peers", t.URL, ErrUnsignedPeer)
	case c.identity.Key == nil:
		return fmt.Errorf("%s: %w: this node has no key to sign with, and unsigned calls are denied", t.URL, ErrUnsignedPeer)
	}
	return fmt.Errorf("%s: %w: %q has no key, and unsigned calls are denied: allow unsigned peers to call it", t.URL, ErrUnsignedPeer, shown(t.RID))
}

// answer is the body of a 2xx answer and the program that says it gave it.
type answer struct {
	body    []byte
	product string
}

func (c *Client) post(ctx context.Context, base, path string, body []byte) (answer, error) {
	return c.do(ctx, http.MethodPost, base, path, body)
}

// do makes one request and returns a 2xx answer, unless the circuit is open.
func (c *Client) do(ctx context.Context, method, base, path string, body []byte) (answer, error) {
	u, err := parseBase(base)
	if err != nil {
		return answer{}, err
	}
	target := strings.TrimRight(u.String(), "/") + path
	k, err := c.circuits.admit(ctx, base, path, c.timeout) // known as callers write it
	if err != nil {
		return answer{}, fmt.Errorf("%s: not called: %w", target, err)
	}
	a, err := c.request(ctx, method, target, body)
	k.end(lifeOf(ctx, err), err)
	return a, err
}

// noAnswer is a failure of the network or the clock, so that there is no answer, or
// not the whole of one. It says what that said.
type noAnswer struct{ error }

func (e noAnswer) Unwrap() error { return e.error }

// lifeOf reads what the outcome of a request in ctx says of the peer's life.
func lifeOf(ctx context.Context, err error) life {
	var silent noAnswer
	var status *StatusError
	switch {
	case errors.As(err, &silent):
		if ctx.Err() != nil || errors.Is(err, ErrForbiddenAddress) {
			return unknown
		}
		return dead
	case errors.As(err, &status) && (status.Code == http.StatusBadGateway || status.Code == http.StatusServiceUnavailable || status.Code == http.StatusGatewayTimeout):
		return dead
	case errors.Is(err, ErrBadURL):
		return unknown
	}
	return alive
}

// request makes one request and returns a 2xx answer.
func (c *Client) request(ctx context.Context, method, target string, body []byte) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, target, bytes.NewReader(body))
	if err != nil {
		return answer{}, fmt.Errorf("%w: %w", ErrBadURL, err)
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", c.agent)
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/json")
		// Every call may be repeated. Said so (without a header on the wire),
		// a request that meets an idle connection just being closed by the
		// peer is sent again at once instead of failing.
		req.Header["Idempotency-Key"] = nil
	}
	res, err := c.http.Do(req)
	if err != nil {
		return answer{}, noAnswer{fmt.Errorf("calling the peer: %w", err)}
	}
	defer res.Body.Close()
	if res.StatusCode < 200 || res.StatusCode > 299 {
		return answer{}, fmt.Errorf("%s: %w", target, refusalIn(res))
	}
	if enc := res.Header.Get("Content-Encoding"); enc != "" && !strings.EqualFold(enc, "identity") {
		return answer{}, fmt.Errorf("%s: %w: it is compressed (%q), which was not asked for", target, ErrBadAnswer, enc)
	}
	if res.ContentLength > c.most {
		return answer{}, fmt.Errorf("%s: %w: %d bytes, the limit is %d", target, ErrTooLarge, res.ContentLength, c.most)
	}
	text, err := io.ReadAll(io.LimitReader(res.Body, c.most+1))
	switch {
	case err != nil:
		return answer{}, noAnswer{fmt.Errorf("reading the peer's answer from %s: %w", target, err)}
	case int64(len(text)) > c.most:
		return answer{}, fmt.Errorf("%s: %w: more than %d bytes", target, ErrTooLarge, c.most)
	}
	return answer{body: text, product: res.Header.Get("Server")}, nil
}

// refusalIn reads an answer that is no 2xx: a *StatusError, with the
// protocol.ErrorResponse in it where there is one.
func refusalIn(res *http.Response) error {
	text, err := io.ReadAll(io.LimitReader(res.Body, maxErrorBytes))
	status := &StatusError{Code: res.StatusCode, Body: text, RetryAfter: retryAfter(res.Header.Get("Retry-After"))}
	if err != nil {
		return noAnswer{status} // half a text, or none, will do: the status says enough
	}
	if res.StatusCode == http.StatusBadRequest {
		if e, err := protocol.DecodeErrorResponse(text, protocol.Limits{}); err == nil {
			return fmt.Errorf("%w (%w)", e, status)
		}
	}
	return status
}

func decode[T any](body []byte, l protocol.Limits, fn func([]byte, protocol.Limits) (T, error)) (T, error) {
	v, err := fn(body, l)
	if err != nil {
		var zero T
		return zero, fmt.Errorf("%w: %w", ErrBadAnswer, err)
	}
	return v, nil
}

// retryAfter reads the header's form in seconds; dates are not worth trusting
// a peer's clock.
func retryAfter(s string) time.Duration {
	n, err := strconv.ParseUint(strings.TrimSpace(s), 10, 31)
	if err != nil {
		return 0
	}
	return time.Duration(n) * time.Second
}

// askedRIDs tells what was asked for, also in the form in which signed peers know it.
func askedRIDs(rids []rid.RID) func(rid.RID) bool {
	set := make(map[rid.RID]struct{}, len(rids))
	for _, r := range rids {
		set[r] = struct{}{}
		if canonical, err := protocol.CanonicalRID(r); err == nil {
			set[canonical] = struct{}{}
		}
	}
	return func(r rid.RID) bool { _, ok := set[r]; return ok }
}

func askedTypes(types []rid.Type) func(rid.RID) bool {
	if len(types) == 0 {
		return func(rid.RID) bool { return true }
	}
	set := make(map[rid.Type]struct{}, len(types))
	for _, t := range types {
		set[t] = struct{}{}
	}
	return func(r rid.RID) bool { _, ok := set[r.Type()]; return ok }
}

func keepBy[T any](items []T, asked func(T) bool) []T {
	out := items[:0]
	for _, v := range items {
		if asked(v) {
			out = append(out, v)
		}
	}
	return out
}
