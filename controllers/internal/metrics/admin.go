package metrics

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"

	"github.com/koi-net/koi-operator/controllers/internal/observe"
	"github.com/koi-net/koi-operator/node/admin/client"
	"github.com/koi-net/koi-operator/node/rid"
)

// Dial makes admin clients whose calls are counted.
func (m *Metrics) Dial(dial func(observe.Endpoint) (observe.Admin, error)) func(observe.Endpoint) (observe.Admin, error) {
	return func(e observe.Endpoint) (observe.Admin, error) {
		a, err := dial(e)
		if err != nil {
			return nil, err
		}
		return admin{Admin: a, metrics: m}, nil
	}
}

// admin counts the calls of an Admin.
type admin struct {
	observe.Admin
	metrics *Metrics
}

func (a admin) Status(ctx context.Context) (client.Status, error) {
	out, err := a.Admin.Status(ctx)
	a.metrics.called("status", err)
	return out, err
}

func (a admin) Nodes(ctx context.Context) ([]client.Node, error) {
	out, err := a.Admin.Nodes(ctx)
	a.metrics.called("nodes", err)
	return out, err
}

func (a admin) Edges(ctx context.Context, own bool) (client.EdgeList, error) {
	out, err := a.Admin.Edges(ctx, own)
	a.metrics.called("edges", err)
	return out, err
}

func (a admin) Propose(ctx context.Context, p client.Proposal) (client.Edge, error) {
	out, err := a.Admin.Propose(ctx, p)
	a.metrics.called("propose", err)
	return out, err
}

func (a admin) ForgetEdge(ctx context.Context, source, target rid.RID) error {
	err := a.Admin.ForgetEdge(ctx, source, target)
	a.metrics.called("forget_edge", err)
	return err
}

func (a admin) SetPolicy(ctx context.Context, p client.Policy) (client.Policy, error) {
	out, err := a.Admin.SetPolicy(ctx, p)
	a.metrics.called("set_policy", err)
	return out, err
}

func (a admin) DeletePolicy(ctx context.Context, source, target rid.RID) error {
	err := a.Admin.DeletePolicy(ctx, source, target)
	a.metrics.called("delete_policy", err)
	return err
}

func (a admin) Leave(ctx context.Context) error {
	err := a.Admin.Leave(ctx)
	a.metrics.called("leave", err)
	return err
}

// Follow counts a watch as connected from its first line to its end. Its
// functions are called one after the other.
func (a admin) Follow(ctx context.Context, since string, fn func(client.Change) error, o client.FollowOptions) error {
	connected := false
	ended := func() {
		if connected {
			connected = false
			a.metrics.watches.Dec()
		}
	}
	defer ended()
	told := o.OnError
	o.OnError = func(err error) error {
		ended()
		a.metrics.called("watch", err)
		if told != nil {
			return told(err)
		}
		return nil
	}
	return a.Admin.Follow(ctx, since, func(c client.Change) error {
		if !connected {
			connected = true
			a.metrics.watches.Inc()
			a.metrics.called("watch", nil)
		}
		return fn(c)
	}, o)
}

// called counts one call. What the operator itself gave up counts as nothing.
func (m *Metrics) called(call string, err error) {
	if !errors.Is(err, context.Canceled) {
		m.calls.WithLabelValues(call, outcome(err)).Inc()
	}
}

// outcome sorts the answers of admin APIs into a few names.
func outcome(err error) string {
	if err == nil {
		return "ok"
	}
	var answer *client.Error
	if errors.As(err, &answer) {
		return refusal(answer)
	}
	var timeout interface{ Timeout() bool }
	var network *net.OpError
	switch {
	case errors.Is(err, client.ErrWatchEnded):
		return "ended"
	case errors.Is(err, client.ErrSilent), errors.Is(err, context.DeadlineExceeded),
		errors.As(err, &timeout) && timeout.Timeout():
		return "timeout"
	case aboutTLS(err):
		return "tls"
	case errors.As(err, &network):
		return "unreachable"
	}
	return "other"
}

func refusal(answer *client.Error) string {
	switch {
	case errors.Is(answer, client.ErrUnauthorized):
		return "unauthorized"
	case errors.Is(answer, client.ErrNotFound):
		return "not_found"
	case errors.Is(answer, client.ErrBadRequest), errors.Is(answer, client.ErrConflict), errors.Is(answer, client.ErrTooLarge):
		return "refused"
	case errors.Is(answer, client.ErrUnavailable):
		return "unavailable"
	case errors.Is(answer, client.ErrStoreFull):
		return "store_full"
	case errors.Is(answer, client.ErrNotAdminAPI):
		return "not_admin_api"
	}
	return "internal"
}

// aboutTLS tells whether the certificate, or the talk about it, was at fault.
func aboutTLS(err error) bool {
	var (
		verification *tls.CertificateVerificationError
		record       tls.RecordHeaderError
		alert        tls.AlertError
		unknown      x509.UnknownAuthorityError
		invalid      x509.CertificateInvalidError
	)
	return errors.As(err, &verification) || errors.As(err, &record) || errors.As(err, &alert) ||
		errors.As(err, &unknown) || errors.As(err, &invalid)
}
