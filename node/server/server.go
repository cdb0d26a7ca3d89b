package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/koi-net/koi-operator/node/identity"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/server/apidocs"
	"github.com/koi-net/koi-operator/node/store"
)

// Defaults of Config.
const (
	DefaultConcurrency = 256
	DefaultBacklogWait = 250 * time.Millisecond
	// DefaultBodyBudget, times the limit of one body, is what all bodies being
	// served may take together.
	DefaultBodyBudget = 8
)

// ErrBusy is returned by an Acceptor or a Poller that cannot take more now; it
// is answered 503 with Retry-After.
var ErrBusy = errors.New("busy")

// Acceptor takes in the events of a broadcast.
type Acceptor interface {
	// Accept returns nil once the events are durable, or were taken before: a
	// body that is sent again has no effect. ErrBusy is answered 503,
	// store.ErrFull 507.
	Accept(ctx context.Context, from Sender, events []protocol.Event) error
}

// Sender says who sent a body.
type Sender struct {
	// RID is the verified sender of an envelope; "" for an unsigned body, of
	// which nothing can be known.
	RID rid.RID
	// Replay names the signed body for good (identity.ReplayKey); nil for an
	// unsigned one.
	Replay *[32]byte
}

// Peers is what the server knows of other nodes.
type Peers interface {
	// PublicKey returns the public key in the profile held of a node, whoever
	// gave that: the key certifies itself by the RID. known is false where no
	// profile is held; the key is "" where the profile has none.
	PublicKey(r rid.RID) (key string, known bool)
	// FloatStyle is how a node writes floats; answers to it are written so.
	FloatStyle(r rid.RID) protocol.FloatStyle
	// Learn takes what a verified envelope showed: the style of its floats and
	// the program that sent it, by its User-Agent header.
	Learn(r rid.RID, style protocol.FloatStyle, userAgent string)
	// Suits reports whether asker, "" for an unsigned one, may be shown the
	// bundle of the node r. One that it may not is left out as if it were not
	// there. What is no node's is for everybody.
	Suits(asker, r rid.RID) bool
}

// Poller hands out what waits for a polling peer.
type Poller interface {
	// Lease takes up to limit events (0: as many as fit one answer) that wait
	// for peer. The lease must be released.
	Lease(ctx context.Context, peer rid.RID, program string, limit int) (Lease, error)
}

// Lease is a peer's events while they are being answered. It is an alias, so
// that whoever implements Poller need not import this package.
type Lease = interface {
	// Events are in the wire's compact form, oldest first.
	Events() [][]byte
	// Written says that the whole answer went out without an error.
	Written()
	// Release ends the lease. Without Written the events are offered again.
	Release()
}

// Config says what a server answers from and within which bounds.
type Config struct {
	Store store.Store
	Inbox Acceptor
	Polls Poller
	// Peers are the other nodes.
	Peers Peers
	// Identity signs the answers to envelopes. One without a key refuses them.
	Identity identity.Identity
	// DenyUnsigned refuses bodies without a signature.
	DenyUnsigned bool
	// Product is sent as the Server header; "" sends none.
	Product string
	// Self returns the node's own bundle, false while there is none yet.
	Self func() (protocol.Bundle, bool)
	// BasePath is the path of the node's base URL, for example "/koi-net"; ""
	// is the root. Below "/koi-net" the calls are found at the root too, as in
	// koi-net 1.0.
	BasePath string
	// NoDocs leaves out the page that shows the OpenAPI document to people. The
	// document itself stays.
	NoDocs bool
	// Limits bound bodies. A zero field stands for its default.
	Limits protocol.Limits
	// Concurrency bounds the requests served at once (default
	// DefaultConcurrency). Half as many more may wait up to BacklogWait
	// (default DefaultBacklogWait); the others are answered 503.
	Concurrency int
	BacklogWait time.Duration
	// BodyBudget bounds the bytes of all bodies being served together (default
	// DefaultBodyBudget bodies); beyond it the answer is 503.
	BodyBudget int64
	// OnDamaged, if set, is told of a stored bundle that cannot be read. It must not
	// block.
	OnDamaged func(rid.RID, error)
	// Logger takes refusals at debug and faults of our own at error level;
	// default: discarded.
	Logger *slog.Logger
	// Metrics takes the server's metrics; nil keeps them unregistered.
	Metrics prometheus.Registerer
}

type server struct {
	store store.Store
	inbox Acceptor
	polls Poller
	self  func() (protocol.Bundle, bool)
	signing
	product string
	limits  protocol.Limits
	gate    *gate
	budget  *budget
	blocks  blocks

	onDamaged func(rid.RID, error)

	log     *slog.Logger
	metrics *metrics
}

