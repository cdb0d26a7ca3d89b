package load

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// Bounds of one request.
const (
	// stall is the longest wait for the beginning of an answer, or for more of it.
	stall = 3 * time.Minute
	// maxRefusal is how much of an answer with another status than 200 is kept.
	maxRefusal = 500
	readBuffer = 64 << 10
)

// ErrAnswer says that a node answered with another status than 200.
var ErrAnswer = errors.New("the node refuses the load")

// Sample is what one request took, from before its first byte was written.
type Sample struct {
	// FirstByte is the time to the first byte of the answer, Whole to its last.
	FirstByte, Whole time.Duration
	// Bytes is the size of the answer's body.
	Bytes int64
}

// Outcome is what all requests of a load took.
type Outcome struct {
	Began   time.Time
	Elapsed time.Duration // from Began to the last answer
	Samples []Sample      // in no order
}

// Wholes returns the times to the last byte, sorted.
func (o Outcome) Wholes() []time.Duration {
	return o.sorted(func(s Sample) time.Duration { return s.Whole })
}

// FirstBytes returns the times to the first byte, sorted.
func (o Outcome) FirstBytes() []time.Duration {
	return o.sorted(func(s Sample) time.Duration { return s.FirstByte })
}

func (o Outcome) sorted(of func(Sample) time.Duration) []time.Duration {
	out := make([]time.Duration, len(o.Samples))
	for i, s := range o.Samples {
		out[i] = of(s)
	}
	slices.Sort(out)
	return out
}

// Target is where a load goes: one call of one node.
type Target struct {
	addr string
	head []byte // of every request, up to the value of Content-Length
}

// NewTarget returns the target for a path below a node's base URL, which has to
// name a loopback address: loads go nowhere else.
func NewTarget(baseURL, path string) (Target, error) {
	u, err := url.Parse(baseURL)
	if err != nil {
		return Target{}, fmt.Errorf("base URL: %w", err)
	}
	at, err := netip.ParseAddrPort(u.Host)
	if err != nil || u.Scheme != "http" || !at.Addr().IsLoopback() {
		return Target{}, fmt.Errorf("base URL %q: loads go to http on a loopback address with a port alone", baseURL)
	}
	return Target{addr: u.Host, head: fmt.Appendf(nil,
		"POST %s%s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: ", u.Path, path, u.Host)}, nil
}

// Each sends every body once, from a number of clients side by side that share
// them, and waits for all answers. The first failure ends the load.
func Each(ctx context.Context, t Target, clients int, bodies [][]byte) (Outcome, error) {
	var last atomic.Int64
	return run(ctx, t, clients, func() ([]byte, bool) {
		n := last.Add(1)
		if n > int64(len(bodies)) {
			return nil, false
		}
		return bodies[n-1], true
	})
}

// Again sends bodies in turn, over and over, from a number of clients side by
// side, for a time, and at least atLeast of them.
func Again(ctx context.Context, t Target, clients int, bodies [][]byte, atLeast int, during time.Duration) (Outcome, error) {
	var last atomic.Int64
	end := sync.OnceValue(func() time.Time { return time.Now().Add(during) })
	return run(ctx, t, clients, func() ([]byte, bool) {
		n, end := last.Add(1), end()
		if n > int64(atLeast) && time.Now().After(end) {
			return nil, false
		}
		return bodies[(n-1)%int64(len(bodies))], true
	})
}

// run has clients send what next returns, until there is no more. Connections are
// made before the clock starts.
func run(ctx context.Context, t Target, clients int, next func() (body []byte, more bool)) (Outcome, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	conns, err := t.connect(ctx, clients)
	if err != nil {
		return Outcome{}, err
	}
	samples := make([][]Sample, clients)
	var group sync.WaitGroup
	began := time.Now()
	for i, c := range conns {
		group.Go(func() {
			defer c.close()
			for ctx.Err() == nil {
				body, more := next()
				if !more {
					return
				}
				s, err := c.send(ctx, body)
				if err != nil {
					cancel(err)
					return
				}
				samples[i] = append(samples[i], s)
			}
		})
	}
	group.Wait()
	o := Outcome{Began: began, Elapsed: time.Since(began), Samples: slices.Concat(samples...)}
	if ctx.Err() != nil {
		return o, fmt.Errorf("the load ended after %d answers: %w", len(o.Samples), context.Cause(ctx))
	}
	return o, nil
}

// Ask sends one body and returns the body of the answer.
func Ask(ctx context.Context, t Target, body []byte) ([]byte, error) {
	conns, err := t.connect(ctx, 1)
	if err != nil {
		return nil, err
	}
	defer conns[0].close()
	var answer bytes.Buffer
	conns[0].into = &answer
	if _, err := conns[0].send(ctx, body); err != nil {
		return nil, err
	}
	return answer.Bytes(), nil
}

// conn is one client's connection.
type conn struct {
	target Target
	net    net.Conn
	read   *bufio.Reader
	head   []byte
	into   io.Writer // takes the answers' bodies
	stop   func() bool
}

func (t Target) connect(ctx context.Context, n int) ([]*conn, error) {
	var dialer net.Dialer
	out := make([]*conn, 0, n)
	for range n {
		c, err := dialer.DialContext(ctx, "tcp", t.addr)
		if err != nil {
			for _, c := range out {
				c.close()
			}
			return nil, fmt.Errorf("connect: %w", err)
		}
		// An end of ctx ends reads and writes that are under way.
		stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
		out = append(out, &conn{target: t, net: c, read: bufio.NewReaderSize(c, readBuffer), into: io.Discard, stop: stop})
	}
	return out, nil
}

func (c *conn) close() {
	c.stop()
	_ = c.net.Close() // nothing is left to be said
}

// send sends one request and reads its answer.
func (c *conn) send(ctx context.Context, body []byte) (Sample, error) {
	c.head = append(c.head[:0], c.target.head...)
	c.head = strconv.AppendInt(c.head, int64(len(body)), 10)
	c.head = append(c.head, "\r\n\r\n"...)
	began := time.Now()
	if err := c.net.SetDeadline(began.Add(stall)); err != nil {
		return Sample{}, fmt.Errorf("send: %w", err)
	}
	if ctx.Err() != nil { // before or after AfterFunc set its deadline
		return Sample{}, context.Cause(ctx)
	}
	request := net.Buffers{c.head, body}
	if _, err := request.WriteTo(c.net); err != nil {
		return Sample{}, c.failed(ctx, "send", err)
	}
	if _, err := c.read.Peek(1); err != nil {
		return Sample{}, c.failed(ctx, "wait for an answer", err)
	}
	s := Sample{FirstByte: time.Since(began)}
	resp, err := http.ReadResponse(c.read, nil)
	if err != nil {
		return Sample{}, c.failed(ctx, "read the answer", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, maxRefusal))
		return Sample{}, fmt.Errorf("%w: %s: %s", ErrAnswer, resp.Status, text)
	}
	if s.Bytes, err = io.Copy(c.into, resp.Body); err != nil {
		return Sample{}, c.failed(ctx, "read the answer", err)
	}
	if resp.Close {
		return Sample{}, fmt.Errorf("%w: it closes the connection after an answer", ErrAnswer)
	}
	s.Whole = time.Since(began)
	return s, nil
}

// failed gives an error of the connection its reason.
func (c *conn) failed(ctx context.Context, what string, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", what, context.Cause(ctx))
	}
	return fmt.Errorf("%s: %w", what, err)
}
