package client

import (
	"bytes"
	"encoding/pem"
	"errors"
	"net/http"
	"sync/atomic"
)

// renewal is what a client remembers of a token and certificate that were
// replaced. Without previous ones it does nothing.
type renewal struct {
	token string // the previous one
	cert  []byte // DER of the certificate expected now, nil where none is replaced
	state *atomic.Int32
}

// States of a renewal.
const (
	unheard int32 = iota // no answer yet
	current
	behind // the node still goes by the previous token or certificate
)

func newRenewal(o Options) (renewal, error) {
	r := renewal{token: o.PreviousToken, state: new(atomic.Int32)}
	switch {
	case len(o.PreviousCACert) == 0:
		return r, nil
	case len(o.CACert) == 0:
		return r, errors.New("admin client: a previous certificate goes with a present one")
	}
	if block, _ := pem.Decode(o.CACert); block != nil {
		r.cert = block.Bytes
	}
	return r, nil
}

// Current tells whether the node's last answer was given to Token, and under
// the first certificate of CACert: the previous ones are needed no more. It is
// false while there was no answer.
func (c *Client) Current() bool { return c.renewal.state.Load() == current }

// send sends a request, again with the previous token where the token was
// refused.
func (c *Client) send(req *http.Request) (*http.Response, error) {
	r := c.renewal
	if r.state.Load() == behind {
		// Who talks on an old connection never sees a new certificate.
		c.http.CloseIdleConnections()
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	state := current
	if resp.StatusCode == http.StatusUnauthorized {
		again := r.again(req)
		if again == nil {
			return resp, nil
		}
		_ = resp.Body.Close() // the refusal is known
		if resp, err = c.http.Do(again); err != nil || resp.StatusCode == http.StatusUnauthorized {
			return resp, err
		}
		state = behind
	}
	if r.cert != nil && resp.TLS != nil && !bytes.Equal(resp.TLS.PeerCertificates[0].Raw, r.cert) {
		state = behind
	}
	r.state.Store(state)
	return resp, nil
}

// again is the request with the previous token; nil where there is none, or
// where the body cannot be sent twice.
func (r renewal) again(req *http.Request) *http.Request {
	if r.token == "" || req.Body != nil && req.GetBody == nil {
		return nil
	}
	out := req.Clone(req.Context())
	if req.GetBody != nil {
		body, err := req.GetBody()
		if err != nil {
			return nil
		}
		out.Body = body
	}
	out.Header.Set("Authorization", "Bearer "+r.token)
	return out
}
