package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// Defaults of Options.
const (
	DefaultTimeout = 30 * time.Second
	DefaultMaxBody = 64 << 20
)

// maxTokenFile bounds what is read of a token file.
const maxTokenFile = 64 << 10

// maxErrorText bounds how much of a foreign answer an Error repeats.
const maxErrorText = 200

// Options say how a node's admin API is reached.
type Options struct {
	// URL is the admin listener, for example http://127.0.0.1:8081; required.
	URL string
	// Token is the bearer token; TokenFile names a file to read it from anew
	// for each request, so that a changed one is taken up. At most one of both.
	Token     string
	TokenFile string
	// CACert pins the server's certificate: PEM with the certificate itself or
	// the authority that signed it, and nothing else is trusted. The server's
	// name is not checked, because nodes are reached by IP address. Without it
	// https is verified in the usual way.
	CACert []byte
	// PreviousToken is given where Token is refused, and PreviousCACert, which
	// goes with CACert, is trusted beside it: for a node whose token and
	// certificate were replaced and which may not have taken them up yet. See
	// Current.
	PreviousToken  string
	PreviousCACert []byte
	// HTTPClient replaces the client made by default, for instance to dial
	// through a tunnel. With CACert its Transport must be an *http.Transport;
	// it is cloned. Its redirect policy and timeout are not used.
	HTTPClient *http.Client
	// Timeout bounds each call but streams (PutStream, Watch, Backup); default 30 s.
	Timeout time.Duration
	// MaxBody bounds an answer, in bytes; default 64 MiB.
	MaxBody int64
}

// Client calls the admin API of one node. It is safe for concurrent use.
type Client struct {
	base      string // URL without a trailing slash, BasePath included
	root      string // URL without a trailing slash
	token     string
	tokenFile string
	http      *http.Client
	timeout   time.Duration
	maxBody   int64

	renewal renewal
}

// New makes a Client. It does not call the node.
func New(o Options) (*Client, error) {
	u, err := url.Parse(o.URL)
	if err != nil {
		return nil, fmt.Errorf("admin URL: %w", err)
	}
	if (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return nil, fmt.Errorf("admin URL %q: give http:// or https:// and host:port", o.URL)
	}
	if u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("admin URL of host %q: it takes no user, query or fragment", u.Host)
	}
	if o.Token != "" && o.TokenFile != "" {
		return nil, errors.New("admin token: give the token or its file, not both")
	}
	if u.Scheme == "http" {
		if len(o.CACert) > 0 {
			return nil, fmt.Errorf("admin URL %q: a certificate is pinned, so it must be https://", o.URL)
		}
		// A tunnel's client may well speak plain HTTP to a far address.
		if (o.Token != "" || o.TokenFile != "") && o.HTTPClient == nil && !isLoopback(u.Hostname()) {
			return nil, fmt.Errorf("admin URL %q: a token is not sent in the clear to another machine; use https://", o.URL)
		}
	}
	c := &Client{
		root:      strings.TrimRight(o.URL, "/"),
		token:     o.Token,
		tokenFile: o.TokenFile,
		timeout:   o.Timeout,
		maxBody:   o.MaxBody,
	}
	c.base = c.root + BasePath
	if c.renewal, err = newRenewal(o); err != nil {
		return nil, err
	}
	if c.timeout <= 0 {
		c.timeout = DefaultTimeout
	}
	if c.maxBody <= 0 {
		c.maxBody = DefaultMaxBody
	}
	transport, err := newTransport(o)
	if err != nil {
		return nil, err
	}
	c.http = &http.Client{
		Transport: transport,
		// A redirect would carry the token to somewhere else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c, nil
}

