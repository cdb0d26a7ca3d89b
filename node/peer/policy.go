package peer

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

var (
	// ErrForbiddenAddress is wrapped by the errors of requests to an address
	// that the node must not dial.
	ErrForbiddenAddress = errors.New("forbidden address")
	// ErrBadURL is wrapped by the errors about base URLs that cannot be used.
	ErrBadURL = errors.New("unusable base URL")
)

// maxURL bounds a base URL, which peers choose.
const maxURL = 2048

// Policy says whom a node may dial beyond what is never allowed.
type Policy struct {
	// AllowLoopback lets it dial its own machine: local nets and tests.
	AllowLoopback bool
	// AllowCIDRs, if any, limit it to these networks. They allow nothing that
	// is forbidden otherwise.
	AllowCIDRs []netip.Prefix
}

// never lists networks no peer can live in: this-network, link-local (cloud
// metadata among it), metadata services elsewhere, protocol assignments,
// multicast, reserved and broadcast.
var never = []struct {
	prefix netip.Prefix
	why    string
}{
	{netip.MustParsePrefix("0.0.0.0/8"), "unspecified"},
	{netip.MustParsePrefix("::/128"), "unspecified"},
	{netip.MustParsePrefix("169.254.0.0/16"), "link-local"},
	{netip.MustParsePrefix("fe80::/10"), "link-local"},
	{netip.MustParsePrefix("fec0::/10"), "site-local"},
	{netip.MustParsePrefix("100.100.100.200/32"), "a metadata service"},
	{netip.MustParsePrefix("168.63.129.16/32"), "a metadata service"},
	{netip.MustParsePrefix("fd00:ec2::/32"), "a metadata service"},
	{netip.MustParsePrefix("fd20:ce::254/128"), "a metadata service"},
	{netip.MustParsePrefix("192.0.0.0/24"), "reserved"},
	{netip.MustParsePrefix("224.0.0.0/4"), "multicast"},
	{netip.MustParsePrefix("ff00::/8"), "multicast"},
	{netip.MustParsePrefix("240.0.0.0/4"), "reserved"},
}

// Allowed says whether a node may dial addr under p. The error wraps
// ErrForbiddenAddress and says why. IPv4 addresses written as IPv6 (mapped,
// compatible, 6to4, NAT64) are judged as what they stand for as well.
func Allowed(addr netip.Addr, p Policy) error {
	addr = addr.WithZone("").Unmap()
	if !addr.IsValid() {
		return fmt.Errorf("%w: not an IP address", ErrForbiddenAddress)
	}
	for _, a := range []netip.Addr{addr, embedded(addr)} {
		if !a.IsValid() {
			continue
		}
		for _, n := range never {
			if n.prefix.Contains(a) {
				return fmt.Errorf("%w %s: it is %s", ErrForbiddenAddress, addr, n.why)
			}
		}
		if a.IsLoopback() && !p.AllowLoopback {
			return fmt.Errorf("%w %s: it is loopback, which only a node that lives on loopback itself may call", ErrForbiddenAddress, addr)
		}
	}
	if len(p.AllowCIDRs) == 0 {
		return nil
	}
	for _, c := range p.AllowCIDRs {
		if unmapped(c).Contains(addr) {
			return nil
		}
	}
	return fmt.Errorf("%w %s: it is in none of the networks this node may call", ErrForbiddenAddress, addr)
}

var (
	nat64    = netip.MustParsePrefix("64:ff9b::/96")
	sixToOld = netip.MustParsePrefix("::/96")
	sixToFor = netip.MustParsePrefix("2002::/16")
)

// embedded returns the IPv4 address in an IPv6 address, if there is one.
func embedded(addr netip.Addr) netip.Addr {
	if !addr.Is6() || addr == netip.IPv6Loopback() {
		return netip.Addr{}
	}
	b := addr.As16()
	switch {
	case nat64.Contains(addr), sixToOld.Contains(addr):
		return netip.AddrFrom4([4]byte(b[12:16]))
	case sixToFor.Contains(addr):
		return netip.AddrFrom4([4]byte(b[2:6]))
	}
	return netip.Addr{}
}

func unmapped(p netip.Prefix) netip.Prefix {
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		return netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p
}

// CheckBaseURL says whether raw can be a node's base URL: http or https with a
// host, and nothing in it that would make the calls below it mean something
// else. The error wraps ErrBadURL. It looks up no name; see Allowed for the
// address.
func CheckBaseURL(raw string) error {
	_, err := parseBase(raw)
	return err
}

func parseBase(raw string) (*url.URL, error) {
	if len(raw) > maxURL {
		return nil, fmt.Errorf("%w: %d bytes long, the limit is %d", ErrBadURL, len(raw), maxURL)
	}
	u, err := url.Parse(raw)
	if err != nil {
		// url.Error repeats the text, which may hold a password.
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return nil, fmt.Errorf("%w: %w", ErrBadURL, err)
	}
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, fmt.Errorf("%w %q: the scheme must be http or https", ErrBadURL, u.Redacted())
	case u.User != nil:
		return nil, fmt.Errorf("%w %q: user and password do not belong in it", ErrBadURL, u.Redacted())
	case u.Opaque != "" || u.Hostname() == "":
		return nil, fmt.Errorf("%w %q: there is no host", ErrBadURL, u.Redacted())
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.Contains(raw, "#"):
		return nil, fmt.Errorf("%w %q: query and fragment do not belong in it", ErrBadURL, u.Redacted())
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return nil, fmt.Errorf("%w %q: the port must be 1 to 65535", ErrBadURL, u.Redacted())
		}
	}
	return u, nil
}
