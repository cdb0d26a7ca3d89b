package node

import (
	"log/slog"
	"slices"

	"github.com/koi-net/koi-operator/node/pipeline"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// Option changes settings of the node that New makes. Options are applied in
// order. Whatever has none of its own is set by a function literal:
//
//	node.New(node.WithName("desk"), func(c *node.Config) { c.PollInterval = time.Second })
type Option func(*Config)

// WithConfig replaces all settings. Options after it change them further.
func WithConfig(cfg Config) Option { return func(c *Config) { *c = cfg } }

// WithName sets the <name> of the node's RID, which matters when the identity
// is made, and, unless one is set already, the data directory to <name>-data.
func WithName(name string) Option {
	return func(c *Config) {
		c.Name = name
		if c.DataDir == DefaultConfig().DataDir {
			c.DataDir = name + "-data"
		}
	}
}

// WithDataDir sets the directory of the store and, by default, the identity.
func WithDataDir(dir string) Option { return func(c *Config) { c.DataDir = dir } }

// WithListen sets the protocol's host:port; port 0 picks a free one.
func WithListen(addr string) Option { return func(c *Config) { c.Listen = addr } }

// WithBaseURL sets the URL below which peers find the node, where that is not
// the bound address.
func WithBaseURL(url string) Option { return func(c *Config) { c.BaseURL = url } }

// WithAdmin serves the admin API at a host:port; port 0 picks a free one. Where
// that is not a loopback address, token and certificate have to be set as well.
func WithAdmin(addr string) Option { return func(c *Config) { c.AdminListen = addr } }

// AsPartial makes a partial node: it serves nothing to peers and polls them.
func AsPartial() Option { return func(c *Config) { c.Partial = true } }

// AsCoordinator makes a node that answers handshakes and introduces nodes to
// each other.
func AsCoordinator() Option { return func(c *Config) { c.Coordinator = true } }

// WithProvides adds RID types that the node gives out both events and state of.
func WithProvides(types ...rid.Type) Option {
	return func(c *Config) {
		c.Provides = protocol.Provides{
			Event: withTypes(c.Provides.Event, types...),
			State: withTypes(c.Provides.State, types...),
		}
	}
}

// WithInterests adds RID types to subscribe to wherever they are provided, to
// the nodes that are the default; AllTypes stands for every type.
func WithInterests(types ...rid.Type) Option {
	return func(c *Config) { c.Interests = withTypes(c.Interests, types...) }
}

// WithFirstContact sets the base URL of the node to shake hands with first.
func WithFirstContact(url string) Option { return func(c *Config) { c.FirstContact = url } }

// WithHandlers adds handlers. They are called after the default ones of their
// phase, in the order given.
func WithHandlers(handlers ...pipeline.Handler) Option {
	return func(c *Config) { c.Handlers = append(slices.Clip(c.Handlers), handlers...) }
}

// WithLogger sets where the node logs to; by default nothing is logged.
func WithLogger(log *slog.Logger) Option { return func(c *Config) { c.Logger = log } }
