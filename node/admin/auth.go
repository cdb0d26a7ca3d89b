package admin

import (
	"crypto/sha256"
	"crypto/subtle"
	"net"
	"net/http"
	"net/netip"
	"strings"

	"github.com/koi-net/koi-operator/node/admin/client"
)

// authorize lets requests through that carry the bearer token. Both sides are
// hashed first, so that the comparison's time tells not even the length.
func (s *server) authorize(next http.Handler) http.Handler {
	allows := s.allows()
	if allows == nil {
		return s.guardOpen(next)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		if !allows(strings.TrimSpace(token)) || !strings.EqualFold(scheme, "Bearer") {
			w.Header().Set("WWW-Authenticate", `Bearer realm="koi-node admin"`)
			s.writeError(w, http.StatusUnauthorized, client.ErrorBody{Error: client.ErrorDetail{
				Code:    client.CodeUnauthorized,
				Message: "the admin API needs the node's bearer token in the Authorization header",
			}})
			return
		}
		next.ServeHTTP(w, r)
	})
}

// allows tells whether a token is one of the API's; nil where it has none.
func (s *server) allows() func(string) bool {
	if s.cfg.Keys != nil {
		return s.cfg.Keys.Allows
	}
	if s.cfg.Token == "" {
		return nil
	}
	want := sha256.Sum256([]byte(s.cfg.Token))
	return func(token string) bool {
		got := sha256.Sum256([]byte(token))
		return subtle.ConstantTimeCompare(got[:], want[:]) == 1
	}
}

// guardOpen protects an API without a token from web pages in a browser on the
// same machine: cross-origin requests are refused, and so are host names that
// may have been rebound to this address.
func (s *server) guardOpen(next http.Handler) http.Handler {
	origin := http.NewCrossOriginProtection()
	origin.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		s.forbid(w, "cross-origin request from a browser refused")
	}))
	return origin.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !isAddress(r.Host) {
			s.forbid(w, "an admin API without a token is reached by IP address or as localhost only")
			return
		}
		next.ServeHTTP(w, r)
	}))
}

func (s *server) forbid(w http.ResponseWriter, message string) {
	s.writeError(w, http.StatusForbidden, client.ErrorBody{Error: client.ErrorDetail{Code: client.CodeForbidden, Message: message}})
}

// isAddress reports whether a Host header is an IP address or localhost.
func isAddress(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = strings.Trim(hostport, "[]")
	}
	if host == "localhost" {
		return true
	}
	_, err = netip.ParseAddr(host)
	return err == nil
}
