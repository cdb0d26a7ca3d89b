package node

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/koi-net/koi-operator/node/edge"
	"github.com/koi-net/koi-operator/node/pipeline"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/scrub"
)

// ErrBadConfig is wrapped by every error about the configuration of a node.
var ErrBadConfig = errors.New("bad configuration")

// Config is everything a node can be told. DefaultConfig gives the defaults;
// New refuses what Validate refuses.
type Config struct {
	// Name is the <name> of the node's RID. It matters when the identity is
	// made; later it must agree with the identity or be empty.
	Name string
	// DataDir holds the store; made if missing.
	DataDir string
	// IdentityDir holds the identity's files (rid, priv_key.pem, optionally
	// password). Default: identity in DataDir.
	IdentityDir string
	// Unsigned makes an identity without a key pair (the 1.0 generation).
	Unsigned bool
	// UnsignedPeers says whether bodies without a signature are taken.
	UnsignedPeers UnsignedPeers

	// Partial makes a partial node: it serves nothing to peers and polls.
	Partial bool
	// Listen is the protocol's host:port; port 0 picks a free one.
	Listen string
	// BaseURL is the URL below which peers find the five calls. Default: from
	// the bound address, which suits a local net.
	BaseURL string
	// Docs serves, at docs below the base URL, a page on which people read the
	// node's OpenAPI document and try its calls. The document is there without it.
	Docs bool
	// AdminListen is the admin API's host:port; "" leaves it out.
	AdminListen string
	// AdminToken is the bearer token of the admin API. Required where
	// AdminListen is not a loopback address.
	AdminToken string
	// AdminTokenFile is the file AdminToken was read from. Where it is set, the
	// file counts, as it is then: a changed token is taken up without a restart,
	// and the one before is taken for admin.Grace.
	AdminTokenFile string
	// AdminTLSCertFile and AdminTLSKeyFile turn TLS on for the admin listener;
	// required where it is not a loopback address. Changed files are taken up
	// without a restart.
	AdminTLSCertFile string
	AdminTLSKeyFile  string
	// MetricsListen serves /metrics on a listener of its own; "" leaves it to
	// the admin listener.
	MetricsListen string

	// Provides are the RID types this node gives out events and state of. A
	// coordinator provides nodes and edges besides.
	Provides protocol.Provides
	// Interests are the RID types the node subscribes to wherever they are
	// provided; AllTypes means every type. Default: nodes.
	Interests []rid.Type
	// Coordinator makes the node answer handshakes: it introduces itself and
	// subscribes to the newcomer's nodes and edges.
	Coordinator bool
	// FirstContact is the base URL of the node to shake hands with first.
	FirstContact string
	// FirstContactRID is its RID, where it is known beforehand.
	FirstContactRID rid.RID
	// EdgeApproval is what happens to proposals no standing decision covers.
	EdgeApproval edge.Policy
	// AllowPeerCIDRs limits whom the node may dial; none means no further limit.
	AllowPeerCIDRs []netip.Prefix

	// PollInterval is how often a partial node asks its neighbours for events.
	PollInterval time.Duration
	// CheckInterval is how often the other end of each edge is asked whether it
	// still knows the edge (jittered by 10%).
	CheckInterval time.Duration
	// RetryCap is the longest back-off between attempts to reach a peer.
	RetryCap time.Duration
	// RequestTimeout bounds one request to a peer.
	RequestTimeout time.Duration
	// ShutdownTimeout bounds how long Run drains after its context ends.
	ShutdownTimeout time.Duration

	// Workers is how many knowledge objects are processed side by side.
	Workers int
	// MaxInbox is how many accepted events may wait; beyond it broadcasts are
	// answered 503.
	MaxInbox int
	// MaxStoreSize bounds the store's file, in bytes; 0 lets it grow as far as its
	// volume has room. Near either bound additions are refused, and answered 507,
	// while reads and deletions go on.
	MaxStoreSize int64
	// ScrubInterval is how long it takes at least to read all bundles again, to see
	// that they are whole; 0 leaves it out.
	ScrubInterval time.Duration
	// ScrubRate bounds that reading, in bytes a second; a round takes longer where
	// it would need more.
	ScrubRate int64
	// QueueRows and QueueBytes bound what waits for one peer.
	QueueRows  int
	QueueBytes int64
	// QueueMaxAge ends a poll queue nobody polls.
	QueueMaxAge time.Duration
	// ReplayRows and ReplayMaxAge bound the memory of signed bodies that were
	// accepted, by which a body that somebody sends once more is known.
	ReplayRows   int
	ReplayMaxAge time.Duration
	// PeerConcurrency bounds concurrent requests served to peers.
	PeerConcurrency int
	// Limits bound bodies and what is in them.
	Limits protocol.Limits

	// Handlers are called after the default ones of their phase, in order.
	Handlers []pipeline.Handler
	// dereferencers are asked by Deref, in order; see WithDeref.
	dereferencers []typedDereferencer

	// ConfigHash is shown in the status, for whoever manages the node.
	ConfigHash string
	// Version of the program, shown in the status.
	Version string

	// Logger takes the node's log; default: discarded.
	Logger *slog.Logger
	// Metrics takes the node's metrics; default: a registry of its own.
	Metrics *prometheus.Registry
	// Clock tells the time; default: time.Now. Tests set it.
	Clock func() time.Time
}

// UnsignedPeers says whether the unsigned generation is spoken with.
type UnsignedPeers string

// Values of UnsignedPeers.
const (
	UnsignedAllow UnsignedPeers = "Allow"
	UnsignedDeny  UnsignedPeers = "Deny"
)

// AllTypes stands, as an interest, for every RID type.
const AllTypes = edge.AllTypes

// DefaultConfig returns the documented defaults.
func DefaultConfig() Config {
	return Config{
		DataDir:         "koi-data",
		UnsignedPeers:   UnsignedAllow,
		Listen:          "127.0.0.1:8000",
		Docs:            true,
		AdminListen:     "127.0.0.1:8081",
		Interests:       []rid.Type{rid.NodeType},
		EdgeApproval:    edge.Automatic,
		PollInterval:    5 * time.Second,
		CheckInterval:   5 * time.Minute,
		RetryCap:        30 * time.Second,
		RequestTimeout:  30 * time.Second,
		ShutdownTimeout: 10 * time.Second,
		Workers:         64,
		MaxInbox:        1_000_000,
		ScrubInterval:   scrub.DefaultInterval,
		ScrubRate:       scrub.DefaultRate,
		QueueRows:       100_000,
		QueueBytes:      256 << 20,
		QueueMaxAge:     7 * 24 * time.Hour,
		ReplayRows:      1_000_000,
		ReplayMaxAge:    90 * 24 * time.Hour,
		PeerConcurrency: 256,
		Limits:          protocol.DefaultLimits(),
	}
}

func bad(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrBadConfig, fmt.Sprintf(format, args...))
}
