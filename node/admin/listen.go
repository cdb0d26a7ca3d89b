package admin

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
)

// ErrExposed says that the admin API would be reachable from elsewhere unprotected.
var ErrExposed = errors.New("admin API exposed")

// CheckListen refuses an admin listen address that is not loopback unless both
// a token is set and TLS is on. An empty addr (no admin API) passes. The error
// wraps ErrExposed, or says what is wrong with the address.
func CheckListen(addr string, token, tls bool) error {
	if addr == "" {
		return nil
	}
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("admin listen address %q is not host:port: %w", addr, err)
	}
	if isLoopback(host) || token && tls {
		return nil
	}
	missing := "a token and TLS"
	switch {
	case token:
		missing = "TLS"
	case tls:
		missing = "a token"
	}
	return fmt.Errorf("%w: %q is not a loopback address and needs %s (--admin-token-file, --admin-tls-cert, --admin-tls-key), or listen on 127.0.0.1", ErrExposed, addr, missing)
}

// isLoopback reports whether host names this machine alone. Names other than
// localhost are not trusted to: what they resolve to may change.
func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}