func newTransport(o Options) (http.RoundTripper, error) {
	var given http.RoundTripper
	if o.HTTPClient != nil {
		given = o.HTTPClient.Transport
		if given == nil {
			given = http.DefaultTransport
		}
		if len(o.CACert) == 0 {
			return given, nil
		}
	}
	var t *http.Transport
	if given == nil {
		t = &http.Transport{
			Proxy:               nil, // an admin listener is reached directly
			DialContext:         (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
			TLSHandshakeTimeout: 10 * time.Second,
			MaxIdleConnsPerHost: 4,
			IdleConnTimeout:     90 * time.Second,
		}
	} else {
		std, ok := given.(*http.Transport)
		if !ok {
			return nil, fmt.Errorf("admin client: a certificate cannot be pinned on a transport of type %T", given)
		}
		t = std.Clone()
	}
	if len(o.CACert) > 0 {
		config, err := pinned(slices.Concat(o.CACert, o.PreviousCACert))
		if err != nil {
			return nil, err
		}
		t.TLSClientConfig = config
	}
	return t, nil
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// CloseIdleConnections closes connections that are kept for later calls.
func (c *Client) CloseIdleConnections() { c.http.CloseIdleConnections() }

// Status describes the node.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var out Status
	err := c.call(ctx, http.MethodGet, c.base+"/status", nil, &out)
	return out, err
}

// Readyz asks the readiness probe, which needs no token: whether the node is
// ready, and its checks as text.
func (c *Client) Readyz(ctx context.Context) (ready bool, text string, err error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.root+"/readyz", nil)
	if err != nil {
		return false, "", err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return false, "", err
	}
	defer resp.Body.Close()
	body, err := c.readBody(resp)
	if err != nil {
		return false, "", err
	}
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusServiceUnavailable {
		return false, "", decodeError(resp.StatusCode, body)
	}
	return resp.StatusCode == http.StatusOK, string(body), nil
}

// Nodes returns the nodes the node knows, itself included.
func (c *Client) Nodes(ctx context.Context) ([]Node, error) {
	var out NodeList
	err := c.call(ctx, http.MethodGet, c.base+"/nodes", nil, &out)
	return out.Nodes, err
}

// Introduce makes another node known to the node, which shakes hands with it.
func (c *Client) Introduce(ctx context.Context, in Introduction) (Node, error) {
	var out Node
	err := c.call(ctx, http.MethodPost, c.base+"/nodes", in, &out)
	return out, err
}

// Edges returns the edges the node knows; own limits them to those in which it
// is an end.
func (c *Client) Edges(ctx context.Context, own bool) (EdgeList, error) {
	var out EdgeList
	err := c.call(ctx, http.MethodGet, c.base+"/edges?own="+strconv.FormatBool(own), nil, &out)
	return out, err
}

// Propose has the node, as target, propose an edge.
func (c *Client) Propose(ctx context.Context, p Proposal) (Edge, error) {
	var out Edge
	err := c.call(ctx, http.MethodPost, c.base+"/edges", p, &out)
	return out, err
}

// ForgetEdge has the node forget the edge of the pair; ErrNotFound if there is
// none.
func (c *Client) ForgetEdge(ctx context.Context, source, target rid.RID) error {
	return c.call(ctx, http.MethodDelete, c.pair("/edges/", source, target), nil, nil)
}

// SetPolicy makes a standing decision and returns it as it was stored.
func (c *Client) SetPolicy(ctx context.Context, p Policy) (Policy, error) {
	var out Policy
	err := c.call(ctx, http.MethodPut, c.pair("/policy/", p.Source, p.Target), p, &out)
	return out, err
}

// DeletePolicy removes a standing decision; ErrNotFound if there is none.
func (c *Client) DeletePolicy(ctx context.Context, source, target rid.RID) error {
	return c.call(ctx, http.MethodDelete, c.pair("/policy/", source, target), nil, nil)
}

// RIDs returns one page of at most limit RIDs (0: DefaultPage) of the given
// types (none: all) that follow after ("": from the first).
func (c *Client) RIDs(ctx context.Context, types []rid.Type, after rid.RID, limit int) (RIDList, error) {
	q := url.Values{}
	for _, t := range types {
		q.Add("type", string(t))
	}
	if after != "" {
		q.Set("after", string(after))
	}
	if limit > 0 {
		q.Set("limit", strconv.Itoa(limit))
	}
	path := c.base + "/rids"
	if len(q) > 0 {
		path += "?" + q.Encode()
	}
	var out RIDList
	err := c.call(ctx, http.MethodGet, path, nil, &out)
	return out, err
}

// AllRIDs yields all RIDs of the given types, page by page. An error is the
// last element.
func (c *Client) AllRIDs(ctx context.Context, types []rid.Type) iter.Seq2[rid.RID, error] {
	return func(yield func(rid.RID, error) bool) {
		var after rid.RID
		for {
			page, err := c.RIDs(ctx, types, after, MaxPage)
			if err != nil {
				yield("", err)
				return
			}
			for _, r := range page.RIDs {
				if !yield(r, nil) {
					return
				}
			}
			if page.Next == "" {
				return
			}
			if page.Next == after {
				yield("", fmt.Errorf("admin API: the page after %s does not advance", after))
				return
			}
			after = page.Next
		}
	}
}

// Bundle returns a bundle of the node's cache or ErrNotFound.
func (c *Client) Bundle(ctx context.Context, r rid.RID) (protocol.Bundle, error) {
	var out protocol.Bundle
	err := c.call(ctx, http.MethodGet, c.bundle(r), nil, &out)
	return out, err
}

