package admin

import (
	"log/slog"
	"net/http"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/koi-net/koi-operator/node/admin/client"
	"github.com/koi-net/koi-operator/node/protocol"
)

// Limits bound what the API takes in and keeps running. Zero fields mean the
// default.
type Limits struct {
	// Protocol bounds bodies, one line of a stream (BodyBytes) and one bundle's
	// contents (ContentsBytes).
	Protocol protocol.Limits
	// Calls is the number of calls served side by side; default 64. Beyond it
	// they are answered 503. Watches count apart.
	Calls int
	// Watchers is the number of watches served side by side; default 64.
	Watchers int
	// Heartbeat is the longest silence of a watch; default 15 s.
	Heartbeat time.Duration
	// LineTimeout is how long a client may take to read or send one line of a
	// stream, or to read 256 KiB of a backup; default 30 s.
	LineTimeout time.Duration
	// BackupTime is how long one backup may take; default 6 h.
	BackupTime time.Duration
	// BatchItems and BatchBytes bound what one Backend.Put gets of a stream;
	// default 500 items or 4 MiB of contents, whichever comes first. A single
	// item may be larger.
	BatchItems int
	BatchBytes int
}

func (l Limits) withDefaults() Limits {
	orInt(&l.Calls, 64)
	orInt(&l.Watchers, 64)
	orInt(&l.BatchItems, 500)
	orInt(&l.BatchBytes, 4<<20)
	if l.Heartbeat <= 0 {
		l.Heartbeat = client.DefaultHeartbeat
	}
	if l.LineTimeout <= 0 {
		l.LineTimeout = 30 * time.Second
	}
	if l.BackupTime <= 0 {
		l.BackupTime = 6 * time.Hour
	}
	def := protocol.DefaultLimits()
	orInt(&l.Protocol.BodyBytes, def.BodyBytes)
	orInt(&l.Protocol.ContentsBytes, def.ContentsBytes)
	orInt(&l.Protocol.RIDTypes, def.RIDTypes)
	return l
}

func orInt[T int | int64](n *T, def T) {
	if *n <= 0 {
		*n = def
	}
}

// Config is what New needs. Backend and Feed are required.
type Config struct {
	Backend Backend
	Feed    *Feed
	// Token is the bearer token; "" leaves the API open, which CheckListen
	// allows on loopback only.
	Token string
	// Keys stands in for Token where the token is in a file that may change.
	Keys *Keys
	// Metrics is served at /metrics; nil leaves it out.
	Metrics prometheus.Gatherer
	// Logger takes failures that are not the client's; nil discards them.
	Logger *slog.Logger
	Limits Limits
}

type server struct {
	cfg      Config
	log      *slog.Logger
	limits   Limits
	calls    chan struct{}
	watchers chan struct{}
	backups  chan struct{}
}

// New returns the handler of the admin listener: the API below
// client.BasePath, and /healthz, /readyz and /metrics, which need no token.
// It starts no goroutine; watches end with their request or with the Feed.
func New(cfg Config) http.Handler {
	s := &server{cfg: cfg, log: cfg.Logger, limits: cfg.Limits.withDefaults()}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.calls = make(chan struct{}, s.limits.Calls)
	s.watchers = make(chan struct{}, s.limits.Watchers)
	s.backups = make(chan struct{}, 1)

	r := chi.NewRouter()
	r.Use(routeEscaped)
	r.NotFound(s.noRoute)
	r.MethodNotAllowed(s.noMethod)
	r.Get("/healthz", s.healthz)
	r.Get("/readyz", s.readyz)
	if cfg.Metrics != nil {
		r.Method(http.MethodGet, "/metrics", promhttp.HandlerFor(cfg.Metrics, promhttp.HandlerOpts{MaxRequestsInFlight: scrapes}))
	}
	r.Route(client.BasePath, func(r chi.Router) {
		r.Use(s.authorize)
		r.With(s.admit(s.watchers, "watches")).Get("/watch", s.watch)
		r.Get("/backup", s.backup)
		r.Group(func(r chi.Router) {
			r.Use(s.admit(s.calls, "calls"))
			r.Get("/status", s.status)
			r.Get("/nodes", s.nodes)
			r.Post("/nodes", s.introduce)
			r.Get("/edges", s.edges)
			r.Post("/edges", s.propose)
			r.Delete("/edges/{source}/{target}", s.forgetEdge)
			r.Put("/policy/{source}/{target}", s.setPolicy)
			r.Delete("/policy/{source}/{target}", s.deletePolicy)
			r.Get("/rids", s.rids)
			r.Post("/bundles", s.putMany)
			r.Get("/bundles/{rid}", s.bundle)
			r.Put("/bundles/{rid}", s.put)
			r.Delete("/bundles/{rid}", s.forget)
			r.Post("/resync", s.resync)
			r.Post("/leave", s.leave)
		})
	})
	return r
}

// routeEscaped makes chi route on the path as it was sent. chi by itself takes
// the decoded path where encoding it again would give the same text, so that a
// parameter would be decoded or not depending on its characters; and a RID may
// contain '/', '%' and '+'.
func routeEscaped(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		chi.RouteContext(r.Context()).RoutePath = r.URL.EscapedPath()
		next.ServeHTTP(w, r)
	})
}

// admit bounds the requests inside to the capacity of slots.
func (s *server) admit(slots chan struct{}, what string) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			select {
			case slots <- struct{}{}:
				defer func() { <-slots }()
				next.ServeHTTP(w, r)
			default:
				s.writeError(w, http.StatusServiceUnavailable, client.ErrorBody{Error: client.ErrorDetail{
					Code: client.CodeUnavailable, Message: "too many " + what + " at once; try again",
				}})
			}
		})
	}
}

func (s *server) noRoute(w http.ResponseWriter, r *http.Request) {
	s.writeError(w, http.StatusNotFound, client.ErrorBody{Error: client.ErrorDetail{
		Code:    client.CodeNoRoute,
		Message: "no such path: " + r.URL.EscapedPath() + " (RIDs in a path are percent-encoded, '/' as %2F)",
	}})
}

func (s *server) noMethod(w http.ResponseWriter, r *http.Request) {
	s.writeError(w, http.StatusMethodNotAllowed, client.ErrorBody{Error: client.ErrorDetail{
		Code: client.CodeNoRoute, Message: r.Method + " is not allowed here",
	}})
}