// New returns the handler of the five calls, and of GET on the base path, on the
// OpenAPI document and on the page that shows it. It fails on an incomplete or
// contradictory Config.
func New(c Config) (http.Handler, error) {
	switch {
	case c.Store == nil:
		return nil, errors.New("server: no store given")
	case c.Inbox == nil:
		return nil, errors.New("server: no acceptor given")
	case c.Polls == nil:
		return nil, errors.New("server: no poller given")
	case c.Peers == nil:
		return nil, errors.New("server: no knowledge of peers given")
	case c.Self == nil:
		return nil, errors.New("server: no source of the own bundle given")
	case c.DenyUnsigned && c.Identity.Unsigned():
		return nil, errors.New("server: unsigned bodies are denied and there is no key for signed ones: nobody would be answered")
	}
	base := strings.TrimRight(c.BasePath, "/")
	if base != "" && (base[0] != '/' || strings.ContainsAny(base, "{}*?#")) {
		return nil, fmt.Errorf("server: base path %q: it must be empty or begin with '/' and hold none of {}*?#", c.BasePath)
	}
	if c.Limits.BodyBytes <= 0 {
		c.Limits.BodyBytes = protocol.DefaultLimits().BodyBytes
	}
	if c.Concurrency <= 0 {
		c.Concurrency = DefaultConcurrency
	}
	if c.BacklogWait <= 0 {
		c.BacklogWait = DefaultBacklogWait
	}
	if c.BodyBudget <= 0 {
		c.BodyBudget = DefaultBodyBudget * c.Limits.BodyBytes
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	m, err := newMetrics(c.Metrics)
	if err != nil {
		return nil, fmt.Errorf("server: %w", err)
	}
	s := &server{
		store: c.Store,
		inbox: c.Inbox,
		polls: c.Polls,
		self:  c.Self,
		signing: signing{
			identity:     c.Identity,
			peers:        c.Peers,
			denyUnsigned: c.DenyUnsigned,
			keys:         newRecent[string, identity.PublicKey](maxKeys),
			polled:       newRecent[[32]byte, struct{}](maxPolled),
		},
		onDamaged: c.OnDamaged,
		product:   c.Product,
		limits:    c.Limits,
		gate:      newGate(c.Concurrency, c.BacklogWait),
		budget:    &budget{limit: c.BodyBudget},
		log:       c.Logger,
		metrics:   m,
	}
	var docs []apidocs.File
	if !c.NoDocs {
		if docs, err = apidocs.Files(); err != nil {
			return nil, fmt.Errorf("server: %w", err)
		}
	}
	return s.routes(base, docs), nil
}

// readRoutes are the paths that are read with GET and HEAD.
type readRoutes struct {
	router chi.Router
	paths  map[string]bool
}

func (r readRoutes) add(path string, h http.HandlerFunc) {
	r.router.Get(path, h)
	r.router.Head(path, h)
	r.paths[path] = true
}

func (s *server) routes(base string, docs []apidocs.File) http.Handler {
	r := chi.NewRouter()
	get := readRoutes{r, map[string]bool{}}
	// A reverse proxy may or may not strip the prefix, and 1.0 serves both.
	prefixes := []string{base}
	if base == "/koi-net" {
		prefixes = append(prefixes, "")
	}
	takes := generations{signed: !s.identity.Unsigned(), unsigned: !s.denyUnsigned}
	document := s.plain("openapi", newOpenAPI(base, s.product, takes, s.limits).answer)
	for _, prefix := range prefixes {
		get.add(prefix+openAPIPath, document)
		for _, f := range docs {
			get.add(prefix+f.Path, s.file(f))
		}
		if len(docs) > 0 {
			// Relative, for a proxy may have taken the base path off.
			get.add(prefix+apidocs.Path+"/", redirect(".."+apidocs.Path))
		}
		for path, h := range map[string]http.HandlerFunc{
			"/events/broadcast": post(s, "broadcast", decodeBroadcast, s.broadcast),
			"/events/poll":      post(s, "poll", protocol.DecodePoll, s.poll),
			"/rids/fetch":       post(s, "rids", protocol.DecodeFetchRIDs, s.fetchRIDs),
			"/manifests/fetch":  post(s, "manifests", protocol.DecodeFetchManifests, s.fetchManifests),
			"/bundles/fetch":    post(s, "bundles", protocol.DecodeFetchBundles, s.fetchBundles),
		} {
			r.Post(prefix+path, h)
			r.Post(prefix+path+"/", redirect(prefix+path))
		}
	}
	self := s.plain("self", s.ownBundle)
	for _, path := range []string{base, base + "/"} {
		if path != "" {
			get.add(path, self)
		}
	}
	r.NotFound(func(w http.ResponseWriter, _ *http.Request) {
		s.metrics.requests.WithLabelValues("unknown", "404", "").Inc()
		writeDetail(w, http.StatusNotFound, "Not Found")
	})
	r.MethodNotAllowed(func(w http.ResponseWriter, r *http.Request) {
		s.metrics.requests.WithLabelValues("unknown", "405", "").Inc()
		allow := http.MethodPost
		if get.paths[r.URL.Path] {
			allow = "GET, HEAD"
		}
		w.Header().Set("Allow", allow)
		writeDetail(w, http.StatusMethodNotAllowed, "Method Not Allowed")
	})
	return r
}

// redirect answers a path with a slash too many as the reference does. The
// target is a constant of ours, so it cannot be led elsewhere.
func redirect(to string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", to)
		w.WriteHeader(http.StatusTemporaryRedirect)
	}
}
