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
	dialTimeout      = 10 * time.Second
	tlsTimeout       = 10 * time.Second
	idleTimeout      = 30 * time.Second
	maxIdleConns     = 256
	maxHeaderBytes   = 64 << 10
	maxErrorBytes    = 4 << 10 // of the body of an error answer, kept for its reader
	defaultTimeout   = 30 * time.Second
	defaultPerHost   = 8
	defaultUserAgent = "koi-node"
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
	// UserAgent is sent with every request.
	UserAgent string
	// Self is this node, which polls are made for.
	Self rid.RID
}

// Client makes KOI-net calls to other nodes, named by their base URLs. Its
// errors wrap ErrBadURL, ErrForbiddenAddress, ErrTooLarge, ErrBadAnswer,
// a *StatusError, or what the network said. It is safe for concurrent use.
type Client struct {
	http    *http.Client
	limits  protocol.Limits
	most    int64
	timeout time.Duration
	agent   string
	self    rid.RID
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
		c.UserAgent = defaultUserAgent
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
		limits:  limits,
		most:    c.AnswerBytes,
		timeout: c.Timeout,
		agent:   c.UserAgent,
		self:    c.Self,
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

// Broadcast sends events, each as protocol.AppendEvent wrote it. nil means
// that the peer answered 2xx and so took them over.
func (c *Client) Broadcast(ctx context.Context, base string, events [][]byte) error {
	_, err := c.post(ctx, base, "/events/broadcast", protocol.EncodeBroadcast(events))
	return err
}

// Poll asks for at most limit events (0: all) that wait for this node.
func (c *Client) Poll(ctx context.Context, base string, limit int) ([]protocol.Event, error) {
	body, err := c.post(ctx, base, "/events/poll", protocol.EncodePoll(protocol.PollRequest{RID: c.self, Limit: limit}))
	if err != nil {
		return nil, err
	}
	return decode(body, c.limits, protocol.DecodeEvents)
}

// FetchRIDs asks which RIDs of the types (none: all) the peer has. RIDs of
// other types are left out of what it answers.
func (c *Client) FetchRIDs(ctx context.Context, base string, types []rid.Type) ([]rid.RID, error) {
	body, err := c.post(ctx, base, "/rids/fetch", protocol.EncodeFetchRIDs(protocol.FetchRIDs{RIDTypes: types}))
	if err != nil {
		return nil, err
	}
	rids, err := decode(body, c.limits, protocol.DecodeRIDs)
	if err != nil {
		return nil, err
	}
	asked := askedTypes(types)
	return keepBy(rids, asked), nil
}

// FetchManifests asks for the manifests of rids or, if there are none, of all
// RIDs of the types (none: all). What was not asked for is left out.
func (c *Client) FetchManifests(ctx context.Context, base string, types []rid.Type, rids []rid.RID) (protocol.ManifestsAnswer, error) {
	body, err := c.post(ctx, base, "/manifests/fetch",
		protocol.EncodeFetchManifests(protocol.FetchManifests{RIDTypes: types, RIDs: rids}))
	if err != nil {
		return protocol.ManifestsAnswer{}, err
	}
	answer, err := decode(body, c.limits, protocol.DecodeManifests)
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
func (c *Client) FetchBundles(ctx context.Context, base string, rids []rid.RID) (protocol.BundlesAnswer, error) {
	answer, err := c.fetchBundles(ctx, base, rids)
	if !errors.Is(err, ErrTooLarge) || len(rids) < 2 {
		return answer, err
	}
	answer, err = c.FetchBundles(ctx, base, rids[:len(rids)/2])
	if err != nil {
		return protocol.BundlesAnswer{}, err
	}
	rest, err := c.FetchBundles(ctx, base, rids[len(rids)/2:])
	if err != nil {
		return protocol.BundlesAnswer{}, err
	}
	answer.Bundles = append(answer.Bundles, rest.Bundles...)
	answer.NotFound = append(answer.NotFound, rest.NotFound...)
	answer.Deferred = append(answer.Deferred, rest.Deferred...)
	return answer, nil
}

func (c *Client) fetchBundles(ctx context.Context, base string, rids []rid.RID) (protocol.BundlesAnswer, error) {
	body, err := c.post(ctx, base, "/bundles/fetch", protocol.EncodeFetchBundles(protocol.FetchBundles{RIDs: rids}))
	if err != nil {
		return protocol.BundlesAnswer{}, err
	}
	answer, err := decode(body, c.limits, protocol.DecodeBundles)
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
// others answer a *StatusError with code 404 or 405.
func (c *Client) Self(ctx context.Context, base string) (protocol.Bundle, error) {
	body, err := c.do(ctx, http.MethodGet, base, "", nil)
	if err != nil {
		return protocol.Bundle{}, err
	}
	b, err := decode(body, c.limits, protocol.DecodeBundle)
	if err != nil {
		return protocol.Bundle{}, err
	}
	if b.Manifest.RID.Type() != rid.NodeType {
		return protocol.Bundle{}, fmt.Errorf("%w: %s is not a node's bundle", ErrBadAnswer, b.Manifest.RID)
	}
	return b, nil
}

func (c *Client) post(ctx context.Context, base, path string, body []byte) ([]byte, error) {
	return c.do(ctx, http.MethodPost, base, path, body)
}

// do makes one request and returns the body of a 2xx answer.
func (c *Client) do(ctx context.Context, method, base, path string, body []byte) ([]byte, error) {
	u, err := parseBase(base)
	if err != nil {
		return nil, err
	}
	target := strings.TrimRight(u.String(), "/") + path
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, target, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadURL, err)
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
		return nil, fmt.Errorf("calling the peer: %w", err)
	}
	defer res.Body.Close()
	if res.StatusCode < 200 || res.StatusCode > 299 {
		// Half a text, or none, will do: the status says enough.
		text, _ := io.ReadAll(io.LimitReader(res.Body, maxErrorBytes))
		return nil, fmt.Errorf("%s: %w", target, &StatusError{
			Code: res.StatusCode, Body: text, RetryAfter: retryAfter(res.Header.Get("Retry-After"))})
	}
	if enc := res.Header.Get("Content-Encoding"); enc != "" && !strings.EqualFold(enc, "identity") {
		return nil, fmt.Errorf("%s: %w: it is compressed (%q), which was not asked for", target, ErrBadAnswer, enc)
	}
	if res.ContentLength > c.most {
		return nil, fmt.Errorf("%s: %w: %d bytes, the limit is %d", target, ErrTooLarge, res.ContentLength, c.most)
	}
	answer, err := io.ReadAll(io.LimitReader(res.Body, c.most+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading the peer's answer from %s: %w", target, err)
	case int64(len(answer)) > c.most:
		return nil, fmt.Errorf("%s: %w: more than %d bytes", target, ErrTooLarge, c.most)
	}
	return answer, nil
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

func askedRIDs(rids []rid.RID) func(rid.RID) bool {
	set := make(map[rid.RID]struct{}, len(rids))
	for _, r := range rids {
		set[r] = struct{}{}
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