// Put gives the node contents, one JSON object, as knowledge of its own. It
// returns once they are on disk there.
func (c *Client) Put(ctx context.Context, r rid.RID, contents json.RawMessage) (PutResult, error) {
	var out PutResult
	err := c.call(ctx, http.MethodPut, c.bundle(r), Put{Contents: contents}, &out)
	return out, err
}

// PutStream gives the node many bundles: lines holds a PutItem as JSON on each
// line. It has no timeout but ctx. An *Error names the line that failed, and
// the result counts what was accepted before it.
func (c *Client) PutStream(ctx context.Context, lines io.Reader) (PutResult, error) {
	// A Reader that is also a Closer would be closed by net/http; it is the caller's.
	req, err := c.request(ctx, http.MethodPost, c.base+"/bundles", io.NopCloser(lines))
	if err != nil {
		return PutResult{}, err
	}
	req.Header.Set("Content-Type", "application/x-ndjson")
	var out PutResult
	err = c.do(req, &out)
	var answer *Error
	if errors.As(err, &answer) && answer.Result != nil {
		out = *answer.Result
	}
	return out, err
}

// Forget has the node forget a RID; ErrNotFound if it does not know it.
func (c *Client) Forget(ctx context.Context, r rid.RID) error {
	return c.call(ctx, http.MethodDelete, c.bundle(r), nil, nil)
}

// Resync has the node contact its interests again, ask the other end of every
// edge, and catch up.
func (c *Client) Resync(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, c.base+"/resync", nil, nil)
}

// Leave has the node announce to its neighbours that it goes for good.
func (c *Client) Leave(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, c.base+"/leave", nil, nil)
}

func (c *Client) bundle(r rid.RID) string { return c.base + "/bundles/" + url.PathEscape(string(r)) }

func (c *Client) pair(path string, source, target rid.RID) string {
	return c.base + path + url.PathEscape(string(source)) + "/" + url.PathEscape(string(target))
}

// call makes one bounded call; in is sent as JSON unless it is nil, and the
// answer is decoded into out unless that is nil.
func (c *Client) call(ctx context.Context, method, target string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	var body io.Reader
	if in != nil {
		var text bytes.Buffer
		enc := json.NewEncoder(&text)
		enc.SetEscapeHTML(false) // contents go as they are given
		if err := enc.Encode(in); err != nil {
			return fmt.Errorf("admin call %s %s: %w", method, target, err)
		}
		body = bytes.NewReader(text.Bytes())
	}
	req, err := c.request(ctx, method, target, body)
	if err != nil {
		return err
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	return c.do(req, out)
}

// request makes a request with the token.
func (c *Client) request(ctx context.Context, method, target string, body io.Reader) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		return nil, fmt.Errorf("admin call: %w", err)
	}
	token := c.token
	if c.tokenFile != "" {
		if token, err = ReadTokenFile(c.tokenFile); err != nil {
			return nil, err
		}
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	return req, nil
}

// do sends a request and decodes its answer.
func (c *Client) do(req *http.Request, out any) error {
	resp, err := c.send(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := c.readBody(resp)
	if err != nil {
		return err
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return decodeError(resp.StatusCode, body)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(body, out); err != nil {
		return fmt.Errorf("answer of %s %s: %w", req.Method, req.URL.Redacted(), err)
	}
	return nil
}

func (c *Client) readBody(resp *http.Response) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(resp.Body, c.maxBody+1))
	if err != nil {
		return nil, fmt.Errorf("answer of %s: %w", resp.Request.URL.Redacted(), err)
	}
	if int64(len(body)) > c.maxBody {
		return nil, fmt.Errorf("answer of %s exceeds %d bytes", resp.Request.URL.Redacted(), c.maxBody)
	}
	return body, nil
}

// ReadTokenFile reads a bearer token from a file, without surrounding space.
// An empty, huge or unprintable token is an error.
func ReadTokenFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("admin token file: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxTokenFile+1))
	if err != nil {
		return "", fmt.Errorf("admin token file %s: %w", path, err)
	}
	token := strings.TrimSpace(string(text))
	switch {
	case len(text) > maxTokenFile:
		return "", fmt.Errorf("admin token file %s: larger than %d bytes", path, maxTokenFile)
	case token == "":
		return "", fmt.Errorf("admin token file %s: it is empty", path)
	case strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }):
		return "", fmt.Errorf("admin token file %s: a token is one line of printable ASCII without spaces", path)
	}
	return token, nil
}
