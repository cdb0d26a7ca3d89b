package node

import (
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/koi-net/koi-operator/node/admin"
	"github.com/koi-net/koi-operator/node/edge"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store/bolt"
)

// Validate says what is wrong with the configuration, in the words of the
// command's flags, and what to do. The error wraps ErrBadConfig.
func (c *Config) Validate() error {
	if strings.ContainsAny(c.Name, "+: \t\n/") {
		return bad("--name %q: a node's name may not hold '+', ':', '/' or white space", c.Name)
	}
	if c.DataDir == "" {
		return bad("--data-dir is empty: name a directory for the store")
	}
	if err := c.validateRole(); err != nil {
		return err
	}
	if err := c.validateAdmin(); err != nil {
		return err
	}
	if err := validateTypes(c); err != nil {
		return err
	}
	if c.FirstContactRID != "" {
		if _, _, err := rid.SplitNode(c.FirstContactRID); err != nil {
			return bad("--first-contact-rid: %v", err)
		}
	}
	if !slices.Contains([]edge.Policy{edge.Automatic, edge.Manual}, c.EdgeApproval) {
		return bad("--edge-approval %q: use %s or %s", c.EdgeApproval, edge.Automatic, edge.Manual)
	}
	if !slices.Contains([]UnsignedPeers{UnsignedAllow, UnsignedDeny}, c.UnsignedPeers) {
		return bad("--unsigned-peers %q: use %s or %s", c.UnsignedPeers, UnsignedAllow, UnsignedDeny)
	}
	if c.Unsigned && c.UnsignedPeers == UnsignedDeny {
		return bad("--unsigned with --unsigned-peers %s: a node without a key can speak to nobody then; leave one of the two out", UnsignedDeny)
	}
	if c.ScrubInterval < 0 {
		return bad("--scrub-interval %s: give a time, or 0 to leave the scrub out", c.ScrubInterval)
	}
	if c.MaxStoreSize != 0 && c.MaxStoreSize < bolt.MinMaxSize {
		return bad("--store-max-size %d: use at least %d bytes, or 0 to let the store grow as far as its volume has room", c.MaxStoreSize, bolt.MinMaxSize)
	}
	for _, d := range []struct {
		name  string
		value int64
	}{
		{"--poll-interval", int64(c.PollInterval)}, {"--check-interval", int64(c.CheckInterval)},
		{"--retry-cap", int64(c.RetryCap)}, {"--request-timeout", int64(c.RequestTimeout)},
		{"--shutdown-timeout", int64(c.ShutdownTimeout)}, {"--workers", int64(c.Workers)},
		{"--max-inbox", int64(c.MaxInbox)}, {"--scrub-rate", c.ScrubRate}, {"--queue-rows", int64(c.QueueRows)}, {"--queue-bytes", c.QueueBytes},
		{"--queue-max-age", int64(c.QueueMaxAge)}, {"--peer-concurrency", int64(c.PeerConcurrency)},
		{"--max-body-bytes", c.Limits.BodyBytes}, {"--max-events", int64(c.Limits.Events)}, {"--max-json-depth", int64(c.Limits.Depth)},
		{"--max-contents-bytes", int64(c.Limits.ContentsBytes)}, {"--max-rids", int64(c.Limits.RIDs)},
		{"--max-rid-types", int64(c.Limits.RIDTypes)},
	} {
		if d.value <= 0 {
			return bad("%s has to be more than zero", d.name)
		}
	}
	return nil
}

func (c *Config) validateRole() error {
	if c.Partial {
		switch {
		case c.Coordinator:
			return bad("--partial and --coordinator exclude each other: a coordinator has to be reachable")
		case c.BaseURL != "":
			return bad("--partial and --base-url exclude each other: a partial node serves nothing to peers")
		case len(c.Provides.Event)+len(c.Provides.State) > 0 && c.FirstContact == "":
			return bad("--partial without --first-contact: a partial node is reached by nobody, so it has to call somebody first")
		}
	} else if err := validateListen("--listen", c.Listen); err != nil {
		return err
	}
	for _, u := range []struct{ flag, value string }{{"--base-url", c.BaseURL}, {"--first-contact", c.FirstContact}} {
		if err := validateURL(u.flag, u.value); err != nil {
			return err
		}
	}
	return nil
}

func validateURL(flag, value string) error {
	if value == "" {
		return nil
	}
	u, err := url.Parse(value)
	switch {
	case err != nil:
		return bad("%s: %v", flag, err)
	case u.Scheme != "http" && u.Scheme != "https", u.Host == "":
		return bad("%s %q: give an http or https URL, as in http://host:8000/koi-net", flag, value)
	case u.User != nil, u.RawQuery != "", u.Fragment != "":
		return bad("%s: a user, query or fragment has no place in it", flag)
	}
	return nil
}

func validateListen(flag, addr string) error {
	if _, _, err := net.SplitHostPort(addr); err != nil {
		return bad("%s %q: give host:port, as in 127.0.0.1:8000 or :8000 (%v)", flag, addr, err)
	}
	return nil
}

func (c *Config) validateAdmin() error {
	if (c.AdminTLSCertFile == "") != (c.AdminTLSKeyFile == "") {
		return bad("--admin-tls-cert and --admin-tls-key belong together")
	}
	if c.MetricsListen != "" {
		if err := validateListen("--metrics-listen", c.MetricsListen); err != nil {
			return err
		}
	}
	if c.AdminListen == "" {
		return nil
	}
	if err := validateListen("--admin-listen", c.AdminListen); err != nil {
		return err
	}
	if err := admin.CheckListen(c.AdminListen, c.AdminToken != "" || c.AdminTokenFile != "", c.AdminTLSCertFile != ""); err != nil {
		return bad("--admin-listen: %v", err)
	}
	return nil
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}

func validateTypes(c *Config) error {
	for _, l := range []struct {
		flag  string
		types []rid.Type
	}{{"--provides-event", c.Provides.Event}, {"--provides-state", c.Provides.State}, {"--interest", c.Interests}} {
		for _, t := range l.types {
			if l.flag == "--interest" && t == AllTypes {
				continue
			}
			if _, err := rid.ParseType(string(t)); err != nil {
				return bad("%s: %v", l.flag, err)
			}
		}
	}
	return nil
}
